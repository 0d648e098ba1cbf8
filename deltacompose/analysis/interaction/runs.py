"""Runs of a factorial, read from a tidy table: one row per run, one 0/1 column per method."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from deltacompose.analysis.interaction.composition_text import canonical
from deltacompose.analysis.interaction.factorial import named
from deltacompose.analysis.interaction.row_filter import Row, number
from deltacompose.errors import BadInput, unknown
from deltacompose.formats.row_files import read_csv_rows

LINE = "(line)"
_T = TypeVar("_T")


@dataclass(frozen=True)
class Columns:
    """Which column of a table plays which part; None where no column does.

    Attributes:
        unit: what is averaged over last, most often the task.
        grid: what is chosen per combination and unit, most often the learning rate.
        seed: what is averaged over first.
        score, dev: the score reported, and the one that a choice may rest on; higher is better.
        composition: the combination as text, in place of one 0/1 column per method.
        train, chance, trivial: score on the training split; what a constant answer scores; 1 where a run is one.
        cell: a key under which more is known of the run.
    """

    score: str = "score"
    unit: str | None = None
    grid: str | None = None
    seed: str | None = None
    dev: str | None = None
    composition: str | None = None
    train: str | None = None
    chance: str | None = None
    trivial: str | None = None
    cell: str | None = None

    def named(self) -> dict[str, str]:
        """The columns in use, by part."""
        return {part: column for part, column in vars(self).items() if column is not None}

    def without(self, columns: Sequence[str]) -> Columns:
        """The same, but these columns play no part: they form groups."""
        return Columns(**{part: column for part, column in self.named().items() if column not in columns})


@dataclass(frozen=True)
class Run:
    """One trained and scored combination; text is as in the table, scores are in its scale."""

    group: tuple[str, ...]
    combination: str
    unit: str
    grid: str
    seed: str
    score: float
    dev: float | None = None
    train: float | None = None
    chance: float | None = None
    trivial: bool = False
    cell: str = ""
    row: Row | None = None

    def __str__(self) -> str:
        parts = {"grid value": self.grid, "seed": self.seed}
        known = "".join(f", {part} {value}" for part, value in parts.items() if value)
        return " ".join([*self.group, self.unit, f"({self.combination}{known})"])


def table(runs: Iterable[Run], by: Sequence[str] = ()) -> str:
    """Runs as a tidy CSV that `read_csv` and `runs` read again, scores in the scale of the runs.

    Args:
        by: the names of the columns that form groups.
    """
    text = io.StringIO()
    names = (*by, "composition", "task", "grid", "seed", "dev", "score", "chance")
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(names)
    for run in sorted(runs, key=lambda run: (run.group, run.combination, run.unit, run.seed, run.grid)):
        known = ("" if value is None else repr(value) for value in (run.dev, run.score, run.chance))
        writer.writerow([*run.group, run.combination, run.unit, run.grid, run.seed, *known])
    return text.getvalue()


def read_csv(path: Path) -> list[dict[str, str]]:
    """The rows of a CSV file with a header, every field as text, and each row's line under `(line)`.

    Raises:
        BadInput: no such file, no rows, a column named twice, or a row with more or fewer fields than the header.
    """
    rows = read_csv_rows(path)
    header, lines = (rows[0][1], rows[1:]) if rows else ([], [])
    if not lines or len(set(header)) < len(header):
        raise BadInput(f"{path} needs a header of different names and at least one row; header: {', '.join(header)}")
    for line, fields in lines:
        if len(fields) != len(header):
            raise BadInput(f"{path} line {line} has {len(fields)} fields, its header {len(header)}")
    return [{**dict(zip(header, fields, strict=True)), LINE: str(line)} for line, fields in lines]


def runs(rows: Sequence[Row], columns: Columns, factors: Sequence[str], by: Sequence[str] = ()) -> list[Run]:
    """The runs of a table, checked.

    Args:
        rows: the table; every row has the same columns.
        columns: which column plays which part.
        factors: the methods. A 0/1 column each, unless `columns.composition` gives the combination as text.
        by: columns whose values form the groups that are analysed apart.

    Raises:
        BadInput: an unknown column, one column in two parts, a factor that is not 0 or 1, a score that is not a finite
            number, or two runs that nothing tells apart.
    """
    needed = [*by, *columns.named().values(), *([] if columns.composition else factors)]
    for column in needed:
        if column not in rows[0] or column == LINE:
            raise unknown("column", column, [name for name in rows[0] if name != LINE])
    twice = {column for column in needed if needed.count(column) > 1}
    if twice:
        raise BadInput(f"column {min(twice)!r} is named twice, among {', '.join(needed)}; each plays one part")
    result = [_run(row, columns, factors, by) for row in rows]
    _refuse_duplicates(result, needed)
    return result


def _run(row: Row, columns: Columns, factors: Sequence[str], by: Sequence[str]) -> Run:
    text = {part: row[column].strip() for part, column in columns.named().items()}
    score = _score(row, columns.score)
    if score is None:
        raise BadInput(f"{_at(row)}column {columns.score!r} is empty; every run needs a score")
    grid = text.get("grid", "")
    return Run(
        group=tuple(row[column].strip() for column in by),
        combination=canonical(text["composition"], factors) if columns.composition else _combination(row, factors),
        unit=text.get("unit", ""),
        grid=repr(number(grid)) if number(grid) is not None else grid,
        seed=text.get("seed", ""),
        score=score,
        dev=_score(row, columns.dev),
        train=_score(row, columns.train),
        chance=_score(row, columns.chance),
        trivial=text.get("trivial", "") == "1",
        cell=text.get("cell", ""),
        row=row,
    )


def _combination(row: Row, factors: Sequence[str]) -> str:
    on = []
    for factor in factors:
        value = number(row[factor])
        if value not in (0.0, 1.0):
            raise BadInput(f"{_at(row)}column {factor!r} is {row[factor]!r}; a factor is 0 (off) or 1 (on)")
        if value:
            on.append(factor)
    return named(on, factors)


def _score(row: Row, column: str | None) -> float | None:
    """A column's number, None where there is no such column or it is empty."""
    if column is None or not row[column].strip():
        return None
    value = number(row[column])
    if value is None:
        raise BadInput(f"{_at(row)}column {column!r} is {row[column]!r}; expected a finite number")
    return value


def _refuse_duplicates(result: Iterable[Run], needed: Sequence[str]) -> None:
    """Two runs of one combination, unit, grid value and seed would be averaged as if they were seeds: refused."""
    seen: dict[tuple[object, ...], Run] = {}
    for run in result:
        other = seen.setdefault((run.group, run.combination, run.unit, run.grid, run.seed), run)
        if other is run:
            continue
        row, first = run.row or {}, other.row or {}
        apart = [name for name in row if row[name] != first[name] and name not in (*needed, LINE)]
        hint = f"they differ in {', '.join(apart)}: group or filter by what sets them apart" if apart else "drop one"
        raise BadInput(f"two runs of {run}{_lines(first, row)}; {hint}")


def grouped(items: Iterable[_T], key: Callable[[_T], str]) -> dict[str, list[_T]]:
    """Items by key, in the order of first appearance."""
    result: dict[str, list[_T]] = {}
    for item in items:
        result.setdefault(key(item), []).append(item)
    return result


def _lines(first: Mapping[str, str], second: Mapping[str, str]) -> str:
    return f" (lines {first[LINE]} and {second[LINE]})" if LINE in first else ""


def _at(row: Row) -> str:
    return f"line {row[LINE]}: " if LINE in row else ""
