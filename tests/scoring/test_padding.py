"""Encoders whose tokens see the padding of a batch score each text as if it stood alone."""

from __future__ import annotations

import pytest
import torch
import transformers

import deltacompose as dc
from deltacompose.backbone.pico import _randomise, pico_backbone, pico_tokenizer
from deltacompose.backbone.pico_families import _BERT, SETTINGS
from deltacompose.scoring import reader
from deltacompose.task.examples import Example
from deltacompose.task.task import Task

TEXTS = ("a", "the sea", "it rains again", "dry", "cold and wet days", "x y")
WORDS = {"low": "low", "high": "very high"}
ROWS = tuple(Example(f"{k}", text, list(WORDS)[k % 2]) for k, text in enumerate(TEXTS))
TASK = Task("height", "made", "choice", "accuracy", lambda split: ROWS, "{input} is", WORDS)
MIXING = {"convbert": {}, "mobilebert": {"intra_bottleneck_size": 16, "embedding_size": 16}}


def mixing(family: str, cls: str) -> dc.Backbone:
    config = transformers.AutoConfig.for_model(family, **{**SETTINGS, **_BERT, **MIXING[family]})
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = getattr(transformers, cls).from_config(config).eval()
        for parameter in model.parameters():
            if parameter.numel():
                _randomise(parameter)
    return dc.load_backbone(model, pico_tokenizer("bert"), table="derived")


families = pytest.mark.parametrize("family", MIXING)


@families
@pytest.mark.filterwarnings("ignore:Initializing zero-element tensors")
def test_scores_at_a_mask_are_those_of_each_text_alone(family):
    backbone = mixing(family, "AutoModelForMaskedLM")
    assert backbone.mixes_padding
    read, tokenizer = reader(backbone, TASK), backbone.tokenizer
    with torch.no_grad():
        found = read.scores(read.rows("test"))
        for scores, row in zip(found, read.rows("test"), strict=True):
            log_p = torch.log_softmax(backbone.model(input_ids=torch.tensor([row.input])).logits[0].double(), -1)
            at = [k for k, token in enumerate(row.input) if token == tokenizer.mask_token_id]
            expected = [sum(log_p[at[k], t] for k, t in enumerate(own)) / len(own) for own in row.candidates]
            torch.testing.assert_close(scores.double(), torch.stack(expected), rtol=1e-4, atol=1e-4)


@pytest.mark.filterwarnings("ignore:Initializing zero-element tensors")
def test_an_edit_of_a_head_that_is_never_called_reaches_the_scores():
    """MobileBERT multiplies by its head's weight, tied to the embedding, without calling the module."""
    backbone = mixing("mobilebert", "AutoModelForMaskedLM")
    (head,) = (place for place in backbone.places() if place.kind == "head")
    assert str(backbone.table).count("/cls.predictions:decoder.weight") == 1
    unplaced = [name for name in backbone.unplaced if backbone.model.get_parameter(name).numel()]
    assert not [name for name in unplaced if "cls.predictions" in name]
    composition = dc.parse("full")
    weights = dc.init_weights(backbone, composition)
    (name,) = (name for name in weights if name.endswith(("embedding.weight", "head.weight")))
    changed = torch.randn(weights[name].shape, generator=torch.Generator().manual_seed(0)) * 0.1
    read = reader(backbone, TASK)
    rows = read.rows("test")
    embedding = backbone.parameter(head, "weight")
    with torch.no_grad():
        with dc.attached(backbone, composition, {**weights, name: changed}):
            attached = read.scores(rows)
        embedding.add_(changed.view_as(embedding))
        merged = read.scores(rows)
        embedding.sub_(changed.view_as(embedding))
    torch.testing.assert_close(attached, merged, rtol=1e-4, atol=1e-4)
    assert not torch.allclose(attached, read.scores(rows), rtol=1e-2)


@families
@pytest.mark.filterwarnings("ignore:Initializing zero-element tensors")
def test_pooled_states_and_losses_are_those_of_each_text_alone(family):
    backbone = mixing(family, "AutoModel")
    read = reader(backbone, TASK)
    rows = read.rows("train")
    with torch.no_grad():
        scores = torch.cat([read.scores([row]) for row in rows])
        torch.testing.assert_close(read.scores(rows), scores, rtol=1e-4, atol=1e-4)
        expected = torch.nn.functional.cross_entropy(scores, torch.tensor([row.label for row in rows]))
        loss = read.loss(read.batch("train", range(len(rows)), (48, 24)), 1)[0]
        torch.testing.assert_close(loss, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.filterwarnings("ignore:Initializing zero-element tensors")
def test_a_bank_of_such_deltas_trains_each_as_alone():
    from deltacompose.study.recipe import Recipe
    from deltacompose.training.learner import Job
    from deltacompose.training.loop import train

    backbone = mixing("convbert", "AutoModel")
    read, recipe = reader(backbone, TASK), Recipe(steps=2, batch=3, evaluate_every=2, keep="last")
    jobs = [Job(dc.parse("lora(rank=2, places=('ffn.up',))"), read, seed, recipe) for seed in (0, 1)]
    together, alone = train(backbone, jobs), [train(backbone, [job])[0] for job in jobs]
    for one, other in zip(together, alone, strict=True):
        assert all(torch.equal(one.weights[name], other.weights[name]) for name in one.weights)


@pytest.mark.parametrize("family", ["bert", "roberta", "distilbert"])
def test_an_encoder_that_leaves_padding_out_reads_whole_batches(family):
    assert not pico_backbone(family).mixes_padding
