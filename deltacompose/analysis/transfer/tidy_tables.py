"""The files of a transfer matrix: a tidy table (CSV or parquet), and a plain CSV of raw scores.

The tidy table has one row per seed, source and target, with the reference scores next to every score, so that any
other program can use it; it gives the matrix back exactly.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Hashable, Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from deltacompose.analysis.arrays import Floats
from deltacompose.analysis.matrix import TransferMatrix
from deltacompose.analysis.matrix_tables import frame
from deltacompose.analysis.transfer.csv_cells import frame_of_csv
from deltacompose.analysis.transfer.plain_scores import read_scores, write_scores
from deltacompose.analysis.transfer.score_checks import MOST, check_size, checked, number_of
from deltacompose.analysis.transfer.tidy_scores import COLUMNS, completed
from deltacompose.errors import BadInput, quoted, unknown
from deltacompose.formats.json_files import parsed_json, read_json
from deltacompose.formats.sheets import SUFFIXES, read_cells, read_columns
from deltacompose.validation import validated

__all__ = [
    "COLUMNS",
    "MOST",
    "STATES",
    "frame",
    "from_frame",
    "read",
    "read_categories",
    "read_scores",
    "write",
    "write_scores",
]

STATES = ("done", "failed", "missing", "reference")


def write(matrix: TransferMatrix, path: str | Path) -> Path:
    """Write the tidy table as CSV or parquet, by the path's ending; the file is whole or not there.

    Raises:
        BadInput: another ending, a folder that cannot be written, or parquet without pyarrow.
    """
    path = Path(path)
    table, partial = frame(matrix), path.with_name(f".{path.name}.partial")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        if _ending(path) == ".csv":
            table.to_csv(partial, index=False)
        else:
            table.to_parquet(partial, index=False)
        os.replace(partial, path)
    except ImportError:
        raise BadInput(f"cannot write {path}: parquet needs the package pyarrow; .csv needs nothing") from None
    except OSError as error:
        raise BadInput(f"cannot write {path}: {error.strerror or error}") from None
    return path


def read(path: str | Path, composition: str | None = None) -> TransferMatrix:
    """The matrix that `write` wrote; `composition` chooses where a table holds several.

    Raises:
        BadInput: another kind of file, a cell that stands twice, contradictory reference scores, percentages.
    """
    path = Path(path)
    return from_frame(table_of(path), composition, str(path))


def table_of(path: Path) -> pd.DataFrame:
    """A file of columns: `.csv`, `.tsv`, `.xlsx` or `.parquet`.

    Raises:
        BadInput: another ending, or a file that cannot be read.
    """
    if path.suffix == ".parquet":
        return read_columns(path)
    if path.suffix == ".xlsx":
        header, *rows = read_cells(path) or [[]]
        return pd.DataFrame(rows, columns=[str(name) for name in header])
    if path.suffix not in (".csv", ".tsv"):
        raise BadInput(f"a transfer table ends in {', '.join(SUFFIXES)}, not {quoted(path.name)}")
    return frame_of_csv(path)


def from_frame(table: pd.DataFrame, composition: str | None = None, name: str = "the table") -> TransferMatrix:
    """The matrix of a tidy table; tasks and seeds stand in the order of their first row.

    Columns `source`, `target` and `score` are needed, all others have defaults (`tidy_scores.completed`).
    """
    twice = [str(column) for column, count in Counter(table.columns).items() if count > 1]
    if twice:
        raise BadInput(f"{name} has the column {quoted(twice[0])} twice")
    rows = _one_composition(completed(table, name), composition, name)
    unknown_states = sorted({str(row["state"]) for row in rows} - set(STATES))
    if unknown_states:
        raise BadInput(f"{name}: no state {quoted(unknown_states[0])}; states: {', '.join(STATES)}")
    cells = _cells([row for row in rows if row["state"] != "reference"], name)
    return _matrix(cells, _examples(rows, name), name)


Row = Mapping[Hashable, Any]
Key = tuple[int, str, str]


def _one_composition(rows: list[dict[Hashable, Any]], composition: str | None, name: str) -> list[dict[Hashable, Any]]:
    """The rows of the one composition (and backbone) that a matrix may hold."""
    compositions = list(dict.fromkeys(str(row["composition"]) for row in rows))
    if composition is not None and composition not in compositions:
        raise unknown("composition", composition, compositions)
    if composition is None and len(compositions) > 1:
        raise BadInput(f"{name} holds {len(compositions)} compositions, choose one: {', '.join(compositions)}")
    rows = [row for row in rows if composition in (None, str(row["composition"]))]
    if not rows:
        raise BadInput(f"{name} has no rows")
    backbones = list(dict.fromkeys(str(row["backbone"]) for row in rows))
    if len(backbones) > 1:
        raise BadInput(
            f"{name} holds scores of {len(backbones)} backbones, a matrix of one only: {', '.join(backbones)}"
        )
    return rows


def _cells(rows: list[dict[Hashable, Any]], name: str) -> dict[Key, Row]:
    cells: dict[Key, Row] = {}
    for row in rows:
        key = _key(row, name)
        if key in cells:
            raise BadInput(f"{name}: the cell {key[1]} → {key[2]} of seed {key[0]} stands there twice")
        cells[key] = row
    if not cells:
        raise BadInput(f"{name} has no scores, only reference rows")
    return cells


def _matrix(cells: Mapping[Key, Row], examples: Mapping[Key, Floats], name: str) -> TransferMatrix:
    seeds, sources, targets = (list(dict.fromkeys(axis)) for axis in zip(*cells, strict=True))
    check_size(name, sources, targets)
    shape = (len(seeds), len(sources), len(targets))
    values, trivial, failed = np.full(shape, np.nan), np.zeros(shape, dtype=bool), np.zeros(shape, dtype=bool)
    for (seed, source, target), row in cells.items():
        place = seeds.index(seed), sources.index(source), targets.index(target)
        values[place] = number_of(row["score"], name)
        trivial[place], failed[place] = str(row["trivial"]) == "True", row["state"] == "failed"
    first = next(iter(cells.values()))
    matrix = TransferMatrix(
        sources=tuple(sources),
        targets=tuple(targets),
        seeds=tuple(seeds),
        values=values,
        trivial=trivial,
        failed=failed,
        chance=np.array([_level(cells, "chance", target, None, name) for target in targets]),
        untouched=np.array([_level(cells, "untouched", target, None, name) for target in targets]),
        random=np.array([[_level(cells, "random", target, seed, name) for target in targets] for seed in seeds]),
        metric=tuple(next(str(row["metric"]) for key, row in cells.items() if key[2] == target) for target in targets),
        categories=_categories(cells.values()),
        composition=str(first["composition"]),
        backbone=str(first["backbone"]),
        examples=examples,
        chance_of=_text_of(first, "chance_of"),
        averaged_over=_runs_of(cells.values(), name),
        spread=_spread(cells, (sources, targets), name),
    )
    return checked(matrix, name)


def _spread(cells: Mapping[Key, Row], shape: tuple[list[str], list[str]], name: str) -> Floats | None:
    """(sources, targets): the column `sd`, where the table has one."""
    if not any(not np.isnan(number_of(row.get("sd"), name)) for row in cells.values()):
        return None
    spread = np.full((len(shape[0]), len(shape[1])), np.nan)
    for (_, source, target), row in cells.items():
        spread[shape[0].index(source), shape[1].index(target)] = value = number_of(row.get("sd"), name)
        if value < 0:
            raise BadInput(f"{name}: the sd of {source} → {target} is {value:g}; a standard deviation is at least 0")
    return spread


def _text_of(row: Row, column: str) -> str:
    """The text of a column that not every table has; empty where this one has none."""
    text = row.get(column)
    return text if isinstance(text, str) else ""


def _runs_of(rows: Iterable[Row], name: str) -> int | None:
    """The number of runs behind published means, the least of them; None where each seed is one run."""
    counts = set()
    for row in rows:
        if (value := row.get("averaged_over")) is None or str(value).strip() in ("", "nan", "<NA>"):
            continue
        try:
            counts.add(int(float(value)))
        except (TypeError, ValueError):
            raise BadInput(f"{name}: the number of runs {quoted(value)} is not a whole number") from None
    return min(counts, default=None)


def _level(cells: Mapping[Key, Row], column: str, target: str, seed: int | None, name: str) -> float:
    """The one value of a column for a target (in a seed), the same in all its rows; NaN if none has it."""
    rows = [row for key, row in cells.items() if key[2] == target and seed in (None, key[0])]
    levels = {value for value in (number_of(row[column], name) for row in rows) if not np.isnan(value)}
    if len(levels) > 1:
        raise BadInput(f"{name}: {column} of {target} differs between rows: {', '.join(map(str, sorted(levels)))}")
    return levels.pop() if levels else np.nan


def _categories(rows: Iterable[Row]) -> dict[str, str]:
    pairs = [(str(row[end]), str(row[f"{end}_category"])) for row in rows for end in ("source", "target")]
    return {task: category for task, category in pairs if category}


def _examples(rows: Iterable[Row], name: str) -> dict[Key, Floats]:
    texts = {_key(row, name): row.get("example_scores") for row in rows}
    return {key: _example_scores(text, name) for key, text in texts.items() if isinstance(text, str) and text}


def _example_scores(text: str, name: str) -> Floats:
    """The scores of one cell's examples, NaN where one is not known."""
    where = f"{name}: example_scores"
    scores = np.array(validated(list[float], parsed_json(text, where, finite=False), where), dtype=float)
    if np.isinf(scores).any():
        raise BadInput(f"{where} has infinite values")
    return scores


def _key(row: Row, name: str) -> Key:
    for end in ("source", "target"):
        if not str(row[end]).strip():
            raise BadInput(f"{name}: a row has no {end}; every score needs a source and a target")
    try:
        return int(row["seed"]), str(row["source"]), str(row["target"])
    except (ValueError, TypeError):
        raise BadInput(f"{name}: seed {quoted(row['seed'])} is not a whole number") from None


def _ending(path: Path) -> str:
    if path.suffix not in (".csv", ".parquet"):
        raise BadInput(f"a transfer table ends in .csv or .parquet, not {quoted(path.name)}")
    return path.suffix


def read_categories(path: str | Path) -> dict[str, str]:
    """Category by task, from a JSON object of strings.

    Raises:
        BadInput: a file that is not such a object, or names a task twice.
    """
    categories: dict[str, str] = read_json(Path(path), dict[str, str])
    return categories
