"""Cells of kind `train`: one stage of a composition trained on one task; a group of them is a bank."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Self

from deltacompose import registry
from deltacompose.backbone.backbone import Backbone
from deltacompose.cells.context import check, group_of, missing
from deltacompose.cells.loaded import backbone_of, reader_as_planned
from deltacompose.cells.pass_size import tokens_of_pass
from deltacompose.cells.scored_answers import answers, write_answers
from deltacompose.cells.task_data import TaskData
from deltacompose.cells.training_state import read_state, write_state
from deltacompose.cells.worker_sources import Sources
from deltacompose.composition import Composition
from deltacompose.delta.delta import Delta
from deltacompose.errors import BadInput
from deltacompose.method.weights import carried
from deltacompose.store.store import Store
from deltacompose.study.config import Cell
from deltacompose.study.recipe import Recipe
from deltacompose.task.task import score
from deltacompose.training.learner import Job
from deltacompose.training.loop import State, train


@dataclass(frozen=True)
class TrainSpec:
    """Spec of a training cell.

    Attributes:
        composition: the text of the expression up to the stage that is trained.
        stage: its number from 0.
        carried: whether the parent's weights are those of another size, carried over to this one's.
    """

    composition: str
    stage: int
    task: str
    seed: int
    recipe: Recipe
    data: TaskData
    carried: bool

    @classmethod
    def of(cls, spec: Mapping[str, Any]) -> Self:
        """The spec of a cell, from plain data."""
        recipe, data = Recipe(**spec["recipe"]), TaskData.of(spec)
        return cls(spec["composition"], spec["stage"], spec["task"], spec["seed"], recipe, data, "carried" in spec)


def carry(store: Store, cells: Sequence[Cell], sources: Sources, tokens: int | None = None) -> None:
    """Trains a bank and stores each delta; one that diverges is stored as failed.

    Args:
        tokens: the most tokens in one pass; None chooses by what this machine was measured to do.
    """
    with group_of(sources) as group:
        backbone = backbone_of(sources.backbone)
        check(backbone, cells)
        cells = list(missing(group, store, cells, backbone))
        if not cells:
            return
        started = time.monotonic()
        jobs = [replace(job_of(store, cell, backbone, sources), processes=group) for cell in cells]
        size = tokens or tokens_of_pass(backbone, jobs)
        outcomes = train(backbone, jobs, Checkpoints(store, cells, group.rank == 0), size)
        check(backbone, cells)  # the weights may be mapped from files, which may have been edited meanwhile
    if group.rank:
        return
    seconds = (time.monotonic() - started) / len(cells)
    for cell, job, outcome in zip(cells, jobs, outcomes, strict=True):
        if isinstance(outcome, Exception):
            store.drop_checkpoint(cell.key)
            store.fail(cell, outcome)
        else:
            _add(store, cell, job, outcome, seconds)


def _add(store: Store, cell: Cell, job: Job, delta: Delta, seconds: float) -> None:
    task, record = job.reader.task, dict(delta.record)
    predictions = record.pop("dev_predictions")
    rows = answers(task, "val", predictions, score(task, task.examples("val"), predictions))
    write = _writer(registry.with_origins(replace(delta, record=record)), rows)
    store.add(cell, record, write, seconds)


def _writer(delta: Delta, rows: Sequence[Mapping[str, Any]]) -> Callable[[Path], None]:
    def write(folder: Path) -> None:
        delta.save(folder)
        write_answers(folder, rows)

    return write


def job_of(store: Store, cell: Cell, backbone: Backbone, sources: Sources) -> Job:
    """The training that a cell asks for, from the deltas that its parents have trained."""
    spec = TrainSpec.of(cell.spec)
    expression = registry.parse(spec.composition)
    earlier = registry.load_delta(store.folder(cell.parents[0])) if cell.parents else None
    start = None
    if earlier is not None and not spec.stage:  # weights to begin with, not a stage that stays attached
        start, earlier = _start(backbone, expression, earlier, spec.carried), None
    reader = reader_as_planned(backbone, spec.data, spec.task, sources.own_tasks)
    return Job(expression, reader, spec.seed, spec.recipe, earlier, start)


def _start(backbone: Backbone, expression: Composition, delta: Delta, other_size: bool) -> Mapping[str, Any]:
    return carried(backbone, expression, delta.expression, delta.weights) if other_size else delta.weights


class Checkpoints:
    """A bank's checkpoints in the store, one for each of its cells.

    Of several processes one `writes`, and all read.
    """

    def __init__(self, store: Store, cells: Sequence[Cell], writes: bool = True) -> None:
        self.store, self.cells, self.writes = store, cells, writes

    def save(self, states: Sequence[State]) -> None:
        """Keeps a state of each cell, all taken at one moment."""
        if self.writes:
            of_cells = zip(self.cells, states, strict=True)
            self.store.save_checkpoints({cell.key: partial(write_state, state) for cell, state in of_cells})

    def load(self) -> dict[int, State]:
        """The states that cells go on from, by the cell's number in the bank."""
        folders = self.store.checkpoints(cell.key for cell in self.cells)
        states: dict[int, State] = {}
        for number, cell in enumerate(self.cells):
            if cell.key in folders:
                # A damaged state is left out: that training starts again from its first step, with the same result.
                with contextlib.suppress(BadInput):
                    states[number] = read_state(folders[cell.key])
        return states
