"""Permutation tests: of matrices over the same tasks, of labels, of blocks of repeated measures.

Where there are few arrangements a test goes through all of them, and its p-value is exact.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from deltacompose.analysis.arrays import Bools, Floats
from deltacompose.errors import BadInput

Indices = NDArray[np.intp]
PERMUTATIONS = 9999
ENUMERATED = 50_000
"""Up to so many arrangements a permutation test goes through all of them."""
RELABELLED = 20_000
"""Up to so many relabellings of blocks are enumerated."""
SMALL = 7
"""Up to that many things every order is taken, 5040 of them."""


# -- matrices against matrices -----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class PermutationTest:
    """A statistic with the share of arrangements that reach it: p = (1 + #)/(1 + B), or # over all if exact."""

    statistic: float
    p: float
    least_p: float
    arrangements: int
    exact: bool
    null_range: tuple[float, float] = (float("nan"), float("nan"))
    """The 5 % and 95 % quantiles of the statistic over the arrangements."""


def mantel(x: Floats, y: Floats, permutations: int = PERMUTATIONS, seed: int = 0) -> PermutationTest:
    """Pearson correlation of the upper triangles of two symmetric matrices, one-sided (greater).

    Rows and columns are permuted together (Mantel 1967); all permutations where there are few. Diagonals take no part.

    >>> distances = np.array([[0, 1, 5, 6], [1, 0, 4, 5], [5, 4, 0, 2], [6, 5, 2, 0]], float)
    >>> result = mantel(distances, distances**2)
    >>> round(result.statistic, 3), round(result.p, 3), result.exact
    (0.984, 0.042, True)

    Raises:
        BadInput: matrices that are not square, symmetric, of one shape, or constant off the diagonal.
    """
    for matrix in (x, y):
        if not np.allclose(matrix, matrix.T, equal_nan=True):
            raise BadInput("Mantel's test is for symmetric matrices; use the QAP test for a directed one")
    return _matrix_test(x, y, np.triu(np.ones(x.shape, dtype=bool), 1), permutations, seed)


def qap(x: Floats, y: Floats, permutations: int = PERMUTATIONS, seed: int = 0) -> PermutationTest:
    """As `mantel`, for directed matrices: all off-diagonal cells (Hubert 1987, quadratic assignment).

    >>> directed = np.array([[0, 1, 2, 3], [2, 0, 1, 4], [5, 2, 0, 1], [4, 4, 2, 0]], float)
    >>> round(qap(directed, directed + 1).statistic, 3)
    1.0
    """
    return _matrix_test(x, y, ~np.eye(len(x), dtype=bool), permutations, seed)


def _matrix_test(x: Floats, y: Floats, where: Bools, permutations: int, seed: int) -> PermutationTest:
    """x is permuted over y; cells that y lacks take no part, x must be complete."""
    if x.ndim != 2 or x.shape != y.shape or x.shape[0] != x.shape[1]:
        raise BadInput(f"two square matrices over the same tasks are compared, found shapes {x.shape} and {y.shape}")
    if len(x) < 3:
        raise BadInput(f"{len(x)} tasks: comparing two matrices needs at least 3")
    if np.isnan(x[~np.eye(len(x), dtype=bool)]).any():
        raise BadInput("the first matrix has unknown cells off the diagonal; only the second may have some")
    rows, columns = np.nonzero(where & ~np.isnan(y))
    if len(rows) < 2 or np.ptp(y[rows, columns]) == 0 or np.ptp(x[where]) == 0:
        raise BadInput("a matrix that is constant off the diagonal correlates with nothing")
    target = y[rows, columns] - y[rows, columns].mean()
    observed = _correlations(x, np.arange(len(x))[None], rows, columns, target)[0]
    orders, exact = permuted_orders(len(x), permutations, seed)
    null = np.concatenate([_correlations(x, order, rows, columns, target) for order in orders])
    return against(observed, null, exact, least=1 / math.factorial(len(x)))


def _correlations(x: Floats, orders: Indices, rows: Indices, columns: Indices, target: Floats) -> Floats:
    """(orders,): Pearson of the permuted x with the centred target; constant choices of x correlate with nothing."""
    chosen = x[orders[:, rows], orders[:, columns]]
    chosen = chosen - chosen.mean(axis=1, keepdims=True)
    norms = np.linalg.norm(chosen, axis=1) * np.linalg.norm(target)
    result: Floats = np.divide(chosen @ target, norms, out=np.zeros(len(orders)), where=norms > 0)
    return result


def permuted_orders(n: int, permutations: int, seed: int) -> tuple[Iterator[Indices], bool]:
    """Permutations of n things in blocks: all of them where they are few enough, else random ones."""
    if math.factorial(n) <= ENUMERATED:
        return iter([np.array(list(itertools.permutations(range(n))))]), True
    generator, block = np.random.default_rng(seed), 500
    sizes = [min(block, permutations - start) for start in range(0, permutations, block)]
    return (generator.permuted(np.tile(np.arange(n), (size, 1)), axis=1) for size in sizes), False


def against(observed: float, null: Floats, exact: bool, least: float) -> PermutationTest:
    """The p-value of an observed statistic; rounding must not tell apart arrangements that are equal.

    `least` bounds the attainable p where not all arrangements are seen.
    """
    low, high = np.quantile(null, [0.05, 0.95])
    between = (float(low), float(high))
    slack = 1e-12 * max(1.0, abs(observed))
    reached = int((null >= observed - slack).sum())
    if exact:
        most = int((null >= null.max() - slack).sum())
        return PermutationTest(float(observed), reached / len(null), most / len(null), len(null), True, between)
    least = max(least, 1 / (1 + len(null)))
    p = max((1 + reached) / (1 + len(null)), least)
    return PermutationTest(float(observed), p, least, len(null), False, between)


def label_test(
    values: Floats,
    labels: Sequence[str],
    places: tuple[Indices, Indices],
    permutations: int = PERMUTATIONS,
    seed: int = 0,
) -> PermutationTest:
    """Mean over cells whose ends share a label, minus the mean over the others; labels are permuted over the tasks.

    Args:
        values: (cells,) known values of off-diagonal cells.
        labels: (tasks,) the label of each task.
        places: two arrays (cells,): the task at either end of each cell.

    `least_p` is the smallest p that these labels can give: as many arrangements as leave the same tasks together, over
    all arrangements.

    Raises:
        BadInput: no two tasks share a label, or all do.
    """
    codes = np.unique(np.asarray(labels), return_inverse=True)[1]
    counts = np.bincount(codes)
    arrangements = math.factorial(len(codes)) // math.prod(math.factorial(int(count)) for count in counts)
    alike = math.prod(math.factorial(int(times)) for times in np.bincount(counts))
    observed = _contrast(values, codes[None], places)[0]
    if np.isnan(observed):
        raise BadInput(
            "no known cell joins two tasks of one category, or none joins two categories: nothing to compare"
        )
    exact = arrangements <= ENUMERATED
    if exact:
        orders = np.array(list(_arrangements(counts.tolist())))
    else:
        orders = np.random.default_rng(seed).permuted(np.tile(codes, (permutations, 1)), axis=1)
    null = np.concatenate(
        [_contrast(values, block, places) for block in np.array_split(orders, len(orders) // 500 + 1)]
    )
    return against(observed, null[~np.isnan(null)], exact, alike / arrangements)


def _contrast(values: Floats, labels: Indices, places: tuple[Indices, Indices]) -> Floats:
    """(labellings,): mean within labels minus mean across; NaN where one of the two is empty."""
    # A row per task, in the smallest type: taking whole rows copies memory, taking columns one cell after the other.
    by_task = np.ascontiguousarray(labels.T.astype(np.min_scalar_type(int(labels.max(initial=0)))))
    same = (by_task[places[0]] == by_task[places[1]]).astype(float)
    within, sums = np.stack([np.ones_like(values), values]) @ same
    across, whole = len(values) - within, values.sum()
    defined = (within > 0) & (across > 0)
    difference = sums / np.maximum(within, 1) - (whole - sums) / np.maximum(across, 1)
    return np.where(defined, difference, np.nan)


def _arrangements(counts: list[int]) -> Iterator[list[int]]:
    """Every distinct order of labels that occur so often."""
    if not any(counts):
        yield []
    for label, count in enumerate(counts):
        if count:
            rest = [*counts[:label], count - 1, *counts[label + 1 :]]
            yield from ([label, *others] for others in _arrangements(rest))


# -- blocks of repeated measures ---------------------------------------------------------------------------------------


def relabelling_test(blocks: Floats, rounds: int = 9999, seed: int = 0) -> dict[str, float | int | bool] | None:
    """The p of a spread between the orders' means as large as found, when orders are relabelled within each block.

    All relabellings are enumerated where there are at most 20 000 (the first block's stays: relabelling every block
    alike changes nothing); otherwise `rounds` are drawn and p = (1 + #) / (1 + rounds).

    >>> blocks = np.array([[0.7, 0.8], [0.6, 0.7], [0.5, 0.9], [0.6, 0.8]])
    >>> relabelling_test(blocks)["p"]
    0.125

    Returns:
        `p`, whether it is `exact`, how many `relabellings`, how many `blocks`; None for one order or one block.
    """
    count, orders = blocks.shape
    if count < 2 or orders < 2:
        return None
    centred = blocks - blocks.mean(axis=1, keepdims=True)
    exact = math.factorial(orders) ** (count - 1) <= RELABELLED
    sums = _every(centred) if exact else _drawn(centred, rounds, np.random.default_rng(seed))
    statistic = float((centred.sum(axis=0) ** 2).sum())
    as_large = int(((sums**2).sum(axis=1) >= statistic - 1e-9 * max(statistic, 1e-9)).sum())
    p = as_large / len(sums) if exact else (1 + as_large) / (1 + rounds)
    return {"p": p, "exact": exact, "relabellings": len(sums), "blocks": count}


def _every(centred: Floats) -> Floats:
    """The orders' sums (relabellings, orders) under every relabelling of all blocks but the first."""
    ways = [[np.array(row)[list(p)] for p in itertools.permutations(range(len(row)))] for row in centred[1:]]
    return np.array([centred[0] + np.sum(rows, axis=0) for rows in itertools.product(*ways)])


def _drawn(centred: Floats, rounds: int, random: np.random.Generator) -> Floats:
    sums = np.zeros((rounds, centred.shape[1]))
    for row in centred:
        sums += random.permuted(np.tile(row, (rounds, 1)), axis=1)
    return sums


# -- orders -----------------------------------------------------------------------------------------------------------


def orders_with_identity(tasks: int, permutations: int, seed: int) -> Indices:
    """(permutations, tasks): every order of few tasks; else the given one and `permutations` at random."""
    if tasks <= SMALL:
        return np.array(list(itertools.permutations(range(tasks))))
    generator = np.random.default_rng(seed)
    shuffled = generator.permuted(np.tile(np.arange(tasks), (permutations, 1)), axis=1)
    return np.concatenate([np.arange(tasks)[None], shuffled])
