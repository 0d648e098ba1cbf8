"""JSON files: bounded in size and depth, no key twice, no NaN, and checked against a type."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pydantic_core import from_json

from deltacompose.errors import BadInput, quoted
from deltacompose.formats.files import read_bytes
from deltacompose.limits import JSON_BYTES, JSON_DEPTH
from deltacompose.validation import validated

_DOUBTFUL = ("[", "\r", "\\u")
_INFINITE = (math.inf, -math.inf)


def read_json(path: Path, kind: Any, limit: int = JSON_BYTES) -> Any:
    """The data of a JSON file, checked strictly against a type.

    Args:
        kind: whatever pydantic validates: a TypedDict, `dict[str, str]`, ...

    Raises:
        Missing: there is no such file.
        BadInput: it cannot be read, is larger than the limit, is not valid JSON, or does not fit the type.
    """
    return validated(kind, parsed_json(read_bytes(path, limit), str(path)), str(path))


def parsed_json(content: bytes | str, name: str, finite: bool = True) -> Any:
    """The data of a JSON document.

    Args:
        name: of the file or line, for the error.
        finite: whether NaN and infinity, which Python writes and JSON does not have, are refused.

    Raises:
        BadInput: it is not valid JSON, has a key twice or a number that is not finite, or is nested too deep.
    """
    try:
        text = content if isinstance(content, str) else content.decode("utf-8-sig")
        data = (_STRICT if finite else _LENIENT).decode(text)
        if "\\ud" in text or "\\uD" in text:
            json.dumps(data, ensure_ascii=False).encode()  # half a surrogate pair cannot be printed or hashed later
    except UnicodeEncodeError:
        raise BadInput(f"{name} is not valid JSON: a text has half of a surrogate pair") from None
    except UnicodeDecodeError:
        raise BadInput(f"{name} is not UTF-8 text") from None
    except (ValueError, RecursionError) as error:
        raise BadInput(f"{name} is not valid JSON: {' '.join(str(error).split())}") from None
    if text.count("{") + text.count("[") > JSON_DEPTH:
        _check_depth(data, name)
    return data


def lines_of_objects(text: str) -> list[dict[str, Any]] | None:
    """The objects of a text of JSON lines, parsed as one list; None where `parsed_json` must read each line.

    It must where a line is anything but one object of numbers, texts and constants between `{` and `}`, or where a
    text has a bracket, a colon or an escape that leaves this in doubt. An object has as many colons as keys, unless a
    key stands twice or a text has one.
    """
    lines = text.removesuffix("\n")
    count = lines.count("\n") + 1
    counts = (lines.count("{"), lines.count("}"), lines.count("}\n{") + 1)
    if counts != (count,) * 3 or lines[0] != "{" or lines[-1] != "}" or any(sign in lines for sign in _DOUBTFUL):
        return None
    rows: list[dict[str, Any]] = from_json(f"[{lines}]".replace("\n", ","), allow_inf_nan=False)
    whole = len(rows) == count and sum(map(len, rows)) == lines.count(":")
    return rows if whole and not any(value in _INFINITE for row in rows for value in row.values()) else None


def _object(pairs: Sequence[tuple[str, Any]]) -> dict[str, Any]:
    data = dict(pairs)
    if len(data) < len(pairs):
        seen: set[str] = set()
        twice = next(key for key, _ in pairs if key in seen or seen.add(key))  # type: ignore[func-returns-value]
        raise ValueError(f"the key {quoted(twice)} stands twice")
    return data


def _constant(text: str) -> Any:
    raise ValueError(f"{text} is not a number in JSON")


def _finite(text: str) -> float:
    value = float(text)
    if math.isinf(value):
        raise ValueError(f"the number {quoted(text)} is too large")
    return value


def _check_depth(data: Any, name: str) -> None:
    """Refuses deep nesting, which `repr` and pydantic would meet with a RecursionError."""
    level, depth = [data], 0
    while level:
        if depth > JSON_DEPTH:
            raise BadInput(f"{name} is not valid: its values are nested more than {JSON_DEPTH} deep")
        level = [
            child
            for node in level
            if isinstance(node, dict | list)
            for child in (node.values() if isinstance(node, dict) else node)
            if isinstance(child, dict | list)
        ]
        depth += 1


# Making a decoder takes as long as parsing a short line.
_STRICT = json.JSONDecoder(object_pairs_hook=_object, parse_constant=_constant, parse_float=_finite)
_LENIENT = json.JSONDecoder(object_pairs_hook=_object)
