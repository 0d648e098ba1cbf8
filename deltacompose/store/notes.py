"""Small files of a store that no cell depends on: the categories of tasks, and the environments of its cells."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
from collections.abc import Mapping
from pathlib import Path

from typing_extensions import TypedDict

from deltacompose.errors import BadInput
from deltacompose.formats.json_files import read_json
from deltacompose.store import atomic
from deltacompose.store.environment import environment


def labels(root: Path) -> dict[str, str]:
    """The category of each task; empty where none is kept or the file is damaged."""
    with contextlib.suppress(BadInput):
        return dict(read_json(root / "labels.json", _Labels)["categories"])
    return {}


class _Labels(TypedDict):
    categories: dict[str, str]


def keep_labels(root: Path, categories: Mapping[str, str]) -> None:
    """Stores the categories of tasks and keeps those of other tasks."""
    known = labels(root)
    if known != known | dict(categories):
        _put(root, "labels.json", {"categories": known | dict(categories)})


def environments(root: Path) -> list[dict[str, str]]:
    """Every environment in which a cell of the store was computed."""
    recorded = []
    for name in sorted(atomic.names(root / "environments")):
        with contextlib.suppress(BadInput):
            recorded.append(read_json(root / "environments" / name, dict[str, str]))
    return recorded


def keep_environment(root: Path) -> dict[str, str]:
    """This process's environment, which the store then has among its own."""
    own = dict(environment())
    name = hashlib.sha256(json.dumps(own, sort_keys=True).encode()).hexdigest()[:16]
    if not (root / "environments" / f"{name}.json").exists():
        _put(root, f"environments/{name}.json", own)
    return own


def _put(root: Path, name: str, content: Mapping[str, object]) -> None:
    """Replace a file as a whole."""
    with atomic.temporary(root) as folder:
        atomic.written(folder / "draft", json.dumps(content, indent=1))
        (root / name).parent.mkdir(exist_ok=True)
        os.replace(folder / "draft", root / name)
