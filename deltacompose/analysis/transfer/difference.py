"""The difference of two transfer matrices, cell by cell, with intervals: compositions, backbones, stores, papers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from scipy import stats

from deltacompose.analysis.arrays import Bools, Floats
from deltacompose.analysis.labelled import dataset
from deltacompose.analysis.matrix import TransferMatrix, mean_over_seeds
from deltacompose.analysis.statistics import adjusted
from deltacompose.analysis.units import UNITS, check_chance, in_unit
from deltacompose.errors import BadInput, unknown

if TYPE_CHECKING:
    import xarray


@dataclass(frozen=True, eq=False)
class Difference:
    """One matrix minus another over the tasks of both.

    Attributes:
        names: of the two, minuend first.
        unit: a key of `units.UNITS`.
        sources, targets: the tasks that both have.
        value: (sources, targets), the difference of the means over seeds; NaN where one is not known.
        low, high: its 95 % interval; NaN where no spread is known.
        p: two-sided p-value of no difference; NaN likewise.
        differs: whether the difference is significant, Benjamini–Yekutieli over all cells at q.
        q: the false discovery rate.
        paired: whether runs were compared seed by seed.
        left_out: tasks of one matrix alone.
    """

    names: tuple[str, str]
    unit: str
    sources: tuple[str, ...]
    targets: tuple[str, ...]
    value: Floats
    low: Floats
    high: Floats
    p: Floats
    differs: Bools
    q: float
    paired: bool
    left_out: tuple[str, ...]

    @property
    def tested(self) -> bool:
        """Whether any cell has an interval."""
        return not bool(np.isnan(self.low).all())

    def to_pandas(self) -> pd.DataFrame:
        """One row per source and target, with the difference, its interval, p and whether it differs from zero."""
        rows = [
            {
                "source": source,
                "target": target,
                "difference": self.value[s, t],
                "low": self.low[s, t],
                "high": self.high[s, t],
                "p": self.p[s, t],
                "differs": bool(self.differs[s, t]),
            }
            for s, source in enumerate(self.sources)
            for t, target in enumerate(self.targets)
        ]
        return pd.DataFrame(rows)

    def to_xarray(self) -> xarray.Dataset:
        """The difference, its interval, p and mark, all (source, target).

        Raises:
            BadInput: xarray is not installed.
        """
        arrays = {
            "difference": self.value, "low": self.low, "high": self.high, "p": self.p, "differs": self.differs,
        }  # fmt: skip
        names = {"source": self.sources, "target": self.targets}
        return dataset({name: (tuple(names), values) for name, values in arrays.items()}, names)

    def summary(self) -> dict[str, Any]:
        """The means and counts of the difference, ready for JSON."""
        off = np.array([[s != t for t in self.targets] for s in self.sources])
        known = self.value[off & ~np.isnan(self.value)]
        return {
            "minuend": self.names[0],
            "subtrahend": self.names[1],
            "unit": self.unit,
            "mean": float(known.mean()) if known.size else None,
            "cells": int(known.size),
            "above": int((self.differs & (self.value > 0)).sum()),
            "below": int((self.differs & (self.value < 0)).sum()),
            "tested": int((~np.isnan(self.p)).sum()),
            "q": self.q,
            "paired": self.paired,
            "left_out": list(self.left_out),
        }


def differences(
    minuend: TransferMatrix,
    subtrahend: TransferMatrix,
    unit: str = "score",
    q: float = 0.05,
    names: tuple[str, str] | None = None,
) -> Difference:
    """Subtract one matrix from another over the tasks of both.

    Where both have the same seeds, two at least, runs are compared seed by seed with Student's t: the seeds draw the
    same data. Otherwise the interval is Welch's (1947), from the spread of each, also where a spread was published with
    the number of runs behind it. Without a spread there is no interval.

    Args:
        unit: `score`, `relative`, `corrected` or `lift`.
        q: false discovery rate of `differs`.
        names: of the two; by default their compositions, with the backbone where these are equal.

    Raises:
        BadInput: no common source or target, an unknown unit, a ratio without chance, or q outside (0, 1).
    """
    if unit not in UNITS:
        raise unknown("unit of a difference", unit, UNITS)
    if not 0 < q < 1:
        raise BadInput(f"q={q!r}: a false discovery rate lies between 0 and 1")
    sources = tuple(name for name in minuend.sources if name in subtrahend.sources)
    targets = tuple(name for name in minuend.targets if name in subtrahend.targets)
    if not sources or not targets:
        raise BadInput(
            f"the two matrices have no {'source' if not sources else 'target'} in common: "
            f"{', '.join(minuend.sources[:5])} and {', '.join(subtrahend.sources[:5])}"
        )
    parts = [matrix.selected(sources, targets) for matrix in (minuend, subtrahend)]
    for matrix in parts:
        check_chance(matrix, unit)
    values = [in_unit(matrix, unit, matrix.values) for matrix in parts]
    value = mean_over_seeds(values[0]) - mean_over_seeds(values[1])
    paired = parts[0].seeds == parts[1].seeds and len(parts[0].seeds) > 1
    error, freedom = _paired(values) if paired else _unpaired(parts, values, unit)
    constant = _defined(parts[0], unit)
    error = np.where(constant, np.nan, error)
    known = ~np.isnan(error) & (error > 0)
    reach = np.where(known, stats.t.ppf(0.975, np.where(known, freedom, 1)) * error, np.nan)
    p = np.where(known, 2 * stats.t.sf(np.abs(value) / np.where(known, error, 1), np.where(known, freedom, 1)), np.nan)
    every = {*minuend.names, *subtrahend.names}
    return Difference(
        names=names or _names(minuend, subtrahend),
        unit=unit,
        sources=sources,
        targets=targets,
        value=value,
        low=value - reach,
        high=value + reach,
        p=p,
        differs=np.nan_to_num(adjusted(p, dependent=True), nan=1.0) <= q if known.any() else np.zeros(p.shape, bool),
        q=q,
        paired=paired,
        left_out=tuple(sorted(every - {*sources, *targets})),
    )


def _names(minuend: TransferMatrix, subtrahend: TransferMatrix) -> tuple[str, str]:
    pair = (minuend.composition or "first", subtrahend.composition or "second")
    if pair[0] == pair[1] and minuend.backbone != subtrahend.backbone:
        return f"{pair[0]} on {minuend.backbone[:12]}", f"{pair[1]} on {subtrahend.backbone[:12]}"
    return pair if pair[0] != pair[1] else (f"first {pair[0]}", f"second {pair[1]}")


def _defined(matrix: TransferMatrix, unit: str) -> Bools:
    """(sources, targets): cells that are 1 by definition, a task's ratio to itself."""
    if unit not in ("relative", "corrected"):
        return np.zeros(matrix.values.shape[1:], dtype=bool)
    return ~matrix.off_diagonal


def _paired(values: list[Floats]) -> tuple[Floats, Floats]:
    """Standard error and degrees of freedom of the mean difference over seeds that both matrices have in a cell."""
    gaps = values[0] - values[1]
    count = (~np.isnan(gaps)).sum(axis=0)
    squares = np.nansum((gaps - mean_over_seeds(gaps)) ** 2, axis=0)
    error = np.sqrt(squares / np.maximum(count - 1, 1) / np.maximum(count, 1))
    return np.where(count > 1, error, np.nan), np.maximum(count - 1, 1).astype(float)


def _unpaired(parts: list[TransferMatrix], values: list[Floats], unit: str) -> tuple[Floats, Floats]:
    """Welch's standard error and degrees of freedom."""
    variances, counts = zip(*(_variance(m, v, unit) for m, v in zip(parts, values, strict=True)), strict=True)
    shares = [variance / np.maximum(count, 1) for variance, count in zip(variances, counts, strict=True)]
    total = shares[0] + shares[1]
    below = sum(share**2 / np.maximum(count - 1, 1) for share, count in zip(shares, counts, strict=True))
    usable = (counts[0] > 1) & (counts[1] > 1)
    freedom = np.where(below > 0, total**2 / np.where(below > 0, below, 1), 1.0)
    return np.where(usable, np.sqrt(total), np.nan), np.maximum(freedom, 1.0)


def _variance(matrix: TransferMatrix, values: Floats, unit: str) -> tuple[Floats, Floats]:
    """(sources, targets): variance over runs and their number; the variance is NaN where it is not known."""
    if matrix.averaged_over is not None:
        runs = np.full(values.shape[1:], float(matrix.averaged_over))
        known = matrix.spread is not None and unit in ("score", "lift")
        return (np.square(matrix.spread) if known and matrix.spread is not None else np.full(runs.shape, np.nan)), runs
    count = (~np.isnan(values)).sum(axis=0)
    squares = np.nansum((values - mean_over_seeds(values)) ** 2, axis=0)
    return np.where(count > 1, squares / np.maximum(count - 1, 1), np.nan), count.astype(float)
