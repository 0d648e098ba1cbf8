"""A store that commit 32583ff made, with cells of every kind: keys and results stay."""

from __future__ import annotations

import json
import zipfile
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import transformers
from safetensors.numpy import load_file

import deltacompose as dc
from deltacompose import api
from deltacompose.plugins.loader import Loaded
from deltacompose.store import open_store
from deltacompose.study import Study

KEPT = Path(__file__).parent.parent / "data" / "store_version_2.zip"
STUDIES = ("grid.yaml", "kinds.yaml")
MEASURED = {"seconds", "seconds_per_step", "peak_memory", "backbone_memory", "wall", "sha256"}
"""Fields that differ from machine to machine: how long something took, what it held, and the digest of a delta's
tensors, which processors round differently; the tensors themselves are compared."""

pytestmark = pytest.mark.skipif(
    transformers.__version__ != "5.23.0", reason="keys cover every field of a configuration, and versions add fields"
)


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """The studies with their inputs and their store, as they were; methods are those of deltacompose 0.1.0."""
    with zipfile.ZipFile(KEPT) as kept:
        kept.extractall(tmp_path)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(Loaded, "origin", lambda self, kind, name: "deltacompose 0.1.0")
    return tmp_path


@pytest.mark.parametrize("study", STUDIES)
def test_a_store_of_version_2_serves_every_cell_of_its_studies(folder, study):
    store = open_store("store")
    planned = api.plan(Study.read(study), store)
    assert [key for key in planned if not store.has(key)] == []
    assert api.cost_of(Study.read(study), store).total("to_run") == 0
    outcome = dc.run(study, "store")
    assert (outcome.done, len(outcome.stored), dict(outcome.failed)) == ((), len(planned), {})
    assert api.verify(Study.read(study), store) == ([], [])


def test_the_kept_store_has_cells_of_every_kind(folder):
    kinds = Counter(record["kind"] for record in open_store("store").records())
    assert kinds == {
        "train": 10,
        "evaluate": 19,
        "select": 1,
        "search": 2,
        "efficiency": 4,
        "probe": 4,
        "subspace": 1,
        "reconstruct": 2,
        "tune": 4,
        "swap": 4,
    }


def test_cells_that_are_computed_again_give_the_kept_results(folder):
    kept = open_store("store")
    for name in STUDIES:
        dc.run(replace(Study.read(name), efficiency=False), "again")
    again = open_store("again")
    assert set(kept.keys()) - set(again.keys()) == {record["key"] for record in kept.records("efficiency")}
    for key in sorted(again.keys()):
        before, now = kept.record(key), again.record(key)
        assert_alike(before["result"], now["result"], before["kind"])
        assert sorted(before["files"]) == sorted(now["files"])
        for file in before["files"]:
            assert_same_content(kept.folder(key) / file, again.folder(key) / file)


def assert_alike(before, now, where):
    """Equal but for rounding, and what is recorded since; how long it took is not compared."""
    if isinstance(before, dict):
        assert set(before) <= set(now), where
        for name in set(before) - MEASURED:
            assert_alike(before[name], now[name], f"{where}.{name}")
    elif isinstance(before, list):
        assert len(before) == len(now), where
        for index, (first, second) in enumerate(zip(before, now, strict=True)):
            assert_alike(first, second, f"{where}[{index}]")
    elif isinstance(before, float) or isinstance(now, float):
        assert now == pytest.approx(before, rel=1e-3, abs=1e-6, nan_ok=True), where
    else:
        assert before == now, where


def assert_same_content(before, now):
    if before.suffix == ".safetensors":
        first, second = load_file(before), load_file(now)
        assert set(first) == set(second)
        for name, array in first.items():
            if name.endswith("attention.key.bias"):
                continue  # softmax does not see it: its gradient is rounding alone, which Adam brings to full size
            np.testing.assert_allclose(second[name], array, rtol=1e-3, atol=1e-5, err_msg=f"{before.name}: {name}")
    elif before.name == "predictions.jsonl":
        assert now.read_text() == before.read_text()
    else:
        assert_alike(json.loads(before.read_text()), json.loads(now.read_text()), before.name)
