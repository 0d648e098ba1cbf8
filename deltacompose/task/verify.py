"""Descriptions against reality: whether a data set is what its description says, and copies of it for offline nodes."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from deltacompose.errors import BadInput
from deltacompose.task.build import Rows
from deltacompose.task.examples import SPLITS, FewShot, Limited
from deltacompose.task.sources import Unreachable, cache_folder, is_file, is_on_hub, load, own_splits
from deltacompose.task.task import Task, check_no_overlap

_NUMBERS = {
    "int": ("int", "uint"),
    "float": ("float", "double"),
    "bool": ("bool",),
    "string": ("string", "large_string"),
}


def verify(task: Task) -> dict[str, Any]:
    """Whether a task's data are what its description says; a row for a table, ready for JSON.

    `state` is `verified`; `differs` (another schema than declared, `reason` says where); `wrong` (it cannot be read as
    described, or its splits overlap); or `unreachable`. `rows` counts the examples of each split, `left_out` those that
    were left out because a later split has their input, and `chance` is the test split's chance score.
    """
    row: dict[str, Any] = {"name": task.name, "source": task.source, "state": "verified", "reason": ""}
    try:
        differences = list(_differences(task.read)) if isinstance(task.read, Rows) else []
        row["rows"] = {split: len(task.examples(split)) for split in SPLITS}
        check_no_overlap(task)
        row["chance"] = task.chance("test")
        if isinstance(task.read, Rows):
            row["left_out"] = {split: task.read.left_out(split) for split in SPLITS}
    except Unreachable as error:
        return row | {"state": "unreachable", "reason": str(error)}
    except BadInput as error:
        return row | {"state": "wrong", "reason": str(error)}
    return row | ({"state": "differs", "reason": "; ".join(differences)} if differences else {})


def baselines(task: Task) -> dict[str, float] | None:
    """The baselines on the test split of a task whose data lie on this machine; nothing is fetched.

    None where the data are the hub's, or a plugin reads them by itself: those are read when somebody asks for it.

    Raises:
        BadInput: the data cannot be read as they are described.
    """
    described = _described(task)
    if described is None or is_on_hub(described.row.path, Path(described.folder)):
        return None
    return task.baselines("test")


def prefetch(tasks: Iterable[Task]) -> list[dict[str, Any]]:
    """Puts the data sets of the hub that tasks need into the cache of `datasets`, for nodes without a network.

    Gives a row for each task: `state` is `cached`, `local` (nothing to fetch) or `failed`, with the reason.
    """
    return [_fetched(task) for task in tasks]


def _fetched(task: Task) -> dict[str, Any]:
    described = _described(task)
    row: dict[str, Any] = {"name": task.name, "source": task.source, "state": "local", "reason": "", "cache": ""}
    if described is None:
        return row
    path, data, folder = described.row.path, described.row.data, Path(described.folder)
    try:
        if not isinstance(path, str) or not is_on_hub(path, folder):
            return row
        whole = dataclasses.replace(data, streaming=False)
        rows = {split: len(load(path, whole, split, folder)) for split in own_splits(path, data)}
    except BadInput as error:
        return row | {"state": "failed", "reason": str(error)}
    return row | {"state": "cached", "rows": rows, "cache": cache_folder(data)}


def _described(task: Task) -> Rows | None:
    """The description behind a task, also of one that was drawn from it; None where a plugin reads by itself."""
    reader: object = task.read
    while isinstance(reader, (FewShot, Limited)):
        whole = getattr(reader.read, "__self__", None)  # the task whose examples are drawn from
        reader = whole.read if isinstance(whole, Task) else None
    return reader if isinstance(reader, Rows) else None


def _differences(rows: Rows) -> Iterator[str]:
    """Where the columns of a data set are not of the declared types, split by split."""
    row, folder = rows.row, Path(rows.folder)
    if not isinstance(row.path, str) or is_file(row.path) or not row.schema:
        return
    for split in own_splits(row.path, row.data):
        features = load(row.path, row.data, split, folder).features or {}
        for name, expected in row.schema.items():
            actual = _type(_feature(features, name))
            if actual != expected:
                yield f"{split}: column {name!r} is {_said(actual)}, not {_said(expected)}"


def _feature(features: Mapping[str, Any], name: str) -> Any:
    feature: Any = features
    for part in [name] if name in features else name.split("."):
        languages = getattr(feature, "languages", ())  # a pair of texts, for translation
        feature = "string" if part in languages else feature.get(part) if isinstance(feature, Mapping) else None
    return feature


def _type(feature: Any) -> str | tuple[str, ...]:
    """A feature of `datasets` in the words of a schema."""
    if feature is None:
        return "missing"
    if names := getattr(feature, "names", None):
        return tuple(names)
    inner = getattr(feature, "feature", None)
    if inner is not None:
        return "list" if _type(inner) == "string" else f"list of {_said(_type(inner))}"
    kind = str(getattr(feature, "dtype", feature))
    return next((word for word, starts in _NUMBERS.items() if kind.startswith(starts)), kind)


def _said(kind: str | tuple[str, ...]) -> str:
    return kind if isinstance(kind, str) else f"classes ({', '.join(kind)})"
