"""Copying the cells of a store with keys of an earlier version into a new store, under keys of the present version.

A cell is copied where all that its new key names is known to be what it was computed from:

* the study, with the inputs at hand, plans the cell under its old key: the weights to a bfloat16, the examples, the
  settings and the versions of the methods are those of then;
* its record and files are whole, and its answers are about the examples of the task at hand;
* its methods come from the distributions that its delta names;
* what the old key and the cell say nothing of (the exact weights, the configurations, the tokenizer, the table, the
  source of plugins' methods) was last changed before the cell was finished, by the file system's times, or the user
  states that it is unchanged;
* every cell that it rests on is copied.

All others are listed with the reason, to be computed again. The old store is only read. A copy is written like any
cell, so a migration that is killed is completed by the next.
"""

from __future__ import annotations

import datetime
import json
import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import networkx as nx

from deltacompose import registry
from deltacompose.cells.loaded import backbone_of
from deltacompose.cells.stored_evidence import rows_fault
from deltacompose.cells.study_facts import facts
from deltacompose.cells.worker_sources import OwnTasks, Sources
from deltacompose.engine import label
from deltacompose.errors import BadInput
from deltacompose.planning import plan as planning
from deltacompose.store.store import FORMAT, Store, open_store
from deltacompose.study.config import Cell, Study

UNCHANGED = "--unchanged"
"""The option by which a user states that nothing that the old keys do not cover was changed."""


@dataclass(frozen=True)
class Migration:
    """Outcome of migrating the cells of an old store.

    Attributes:
        store: the new one.
        copied: new key by old key.
        again: the cells that must be computed again: their label and the reason, by old key.
        unasked: keys of the old cells that no study asks for; they stay in the old store.
    """

    store: Path
    copied: Mapping[str, str]
    again: Mapping[str, tuple[str, str]]
    unasked: tuple[str, ...]


@dataclass
class _Copying:
    """One migration under way; its two mappings grow."""

    old: Store
    new: Store
    unchanged: bool
    copied: dict[str, str] = field(default_factory=dict)
    again: dict[str, tuple[str, str]] = field(default_factory=dict)


def migrate(old: Store, studies: Sequence[Study], place: str | Path, unchanged: bool = False) -> Migration:
    """Copies what still holds of an old store into a new one.

    Args:
        studies: those that the old store was made with, their inputs at hand.
        place: the folder of the new store, which is made if need be.
        unchanged: the user's statement that nothing that the old keys do not cover was changed.

    Raises:
        BadInput: the store has keys of the present version, or the place is another old store.
    """
    if old.format == FORMAT:
        raise BadInput(f"store {old.root} has keys of version {FORMAT} already; there is nothing to migrate")
    new = open_store(place)
    new.check_writable()
    copying = _Copying(old, new, unchanged)
    for study in studies:
        _copy_study(copying, study)
    stored = old.keys()
    rest = [key for key in stored if key not in copying.copied and key not in copying.again]
    return Migration(new.root, copying.copied, copying.again, tuple(rest))


def _copy_study(copying: _Copying, study: Study) -> None:
    versions = (facts(study, copying.old.format), facts(study))
    then, now = (planning.prepare(study, known, registry.parse) for known in versions)
    sources = Sources.of(study)
    limits = _last_changes(study, sources)
    copying.new.keep_labels({name: task.category for name, task in now.facts.tasks.items()})
    waiting = list(_pairs(_cells(then), _cells(now)))
    seen: set[str] = set()
    while waiting:
        before, after = waiting.pop(0)
        if before.key in seen or not copying.old.has(before.key):
            continue
        seen.add(before.key)
        reason = _why_again(copying, before, sources.own_tasks, limits)
        if reason:
            copying.again.setdefault(before.key, (label(before), reason))
            continue
        _copy(copying, before, after)
        added = (
            then.extend(before, copying.old.record(before.key)),
            now.extend(after, copying.new.record(after.key)),
        )
        waiting += _pairs(*map(list, added))
    for key in copying.copied:
        copying.again.pop(key, None)


def _cells(prepared: planning.Prepared) -> list[Cell]:
    """The cells of a study, each after those that it reads."""
    graph = prepared.plan
    return [graph.nodes[key]["cell"] for key in nx.topological_sort(graph)]


def _pairs(then: Sequence[Cell], now: Sequence[Cell]) -> Iterator[tuple[Cell, Cell]]:
    """The same cells under old and new keys: both plans are written by the same steps in the same order."""
    for before, after in zip(then, now, strict=True):
        if (before.kind, label(before)) != (after.kind, label(after)):
            raise RuntimeError(f"the plans differ in order: {label(before)} and {label(after)}")
        yield before, after


def _why_again(copying: _Copying, cell: Cell, own: OwnTasks, limits: Mapping[str, datetime.datetime | None]) -> str:
    """Why a cell cannot be copied, as the end of a sentence; empty if it can."""
    old = copying.old
    problems = old.problems(cell.key)
    if problems:
        return f"{problems[0].file} {problems[0].reason}"
    for parent in cell.parents:
        if parent not in copying.copied:
            return "a cell that it rests on must be computed again"
    record = old.record(cell.key)
    fault = rows_fault(record, old.folder(cell.key), own) or _other_code(old.folder(cell.key))
    if fault or copying.unchanged:
        return fault
    finished = datetime.datetime.fromisoformat(record["finished"])
    for what, changed in limits.items():
        if changed is None:
            return f"the old key does not cover {what}; {UNCHANGED} states that it is the same"
        if changed >= finished:
            return f"{what} was changed after the cell was finished; {UNCHANGED} states that it is the same"
    return ""


def _other_code(folder: Path) -> str:
    """Whether a delta names other distributions of its methods than those that are installed."""
    path = folder / "delta.json"
    origins = json.loads(path.read_text()).get("plugins", {}) if path.is_file() else {}
    for name, origin in origins.items():
        present = registry.origin_of(name) if name in registry.methods() else "nothing installed"
        if present != origin:
            return f"method {name!r} came from {origin}, and comes from {present} now"
    return ""


def _last_changes(study: Study, sources: Sources) -> dict[str, datetime.datetime | None]:
    """When what the old keys do not cover was last changed, by its name; None where nothing tells."""
    backbone = backbone_of(sources.backbone)
    files = backbone.files.paths if backbone.files else []
    changes: dict[str, datetime.datetime | None] = {f"the model in {study.backbone.model}": _latest(files)}
    if isinstance(study.backbone.table, dict):
        changes["the table that is written out in the study"] = None
    for method in sorted({part.name for text in study.compositions for _, part in registry.parse(text).parts()}):
        paths = registry.sources_of(method)
        if paths:
            changes[f"the source of method {method!r}"] = _latest(paths)
    return changes


def _latest(paths: Sequence[Path]) -> datetime.datetime | None:
    """When one of some files was last written, renamed or replaced."""
    times = [max(status.st_mtime, status.st_ctime) for status in (path.stat() for path in paths)]
    return datetime.datetime.fromtimestamp(max(times), datetime.UTC) if times else None


def _copy(copying: _Copying, before: Cell, after: Cell) -> None:
    """Writes the new cell; keys within its result are rewritten too."""
    record, folder = copying.old.record(before.key), copying.old.folder(before.key)
    result = {name: value for name, value in record["result"].items() if name != "category"}
    origin = {name: record[name] for name in ("host", "finished")}
    origin["migrated"] = {"from": before.key, "stated": copying.unchanged}

    def write(place: Path) -> None:
        for name in record["files"]:
            (place / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(folder / name, place / name)

    copying.new.add(after, _with_keys(result, copying.copied), write, record["seconds"], origin)
    copying.copied[before.key] = after.key


def _with_keys(value: Any, keys: Mapping[str, str]) -> Any:
    """A result in which every old key is the new one."""
    if isinstance(value, Mapping):
        return {keys.get(name, name): _with_keys(each, keys) for name, each in value.items()}
    if isinstance(value, list):
        return [_with_keys(each, keys) for each in value]
    return keys.get(value, value) if isinstance(value, str) else value
