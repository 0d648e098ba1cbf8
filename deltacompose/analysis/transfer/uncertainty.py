"""Intervals and marks for what is read off a transfer matrix: single cells, and weighted sums of cells."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

from deltacompose.analysis.arrays import Bools, Floats
from deltacompose.analysis.labelled import dataset, tidy
from deltacompose.analysis.matrix import TransferMatrix
from deltacompose.analysis.statistics import Estimate, Estimates, adjusted, estimate, estimates
from deltacompose.errors import BadInput, unknown

if TYPE_CHECKING:
    import pandas as pd
    import xarray

Kind = Literal["raw", "relative", "corrected", "lift"]
Against = Literal["untouched", "chance", "random", "own"]
KINDS = ("raw", "relative", "corrected", "lift")
REFERENCE_LEVELS = ("untouched", "chance", "random", "own")


def values_of(matrix: TransferMatrix, kind: Kind) -> Floats:
    """(seeds, sources, targets): raw scores, relative or corrected ones, or their lift over the untouched backbone."""
    if kind not in KINDS:
        raise unknown("kind", kind, KINDS)
    values = {"relative": matrix.relative, "corrected": matrix.corrected, "lift": matrix.lift}
    return values[kind]() if kind in values else matrix.values


def weighted(matrix: TransferMatrix, kind: Kind, weights: Floats) -> Estimate:
    """Σ w(s, t) · value(s, t), with the interval of `statistics.estimate` for new seeds and new test examples.

    Per-example scores enter through the sum's derivative by each example of a target, own or untouched score included:
    the target's examples are shared by all its sources and by what they are measured against, so their errors do not
    cancel. `covers` speaks of examples only if those of every target in the sum are known.

    Args:
        weights: (sources, targets); where they are not zero, the value must be known in every seed.
    """
    used = weights != 0
    values = values_of(matrix, kind)
    if np.isnan(values[:, used]).any() or not used.any():
        raise BadInput("a weighted mean of cells needs at least one cell, each known in every seed")
    per_seed = (np.where(used, values, 0.0) * weights).sum(axis=(1, 2))
    groups = [influence(matrix, kind, weights[:, t], int(t)) for t in np.flatnonzero(used.any(axis=0))]
    known = [group for group in groups if group is not None]
    return estimate(per_seed, known if len(known) == len(groups) else ())


def influence(matrix: TransferMatrix, kind: Kind, weights: Floats, t: int) -> Floats | None:
    """(seeds, examples): the derivative of one target's share of the sum by its examples; None where unknown."""
    own, target, used = matrix.own[:, t], matrix.targets[t], np.flatnonzero(weights)
    ratio, floor = kind in ("relative", "corrected"), matrix.chance[t] if kind == "corrected" else 0.0
    scale = own - floor if ratio else np.ones_like(own)
    known = [matrix.example_scores.get((matrix.sources[s], target)) for s in used]
    scores = [each for each in known if each is not None]
    if not scores or len(scores) < len(known) or len({each.shape for each in scores}) > 1:
        return None
    total: Floats = np.tensordot(weights[used], np.stack(scores), axes=1) / scale[:, None]
    against = {"relative": target, "corrected": target, "lift": "untouched"}.get(kind)
    if against is None:
        return total
    base = matrix.example_scores.get((against, target))
    if base is None or base.shape != total.shape:
        return None
    through_base = (matrix.values[:, used, t] - floor) @ weights[used] / scale**2 if ratio else weights[used].sum()
    return total - np.broadcast_to(through_base, len(own))[:, None] * base


def complete(matrix: TransferMatrix, kind: Kind) -> Bools:
    """(sources, targets): off-diagonal cells whose value is known in every seed."""
    known: Bools = ~np.isnan(values_of(matrix, kind)).any(axis=0) & matrix.off_diagonal
    return known


def intervals(matrix: TransferMatrix, kind: Kind) -> tuple[Floats, Floats]:
    """Lower and upper ends (sources, targets) of each cell's 95 % interval; NaN where a seed is missing."""
    low, high = np.full((2, len(matrix.sources), len(matrix.targets)), np.nan)
    values = values_of(matrix, kind)
    single = np.eye(len(matrix.sources))
    for t in range(len(matrix.targets)):
        known = np.flatnonzero(~np.isnan(values[:, :, t]).any(axis=0))
        derivatives = [influence(matrix, kind, single[s], t) for s in known]
        for rows, cells in _alike(known, values[:, known, t].T, derivatives):
            low[rows, t], high[rows, t] = cells.low, cells.high
    return low, high


def _alike(
    rows: NDArray[np.intp], per_seed: Floats, derivatives: Sequence[Floats | None]
) -> Iterator[tuple[NDArray[np.intp], Estimates]]:
    """The estimates of a target's cells, those with equally many examples at once: the rows and their estimates.

    Args:
        rows: (cells,) where the cells stand.
        per_seed: (cells, seeds) the values.
        derivatives: of each cell (seeds, examples), None without examples.
    """
    groups: dict[int, list[int]] = {}
    for place, derivative in enumerate(derivatives):
        groups.setdefault(0 if derivative is None else derivative.shape[1], []).append(place)
    for size, places in groups.items():
        stacked = np.stack([each for place in places if (each := derivatives[place]) is not None]) if size else None
        yield rows[places], estimates(per_seed[places], stacked)


@dataclass(frozen=True, eq=False)
class Marks:
    """Which cells differ from a level of reference, with the false discovery rate held at q over the whole matrix.

    All arrays are (sources, targets): difference, its 95 % interval, p-value (two-sided), Benjamini–Hochberg and
    Benjamini–Yekutieli adjusted p-values, and the marks of both. Diagonal cells are tested only in `difference` and its
    interval: they are not transfer, and their sure discoveries would loosen the bar for the others.

    Figures show `by`. The p-values are Student's t, which takes the luck of seeds as normal: where it is skewed, `bh`
    exceeds its rate in simulated nulls (`python studies/interval_coverage.py discoveries`). Against chance,
    which has no examples of its own to pair with, neither rule holds its rate where luck is skewed.
    """

    against: str
    q: float
    difference: Floats
    low: Floats
    high: Floats
    p: Floats
    bh: Bools
    by: Bools
    covers: tuple[str, ...]
    sources: tuple[str, ...]
    targets: tuple[str, ...]

    def to_pandas(self) -> pd.DataFrame:
        """One row per source and target: difference, interval, p and both marks."""
        return tidy(self._arrays(), self._names())

    def to_xarray(self) -> xarray.Dataset:
        """The arrays with names along their axes.

        Raises:
            BadInput: xarray is not installed.
        """
        return dataset(self._arrays(), self._names())

    def _names(self) -> dict[str, tuple[str, ...]]:
        return {"source": self.sources, "target": self.targets}

    def _arrays(self) -> dict[str, tuple[tuple[str, ...], Any]]:
        names = ("difference", "low", "high", "p", "bh", "by")
        return {name: (("source", "target"), getattr(self, name)) for name in names}


def marks(matrix: TransferMatrix, against: Against = "untouched", q: float = 0.05) -> Marks:
    """Test each cell's score against the untouched backbone, chance, random deltas, or the target's own delta.

    The difference is paired: by example where both sides' per-example scores are known, by seed where both have seeds.
    `covers` names what the intervals account for, over all cells.

    >>> marks(matrix, "untouched").bh.shape
    (4, 4)

    Raises:
        BadInput: an unknown level, a q outside (0, 1), or a matrix of which no cell can be tested.
    """
    if against not in REFERENCE_LEVELS:
        raise unknown("level", against, REFERENCE_LEVELS)
    if not 0 < q < 1:
        raise BadInput(f"q={q!r}: a false discovery rate lies between 0 and 1")
    shape = (len(matrix.sources), len(matrix.targets))
    difference, low, high, p = np.full((4, *shape), np.nan)
    covers: set[str] = set()
    off_diagonal = matrix.off_diagonal
    for rows, t, cells in _differences(matrix, against):
        difference[rows, t], low[rows, t], high[rows, t] = cells.value, cells.low, cells.high
        p[rows, t] = np.where(off_diagonal[rows, t], cells.p, np.nan)
        covers.update(cover for s, cover in zip(rows, cells.covers, strict=True) if off_diagonal[s, t])
    if np.isnan(p).all():
        raise BadInput(f"no cell can be tested against {against}: it needs two seeds, or per-example scores")
    bh, by = (np.nan_to_num(adjusted(p, dependent), nan=1.0) <= q for dependent in (False, True))
    return Marks(against, q, difference, low, high, p, bh, by, tuple(sorted(covers)), matrix.sources, matrix.targets)


def own_differences(matrix: TransferMatrix, against: Against) -> dict[str, Estimate]:
    """A(t → t) minus the level of reference, for every task whose own score and level are known in every seed."""
    return {matrix.targets[t]: cells.cell(0) for _, t, cells in _differences(matrix, against, ~matrix.off_diagonal)}


def can_be_tested(matrix: TransferMatrix, against: Against) -> bool:
    """Whether `marks` would find a cell to test."""
    if len(matrix.seeds) < 2 and not matrix.examples:
        return False
    return any(not np.isnan(cells.p).all() for _, _, cells in _differences(matrix, against, matrix.off_diagonal))


def _differences(
    matrix: TransferMatrix, against: Against, wanted: Bools | None = None
) -> Iterator[tuple[NDArray[np.intp], int, Estimates]]:
    """Differences from the level, of cells where it is known in every seed: sources, a target, their estimates.

    Args:
        wanted: (sources, targets) the cells to estimate; all if None.
    """
    gap = matrix.values - _level(matrix, against)[:, None, :]
    known: Bools = np.asarray(~np.isnan(gap).any(axis=0))
    if wanted is not None:
        known = known & wanted
    for t in np.flatnonzero(known.any(axis=0)).tolist():
        rows, other = np.flatnonzero(known[:, t]), _level_examples(matrix, against, t)
        scores = [matrix.example_scores.get((matrix.sources[s], matrix.targets[t])) for s in rows]
        # Without pairs the examples say nothing of the difference, and the interval is of seeds alone.
        paired = [
            None if each is None or other is None or other.shape not in ((), each.shape) else each - other
            for each in scores
        ]
        yield from ((at, t, cells) for at, cells in _alike(rows, gap[:, rows, t].T, paired))


def _level(matrix: TransferMatrix, against: Against) -> Floats:
    """(seeds, targets): what is compared with."""
    whole = np.ones((len(matrix.seeds), 1))
    levels: dict[Against, Floats] = {
        "own": matrix.own,
        "random": matrix.random,
        "untouched": whole * matrix.untouched,
        "chance": whole * matrix.chance,
    }
    return levels[against]


def _level_examples(matrix: TransferMatrix, against: Against, t: int) -> Floats | None:
    """(seeds, examples), or one number where the level has no examples of its own; None where they are unknown."""
    target = matrix.targets[t]
    if against == "own":
        return matrix.example_scores.get((target, target))
    if against == "untouched":
        return matrix.example_scores.get(("untouched", target))
    return np.array(0.0)
