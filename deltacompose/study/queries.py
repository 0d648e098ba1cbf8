"""Queries on the records of a store: which of them are finished, of which kind, of which task.

A record is the JSON of a cell: `key`, `kind`, `spec`, `parents`, and `result` if `state` is `done`. Records of stores
that were written before failures were kept with them have no `state`; they are finished.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

Record = Mapping[str, Any]
"""The record of a cell, as a store returns it."""


def is_done(record: Record) -> bool:
    """Whether a record is that of a finished cell.

    >>> is_done({"kind": "train"}), is_done({"kind": "train", "state": "failed"})
    (True, False)
    """
    return bool(record.get("state", "done") == "done")


def done(records: Iterable[Record], *kinds: str) -> list[Record]:
    """The records of finished cells; of these kinds if any are given.

    >>> records = [{"kind": "train"}, {"kind": "evaluate"}, {"kind": "train", "state": "failed"}]
    >>> done(records, "train")
    [{'kind': 'train'}]
    """
    return [record for record in records if is_done(record) and (not kinds or record["kind"] in kinds)]


def failed(records: Iterable[Record]) -> list[Record]:
    """The records of cells that failed."""
    return [record for record in records if not is_done(record)]


def of_kind(records: Iterable[Record], *kinds: str) -> list[Record]:
    """The records of these kinds, finished and failed."""
    return [record for record in records if record["kind"] in kinds]


def of_spec(records: Iterable[Record], **fields: Any) -> list[Record]:
    """The records whose spec has these values.

    >>> of_spec([{"spec": {"task": "sst2"}}, {"spec": {"task": "rte"}}], task="rte")
    [{'spec': {'task': 'rte'}}]
    """
    wanted = fields.items()
    return [record for record in records if all(record["spec"].get(name) == value for name, value in wanted)]


def by_key(records: Iterable[Record]) -> dict[str, Record]:
    """The records by the keys of their cells."""
    return {str(record["key"]): record for record in records}
