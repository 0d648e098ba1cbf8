"""Recommending a source: known answers on simulated libraries."""

from dataclasses import replace

import numpy as np
import pytest

from deltacompose.analysis.recommendation.evidence import POPULARITY, TRIED, Evidence, check_shots
from deltacompose.analysis.recommendation.model import LEVEL, fit, half_width, sign_flip, ties
from deltacompose.analysis.recommendation.quality import BEST, MODEL, ORACLE, POPULAR, RANDOM, UNTOUCHED, summary
from deltacompose.errors import BadInput


def simulated(seed=0, tasks=12, truth=1.0, noise=0.1, tried=None, popular=0.0, measures=4, seeds=1):
    """A library in which measure `m0` predicts gains (by `truth`), the others are noise."""
    source = np.random.default_rng(seed)
    names = tuple(f"t{k}" for k in range(tasks))
    shape = (seeds, tasks, tasks)
    near = {f"m{k}": np.broadcast_to(source.normal(size=shape[1:]), shape).copy() for k in range(measures)}
    gains = 0.1 * (truth * near["m0"] + popular * source.normal(size=(1, tasks, 1)) + noise * source.normal(size=shape))
    untouched = np.broadcast_to(source.uniform(0.2, 0.4, size=tasks), (seeds, tasks)).copy()
    scores = 0.2 + untouched[:, None] + gains
    few = None if tried is None else scores + tried * source.normal(size=shape)
    return Evidence(names, names, tuple(range(seeds)), scores, untouched, np.full(tasks, 0.2), near, few, untouched)


def test_the_measure_that_predicts_is_found_and_the_best_source_with_it():
    answer = summary(simulated(truth=1.0, noise=0.05))
    strategies = answer["strategies"]
    assert max(answer["coefficients"], key=lambda name: abs(answer["coefficients"][name])) == "m0"
    assert list(answer["best_alone"]) == ["m0"]
    assert answer["told_apart"] == 1.0
    assert strategies[MODEL]["regret_at_1"]["value"] < 0.01
    assert strategies[MODEL]["ndcg"]["value"] > strategies[RANDOM]["ndcg"]["value"]
    assert strategies[RANDOM]["regret_at_1"]["p"] < 0.01
    assert strategies[ORACLE]["regret_at_1"]["value"] == 0


def test_popularity_is_found_where_only_sources_differ():
    answer = summary(simulated(truth=0.0, popular=1.0, noise=0.1))
    assert list(answer["best_alone"]) == [POPULARITY]
    assert answer["strategies"][MODEL]["regret_at_1"]["value"] < 0.03
    assert answer["strategies"][POPULAR]["regret_at_1"]["value"] < 0.03


def test_scores_on_a_few_examples_are_used_where_they_tell_more_than_measures():
    answer = summary(simulated(truth=0.0, noise=1.0, tried=0.02))
    assert max(answer["coefficients"], key=lambda name: abs(answer["coefficients"][name])) == TRIED
    assert answer["strategies"][MODEL]["regret_at_1"]["value"] < answer["strategies"][RANDOM]["regret_at_1"]["low"]


def test_under_a_null_it_is_no_better_than_random_and_says_that_it_cannot_tell():
    told, better = [], []
    for seed in range(20):
        evidence = simulated(seed, truth=0.0, noise=1.0, tasks=10)
        model = fit(evidence.table(0))
        told.append(model.p <= LEVEL)
        if seed < 6:
            strategies = summary(evidence, resamples=200)["strategies"]
            better.append(strategies[MODEL]["regret_at_1"]["value"] - strategies[RANDOM]["regret_at_1"]["value"])
    assert np.mean(told) <= 0.2
    assert abs(np.mean(better)) < 2 * np.std(better) / np.sqrt(len(better)) + 0.02


def test_sources_that_are_not_told_apart_are_all_tied():
    evidence = simulated(truth=0.0, noise=1.0)
    model = fit(evidence.table(0))
    predicted = np.arange(11.0)
    if model.p > LEVEL:
        assert ties(model, predicted) == [True] * 11
    clear = fit(simulated(truth=1.0, noise=0.01).table(0))
    assert ties(clear, predicted) == [False] * 10 + [True]


def test_intervals_cover_as_often_as_they_are_meant_to():
    """Ninety per cent, on average over libraries; and not nearly all."""
    for tasks, options in ((8, {"tried": 0.05}), (10, {}), (8, {"truth": 0.0, "noise": 1.0})):
        libraries = [simulated(seed, tasks, **{"noise": 0.5, "measures": 2, **options}) for seed in range(8)]
        coverage = [summary(library, resamples=2)["coverage"]["found"] for library in libraries]
        assert 0.87 <= np.mean(coverage) <= 0.93


@pytest.mark.parametrize(("level", "scale"), [(0.0, 0.0), (1.0, 0.0), (3.0, 0.0), (0.0, 0.7), (1.0, 0.7)])
@pytest.mark.parametrize("tasks", [5, 11])
def test_intervals_cover_a_new_task_whose_errors_are_alike(tasks, level, scale):
    """Errors that a task's sources share, and tasks whose errors differ in size, are no reason to cover fewer."""
    source = np.random.default_rng(tasks)

    def errors():
        return np.abs(level * source.normal() + np.exp(scale * source.normal()) * source.normal(size=10))

    coverage = []
    for _ in range(120):
        half = half_width([errors() for _ in range(tasks)])
        coverage.append(np.mean([np.mean(errors() <= half) for _ in range(10)]))
    assert 0.87 <= np.mean(coverage) <= 0.93


def test_errors_that_are_zero_have_intervals_all_the_same():
    assert half_width([np.zeros(3), np.zeros(3)]) == 0
    assert half_width([np.zeros(9), np.zeros(9), np.ones(9)]) == 1


def test_what_the_model_predicts_is_at_the_level_of_the_few_examples():
    evidence = simulated(truth=1.0, noise=0.05, tried=0.01)
    table = evidence.table(0)
    rest = table.without("t0")
    predicted = fit(rest).predict(table.predictors_of("t0", rest))
    assert np.abs(predicted - table.gains[1:, 0]).max() < 0.1


def test_a_task_left_out_leaves_no_trace_in_the_model_that_predicts_it():
    evidence = simulated(noise=0.5)
    table = evidence.table(0)
    changed = simulated(noise=0.5)
    changed.scores[:, 0, :] += 5
    changed.scores[:, :, 0] += 7
    before, after = fit(table.without("t0")), fit(changed.table(0).without("t0"))
    assert np.array_equal(before.coefficients, after.coefficients)
    assert (before.level, before.spread, before.p) == (after.level, after.spread, after.p)


def test_a_mixture_is_no_source_of_its_own_tasks():
    evidence = simulated(truth=1.0, noise=0.1)
    evidence = replace(evidence, parts={"t3": ("t0", "t1")})
    table = evidence.table(0)
    assert np.isnan(table.gains[3, :2]).all()
    assert "t3" not in table.without("t0").sources
    assert "t3" in table.without("t2").sources
    assert summary(evidence, resamples=50)["tasks_left_out"] == 12


def test_the_untouched_backbone_is_best_where_every_source_harms():
    evidence = simulated(truth=0.2, noise=0.1)
    evidence.scores[:] -= 0.6
    untouched = summary(evidence)["strategies"][UNTOUCHED]["regret_at_1"]["value"]
    assert untouched < 0


def test_several_seeds_are_averaged_by_task():
    answer = summary(simulated(seeds=3, noise=0.3), resamples=100)
    assert answer["seeds"] == 3
    assert answer["tasks_left_out"] == 12
    assert not any("one seed" in sentence for sentence in answer["limitations"])
    assert any("one seed" in sentence for sentence in summary(simulated(), resamples=100)["limitations"])


def test_missing_scores_and_measures_are_left_out():
    evidence = simulated(noise=0.1)
    evidence.scores[0, 3, 4] = np.nan
    evidence.measures["m1"][:, 2] = np.nan
    answer = summary(evidence, resamples=100)
    assert np.isfinite(answer["strategies"][MODEL]["regret_at_1"]["value"])
    assert answer["strategies"][BEST]["regret_at_1"]["value"] is not None


def test_signs_are_flipped_exactly_where_there_are_few():
    assert sign_flip(np.array([1.0, 2.0])) == 0.25
    assert sign_flip(np.zeros(3)) == 1.0
    assert sign_flip(np.ones(20)) == pytest.approx(0.001, abs=0.0005)


# Misuse


def test_fewer_than_four_tasks_are_refused():
    with pytest.raises(BadInput, match="at least 4 tasks"):
        simulated(tasks=3)


def test_four_tasks_are_too_few_to_leave_one_out():
    with pytest.raises(BadInput, match="needs at least 5 tasks with their transfer, found 4"):
        summary(simulated(tasks=4))
    assert summary(simulated(tasks=5), resamples=50)["tasks_left_out"] == 5


def test_arrays_of_another_shape_are_refused():
    evidence = simulated()
    with pytest.raises(BadInput, match=r"measure 'm' of the evidence has shape \(2, 2\)"):
        Evidence(*(list(vars(evidence).values())[:6]), {"m": np.zeros((2, 2))})


def test_no_shots_are_refused():
    with pytest.raises(BadInput, match="at least one example per class"):
        check_shots(0, 2)
