"""Tables for notebooks: `_repr_html_` of expressions, backbones, deltas, studies, matrices and graphs.

All text is escaped; long tables are cut and say so.
"""

from __future__ import annotations

import html
from collections.abc import Iterable, Mapping, Sequence
from itertools import islice
from typing import Any

ROWS = 60
"""Most rows of a table; the rest is counted."""
CHARACTERS = 120
"""Most characters of a cell of a table."""


def table(title: str, rows: Iterable[Mapping[str, Any]], columns: Sequence[str]) -> str:
    """An HTML table with a caption.

    >>> table("a & b", [{"task": "sst2", "score": 0.91239}], ["task", "score"])[:38]
    '<table><caption style="caption-side: t'

    Args:
        rows: by column; a float is shown with three decimals, None as a dash.
    """
    waiting = iter(rows)
    shown = list(islice(waiting, ROWS))
    left = sum(1 for _ in waiting)
    head = "".join(f"<th>{html.escape(column)}</th>" for column in columns)
    body = "".join(f"<tr>{''.join(f'<td>{_text(row.get(column))}</td>' for column in columns)}</tr>" for row in shown)
    more = f'<tr><td colspan="{len(columns)}">… and {left} more</td></tr>' if left else ""
    style = "caption-side: top; text-align: left; font-weight: bold"
    caption = f'<caption style="{style}">{html.escape(title)}</caption>'
    return f"<table>{caption}<thead><tr>{head}</tr></thead><tbody>{body}{more}</tbody></table>"


def listed(names: Sequence[Any], most: int = 4) -> str:
    """Names joined by commas; of many the first few, and how many there are.

    >>> listed(["a", "b"]), listed(list("abcdefg"))
    ('a, b', 'a, b, c, d, … (7)')
    """
    texts = list(map(str, names))
    return ", ".join(texts) if len(texts) <= most else f"{', '.join(texts[:most])}, … ({len(texts)})"


def counted(count: int, noun: str) -> str:
    """A number with its noun, in the plural where it is not one.

    >>> counted(1, "task"), counted(1200, "task")
    ('1 task', '1,200 tasks')
    """
    return f"{count:,} {noun}" + ("" if count == 1 else "s")


def _text(value: object) -> str:
    text = "–" if value is None else f"{value:.3f}" if isinstance(value, float) else str(value)
    return html.escape(text if len(text) <= CHARACTERS else f"{text[:CHARACTERS]}…")
