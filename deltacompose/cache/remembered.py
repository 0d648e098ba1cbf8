"""Facts that take long to find, remembered in the user's cache folder between processes.

An entry is a JSON file under the digest of everything that its content depends on, so it never has to be invalidated:
other inputs have another entry. Where the cache cannot be written, facts are found again.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import sys
import uuid
from collections.abc import Callable, Iterable
from functools import cache
from pathlib import Path
from typing import Any, TypeVar

from deltacompose.cache.file_digests import cache_folder
from deltacompose.errors import BadInput
from deltacompose.formats.json_files import read_json
from deltacompose.limits import STORED_BYTES

T = TypeVar("T")


def entry(kind: str, inputs: Any) -> Path:
    """Where the facts of a kind are remembered that depend on these inputs, which JSON can hold."""
    content = json.dumps([kind, inputs], sort_keys=True)
    return cache_folder() / kind / f"{hashlib.sha256(content.encode()).hexdigest()}.json"


def recall(path: Path, kind: Any = Any) -> Any:
    """The content of an entry; None where there is none or it is not of the type.

    Args:
        kind: whatever pydantic validates.
    """
    with contextlib.suppress(BadInput):
        return read_json(path, kind, STORED_BYTES)
    return None


def remember(path: Path, facts: Any) -> None:
    """Writes an entry whole or not at all."""
    with contextlib.suppress(OSError):
        path.parent.mkdir(parents=True, exist_ok=True)
        draft = path.with_name(f".{uuid.uuid4().hex}")
        draft.write_text(json.dumps(facts))
        os.replace(draft, path)


def remembered(kind: str, inputs: Any, find: Callable[[], T], shape: Any = Any) -> T:
    """The facts of a kind, recalled or found now and remembered.

    Args:
        shape: what the facts are, as pydantic validates it.
    """
    path = entry(kind, inputs)
    facts = recall(path, shape)
    if facts is None:
        facts = find()
        remember(path, facts)
    return facts  # type: ignore[no-any-return]


def sources(folders: Iterable[Path]) -> str:
    """SHA-256 (hex) of the code and data in packages: every Python and YAML file by its path in the package."""
    digest = hashlib.sha256()
    for folder in sorted(set(folders)):
        files = [folder] if folder.is_file() else [*folder.rglob("*.py"), *folder.rglob("*.yaml")]
        for path in sorted(files):
            digest.update(f"{path.relative_to(folder.parent)}\n".encode())
            digest.update(hashlib.sha256(path.read_bytes()).digest())
    return digest.hexdigest()


@cache
def installed() -> str:
    """SHA-256 (hex) of what is installed: the interpreter, and every distribution with its version."""
    names: set[str] = set()
    for place in sys.path:
        with contextlib.suppress(OSError):
            names |= {name for name in os.listdir(place or ".") if name.endswith((".dist-info", ".egg-info"))}
    return hashlib.sha256(json.dumps([sys.version, sorted(names)]).encode()).hexdigest()
