"""Reads a condition such as `task != 'RTE' and lr <= 0.001`, and says which rows meet it. Nothing is evaluated."""

from __future__ import annotations

import math
import operator
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from deltacompose.errors import BadInput, unknown

Row = Mapping[str, str]

_OPERATORS: dict[str, Callable[[Any, Any], bool]] = {
    "==": operator.eq,
    "!=": operator.ne,
    "<=": operator.le,
    ">=": operator.ge,
    "<": operator.lt,
    ">": operator.gt,
}
_NUMBER = r"[-+]?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?"
_CLAUSE = re.compile(
    rf"\s*(?P<column>[^\W\d][\w.]*)\s*(?P<op>==|!=|<=|>=|<|>)\s*"
    rf"(?:(?P<number>{_NUMBER})(?![\w.])|'(?P<single>[^']*)'|\"(?P<double>[^\"]*)\")\s*"
)
_AND = re.compile(r"and\b")


@dataclass(frozen=True)
class Clause:
    """One condition: a column, an operator, and a number or a text to compare the column with."""

    column: str
    op: str
    literal: float | str

    def __str__(self) -> str:
        return f"{self.column} {self.op} {self.literal!r}"


def read_condition(text: str) -> tuple[Clause, ...]:
    """The conditions of a text, each `COLUMN OP LITERAL`, joined by `and`.

    >>> [str(clause) for clause in read_condition("task != 'RTE' and lr <= 1e-3")]
    ["task != 'RTE'", 'lr <= 0.001']

    Raises:
        BadInput: the text is anything else.
    """
    clauses, rest = [], text
    while True:
        match = _CLAUSE.match(rest)
        if match is None:
            raise _no_condition(rest, text)
        clauses.append(_clause(match))
        rest = rest[match.end() :]
        if not rest:
            return tuple(clauses)
        joined = _AND.match(rest)
        if joined is None:
            raise _no_condition(rest, text)
        rest = rest[joined.end() :]


def kept(rows: Sequence[Row], clauses: Iterable[Clause]) -> list[Row]:
    """The rows that meet every condition.

    >>> kept([{"task": "rte", "rank": "8"}, {"task": "cola", "rank": "2"}], read_condition("rank > 4"))
    [{'task': 'rte', 'rank': '8'}]

    Raises:
        BadInput: a column that does not exist, or a number compared with text.
    """
    result = list(rows)
    for clause in clauses:
        test = _test(clause, rows)
        result = [row for row in result if test(row[clause.column])]
    return result


def absent(rows: Sequence[Row], clauses: Iterable[Clause]) -> list[str]:
    """A sentence for each condition whose text no row holds: most often a slip of the pen."""
    return [
        f"no row has {clause.column} {clause.literal!r}, so the condition {clause} changes nothing or leaves nothing"
        for clause in clauses
        if isinstance(clause.literal, str) and all(row[clause.column] != clause.literal for row in rows)
    ]


def number(text: str) -> float | None:
    """The number that a text writes, or None; `nan` and `inf` are not numbers here.

    >>> number("1e-3"), number("nan"), number("rte")
    (0.001, None, None)
    """
    value = float(text) if re.fullmatch(_NUMBER, text.strip()) else math.inf
    return value if math.isfinite(value) else None


def _test(clause: Clause, rows: Sequence[Row]) -> Callable[[str], bool]:
    """The check of one column's text, after making sure that numbers meet numbers and text meets text."""
    if rows and clause.column not in rows[0]:
        raise unknown("column", clause.column, rows[0])
    values = {row[clause.column] for row in rows}
    compare, literal = _OPERATORS[clause.op], clause.literal
    if isinstance(literal, str):
        if clause.op not in ("==", "!="):
            raise BadInput(f"{clause}: text is compared by == or !=; for a number leave the quotes out")
        if values and all(number(value) is not None for value in values):
            raise BadInput(f"{clause}: column {clause.column!r} holds numbers; leave the quotes out")
        return lambda value: compare(value, literal)
    texts = sorted(value for value in values if number(value) is None)
    if texts:
        raise BadInput(
            f"{clause}: column {clause.column!r} holds text such as {texts[0]!r}; write the literal in quotes"
        )
    return lambda value: compare(number(value), literal)


def _clause(match: re.Match[str]) -> Clause:
    parsed = match.groupdict()
    if parsed["number"] is not None:
        return Clause(parsed["column"], parsed["op"], float(parsed["number"]))
    return Clause(
        parsed["column"], parsed["op"], parsed["single"] if parsed["single"] is not None else parsed["double"]
    )


def _no_condition(rest: str, text: str) -> BadInput:
    return BadInput(
        f"{rest.strip()!r} in {text!r} is not a condition; write COLUMN OP LITERAL, joined by 'and', with OP one of "
        f"{', '.join(_OPERATORS)} and the literal a number or quoted text"
    )
