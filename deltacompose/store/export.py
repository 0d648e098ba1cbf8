"""All cells of a store as one tidy table."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from deltacompose.errors import BadInput


def write_table(records: Iterable[Mapping[str, Any]], path: Path) -> int:
    """Write records as a .csv or .parquet file, one row each; gives the number of rows.

    Nested mappings become columns whose names are joined by dots, `spec.task` for one; lists stand as JSON text. A
    column that mixes text with numbers is written as text.
    """
    import pandas

    if path.suffix not in (".csv", ".parquet"):
        raise BadInput(f"cannot export to {path.name!r}; the name must end in .csv or .parquet")
    table = pandas.DataFrame([_flat(record) for record in records])
    for name in table:
        if len({float if isinstance(value, int) else type(value) for value in table[name].dropna()}) > 1:
            table[name] = table[name].map(str, na_action="ignore")
    try:
        table.to_csv(path, index=False) if path.suffix == ".csv" else table.to_parquet(path, index=False)
    except ImportError:
        raise BadInput("writing .parquet needs pyarrow; install it, or export to .csv") from None
    except OSError as error:
        raise BadInput(f"cannot export to {path}: {error.strerror or error}") from error
    return len(table)


def _flat(record: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    row: dict[str, Any] = {}
    for name, value in record.items():
        if isinstance(value, Mapping):
            row |= _flat(value, f"{prefix}{name}.")
        else:
            row[prefix + name] = json.dumps(value) if isinstance(value, list) else value
    return row
