"""Tables of results: each delta on its own task, with seeds, spread, chance and the untouched backbone."""

from __future__ import annotations

import io
from collections.abc import Hashable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from deltacompose.analysis.matrix import TransferMatrix
from deltacompose.analysis.units import deviation, ordered
from deltacompose.errors import BadInput, unknown
from deltacompose.figures.figure_files import write_text
from deltacompose.figures.style import number
from deltacompose.report import paper_tables

COLUMNS = (
    "composition", "category", "task", "metric", "mean", "sd", "seeds", "failed", "missing", "state",
    "chance", "untouched",
)  # fmt: skip
"""Columns of the tidy table; `seeds`, `failed` and `missing` count; `state` is done, partial, failed or missing."""


def own_task(matrices: Mapping[str, TransferMatrix]) -> pd.DataFrame:
    """The tidy table: one row per composition and task, the score of deltas trained on the task that they are read on.

    Args:
        matrices: by composition.

    Returns:
        Columns as in `COLUMNS`; mean and sd over the seeds with a score, the sd NaN where fewer than two have one.

    Raises:
        BadInput: no matrices.
    """
    if not matrices:
        raise BadInput("a table of results needs at least one composition, found none")
    rows = [row for text, matrix in matrices.items() for row in _rows(text, matrix)]
    return pd.DataFrame(rows, columns=list(COLUMNS))


def _rows(composition: str, matrix: TransferMatrix) -> list[tuple[object, ...]]:
    """One row per task, in blocks of categories; a task that was never a source is missing, not absent."""
    spread = deviation(matrix.own)
    rows: list[tuple[object, ...]] = []
    for task in ordered(matrix.targets, matrix.categories):
        t = matrix.targets.index(task)
        known = matrix.own[~np.isnan(matrix.own[:, t]), t]
        failed = int(matrix.failed[:, matrix.sources.index(task), t].sum()) if task in matrix.sources else 0
        mean = float(known.mean()) if len(known) else np.nan
        about = (composition, matrix.categories.get(task, ""), task, matrix.metric[t])
        missing = len(matrix.seeds) - len(known) - failed
        state = "failed" if failed else "missing"
        if len(known):
            state = "partial" if failed or missing else "done"
        levels = (float(matrix.chance[t]), float(matrix.untouched[t]))
        rows.append((*about, mean, float(spread[t]), len(known), failed, missing, state, *levels))
    return rows


def wide(table: pd.DataFrame) -> pd.DataFrame:
    """Tasks by compositions, as text: `.87 ± .02 (3)` is mean, standard deviation and number of seeds.

    Chance and the untouched backbone are columns of their own; what is missing or failed says so.
    """
    texts = table.assign(
        text=[_text(row) for row in table.to_dict("records")], metric=table["metric"].replace("", None)
    )
    rows = texts.groupby(["category", "task"], sort=False)
    levels = rows[["metric", "chance", "untouched"]].first().sort_index(level="category", sort_remaining=False)
    levels = levels.assign(**{name: levels[name].map(_level) for name in ("chance", "untouched")})
    cells = texts.pivot(index=["category", "task"], columns="composition", values="text").fillna("missing")
    return pd.DataFrame(levels.join(cells[list(dict.fromkeys(table["composition"]))]).reset_index())


def _text(row: Mapping[Hashable, Any]) -> str:
    """One cell of the wide table: mean, spread, and how many seeds there are and are not."""
    if row["state"] in ("failed", "missing"):
        return str(row["state"])
    spread = "" if np.isnan(row["sd"]) else f" ± {number(row['sd'])}"
    absent = "".join(f", {row[name]} {name}" for name in ("failed", "missing") if row[name])
    return f"{number(row['mean'])}{spread} ({row['seeds']}{absent})"


def _level(value: float) -> str:
    return "unknown" if np.isnan(value) else number(value)


def write(table: pd.DataFrame, path: str | Path) -> Path:
    """Write a table of `own_task` as tidy `.csv`, or as the wide `.md` or `.tex`.

    Raises:
        BadInput: another suffix, or a file that cannot be written.
    """
    path = Path(path)
    texts = {".csv": _csv, ".md": markdown, ".tex": latex}
    if path.suffix not in texts:
        raise unknown("table format", path.suffix, texts)
    return write_text(path, texts[path.suffix](table))


def _csv(table: pd.DataFrame) -> str:
    buffer = io.StringIO()
    table.to_csv(buffer, index=False, lineterminator="\n")
    return buffer.getvalue()


def markdown(table: pd.DataFrame) -> str:
    """The wide table in Markdown, with a note on what its cells say."""
    body, best = wide(table), paper_tables.best_compositions(table)
    rows = [
        [f"**{plain(cell)}**" if best.get(row["task"]) == name else plain(cell) for name, cell in row.items()]
        for row in body.to_dict("records")
    ]
    lines = ["| " + " | ".join(row) + " |" for row in (map(plain, body.columns), ["---"] * len(body.columns), *rows)]
    return "\n".join([*lines, "", NOTE, ""])


def plain(cell: object) -> str:
    """One line of Markdown that is text and nothing else."""
    line = " ".join(str(cell).split()).replace("\\", "\\\\").replace("](", "]\\(")
    for sign in "|`*<$":
        line = line.replace(sign, f"\\{sign}")
    return line


NOTE = (
    "Mean ± standard deviation over seeds (number of seeds), of deltas on the task they were trained on; test split. "
    f"{paper_tables.BOLD_RESULTS}"
)


def latex(table: pd.DataFrame) -> str:
    """The table of `paper_tables.results` in LaTeX, for the package booktabs; every name is escaped."""
    return paper_tables.results(table).latex()
