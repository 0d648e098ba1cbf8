"""Models in hand with other heads: each is read, or refused in one sentence before anything runs."""

from __future__ import annotations

import pytest
import transformers

import deltacompose as dc
from deltacompose.backbone.pico import CONFIGURATIONS, pico_tokenizer
from deltacompose.backbone.pico_families import SETTINGS
from deltacompose.errors import BadInput
from deltacompose.task.examples import Example
from deltacompose.task.task import Task

ROWS = tuple(Example(f"{k}", f"say {word}", word) for k, word in enumerate(["red", "blue"] * 4))
TASK = Task("colour", "made", "choice", "accuracy", lambda split: ROWS, verbalizer={"red": "red", "blue": "blue"})
HEADED = ("SequenceClassification", "TokenClassification", "QuestionAnswering", "MultipleChoice")


def in_hand(family: str, cls: str, **settings: object) -> transformers.PreTrainedModel:
    kind, own = CONFIGURATIONS[family]
    config = transformers.AutoConfig.for_model(kind, **{**SETTINGS, **dict(own), **settings})
    return getattr(transformers, cls).from_config(config).eval()


def trained(model: transformers.PreTrainedModel, family: str) -> float:
    backbone = dc.load_backbone(model, pico_tokenizer(family))
    delta = dc.train(backbone, "bitfit", TASK, steps=1, batch=2, evaluate_every=1, limit=32)
    return dc.evaluate(backbone, delta, TASK, "test").score.value


@pytest.mark.parametrize(
    ("family", "cls"),
    [
        ("bert", "AutoModel"),
        ("bert", "AutoModelForMaskedLM"),
        ("gpt2", "AutoModelForCausalLM"),
        ("t5", "AutoModelForSeq2SeqLM"),
    ],
)
def test_a_model_with_the_head_of_its_kind_is_read(family, cls):
    assert 0.0 <= trained(in_hand(family, cls), family) <= 1.0


@pytest.mark.parametrize("head", HEADED)
@pytest.mark.parametrize("family", ["bert", "roberta", "distilbert"])
def test_an_encoder_with_a_classifiers_head_is_refused_and_its_encoder_taken(family, head):
    model = in_hand(family, f"AutoModelFor{head}")
    with pytest.raises(
        BadInput, match=rf"cannot read tasks with \w+{head} because .* give its encoder, model.base_model"
    ):
        trained(model, family)
    if head == "SequenceClassification":
        assert 0.0 <= trained(model.base_model, family) <= 1.0


@pytest.mark.parametrize("family", ["gpt2", "llama", "opt", "t5", "bart"])
@pytest.mark.parametrize("cls", ["AutoModel", "AutoModelForSequenceClassification", "AutoModelForQuestionAnswering"])
def test_a_decoder_without_a_language_head_is_refused(family, cls):
    model = in_hand(family, cls)
    right = "AutoModelForSeq2SeqLM" if family in ("t5", "bart") else "AutoModelForCausalLM"
    with pytest.raises(BadInput, match=rf"has no language head, .*load the checkpoint with transformers.{right}"):
        trained(model, family)


def test_an_encoder_made_a_decoder_and_one_with_two_heads_are_refused():
    with pytest.raises(BadInput, match=r"makes a decoder of an encoder; load it with is_decoder=False"):
        trained(in_hand("bert", "AutoModelForCausalLM", is_decoder=True), "bert")
    with pytest.raises(BadInput, match=r"BertForPreTraining because it gives no logits .*found prediction_logits"):
        trained(in_hand("bert", "AutoModelForPreTraining"), "bert")


def test_a_delta_attaches_to_a_model_with_any_head():
    backbone = dc.load_backbone(in_hand("bert", "AutoModelForSequenceClassification"))
    with dc.attached(backbone, "bitfit", dc.init_weights(backbone, "bitfit")) as model:
        assert type(model).__name__ == "BertForSequenceClassification"
