"""The record of a cell: its inputs and outputs as JSON, sealed by its own digest."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from deltacompose.errors import BadInput
from deltacompose.store.atomic import Unwritable
from deltacompose.study.config import Cell

KEY = re.compile(r"[0-9a-f]{64}")


class Damaged(BadInput):
    """A stored cell cannot be read, or is not what was stored."""


class ReadOnly(Unwritable):
    """The store has keys of an earlier version, so nothing can be added to it."""


@dataclass(frozen=True)
class Problem:
    """A fault that `Store.verify` reports for one file of one cell."""

    key: str
    file: str
    reason: str

    def __str__(self) -> str:
        return f"cell {self.key}: {self.file} {self.reason}" if self.key else f"{self.file} {self.reason}"


def checked_key(key: str) -> str:
    """A key, before it becomes a path."""
    if not isinstance(key, str) or not KEY.fullmatch(key):
        raise BadInput(f"{key!r} is not a valid cell key; a key is 64 hexadecimal digits")
    return key


def inputs(cell: Cell) -> dict[str, Any]:
    head = {"format": cell.version, "key": cell.key, "kind": cell.kind}
    return head | {"spec": dict(cell.spec), "parents": list(cell.parents)}


def sealed(record: Mapping[str, Any], cell: Cell) -> str:
    """The record as JSON, sealed by its own digest."""
    try:
        text = json.dumps(record, allow_nan=False)
        return json.dumps(json.loads(text) | {"digest": digest(json.loads(text))})
    except (TypeError, ValueError) as error:
        raise BadInput(f"the result of the {cell.kind} cell {cell.key} cannot be stored: {error}") from error


def digest(record: Mapping[str, Any]) -> str:
    """SHA-256 of a record as read from JSON (whose keys are texts, whatever they were before)."""
    return hashlib.sha256(json.dumps(record, sort_keys=True).encode()).hexdigest()
