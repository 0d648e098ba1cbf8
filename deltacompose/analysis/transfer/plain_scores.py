"""The plain table of raw scores: rows are sources, columns targets, three reserved rows levels of reference."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from deltacompose.analysis.matrix import REFERENCES, TransferMatrix, mean_over_seeds
from deltacompose.analysis.transfer.csv_cells import cells_of_text
from deltacompose.analysis.transfer.score_checks import check_size, checked, number_of
from deltacompose.errors import BadInput, quoted
from deltacompose.study.config import RESERVED


def read_scores(
    path: str | Path,
    categories: Mapping[str, str] | None = None,
    name: str = "",
    runs: int = 0,
    *,
    percent: bool = False,
    transposed: bool = False,
) -> TransferMatrix:
    """Read a plain table of published mean scores, `.csv`, `.tsv` or `.xlsx`: rows are sources, columns are targets.

    Three row names are reserved: `chance` holds the chance level of each target, `untouched` the score of the backbone
    alone, `random` that of random deltas, which is taken for chance where there is no row `chance`. Rows and columns
    are matched by name; sources that are targets come out in the targets' order, others after.

    Args:
        categories: category of each task.
        name: what the scores are of, such as a composition; figures are titled with it.
        runs: number of training runs that each score is the mean of; 0 if unknown.
        percent: whether the scores are percentages.
        transposed: whether rows are targets and columns sources; the reserved names are then those of columns.

    Raises:
        BadInput: a name twice, a row of another length, a cell that is neither a number nor empty, percentages.
    """
    path = Path(path)
    return scores_of(cells_of_text(path), str(path), categories, name, runs, percent=percent, transposed=transposed)


def scores_of(
    table: Sequence[Sequence[Any]],
    path: str,
    categories: Mapping[str, str] | None = None,
    name: str = "",
    runs: int = 0,
    *,
    percent: bool = False,
    transposed: bool = False,
) -> TransferMatrix:
    """The matrix of a plain table as rows of cells, the first of which is the header; `path` names it in errors."""
    if transposed:
        table = [list(column) for column in zip(*table, strict=True)]
    targets, names = list(map(str, table[0][1:])), [str(row[0]) for row in table[1:]]
    check_size(path, names, targets)
    for reserved in RESERVED:
        if reserved in targets:
            raise BadInput(
                f"{path}: a column cannot have the name {reserved!r}, which names a row of reference scores; reserved "
                f"names: {', '.join(RESERVED)}"
            )
    for kind, labels in (("column", targets), ("row", names)):
        repeated = [label for label, count in Counter(labels).items() if count > 1]
        if repeated:
            raise BadInput(f"{path}: the {kind} {quoted(repeated[0])} stands there twice")
    whole = 100.0 if percent else 1.0
    rows = {
        str(row[0]): np.array(
            [number_of(cell, path, f" ({row[0]} → {target})") for cell, target in zip(row[1:], targets, strict=True)]
        )
        / whole
        for row in table[1:]
    }
    unknown_row = np.full(len(targets), np.nan)
    chance_of = "random" if "random" in rows and "chance" not in rows else ""
    random, untouched = (rows.pop(reference, unknown_row) for reference in REFERENCES[::-1])
    chance = rows.pop("chance", random)
    if not rows:
        raise BadInput(f"{path} has reference rows only ({', '.join(names)}); expected a row for each source")
    sources = [target for target in targets if target in rows] + [row for row in rows if row not in targets]
    values = np.array([[rows[source] for source in sources]]).reshape(1, len(sources), len(targets))
    nothing = np.zeros(values.shape, dtype=bool)
    matrix = TransferMatrix(
        sources=tuple(sources),
        targets=tuple(targets),
        seeds=(0,),
        values=values,
        chance=chance,
        untouched=untouched,
        random=random[None],
        trivial=nothing,
        failed=nothing,
        metric=("score",) * len(targets),
        categories=categories or {},
        composition=name,
        chance_of=chance_of,
        averaged_over=runs,
    )
    return checked(matrix, path)


def write_scores(matrix: TransferMatrix, path: str | Path) -> Path:
    """Write the plain CSV that `read_scores` reads: mean raw scores over the seeds, empty where one is unknown.

    Below the sources are the rows `random` (random deltas), `untouched` (the backbone alone) and `chance`, as far as
    they are known; no row `chance` where the random deltas are taken for it. The scores of single seeds and examples
    are in the tidy table alone (`write`).

    Raises:
        BadInput: a folder that cannot be written.
    """
    path = Path(path)
    rows = dict(zip(matrix.sources, matrix.mean(), strict=True))
    random = matrix.chance if matrix.chance_of == "random" else mean_over_seeds(matrix.random)
    levels = {"random": random, "untouched": matrix.untouched}
    levels |= {} if matrix.chance_of else {"chance": matrix.chance}
    rows |= {name: row for name, row in levels.items() if not np.isnan(row).all()}
    table = pd.DataFrame.from_dict(rows, orient="index", columns=list(matrix.targets))
    partial = path.with_name(f".{path.name}.partial")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        table.to_csv(partial, index_label="source")
        os.replace(partial, path)
    except OSError as error:
        raise BadInput(f"cannot write {path}: {error.strerror or error}") from None
    return path
