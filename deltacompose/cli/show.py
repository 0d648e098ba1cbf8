"""How commands print: JSON for programs, plain tables for people."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

import typer

from deltacompose.cli.stdout import write_document

_SHOWN = 10


def as_json(data: object) -> None:
    """Writes one JSON document to stdout."""
    write_document(json.dumps(data, indent=2, ensure_ascii=False, allow_nan=False))


def damaged(problems: Sequence[object]) -> None:
    """What of a store cannot be read and was left out, on stderr: the first ten, and how many more there are."""
    for problem in problems[:_SHOWN]:
        typer.echo(f"damaged: {problem}", err=True)
    if len(problems) > _SHOWN:
        typer.echo(f"damaged: {len(problems) - _SHOWN} more; `deltacompose verify` lists all", err=True)


def table(rows: Sequence[Mapping[str, Any]], columns: Sequence[str]) -> None:
    """Rows under headings, each column as wide as it needs to be."""
    lines = [list(columns), *([_text(row.get(column)) for column in columns] for row in rows)]
    widths = [max(len(line[k]) for line in lines) for k in range(len(columns))]
    for line in lines:
        typer.echo("  ".join(text.ljust(width) for text, width in zip(line, widths, strict=True)).rstrip())


def _text(value: object) -> str:
    if value is None:
        return "–"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:.3f}"
    if isinstance(value, list | tuple):
        return ", ".join(map(_text, value))
    return str(value)
