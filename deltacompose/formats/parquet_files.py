"""Rows of Parquet files: bounded in size before and after decompression, in the size of a row and in columns."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from deltacompose.errors import BadInput
from deltacompose.formats.files import size_of
from deltacompose.limits import COLUMNS, ROW_CHARACTERS, ROWS_BYTES

_BATCH = 1024


def read_parquet_rows(path: Path) -> list[dict[str, Any]]:
    """The rows of a Parquet file by column.

    Raises:
        Missing: there is no such file.
        BadInput: pyarrow is not installed, or the file cannot be read, is larger than the limit, also decompressed,
            or has a row that is too long or has too many columns.
    """
    if size_of(path) > ROWS_BYTES:
        raise BadInput(f"{path} has over {ROWS_BYTES} bytes, the limit of a file of rows")
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError:
        raise BadInput("reading a Parquet file needs the package pyarrow: pip install 'deltacompose[hub]'") from None
    try:
        with pyarrow.parquet.ParquetFile(path) as file:
            _check(path, file)
            rows = [row for batch in file.iter_batches(_BATCH) for row in _bounded(path, batch.to_pylist())]
    except (pyarrow.ArrowException, OSError, ValueError, UnicodeDecodeError) as error:
        if isinstance(error, BadInput):
            raise
        reason = " ".join(str(error).split())[:120]
        raise BadInput(f"{path} is not a Parquet file that can be read ({reason})") from None
    return rows


def _check(path: Path, file: Any) -> None:
    """Refuses what the file's own description says is too large, before anything is decompressed."""
    held = file.metadata
    if len(file.schema_arrow.names) > COLUMNS:
        raise BadInput(f"{path} has {len(file.schema_arrow.names)} columns; the limit is {COLUMNS}")
    if sum(held.row_group(k).total_byte_size for k in range(held.num_row_groups)) > ROWS_BYTES:
        raise BadInput(f"{path} has over {ROWS_BYTES} bytes when it is decompressed, the limit of a file of rows")


def _bounded(path: Path, rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    for row in rows:
        if sum(len(value) for value in row.values() if isinstance(value, str | bytes)) > ROW_CHARACTERS:
            raise BadInput(f"{path} has a row of over {ROW_CHARACTERS} characters, the limit")
    return rows
