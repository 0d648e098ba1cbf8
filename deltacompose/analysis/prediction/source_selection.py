"""Which tasks to start from: Taskonomy's ordinal normalisation, and choosing sources under a budget.

Zamir et al. 2018, Taskonomy (arXiv 1804.08328), sections 3.3 and 3.4.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
from scipy.optimize import Bounds, LinearConstraint, milp
from scipy.sparse import coo_array

from deltacompose.analysis.arrays import Floats
from deltacompose.analysis.matrix import TransferMatrix
from deltacompose.errors import BadInput, unknown

Way = Literal["auto", "all", "milp"]

ALL_UP_TO = 12
"""Up to so many sources every choice is looked at, 4096 of them."""
CLIP = 0.001


@dataclass(frozen=True)
class Choice:
    """Sources chosen under a budget, and which of them serves each target.

    Attributes:
        sources: rows of the matrix, ascending.
        serving: for each target its source, −1 for the untouched backbone.
        value: sum over targets of what serves them.
        gap: at most so much, relative to the value, is left to gain; 0 if the choice is the best one.
        way: how it was found.
    """

    sources: tuple[int, ...]
    serving: tuple[int, ...]
    value: float
    gap: float
    way: str


def win_rates(scores: Floats) -> Floats:
    """W_ij, the share of samples on which source i does better than source j, a tie counting half, (sources, sources).

    >>> scores = np.array([[0.9, 0.8, 0.7], [0.6, 0.8, 0.5]])
    >>> win_rates(scores).shape
    (2, 2)

    Args:
        scores: (sources, samples) on one target, a sample being an example or a seed; higher is better.
    """
    if scores.ndim != 2 or not scores.size or np.isnan(scores).any():
        raise BadInput(f"win rates need (sources, samples) without missing scores; found {scores.shape}")
    better = (scores[:, None] > scores[None]).mean(axis=2)
    return np.asarray(better + (scores[:, None] == scores[None]).mean(axis=2) / 2)


def ordinal(wins: Floats) -> tuple[Floats, float]:
    """The weights of the sources, summing to 1, and λ: principal eigenvector and eigenvalue of W' = W / Wᵀ.

    W is first clipped to [.001, .999]. A consistent W'_ij = w_i/w_j gives w back with λ = n; λ > n measures how far the
    wins contradict each other (Saaty 1987).

    Args:
        wins: W, (sources, sources), in 0 to 1.
    """
    if wins.ndim != 2 or wins.shape[0] != wins.shape[1] or not ((wins >= 0) & (wins <= 1)).all():
        raise BadInput(f"win rates are a square matrix of shares in 0 to 1; found shape {wins.shape}")
    clipped = np.clip(wins, CLIP, 1 - CLIP)
    return principal(clipped / clipped.T)


def principal(ratios: Floats) -> tuple[Floats, float]:
    """Principal eigenvector, summing to 1, and eigenvalue of a positive matrix (n, n)."""
    values, vectors = np.linalg.eig(ratios)
    first = int(np.argmax(values.real))
    vector = np.abs(vectors[:, first].real)
    return vector / vector.sum(), float(values[first].real)


def ordinal_affinity(matrix: TransferMatrix) -> Floats:
    """(sources, targets): for each target the ordinal weights of all its sources but itself; NaN for itself.

    Sources are compared example by example where the matrix holds every example's score, otherwise seed by seed.

    Raises:
        BadInput: fewer than two sources for a target, scores that are missing, or a single one of each source.
    """
    affinity = np.full((len(matrix.sources), len(matrix.targets)), np.nan)
    for t, target in enumerate(matrix.targets):
        others = [s for s, source in enumerate(matrix.sources) if source != target]
        if len(others) < 2:
            raise BadInput(f"target {target!r} has {len(others)} sources other than itself; ranking needs at least 2")
        affinity[others, t], _ = ordinal(win_rates(_samples(matrix, others, t)))
    return affinity


def choose(
    gains: Floats, budget: int, untouched: Floats | None = None, way: str = "auto", seconds: float = 60.0
) -> Choice:
    """At most `budget` sources, so that the sum over targets of the best chosen source's gain is greatest.

    >>> gains = np.array([[1.0, 0.2, 0.9], [0.1, 1.0, 0.2], [0.3, 0.4, 1.0]])
    >>> choice = choose(gains, budget=2)
    >>> choice.sources, choice.serving, round(choice.value, 2)
    ((0, 1), (0, 1, 0), 2.9)

    Args:
        gains: (sources, targets), higher is better; NaN where that source may not serve that target (itself, say).
        budget: how many sources may be trained.
        untouched: (targets,), what a target has without any source; without it every target needs one.
        way: `all` looks at every choice, `milp` solves a mixed-integer program (facility location) with scipy, `auto`
            takes the first for up to 12 sources.
        seconds: limit for `milp`; what may be left to gain is then the choice's `gap`.

    Raises:
        BadInput: a budget out of range, or targets that no choice serves.
    """
    if way not in get_args(Way):
        raise unknown("way", way, get_args(Way))
    sources, _ = gains.shape
    if not 1 <= budget <= sources:
        raise BadInput(f"a budget of {budget} of {sources} sources; it must be between 1 and {sources}")
    if np.isinf(gains).any():
        raise BadInput("the gains hold infinite values; a source that may not serve a target has NaN")
    served = with_untouched(gains, untouched)
    for target in np.flatnonzero(np.isneginf(served).all(axis=0)):
        raise BadInput(f"no source may serve target number {target}, and there is no untouched score for it")
    if way == "all" or (way == "auto" and sources <= ALL_UP_TO):
        return _best_of_all(served, budget)
    return _by_program(served, budget, seconds)


def with_untouched(gains: Floats, untouched: Floats | None) -> Floats:
    """(1 + sources, targets): the untouched backbone as a first row that is always chosen; −∞ where none may serve."""
    first = np.full(gains.shape[1], np.nan) if untouched is None else np.asarray(untouched, dtype=np.float64)
    if first.shape != (gains.shape[1],):
        raise BadInput(f"untouched scores of shape {first.shape} for {gains.shape[1]} targets")
    rows = np.vstack([first, gains])
    return np.where(np.isnan(rows), -np.inf, rows)


def _samples(matrix: TransferMatrix, sources: list[int], target: int) -> Floats:
    """(sources, samples) of one target."""
    keys = [[(seed, matrix.sources[s], matrix.targets[target]) for seed in matrix.seeds] for s in sources]
    if all(key in matrix.examples for row in keys for key in row):
        return np.stack([np.concatenate([matrix.examples[key] for key in row]) for row in keys])
    if len(matrix.seeds) < 2:
        raise BadInput(
            f"one score of each source on {matrix.targets[target]}; how often one does better than another takes "
            "several seeds, or the scores of every example"
        )
    return matrix.values[:, sources, target].T


def _chosen(served: Floats, sources: tuple[int, ...], gap: float, way: str) -> Choice:
    rows = np.array([0, *(source + 1 for source in sources)])
    best = rows[served[rows].argmax(axis=0)]
    value = float(served[best, np.arange(served.shape[1])].sum())
    return Choice(sources, tuple(int(row) - 1 for row in best), value, gap, way)


def _best_of_all(served: Floats, budget: int) -> Choice:
    choices = itertools.chain.from_iterable(
        itertools.combinations(range(len(served) - 1), size) for size in range(1, budget + 1)
    )
    best = max((_chosen(served, choice, 0.0, "all") for choice in choices), key=lambda choice: choice.value)
    if np.isneginf(best.value):
        raise BadInput(f"no choice of at most {budget} sources serves every target")
    return best


def _by_program(served: Floats, budget: int, seconds: float) -> Choice:
    """Variables x_s, then y_st in row order: max Σ g y with Σ_s y_st = 1, y_st ≤ x_s, Σ x ≤ budget, x_0 = 1."""
    rows, targets = served.shape
    allowed = np.isfinite(served)
    cost = np.concatenate([np.zeros(rows), np.where(allowed, -served, 0.0).ravel()])
    upper = np.concatenate([np.ones(rows), allowed.ravel().astype(float)])
    lower = np.concatenate([[1.0], np.zeros(len(cost) - 1)])
    integral = np.concatenate([np.ones(rows), np.zeros(rows * targets)])
    solution = milp(
        cost,
        integrality=integral,
        bounds=Bounds(lower, upper),
        constraints=_constraints(rows, targets, budget),
        options={"time_limit": seconds},
    )
    if solution.x is None:
        raise BadInput(f"no choice of at most {budget} sources was found that serves every target: {solution.message}")
    sources = tuple(int(row) - 1 for row in np.flatnonzero(solution.x[:rows] > 0.5) if row > 0)
    return _chosen(served, sources, float(solution.mip_gap or 0.0), "milp")


def _constraints(rows: int, targets: int, budget: int) -> list[LinearConstraint]:
    pairs = rows * targets
    y = rows + np.arange(pairs)
    of_target = coo_array((np.ones(pairs), (np.tile(np.arange(targets), rows), y)), shape=(targets, rows + pairs))
    line = np.arange(pairs)
    values = np.concatenate([np.ones(pairs), -np.ones(pairs)])
    columns = np.concatenate([y, np.repeat(np.arange(rows), targets)])
    opened = coo_array((values, (np.concatenate([line, line]), columns)), shape=(pairs, rows + pairs))
    spent = coo_array((np.ones(rows - 1), (np.zeros(rows - 1, dtype=int), np.arange(1, rows))), shape=(1, rows + pairs))
    return [
        LinearConstraint(of_target.tocsr(), 1, 1),
        LinearConstraint(opened.tocsr(), -np.inf, 0),
        LinearConstraint(spent.tocsr(), 0, budget),
    ]
