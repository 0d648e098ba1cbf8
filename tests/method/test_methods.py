"""Every built-in method keeps the contract, on every family of backbones, by the public checks."""

from __future__ import annotations

from pathlib import Path

import pytest

from deltacompose import plugins
from deltacompose.checks import check_method
from deltacompose.composition import parse

METHODS = plugins.load(disabled=True).methods
DECODER = Path(__file__).parents[1] / "data" / "prompts.safetensors"
"""A subspace of prompts of 4 tokens of width 16: `mean` (64,) is k/64, `basis` (3, 64) the sine of -1 ... 1."""


def of(text):
    """One method from its text; a decoder that was learned has to be named."""
    if text == "intrinsic_prompt":
        return METHODS[text].of(DECODER)
    [[method]] = parse(text, METHODS).stages
    return method


VARIANTS = [
    "adapter(bottleneck=4, activation='gelu', norms=True)",
    "compacter(n=2, bottleneck=4, rank=2, places=('ffn',))",
    "intrinsic(d=7, projection='dense', per_layer=False)",
    "intrinsic(d=9, projection='fastfood')",
    "lora(rank=2, alpha=3.0, dropout=0.3, places=('*attention.key', 'ffn.up', 'ffn.down'), rslora=True)",
    "lora(rank=2, dora=True)",
    "masked(criterion='magnitude', fraction=0.1, reselect=2)",
    "p_tuning(length=3, encoder='mlp', hidden=5)",
    "parallel_adapter(bottleneck=3, activation='tanh', places=('*attention', 'ffn'))",
    "prefix(length=3, mlp=5)",
    "prompt(length=3, init_from='random')",
]
"""Settings that make something else of a method than its defaults do."""


def expected(method):
    """The checks that a method fails because its paper defines it so."""
    if getattr(method, "dora", False):
        return {"true_gradients": "the norms of W + ΔW take no part in the gradient (Liu et al. 2024, section 4.3)"}
    if getattr(method, "reselect", 0):
        return {"true_gradients": "candidates that are not chosen have a gradient too, so that they can be chosen"}
    return {}


BUILT_IN = [of(name) for name in METHODS if name != "arrow"]  # see test_arrow.py


@pytest.mark.parametrize("method", BUILT_IN, ids=str)
def test_every_method_keeps_the_contract(method):
    check_method(method)


@pytest.mark.parametrize("text", VARIANTS)
def test_every_method_keeps_the_contract_with_other_settings(text):
    method = of(text)
    check_method(method, backbones=("t5", "gpt2"), expected_failures=expected(method))


def test_a_prompt_before_the_decoder_keeps_the_contract():
    check_method(of("prompt(length=3, stream='decoder')"), backbones=("t5",))
