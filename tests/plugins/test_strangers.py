"""Published methods, each written in a file of its own from the documentation alone, keep the contract."""

from __future__ import annotations

import pytest
import torch
from plugins.eva import EVA
from plugins.loreft import LoReFT
from plugins.pissa import PiSSA
from plugins.unipelt import UniPELT

import deltacompose as dc
from deltacompose.backbone.pico import pico_backbone
from deltacompose.checks import parametrize_with_checks
from deltacompose.checks.batches import batch, forward, tiny
from deltacompose.checks.subject import Subject, job_of

STRANGERS = [LoReFT(), UniPELT(), PiSSA(), EVA()]


@parametrize_with_checks([LoReFT()], backbones=("bert",))
def test_an_intervention_at_chosen_tokens_keeps_the_contract(method, check):
    check(method)


@parametrize_with_checks([UniPELT()], backbones=("t5",))
def test_gates_over_three_kinds_of_edit_keep_the_contract(method, check):
    check(method)


@parametrize_with_checks([PiSSA()], backbones=("llama",))
def test_a_start_from_the_pretrained_matrix_keeps_the_contract(method, check):
    check(method)


@parametrize_with_checks([EVA()], backbones=("gpt2",))
def test_a_start_from_the_tasks_activations_keeps_the_contract(method, check):
    check(method)


@pytest.mark.parametrize("method", STRANGERS, ids=lambda method: method.name)
def test_it_trains_beside_a_built_in_method_and_saves(method, tmp_path):
    backbone = pico_backbone("gpt2")
    delta = dc.train(backbone, method + dc.methods()["bitfit"](), tiny(), steps=2, batch=4, evaluate_every=2)
    # An edit at the first tokens of a decoder's last layer reaches no token that is scored.
    assert all(name.startswith("0.0.decoder.1.layer.") for name in delta.record["without_gradient"])
    assert delta.save(tmp_path).is_dir()


def test_pissa_trains_the_principal_part_of_the_matrix_itself():
    backbone = pico_backbone("bert")
    place = backbone.place("encoder.0.attention.query")
    weights = PiSSA(rank=16).init(backbone, torch.Generator())
    product = weights[f"{place.name}.B"] @ weights[f"{place.name}.A"]
    assert torch.allclose(product, backbone.parameter(place, "weight"), atol=1e-5)


def test_eva_begins_at_the_directions_of_the_tasks_own_activations():
    backbone = pico_backbone("bert")
    first, second = (EVA().constants(backbone, job_of(backbone, EVA(), task=task)) for task in (0, 1))
    name = "encoder.1.attention.query.A0"
    assert torch.allclose(first[name] @ first[name].mT, torch.eye(3), atol=1e-5)
    assert not torch.allclose(first[name], second[name], atol=1e-2)


def test_loreft_changes_the_first_and_last_tokens_of_each_row_and_no_padding():
    backbone = pico_backbone("bert")
    method = LoReFT(prefix=1, suffix=1)
    given = batch(backbone, seed=0)
    before = forward(backbone, given)
    weights = dict(Subject(method, "bert").alone.weights)
    weights |= {n: torch.zeros_like(x) for n, x in weights.items() if "encoder.0." in n and not n.endswith(".R")}
    with dc.attached(backbone, method, weights) as model:
        after = model(**given).last_hidden_state
    changed = (after - before).abs().amax(-1) > 1e-6
    lengths = given["attention_mask"].sum(1).tolist()
    assert [row.nonzero().flatten().tolist() for row in changed] == [[0, length - 1] for length in lengths]
