"""Cost of a plan: operations counted from the plan, seconds from stored cells of a kind or from a calibration."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import networkx as nx

from deltacompose.planning.facts import Facts
from deltacompose.store.store import Store
from deltacompose.study.config import Cell, Study

Speeds = Callable[[], Mapping[str, float]]
"""Gives operations per second by kind of cell; asked only where no stored cell has shown them."""

STORED, CALIBRATED, CORRECTED = "stored cells", "calibration", "calibration and stored cells"


@dataclass(frozen=True)
class Cost:
    """The costs of what a store lacks of a plan.

    Attributes:
        kinds: for each kind of cell `kind`, `cells`, `stored`, `to_run`, `flops` and `seconds` of one worker for those
            to run, and `basis`, what the seconds come from.
        workers: how many carry it out.
        seconds: until all is done on so many workers.
        memory: the most bytes that a worker's process is expected to hold; on a GPU, those of the device.
        speed: the speed of this machine that is assumed where no stored cells tell it.
        parameters: for each composition `composition`, the `parameters` that its last stage trains, and their
            `share` of those of the backbone.
        remarks: what to know before the study runs: that keys are not final, that a training does not fit.
    """

    kinds: tuple[Mapping[str, Any], ...]
    workers: int
    seconds: float
    memory: float
    speed: str = ""
    parameters: tuple[Mapping[str, Any], ...] = ()
    remarks: tuple[str, ...] = ()

    def total(self, name: str) -> float:
        """The sum of a column over the kinds."""
        return float(sum(row[name] for row in self.kinds))


def cost(plan: nx.DiGraph, store: Store | None, speeds: Speeds, workers: int = 1, memory: float = 0.0) -> Cost:
    """Remaining cells of a plan, with their estimated time and memory.

    A run on N workers takes no less than an N-th of the work, and no less than its longest chain of cells. Workers of
    one machine share its memory bandwidth, so they are somewhat slower together than one alone.
    """
    cells: dict[str, Cell] = dict(plan.nodes(data="cell"))
    records = {} if store is None else {key: record for key in cells if (record := store.intact(key)) is not None}
    stored = set(records)
    rates, bases = _rates(cells, records, speeds)
    seconds = {key: _seconds(cell, rates) for key, cell in cells.items() if key not in stored}
    kinds = [
        _row(kind, cells, stored, seconds) | {"basis": bases.get(kind, bases[""])}
        for kind in sorted({cell.kind for cell in cells.values()})
    ]
    wall = max(sum(seconds.values()) / workers, _chain(plan, seconds))
    return Cost(tuple(kinds), workers, wall, memory)


def looks(study: Study, facts: Facts) -> dict[str, float]:
    """Of each task, the development examples that a training predicts for each of its steps."""
    recipe = study.training
    times = (1 + -(-recipe.steps // recipe.evaluate_every)) / max(1, recipe.steps)
    return {name: times * task.rows["val"] for name, task in facts.tasks.items()}


def _row(kind: str, cells: Mapping[str, Cell], stored: set[str], seconds: Mapping[str, float]) -> dict[str, Any]:
    own = {key: cell for key, cell in cells.items() if cell.kind == kind}
    left = [key for key in own if key not in stored]
    counts = {"cells": len(own), "stored": len(own) - len(left), "to_run": len(left)}
    sums = {"flops": sum(own[key].cost for key in left), "seconds": sum(seconds[key] for key in left)}
    return {"kind": kind} | counts | sums


def _rates(
    cells: Mapping[str, Cell], records: Mapping[str, Mapping[str, Any]], speeds: Speeds
) -> tuple[dict[str, float], dict[str, str]]:
    """Operations per second by kind of cell, and the basis of each; "" is that of the kinds that are not listed.

    Stored cells of this plan tell the rates of their kinds. They also correct the calibrated rates of the others, by
    the factor by which cells of a kind that has both were faster or slower than the calibration says.
    """
    spent: dict[str, list[float]] = {}
    for key, record in records.items():
        so_far = spent.setdefault(cells[key].kind, [0.0, 0.0])
        so_far[0] += cells[key].cost
        so_far[1] += record["seconds"]
    rates = {kind: flops / seconds for kind, (flops, seconds) in spent.items() if flops and seconds}
    wanted = {cell.kind for key, cell in cells.items() if key not in records and cell.cost}
    bases = dict.fromkeys(rates, STORED)
    if wanted <= rates.keys():
        return rates, bases | {"": STORED if rates else CALIBRATED}
    assumed = dict(speeds())
    factors = [rates[kind] / assumed[kind] for kind in assumed if kind in rates]
    factor = sum(factors) / len(factors) if factors else 1.0
    corrected = {kind: rate * factor for kind, rate in assumed.items()} | rates
    return corrected, bases | {"": CORRECTED if factors else CALIBRATED}


def _seconds(cell: Cell, rates: Mapping[str, float]) -> float:
    if not cell.cost:
        return 0.0
    return cell.cost / (rates[cell.kind] if cell.kind in rates else rates["train"])


def _chain(plan: nx.DiGraph, seconds: Mapping[str, float]) -> float:
    """Seconds of the longest chain of cells that read each other."""
    ends: dict[str, float] = {}
    for key in nx.topological_sort(plan):
        before = max((ends[parent] for parent in plan.predecessors(key)), default=0.0)
        ends[key] = before + seconds.get(key, 0.0)
    return max(ends.values(), default=0.0)
