"""One real study carried out by each engine: the stores are equal in every score, prediction and weight."""

from __future__ import annotations

import json

import pytest
import realwork
import torch

import deltacompose as dc
from deltacompose.recipe import Recipe
from deltacompose.store import open_store

ENGINES = {"inprocess": {}, "pool": {"workers": 2}, "dask": {"workers": 2}}


@pytest.fixture(scope="module")
def stores(tmp_path_factory):
    """The store that each engine leaves of one study, with what became of it."""
    folder = tmp_path_factory.mktemp("engines")
    recipe = Recipe(steps=4, batch=4, evaluate_every=2, limit=32)
    study = realwork.study(folder, tasks=("mood", "tone"), training=recipe)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # as workers have: sums over several threads round otherwise
    try:
        outcomes = {name: dc.run(study, folder / name, name, **options) for name, options in ENGINES.items()}
    finally:
        torch.set_num_threads(threads)
    return {name: (open_store(folder / name), outcome) for name, outcome in outcomes.items()}


@pytest.mark.parametrize("engine", ["pool", "dask"])
def test_the_engines_give_equal_cells(stores, engine):
    (here, whole), (there, outcome) = stores["inprocess"], stores[engine]
    assert len(outcome.done) == len(whole.plan) == 2 + 12 + 16 + 8
    assert there.keys() == here.keys() == sorted(whole.plan)
    assert there.verify() == []
    found = realwork.contents(there)
    for key, expected in realwork.contents(here).items():
        assert found[key] == expected


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
