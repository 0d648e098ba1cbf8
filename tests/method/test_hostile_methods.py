"""Every built-in method keeps the contract on the hostile models, or is refused there by name."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from deltacompose_plugins import Prefix
from method.test_methods import METHODS, VARIANTS, of

from deltacompose.backbone.pico import pico_backbone, pico_tokenizer
from deltacompose.backbone.pico_hostile import HOSTILE, WORDS
from deltacompose.checks import HOSTILE_BACKBONES, Broken, check_method
from deltacompose.checks.behaviour import acts_or_is_refused
from deltacompose.checks.precision import FARTHEST, _apart, other_precision
from deltacompose.checks.subject import Subject
from deltacompose.checks.suite import Suite
from deltacompose.errors import BadInput

WIDE = Path(__file__).parents[1] / "data" / "prompts_24.safetensors"
"""A subspace of prompts of 4 tokens of width 24: `mean` (96,) is k/96, `basis` (3, 96) the sine of -1 ... 1."""

BUILT_IN = [
    METHODS[name].of(WIDE) if name == "intrinsic_prompt" else of(name)
    for name in METHODS
    if name != "arrow"  # see test_arrow.py
]
STANDING_BEFORE = [text for text in VARIANTS if text.startswith(("prompt", "p_tuning", "prefix"))]
"""The settings by which tokens, or keys and values, stand before the input's."""


@pytest.mark.parametrize("method", BUILT_IN, ids=str)
def test_every_method_keeps_the_contract_on_hostile_models(method):
    check_method(method, backbones=HOSTILE_BACKBONES)


@pytest.mark.parametrize("text", [*STANDING_BEFORE, "prompt(length=3, init_from='text', text='夜 ночь')"])
def test_prompts_and_prefixes_keep_the_contract_on_hostile_models_with_other_settings(text):
    check_method(of(text), backbones=HOSTILE_BACKBONES)


BEFORE_THE_DECODER = ["prompt(length=3, stream='decoder')", "prefix(length=2, places=('cross_attention',))"]


@pytest.mark.parametrize("text", BEFORE_THE_DECODER)
def test_prompts_and_prefixes_before_the_decoder_keep_the_contract_on_hostile_models(text):
    check_method(of(text), backbones=("hostile-t5", "hostile-marian"))


@pytest.mark.parametrize("family", HOSTILE)
def test_a_hostile_tokenizer_splits_letters_and_loses_nothing(family):
    tokenizer = pico_tokenizer(family)
    for word in WORDS:
        ids = tokenizer(word, add_special_tokens=False)["input_ids"]
        assert len(ids) < len(word.encode())
        assert tokenizer.decode(ids) == word
    assert len(tokenizer) == len(pico_backbone(family).embeddings(pico_backbone(family).streams[0]))


def test_a_method_that_a_hostile_model_refuses_is_checked_for_its_sentence_alone():
    names = {check.name for _, check, family in Suite(("t5", "hostile-falcon")).checks(Prefix()) if family != "t5"}
    assert names == {"acts_or_is_refused"}


class Speechless(Prefix):
    """Refused, and does not say why."""

    def edits(self, backbone):
        raise BadInput("no")


def test_a_refusal_that_does_not_say_why_fails():
    with pytest.raises(Broken, match="it is refused by 'no'; expected one sentence with its name 'prefix' and the"):
        acts_or_is_refused(Subject(Speechless(), "hostile-falcon"))


def test_a_model_that_is_another_function_in_float16_is_not_the_methods_fault():
    """Falcon with ALiBi differs from itself in fp32 by a third; what is not finite there is still reported."""
    other_precision(Subject(of("bitfit"), "hostile-falcon"))
    assert _apart("hostile-falcon", torch.float16) > FARTHEST[torch.float16] > _apart("hostile-bert", torch.float16)
