"""Searches for the intrinsic dimension in a study: cells that a finished cell adds, found again from the store."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import pytest
from picostudy import make
from searches import RATES, SPEC, command, record

import deltacompose as dc
from deltacompose import api
from deltacompose.analysis.subspace.dimension_search import Search, grid, most_tries, next_dimensions
from deltacompose.analysis.subspace.intrinsic_dimension import intrinsic_dimensions, searched
from deltacompose.analysis.transfer.findings import gather
from deltacompose.cli.subspace_command import _least
from deltacompose.errors import BadInput
from deltacompose.store import open_store
from deltacompose.study import DimensionChoice
from deltacompose.study.recipe import Recipe


def searching(folder, **changes):
    chosen = DimensionChoice(most=3, share=1.0, projections=("sketch",), **changes)
    training = Recipe(steps=12, batch=8, evaluate_every=12, limit=32, learning_rates=RATES)
    study = make(folder, tasks=("mood",), compositions=("full",), transfer=False, training=training, dimension=chosen)
    study.write(folder / "study.yaml")
    return study


def stop_after(kind, count):
    """A progress that interrupts the run when so many cells of a kind are done."""
    seen = Counter()

    def progress(event):
        if event["event"] == "done":
            seen[event["label"].split()[0]] += 1
            if seen[kind] == count:
                raise KeyboardInterrupt

    return progress


@pytest.fixture(scope="module")
def interrupted(tmp_path_factory):
    """A search that was stopped right after its second cell, and carried out by a second run."""
    folder = tmp_path_factory.mktemp("search")
    study = searching(folder)
    with pytest.raises(KeyboardInterrupt):
        dc.run(study, folder / "store", progress=stop_after("search", 2))
    halfway = len(dc.plan(study, open_store(folder / "store")))
    return study, folder, halfway, dc.run(study, folder / "store")


def test_a_search_goes_on_where_it_was_broken_off_and_computes_nothing_twice(interrupted):
    study, folder, halfway, outcome = interrupted
    store = open_store(folder / "store")
    assert not outcome.failed
    started = Counter(key for event in store.events() if event["event"] == "start" for key in event["keys"])
    assert set(started.values()) == {1}
    tried = sorted(r["spec"]["composition"] for r in store.records("train") if r["spec"]["seed"] == 0)
    assert tried == ["full", "intrinsic(d=1)", "intrinsic(d=2)", "intrinsic(d=3)"]
    assert len(dc.plan(study)) < halfway < len(dc.plan(study, store)) == len(store.keys())
    again = dc.run(study, folder / "store")
    assert (again.done, len(again.stored)) == ((), len(store.keys()))


def test_gc_keeps_the_cells_that_a_search_has_added(interrupted):
    _, folder, _, _ = interrupted
    assert command(folder, "gc").startswith("0 would be removed")
    found = command(folder, "status").splitlines()[0]
    assert found == f"{len(open_store(folder / 'store').keys())} cells, " + found.partition(" cells, ")[2]
    assert " 0 waiting" in found


def test_subspace_says_the_intrinsic_dimension_with_its_spread_from_a_search(interrupted):
    _, folder, _, _ = interrupted
    said = command(folder, "subspace")
    assert "minimum d with 100% of the score of full, sketch projection, one scale per layer" in said
    assert "> 3" in said
    assert "search up to 3" in said


@pytest.mark.parametrize(
    ("d", "below", "said"), [(6, 5, "6 (5 is too small)"), (1, 0, "1"), (None, 9, "> 9"), (None, 0, "–")]
)
def test_a_dimension_is_said_with_the_next_lower_one_that_was_tried(d, below, said):
    assert _least({"d": d, "below": below, "by_seed": {"0": d}}, "d")["d"] == said


def test_a_report_passes_over_the_many_trainings_of_a_search(interrupted):
    study, folder, _, _ = interrupted
    found = gather(api.records(folder / "store", study), {}, (), "test")
    assert {record["spec"]["composition"] for record in found.trainings} == {"full"}
    assert found.unread == []


def test_a_plan_says_that_a_search_adds_cells(tmp_path):
    study = searching(tmp_path)
    dense = replace(study, dimension=replace(study.dimension, projections=("sketch", "dense")))
    grows, takes = api.notes(dense)
    assert grows.startswith(
        "2 searches for the intrinsic dimension add cells while they run, at most 12 trainings in total"
    )
    assert takes.startswith("a dense projection takes")
    assert len(api.notes(study)) == 1


def test_a_search_with_and_without_scales_is_two_searches_that_differ_in_their_parameters(tmp_path):
    study = searching(tmp_path, per_layer=(True, False))
    study = replace(study, seeds=(0,), dimension=replace(study.dimension, most=1))
    study.write(tmp_path / "study.yaml")
    assert dc.Study.read(tmp_path / "study.yaml").dimension.per_layer == (True, False)
    planned = [cell for _, cell in dc.plan(study).nodes(data="cell") if cell.kind == "search"]
    assert sorted(cell.spec["settings"]["per_layer"] for cell in planned) == [False, True]
    assert len({cell.key for cell in planned}) == 2
    assert api.notes(study)[0].startswith("2 searches for the intrinsic dimension add cells while they run, at most 2 ")
    outcome = dc.run(study, tmp_path / "store")
    assert not outcome.failed
    trained = {r["spec"]["composition"]: r["result"] for r in open_store(tmp_path / "store").records("train")}
    assert set(trained) == {"full", "intrinsic(d=1)", "intrinsic(d=1, per_layer=False)"}
    assert trained["intrinsic(d=1)"]["parameters"] == 1 + 2  # a scale for each of two layers
    assert trained["intrinsic(d=1, per_layer=False)"]["parameters"] == 1
    found = intrinsic_dimensions(api.records(tmp_path / "store", study))
    assert [one["per_layer"] for one in found] == [False, True]
    assert all(one["tasks"]["mood"]["search"] == {"next": [], "most": 1} for one in found)
    said = command(tmp_path, "subspace")
    assert "sketch projection, one scale per layer" in said
    assert "sketch projection, no scales" in said


def test_a_search_ends_when_the_goals_above_zero_and_above_chance_are_both_found():
    """Of the two seeds one needs 5 dimensions and the other 7: the score rises from chance by as much with each d."""
    parents = [record("full", seed, 1.0) for seed in (0, 1)]
    while (result := searched(SPEC, parents, 0.5))["next"]:
        for seed, waiting in result["next"].items():
            scores = {d: 0.5 + 0.5 * min(d / (5, 7)[int(seed)], 1) for d in waiting}
            parents += [record(f"intrinsic(d={d})", int(seed), x, d=d, projection="dense") for d, x in scores.items()]
    tried = [one["key"] for one in parents]
    assert len(set(tried)) == len(tried)
    assert (result["d"], result["below"]) == (5, 4)
    assert result["by_seed"] == {"0": 4, "1": 6}
    assert (result["above_chance"]["d"], result["above_chance"]["by_seed"]) == (6, {"0": 5, "1": 7})
    [found] = intrinsic_dimensions(
        [*parents, {"kind": "search", "key": "s", "spec": {**SPEC}, "parents": [], "result": result}]
    )
    assert found["tasks"]["t"]["above_chance"] == result["above_chance"]
    assert found["tasks"]["t"]["search"] == {"next": [], "most": 9}


def test_a_reference_that_does_not_exceed_chance_has_no_dimension_above_it():
    result = searched(SPEC, [record("full", 0, 0.5)], 0.5)
    assert (result["next"], result["above_chance"]["d"]) == ({"0": [1]}, None)
    assert searched(SPEC, [record("full", 0, 0.0)], None)["next"] == {}


@pytest.mark.parametrize(("most", "resolution"), [(1, 0.25), (9, 0), (100, 0.25), (500, 0.25)])
def test_no_search_tries_more_dimensions_than_its_plan_says(most, resolution):
    for least in grid(most, resolution):
        search, scores = Search(1.0, most, resolution=resolution), {}
        while waiting := next_dimensions(search, scores):
            scores |= {d: float(d >= least) for d in waiting}
        assert len(scores) <= most_tries(most, resolution)


@pytest.mark.parametrize(
    ("written", "said"),
    [
        ("{most: 0}", "dimension.most: 0: input should be greater than or equal to 1"),
        ("{most: 9, share: 1.5}", "dimension.share: 1.5: input should be less than or equal to 1"),
        ("{most: 9, projections: [dens]}", "dimension.projections.0: 'dens': input should be 'sketch', 'fastfood' or"),
        ("{most: 9, step: 2}", "no field 'dimension.step'; fields: most, per_layer"),
        ("{share: 0.9}", "dimension.most is missing"),
        (
            "{most: 9, warm_started: true}",
            "no field 'dimension.warm_started'; did you mean 'warm_start'",
        ),
        ("{most: 9, warm_start: 1}", "dimension.warm_start: 1: input should be a valid boolean"),
    ],
)
def test_a_search_that_makes_no_sense_is_refused_by_a_sentence(tmp_path, written, said):
    path = tmp_path / "a.yaml"
    path.write_text(f"name: a\ntasks: [x]\ncompositions: [full]\ndimension: {written}\n")
    with pytest.raises(BadInput, match=said) as caught:
        dc.Study.read(path)
    assert "\n" not in str(caught.value)


def test_a_reference_that_the_study_lacks_and_places_that_the_backbone_lacks_are_named(tmp_path):
    study = searching(tmp_path)
    lacking = replace(study, dimension=DimensionChoice(most=3, reference="lora"))
    with pytest.raises(BadInput, match=r"no composition .* as the reference of its dimension 'lora'; .*full"):
        dc.plan(lacking)
    with pytest.raises(BadInput, match=r"no place 'atention\.query'"):
        dc.plan(replace(study, dimension=DimensionChoice(most=3, places=("atention.query",))))


def test_searches_that_compare_with_different_compositions_are_not_mixed():
    searches = [
        {"kind": "search", "key": name, "spec": {**SPEC, "reference": name}, "parents": [], "result": {"scores": {}}}
        for name in ("full", "lora")
    ]
    with pytest.raises(BadInput, match="the searches of this store differ in their reference: full, lora"):
        intrinsic_dimensions([*searches, record("intrinsic(d=2)", 0, 1.0, d=2, projection="dense")])
