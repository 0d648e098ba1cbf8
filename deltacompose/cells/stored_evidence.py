"""Whether a stored cell is of the inputs that its key names, as far as the cell's files tell."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from deltacompose.cells.loaded import task_as_read
from deltacompose.cells.scored_answers import ANSWERS
from deltacompose.cells.task_data import TaskData
from deltacompose.cells.worker_sources import OwnTasks
from deltacompose.errors import BadInput

_READ_FROM = {"train": "task"} | dict.fromkeys(("evaluate", "reconstruct", "tune", "swap", "reuse"), "target")
"""Which field of a spec names the task whose examples a cell's answers are about."""


def rows_fault(record: Mapping[str, Any], folder: Path, own: OwnTasks) -> str:
    """Why the examples of which a cell keeps answers are not those that its key names; empty if they are.

    Args:
        record: of the finished cell.
        folder: with the cell's files.
        own: the descriptions of the study's own tasks.
    """
    spec, role = record["spec"], _READ_FROM.get(record["kind"])
    if role is None or ANSWERS not in record["files"] or spec.get("examples") == "new":
        return ""
    split = "val" if record["kind"] == "train" else spec["split"]
    try:
        rows = [json.loads(line) for line in (folder / ANSWERS).read_text(encoding="utf-8").splitlines()]
        kept = [(row["id"], row["target"]) for row in rows]
    except (OSError, ValueError, KeyError, TypeError) as error:
        return f"cannot be read as answers ({type(error).__name__})"
    try:
        task = task_as_read(TaskData.of(spec), spec[role], own)
        expected = [(example.id, example.target) for example in task.examples(split)]
    except BadInput:
        return ""  # the data that the key names are not at hand, so it cannot be checked
    if kept != expected:
        return f"has {len(kept)} examples that are not the {len(expected)} of {spec[role]!r} that the key names"
    return ""
