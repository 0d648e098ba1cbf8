"""Cells that take no work, to count what everything around them costs."""

from __future__ import annotations

from deltacompose.store import open_store
from deltacompose.study import Cell


def carry_out(spec):
    """Store each cell of a group with a result that was known before."""
    store = open_store(spec["store"], create=False)
    for plain in spec["cells"]:
        store.add(Cell(plain["kind"], plain["spec"], tuple(plain["parents"])), {"score": 1.0})
    return []
