"""The JSON files of a store as they are read back: they have the expected types, or are refused."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any

from annotated_types import Ge, Le
from typing_extensions import TypedDict

from deltacompose.errors import BadInput, quoted
from deltacompose.formats.files import Missing, opened
from deltacompose.formats.json_files import parsed_json, read_json
from deltacompose.limits import EVENT_BYTES, STORED_BYTES
from deltacompose.store import atomic
from deltacompose.store.record import Damaged, Problem, digest
from deltacompose.validation import validated


class _Inputs(TypedDict):
    key: str
    kind: str
    spec: dict[str, Any]
    parents: list[str]


class _Record(_Inputs):
    result: dict[str, Any]
    files: dict[str, str]
    seconds: float


class _Failure(_Inputs):
    error: str
    message: str
    attempts: int


class _Event(TypedDict, total=False):
    event: str
    run: str
    counts: dict[str, int]
    eta: float | None
    machine: str
    pid: Annotated[int, Ge(0), Le(2**31)]
    key: str
    keys: list[str]
    label: str
    reason: str
    blocked: list[str]
    step: int
    score: float | None


_NEEDED: Mapping[str, tuple[str, ...]] = {
    "run": ("machine", "pid"),
    "start": ("keys",),
    "done": ("key",),
    "failed": ("key", "label", "reason", "blocked"),
    "again": ("keys",),
    "evaluated": ("key", "label", "step", "score"),
}
"""Entries that an event must have besides those of every event."""


def record(folder: Path, key: str) -> dict[str, Any]:
    """The record of a finished cell.

    Raises:
        BadInput: there is no such cell.
        Damaged: the record is missing, truncated, of another type, or not what was stored.
    """
    path = folder / "record.json"
    try:
        data: dict[str, Any] = read_json(path, _Record, STORED_BYTES)
    except Missing:
        if folder.exists():
            raise Damaged(f"{path} is missing from the cell's files; a run computes the cell again") from None
        raise BadInput(f"the store {folder.parents[2]} has no cell {key}") from None
    except BadInput as error:
        raise Damaged(f"{path} is truncated or not valid ({error}); a run computes the cell again") from None
    if data["key"] != key or data.pop("digest", None) != digest(data):
        raise Damaged(f"{path} is not what was stored; a run computes the cell again")
    return data


def failure(path: Path) -> dict[str, Any]:
    """The record of a failed cell, whose key is the name of the file.

    Raises:
        BadInput: no failure of the cell is kept.
        Damaged: it is truncated, of another type, or that of another cell.
    """
    try:
        data: dict[str, Any] = read_json(path, _Failure, STORED_BYTES)
        if data["key"] != path.stem:
            raise BadInput(f"it is the failure of {quoted(data['key'])}")
    except Missing:
        raise BadInput(f"the store {path.parents[1]} keeps no failure of cell {path.stem}") from None
    except BadInput as error:
        raise Damaged(f"{path} is truncated or not valid ({error}); a retry forgets it") from None
    return data


def events(path: Path, damaged: list[Problem]) -> Iterator[dict[str, Any]]:
    """The events of a log, oldest first; each line that is not one is added to `damaged` and left out."""

    def tell(reason: str) -> None:
        damaged.append(Problem("", path.name, f"is damaged: {reason}"))

    for number, line in _lines(path, tell):
        try:
            event = validated(_Event, parsed_json(line, f"line {number}"), f"line {number}")
        except BadInput as error:
            tell(str(error))
        else:
            yield event


def events_after(path: Path, offset: int, damaged: list[Problem]) -> tuple[list[dict[str, Any]], int]:
    """The events of a log behind so many bytes, and the number of bytes to begin with next time.

    A last line without its end is left for the next time: another process is writing it.
    """
    try:
        with opened(path) as file:
            file.seek(offset)
            content = file.read()
    except Missing:
        return [], offset
    except BadInput as error:
        damaged.append(Problem("", path.name, f"is damaged: {error}"))
        return [], offset
    whole = content[: content.rfind(b"\n") + 1]
    parsed = []
    for line in whole.splitlines():
        try:
            parsed.append(validated(_Event, parsed_json(line, path.name), path.name))
        except BadInput as error:
            damaged.append(Problem("", path.name, f"is damaged: {error}"))
    return parsed, offset + len(whole)


def missing_of(event: Mapping[str, Any]) -> str:
    """The name of an entry that an event of a run lacks; empty where it lacks none."""
    needed = ("event", "run", "counts", "eta", *_NEEDED.get(event.get("event", ""), ()))
    return next((name for name in needed if name not in event), "")


def changed(folder: Path, checksums: Mapping[str, str]) -> Iterator[tuple[str, str]]:
    """The files of a cell that are not as they were stored, each with what is wrong, by their recorded checksums."""
    for name, expected in checksums.items():
        if ".." in Path(name).parts or Path(name).is_absolute():
            yield "record.json", f"names the file {quoted(name)}, which is not in the cell's folder"
            continue
        try:
            if atomic.checksum(folder / name) != expected:
                yield name, "has another checksum than when it was stored"
        except Missing:
            yield name, "cannot be read: No such file or directory"
        except BadInput as error:
            yield name, f"is damaged: {error}"


def names(path: Path) -> tuple[str, ...]:
    """The texts in a JSON file that is a list of texts; none where it cannot be read or is something else."""
    with contextlib.suppress(BadInput):
        return tuple(read_json(path, list[str], STORED_BYTES))
    return ()


def _lines(path: Path, tell: Callable[[str], object]) -> Iterator[tuple[int, bytes]]:
    """The lines of a log with their numbers; one that is too long is left out without being read whole."""
    try:
        file = opened(path)
    except Missing:
        return
    except BadInput as error:
        tell(str(error))
        return
    with file:
        number = 0
        while line := file.readline(EVENT_BYTES + 1):
            number += 1
            if len(line) <= EVENT_BYTES:
                yield number, line
                continue
            while line and not line.endswith(b"\n"):
                line = file.readline(EVENT_BYTES)
            tell(f"line {number} has more than {EVENT_BYTES} bytes, the limit")
