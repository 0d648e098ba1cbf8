"""Tidy tables of scores: which table is tidy, and what the columns that it lacks are taken for."""

from __future__ import annotations

from collections.abc import Hashable, Iterable
from typing import Any

import numpy as np
import pandas as pd

from deltacompose.analysis.transfer.score_checks import number_of
from deltacompose.errors import BadInput
from deltacompose.study.config import RESERVED

COLUMNS = (
    "composition", "backbone", "seed", "source", "target", "source_category", "target_category", "metric",
    "score", "state", "trivial", "chance", "untouched", "random",
)  # fmt: skip
"""The columns of a table of ours."""
NEEDED = ("source", "target", "score")
OPTIONAL = ("n", "sd", "category", "averaged_over", "chance_of", "example_scores")
"""Further columns: the runs behind a mean and their standard deviation, and the category of both ends."""
_DEFAULTS: dict[str, Any] = {
    "composition": "",
    "backbone": "",
    "source_category": "",
    "target_category": "",
    "metric": "score",
    "trivial": False,
    "chance": np.nan,
    "untouched": np.nan,
    "random": np.nan,
}
Rows = list[dict[Hashable, Any]]


def is_tidy(columns: Iterable[Any]) -> bool:
    """Whether a table with these columns has one row per score: it has `source`, `target` and `score`."""
    return set(NEEDED) <= set(map(str, columns))


def completed(table: pd.DataFrame, name: str) -> Rows:
    """The rows of a tidy table with all columns.

    Without a column `seed` the scores are published means, over `n` runs where the table says so, and `sd` is their
    standard deviation. Rows whose source is `chance`, `untouched` or `random` are levels of reference of their target;
    where there is a `random` level and no chance, it is taken for chance. A score that is empty is missing.

    Raises:
        BadInput: no column `source`, `target` or `score`; a deviation with several seeds; a level without a score.
    """
    absent = [column for column in NEEDED if column not in table.columns]
    if absent:
        raise BadInput(
            f"{name} is not a transfer table: it lacks the columns {', '.join(absent)}; known "
            f"{', '.join(map(str, table.columns[:20])) or 'none'}"
        )
    rows: Rows = [_filled(dict(row), name) for row in table.to_dict("records")]
    seeds = {str(row["seed"]) for row in rows if str(row["source"]) not in RESERVED}
    if len(seeds) > 1 and any(not np.isnan(number_of(row.get("sd"), name)) for row in rows):
        raise BadInput(f"{name} has {len(seeds)} seeds and a column sd; a spread belongs to means over seeds")
    return _with_levels(rows, name, "chance" not in table.columns)


def _filled(row: dict[Hashable, Any], name: str) -> dict[Hashable, Any]:
    for column, default in _DEFAULTS.items():
        if column not in row or (isinstance(row[column], float) and np.isnan(row[column]) and default != default):
            row.setdefault(column, default)
        if isinstance(default, str) and not isinstance(row[column], str):
            row[column] = default if pd.isna(row[column]) else str(row[column])
    if "category" in row:
        row["source_category"] = row["source_category"] or _text(row["category"])
        row["target_category"] = row["target_category"] or _text(row["category"])
    if "seed" not in row or _text(row["seed"]) == "":
        row["seed"] = 0
        row.setdefault("averaged_over", row.get("n", 0) if _text(row.get("n", 0)) else 0)
    elif _text(row.get("n", "")):
        row.setdefault("averaged_over", row["n"])
    if "state" not in row:
        row["state"] = "missing" if np.isnan(number_of(row["score"], name)) else "done"
    return row


def _text(value: Any) -> str:
    return "" if value is None or (isinstance(value, float) and np.isnan(value)) else str(value).strip()


def _with_levels(rows: Rows, name: str, no_chance: bool) -> Rows:
    """The rows of scores, each with the levels that rows of reserved sources give for its target (and its seed)."""
    levels: dict[tuple[str, str, str, str], float] = {}
    scores: Rows = []
    for row in rows:
        if str(row["source"]) not in RESERVED or row["state"] == "reference":
            scores.append(row)
            continue
        of_seed = str(row["seed"]) if row["source"] == "random" else ""
        key = str(row["source"]), str(row["composition"]), str(row["target"]), of_seed
        levels[key] = number_of(row["score"], name)
    if levels:
        for row in scores:
            for level in RESERVED:
                of_seed = str(row["seed"]) if level == "random" else ""
                known = levels.get((level, str(row["composition"]), str(row["target"]), of_seed))
                known = levels.get((level, "", str(row["target"]), of_seed)) if known is None else known
                row[level] = row[level] if known is None else known
    if no_chance and all(np.isnan(number_of(row["chance"], name)) for row in scores):
        for row in scores:
            if not np.isnan(number_of(row["random"], name)):
                row["chance"], row["chance_of"] = row["random"], "random"
    return scores
