"""No edit of an input goes unnoticed: before a plan, between plan and work, and within a living process."""

from __future__ import annotations

import picostudy
import pytest
import stale_edits
from deltacompose_plugins.engines.inprocess import inprocess

import deltacompose as dc
from deltacompose import api
from deltacompose.analysis.transfer.findings import gather
from deltacompose.cells import carry_out as work
from deltacompose.cells import loaded
from deltacompose.cells import train as train_cells
from deltacompose.cells.worker_sources import Sources, options_of
from deltacompose.engine import Work, run_plan
from deltacompose.errors import BadInput
from deltacompose.store import open_store


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    return tmp_path_factory.mktemp("edits")


@pytest.mark.parametrize("edit", stale_edits.EDITS, ids=lambda edit: edit.name)
def test_an_edit_plans_again_what_depends_on_it_and_nothing_else(place, edit):
    cells, again, right = stale_edits.planned_again(edit, place)
    assert right, f"{again} of {cells} cells are planned again; expected: {edit.expected}"


def test_edited_code_of_a_plugin_and_another_version_plan_its_cells_again(place):
    for name, cells, again, _, right in stale_edits.plugin_rows(place):
        assert right, f"{name}: {again} of {cells} cells are planned again"


def one(folder, **changes):
    """A study of four cells or so."""
    return picostudy.make(folder, "bert", tasks=("mood",), seeds=(0,), transfer=False, **changes)


def answers(store):
    """What a store holds, whatever it cost: scores and answers by key."""
    return {
        record["key"]: (
            {name: value for name, value in record["result"].items() if name in ("dev", "score", "chance", "trivial")},
            record["files"]["predictions.jsonl"],
        )
        for record in open_store(store).records()
    }


@pytest.mark.parametrize("edit", [stale_edits.reworded, stale_edits.nudged, stale_edits.setting("hidden_act", "relu")])
def test_an_edit_within_a_living_process_gives_the_results_of_a_fresh_one(tmp_path, edit):
    study = one(tmp_path)
    dc.run(study, tmp_path / "living")
    before = set(open_store(tmp_path / "living").keys())
    edit(tmp_path)
    outcome = dc.run(study, tmp_path / "living")
    assert not outcome.failed
    assert len(outcome.done) == len(before), "nothing of the study is served from before the edit"
    loaded.forget()
    dc.run(study, tmp_path / "fresh")
    living = {key: found for key, found in answers(tmp_path / "living").items() if key not in before}
    assert living == answers(tmp_path / "fresh")


@pytest.mark.parametrize(
    ("edit", "said"),
    [
        (stale_edits.reworded, "the data of task 'mood' changed after the study was planned"),
        (stale_edits.nudged, "weights, configuration, tokenizer or table of .* changed after the study was planned"),
    ],
)
def test_an_edit_between_plan_and_work_fails_the_cells_with_a_sentence_and_stores_nothing(tmp_path, edit, said):
    study = one(tmp_path)
    plan, options = dc.plan(study), options_of(study)
    edit(tmp_path)
    loaded.forget()  # a worker that has read nothing yet
    store = open_store(tmp_path / "store")
    outcome = run_plan(plan, store, inprocess({}), Work(), options)
    assert store.keys() == []
    assert len(outcome.failed) + len(outcome.blocked) == len(plan)
    for key in outcome.failed:
        failure = store.failure(key)
        with pytest.raises(BadInput, match=said):
            raise BadInput(failure["message"])
        assert failure["error"] == "BadInput"
        assert "run the study again" in failure["message"]


def test_a_long_lived_worker_notices_that_mapped_weights_were_edited_while_it_computed(tmp_path, monkeypatch):
    study = one(tmp_path)
    cell = next(c for _, c in dc.plan(study).nodes(data="cell") if c.kind == "train")
    written = {"kind": cell.kind, "spec": cell.spec, "parents": list(cell.parents)}
    store, train = open_store(tmp_path / "store"), train_cells.train

    def edited(*arguments):
        trained = train(*arguments)
        stale_edits.nudged(tmp_path)
        return trained

    monkeypatch.setattr(train_cells, "train", edited)
    with pytest.raises(BadInput, match="its files were edited"):
        work.carry_out({"store": str(store.root), "cells": [written], "options": options_of(study)})
    assert not store.has(cell.key)


def test_a_worker_with_other_code_of_a_method_refuses_the_cell(tmp_path):
    study = one(tmp_path)
    cell = next(c for _, c in dc.plan(study).nodes(data="cell") if c.kind == "train")
    spec = {**cell.spec, "implementations": {"bitfit": "0" * 64}}
    open_store(tmp_path / "store")
    cells = [{"kind": "train", "spec": spec, "parents": []}]
    with pytest.raises(BadInput, match=r"method 'bitfit' of deltacompose .* has other code here"):
        work.carry_out({"store": str(tmp_path / "store"), "cells": cells, "options": options_of(study)})


def test_a_category_is_read_when_it_is_shown_and_is_in_no_cell(tmp_path):
    study, place = one(tmp_path), tmp_path / "store"
    dc.run(study, place)
    store = open_store(place)
    assert not [record for record in store.records() if "category" in {*record["spec"], *record["result"]}]
    assert api.categories_of(dc.records(place), store, study) == {"mood": "mood"}
    renamed = stale_edits.relabelled(study)
    assert api.categories_of(dc.records(place), store, renamed) == {"mood": "feelings"}
    assert dc.run(renamed, place).done == ()
    assert api.categories_of(dc.records(place), store) == {"mood": "feelings"}, "a store shows the latest run's"


def test_verify_finds_answers_to_other_examples_than_the_key_names(tmp_path):
    study, place = one(tmp_path), tmp_path / "store"
    dc.run(study, place)
    store = open_store(place)
    assert api.verify(study, store) == ([], [])
    record = next(r for r in store.records("evaluate") if r["spec"]["composition"] is None)
    cell = dc.plan(study).nodes[record["key"]]["cell"]
    rows = (store.folder(cell.key) / "predictions.jsonl").read_text().replace('"target": "good"', '"target": "bad"')
    store.set_aside(cell.key)
    store.add(cell, record["result"], lambda folder: (folder / "predictions.jsonl").write_text(rows))
    [problem] = api.verify(study, store)[0]
    assert problem.key == cell.key
    assert "examples that are not the 12 of 'mood' that the key names" in problem.reason


def test_verify_counts_cells_of_earlier_inputs(tmp_path):
    study, place = one(tmp_path), tmp_path / "store"
    dc.run(study, place)
    stale_edits.reworded(tmp_path)
    problems, notes = api.verify(study, open_store(place))
    assert problems == []
    count = len(open_store(place).keys())
    assert notes == [f"{count} stored cells were computed from earlier inputs: the examples of a task changed since"]


def test_cells_record_their_libraries_and_a_report_says_where_they_differ(tmp_path):
    study, place = one(tmp_path), tmp_path / "store"
    dc.run(study, place)
    store = open_store(place)
    [known] = store.environments()
    assert {"deltacompose", "torch", "transformers", "numpy", "python", "processor"} <= set(known)
    records = [dict(record) for record in dc.records(place)]
    assert all(record["environment"] == known for record in records)
    assert gather(records, {}, (), "test").environments == []
    records[0] |= {"environment": {**known, "torch": "1.0"}}
    assert gather(records, {}, (), "test").environments == [f"torch 1.0, {known['torch']}"]


def test_places_of_a_table_that_is_written_out_keep_their_order(tmp_path):
    study = one(tmp_path)
    own = loaded.backbone_of(Sources.of(study).backbone)
    written = stale_edits.with_table(study)
    again = loaded.backbone_of(Sources.of(written).backbone)
    assert [place.name for place in again.places()] == [place.name for place in own.places()]
