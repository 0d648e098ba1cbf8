"""Null distribution for a stack of deltas: random directions with the same norms.

Deltas of unequal norms hold much of each other, and span few dimensions, whatever their directions are. Everything is
read off the inner products of the directions, so nothing costs their number of parameters.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping

import numpy as np

from deltacompose.analysis.arrays import Floats

Statistic = Callable[[Floats], float]
"""Statistics of a Gram matrix (tasks, tasks)."""

DRAWS = 200
LEAST_DRAWS = 40
_WORK = 4e9
"""Draws times the fourth power of the tasks: past it fewer draws are taken, never fewer than the least."""


def inner_products(norms: Floats, parameters: int, draws: int = DRAWS, seed: int = 0) -> Iterator[Floats]:
    """Gram matrices (tasks, tasks) of independent uniform directions in R^parameters that have these norms, exactly.

    The Gram matrix of N standard normal vectors in R^d is L Lᵀ with L lower triangular, L_ii² ~ χ²(d − i), i = 0, 1, …,
    and L_ij ~ N(0, 1) below (Bartlett 1933; N ≤ d); rows are then brought to their norms. More vectors than parameters
    are drawn as they are.
    """
    norms = np.asarray(norms, dtype=np.float64)
    generator, tasks = np.random.default_rng(seed), len(norms)
    for _ in range(draws):
        low = generator.standard_normal((tasks, min(tasks, parameters)))
        if tasks <= parameters:
            low = np.tril(low, -1) + np.diag(np.sqrt(generator.chisquare(parameters - np.arange(tasks))))
        low *= (norms / np.linalg.norm(low, axis=1))[:, None]
        yield low @ low.T


def null(
    statistics: Mapping[str, Statistic], norms: Floats, parameters: int, seed: int = 0
) -> dict[str, dict[str, float]]:
    """Mean, 5 % and 95 % quantile of each statistic of a Gram matrix when the directions are random."""
    grams = list(inner_products(norms, parameters, draws(len(norms)), seed))
    return {name: _described(np.array([of(gram) for gram in grams])) for name, of in statistics.items()}


def draws(tasks: int) -> int:
    """How many draws `null` takes for so many tasks."""
    return int(np.clip(_WORK / tasks**4, LEAST_DRAWS, DRAWS))


def _described(values: Floats) -> dict[str, float]:
    low, high = np.quantile(values, [0.05, 0.95])
    return {"mean": float(values.mean()), "q05": float(low), "q95": float(high)}
