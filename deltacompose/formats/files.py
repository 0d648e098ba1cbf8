"""Files of any format: regular ones only, of bounded size, and one sentence where they cannot be read."""

from __future__ import annotations

import os
import stat
from io import BufferedReader
from pathlib import Path

from deltacompose.errors import BadInput, quoted

_KINDS = (
    (stat.S_ISDIR, "a folder"),
    (stat.S_ISFIFO, "a named pipe"),
    (stat.S_ISCHR, "a device"),
    (stat.S_ISBLK, "a device"),
    (stat.S_ISSOCK, "a socket"),
)


class Missing(BadInput):
    """The file does not exist."""


def size_of(path: Path) -> int:
    """The size in bytes of a regular file.

    A pipe or a device is refused before it is opened, which might wait for ever.

    Raises:
        Missing: there is no such file.
        BadInput: the path is not valid, or is not that of a regular file.
    """
    try:
        status = os.stat(path)
    except FileNotFoundError as error:
        raise Missing(f"cannot read {path}: {error.strerror}") from None
    except OSError as error:
        raise BadInput(f"cannot read {path}: {error.strerror or error}") from None
    except ValueError as error:  # a NUL character, or a lone surrogate that the file system cannot encode
        raise BadInput(f"{quoted(str(path))} is not a valid path ({error})") from None
    if not stat.S_ISREG(status.st_mode):
        kind = next((name for test, name in _KINDS if test(status.st_mode)), "a special file")
        raise BadInput(f"cannot read {path}: it is {kind}; expected a regular file")
    return status.st_size


def is_folder(path: Path) -> bool:
    """Whether there is a folder; a path that cannot exist, such as one that is too long, is that of none."""
    try:
        return stat.S_ISDIR(os.stat(path).st_mode)
    except (OSError, ValueError):
        return False


def opened(path: Path, limit: int | None = None) -> BufferedReader:
    """A regular file, opened for reading bytes.

    Args:
        limit: the largest size in bytes; None for files whose content is not read at once.

    Raises:
        Missing: there is no such file.
        BadInput: it is not a regular file, is larger than the limit, or cannot be read.
    """
    size = size_of(path)
    if limit is not None and size > limit:
        raise BadInput(f"cannot read {path}: it has {size} bytes; the limit is {limit}")
    try:
        return open(path, "rb")
    except OSError as error:
        raise BadInput(f"cannot read {path}: {error.strerror or error}") from None


def read_bytes(path: Path, limit: int) -> bytes:
    """The content of a regular file of at most `limit` bytes.

    Raises:
        Missing: there is no such file.
        BadInput: it is not a regular file, is larger than the limit, or cannot be read.
    """
    with opened(path, limit) as file:
        try:
            content = file.read(limit + 1)
        except OSError as error:
            raise BadInput(f"cannot read {path}: {error.strerror or error}") from None
    if len(content) > limit:  # it has grown since, or is one of those in /proc, whose size is 0
        raise BadInput(f"cannot read {path}: it has more than {limit} bytes, the limit")
    return content


def read_text(path: Path, limit: int) -> str:
    """The text of a UTF-8 file of at most `limit` bytes, without a byte order mark.

    Raises:
        Missing: there is no such file.
        BadInput: it is not a regular file, is larger than the limit, cannot be read, or is not UTF-8.
    """
    try:
        return read_bytes(path, limit).decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise BadInput(f"{path} is not UTF-8 text: byte {error.start} is {error.object[error.start]:#04x}") from None
