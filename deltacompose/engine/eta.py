"""Estimate of the time left in a run, from the time that its cells have taken so far."""

from __future__ import annotations

import time
from collections import defaultdict

from deltacompose.study.config import Cell


class Pace:
    """Seconds per unit of cost for each kind of cell, updated with every cell that ends.

    Time is that of a worker, on a monotonic clock.
    """

    def __init__(self) -> None:
        self._began = time.monotonic()
        self._left: dict[str, Cell] = {}
        self._cost_left: dict[str, float] = defaultdict(float)
        self._cost_done: dict[str, float] = defaultdict(float)
        self._seconds: dict[str, float] = defaultdict(float)

    def elapsed(self) -> float:
        """Seconds since the run began."""
        return time.monotonic() - self._began

    def expect(self, cell: Cell) -> None:
        """Adds a cell to those that are left."""
        if cell.key not in self._left:
            self._left[cell.key] = cell
            self._cost_left[cell.kind] += _cost(cell)

    def done(self, cell: Cell, seconds: float | None) -> None:
        """Removes a cell from those that are left; `seconds` is None if it was not computed by this run."""
        if self._left.pop(cell.key, None) is None:
            return
        self._cost_left[cell.kind] -= _cost(cell)
        if seconds is not None:
            self._cost_done[cell.kind] += _cost(cell)
            self._seconds[cell.kind] += seconds

    def eta(self, slots: int) -> float | None:
        """Seconds until all cells are done on `slots` workers; None before the first cell is done."""
        if not self._left:
            return 0.0
        if not self._seconds:
            return None
        overall = sum(self._seconds.values()) / sum(self._cost_done.values())
        rates = {kind: self._seconds[kind] / self._cost_done[kind] for kind in self._seconds}
        work = sum(cost * rates.get(kind, overall) for kind, cost in self._cost_left.items())
        return work / max(1, min(slots, len(self._left)))


def _cost(cell: Cell) -> float:
    return cell.cost or 1.0
