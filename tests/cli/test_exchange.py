"""What goes elsewhere: models and data sets to nodes without a network, results as one tidy table, the state of a run
to another terminal."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from dataclasses import replace

import hostile
import pandas
import picostudy
import pytest

import deltacompose as dc
from deltacompose import api
from deltacompose.engine import status as status_of
from deltacompose.store import open_store
from deltacompose.study import BackboneChoice, Study
from deltacompose.study.recipe import Recipe


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    """A study file beside its pico model and rows, and its store."""
    folder = tmp_path_factory.mktemp("handover")
    study = picostudy.make(folder, seeds=(0,), transfer=False)
    study.write(folder / "study.yaml")
    dc.run(Study.read(folder / "study.yaml"), folder / "store")
    return folder


def command(*words, **further):
    """The stdout, stderr and exit status of a command in a new process."""
    line = [sys.executable, "-c", "from deltacompose.cli import main; main()", *map(str, words)]
    environment = os.environ | {"HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
    ended = subprocess.run(line, capture_output=True, text=True, env=environment, timeout=600, check=False, **further)
    return ended.stdout, ended.stderr, ended.returncode


def forked(*words):
    """The same in a fork of this process, which takes no seconds for imports."""
    status, said, error = hostile.forked("", [str(word) for word in words])
    return said, error, status


def test_a_store_is_exported_with_one_row_for_each_cell(written, tmp_path):
    said, _, status = forked("export", written / "store", tmp_path / "cells.csv")
    assert (said, status) == (f"8 cells in {tmp_path / 'cells.csv'}\n", 0)
    table = pandas.read_csv(tmp_path / "cells.csv")
    assert table.groupby("kind").size().to_dict() == {"evaluate": 6, "train": 2}
    assert table.loc[table.kind == "evaluate", "result.score"].between(0, 1).all()
    said, _, status = forked("export", written / "study.yaml", tmp_path / "again.parquet", "--store", written / "store")
    assert status == 0
    assert len(pandas.read_parquet(tmp_path / "again.parquet")) == 8


def test_what_cannot_be_exported_is_said(written, tmp_path):
    _, said, status = forked("export", written / "store", tmp_path / "cells.xlsx")
    assert (status, said.count("\n")) == (2, 1)
    assert "must end in .csv or .parquet" in said
    _, said, status = forked("export", tmp_path / "no.yaml", tmp_path / "cells.csv")
    assert status == 2
    assert "there is no store results/no; `deltacompose run" in said


def test_what_is_local_need_not_be_fetched(written):
    rows = api.prefetch(Study.read(written / "study.yaml"))
    assert [(row["what"], row["state"]) for row in rows] == [
        ("backbone", "local"),
        ("task", "local"),
        ("task", "local"),
    ]


def test_what_cannot_be_fetched_is_named_with_the_cache_it_would_lie_in(written, tmp_path, monkeypatch):
    study = Study.read(written / "study.yaml")
    far = replace(study, backbone=BackboneChoice(model="nowhere/at-all"), tasks=("mood", "glue_rte"))
    far.write(written / "far.yaml")
    said, _, status = command("prefetch", written / "far.yaml", "--json", cwd=tmp_path)
    rows = {row["name"]: row for row in json.loads(said)}
    assert status == 1
    assert {name: row["state"] for name, row in rows.items()} == {
        "nowhere/at-all": "failed",
        "mood": "local",
        "glue_rte": "failed",
    }
    assert "cache" in rows["nowhere/at-all"]["reason"]
    assert "cache" in rows["glue_rte"]["reason"]


def test_the_state_of_real_trainings_is_told_in_another_terminal_while_they_go_on(written, tmp_path):
    study = replace(Study.read(written / "study.yaml"), seeds=(0, 1, 2), training=Recipe(3000, 4, evaluate_every=100))
    study.write(written / "slow.yaml")
    line = [sys.executable, "-c", "from deltacompose.cli import main; main()"]
    driver = subprocess.Popen(
        [*line, "run", str(written / "slow.yaml"), "--store", str(tmp_path / "store"), "--engine", "inprocess"],
        stderr=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
    )
    try:
        seen = _running(tmp_path / "store", driver)
        assert seen["cells"] == seen["done"] + seen["running"] + seen["waiting"] == 2 + 6 * 3
        assert seen["runs"] == [{"machine": seen["runs"][0]["machine"], "pid": driver.pid, "alive": True}]
    finally:
        driver.kill()
        driver.wait()
    said, _, _ = forked("status", written / "slow.yaml", "--store", tmp_path / "store")
    assert "0 running" in said


def _running(store, driver):
    """The status of a run as the command tells it, as soon as a training goes on, which is looked for here: each
    command is a process."""
    until = time.monotonic() + 600
    while time.monotonic() < until:
        assert driver.poll() is None
        time.sleep(0.2)
        if not store.exists() or not status_of(open_store(store, create=False))["running"]:
            continue
        said, _, status = command("status", store, "--json")
        if status == 0 and (found := json.loads(said))["running"] and found["runs"]:
            return found
    raise AssertionError("no cell was ever seen running")
