"""The cells of a table in a file: CSV, TSV, the first sheet of an Excel workbook, or parquet."""

from __future__ import annotations

import re
import zipfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from deltacompose.errors import BadInput, quoted
from deltacompose.formats.files import opened
from deltacompose.formats.row_files import read_csv_rows
from deltacompose.limits import COLUMNS, ROWS_BYTES, SHEET_BYTES, SHEET_ROWS

if TYPE_CHECKING:
    import pandas as pd

SUFFIXES = (".csv", ".tsv", ".xlsx", ".parquet")
"""Endings of the files that `read_cells` and `read_columns` read."""


def read_cells(path: Path) -> list[list[Any]]:
    """The rows of a `.csv`, `.tsv` or `.xlsx` file; cells of a CSV are stripped text, empty rows are left out.

    Raises:
        BadInput: another ending, a file that cannot be read or is too large, or openpyxl is not installed.
    """
    if path.suffix == ".xlsx":
        return _workbook(path)
    if path.suffix not in (".csv", ".tsv", ".txt", ""):
        raise BadInput(f"a table ends in {', '.join(SUFFIXES)}, not {quoted(path.name)}")
    cells = ([cell.strip() for cell in row] for _, row in text_rows(path, strict=False))
    return [row for row in cells if any(row)]


def text_rows(path: Path, strict: bool = True) -> list[tuple[int, list[str]]]:
    """The rows of a `.csv` or `.tsv` file, as of `read_csv_rows`.

    A CSV whose header has semicolons and no comma is one of a country with decimal commas, as spreadsheets write it
    there: its cells are separated by semicolons, and a number such as `95,2` is read as `95.2`.
    """
    if path.suffix == ".tsv":
        return read_csv_rows(path, "\t", strict)
    rows = read_csv_rows(path, ",", strict)
    if not rows or len(rows[0][1]) != 1 or ";" not in rows[0][1][0]:
        return rows
    return [(line, [_DECIMAL.sub(r"\1.\2", cell) for cell in row]) for line, row in read_csv_rows(path, ";", strict)]


_DECIMAL = re.compile(r"^(\s*[-+]?\d*),(\d+\s*%?\s*)$")


def header_of(path: Path) -> list[str]:
    """The first row of a table as text; empty where there is none.

    Raises:
        BadInput: as `read_cells`.
    """
    if path.suffix == ".parquet":
        return [str(name) for name in read_columns(path).columns]
    return [str(cell) for cell in next(iter(read_cells(path)), [])]


def read_columns(path: Path) -> pd.DataFrame:
    """The columns of a parquet file.

    Raises:
        BadInput: a file that cannot be read or is too large, or pyarrow is not installed.
    """
    import pandas as pd

    try:
        with opened(path, ROWS_BYTES) as file:
            return pd.read_parquet(file)
    except ImportError:
        raise BadInput(f"cannot read {path}: parquet needs the package pyarrow; pip install pyarrow") from None
    except BadInput:
        raise
    except (OSError, ValueError) as error:
        raise BadInput(f"cannot read {path}: {error}") from None


def _workbook(path: Path) -> list[list[Any]]:
    """The values of the first sheet; formulas count by the value that was saved with them."""
    try:
        from openpyxl import load_workbook
    except ImportError:
        raise BadInput(f"cannot read {path}: Excel needs the package openpyxl; pip install openpyxl") from None
    with opened(path, ROWS_BYTES) as file:
        try:
            size = sum(part.file_size for part in zipfile.ZipFile(file).infolist())
            if size > SHEET_BYTES:
                raise BadInput(f"{path} unpacks to {size} bytes; the limit is {SHEET_BYTES}")
            sheet = load_workbook(file, read_only=True, data_only=True).worksheets[0]
            rows = []
            for number, row in enumerate(sheet.iter_rows(values_only=True), start=1):
                if number > SHEET_ROWS or len(row) > COLUMNS:
                    raise BadInput(f"{path} has too many cells; the limit is {SHEET_ROWS} rows and {COLUMNS} columns")
                rows.append(["" if cell is None else cell.strip() if isinstance(cell, str) else cell for cell in row])
        except BadInput:
            raise
        except Exception as error:  # openpyxl raises whatever its parsers raise
            raise BadInput(f"cannot read {path} as an Excel workbook: {quoted(str(error) or error)}") from None
    return [row for row in rows if any(cell != "" for cell in row)]
