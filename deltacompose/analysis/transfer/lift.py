"""Lift by training: the score of each task's own delta minus the untouched backbone's, with intervals."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

import numpy as np

from deltacompose.analysis.matrix import TransferMatrix, mean_over_seeds
from deltacompose.analysis.transfer.uncertainty import own_differences
from deltacompose.analysis.units import ordered

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True)
class Lift:
    """A(t → t) minus the untouched backbone's score on one task, with its 95 % interval; NaN where nothing is known.

    Attributes:
        seeds: how many have a score.
        covers: what the interval accounts for: `seeds`, `examples`, both, or `nothing`.
    """

    composition: str
    category: str
    task: str
    value: float
    low: float
    high: float
    seeds: int
    covers: str

    def to_pandas(self) -> pd.DataFrame:
        """One row with the lift, its interval and verdict; rows of several lifts go into one table by `pd.concat`."""
        import pandas as pd

        return pd.DataFrame([{**asdict(self), "verdict": self.verdict}])

    @property
    def verdict(self) -> str:
        """Where the interval lies: `above` zero, `below`, `includes` it, or `unknown`."""
        if np.isnan(self.low):
            return "unknown"
        return "above" if self.low > 0 else "below" if self.high < 0 else "includes"


def lifts(matrix: TransferMatrix) -> list[Lift]:
    """The lift of every task that is source and target, in blocks of categories."""
    tested = own_differences(matrix, "untouched")
    values, count = mean_over_seeds(matrix.lift()), (~np.isnan(matrix.values)).sum(axis=0)
    rows = []
    for task in ordered(matrix.tasks, matrix.categories):
        at = matrix.sources.index(task), matrix.targets.index(task)
        low, high, covers = np.nan, np.nan, "nothing"
        if task in tested:
            low, high, covers = tested[task].low, tested[task].high, tested[task].covers
        about = (matrix.composition, matrix.categories.get(task, ""), task)
        rows.append(Lift(*about, float(values[at]), float(low), float(high), int(count[at]), covers))
    return rows
