"""Backbones and tasks that this process has read: kept for the next cells, and looked up by content.

A process may live long (a notebook, a worker of a cluster) while files change. So nothing is looked up by a name or a
path alone: a backbone is loaded anew when its files differ from those it was loaded from, and a task is kept under the
fingerprint of its examples. A cell names the content that it was planned for; where that cannot be had any more, it
fails with one sentence and nothing is stored.
"""

from __future__ import annotations

import json
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

from deltacompose import registry
from deltacompose.backbone.backbone import Backbone
from deltacompose.errors import BadInput
from deltacompose.scoring import Reader, reader
from deltacompose.study.config import Cell
from deltacompose.task.build import Rows, task_from_mapping
from deltacompose.task.task import Task

BACKBONES = 2
"""Backbones that a process keeps."""
TASKS = 64
"""Tasks, with all their examples, that a process keeps."""

AGAIN = "run the study again, which plans it for what is there now, or restore what was there"


@dataclass(frozen=True)
class TaskSource:
    """Where a study's task comes from.

    Attributes:
        own: the descriptions of the study's own tasks with the study's folder, as `options_of` writes them.
        template: whether inputs are put into the task's template.
        ranking: the study's rule for candidates, for tasks that have none of their own.
    """

    name: str
    own: str
    template: bool = True
    ranking: str = "sum"

    def opened(self) -> Task:
        """The task without anything that was read of it before."""
        folder, described = json.loads(self.own)
        if self.name in described:
            task = task_from_mapping(self.name, described[self.name], Path(folder))
        else:
            task = registry.task_of(self.name)
        task = replace(task, read=replace(task.read)) if isinstance(task.read, Rows) else replace(task)
        if self.ranking != "sum" and task.kind == "choice" and task.ranking is None:
            task = replace(task, ranking=self.ranking)
        return task if self.template else task.without_template()


@dataclass(frozen=True)
class Cut:
    """Which examples of a task a cell reads.

    Attributes:
        rows: the most of each split, `train`, `val`, `test`; None for all.
        shots: examples per class, drawn by `seed`; None for all.
    """

    rows: tuple[int | None, int | None, int | None] = (None, None, None)
    shots: int | None = None
    seed: int = 0

    def of(self, task: Task) -> Task:
        """The task cut to these examples."""
        train, val, test = self.rows
        task = task.limited(train=train, val=val, test=test)
        return task if self.shots is None else task.few_shot(self.shots, self.seed)


_backbones: OrderedDict[str, Backbone] = OrderedDict()
_tasks: OrderedDict[tuple[TaskSource, str], Task] = OrderedDict()
_last: dict[TaskSource, tuple[str, Task]] = {}


def backbone_of(choice: str) -> Backbone:
    """The backbone that a choice, as `options_of` writes it, names now."""
    known = _backbones.pop(choice, None)
    if known is None or not (known.files is None or known.files.unchanged):
        chosen = json.loads(choice)
        known = registry.load_backbone(chosen.pop("model"), **chosen)
        _reader.cache_clear()  # which would keep the weights of the one before in memory
    _backbones[choice] = known
    while len(_backbones) > BACKBONES:
        _backbones.popitem(last=False)
    return known


def present_task(source: TaskSource) -> Task:
    """A task as its data are now; read anew unless its files are the same to the byte.

    A data set of the hub is read once in a process. A task that a plugin reads by itself is read every time.
    """
    task = source.opened()
    state = task.read.state() if isinstance(task.read, Rows) else None
    known = _last.get(source)
    if state is not None and known is not None and known[0] == state:
        return known[1]
    _keep(source, task)
    if state is not None:
        if isinstance(task.read, Rows) and task.read.state() != state:
            raise BadInput(f"the data of task {source.name!r} changed while they were read; {AGAIN}")
        _last[source] = state, task
    return task


def task_of_content(source: TaskSource, fingerprint: str) -> Task:
    """The task whose examples have a fingerprint.

    Raises:
        BadInput: its data are not those any more.
    """
    if (source, fingerprint) in _tasks:
        _tasks.move_to_end((source, fingerprint))
        return _tasks[source, fingerprint]
    task = present_task(source)
    if task.fingerprint != fingerprint:
        raise BadInput(
            f"the data of task {source.name!r} changed after the study was planned (fingerprint "
            f"{fingerprint[:12]} then, {task.fingerprint[:12]} now); {AGAIN}"
        )
    return task


def reader_of_content(backbone: Backbone, source: TaskSource, fingerprint: str, cut: Cut, limit: int) -> Reader:
    """The examples of a task as a backbone reads them, inputs cut to `limit` tokens."""
    task_of_content(source, fingerprint)
    return _reader(backbone, source, fingerprint, cut, limit)


def reader_as_planned(backbone: Backbone, spec: Mapping[str, Any], task: str, options: Mapping[str, Any]) -> Reader:
    """The examples of one of the tasks that a cell's spec names, as the cell reads them.

    Raises:
        BadInput: its data are not those that the cell was planned for.
    """
    limit = spec["limit"] if "limit" in spec else spec["recipe"]["limit"]
    return reader_of_content(backbone, _source(spec, task, options), _fingerprint(spec, task), _cut(spec), limit)


def task_as_read(spec: Mapping[str, Any], task: str, options: Mapping[str, Any]) -> Task:
    """One of the tasks that a cell's spec names, cut to the examples that the cell reads."""
    return _cut(spec).of(whole_task(spec, task, options))


def whole_task(spec: Mapping[str, Any], task: str, options: Mapping[str, Any]) -> Task:
    """One of the tasks that a cell's spec names, with all its examples."""
    return task_of_content(_source(spec, task, options), _fingerprint(spec, task))


def check_backbone(backbone: Backbone, cell: Cell) -> None:
    """Refuses a backbone whose content is not the one that a cell was planned for, or whose files changed since.

    Raises:
        BadInput: it is another one; says what to do.
    """
    expected = cell.spec["backbone"]
    if expected != backbone.content or not (backbone.files is None or backbone.files.unchanged):
        now = f"{backbone.content[:12]} now" if expected != backbone.content else "its files were edited"
        raise BadInput(
            f"the weights, configuration, tokenizer or table of {backbone.name} changed after the study was planned "
            f"(content {expected[:12]} then, {now}); {AGAIN}"
        )


def check_code(spec: Mapping[str, Any]) -> None:
    """Refuses methods whose code here is not the one that a cell was planned for.

    Raises:
        BadInput: it is another one; says what to do.
    """
    for name, expected in spec.get("implementations", {}).items():
        if registry.implementation_of(name) != expected:
            raise BadInput(
                f"method {name!r} of {registry.origin_of(name)} has other code here than where the "
                "study was planned; install the same distribution everywhere, restart the workers, and run again"
            )


def forget() -> None:
    """Drop all that this process has kept."""
    _backbones.clear()
    _tasks.clear()
    _last.clear()
    _reader.cache_clear()


def _keep(source: TaskSource, task: Task) -> None:
    _tasks[source, task.fingerprint] = task
    while len(_tasks) > TASKS:
        _tasks.popitem(last=False)


def _source(spec: Mapping[str, Any], task: str, options: Mapping[str, Any]) -> TaskSource:
    return TaskSource(task, options["tasks"], spec["template"], spec.get("ranking", "sum"))


def _cut(spec: Mapping[str, Any]) -> Cut:
    rows = spec["rows"]
    few = {} if spec["shots"] is None else {"shots": spec["shots"], "seed": spec["seed"]}
    return Cut((rows["train"], rows["val"], rows["test"]), **few)


def _fingerprint(spec: Mapping[str, Any], task: str) -> str:
    """The fingerprint of the examples of one of the tasks that a spec names."""
    data = spec["data"]
    if isinstance(data, Mapping):
        return str(data[task])
    own = spec.get("target") or spec.get("task") or spec["source"]
    return str(data if task == own else spec["source_data"])


@lru_cache(maxsize=256)
def _reader(backbone: Backbone, source: TaskSource, fingerprint: str, cut: Cut, limit: int) -> Reader:
    return reader(backbone, cut.of(task_of_content(source, fingerprint)), limit)
