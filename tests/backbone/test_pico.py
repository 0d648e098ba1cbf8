"""Pico models are made alike every time, and their tokenizers lose nothing."""

from __future__ import annotations

import functools

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from passes import backbone_of

from deltacompose.backbone import bind
from deltacompose.backbone.pico import CONFIGURATIONS, FAMILIES, pico, pico_tokenizer
from deltacompose.errors import BadInput

tokenizer_of = functools.cache(pico_tokenizer)


@settings(deadline=None)
@given(text=st.text(max_size=40), family=st.sampled_from(FAMILIES))
def test_a_pico_tokenizer_loses_nothing(text, family):
    tokenizer = tokenizer_of(family)
    ids = tokenizer(text).input_ids
    assert tokenizer.decode(ids, skip_special_tokens=True) == text
    assert len(tokenizer) == backbone_of(family).model.config.vocab_size


@pytest.mark.parametrize("family", list(CONFIGURATIONS))
def test_pico_models_are_the_same_every_time_and_leave_the_global_generator_alone(family):
    state = torch.get_rng_state()
    assert bind(pico(family), backbone_of(family).table).fingerprint == backbone_of(family).fingerprint
    assert bind(pico(family, seed=1), backbone_of(family).table).fingerprint != backbone_of(family).fingerprint
    assert torch.equal(torch.get_rng_state(), state)


def test_an_unknown_pico_model_is_answered_with_those_that_exist():
    with pytest.raises(BadInput, match="no pico model 'gpt3'; did you mean 'gptj'"):
        pico("gpt3")
