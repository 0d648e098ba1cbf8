"""Intrinsic dimensions and readouts from the records of a store."""

from __future__ import annotations

import json

import pytest

from deltacompose.analysis.similarity.stored_arrays import stored_deltas
from deltacompose.analysis.subspace.intrinsic_dimension import intrinsic_dimensions
from deltacompose.analysis.subspace.readouts import Readout, readouts
from deltacompose.analysis.subspace.tuned import readouts_of
from deltacompose.cli import subspace_command as subspace
from deltacompose.errors import BadInput


def training(text, task, seed, dev, method=None, grid=1.0, **settings):
    spec = {"composition": text, "task": task, "seed": seed, "grid": grid, "start": None}
    spec["settings"] = [[{"method": method or text, "settings": settings}]]
    return {
        "kind": "train",
        "key": f"{text}-{task}-{seed}-{grid}",
        "state": "done",
        "spec": spec,
        "result": {"dev": dev},
    }


def evaluation(text, task, seed, score, chance=0.5):
    spec = {"composition": text, "source": task, "target": task, "seed": seed, "split": "test", "grid": None}
    result = {"score": score, "chance": chance, "category": "kind"}
    return {"kind": "evaluate", "key": f"e-{text}-{task}-{seed}", "state": "done", "spec": spec, "result": result}


def constrained(s, seeds=(0, 1), full=1.0, floor=0.5, grid=(2, 4, 8, 16, 32), projection="sketch"):
    """A task that is solved as far as d reaches its s constraints: score = floor + (full − floor) · min(d/s, 1)."""
    records = [training("full", "t", seed, full) for seed in seeds]
    for seed in seeds:
        for d in grid:
            score = floor + (full - floor) * min(d / s, 1)
            text = f"intrinsic(d={d}, projection={projection!r})"
            records.append(training(text, "t", seed, score, "intrinsic", d=d, projection=projection))
    return [*records, evaluation("full", "t", 0, full, floor)]


@pytest.mark.parametrize("s", [2, 8, 16])
def test_the_least_dimension_above_chance_is_the_number_of_constraints(s):
    [found] = intrinsic_dimensions(constrained(s))
    one = found["tasks"]["t"]
    assert one["above_chance"]["d"] == s
    assert one["above_chance"]["below"] < s
    assert one["above_chance"]["by_seed"] == {"0": s, "1": s}
    assert one["d"] <= s
    assert json.loads(json.dumps(found, allow_nan=False)) == found


def test_seeds_are_kept_apart_and_projections_too():
    records = constrained(8, seeds=(0,)) + [r for r in constrained(16, seeds=(1,)) if r["spec"]["seed"] == 1]
    records += [r for r in constrained(4, projection="dense") if "dense" in r["spec"]["composition"]]
    dense, sketch = intrinsic_dimensions(records)
    assert (dense["projection"], sketch["projection"]) == ("dense", "sketch")
    assert dense["tasks"]["t"]["above_chance"]["d"] == 4
    assert sketch["tasks"]["t"]["above_chance"]["by_seed"] == {"0": 8, "1": 16}


def test_the_scales_that_are_trained_beside_d_are_counted():
    records = constrained(8)
    assert intrinsic_dimensions(records)[0]["scales"] is None
    for record in records:
        if "intrinsic" in str(record["spec"].get("composition")) and record["kind"] == "train":
            record["result"]["parameters"] = record["spec"]["settings"][0][0]["settings"]["d"] + 24
    assert intrinsic_dimensions(records)[0]["scales"] == 24


def test_a_goal_that_no_dimension_reaches_is_none_and_the_greatest_that_missed_is_said():
    [found] = intrinsic_dimensions(constrained(100))
    assert found["tasks"]["t"]["above_chance"]["d"] is None
    assert found["tasks"]["t"]["above_chance"]["below"] == 32


def test_of_several_learning_rates_the_best_development_score_counts():
    records = [*constrained(8), training("intrinsic(d=2)", "t", 0, 1.0, "intrinsic", 9.0, d=2, projection="sketch")]
    [found] = intrinsic_dimensions(records)
    assert found["tasks"]["t"]["by_seed"]["0"] == 2


def test_a_store_without_intrinsic_deltas_has_none_and_one_without_full_ones_says_what_to_compare_with():
    records = constrained(8)
    assert intrinsic_dimensions([r for r in records if "intrinsic" not in str(r["spec"]["composition"])]) == []
    with pytest.raises(BadInput, match="no composition to compare intrinsic dimensions with 'full'"):
        intrinsic_dimensions([r for r in records if r["spec"]["composition"] != "full"])
    full = [r for r in records if r["spec"]["composition"] == "full"]
    others = [{**r, "spec": {**r["spec"], "seed": 7}} for r in full]
    with pytest.raises(BadInput, match="t has intrinsic deltas and no full one of the same seed"):
        intrinsic_dimensions([*others, *(r for r in records if r not in full)])


def test_readouts_are_relative_to_the_own_delta_of_the_same_seed():
    space = {"composition": "prompt", "way": "pca", "dimensions": 2, "seen": ["a"]}
    records = [{"kind": "subspace", "key": "s", "state": "done", "spec": space, "result": {}, "parents": []}]
    records += [evaluation("prompt", "a", 0, 0.9), evaluation("prompt", "b", 0, 0.8)]
    for kind, target, score in (("reconstruct", "a", 0.9), ("reconstruct", "b", 0.4), ("tune", "b", 0.65)):
        spec = {"target": target, "seed": 0, "split": "test", "examples": "same"}
        result = {"score": score, "chance": 0.5}
        records.append({"kind": kind, "key": "x", "state": "done", "spec": spec, "result": result, "parents": ["s"]})
    [found] = readouts_of(records, {"a": "x", "b": "y"}, "test")
    means = {name: of and (of["relative"], of["corrected"]) for name, of in found["readouts"].items()}
    assert means["reconstruction_seen"] == (1.0, 1.0)
    assert means["reconstruction_unseen"] == pytest.approx((0.5, -1 / 3))
    assert means["tuning_unseen_out_of_category"] == pytest.approx((0.8125, 0.5))
    assert means["tuning_same_data"] is None
    with pytest.raises(BadInput, match="prompt on b with seed 0 has no evaluation to compare the subspace with"):
        readouts_of([r for r in records if r["key"] != "e-prompt-b-0"], {"a": "x", "b": "y"}, "test")


def test_of_a_grid_the_chosen_learning_rate_is_read_and_two_trainings_that_differ_are_refused(tmp_path):
    records = [training("lora", "t", 0, 0.5, grid=grid) for grid in (1.0, 2.0)]
    records.append(evaluation("lora", "t", 0, 0.5))
    select = {"kind": "select", "key": "c", "state": "done", "result": {"grid": 2.0}}
    select["spec"] = {"composition": "lora", "task": "t"}
    deltas = stored_deltas([*records, select], lambda key: tmp_path / key)
    assert deltas["lora"].trained == {("t", 0): "lora-t-0-2.0"}
    with pytest.raises(BadInput, match="two trainings of 'lora' on t with seed 0, whose settings differ"):
        stored_deltas(records, lambda key: tmp_path / key)


def test_scales_and_intervals_over_seeds_are_printed(capsys):
    records = constrained(8)
    for record in records:
        if record["kind"] == "train":
            settings = record["spec"]["settings"][0][0]["settings"]
            settings["per_layer"], settings["places"] = True, ["*attention.query"]
            record["result"]["parameters"] = settings.get("d", 0) + 24
    subspace._print_dimensions(intrinsic_dimensions(records))
    assert "one scale per layer (24 not in d)" in capsys.readouterr().out
    outcomes = [Readout("t", "tuned", "new", score, 1.0, 0.5, seed) for seed, score in enumerate((0.7, 0.8, 0.9))]
    found = {"way": "pca", "dimensions": 1, "composition": "prompt", "seen": ["t"]}
    subspace._print_readouts([{**found, "readouts": readouts(outcomes, ["t"], {"t": "kind"})}])
    assert "0.800 [0.552, 1.048]" in capsys.readouterr().out
