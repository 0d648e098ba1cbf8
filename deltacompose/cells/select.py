"""Cells of kind `select`: the choice among factors of the learning rates by development scores."""

from __future__ import annotations

from collections.abc import Sequence

from deltacompose.cells.worker_sources import Sources
from deltacompose.store.store import Store
from deltacompose.study.config import Cell


def carry(store: Store, cells: Sequence[Cell], sources: Sources) -> None:
    """Chooses the factor with the best mean development score over the seeds, the smallest of equals."""
    for cell in cells:
        scores: dict[float, list[float]] = {}
        for parent in cell.parents:
            record = store.record(parent)
            scores.setdefault(record["spec"]["grid"], []).append(record["result"]["dev"])
        means = {factor: sum(values) / len(values) for factor, values in scores.items()}
        best = max(sorted(means), key=lambda factor: means[factor])
        store.add(cell, {"grid": best, "dev": {str(factor): mean for factor, mean in sorted(means.items())}})
