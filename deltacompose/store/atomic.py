"""Writing so that a kill at any moment leaves nothing half-written in sight."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import re
import shutil
import socket
import time
import uuid
from collections.abc import Iterator
from functools import cache
from pathlib import Path

from deltacompose.errors import BadInput
from deltacompose.formats.files import opened

HOPELESS = {errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EPERM}
"""Error numbers of the system for which a retry is futile."""


_A_DAY = 86400


class Unwritable(BadInput):
    """The store cannot be written: a full disk, a read-only file system, missing permission."""


@contextlib.contextmanager
def writing(root: Path) -> Iterator[None]:
    """Within, a failure to write for which a retry is futile becomes one sentence, `Unwritable`."""
    try:
        yield
    except Exception as error:
        # safetensors reports a full disk as an error of its own, with the system's number in its text
        number = getattr(error, "errno", None) or next(map(int, re.findall(r"os error (\d+)", str(error))), None)
        if number not in HOPELESS:
            raise
        reason = os.strerror(int(number))
        raise Unwritable(f"the store {root} cannot be written: {reason}; finished cells are kept") from error


@contextlib.contextmanager
def temporary(root: Path) -> Iterator[Path]:
    """A new folder under `<root>/tmp` that no one else touches, and that is gone afterwards unless it was renamed."""
    folder = root / "tmp" / f"{machine()}.{os.getpid()}.{uuid.uuid4().hex}"
    folder.mkdir(parents=True)
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)  # what cannot be removed now is swept later


def discard(root: Path, place: Path) -> None:
    """Remove a file or folder. One rename takes it away first, so that no reader sees half of it."""
    if place.exists():
        with writing(root), temporary(root) as folder, contextlib.suppress(FileNotFoundError):
            os.rename(place, folder / "discarded")


def sweep(root: Path) -> int:
    """Remove what dead processes of this machine left under `<root>/tmp`; gives how many there were."""
    stale = [name for name in names(root / "tmp") if _owner_is_dead(name)]
    for name in stale:
        discard(root, root / "tmp" / name)
    return len(stale)


def of_other_machines(root: Path) -> list[str]:
    """The folders under `<root>/tmp` of which this machine cannot tell whether their owners live, if a day old."""
    leftovers = []
    for name in names(root / "tmp"):
        with contextlib.suppress(FileNotFoundError):
            age = time.time() - (root / "tmp" / name).stat().st_mtime
            if name.partition(".")[0] != machine() and age > _A_DAY:
                leftovers.append(name)
    return sorted(leftovers)


def written(path: Path, text: str) -> None:
    """Write a new file and wait until it is on the disk."""
    with open(path, "x") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())


def sync(path: Path) -> None:
    """Wait until a file, or the names in a folder, are on the disk."""
    number = os.open(path, os.O_RDONLY)
    try:
        os.fsync(number)
    finally:
        os.close(number)


def sync_name(folder: Path) -> None:
    """Wait until the name of a folder is on the disk; once in a process for each folder, whose name then stays there.

    A folder that was removed and made again has another number, and is synced again.
    """
    status = os.stat(folder)
    known = (str(folder), status.st_dev, status.st_ino)
    if known not in _NAMED:
        sync(folder.parent)
        _NAMED.add(known)


_NAMED: set[tuple[str, int, int]] = set()
"""Folders whose names this process has seen on the disk: a store has 256 for its cells."""


def sync_all(folder: Path) -> None:
    """Wait until a folder with all that it holds is on the disk."""
    for path in folder.rglob("*"):
        sync(path)
    sync(folder)


def checksum(path: Path) -> str:
    """SHA-256 of a file.

    Raises:
        BadInput: it cannot be read, or is a named pipe or something else that is not a regular file.
    """
    with opened(path) as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def checksums(folder: Path) -> dict[str, str]:
    """SHA-256 of every file under a folder, by its name relative to that folder."""
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {path.relative_to(folder).as_posix(): checksum(path) for path in files}


def names(folder: Path) -> list[str]:
    """Names in a folder; empty if the folder does not exist."""
    try:
        return os.listdir(folder)
    except (FileNotFoundError, NotADirectoryError):
        return []


@cache
def machine() -> str:
    """This machine's name with its process namespace: containers that share a name do not share process ids."""
    name = re.sub(r"[^A-Za-z0-9-]", "-", socket.gethostname())
    namespace = Path("/proc/self/ns/pid")
    return f"{name}-{namespace.stat().st_ino if namespace.exists() else 0}"


def alive(pid: int) -> bool:
    """Whether a process of this machine lives; one that ended and was not yet waited for does not."""
    try:
        os.kill(pid, 0)
        ended = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] in "ZX"
    except ProcessLookupError:
        return False
    except OSError:  # it is another user's, or there is no /proc
        return True
    return not ended


def _owner_is_dead(name: str) -> bool:
    owner, _, rest = name.partition(".")
    pid = rest.partition(".")[0]
    return owner == machine() and pid.isdigit() and not alive(int(pid))
