"""A backbone whose layers lie in shards over several processes computes what a whole one does."""

from __future__ import annotations

import json
from dataclasses import replace

import forkedranks
import picostudy
import pytest
import torch
from safetensors.torch import load_file

import deltacompose as dc
from deltacompose import api
from deltacompose.analysis.similarity.stored_arrays import FILE
from deltacompose.cells.grouping import by_expression, processes_of
from deltacompose.cells.study_facts import facts as facts_of
from deltacompose.cells.worker_sources import options_of
from deltacompose.engine import RemoteError, launched
from deltacompose.errors import BadInput
from deltacompose.planning.fitting import greediest
from deltacompose.store import open_store
from deltacompose.study import BackboneChoice, Study, SubspaceChoice

HOOKS = "prompt(length=2) + prefix(length=2) + lora(rank=2) + adapter(bottleneck=2) + bitfit + ia3"
TOKENS = "prompt(length=2) + lora(rank=2) + adapter(bottleneck=2) + bitfit"
DENSE = "masked + norm"
CASES = [
    ("t5", None, "generation", HOOKS, False),
    ("t5", None, "choice", "lora(rank=2) + full", False),
    ("bart", None, "choice", HOOKS, True),
    ("bert", None, "choice", HOOKS, False),
    ("bert", None, "choice", "full", True),
    ("roberta", "mlm", "choice", DENSE, False),
    ("distilbert", None, "choice", TOKENS, False),
    ("gpt2", None, "generation", HOOKS, True),
    ("gpt2", None, "choice", "full", False),
    ("llama", None, "generation", HOOKS, False),
    ("llama", None, "choice", "last_layers(n=1)", False),
    ("gpt-neox", None, "choice", TOKENS, False),
    ("opt", None, "choice", TOKENS, False),
]
"""Every family. Those of one kind of generation (encoder-decoder, learned and rotary positions) generate once."""

NEED_FILES = ("intrinsic_prompt", "arrow")
METHODS = [("gpt2", None, "choice", name, False) for name in sorted(api.methods()) if name not in NEED_FILES]
"""Every method with its default settings, except those that read a file. They rank answers, which takes a quarter of
the time of generation; both run the same layers with the same hooks."""


@pytest.fixture(autouse=True, scope="module")
def on_cpus():
    """Keeps the reference results on the CPU; the processes are forks."""
    with pytest.MonkeyPatch.context() as patched, forkedranks.in_place_of_torchrun():
        patched.setenv("CUDA_VISIBLE_DEVICES", "")
        yield


def looks(folder, processes, **asked):
    """What each of several processes saw of what it was asked to do."""
    launched("shardwork:look", {"folder": str(folder), "looks": asked}, processes)
    return [json.loads((folder / f"rank{rank}.json").read_text()) for rank in range(processes)]


@pytest.fixture(scope="module")
def two(tmp_path_factory):
    """What each of two processes saw of everything: they take longer to begin than to do it."""
    asked = {name: {} for name in ("uneven", "unequal_ends", "refused", "read_parameters", "resumed")}
    asked["compare"] = {"cases": CASES + METHODS}
    return looks(tmp_path_factory.mktemp("two"), 2, **asked)


def check_alike(cases, found):
    """For each case, and every process, the backbone in shards did what the whole one did."""
    for case, *ranks in zip(cases, *(one["compare"] for one in found), strict=True):
        exact = case[0] not in ("t5", "bart")  # a decoder's layers add to their encoder's gradient in another order
        for one in ranks:
            rounded = () if exact else ("weights", "history")
            counts = ("gradients", "layers", "sharded", "held")
            assert one["gradients"] <= (0.0 if exact else 1e-5), (case, one)
            assert all(value for name, value in one.items() if name not in (*rounded, *counts)), (case, one)
            assert one["layers"] == one["sharded"] > 1.4 * one["held"]
        assert sum(one["held"] for one in ranks) == ranks[0]["sharded"]


def test_every_family_and_method_trains_and_speaks_in_shards_as_whole(two):
    check_alike(CASES + METHODS, two)


def test_three_processes_do_too(tmp_path):
    check_alike(CASES[2:3], looks(tmp_path, 3, compare={"cases": CASES[2:3]}))


def test_methods_read_a_sharded_parameter_whole(two):
    for same in (one["read_parameters"] for one in two):
        assert len(same) > 20
        assert all(same)


def test_what_one_process_finds_wrong_all_say_after_as_many_passes(two):
    """Seven rows in chunks of a few: a process that stopped at once would leave the other waiting for its shards."""
    one, other = (one["uneven"] for one in two)
    assert one == other
    assert one["said"] == "no numbers"
    assert one["calls"] > 1


def test_a_process_that_has_said_all_makes_the_passes_that_others_need(two):
    assert all(one["unequal_ends"] for one in two)


def test_layers_that_share_a_module_are_not_dealt_out(two):
    assert all("has layers that share one module and cannot be sharded" in one["refused"] for one in two)


def test_the_process_that_fails_is_the_one_that_is_heard():
    """The other, which waits for it, fails by its end; that is not what is told, and memory may be had another time."""
    with pytest.raises(RemoteError, match="no room") as found:
        launched("shardwork:failing", {}, 2)
    assert found.value.kind == "MemoryError"


def test_only_cells_that_need_them_are_carried_out_by_several_processes(tmp_path):
    space = SubspaceChoice("prompt(length=2)", dimensions=1)
    study = picostudy.make(
        tmp_path, processes=2, measures=("gradient_cosine",), compositions=(space.composition,), subspace=space
    )
    sharded = replace(study, backbone=replace(study.backbone, device="sharded"))
    for one, probes in ((study, 1), (sharded, 2)):
        options = options_of(one)
        asked = {cell.kind: processes_of(cell, options) for _, cell in dc.plan(one).nodes(data="cell")}
        trained = {"train": 2, "evaluate": 2, "tune": 2}
        assert asked == {**trained, "probe": probes, "subspace": probes, "reconstruct": probes}
    cells = [cell for _, cell in dc.plan(sharded).nodes(data="cell") if cell.kind != "train"]
    groups = by_expression(cells, options_of(sharded))
    assert sorted(cell.key for group in groups for cell in group) == sorted(cell.key for cell in cells)
    assert [{cell.kind for cell in group} for group in groups].count({"probe"}) == 1


def test_a_training_in_shards_goes_on_where_it_was_broken_off(two):
    for one in two:
        assert one["resumed"] == {"broken": True, "weights": True, "steps": [0, 2, 4, 6], "tokens": 0}


@pytest.fixture(scope="module")
def studies(tmp_path_factory):
    """One study by one process, and by two with the backbone in shards."""
    folder = tmp_path_factory.mktemp("studies")
    text = "prompt(length=2) + lora(rank=2) + adapter(bottleneck=2)"
    alone = picostudy.make(
        folder, "t5", tasks=("mood",), seeds=(0,), compositions=(text,), measures=("gradient_cosine",)
    )
    sharded = replace(alone, processes=2, backbone=replace(alone.backbone, device="sharded"))
    for name, study in (("alone", alone), ("sharded", sharded)):
        outcome = dc.run(study, folder / name, "inprocess")
        assert not outcome.failed, outcome.failed
    return alone, sharded, folder


def test_a_study_in_shards_trains_what_one_process_does(studies):
    *_, folder = studies
    one, two = (cells(folder / name) for name in ("alone", "sharded"))
    assert one.keys() == two.keys() == {"train", "evaluate", "probe"}
    first, second = (
        dc.load_delta(open_store(folder / n).folder(found["train"][0]["key"]))
        for n, found in (("alone", one), ("sharded", two))
    )
    assert first.weights.keys() == second.weights.keys()
    for name, tensor in first.weights.items():
        torch.testing.assert_close(second.weights[name], tensor, rtol=1e-3, atol=1e-5)
    for mine, theirs in zip(one["evaluate"], two["evaluate"], strict=True):
        assert mine["result"]["score"] == theirs["result"]["score"]
    for mine, theirs in zip(one["probe"], two["probe"], strict=True):
        name = mine["spec"]["array"]
        arrays = [
            load_file(open_store(folder / n).folder(cell["key"]) / FILE)[name]
            for n, cell in (("alone", mine), ("sharded", theirs))
        ]
        torch.testing.assert_close(arrays[1], arrays[0], rtol=1e-3, atol=1e-5)


def cells(place):
    """The records of a store by kind, in an order that says nothing of their keys."""
    found = {}
    for one in sorted(
        dc.records(place), key=lambda one: (one["kind"], str(one["spec"].get("source")), str(one["spec"].get("array")))
    ):
        found.setdefault(one["kind"], []).append(one)
    return found


def test_whether_a_backbone_lies_in_shards_is_in_no_key(studies):
    _, sharded, _ = studies
    whole = replace(sharded, backbone=replace(sharded.backbone, device=None))
    assert set(dc.plan(whole)) == set(dc.plan(sharded))


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"processes": 1}, "is dealt out over several processes; say `processes: 2` or more"),
        ({"backbone": BackboneChoice(device="sharded", dtype="nf4")}, "cannot be held in nf4; take bfloat16"),
        ({"efficiency": True}, "has no efficiency, which is measured in one process"),
    ],
)
def test_a_sharded_study_that_cannot_be_is_refused(changes, said):
    study = Study("a", ("t",), ("lora",), BackboneChoice(device="sharded"), processes=2)
    with pytest.raises(BadInput, match=said):
        replace(study, **changes)


def test_a_process_by_itself_holds_all_of_a_sharded_backbone(tmp_path):
    study = picostudy.make(tmp_path)
    backbone = dc.load_backbone(study.backbone.model, device="sharded")
    assert all(type(x).__name__ == "Parameter" for x in backbone.model.parameters())
    assert str(backbone.model.device) == "cpu"
    with pytest.raises(BadInput, match="a backbone in nf4 cannot be sharded; take bfloat16"):
        dc.load_backbone(study.backbone.model, device="sharded", dtype="nf4")


def test_a_process_of_a_sharded_backbone_needs_less_memory(tmp_path):
    study = picostudy.make(tmp_path, processes=2)
    facts = facts_of(study)
    shape = facts.shape
    deep = replace(facts, shape=replace(shape, stacks={n: replace(s, layers=16) for n, s in shape.stacks.items()}))
    sharded = replace(study, processes=4, backbone=replace(study.backbone, device="sharded"))
    layers = sum(stack.parameters for stack in shape.stacks.values())
    several = (replace(study, processes=4), sharded)
    whole, part = (greediest(planned, deep, api.parse).bytes for planned in several)
    assert whole - part == pytest.approx(4 * layers * (1 - 1 / 4 - 4 / 16))
    assert greediest(study, deep, api.parse).bytes > whole
