"""Safetensors files: the header is checked before any tensor is loaded.

A file begins with the header's length (8 bytes, little-endian) and the header, a JSON object of tensors by name, each
with `dtype`, `shape` and `data_offsets`. The tensors follow (https://huggingface.co/docs/safetensors).
"""

from __future__ import annotations

import math
import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from annotated_types import Ge, MaxLen
from typing_extensions import TypedDict

from deltacompose.errors import BadInput, quoted
from deltacompose.formats.files import opened, size_of
from deltacompose.formats.json_files import parsed_json
from deltacompose.limits import HEADER_BYTES, TENSOR_NAME
from deltacompose.validation import validated

FLOATS = ("F64", "F32", "F16", "BF16")
"""Dtypes of weights."""
INDICES = ("I64", "I32", "I16", "I8", "U8", "BOOL")
"""Further dtypes of constants: positions, signs and masks."""
_BITS = {
    **dict.fromkeys(("BOOL", "U8", "I8", "F8_E5M2", "F8_E4M3", "F8_E8M0"), 8),
    **dict.fromkeys(("I16", "U16", "F16", "BF16"), 16),
    **dict.fromkeys(("I32", "U32", "F32"), 32),
    **dict.fromkeys(("I64", "U64", "F64", "C64"), 64),
}
_NAME = re.compile(rf"[^\x00-\x1f\x7f\\]{{1,{TENSOR_NAME}}}")


class _Entry(TypedDict):
    dtype: str
    shape: Annotated[list[Annotated[int, Ge(0)]], MaxLen(16)]
    data_offsets: Annotated[list[Annotated[int, Ge(0)]], MaxLen(2)]


@dataclass(frozen=True)
class TensorEntry:
    """A tensor as the header describes it: `dtype` in safetensors' words (`F32`), and its shape."""

    dtype: str
    shape: tuple[int, ...]


def read_header(path: Path, dtypes: Collection[str] = FLOATS) -> dict[str, TensorEntry]:
    """The tensors of a safetensors file by name, from its header alone.

    Args:
        dtypes: those that are allowed.

    Raises:
        Missing: there is no such file.
        BadInput: it is not a regular file or not a safetensors file, is truncated, or has a tensor whose name, dtype,
            shape or place in the file is not valid.
    """
    size = size_of(path)
    with opened(path) as file:
        length = int.from_bytes(file.read(8), "little")
        if size < 8 or length > size - 8:
            raise BadInput(
                f"{path} is truncated or not a safetensors file: it has {size} bytes, and its header claims {length}"
            )
        if length > HEADER_BYTES:
            raise BadInput(f"cannot read {path}: its header has {length} bytes; the limit is {HEADER_BYTES}")
        content = file.read(length)
    header = validated(dict[str, Any], parsed_json(content, f"the header of {path}"), f"the header of {path}")
    entries = {name: entry for name, entry in header.items() if name != "__metadata__"}
    spans = sorted(_span(path, name, entry, dtypes) for name, entry in entries.items())
    _check_spans(path, spans, size - 8 - length)
    return {name: TensorEntry(entry["dtype"], tuple(entry["shape"])) for name, entry in entries.items()}


def _span(path: Path, name: str, entry: Any, dtypes: Collection[str]) -> tuple[int, int, str]:
    """Where a tensor begins and ends; refuses what does not fit its name, dtype and shape."""
    if not _NAME.fullmatch(name) or {"..", "."} & set(name.split("/")) or name.startswith("/"):
        raise BadInput(f"{path}: {quoted(name)} is not a valid name of a tensor")
    where = f"{path}: tensor {quoted(name)}"
    checked: _Entry = validated(_Entry, entry, where)
    dtype, shape, offsets = checked["dtype"], checked["shape"], checked["data_offsets"]
    if dtype not in dtypes:
        raise BadInput(f"{where} has the dtype {quoted(dtype)}; expected {', '.join(dtypes)}")
    if len(offsets) != 2 or (offsets[1] - offsets[0]) * 8 != math.prod(shape) * _BITS.get(dtype, 0):
        raise BadInput(f"{where} has the shape {quoted(shape)} and the offsets {quoted(offsets)}, which do not agree")
    return offsets[0], offsets[1], name


def _check_spans(path: Path, spans: list[tuple[int, int, str]], size: int) -> None:
    """Refuses tensors that overlap, leave gaps, or end before or after the file does."""
    at = 0
    for begin, end, name in spans:
        if begin != at:
            raise BadInput(f"{path}: tensor {quoted(name)} begins at byte {begin} of the data; expected {at}")
        at = end
    if at != size:
        raise BadInput(f"{path} is truncated or not a safetensors file: it has {size} bytes of data, expected {at}")


def check_entries(path: Path, entries: Mapping[str, TensorEntry], expected: Mapping[str, tuple[int, ...]]) -> None:
    """Refuses tensors that are missing, too many, or of another shape.

    Raises:
        BadInput: names the first such tensor, and how many there are.
    """
    check_shapes(str(path), {name: entry.shape for name, entry in entries.items()}, expected)


def check_shapes(where: str, actual: Mapping[str, tuple[int, ...]], expected: Mapping[str, tuple[int, ...]]) -> None:
    """Refuses tensors that are missing, too many, or of another shape; `where` begins the message.

    Raises:
        BadInput: names the first such tensor, and how many there are.
    """
    problems = [f"the tensor {quoted(name)} is missing" for name in expected if name not in actual]
    problems += [f"the tensor {quoted(name)} is not expected" for name in actual if name not in expected]
    problems += [
        f"the tensor {quoted(name)} has the shape {quoted(shape)}; expected {expected[name]}"
        for name, shape in actual.items()
        if name in expected and tuple(shape) != tuple(expected[name])
    ]
    if problems:
        more = f" ({len(problems)} such tensors)" if len(problems) > 1 else ""
        raise BadInput(f"{where}: {problems[0]}{more}")
