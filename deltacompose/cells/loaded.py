"""Backbones and tasks that this process has read: kept for the next cells, and looked up by content.

A process may live long (a notebook, a worker of a cluster) while files change. So nothing is looked up by a name or a
path alone: a backbone is loaded anew when its files differ from those it was loaded from, and a task is kept under the
fingerprint of its examples. A cell names the content that it was planned for; if that is no longer available, it
fails with one sentence and nothing is stored.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

from deltacompose import registry
from deltacompose.backbone.backbone import Backbone
from deltacompose.cache.file_digests import state_without_weights
from deltacompose.cells.task_data import Cut, TaskData
from deltacompose.cells.worker_sources import BackboneSource, OwnTasks
from deltacompose.delta.delta import Delta
from deltacompose.errors import BadInput
from deltacompose.scoring import Reader, Row, reader
from deltacompose.study.config import Cell
from deltacompose.task.build import Rows
from deltacompose.task.examples import Example
from deltacompose.task.named import named_task
from deltacompose.task.task import Task

BACKBONES = 2
"""Backbones that a process keeps."""
TASKS = 64
"""Tasks, with all their examples, that a process keeps."""

DELTA_BYTES = 1 << 28
"""Bytes of trained deltas that a process keeps; their cells never change, for a key names all that they come from."""

AGAIN = "run the study again, which plans it for what is there now, or restore what was there"


@dataclass(frozen=True)
class TaskSource:
    """Where one task of a study comes from.

    Attributes:
        own: the descriptions of the study's own tasks.
        template: whether inputs are put into the task's template.
        ranking: the study's rule for candidates, for tasks that have none of their own.
    """

    name: str
    own: OwnTasks
    template: bool = True
    ranking: str = "sum"

    def opened(self) -> Task:
        """The task without anything that was read of it before."""
        task = named_task(self.name, self.own.described.value, self.own.folder, registry.task_of)
        task = replace(task, read=replace(task.read)) if isinstance(task.read, Rows) else replace(task)
        if self.ranking != "sum" and task.kind == "choice" and task.ranking is None:
            task = task.ranked_by(self.ranking)
        return task if self.template else task.without_template()


_backbones: OrderedDict[BackboneSource, Backbone] = OrderedDict()
_skeletons: OrderedDict[BackboneSource, tuple[Backbone, str]] = OrderedDict()
_tasks: OrderedDict[tuple[TaskSource, str], Task] = OrderedDict()
_last: dict[TaskSource, tuple[str, Task]] = {}
_deltas: OrderedDict[Path, Delta] = OrderedDict()


def backbone_of(source: BackboneSource) -> Backbone:
    """The backbone that a study names, as its files are now."""
    backbone = _backbones.pop(source, None)
    if backbone is None or not (backbone.files is None or backbone.files.unchanged):
        backbone = registry.load_backbone(source.model, **source.options())
        _reader.cache_clear()  # readers keep the weights of the backbone before in memory
        _token_rows.cache_clear()
    _backbones[source] = backbone
    while len(_backbones) > BACKBONES:
        _backbones.popitem(last=False)
    return backbone


def skeleton_of(source: BackboneSource) -> Backbone:
    """The backbone that a study names, with shapes in place of weights: what a plan is made from.

    It is made anew when its files differ; without weights, also where the model is not a folder on this machine.
    """
    backbone, state = _skeletons.pop(source, (None, ""))
    if backbone is not None and backbone.files is not None:
        current = backbone.files.unchanged
    else:
        now = state_without_weights(Path(source.model)) if Path(source.model).is_dir() else ""
        current, state = backbone is not None and state == now != "", now
    if backbone is None or not current:
        backbone = registry.load_skeleton(source.model, **source.options())
    _skeletons[source] = backbone, state
    while len(_skeletons) > BACKBONES:
        _skeletons.popitem(last=False)
    return backbone


def present_task(source: TaskSource) -> Task:
    """A task as its data are now; read anew unless its files are the same to the byte.

    A data set of the hub is read once in a process. A task that a plugin reads by itself is read every time.
    """
    task = source.opened()
    state = task.read.state() if isinstance(task.read, Rows) else None
    kept = _last.get(source)
    if state is not None and kept is not None and kept[0] == state:
        return kept[1]
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
    """The examples of a task as a backbone reads them, inputs truncated to `limit` tokens."""
    task_of_content(source, fingerprint)
    return _reader(backbone, source, fingerprint, cut, limit)


def reader_as_planned(backbone: Backbone, data: TaskData, task: str, own: OwnTasks) -> Reader:
    """The examples of one of the tasks that a cell's spec names, as the cell reads them.

    Raises:
        BadInput: the data are not those that the cell was planned for.
    """
    if data.limit is None:
        raise ValueError(f"a cell that reads {task!r} as tokens needs a limit")
    source = TaskSource(task, own, data.template, data.ranking)
    return reader_of_content(backbone, source, data.fingerprint(task), data.cut, data.limit)


def task_as_read(data: TaskData, task: str, own: OwnTasks) -> Task:
    """One of the tasks that a cell's spec names, cut to the examples that the cell reads."""
    return data.cut.of(whole_task(data, task, own))


def whole_task(data: TaskData, task: str, own: OwnTasks) -> Task:
    """One of the tasks that a cell's spec names, with all its examples."""
    return task_of_content(TaskSource(task, own, data.template, data.ranking), data.fingerprint(task))


def stored_delta(folder: Path) -> Delta:
    """The trained delta of a stored cell; read once for the cells of several targets."""
    delta = _deltas.pop(folder, None)
    if delta is None:
        delta = registry.load_delta(folder)
    _deltas[folder] = delta
    while len(_deltas) > 1 and sum(map(_bytes, _deltas.values())) > DELTA_BYTES:
        _deltas.popitem(last=False)
    return delta


def _bytes(delta: Delta) -> int:
    return sum(x.nbytes for x in (*delta.weights.values(), *delta.constants.values()))


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
    _skeletons.clear()
    _tasks.clear()
    _last.clear()
    _deltas.clear()
    _reader.cache_clear()
    _token_rows.cache_clear()


def _keep(source: TaskSource, task: Task) -> None:
    _tasks[source, task.fingerprint] = task
    while len(_tasks) > TASKS:
        _tasks.popitem(last=False)


@lru_cache(maxsize=256)
def _reader(backbone: Backbone, source: TaskSource, fingerprint: str, cut: Cut, limit: int) -> Reader:
    task = task_of_content(source, fingerprint)
    result = reader(backbone, cut.of(task), limit)
    result.known = _token_rows(backbone, source, fingerprint, limit)
    return result


@lru_cache(maxsize=64)
def _token_rows(backbone: Backbone, source: TaskSource, fingerprint: str, limit: int) -> dict[int, tuple[Example, Row]]:
    """The rows in tokens of a task's examples, for all cells that read any of them."""
    return {}
