"""How long a run will still take, from what its cells have taken so far."""

from __future__ import annotations

import time
from collections import defaultdict

from deltacompose.study.config import Cell


class Pace:
    """Seconds per unit of cost, learned for each kind of cell by itself; changes with every cell that ends.

    Time is a worker's time, by a clock that only goes forward.
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
        """Count a cell as still to be done."""
        if cell.key not in self._left:
            self._left[cell.key] = cell
            self._cost_left[cell.kind] += _cost(cell)

    def done(self, cell: Cell, seconds: float | None) -> None:
        """Take a cell off what is to be done; None for `seconds` where it was not carried out here."""
        if self._left.pop(cell.key, None) is None:
            return
        self._cost_left[cell.kind] -= _cost(cell)
        if seconds is not None:
            self._cost_done[cell.kind] += _cost(cell)
            self._seconds[cell.kind] += seconds

    def eta(self, slots: int) -> float | None:
        """Seconds until all is done on so many workers; None before any cell has been."""
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
