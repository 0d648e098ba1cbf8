"""The limits on the reading of a transfer matrix, as sentences.

A matrix is anything with the attributes of `matrix.TransferMatrix`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from deltacompose.analysis.arrays import Floats


def limitations_of(matrix: Any, margin: float) -> Iterator[str]:
    """Warnings about the values of a matrix, one sentence each.

    Args:
        margin: by how much an own score has to exceed chance for a corrected value.
    """
    yield from _about_cells(matrix)
    yield from _about_targets(matrix, margin)


def _about_cells(matrix: Any) -> Iterator[str]:
    """Limitations that lie in single cells or in the size of the matrix."""
    if matrix.averaged_over is not None:
        runs = f"over {matrix.averaged_over} runs" if matrix.averaged_over else "over an unknown number of runs"
        if matrix.spread is None:
            yield f"each score is a published mean {runs}: the spread between training runs is not given"
        else:
            yield f"each score is a published mean {runs}, with the spread between them; single runs are not known"
    elif len(matrix.seeds) == 1:
        yield "one seed: nothing is known of the spread between training runs"
    if len(matrix.names) < 4:
        yield f"{len(matrix.names)} tasks: with fewer than 4 no correlation, ranking or permutation test shows anything"
    if only := [name for name in matrix.sources if name not in matrix.targets]:
        yield f"{shortened(only)}: sources but no targets, so they are in no ranking, correlation or asymmetry"
    missing = np.isnan(matrix.values) & ~matrix.failed
    if matrix.chance_of:
        yield "chance is the score of the random row, not that of a majority class"
    for state, where in (
        ("missing", missing),
        ("failed", matrix.failed),
        ("trivial (a constant answer)", matrix.trivial),
    ):
        if where.any():
            cells = [
                f"{matrix.sources[s]} → {matrix.targets[t]} (seed {matrix.seeds[k]})" for k, s, t in np.argwhere(where)
            ]
            yield f"{where.sum()} of {where.size} cells are {state}: {shortened(cells)}"


def _about_targets(matrix: Any, margin: float) -> Iterator[str]:
    """Limitations that concern a whole target."""
    trained = np.array([name in matrix.sources for name in matrix.targets])
    known = trained & ~np.isnan(matrix.own).all(axis=0)
    unscaled = known & ~(np.nan_to_num(matrix.own) > 0).any(axis=0)
    no_chance = np.isnan(matrix.chance)
    undefined = np.isnan(matrix._gain) & ~np.isnan(matrix.own) & ~no_chance
    left_out = np.array([name in matrix.left_out for name in matrix.targets])
    weak, partly = known & left_out & ~no_chance, undefined.any(axis=0) & ~left_out
    others = np.where(matrix.off_diagonal, matrix.mean(), np.nan)
    constant = np.array([_is_constant(column) for column in others.T])
    for where, sentence in (
        (~known, "no delta trained on them was evaluated on them, so relative and corrected values are undefined"),
        (unscaled, "their own score is not above zero, so the relative value is undefined"),
        (no_chance, "their chance score is unknown, so the corrected value is undefined"),
        (weak, f"their own score does not exceed chance by more than {margin}, so the corrected value is undefined"),
        (
            partly,
            f"in some seeds their own score does not exceed chance by more than {margin}: no corrected value there",
        ),
        (constant, "every other task's delta scores the same on them, so they rank nothing"),
    ):
        if where.any():
            yield f"{shortened([matrix.targets[t] for t in np.flatnonzero(where)])}: {sentence}"


def shortened(names: Sequence[str], most: int = 8) -> str:
    """The names in one line; past the first few, how many more there are.

    >>> shortened(["a", "b", "c", "d"], most=2)
    'a, b and 2 more'
    """
    rest = len(names) - most
    return ", ".join(names[:most]) + (f" and {rest} more" if rest > 0 else "")


def _is_constant(column: Floats) -> bool:
    """Whether at least two known scores are all equal."""
    known = column[~np.isnan(column)]
    return len(known) > 1 and bool((known == known[0]).all())
