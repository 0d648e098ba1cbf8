"""Rows of CSV and JSON-lines files: bounded in the size of a row and the number of columns.

A file is read twice: first to check it, keeping nothing, so that a file whose last row is damaged is refused without
all others having been kept. JSON lines of up to a row's limit together are read once: a store has many small files.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from deltacompose.errors import BadInput, quoted
from deltacompose.formats.files import opened, read_bytes, size_of
from deltacompose.formats.json_files import lines_of_objects, parsed_json
from deltacompose.limits import COLUMNS, ROW_CHARACTERS, ROWS_BYTES


def read_csv_rows(path: Path, delimiter: str = ",", strict: bool = True) -> list[tuple[int, list[str]]]:
    """The rows of a CSV file, each with the number of its last line; empty lines are left out.

    Raises:
        Missing: there is no such file.
        BadInput: it cannot be read, is larger than the limit, is not UTF-8, is not valid CSV, or has a row that is
            too long or has too many columns.
    """
    for _ in _csv_rows(path, delimiter, strict):
        pass
    return list(_csv_rows(path, delimiter, strict))


def read_json_rows(path: Path) -> list[dict[str, Any]]:
    """The objects of a JSON-lines file.

    Raises:
        Missing: there is no such file.
        BadInput: it cannot be read, is larger than the limit, is not UTF-8, or has a line that is not a JSON object
            or is too long.
    """
    if (rows := _short_file(path)) is not None:
        return rows
    for _ in _json_rows(path):
        pass
    return list(_json_rows(path))


def read_json_array(path: Path) -> list[dict[str, Any]]:
    """The objects of a JSON file that holds one list of them.

    Raises:
        Missing: there is no such file.
        BadInput: it cannot be read, is larger than the limit, is not valid JSON, or has a row that is not an object or
            has too many columns.
    """
    rows = parsed_json(read_bytes(path, ROWS_BYTES), str(path))
    if not isinstance(rows, list):
        raise BadInput(f"{path} holds a {type(rows).__name__}, not a list of rows")
    for number, row in enumerate(rows, start=1):
        _check_object(row, f"{path}, row {number}")
    return rows


def csv_header(path: Path) -> list[str]:
    """The first row of a CSV file; empty where there is none."""
    return next((row for _, row in _csv_rows(path, ",", strict=False)), [])


def _csv_rows(path: Path, delimiter: str, strict: bool) -> Iterator[tuple[int, list[str]]]:
    reader = csv.reader(_lines(path), delimiter=delimiter, strict=strict)
    try:
        for row in reader:
            if len(row) > COLUMNS:
                raise BadInput(
                    f"{path}, line {reader.line_num}: the row has {len(row)} columns; the limit is {COLUMNS}"
                )
            if sum(map(len, row)) > ROW_CHARACTERS:  # a quoted cell may span lines
                raise BadInput(
                    f"{path}, line {reader.line_num}: the row has over {ROW_CHARACTERS} characters, the limit"
                )
            if row:
                yield reader.line_num, row
    except csv.Error as error:
        raise BadInput(f"{path}, line {reader.line_num}: {error}") from None


def _json_rows(path: Path) -> Iterator[dict[str, Any]]:
    for number, line in enumerate(_lines(path), start=1):
        row = parsed_json(line, f"{path}, line {number}")
        _check_object(row, f"{path}, line {number}")
        yield row


def _short_file(path: Path) -> list[dict[str, Any]] | None:
    """The objects of a file no longer than one row may be; None where it is longer or has anything unusual.

    What is unusual is then read line by line, which finds the line of an error.
    """
    if size_of(path) > ROW_CHARACTERS:
        return None
    try:
        rows = lines_of_objects(read_bytes(path, ROW_CHARACTERS).decode("utf-8"))
    except (ValueError, RecursionError, BadInput):
        return None
    return rows if rows is None or all(len(row) <= COLUMNS for row in rows) else None


def _check_object(row: Any, where: str) -> None:
    if not isinstance(row, dict):
        raise BadInput(f"{where}: a row is a JSON object with columns, not {quoted(str(row), 60)}")
    if len(row) > COLUMNS:
        raise BadInput(f"{where}: the row has {len(row)} columns; the limit is {COLUMNS}")


def _lines(path: Path) -> Iterator[str]:
    """The lines of a UTF-8 file, with their ends; one that is too long is refused before it is read whole."""
    with io.TextIOWrapper(opened(path, ROWS_BYTES), encoding="utf-8-sig", newline="") as file:
        number = 1
        try:
            while line := file.readline(ROW_CHARACTERS + 1):
                if len(line) > ROW_CHARACTERS:
                    raise BadInput(
                        f"{path}, line {number}: the row has more than {ROW_CHARACTERS} characters, the limit"
                    )
                yield line
                number += 1
        except UnicodeDecodeError:
            raise BadInput(f"{path} is not UTF-8 text") from None
        except OSError as error:
            raise BadInput(f"cannot read {path}: {error.strerror or error}") from None
