"""Cells on disk, named by the hash of their inputs: what is there is whole, whatever was killed when.

A cell's folder is written under `tmp/`, its files and its record (the last) are fsynced, and one rename puts it in
place. Whoever finds the place taken drops its own copy. Nothing here trusts a clock.

    store.json                          the format of the store
    labels.json                         what only presentation needs: the categories of the tasks of the latest run
    environments/<digest>.json          versions of libraries and processors with which cells were computed
    cells/<first two digits>/<key>/     record.json and the cell's further files
    failed/<key>.json                   what went wrong, with traceback: failed is not missing
    checkpoints/<key>/<number>/         mid-training states, the newest last; together.json names cells saved with it
    tmp/<machine>.<pid>.<random>/       what is being written or removed
    aside/                              damaged cells, kept for the curious
    events.jsonl                        what happened, one JSON object a line
"""

from __future__ import annotations

import contextlib
import datetime
import errno
import json
import os
import socket
import traceback
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from deltacompose.errors import BadInput
from deltacompose.formats.files import Missing
from deltacompose.formats.json_files import read_json
from deltacompose.store import atomic as disk
from deltacompose.store import checkpoints, notes, reading
from deltacompose.store.atomic import Unwritable, alive, machine
from deltacompose.store.export import write_table
from deltacompose.store.record import KEY, Damaged, Problem, ReadOnly, checked_key, inputs, sealed
from deltacompose.study.config import KEYS, Cell

__all__ = ["FORMAT", "Damaged", "Problem", "ReadOnly", "Store", "Unwritable", "alive", "machine", "open_store"]

FORMAT = KEYS
"""The version of a store: that of the keys of its cells. A store of an earlier one can be read, and migrated."""

State = Literal["done", "failed", "absent"]


def open_store(path: str | Path, create: bool = True) -> Store:
    """The store in a folder; where the folder is new or empty, a new store, if `create` says so.

    >>> open_store(folder / "new").keys()
    []

    Raises:
        BadInput: the store is of another format, the folder holds something else, or it cannot be made.
    """
    root = Path(path).absolute()
    try:
        content = read_json(root / "store.json", dict[str, Any])
    except Missing:
        return _new_store(root, create)
    except BadInput as error:
        raise BadInput(f"{root} cannot be opened as a store: store.json is unreadable ({error})") from error
    version = content.get("format") if isinstance(content, dict) else None
    if type(version) is not int or not 1 <= version <= FORMAT:
        advice = "a later deltacompose made it" if type(version) is int and version > FORMAT else "give another folder"
        raise BadInput(f"store {root} has format {version!r:.100}; this version reads formats 1 to {FORMAT}; {advice}")
    return Store(root, version)


def _new_store(root: Path, create: bool) -> Store:
    # Processes that make one store at once see each other's unfinished store.json; it does not make the folder foreign.
    others = [name for name in disk.names(root) if not name.startswith(".store.json")]
    if others and not (root / "store.json").exists():
        raise BadInput(f"folder {root} is not a store and not empty (it has {min(others)!r}); give a new or empty one")
    if not others and not create:
        raise BadInput(f"there is no store at {root}; a run with that store makes one")
    with disk.writing(root):
        root.mkdir(parents=True, exist_ok=True)
        draft = root / f".store.json.{uuid.uuid4().hex}"
        disk.written(draft, json.dumps({"format": FORMAT}))
        os.replace(draft, root / "store.json")
        disk.sync(root)
    return Store(root)


@dataclass(frozen=True)
class Store:
    """A folder of finished cells. Many processes, also on several machines, may write to it at once.

    Attributes:
        format: the version of its cells' keys; one of an earlier version can only be read.
    """

    root: Path
    format: int = FORMAT

    @property
    def why_read_only(self) -> str:
        """Why nothing can be added, as a sentence; empty where cells can be added."""
        if self.format == FORMAT:
            return ""
        return (
            f"store {self.root} can only be read: its cell keys have version {self.format}, which does not cover "
            "tokenizers, configurations, exact weights and the code of methods, so a changed input would go unnoticed; "
            "`deltacompose store migrate` copies what still holds into a new store"
        )

    def _writing(self) -> contextlib.AbstractContextManager[None]:
        """Every change of the store happens within.

        Raises:
            ReadOnly: the store has keys of an earlier version.
        """
        if self.why_read_only:
            raise ReadOnly(self.why_read_only)
        return disk.writing(self.root)

    def folder(self, key: str) -> Path:
        """Where a cell's record and files lie, or would lie."""
        return self.root / "cells" / checked_key(key)[:2] / key

    def has(self, key: str) -> bool:
        """Whether the cell is finished."""
        return (self.folder(key) / "record.json").exists()

    def state(self, key: str) -> State:
        """`done` if the cell is finished, else `failed` if a failure is kept, else `absent`."""
        return "done" if self.has(key) else "failed" if self._failure(key).exists() else "absent"

    def keys(self, state: State = "done") -> list[str]:
        """The keys of all cells in a state (`done` or `failed`), sorted."""
        if state == "failed":
            names = [name.removesuffix(".json") for name in disk.names(self.root / "failed")]
        else:
            cells = self.root / "cells"
            names = [name for group in disk.names(cells) for name in disk.names(cells / group)]
        return sorted(filter(KEY.fullmatch, names))

    def record(self, key: str) -> dict[str, Any]:
        """The record of a finished cell.

        Raises:
            BadInput: there is no such cell.
            Damaged: its record is truncated, foreign, or not what was stored.
        """
        return reading.record(self.folder(key), key)

    def failure(self, key: str) -> dict[str, Any]:
        """The record of a failed cell: `error`, `message`, `traceback`, `attempts` and its inputs."""
        return reading.failure(self._failure(key))

    def records(
        self, kind: str | None = None, state: State = "done", damaged: list[Problem] | None = None
    ) -> Iterator[dict[str, Any]]:
        """All records, in the order of their keys; those of one kind where one is named.

        Args:
            damaged: takes a problem for each record that is damaged, which is then left out; without it the first
                damaged one is raised.
        """
        read, name = (self.failure, "failure") if state == "failed" else (self.record, "record.json")
        for key in self.keys(state):
            try:
                record = read(key)
            except Damaged as error:
                if damaged is None:
                    raise
                damaged.append(Problem(key, name, f"is damaged: {error}"))
                continue
            if kind is None or record["kind"] == kind:
                yield record

    def add(
        self,
        cell: Cell,
        result: Mapping[str, Any],
        write: Callable[[Path], None] | None = None,
        seconds: float = 0.0,
        origin: Mapping[str, Any] | None = None,
    ) -> bool:
        """Store a finished cell; `write` puts its further files into the folder that it is given.

        Args:
            origin: where, when and with which libraries it was computed; here and now if None.

        Returns:
            False where another process had stored the cell before; then nothing changes.

        Raises:
            Unwritable: full disk, read-only file system, missing permission.
            BadInput: the result is not JSON, or holds a number that is not finite.
        """
        with self._writing(), disk.temporary(self.root) as folder:
            if write is not None:
                write(folder)
            outputs = {"result": dict(result), "files": disk.checksums(folder), "seconds": seconds}
            record = inputs(cell) | outputs | {"state": "done"} | dict(origin or self._origin())
            (folder / "record.json").write_text(sealed(record, cell), encoding="utf-8")
            disk.sync_all(folder)  # the record with the other files, each once
            won = self._placed(folder, cell.key)
        with self._writing():
            self._failure(cell.key).unlink(missing_ok=True)
        self.drop_checkpoint(cell.key)
        return won

    def _placed(self, folder: Path, key: str) -> bool:
        """Rename a complete folder to the cell's place, unless a readable cell stands there."""
        place = self.folder(key)
        place.parent.mkdir(parents=True, exist_ok=True)
        try:  # renaming onto a folder that is not empty fails: of two processes one wins, and no cell is overwritten
            os.rename(folder, place)
        except OSError as error:
            if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
                raise
            if self.intact(key) is not None:
                return False
            self.set_aside(key)
            return self._placed(folder, key)
        # The names of the cell and of its two-letter folder must survive a power cut as well.
        # The rename is on the disk with its folder; that folder, one of 256, must be there itself.
        disk.sync(place.parent)
        disk.sync_name(place.parent)
        return True

    def intact(self, key: str) -> dict[str, Any] | None:
        """The record of a finished cell; None where there is none, or it is damaged and a run computes it again."""
        try:
            return self.record(key)
        except BadInput:
            return None

    def fail(self, cell: Cell, error: BaseException, attempts: int = 1) -> None:
        """Keep why a cell failed; `attempts` add to those of an earlier failure. A finished cell stays finished."""
        if self.has(cell.key):
            return
        with contextlib.suppress(BadInput):
            attempts += self.failure(cell.key)["attempts"]
        reason = {"error": getattr(error, "kind", type(error).__name__), "message": str(error)}
        details = {"traceback": "".join(traceback.format_exception(error)), "attempts": attempts}
        with self._writing(), disk.temporary(self.root) as folder:
            failure = inputs(cell) | reason | details | {"state": "failed"} | self._origin()
            disk.written(folder / "failure.json", json.dumps(failure, indent=1))
            self._failure(cell.key).parent.mkdir(exist_ok=True)
            os.replace(folder / "failure.json", self._failure(cell.key))
            disk.sync(self.root / "failed")

    def forget_failures(self, keys: Iterable[str]) -> None:
        """Make failed cells absent, so that the next run tries them again."""
        with self._writing():
            for key in keys:
                self._failure(key).unlink(missing_ok=True)

    def checkpoint(self, key: str) -> Path | None:
        """The folder of a cell's newest whole checkpoint, its checksums compared; None where there is none."""
        return self.checkpoints([key]).get(key)

    def checkpoints(self, keys: Iterable[str]) -> dict[str, Path]:
        """For each of some cells the folder of a whole checkpoint: of the newest that all of them have.

        Where no checkpoint is common to all it is each one's newest; a cell that has none is left out.
        """
        return checkpoints.common(self.root, map(checked_key, keys))

    def save_checkpoint(self, key: str, write: Callable[[Path], None]) -> None:
        """Replace a cell's checkpoint by what `write` puts into the folder that it is given."""
        self.save_checkpoints({key: write})

    def save_checkpoints(self, writes: Mapping[str, Callable[[Path], None]]) -> None:
        """Replace the checkpoints of cells that train together; whatever is killed when, all have one in common."""
        with self._writing():
            checkpoints.save(self.root, {checked_key(key): write for key, write in writes.items()})

    def together(self, key: str) -> tuple[str, ...]:
        """The cells with which an unfinished one was last saved, itself among them; none where it has no checkpoint."""
        return checkpoints.together(self.root, checked_key(key))

    def glimpse(self, key: str, name: str) -> Any:
        """Content of a JSON file of a cell's newest checkpoint, unchecked; None if it cannot be read now."""
        return checkpoints.glimpse(self.root, checked_key(key), name)

    def drop_checkpoint(self, key: str) -> None:
        """Remove a cell's checkpoint; `add` does so of itself."""
        disk.discard(self.root, self.root / "checkpoints" / checked_key(key))

    def check_writable(self) -> None:
        """Raise `Unwritable` before any work is done in vain."""
        with self._writing(), disk.temporary(self.root) as folder:
            disk.written(folder / "probe", "0")

    def set_aside(self, key: str) -> Path:
        """Move a damaged cell out of the way, so that the next run computes it again; gives where it lies now."""
        place = self.root / "aside" / f"{checked_key(key)}.{uuid.uuid4().hex}"
        with self._writing(), contextlib.suppress(FileNotFoundError):
            place.parent.mkdir(exist_ok=True)
            os.rename(self.folder(key), place)
        return place

    def labels(self) -> dict[str, str]:
        """The category of each task of the latest run, for presentation; empty where none is kept."""
        return notes.labels(self.root)

    def keep_labels(self, categories: Mapping[str, str]) -> None:
        """Stores the categories of tasks and keeps those of other tasks."""
        with self._writing():
            notes.keep_labels(self.root, categories)

    def environments(self) -> list[dict[str, str]]:
        """The versions of libraries, and the processors, with which cells were computed: one mapping for each set."""
        return notes.environments(self.root)

    def _origin(self) -> dict[str, Any]:
        """Where, when and with which libraries a cell is computed."""
        now = datetime.datetime.now(datetime.UTC).isoformat()
        return {"host": socket.gethostname(), "finished": now, "environment": notes.keep_environment(self.root)}

    def verify(self) -> list[Problem]:
        """Compare every file of every finished cell with its recorded checksum, and read every failure."""
        problems = [problem for key in self.keys() for problem in self._problems(key)]
        for _ in self.records(state="failed", damaged=problems):
            pass
        return problems

    def problems(self, key: str) -> list[Problem]:
        """Faults of one finished cell."""
        return list(self._problems(key))

    def _problems(self, key: str) -> Iterator[Problem]:
        try:
            record = self.record(key)
        except Damaged as error:
            yield Problem(key, "record.json", f"is damaged: {error}")
            return
        if Cell(record["kind"], record["spec"], tuple(record["parents"]), version=self.format).key != key:
            yield Problem(key, "record.json", "says other inputs than those its key was made of")
        for name, reason in reading.changed(self.folder(key), record["files"]):
            yield Problem(key, name, reason)

    def gc(self, keep: Iterable[str], dry: bool = True, leftovers: bool = False) -> list[Path]:
        """Cells that neither `keep` nor its parents need; removed unless `dry`.

        That is other cells, their failures and checkpoints, checkpoints of finished cells, and what was set aside.

        Args:
            leftovers: also what other machines have left half-written, a day ago or longer; for when nobody works here.
        """
        kept = self._with_parents(keep)
        places = [self.folder(key) for key in self.keys() if key not in kept]
        places += [self._failure(key) for key in self.keys("failed") if key not in kept]
        begun = filter(KEY.fullmatch, disk.names(self.root / "checkpoints"))
        places += [self.root / "checkpoints" / key for key in begun if key not in kept or self.has(key)]
        places += [self.root / "aside" / name for name in disk.names(self.root / "aside")]
        places += [self.root / "tmp" / name for name in disk.of_other_machines(self.root) if leftovers]
        for place in () if dry else places:
            with self._writing():
                disk.discard(self.root, place)
        return places

    def _with_parents(self, keep: Iterable[str]) -> set[str]:
        kept: set[str] = set()
        waiting = list(keep)
        while waiting:
            key = waiting.pop()
            if key not in kept:
                kept.add(key)
                waiting += self.record(key)["parents"] if self.has(key) else []
        return kept

    def sweep(self) -> int:
        """Remove what dead processes of this machine left in `tmp/`, and only that; gives how many there were."""
        return disk.sweep(self.root)

    def export(self, path: str | Path, damaged: list[Problem] | None = None) -> int:
        """Write all cells, finished and failed, as a tidy .csv or .parquet table; gives the number of rows.

        Args:
            damaged: takes the damaged ones, as in `records`.
        """
        return write_table([*self.records(damaged=damaged), *self.records(state="failed", damaged=damaged)], Path(path))

    def log(self, event: Mapping[str, Any]) -> None:
        """Append one event to `events.jsonl`."""
        with self._writing(), open(self.root / "events.jsonl", "ab+", buffering=0) as file:
            file.seek(max(file.seek(0, os.SEEK_END) - 1, 0))
            torn = file.read(1) not in (b"", b"\n")  # a writer was killed in mid-line
            file.write(b"\n" * torn + json.dumps(event).encode() + b"\n")

    def events(self, damaged: list[Problem] | None = None) -> Iterator[dict[str, Any]]:
        """All events, oldest first; a line that a killed writer left unfinished, or that is damaged, is left out.

        Args:
            damaged: takes a problem for each line that is left out.
        """
        return reading.events(self.root / "events.jsonl", [] if damaged is None else damaged)

    def _failure(self, key: str) -> Path:
        return self.root / "failed" / f"{checked_key(key)}.json"
