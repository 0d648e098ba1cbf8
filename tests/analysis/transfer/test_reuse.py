"""Ways of using trained deltas on held-out tasks, each against training from nothing."""

import numpy as np
import pytest

from deltacompose.analysis.transfer.reuse_summary import rows, used
from deltacompose.errors import BadInput

TARGETS, SEEDS = ("a", "b", "c", "d", "e"), (0, 1, 2)


def record(way, target, seed, score, trained=True, shots=16, kind="reuse"):
    spec = {"composition": "lora", "way": way, "trained": trained, "shots": shots, "target": target, "seed": seed}
    return {"kind": kind, "state": "done", "spec": spec, "result": {"score": score, "chance": 0.5}}


def untouched(target, score):
    return {"kind": "evaluate", "state": "done", "spec": {"source": "untouched", "target": target}, "result": score}


def records(gain, noise=0.0):
    source = np.random.default_rng(0)
    found = []
    for target in TARGETS:
        found.append(untouched(target, {"score": 0.55}))
        for seed in SEEDS:
            base = 0.6 + 0.02 * TARGETS.index(target) + noise * source.normal()
            found += [record("nothing", target, seed, base), record("single", target, seed, base + gain)]
            found.append(record("mean", target, seed, 0.58, trained=False, shots=None))
    return found


def test_a_way_is_compared_with_nothing_on_the_same_examples():
    table = {row["way"]: row for row in rows(used(records(gain=0.1, noise=0.05)))}
    single = table["single"]
    assert single["difference"] == pytest.approx(0.1)
    assert (single["difference_low"], single["difference_high"]) == pytest.approx((0.1, 0.1))
    assert single["p"] == pytest.approx(2 / 2**5)
    assert table["nothing"]["difference"] is None


def test_where_there_is_no_difference_p_is_one():
    table = {row["way"]: row for row in rows(used(records(gain=0.0)))}
    assert table["single"]["difference"] == pytest.approx(0)
    assert table["single"]["p"] == 1.0


def test_chance_and_the_untouched_backbone_are_rows():
    table = {row["way"]: row for row in rows(used(records(gain=0.1)))}
    assert table["chance"]["score"] == 0.5
    assert table["untouched"]["score"] == pytest.approx(0.55)


def test_a_way_without_training_on_the_examples_is_compared_with_no_other_number_of_shots():
    table = {row["way"]: row for row in rows(used(records(gain=0.1)))}
    assert table["mean"]["score"] == pytest.approx(0.58)
    assert table["mean"]["difference"] is None


def test_missing_cells_are_left_out_of_means():
    some = [r for r in records(gain=0.1) if not (r["kind"] == "reuse" and r["spec"]["target"] == "a")]
    table = {row["way"]: row for row in rows(used(some))}
    assert table["nothing"]["score"] == pytest.approx(np.mean([0.62, 0.64, 0.66, 0.68]))


def test_failed_cells_alone_are_no_scores():
    failed = [{**record("mean", "a", 0, 0.5), "state": "failed"}]
    with pytest.raises(BadInput, match="no scores on held-out tasks"):
        used(failed)
