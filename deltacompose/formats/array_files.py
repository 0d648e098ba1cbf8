"""Arrays of an npz file: every member's header is checked, and sizes added up, before any is decompressed."""

from __future__ import annotations

import math
import struct
import tokenize
import zlib
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any
from zipfile import BadZipFile, ZipFile, ZipInfo

import numpy as np
from numpy.typing import NDArray

from deltacompose.errors import BadInput, quoted
from deltacompose.formats.files import size_of
from deltacompose.limits import ARRAY_BYTES, ARRAYS

_HEADER_CHARACTERS = 10_000
_DAMAGES = (OSError, ValueError, EOFError, BadZipFile, NotImplementedError, RuntimeError, OverflowError, SyntaxError)
Check = Callable[[str, tuple[int, ...], "np.dtype[Any]"], None]


def read_arrays(path: Path, check: Check, limit: int = ARRAY_BYTES) -> dict[str, NDArray[Any]]:
    """The arrays of an npz file by name; nothing is unpickled.

    Args:
        check: is called with every array's name, shape and dtype before the first is read, and raises BadInput.

    Raises:
        Missing: there is no such file.
        BadInput: it is not an npz file, is damaged, has two arrays of one name or a member that is not an array, or
            its arrays would take more than `limit` bytes.
    """
    size_of(path)
    with _clearly(path), ZipFile(path) as file:
        members = file.infolist()
        if len(members) > ARRAYS:
            raise BadInput(f"cannot read {path}: it has {len(members)} arrays; the limit is {ARRAYS}")
        total = sum(member.file_size for member in members)
        if total > limit:
            raise BadInput(f"cannot read {path}: its arrays take {total} bytes; the limit is {limit}")
        names = [_checked(path, file, member, check) for member in members]
        twice = [name for name, count in Counter(names).items() if count > 1]
        if twice:
            raise BadInput(f"{path} names {quoted(twice[0])} twice")
        return {name: _array(file, member) for name, member in zip(names, members, strict=True)}


@contextmanager
def _clearly(path: Path) -> Iterator[None]:
    try:
        yield
    except BadInput:
        raise
    except (*_DAMAGES, tokenize.TokenError, zlib.error, struct.error) as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        raise BadInput(f"cannot read {path} as an npz file, whose members are arrays: {reason}") from None


def _checked(path: Path, file: ZipFile, member: ZipInfo, check: Check) -> str:
    """The name of a member's array, its header agreeing with its size."""
    name = member.filename.removesuffix(".npy")
    with file.open(member) as content:
        shape, _, dtype = _header(content)
        begin = content.tell()
    if dtype.hasobject:
        raise BadInput(f"{path}: the array {quoted(name)} holds Python objects, which are not read")
    expected = math.prod(shape) * dtype.itemsize
    if begin + expected != member.file_size:
        raise BadInput(
            f"{path}: the array {quoted(name)} has the shape {quoted(shape)}, which takes {expected} bytes, and there "
            f"are {member.file_size - begin}"
        )
    check(name, shape, dtype)
    return name


def _header(content: IO[bytes]) -> tuple[tuple[int, ...], bool, np.dtype[Any]]:
    version = np.lib.format.read_magic(content)
    if version not in ((1, 0), (2, 0)):
        raise ValueError(f"version {version} of the npy format is not supported")
    read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    shape, fortran, dtype = read(content, max_header_size=_HEADER_CHARACTERS)
    return shape, fortran, dtype


def _array(file: ZipFile, member: ZipInfo) -> NDArray[Any]:
    with file.open(member) as content:
        array: NDArray[Any] = np.lib.format.read_array(content, allow_pickle=False)
    return array
