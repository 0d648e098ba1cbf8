"""Tables derived from a model's own passes, remembered, so that a plan need not load the weights again.

A derived table depends on the files of the model, on the head that was asked for, and on the code that derives it:
the entry's name is a digest of all of these.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import uuid
from importlib.metadata import version
from pathlib import Path
from typing import Any

from deltacompose.errors import BadInput
from deltacompose.file_digests import Files, cache_folder, file_digest
from deltacompose.formats.json_files import read_json
from deltacompose.places.table import Table, read_table


def remember(files: Files, head: str | None, vetted: bool, table: Table) -> None:
    """Keeps a derived table for other processes; where the cache cannot be written, they derive it again."""
    path = _entry(files, head, vetted)
    with contextlib.suppress(OSError):
        path.parent.mkdir(parents=True, exist_ok=True)
        draft = path.with_name(f".{uuid.uuid4().hex}")
        draft.write_text(json.dumps({"name": table.name, "table": table.data}))
        os.replace(draft, path)


def recall(files: Files, head: str | None, vetted: bool) -> Table | None:
    """The table that was derived of these files; None where none is remembered.

    Args:
        vetted: whether only a table that has passed the checks will do.
    """
    with contextlib.suppress(BadInput, OSError, KeyError):
        entry = read_json(_entry(files, head, vetted), dict[str, Any])
        return read_table(str(entry["name"]), entry["table"])
    return None


def _entry(files: Files, head: str | None, vetted: bool) -> Path:
    code = [file_digest(path) for path in sorted(Path(__file__).parent.glob("*.py"))]
    libraries = [version("torch"), version("transformers")]
    content = json.dumps([files.state, head, vetted, code, libraries])
    return cache_folder() / "tables" / f"{hashlib.sha256(content.encode()).hexdigest()}.json"
