"""What a cell reads: the backbone, tasks as the study reads them, and the trained deltas among its parents."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from deltacompose.backbone.backbone import Backbone
from deltacompose.composition import Part
from deltacompose.delta.delta import Delta, load
from deltacompose.distributed import ALONE, Company
from deltacompose.errors import BadInput
from deltacompose.scoring import Reader
from deltacompose.study.config import Cell
from deltacompose.task.task import Task

Record = Mapping[str, Any]
Outcome = tuple[dict[str, Any], Callable[[Path], None]]
"""What a cell gives: its result, and what writes its files into the folder that it is given."""


@dataclass(frozen=True, eq=False)
class Inputs:
    """What a worker has found for one cell.

    Attributes:
        cell: what is to be done.
        backbone: the one that the plan was made for.
        parents: the records of the cells that this one reads.
        folder: where the store keeps the cell of a key.
        methods: the known methods by name.
        reader: a task by name as the study reads it.
        whole: the same task with all of its rows.
        company: the processes that carry out the cell together.
    """

    cell: Cell
    backbone: Backbone
    parents: Sequence[Record]
    folder: Callable[[str], Path]
    methods: Mapping[str, type[Part]]
    reader: Callable[[str], Reader]
    whole: Callable[[str], Task]
    company: Company = ALONE

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
        """The one parent of a kind that is no training."""
        return next(record for record in self.parents if record["kind"] == kind)
