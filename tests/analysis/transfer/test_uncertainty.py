"""Intervals and marks of whole matrices: those of single cells, in few passes."""

import itertools

import numpy as np
import pytest

from deltacompose.analysis import statistics
from deltacompose.analysis.matrix import TransferMatrix
from deltacompose.analysis.statistics import estimate
from deltacompose.analysis.transfer import uncertainty

EXACT = {"rtol": 0, "atol": 1e-12}


def random_matrix(seed, seeds=3, tasks=6):
    """A matrix with missing cells, targets of few and many examples, and cells without or with too few examples."""
    random = np.random.default_rng(seed)
    names = tuple(f"task {i}" for i in range(tasks))
    sizes, examples = random.integers(2, 40, tasks), {}
    values = np.full((seeds, tasks, tasks), np.nan)
    for k, s, t in itertools.product(range(seeds), range(tasks), range(tasks)):
        if random.random() < 0.04:
            continue
        scores = (random.random(sizes[t]) < 0.6 + 0.2 * (s == t)).astype(float)
        values[k, s, t] = scores.mean()
        if random.random() < 0.96:
            examples[k, names[s], names[t]] = scores if random.random() < 0.97 else scores[:-1]
    untouched = np.zeros(tasks)
    for t, name in enumerate(names):
        scores = (random.random(sizes[t]) < 0.5).astype(float)
        untouched[t], examples[0, "untouched", name] = scores.mean(), scores
    return TransferMatrix(
        sources=names,
        targets=names,
        seeds=tuple(range(seeds)),
        values=values,
        chance=np.full(tasks, 0.4),
        untouched=untouched,
        random=random.random((seeds, tasks)),
        trivial=np.zeros(values.shape, dtype=bool),
        failed=np.zeros(values.shape, dtype=bool),
        metric=("accuracy",) * tasks,
        categories=dict(zip(names, itertools.cycle("ab"))),
        examples=examples,
    )


def scores_of(matrix, source, target):
    """The definition for one cell: a row for each seed, as long in each, whose mean is the score."""
    t = matrix.targets.index(target)
    if source == "untouched":
        rows, expected = [matrix.examples.get((0, source, target))] * len(matrix.seeds), matrix.untouched[[t]]
    else:
        rows = [matrix.examples.get((seed, source, target)) for seed in matrix.seeds]
        expected = matrix.values[:, matrix.sources.index(source), t]
    if any(row is None for row in rows) or len({len(row) for row in rows}) > 1 or len(rows[0]) < 2:
        return None
    return np.stack(rows) if np.allclose(np.mean(rows, axis=1), expected, atol=1e-6) else None


def derivative(matrix, kind, s, t):
    """The definition for one cell: of A, A/own, (A − chance)/(own − chance), A − untouched by each example."""
    source, target = matrix.sources[s], matrix.targets[t]
    scores, own = scores_of(matrix, source, target), matrix.own[:, t, None]
    if kind == "raw" or scores is None:
        return scores
    if kind == "lift":
        base = scores_of(matrix, "untouched", target)
        return None if base is None or base.shape != scores.shape else scores - base
    floor, base = matrix.chance[t] if kind == "corrected" else 0.0, scores_of(matrix, target, target)
    if base is None or base.shape != scores.shape:
        return None
    return scores / (own - floor) - (matrix.values[:, s, t, None] - floor) / (own - floor) ** 2 * base


@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize("kind", uncertainty.KINDS)
def test_intervals_are_those_of_each_cell(kind, seed):
    matrix = random_matrix(seed, seeds=1 + seed % 4)
    values = uncertainty.values_of(matrix, kind)
    expected = np.full((2, 6, 6), np.nan)
    for s, t in np.argwhere(~np.isnan(values).any(axis=0)):
        of_examples = derivative(matrix, kind, s, t)
        cell = estimate(values[:, s, t], [] if of_examples is None else [of_examples])
        expected[:, s, t] = cell.low, cell.high
    assert (~np.isnan(expected)).sum() > 10
    np.testing.assert_allclose(uncertainty.intervals(matrix, kind), expected, **EXACT)


@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize("against", uncertainty.REFERENCE_LEVELS)
def test_marks_are_tests_of_each_cell(against, seed):
    matrix = random_matrix(seed, seeds=2 + seed % 3)
    levels = {"own": matrix.own, "random": matrix.random, "untouched": matrix.untouched, "chance": matrix.chance}
    expected = {name: np.full((6, 6), np.nan) for name in ("difference", "low", "high", "p")}
    for s, t in itertools.product(range(6), range(6)):
        gap = matrix.values[:, s, t] - np.broadcast_to(levels[against], (len(matrix.seeds), 6))[:, t]
        if np.isnan(gap).any():
            continue
        scores, target = scores_of(matrix, matrix.sources[s], matrix.targets[t]), matrix.targets[t]
        other = scores_of(matrix, target if against == "own" else "untouched", target)
        if against in ("random", "chance"):
            other = None if scores is None else np.zeros_like(scores)
        paired = scores is not None and other is not None and scores.shape == other.shape
        cell = estimate(gap, [scores - other] if paired else [])
        numbers = {"difference": cell.value, "low": cell.low, "high": cell.high, "p": cell.p if s != t else np.nan}
        for name, number in numbers.items():
            expected[name][s, t] = number
    found = uncertainty.marks(matrix, against)
    for name, array in expected.items():
        np.testing.assert_allclose(getattr(found, name), array, **EXACT)


@pytest.mark.parametrize("kind", uncertainty.KINDS)
def test_the_interval_of_a_mean_has_the_sum_of_the_derivatives_of_its_cells(kind):
    matrix = random_matrix(3)
    values = uncertainty.values_of(matrix, kind)
    known = ~np.isnan(values).any(axis=0) & matrix.off_diagonal
    known &= [[derivative(matrix, kind, s, t) is not None for t in range(6)] for s in range(6)]
    weights = known * np.random.default_rng(0).random((6, 6))
    groups = [
        sum(weights[s, t] * derivative(matrix, kind, s, t) for s in np.flatnonzero(known[:, t]))
        for t in np.flatnonzero(known.any(axis=0))
    ]
    expected = estimate(np.nansum(values * weights, axis=(1, 2)), groups)
    found = uncertainty.weighted(matrix, kind, weights)
    assert found.covers == "seeds and examples"
    np.testing.assert_allclose([found.low, found.high], [expected.low, expected.high], **EXACT)


def test_a_matrix_of_many_cells_takes_one_estimate_for_each_target(monkeypatch):
    matrix, calls = random_matrix(0, seeds=1, tasks=20), []
    stacks = []
    monkeypatch.setattr(uncertainty, "estimate", lambda *args: pytest.fail("an estimate of one cell"))

    def counted(*args):
        calls.append(args)
        return statistics.estimates(*args)

    monkeypatch.setattr(uncertainty, "estimates", counted)
    stack = np.stack
    monkeypatch.setattr(np, "stack", lambda *args, **kwargs: stacks.append(args) or stack(*args, **kwargs))
    uncertainty.marks(matrix, "untouched")
    sizes = {(t, len(scores)) for (_, _, t), scores in matrix.examples.items()}
    assert len(calls) <= len(sizes) + 20  # cells without examples are a group of their own
    stacked, before = len(stacks), len(calls)
    uncertainty.marks(matrix, "own")
    assert len(stacks) - stacked <= len(calls) - before  # the scores of the cells were stacked once
