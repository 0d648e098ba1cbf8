"""One real study carried out by each engine: the stores are equal in every score, prediction and weight."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import realwork
import torch

import deltacompose as dc
from deltacompose import plugins
from deltacompose.errors import BadInput
from deltacompose.store import open_store
from deltacompose.study.recipe import Recipe

ENGINES = {"inprocess": {}, "pool": {"workers": 2}, "dask": {"workers": 2}}


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    recipe = Recipe(steps=4, batch=4, evaluate_every=2, limit=32)
    return realwork.study(tmp_path_factory.mktemp("engines"), tasks=("mood", "tone"), seeds=(0,), training=recipe)


@pytest.fixture(scope="module")
def one_thread():
    """As workers have: sums over several threads round otherwise."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def stores(study, one_thread):
    """The store that each engine leaves of one study, with what became of it.

    Every bank has one delta: which deltas are ready together, and so form a bank, depends on the speed of the workers,
    and banks of other sizes differ by rounding.
    """
    folder = Path(study.folder)
    outcomes = {name: dc.run(study, folder / name, name, bank=1, **options) for name, options in ENGINES.items()}
    return {name: (open_store(folder / name), outcome) for name, outcome in outcomes.items()}


@pytest.mark.parametrize("engine", ["pool", "dask"])
def test_the_engines_give_equal_cells(stores, engine):
    (here, whole), (there, outcome) = stores["inprocess"], stores[engine]
    assert len(outcome.done) == len(whole.plan) == 2 + 6 + 8 + 4
    assert there.keys() == here.keys() == sorted(whole.plan)
    assert there.verify() == []
    found = realwork.contents(there)
    for key, expected in realwork.contents(here).items():
        assert found[key] == expected


def test_an_engine_that_a_plugin_gives_as_the_documentation_shows_gives_equal_cells(
    study, stores, tmp_path, monkeypatch
):
    page = (Path(__file__).parents[2] / "docs" / "plugins.md").read_text()
    text = page.partition("# src/deltacompose_thread/__init__.py\n")[2].partition("```")[0]
    (tmp_path / "deltacompose_thread.py").write_text(text)
    info = tmp_path / "deltacompose_thread-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: deltacompose-thread\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[deltacompose]\nthread = deltacompose_thread\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    plugins.loaded.cache_clear()
    try:
        assert plugins.loaded().origin("engine", "thread") == "deltacompose-thread 1.0"
        outcome = dc.run(study, tmp_path / "store", "thread", bank=1)
        with pytest.raises(BadInput, match="the engine thread has no options; it got workers"):
            dc.run(study, tmp_path / "store", "thread", workers=2)
    finally:
        plugins.loaded.cache_clear()
    here, whole = stores["inprocess"]
    assert set(outcome.done) == set(whole.done)
    assert realwork.contents(open_store(tmp_path / "store")) == realwork.contents(here)


def test_what_is_compared_has_scores_histories_predictions_and_weights(stores):
    store, _ = stores["inprocess"]
    compared = realwork.contents(store)
    trained = list(store.records("train"))
    assert {record["spec"]["stage"] for record in trained} == {0, 1}
    for record in trained:
        *_, result, files = compared[record["key"]]
        assert [point["step"] for point in result["history"]] == [0, 2, 4]
        assert {"loss", "score"} <= set(result["history"][-1])
        assert len(files["delta.safetensors"]) == 64
        assert files["delta.json"]["record"]["dev"] == result["dev"]
    for record in store.records("evaluate"):
        *_, result, files = compared[record["key"]]
        assert 0 <= result["score"] <= 1
        assert len(files["predictions.jsonl"]) == 64
    sources = {record["spec"]["source"] for record in store.records("evaluate")}
    assert sources == {"mood", "tone", "untouched", "random"}


def test_a_difference_in_the_last_bit_of_one_weight_would_be_seen(stores, tmp_path):
    store, _ = stores["pool"]
    before = realwork.contents(store)
    record = next(iter(store.records("train")))
    delta = dc.load_delta(store.folder(record["key"]))
    name, weight = next(iter(delta.weights.items()))
    with torch.no_grad():
        weight.view(-1)[0] = torch.nextafter(weight.view(-1)[0], torch.tensor(torch.inf))
    delta.save(tmp_path)
    saved = json.loads((tmp_path / "delta.json").read_text())
    assert saved["sha256"] != before[record["key"]][-1]["delta.safetensors"], name
