"""Intervals of a factorial: how often they hold the truth, and what is resampled."""

import numpy as np
import pytest

from deltacompose.analysis.interaction import factorial
from deltacompose.analysis.interaction.bootstrap import resample
from deltacompose.analysis.interaction.factorial import combinations


def coverage(tasks, seeds, between, within, rounds=400):
    """How often the 95 % interval of a Shapley value holds the true 3.

    Random are the tasks (a method's gain on a task is 3 ± `between`), each run (± `within`), and each seed of a task
    (± half of `within`, common to its combinations); all normal.
    """
    random, methods = np.random.default_rng(0), ["a", "b"]
    contrast, held = factorial.shapley(methods)["a"], 0
    for each in range(rounds):
        gains = random.normal(3, between, (tasks, 2))
        common = random.normal(0, within / 2, (tasks, seeds))
        scores = {
            (name, str(t)): {str(s): sum(gains[t, methods.index(m)] for m in on) + common[t, s] + noise
                             for s, noise in enumerate(random.normal(0, within, seeds))}
            for name, on in combinations(methods).items() for t in range(tasks)
        }  # fmt: skip
        y = {
            name: np.mean([np.mean(list(scores[name, str(t)].values())) for t in range(tasks)])
            for name in combinations(methods)
        }
        low, high = resample(scores, draws=200, seed=each).interval(contrast, y)
        held += low <= 3 <= high
    return held / rounds


@pytest.mark.parametrize(
    ("tasks", "seeds", "between", "within", "least", "most"),
    [
        (8, 3, 4.0, 0.5, 0.93, 0.98),  # tasks dominate: as stated
        (8, 3, 2.0, 2.0, 0.93, 1.0),  # both: wider than stated
        (8, 3, 0.0, 2.0, 0.95, 1.0),  # only seeds vary: wider than stated, for their noise counts twice
        (3, 3, 2.0, 0.5, 0.93, 0.99),
        (1, 3, 0.0, 2.0, 0.92, 0.98),  # one task: an interval over seeds
    ],
)
def test_intervals_hold_the_truth_at_least_nearly_as_often_as_they_say(tasks, seeds, between, within, least, most):
    assert least <= coverage(tasks, seeds, between, within) <= most


def test_combinations_with_the_same_seeds_share_the_draw_so_a_constant_difference_is_certain():
    noise = np.random.default_rng(0).normal(0, 5, 3)
    scores = {
        (name, "t"): {str(s): n + 2 * len(on) for s, n in enumerate(noise)} for name, on in combinations("ab").items()
    }
    y = {name: float(np.mean(list(scores[name, "t"].values()))) for name in combinations("ab")}
    assert resample(scores).interval(factorial.shapley("ab")["a"], y) == pytest.approx((2, 2))
    low, high = resample(scores).interval({"a": 1.0}, y)
    assert high - low > 5
    apart = scores | {("a", "t"): {f"other {s}": score for s, score in scores["a", "t"].items()}}
    low, high = resample(apart).interval(factorial.shapley("ab")["a"], y)
    assert high - low > 1


def test_a_combination_that_lacks_a_unit_has_no_interval_and_the_others_keep_theirs():
    scores = {(name, unit): {"1": 1.0, "2": 2.0} for name in combinations("ab") for unit in "tu"}
    del scores["a", "u"]
    drawn = resample(scores)
    y = {"none": 1.5, "b": 1.5, "a + b": 1.5}
    assert drawn.interval({"a": 1.0, "none": -1.0}, y) is None
    assert drawn.interval({"b": 1.0, "none": -1.0}, y) == pytest.approx((0, 0))
    assert drawn.resampled == "units, then seeds within each drawn unit"
