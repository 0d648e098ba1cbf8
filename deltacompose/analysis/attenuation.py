"""Disattenuated correlation of two maps, corrected for seed noise: a measure of similarity against transfer."""

from __future__ import annotations

from typing import Any

import numpy as np

from deltacompose.analysis.arrays import Floats
from deltacompose.analysis.statistics import disattenuated, reliability


def without_noise(r: float | None, measure: Floats, relative: Floats, directed: bool = False) -> dict[str, Any]:
    """`mantel_r_disattenuated`, r/√(r₁r₂) (Spearman 1904), with the reliability of either map.

    None where r is unknown or a reliability is unknown, as with one seed, or not above zero. The formula supposes that
    the errors of the two maps are independent: deltas of one seed that are both compared and transferred share theirs,
    and chance can carry the result past 1.

    Args:
        r: the correlation of the maps averaged over their seeds.
        measure: (seeds, tasks, tasks), each seed's similarities.
        relative: (seeds, tasks, tasks), each seed's relative performance.
        directed: r is over all cells off the diagonal, not over the pairs of tasks with (R + Rᵀ)/2.
    """
    reliabilities = [reliability(_cells(maps, directed)) for maps in (measure, relative)]
    known = r is not None and all(value > 0 for value in reliabilities)
    return {
        "mantel_r_disattenuated": disattenuated(r, *reliabilities) if r is not None and known else None,
        "mantel_reliabilities": [None if np.isnan(value) else value for value in reliabilities],
    }


def _cells(maps: Floats, directed: bool) -> Floats:
    """(seeds, cells): what the correlation is taken over."""
    where = ~np.eye(maps.shape[1], dtype=bool) if directed else np.triu(np.ones(maps.shape[1:], dtype=bool), 1)
    both = maps if directed else (maps + maps.transpose(0, 2, 1)) / 2
    cells: Floats = both[:, where]
    return cells
