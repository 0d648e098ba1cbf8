"""Searches whose trainings begin with the solution at a lower d: what is carried, what begins with what, the keys."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from deltacompose_plugins.methods.reparameterization.intrinsic import Intrinsic
from deltacompose_plugins.methods.reparameterization.lora import LoRA
from picostudy import broken_off, make
from searches import RATES, SPEC, command, record

import deltacompose as dc
from deltacompose import api
from deltacompose.analysis.subspace import dimension_search as intrinsic
from deltacompose.analysis.subspace.intrinsic_dimension import intrinsic_dimensions, searched
from deltacompose.backbone.pico import pico_backbone
from deltacompose.cells.loaded import backbone_of
from deltacompose.cells.train import job_of
from deltacompose.cells.worker_sources import Sources
from deltacompose.errors import BadInput
from deltacompose.method.weights import carried
from deltacompose.planning import plan as planning
from deltacompose.planning.facts import Facts, TaskFacts
from deltacompose.planning.flops import Lengths, Shape, StackShape
from deltacompose.store import open_store
from deltacompose.study import Cell, DimensionChoice, Study
from deltacompose.study.recipe import Recipe

of_every_projection = pytest.mark.parametrize("projection", ["dense", "fastfood", "sketch"])


# What is carried


def change(method, backbone, t):
    """ΔW of all parameters of a method in one row."""
    own = {**method.constants(backbone), **t}
    edits = method.edits(backbone)
    return torch.cat([e.change(own, backbone.parameter(e.place, e.parameter)).flatten() for e in edits])


def solution(method, backbone):
    """Weights as training might leave them, in double precision."""
    source = torch.Generator().manual_seed(3)
    drawn = method.init(backbone, source)
    return {name: torch.randn(x.shape, dtype=torch.float64, generator=source) for name, x in drawn.items()}


@pytest.mark.parametrize("per_layer", [True, False])
@pytest.mark.parametrize("projection", ["dense", "fastfood"])
def test_in_a_subspace_that_holds_the_smaller_one_theta_goes_on_as_it_is(projection, per_layer):
    backbone = pico_backbone("t5")
    lower, larger = (Intrinsic(d=d, projection=projection, per_layer=per_layer) for d in (3, 8))
    t = solution(lower, backbone)
    begun = larger.carried(backbone, lower, t)
    assert torch.equal(begun["shared.theta"], torch.nn.functional.pad(t["shared.theta"], (0, 5)))
    assert all(torch.equal(begun[name], t[name]) for name in t if name != "shared.theta")
    assert torch.allclose(change(larger, backbone, begun), change(lower, backbone, t), atol=1e-12)


def test_a_sketch_of_doubled_d_makes_the_same_change():
    backbone = pico_backbone("t5")
    lower, larger = Intrinsic(d=4), Intrinsic(d=8)
    t = solution(lower, backbone)
    begun = larger.carried(backbone, lower, t)
    assert torch.allclose(change(larger, backbone, begun), change(lower, backbone, t), atol=1e-6)


@pytest.mark.parametrize(
    ("family", "projection", "small", "large"), [("t5", "sketch", 4, 6), ("bert", "dense", 12, 20)]
)
def test_what_cannot_be_carried_exactly_is_carried_nearly(family, projection, small, large):
    """A bias of 16 numbers has other columns as soon as d exceeds it."""
    backbone = pico_backbone(family)
    lower, larger = (Intrinsic(d=d, projection=projection) for d in (small, large))
    t = solution(lower, backbone)
    before = change(lower, backbone, t)
    after = change(larger, backbone, larger.carried(backbone, lower, t))
    assert 0 < (after - before).norm() < 0.8 * before.norm()


@pytest.mark.parametrize("lower", [Intrinsic(d=9), Intrinsic(d=2, projection="dense"), LoRA()])
def test_another_subspace_is_refused_as_a_beginning(lower):
    with pytest.raises(BadInput, match=r"intrinsic\(d=8\) cannot begin with the solution of .*; a lower d of the same"):
        Intrinsic(d=8).carried(pico_backbone("t5"), lower, {"shared.theta": torch.zeros(2)})


def test_an_expression_begins_with_a_solution_only_if_each_of_its_parts_can():
    backbone = pico_backbone("t5")
    for expression, lower in ((LoRA(rank=2), LoRA(rank=1)), (Intrinsic(d=8), Intrinsic(d=4) + LoRA())):
        with pytest.raises(BadInput, match="cannot begin with the solution of"):
            carried(backbone, expression, lower, {})
    begun = carried(backbone, Intrinsic(d=8), Intrinsic(d=4), {"0.0.shared.theta": torch.ones(4)})
    assert begun["0.0.shared.theta"].shape == (8,)


@of_every_projection
@pytest.mark.parametrize("s", [1, 5, 9])
def test_a_quadratic_with_s_constraints_has_d90_of_s_if_each_d_begins_with_a_lower_ones_solution(projection, s):
    backbone, rng = pico_backbone("t5"), np.random.default_rng(s)
    solved, begun = {}, []

    def member(d):
        return Intrinsic(d=d, projection=projection, per_layer=False)

    def score_of(d):
        method, lower = member(d), intrinsic.start_from(d, solved)
        theta = torch.zeros(d, dtype=torch.float64)
        if lower is not None:
            begun.append((d, lower))
            theta = method.carried(backbone, member(lower), {"shared.theta": solved[lower]})["shared.theta"]
        units = torch.eye(d, dtype=torch.float64)
        onto = a @ torch.stack([change(method, backbone, {"shared.theta": unit}) for unit in units]).T.numpy()
        left = b - onto @ theta.numpy()
        solved[d] = theta + torch.from_numpy(np.linalg.lstsq(onto, left, rcond=None)[0])
        return float(np.exp(-np.square(b - onto @ solved[d].numpy()).sum()))

    size = len(change(member(1), backbone, solution(member(1), backbone)))
    a, b = rng.normal(size=(s, size)), 1e4 * rng.uniform(1, 2, size=s)
    assert intrinsic.d90(1.0, score_of, most=12, resolution=0).d == s
    assert {d for d, _ in begun} == set(solved) - {1}


# What begins with what


def begun_record(d, seed, dev, grid=1.0, lower=None):
    """A training at d that began with the solution at a lower one, or anew."""
    found = record(f"intrinsic(d={d})", seed, dev, d=d, projection="dense")
    more = {"grid": grid, **({"carried": f"intrinsic(d={lower})"} if lower else {})}
    return {**found, "key": f"{d}-{seed}-{grid}-{lower}", "spec": {**found["spec"], **more}}


def test_a_search_names_the_nearest_lower_d_of_the_same_seed_and_factor():
    full = [record("full", seed, 1.0) for seed in (0, 1)]
    trained = [
        begun_record(d, seed, dev, grid, lower)
        for seed in (0, 1)
        for grid in (1.0, 2.0)
        for d, dev, lower in ((1, 0.1, None), (2, 0.2, 1), (4, 0.95, 2))
    ]
    result = searched({**SPEC, "warm_start": True}, [*full, *trained], None)
    assert result["next"] == {"0": [3], "1": [3]}
    assert result["begin"] == [
        {"seed": seed, "d": 3, "grid": grid, "composition": "intrinsic(d=2)", "key": f"2-{seed}-{grid}-1"}
        for seed in (0, 1)
        for grid in (1.0, 2.0)
    ]
    assert searched({**SPEC, "warm_start": True}, full, None)["begin"] == []
    assert "begin" not in searched(SPEC, [*full, *trained], None)


def test_what_began_anew_and_what_did_not_are_two_searches():
    first = begun_record(1, 0, 0.1)
    warm = [begun_record(2, 0, 0.5, lower=1), begun_record(4, 0, 0.95, lower=2)]
    anew = [begun_record(2, 0, 0.2), begun_record(4, 0, 0.3)]
    search = {
        "kind": "search",
        "key": "s",
        "spec": {**SPEC, "warm_start": True},
        "result": {"next": {}, "chance": None},
    }
    search["parents"] = [one["key"] for one in (first, *warm)]
    known = [record("full", 0, 1.0), first, *warm, search]
    [alone] = intrinsic_dimensions(known)
    assert (alone["warm_start"], alone["tasks"]["t"]["d"]) == (True, 4)
    cold, both = intrinsic_dimensions([*known, *anew])
    assert (cold["warm_start"], cold["tasks"]["t"]["d"], cold["tasks"]["t"]["below"]) == (False, None, 4)
    assert both == alone


def searching(folder):
    chosen = DimensionChoice(most=3, share=1.0, projections=("sketch",), warm_start=True)
    rates = {**RATES, "intrinsic": 1e-3}
    training = Recipe(steps=12, batch=8, evaluate_every=6, limit=32, learning_rates=rates, keep="last")
    names = {"tasks": ("mood",), "compositions": ("full",), "seeds": (0,), "transfer": False}
    study = make(folder, training=training, dimension=chosen, **names)
    study.write(folder / "study.yaml")
    return study


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A warm-started search that was carried out at one go."""
    folder = tmp_path_factory.mktemp("warm")
    study = searching(folder)
    return study, folder, dc.run(study, folder / "store")


def trainings(store):
    return {r["spec"]["composition"]: r for r in open_store(store).records("train")}


def test_each_training_of_a_warm_started_search_begins_with_the_one_before_it(whole):
    study, folder, outcome = whole
    found = trainings(folder / "store")
    assert not outcome.failed
    assert dc.Study.read(folder / "study.yaml") == study
    texts = [f"intrinsic(d={d})" for d in (1, 2, 3)]
    assert [found[text]["spec"].get("carried") for text in texts] == [None, *texts[:2]]
    assert [found[text]["parents"] for text in texts] == [[], *([found[text]["key"]] for text in texts[:2])]
    store, sources = open_store(folder / "store"), Sources.of(study)
    backbone = backbone_of(sources.backbone)
    first, second = (found[text] for text in texts[:2])
    job = job_of(store, Cell("train", second["spec"], tuple(second["parents"])), backbone, sources)
    lower = dc.load_delta(store.folder(first["key"]))
    begun = carried(backbone, job.expression, lower.expression, lower.weights)
    assert begun["0.0.shared.theta"].any()
    assert begun.keys() == job.start.keys()
    assert all(torch.equal(job.start[name], begun[name]) for name in begun)
    assert found["intrinsic(d=2)"]["result"]["history"][0]["score"] == found["intrinsic(d=1)"]["result"]["dev"]


def test_a_warm_started_search_computes_nothing_twice_and_says_what_it_is(whole):
    study, folder, _ = whole
    again = dc.run(study, folder / "store")
    assert (again.done, len(again.stored)) == ((), len(open_store(folder / "store").keys()))
    assert command(folder, "gc").startswith("0 would be removed")
    said = command(folder, "subspace")
    assert "warm start: each d starts from the solution at the next lower d, so its steps add to those before" in said
    assert "warm-started search up to 3" in said
    assert "next lower d" in api.notes(study)[1]


def test_a_warm_started_search_that_was_broken_off_goes_on_to_the_same_weights(whole, tmp_path, monkeypatch):
    study, folder, _ = whole
    broken_off(study, tmp_path / "broken", monkeypatch, lambda cell, step: "carried" in cell.spec and step == 6)
    dc.run(study, tmp_path / "broken")
    sums = [
        {r["key"]: r["files"]["delta.safetensors"] for r in trainings(store).values()}
        for store in (tmp_path / "broken", folder / "store")
    ]
    assert sums[0] == sums[1]


# Keys


def planned(**changes):
    """The trainings of a study without a backbone and of one of its searches, which asks for d = 4 after 2."""
    chosen = DimensionChoice(most=9, projections=("dense",), **changes)
    training = Recipe(steps=2, learning_rates={"full": 1e-2, "intrinsic": 0.5})
    study = Study("pinned", ("mood",), ("full",), training=training, dimension=chosen, start_from=("tone",))
    rows, stacks = {"train": 8, "val": 4, "test": 4}, {"encoder": StackShape(9, 1, 4, 8, 2, 4)}
    tasks = {name: TaskFacts("d" * 64, "kind", rows, Lengths(4, 4, 1, 2, 1)) for name in ("mood", "tone")}
    facts = Facts("b" * 64, Shape(9, "encoder", stacks), tasks)
    prepared = planning.prepare(study, facts, api.parse)
    nodes = prepared.plan.nodes(data="cell")
    cells = [cell for _, cell in nodes if cell is not None]
    [search] = [cell for cell in cells if cell.kind == "search"]
    lower = {"seed": 0, "d": 4, "grid": 1.0, "composition": "intrinsic(d=2, projection='dense')", "key": "k" * 64}
    result = {"next": {"0": [4]}, **({"begin": [lower]} if changes else {})}
    added = prepared.extend(search, {"result": result})
    return [*(cell for cell in cells if cell.kind == "train"), search, *added]


def test_the_keys_of_what_begins_anew_are_those_of_the_stores_there_are():
    assert [(cell.kind, cell.key[:16]) for cell in planned()] == PINNED


PINNED = [
    ("train", "b908b1aa52bfb79c"),
    ("train", "9ea8a9086ddced33"),
    ("search", "f49db94a9a2e1319"),
    ("train", "c137f991cdfdbd1b"),
    ("search", "8f5e0d08b4ce5bc8"),
]
"""Keys of version 2; they change only with what a training's result depends on."""


def test_a_warm_started_training_differs_in_what_it_began_with_alone():
    [anew], [begun] = (
        [c for c in cells if "d=4" in str(c.spec["composition"])] for cells in (planned(), planned(warm_start=True))
    )
    assert begun.spec == {**anew.spec, "carried": "intrinsic(d=2, projection='dense')"}
    assert (anew.parents, begun.parents) == ((), ("k" * 64,))
    assert planned(warm_start=True)[0].key == planned()[0].key
