"""Parts that train the same parameters are named, and tensors that never get a gradient are too."""

from __future__ import annotations

import pytest
from deltacompose_plugins import Adapter, BitFit, Full, LoRA, Prompt

from deltacompose.backbone.pico import pico_backbone
from deltacompose.method.parameter_overlap import overlaps


@pytest.mark.parametrize("family", ["t5", "bert", "gpt2", "llama"])
def test_methods_that_add_their_own_parameters_overlap_with_none(family):
    assert overlaps(pico_backbone(family), Prompt() + LoRA() + BitFit() >> Adapter()) == []


def test_the_same_matrix_trained_twice_is_named_whatever_the_stage():
    backbone = pico_backbone("gpt2")
    for expression in (LoRA() + LoRA(rank=2), LoRA() >> LoRA(rank=2)):
        [said] = overlaps(backbone, expression)
        assert said == "lora and lora(rank=2) both train decoder.0.attention.query.weight and 3 other parameters"


def test_slices_of_one_fused_matrix_are_not_the_same_parameter():
    assert overlaps(pico_backbone("gpt2"), LoRA(places=("attention.query",)) + LoRA(places=("attention.key",))) == []


def test_equal_parts_are_told_apart_by_their_stage_and_number():
    [said] = overlaps(pico_backbone("bert"), LoRA() >> LoRA())
    assert said.startswith("0.0.lora and 1.0.lora both train ")


def test_a_tied_parameter_is_one_parameter():
    [said] = overlaps(pico_backbone("t5"), Full() >> Full())
    assert "both train" in said


def test_experts_whose_matrices_are_bare_parameters_overlap_by_their_names():
    [said] = overlaps(pico_backbone("mixtral"), Full() + Full() + Prompt())
    assert "both train" in said
