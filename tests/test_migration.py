"""A store that commit ee93e58 made, with keys of version 1: read, explained, migrated."""

from __future__ import annotations

import datetime
import json
import sys
import zipfile
from pathlib import Path

import pytest

import deltacompose as dc
from deltacompose import api, cli
from deltacompose.api import migration
from deltacompose.errors import BadInput
from deltacompose.store import ReadOnly, open_store
from deltacompose.study import Study

KEPT = Path(__file__).parent / "data" / "store_version_1.zip"


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """The study with its inputs and its store, as they were."""
    with zipfile.ZipFile(KEPT) as kept:
        kept.extractall(tmp_path)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def typed(monkeypatch, capsys):
    """Types a command; its exit status, output and errors."""

    def type_(*words):
        monkeypatch.setattr(sys, "argv", ["deltacompose", *map(str, words)])
        status = 0
        try:
            cli.main()
        except SystemExit as ended:
            status = int(ended.code or 0)
        return status, *capsys.readouterr()

    return type_


def test_a_store_of_version_1_serves_every_cell_to_its_study(folder):
    study, store = Study.read("study.yaml"), open_store("store")
    assert store.format == 1
    planned = api.plan(study, store)
    assert sorted(planned) == store.keys()
    assert len(planned) == 75, "with the trainings that its searches added"
    assert store.verify() == []
    assert api.verify(study, store) == ([], [])
    assert api.categories_of(dc.records(store, study), store) == {"mood": "feelings", "tone": "style"}
    assert list(api.categories_of(dc.records(store)[::-1], store)) == ["mood", "tone"]
    assert set(dc.transfer_matrix(store, "bitfit").targets) == {"mood", "tone"}


def test_nothing_is_added_to_a_store_of_version_1_and_the_sentence_says_why(folder, typed):
    before = {path: path.read_bytes() for path in Path("store").rglob("*") if path.is_file()}
    status, _, error = typed("run", "study.yaml", "--store", "store", "--engine", "inprocess")
    assert status == 2
    assert "its cell keys have version 1, which does not cover tokenizers" in error
    assert "`deltacompose store migrate`" in error
    store = open_store("store")
    cell = next(cell for _, cell in api.plan(Study.read("study.yaml"), store).nodes(data="cell"))
    for change in (
        lambda: store.add(cell, {}),
        lambda: store.fail(cell, ValueError("x")) if not store.has(cell.key) else store.forget_failures([]),
        lambda: store.save_checkpoint(cell.key, lambda place: None),
        lambda: store.set_aside(cell.key),
        lambda: store.log({}),
        lambda: store.keep_labels({"mood": "other"}),
        lambda: store.gc([], dry=False),
    ):
        with pytest.raises(ReadOnly, match="can only be read"):
            change()
    assert {path: path.read_bytes() for path in Path("store").rglob("*") if path.is_file()} == before


def test_reading_commands_say_that_a_store_of_version_1_can_only_be_read(folder, typed):
    status, out, error = typed("status", "study.yaml", "--store", "store", "--json")
    assert status == 0
    assert json.loads(out)["done"] == 75
    assert error.startswith("note: store ")
    assert "can only be read" in error


def test_every_cell_is_migrated_where_the_user_states_that_the_inputs_are_unchanged(folder, typed):
    status, out, _ = typed("store", "migrate", "store", "study.yaml", "--out", "new", "--unchanged")
    assert status == 0
    assert out.startswith(f"75 cells copied to {folder / 'new'}, 0 to compute again")
    old, new = open_store("store"), open_store("new")
    assert new.format == 2
    assert new.verify() == []
    outcome = dc.run("study.yaml", "new")
    assert (outcome.done, len(outcome.stored), dict(outcome.failed)) == ((), 75, {})
    for record in new.records():
        first = old.record(record["migrated"]["from"])
        assert record["migrated"]["stated"] is True
        assert record["finished"] == first["finished"]
        assert record["files"] == first["files"]
        assert record["result"].get("score") == first["result"].get("score")
    searches = json.dumps([record["result"] for record in new.records("search")])
    assert not [record["key"] for record in old.records() if record["key"] in searches]


def test_file_times_before_the_cell_show_that_inputs_are_unchanged(folder, monkeypatch):
    def latest(paths):
        return datetime.datetime(2020, 1, 1, tzinfo=datetime.UTC)

    monkeypatch.setattr(migration, "_latest", latest)
    outcome = migration.migrate(open_store("store"), [Study.read("study.yaml")], "new")
    assert (len(outcome.copied), outcome.again, outcome.unasked) == (75, {}, ())
    assert not any(record["migrated"]["stated"] for record in open_store("new").records())


def test_without_a_statement_files_that_are_newer_than_the_cells_are_not_taken_on_trust(folder, typed):
    _, out, _ = typed("store", "migrate", "store", "study.yaml", "--out", "new", "--json")
    facts = json.loads(out)
    assert facts["copied"] == {}
    assert len(facts["again"]) == 69
    reasons = {row["reason"] for row in facts["again"]}
    assert reasons == {
        "the model in model was changed after the cell was finished; --unchanged states that it is the same",
        "a cell that it rests on must be computed again",
    }


def test_what_does_not_hold_any_more_is_listed_and_computed_again(folder):
    study, store = Study.read("study.yaml"), open_store("store")
    rows = Path("tone.jsonl").read_text().splitlines()
    Path("tone.jsonl").write_text("\n".join([rows[0].replace("tone", "other"), *rows[1:]]) + "\n")
    outcome = migration.migrate(store, [study], "new", unchanged=True)
    assert outcome.copied
    assert outcome.unasked, "cells of the task as it was are in no plan any more"
    kept = {record["spec"].get("task") or record["spec"].get("target") for record in open_store("new").records()}
    assert "tone" not in {record["spec"].get("task") for record in open_store("new").records("train")}
    assert "mood" in kept


def test_a_damaged_cell_is_not_copied_nor_what_rests_on_it(folder):
    study, store = Study.read("study.yaml"), open_store("store")
    record = next(r for r in store.records("train") if r["spec"]["composition"] == "bitfit")
    (store.folder(record["key"]) / "delta.safetensors").write_bytes(b"")
    outcome = migration.migrate(store, [study], "new", unchanged=True)
    assert "delta.safetensors has another checksum" in outcome.again[record["key"]][1]
    assert len(outcome.again) > 1
    assert {reason for _, reason in list(outcome.again.values())[1:]} >= {
        "a cell that it rests on must be computed again"
    }


def test_a_migration_that_was_broken_off_is_completed_by_the_next(folder, monkeypatch):
    study, copy = Study.read("study.yaml"), migration._copy
    count = []

    def killed(*arguments):
        count.append(1)
        if len(count) > 20:
            raise KeyboardInterrupt
        copy(*arguments)

    with monkeypatch.context() as patched:
        patched.setattr(migration, "_copy", killed)
        with pytest.raises(KeyboardInterrupt):
            migration.migrate(open_store("store"), [study], "new", unchanged=True)
    assert len(open_store("new").keys()) == 20
    outcome = migration.migrate(open_store("store"), [study], "new", unchanged=True)
    assert len(outcome.copied) == len(open_store("new").keys()) == 75


def test_a_store_of_the_present_version_is_not_migrated(folder):
    migration.migrate(open_store("store"), [Study.read("study.yaml")], "new", unchanged=True)
    with pytest.raises(BadInput, match="has keys of version 2 already; there is nothing to migrate"):
        migration.migrate(open_store("new"), [Study.read("study.yaml")], "newer")


def test_a_store_of_a_newer_version_is_refused_with_one_sentence(folder, typed):
    Path("store/store.json").write_text('{"format": 3}')
    for command in (("status", "study.yaml", "--store", "store"), ("store", "migrate", "store", "study.yaml")):
        status, _, error = typed(*command)
        assert status == 2
        assert error.strip() == (
            f"error: store {folder / 'store'} has format 3; this version reads formats 1 to 2; "
            "a later deltacompose made it"
        )
