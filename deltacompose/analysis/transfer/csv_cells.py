"""The cells of a CSV file as text: of a table of scores, and of a tidy table."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pandas as pd

from deltacompose.errors import BadInput, quoted
from deltacompose.formats.sheets import read_cells, text_rows


def frame_of_csv(path: Path) -> pd.DataFrame:
    """A CSV or TSV file with a header, every cell as text."""
    rows = text_rows(path)
    if not rows:
        raise BadInput(f"{path} has no rows")
    header = rows[0][1]
    for line, row in rows[1:]:
        if len(row) != len(header):
            raise BadInput(f"{path}, line {line}: the row has {len(row)} cells; the header has {len(header)}")
    return pd.DataFrame([row for _, row in rows[1:]], columns=header, dtype=str)


def cells_of_text(path: Path) -> list[list[Any]]:
    """The cells of a plain table, each row as long as the header; those of a CSV are stripped text."""
    table = read_cells(path)
    if len(table) < 2 or len(table[0]) < 2:
        raise BadInput(f"{path} is not a table of scores: expected a header of targets and a row per source")
    for row in table[1:]:
        if len(row) != len(table[0]):
            counts = f"{len(row) - 1} scores for {len(table[0]) - 1} targets"
            raise BadInput(f"{path}: the row {quoted(row[0])} has {counts}")
    return _named_alone(table, path)


def _named_alone(table: list[list[Any]], path: Path) -> list[list[Any]]:
    """The table without columns that have neither a name nor a cell, as trailing commas make them.

    Raises:
        BadInput: a column or a row with scores has no name.
    """
    empty = {k for k in range(1, len(table[0])) if all(row[k] in ("", None) for row in table)}
    kept = [[cell for k, cell in enumerate(row) if k not in empty] for row in table]
    for number, name in enumerate(kept[0][1:], start=2):
        if not name:
            raise BadInput(f"{path}: column {number} has scores and no name; name its target in the header")
    for number, row in enumerate(kept[1:], start=2):
        if not row[0]:
            raise BadInput(f"{path}: row {number} has scores and no name; name its source in the first column")
    if len(kept[0]) < 2:
        raise BadInput(f"{path} is not a valid table of scores: expected a header of targets and a row per source")
    return kept
