"""Dropout of a model in hand is never drawn, whatever mode the model is in, and its modes are left as they were."""

from __future__ import annotations

import pytest
import torch
import transformers

import deltacompose as dc
from deltacompose.backbone.backbone import Backbone, evaluating
from deltacompose.backbone.pico import CONFIGURATIONS, pico_tokenizer
from deltacompose.backbone.pico_families import SETTINGS
from deltacompose.delta.merge import answer, probe
from deltacompose.task.examples import Example
from deltacompose.task.task import Task
from deltacompose.training.loop import recomputing

CLASSES = {
    "bert": "AutoModel",
    "bart": "AutoModelForSeq2SeqLM",
    "t5": "AutoModelForSeq2SeqLM",
    "gpt2": "AutoModelForCausalLM",
    "falcon": "AutoModelForCausalLM",
}
RATES = ("dropout", "hidden_dropout", "attention_dropout", "hidden_dropout_prob", "dropout_rate", "resid_pdrop")
ROWS = tuple(Example(f"{k}", f"say {word}", word) for k, word in enumerate(["red", "blue", "green", "gold"] * 3))
WORDS = {word: word for word in ("red", "blue", "green", "gold")}
TASK = Task("colour", "made", "choice", "accuracy", lambda split: ROWS, verbalizer=WORDS)
RECIPE = {"steps": 3, "batch": 4, "evaluate_every": 3, "limit": 32, "keep": "last"}


def dropping(family: str) -> Backbone:
    """A pico model in hand, not frozen, in evaluation mode, with dropout in its configuration."""
    kind, settings = CONFIGURATIONS.get(family, (family, CONFIGURATIONS["gpt-neox"][1]))
    config = transformers.AutoConfig.for_model(kind, **{**SETTINGS, **dict(settings)})
    for name in RATES:
        if hasattr(config, name):
            setattr(config, name, 0.5)
    config.encoder_layerdrop = config.decoder_layerdrop = 0.5 if family == "bart" else 0.0
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = getattr(transformers, CLASSES[family]).from_config(config).eval()
    return dc.load_backbone(model, pico_tokenizer("gpt2" if family == "falcon" else family), table=_table(family))


def _table(family: str) -> str | None:
    return "derived" if family == "falcon" else None


def trained(backbone: Backbone, **recipe: object) -> dict[str, torch.Tensor]:
    return dict(dc.train(backbone, "adapter(bottleneck=2)", TASK, **RECIPE, **recipe).weights)


families = pytest.mark.parametrize("family", CLASSES)


@families
def test_recomputing_activations_draws_no_dropout_of_a_model_in_hand(family):
    backbone = dropping(family)
    expected, found = trained(backbone), trained(backbone, checkpointing=True)
    for name, x in expected.items():
        torch.testing.assert_close(found[name], x, rtol=1e-4, atol=1e-6)


@families
def test_a_model_in_training_mode_trains_and_scores_as_one_in_evaluation_mode(family):
    backbone = dropping(family)
    delta = dc.train(backbone, "adapter(bottleneck=2)", TASK, **RECIPE)
    score = dc.evaluate(backbone, delta, TASK, "test")
    backbone.model.train()
    again = dc.train(backbone, "adapter(bottleneck=2)", TASK, **RECIPE)
    assert all(torch.equal(again.weights[name], x) for name, x in delta.weights.items())
    assert dc.evaluate(backbone, delta, TASK, "test") == score
    assert backbone.model.training


@families
def test_modes_rates_and_flags_are_left_as_they_were(family):
    backbone = dropping(family)
    first, *others = list(backbone.model.modules())[1:]
    for module in others[::2]:
        module.train()
    first.training = True
    before = state(backbone.model)
    trained(backbone, checkpointing=True)
    assert state(backbone.model) == before
    with pytest.raises(KeyError), recomputing(backbone.model):
        raise KeyError
    assert state(backbone.model) == before


def state(model: torch.nn.Module) -> list[tuple[object, ...]]:
    """Mode, flag and rates of every module, and the configuration's rates."""
    config = {name: value for name, value in vars(model.config).items() if "drop" in name}
    found: list[tuple[object, ...]] = [(config,)]
    for module in model.modules():
        rates = {name: value for name, value in vars(module).items() if "drop" in name and isinstance(value, float)}
        found.append((module.training, getattr(module, "gradient_checkpointing", None), rates))
    return found


def test_within_recomputing_the_layers_do_recompute():
    backbone = dropping("bert")
    layer = backbone.model.encoder.layer[0]
    with recomputing(backbone.model):
        assert layer.training
        assert layer.gradient_checkpointing
        assert not any(m.training for m in backbone.model.modules() if isinstance(m, torch.nn.Dropout))
    assert not layer.training


def test_a_comparison_of_models_leaves_mixed_modes_alone():
    backbone = dropping("bert")
    backbone.model.encoder.train()
    before = state(backbone.model)
    inputs = probe(backbone)
    with torch.no_grad():
        assert torch.equal(answer(backbone.model, inputs), answer(backbone.model, inputs))
    assert state(backbone.model) == before


def test_an_error_within_leaves_the_mode_as_it_was():
    backbone = dropping("bert")
    backbone.model.train()
    with pytest.raises(KeyError, match="False"), evaluating(backbone.model):
        raise KeyError(any(module.training for module in backbone.model.modules()))
    assert all(module.training for module in backbone.model.modules())
