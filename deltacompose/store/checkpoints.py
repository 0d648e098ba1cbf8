"""Mid-training states of unfinished cells: those of cells that train together are numbered alike."""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from deltacompose.errors import BadInput
from deltacompose.formats.files import read_bytes
from deltacompose.formats.json_files import parsed_json, read_json
from deltacompose.limits import STORED_BYTES
from deltacompose.store import atomic as disk
from deltacompose.store import reading


def save(root: Path, writes: Mapping[str, Callable[[Path], None]]) -> None:
    """A new checkpoint of each cell; the older ones stay until all the new ones are there."""
    older = {key: _numbers(root, key) for key in writes}
    new = 1 + max((number for numbers in older.values() for number in numbers), default=0)
    for key, write in writes.items():
        home = _home(root, key)
        with disk.writing(root), disk.temporary(root) as folder:
            write(folder)
            disk.written(folder / "together.json", json.dumps(list(writes)))
            disk.written(folder / "checksums.json", json.dumps(disk.checksums(folder)))
            disk.sync_all(folder)
            home.mkdir(parents=True, exist_ok=True)
            os.rename(folder, home / str(new))
            disk.sync(home)
    for key, numbers in older.items():
        for number in numbers:
            disk.discard(root, _home(root, key) / str(number))


def common(root: Path, keys: Iterable[str]) -> dict[str, Path]:
    """The newest whole checkpoint that all the cells have; else each one's newest, and of some cells none."""
    whole = {key: [n for n in _numbers(root, key) if _is_whole(_home(root, key) / str(n))] for key in keys}
    # A kill between two renames leaves some cells of a bank one checkpoint ahead; the common one resumes them as one.
    shared = set.intersection(*map(set, whole.values())) if whole else set()
    return {key: _home(root, key) / str(max(shared or numbers)) for key, numbers in whole.items() if numbers}


def together(root: Path, key: str) -> tuple[str, ...]:
    """The cells with which a cell's newest checkpoint was saved, in their order."""
    for number in _numbers(root, key):
        if companions := reading.names(_home(root, key) / str(number) / "together.json"):
            return companions
    return ()


def glimpse(root: Path, key: str, name: str) -> Any:
    """A JSON file of a cell's newest checkpoint, as it is; None where there is none or a newer one is being written."""
    for number in _numbers(root, key):
        with contextlib.suppress(BadInput):
            path = _home(root, key) / str(number) / name
            return parsed_json(read_bytes(path, STORED_BYTES), str(path), finite=False)
    return None


def _home(root: Path, key: str) -> Path:
    return root / "checkpoints" / key


def _numbers(root: Path, key: str) -> list[int]:
    """The newest first."""
    return sorted((int(name) for name in disk.names(_home(root, key)) if name.isdigit()), reverse=True)


def _is_whole(checkpoint: Path) -> bool:
    """Whether the files are what was written."""
    try:
        sums: dict[str, str] = read_json(checkpoint / "checksums.json", dict[str, str], STORED_BYTES)
        return all(disk.checksum(checkpoint / name) == expected for name, expected in sums.items())
    except (OSError, BadInput):
        return False
