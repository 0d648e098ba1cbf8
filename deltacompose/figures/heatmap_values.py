"""Values of a transfer heatmap: numbers in one unit, and for every cell without a number the reason."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.cluster import hierarchy

from deltacompose.analysis.arrays import Bools, Floats
from deltacompose.analysis.matrix import TransferMatrix, mean_over_seeds
from deltacompose.analysis.transfer.uncertainty import Marks
from deltacompose.analysis.units import SIGNED, UNITS, baselines, check_chance, deviation, in_unit, ordered
from deltacompose.errors import BadInput, unknown
from deltacompose.figures.rounding import number

ORDERS = ("category", "cluster", "given")


@dataclass(frozen=True, eq=False)
class Cells:
    """A transfer matrix as it is shown: rows are sources, columns targets, both in the order they are drawn.

    Attributes:
        unit: a key of `UNITS`.
        seeds: how many seeds the matrix has.
        mean, sd: (sources, targets), over the seeds with a value; the sd is NaN where fewer than two have one, and
            where the value is 1 by definition.
        count: (sources, targets), seeds with a value.
        missing, failed, undefined, unowned: (sources, targets), why a cell has no mean: not run, failed, run but
            without a value in this unit, or run but the target's own score, which the unit needs, is not known.
        trivial: (sources, targets), the answer was constant in at least one seed.
        marked: (sources, targets), what the caller wants marked, and `mark`, what the mark says.
        baselines: (targets,) for each of `references`, in the same unit, NaN where unknown or undefined.
        unscaled: (baselines, targets), which of those are known as scores but undefined in this unit, and `unrated`,
            which lack the target's own score.
        absent: rows of reference that are left out because no score of theirs is known.
        label: what the numbers are; by default that of the unit.
        spread_of: what `sd` is.
        zero: whether zero is neutral, so that colours diverge from it and signs are printed.
    """

    unit: str
    sources: tuple[str, ...]
    targets: tuple[str, ...]
    seeds: int
    mean: Floats
    sd: Floats
    count: NDArray[np.int64]
    missing: Bools
    failed: Bools
    undefined: Bools
    unowned: Bools
    trivial: Bools
    marked: Bools
    mark: str
    baselines: dict[str, Floats]
    unscaled: Bools
    unrated: Bools
    absent: tuple[str, ...] = ()
    label: str = ""
    spread_of: str = "sd over seeds"
    zero: bool | None = None

    @property
    def signed(self) -> bool:
        """Whether zero is neutral."""
        return self.unit in SIGNED if self.zero is None else self.zero

    @property
    def axis_label(self) -> str:
        """Label of the colour scale."""
        return self.label or UNITS.get(self.unit, self.unit)

    @property
    def partial(self) -> Bools:
        """(sources, targets): cells whose mean is over fewer seeds than the matrix has."""
        return (self.count > 0) & (self.count < self.seeds)

    @property
    def spread(self) -> tuple[float, float] | None:
        """Median and largest standard deviation over seeds; nothing where no cell has two seeds."""
        known = self.sd[~np.isnan(self.sd)]
        return (float(np.median(known)), float(known.max())) if known.size else None


def cells(matrix: TransferMatrix, unit: str, order: str = "category", marks: Marks | Bools | None = None) -> Cells:
    """The cells of a heatmap.

    Args:
        unit: `score`, `relative`, `corrected` or `lift`.
        order: `category` puts tasks in blocks, `cluster` puts tasks next to those they resemble as source and target,
            `given` keeps the order of the matrix, which is that of the study.
        marks: what `uncertainty.marks` found, of which the Benjamini–Yekutieli marks are shown; or (sources, targets)
            of the cells to mark.

    Raises:
        BadInput: unknown unit or order; a relative or corrected performance without the chance level it needs; marks of
            another shape.
    """
    if unit not in UNITS:
        raise unknown("heatmap value", unit, UNITS)
    check_chance(matrix, unit)
    shape = (len(matrix.sources), len(matrix.targets))
    where, mark = (
        (marks.by, f"≠ {marks.against}, BY q = {number(marks.q)}")
        if isinstance(marks, Marks)
        else (marks, "significant")
    )
    marked = np.zeros(shape, dtype=bool) if where is None else np.asarray(where, dtype=bool)
    if marked.shape != shape:
        raise BadInput(f"marks have shape {marked.shape}, expected (sources, targets) = {shape}")
    values = in_unit(matrix, unit, matrix.values)
    known, shown = ~np.isnan(matrix.values), ~np.isnan(values)
    rows, columns = _order(matrix, order, mean_over_seeds(values))
    pick = np.ix_(rows, columns)
    levels, raw = baselines(matrix, unit), baselines(matrix, "score")
    absent = tuple(name for name, level in raw.items() if np.isnan(level).all())
    levels = {name: level for name, level in levels.items() if name not in absent}
    unowned = np.full(len(matrix.targets), unit in ("relative", "corrected")) & np.isnan(matrix.own).all(axis=0)
    valueless = np.array([np.isnan(level) & ~np.isnan(raw[name]) for name, level in levels.items()], dtype=bool)
    valueless = valueless.reshape(len(levels), len(matrix.targets))
    ran, failed, constant = (where.sum(axis=0) > 0 for where in (known, matrix.failed, matrix.trivial & known))
    return Cells(
        unit=unit,
        sources=tuple(matrix.sources[i] for i in rows),
        targets=tuple(matrix.targets[j] for j in columns),
        seeds=len(matrix.seeds),
        mean=mean_over_seeds(values)[pick],
        sd=_spread(matrix, unit, values)[pick],
        count=shown.sum(axis=0)[pick],
        missing=(~ran & ~failed)[pick],
        failed=(~ran & failed)[pick],
        undefined=(ran & (shown.sum(axis=0) == 0) & ~unowned)[pick],
        unowned=(ran & unowned)[pick],
        trivial=constant[pick],
        marked=marked[pick],
        mark=mark,
        baselines={name: row[columns] for name, row in levels.items()},
        unscaled=(valueless & ~unowned)[:, columns],
        unrated=(valueless & unowned)[:, columns],
        absent=absent,
    )


def plain_cells(
    sources: tuple[str, ...],
    targets: tuple[str, ...],
    mean: Floats,
    unit: str,
    *,
    sd: Floats | None = None,
    marked: Bools | None = None,
    mark: str = "",
    zero: bool = False,
    label: str = "",
    spread_of: str = "",
    seeds: int = 1,
) -> Cells:
    """The cells of any named matrix (sources, targets), such as a similarity or a difference, without reference rows.

    Cells that are NaN are missing.
    """
    nothing = np.zeros(mean.shape, dtype=bool)
    return Cells(
        unit=unit,
        sources=sources,
        targets=targets,
        seeds=seeds,
        mean=mean,
        sd=np.full(mean.shape, np.nan) if sd is None else sd,
        count=np.where(np.isnan(mean), 0, seeds),
        missing=np.isnan(mean),
        failed=nothing,
        undefined=nothing,
        unowned=nothing,
        trivial=nothing,
        marked=nothing if marked is None else marked,
        mark=mark,
        baselines={},
        unscaled=np.zeros((0, len(targets)), dtype=bool),
        unrated=np.zeros((0, len(targets)), dtype=bool),
        label=label,
        spread_of=spread_of,
        zero=zero,
    )


def _spread(matrix: TransferMatrix, unit: str, values: Floats) -> Floats:
    """(sources, targets): deviation over seeds; not of a task's ratio to itself, which is 1 whatever the spread.

    A spread that was published with the means holds for scores, and for their lift over a level without spread; that of
    a ratio is not known from it.
    """
    if matrix.spread is not None:
        return matrix.spread if unit in ("score", "lift") else np.full(matrix.spread.shape, np.nan)
    spread = deviation(values)
    return np.where(matrix.off_diagonal, spread, np.nan) if unit in ("relative", "corrected") else spread


def _order(matrix: TransferMatrix, order: str, means: Floats) -> tuple[list[int], list[int]]:
    """In which order rows and columns stand: tasks that are both source and target stand alike on both axes."""
    if order not in ORDERS:
        raise unknown("order", order, ORDERS)
    if order == "given":
        return list(range(len(matrix.sources))), list(range(len(matrix.targets)))
    tasks = list(matrix.tasks)
    if order == "cluster" and len(tasks) > 2:
        tasks = _clustered(matrix, tasks, means)
        rows = [*tasks, *(name for name in matrix.sources if name not in tasks)]
        columns = [*tasks, *(name for name in matrix.targets if name not in tasks)]
    else:
        rows, columns = (ordered(names, matrix.categories) for names in (matrix.sources, matrix.targets))
    return [matrix.sources.index(name) for name in rows], [matrix.targets.index(name) for name in columns]


def _clustered(matrix: TransferMatrix, tasks: list[str], means: Floats) -> list[str]:
    """Tasks by average linkage of their rows and columns taken together."""
    inner = means[np.ix_([matrix.sources.index(t) for t in tasks], [matrix.targets.index(t) for t in tasks])]
    return [tasks[i] for i in hierarchy.leaves_list(linkage_of(profiles_of(inner)))]


def profiles_of(inner: Floats) -> Floats:
    """(tasks, 2 · tasks): rows and columns of a square matrix side by side, missing cells at their column's mean."""
    column = mean_over_seeds(inner)  # the mean along the first axis, here the sources
    whole = np.where(np.isnan(inner), np.where(np.isnan(column), 0.0, column), inner)
    whole = np.clip(whole, -2, 2)  # one exploded ratio must not decide the order
    return np.hstack([whole, whole.T])


def linkage_of(profiles: Floats) -> Floats:
    """(tasks - 1, 4): average linkage of the rows of (tasks, features), leaves ordered as by Bar-Joseph et al. 2001."""
    return np.asarray(hierarchy.linkage(profiles, method="average", optimal_ordering=True))
