"""Inputs of a cell (the backbone, tasks, trained deltas among its parents), and computing cells one by one."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from deltacompose import registry
from deltacompose.backbone.backbone import Backbone
from deltacompose.cells.loaded import backbone_of, check_backbone, check_code, reader_as_planned, whole_task
from deltacompose.cells.task_data import TaskData
from deltacompose.cells.worker_sources import Sources
from deltacompose.composition import Part
from deltacompose.delta.delta import Delta, load
from deltacompose.distributed import ALONE, ProcessGroup, process_group
from deltacompose.errors import BadInput
from deltacompose.scoring import Reader
from deltacompose.store.store import Store
from deltacompose.study.config import Cell
from deltacompose.study.queries import Record
from deltacompose.task.task import Task

Result = tuple[dict[str, Any], Callable[[Path], None]]
"""A cell's result, and the function that writes its files into a folder."""

Carry = Callable[[Store, Sequence[Cell], Sources], None]
"""Carries out a group of cells of one kind and stores each."""


@dataclass(frozen=True, eq=False)
class Inputs:
    """Inputs that a worker has read for one cell.

    Attributes:
        cell: what is to be done.
        backbone: the one that the plan was made for.
        parents: the records of the cells that this one reads.
        folder: where the store keeps the cell of a key.
        methods: the known methods by name.
        reader: a task by name as the study reads it.
        whole: the same task with all of its rows.
        processes: the process group that computes the cell.
    """

    cell: Cell
    backbone: Backbone
    parents: Sequence[Record]
    folder: Callable[[str], Path]
    methods: Mapping[str, type[Part]]
    reader: Callable[[str], Reader]
    whole: Callable[[str], Task]
    processes: ProcessGroup = ALONE

    def trained(self, task: str) -> Delta:
        """The trained delta of a task among the parents; where there is a grid the one that a selection names.

        Raises:
            BadInput: no parent trained it.
        """
        chosen = {r["spec"]["task"]: r["result"]["grid"] for r in self.parents if r["kind"] == "select"}
        for record in self.parents:
            spec = record["spec"]
            if record["kind"] == "train" and spec["task"] == task and spec["grid"] == chosen.get(task, spec["grid"]):
                return load(self.folder(record["key"]), self.methods)
        raise BadInput(f"no parent of this {self.cell.kind} cell trained a delta on {task!r}")

    def parent(self, kind: str) -> Record:
        """The one parent of a kind other than training."""
        return next(record for record in self.parents if record["kind"] == kind)


def each(compute: Callable[[Inputs], Result]) -> Carry:
    """Carries out the cells of a group one after another, each from its own inputs.

    Several processes share what is trained and predicted and do all else alike, because each needs its shard of the
    backbone in every pass; the first of them stores the results.
    """

    def carry(store: Store, cells: Sequence[Cell], sources: Sources) -> None:
        with group_of(sources) as group:
            backbone = backbone_of(sources.backbone)
            check(backbone, cells)
            for cell in missing(group, store, cells, backbone):
                started = time.monotonic()
                result, write = compute(replace(inputs_of(store, cell, backbone, sources), processes=group))
                check(backbone, [cell])
                if not group.rank:
                    store.add(cell, result, write, time.monotonic() - started)

    return carry


def inputs_of(store: Store, cell: Cell, backbone: Backbone, sources: Sources) -> Inputs:
    """The inputs of a cell; tasks are read when they are asked for.

    Raises:
        BadInput: the code of a parent's method is not the one that the parent was planned for.
    """

    def read(task: str) -> Reader:
        return reader_as_planned(backbone, TaskData.of(cell.spec), task, sources.own_tasks)

    def whole(task: str) -> Task:
        return whole_task(TaskData.of(cell.spec), task, sources.own_tasks)

    parents = [store.record(parent) for parent in cell.parents]
    for record in parents:
        check_code(record["spec"])
    return Inputs(cell, backbone, parents, store.folder, registry.methods(), read, whole)


def group_of(sources: Sources) -> AbstractContextManager[ProcessGroup]:
    """The process group that computes cells together.

    Entered before the backbone is loaded, because it gives each process its own GPU.
    """
    return process_group(on_cpu=sources.backbone.device == "cpu")


def missing(group: ProcessGroup, store: Store, cells: Sequence[Cell], backbone: Backbone) -> Iterator[Cell]:
    """Those cells that are not stored yet at the time each is asked for; the first process looks for all."""
    for cell in cells:
        if not group.of_first(store.has(cell.key), backbone.model.device):
            yield cell


def check(backbone: Backbone, cells: Sequence[Cell]) -> None:
    """Refuses cells that were planned for another backbone, or for other code of their methods, than are here now.

    Raises:
        BadInput: says which, and what to do.
    """
    for cell in cells:
        check_backbone(backbone, cell)
        check_code(cell.spec)
