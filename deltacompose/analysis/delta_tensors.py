"""Tensors of a delta's file as numpy arrays, without torch."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, deserialize

from deltacompose.errors import BadInput, quoted
from deltacompose.formats.files import Missing
from deltacompose.formats.tensor_files import INDICES, read_header

FILE = "delta.safetensors"
_TRAINED = "weights/"
_TYPES: Mapping[str, str] = {"F64": "<f8", "F32": "<f4", "F16": "<f2", "BF16": "<u2"}


def read(path: Path) -> dict[str, NDArray[Any]]:
    """The trained tensors in a delta's folder, or in any safetensors file, by name in the order of names.

    In a file that this toolkit wrote they are those under `weights/`, here without that prefix; its constants are left
    out, being no result of training. In any other file they are all. bfloat16 comes as float32.

    Raises:
        BadInput: no such file, one that is cut off, tensors that are not floating point, or none at all.
    """
    path = path / FILE if path.is_dir() else path
    try:
        read_header(path, (*_TYPES, *INDICES))
        entries = dict(deserialize(path.read_bytes()))  # type: ignore[no-untyped-call]
    except Missing:
        raise BadInput(f"there is no file {path}") from None
    except (SafetensorError, OSError) as error:
        raise BadInput(f"{path} is truncated or not a safetensors file ({error})") from None
    trained = [name for name in sorted(entries) if name.startswith(_TRAINED)] or sorted(entries)
    if not trained:
        raise BadInput(f"{path} holds no tensors")
    return {name.removeprefix(_TRAINED): _array(path, name, entries[name]) for name in trained}


def _array(path: Path, name: str, entry: Mapping[str, Any]) -> NDArray[Any]:
    kind = entry["dtype"]
    if kind not in _TYPES:
        raise BadInput(f"{path}: tensor {quoted(name)} is of type {kind}; a delta's tensors are {', '.join(_TYPES)}")
    array = np.frombuffer(entry["data"], dtype=_TYPES[kind]).reshape(entry["shape"])
    if kind == "BF16":
        return (array.astype(np.uint32) << 16).view(np.float32)
    return array
