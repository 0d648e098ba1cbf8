"""The built-in tasks: 26 embedded ones, whose rows are next to this file, and those of the Hugging Face hub.

Each is a row of data in `embedded.yaml`, `hub.yaml` or `peft_bench.yaml`; listing them reads no examples.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

import yaml

from deltacompose.plugins.members import Lazy
from deltacompose.task import Task

HERE = Path(__file__).parent
_EMBEDDED = {"columns": {"input": "input", "target": "target"}, "data": {"split": "split"}, "verified": True}
"""Common part of all embedded tasks."""


def members() -> dict[str, Lazy]:
    """Every built-in task by name, made when it is first read."""
    return {
        name: Lazy("deltacompose_plugins.tasks:task", name)
        for name in (*descriptions("embedded"), *descriptions("hub"), *descriptions("peft_bench"))
    }


def task(name: str) -> Task:
    """The built-in task of that name."""
    from deltacompose.task.build import task_from_mapping

    if name in descriptions("embedded"):
        return task_from_mapping(
            name, {**_EMBEDDED, "path": f"rows/{name}.jsonl", **descriptions("embedded")[name]}, HERE
        )
    described = descriptions("peft_bench" if name in descriptions("peft_bench") else "hub")[name]
    return task_from_mapping(name, {"licence": f"see its card, hf.co/datasets/{described['path']}", **described}, HERE)


@cache
def descriptions(kind: str) -> Mapping[str, Mapping[str, Any]]:
    """The descriptions of the "embedded", the "hub" or the "peft_bench" tasks by name."""
    with (HERE / f"{kind}.yaml").open(encoding="utf-8") as file:
        return dict(yaml.load(file, Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader)) or {})
