"""Carrying out cells: what a worker does with a group of them, from their specs to the store.

Nothing but the store is shared with other workers. Backbones and tasks that a process has read are kept for the next
group (`loaded`). Each kind of cell has a module of its own.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any

from deltacompose.cells import cluster, efficiency, probe, reconstruct, search, select, subspace, swap, train, tune
from deltacompose.cells import evaluate_delta as evaluate
from deltacompose.cells import merging as merge
from deltacompose.cells import reusing as reuse
from deltacompose.cells.context import Carry
from deltacompose.cells.training_state import latest_score
from deltacompose.cells.worker_sources import Sources
from deltacompose.errors import unknown
from deltacompose.store.store import Store, open_store
from deltacompose.study.config import Cell

KINDS: Mapping[str, Carry] = {
    "train": train.carry,
    "evaluate": evaluate.carry,
    "select": select.carry,
    "search": search.carry,
    "efficiency": efficiency.carry,
    "probe": probe.carry,
    "subspace": subspace.carry,
    "reconstruct": reconstruct.carry,
    "tune": tune.carry,
    "swap": swap.carry,
    "cluster": cluster.carry,
    "merge": merge.carry,
    "reuse": reuse.carry,
}


def carry_out(spec: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Carries out a group of cells of one kind and stores each; returns the state of each by its key.

    Args:
        spec: `store`, the store's folder; `cells`, each as kind, spec, parents and cost; `options`, those of the run,
            with the sources of the study (`sources.options_of`).

    Raises:
        BadInput: a cell is of an unknown kind, or its inputs are not those that it was planned for.
    """
    store = open_store(spec["store"], create=False)
    cells = [Cell(c["kind"], c["spec"], tuple(c["parents"]), c.get("cost", 0.0)) for c in spec["cells"]]
    for cell in cells:
        if cell.kind not in KINDS:
            raise unknown("kind of cell", cell.kind, KINDS)
    options = spec["options"]
    carry = KINDS[cells[0].kind]
    if cells[0].kind == "train":
        carry = partial(train.carry, tokens=options.get("tokens"))
    carry(store, cells, Sources.read(options))
    return [{"key": cell.key, "state": store.state(cell.key)} for cell in cells]


def under_way(store: Store, key: str) -> dict[str, Any] | None:
    """The latest development score of a training that is not finished, by its checkpoint."""
    return latest_score(store.glimpse(key, "state.json"))
