"""Tables derived from a model's own passes, remembered, so that a plan need not load the weights again.

A derived table depends on the files of the model, on the head that was asked for, and on the code that derives it:
the entry's name is a digest of all of these.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from deltacompose.cache import remembered
from deltacompose.cache.file_digests import Files
from deltacompose.errors import BadInput
from deltacompose.places.table import Table, read_table


def remember(files: Files, head: str | None, vetted: bool, table: Table) -> None:
    """Keeps a derived table for other processes; where the cache cannot be written, they derive it again."""
    remembered.remember(_entry(files, head, vetted), {"name": table.name, "table": table.data})


def recall(files: Files, head: str | None, vetted: bool) -> Table | None:
    """The table that was derived of these files; None where none is remembered.

    Args:
        vetted: whether only a table that has passed the checks will do.
    """
    kept = remembered.recall(_entry(files, head, vetted), dict[str, Any])
    try:
        return None if kept is None else read_table(str(kept["name"]), kept["table"])
    except (BadInput, KeyError):
        return None


def _entry(files: Files, head: str | None, vetted: bool) -> Path:
    code = remembered.sources([Path(__file__).parent])
    return remembered.entry("tables", [files.state, head, vetted, code, remembered.installed()])
