"""Published scores of any kind as a transfer matrix: files and tables, tidy or wide, DataFrames and xarrays.

A table is **tidy** if it has the columns `source`, `target` and `score`; further columns are `seed`, `n` and `sd` (runs
behind a mean and their standard deviation), `chance`, `untouched`, `random`, `composition`, `backbone`, `metric`,
`source_category` and `target_category`. Any other table is **wide**: rows are sources, columns are targets, the rows
`chance`, `untouched` and `random` are levels of reference.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pandas as pd

from deltacompose.analysis.matrix import TransferMatrix
from deltacompose.analysis.transfer.csv_cells import cells_of_text
from deltacompose.analysis.transfer.labelled_arrays import from_xarray
from deltacompose.analysis.transfer.plain_scores import scores_of
from deltacompose.analysis.transfer.score_checks import Percentages
from deltacompose.analysis.transfer.tidy_scores import is_tidy
from deltacompose.analysis.transfer.tidy_tables import from_frame, table_of
from deltacompose.errors import BadInput, unknown
from deltacompose.formats.sheets import SUFFIXES, header_of


@dataclass(frozen=True)
class About:
    """Facts that a table does not state.

    Attributes:
        categories: category of each task.
        name: what the scores are of, such as a composition; of a wide table.
        runs: number of runs that each score of a wide table is the mean of; 0 if unknown.
        percent: whether the scores are percentages.
        transposed: whether the rows of a wide table are targets.
    """

    categories: Mapping[str, str] | None = None
    name: str = ""
    runs: int = 0
    percent: bool = False
    transposed: bool = False


def matrix_of(data: Any, composition: str | None = None, about: About | None = None) -> TransferMatrix:
    """The transfer matrix of a matrix, a DataFrame, an xarray, or the path of a file.

    Args:
        data: a `TransferMatrix` is returned as it is.
        composition: which one, where a tidy table has several.
        about: what a table does not say itself.

    Raises:
        BadInput: something else, a table that is neither tidy nor wide, or scores that are not numbers.
    """
    about = about or About()
    if isinstance(data, TransferMatrix):
        return data
    if isinstance(data, str | Path):
        return _of_file(Path(data), composition, about)
    if isinstance(data, pd.DataFrame):
        return _of_table(data, composition, about)
    if hasattr(data, "dims") and hasattr(data, "coords"):
        return from_xarray(data)
    raise BadInput(
        f"a {type(data).__name__} is not a transfer matrix; expected a TransferMatrix, a DataFrame, an xarray, or the "
        f"path of a {', '.join(SUFFIXES)} file"
    )


def matrix_in_shares(data: Any, percent: bool) -> TransferMatrix:
    """The matrix of `matrix_of`; with `percent`, scores beyond 1.5 are read as percentages in place of refused.

    >>> matrix_in_shares(pd.DataFrame({"source": ["a", "b"], "a": [90, 70], "b": [60, 80]}), True).values[0]
    array([[0.9, 0.6],
           [0.7, 0.8]])

    Raises:
        BadInput: as `matrix_of`.
    """
    try:
        return matrix_of(data)
    except Percentages:
        if not percent:
            raise
        return matrix_of(data, about=About(percent=True))


def matrices_of(data: Any, about: About | None = None, by: str = "composition") -> dict[str, TransferMatrix]:
    """Several transfer matrices by name: a mapping of them, or a tidy table with several compositions or backbones.

    Args:
        by: the column that tells the matrices apart, `composition` or `backbone`.

    Raises:
        BadInput: no matrix, another column, or a value of another type.
    """
    if by not in ("composition", "backbone"):
        raise unknown("column that tells matrices apart", by, ("composition", "backbone"))
    if isinstance(data, Mapping):
        matrices = {str(name): matrix_of(value, about=about) for name, value in data.items()}
    elif hasattr(data, "matrices") and isinstance(data.matrices, Mapping):
        matrices = dict(data.matrices)
    elif isinstance(data, list | tuple):
        matrices = _named([matrix_of(value, about=about) for value in data])
    else:
        table = _tidy_table(data)
        if table is None or by not in table.columns:
            matrices = _named([matrix_of(data, about=about)])
        else:
            parts = {str(name): part for name, part in table.groupby(by, sort=False)}
            matrices = {name: _of_table(part, None, about or About()) for name, part in parts.items()}
    if not matrices:
        raise BadInput("no transfer matrix was given")
    return matrices


def _named(matrices: list[TransferMatrix]) -> dict[str, TransferMatrix]:
    """By composition; where it does not tell them apart, with the backbone or a number."""
    names = [matrix.composition or "transfer matrix" for matrix in matrices]
    if len(set(names)) < len(names):
        names = [f"{name}, {matrix.backbone[:12]}" for name, matrix in zip(names, matrices, strict=True)]
    if len(set(names)) < len(names):
        names = [f"{place}: {name}" for place, name in enumerate(names, start=1)]
    return dict(zip(names, matrices, strict=True))


def _tidy_table(data: Any) -> pd.DataFrame | None:
    if isinstance(data, pd.DataFrame):
        return data if is_tidy(data.columns) else None
    if isinstance(data, str | Path) and is_tidy(header_of(Path(data))):
        return table_of(Path(data))
    return None


def _of_file(path: Path, composition: str | None, about: About) -> TransferMatrix:
    if path.suffix == ".parquet":
        return _of_table(table_of(path), composition, about, str(path))
    if is_tidy(header_of(path)):
        return _finished(from_frame(_scaled(table_of(path), about), composition, str(path)), about)
    return scores_of(
        cells_of_text(path),
        str(path),
        about.categories,
        about.name,
        about.runs,
        percent=about.percent,
        transposed=about.transposed,
    )


def _of_table(
    table: pd.DataFrame, composition: str | None, about: About, name: str = "the data frame"
) -> TransferMatrix:
    if is_tidy(table.columns):
        return _finished(from_frame(_scaled(table, about), composition, name), about)
    if isinstance(table.index, pd.RangeIndex):
        if len(table.columns) < 2 or not len(table):
            raise BadInput(
                f"{name} is not a table of scores: expected the columns source, target and score, or a row for each "
                f"source and a column for each target; found {len(table)} rows and {len(table.columns)} columns"
            )
        table = table.set_index(table.columns[0])
    cells: list[list[Any]] = [["source", *map(str, table.columns)]]
    cells += [[str(label), *row] for label, row in zip(table.index, table.astype(object).to_numpy(), strict=True)]
    return scores_of(
        cells, name, about.categories, about.name, about.runs, percent=about.percent, transposed=about.transposed
    )


def _scaled(table: pd.DataFrame, about: About) -> pd.DataFrame:
    if not about.percent:
        return table
    columns = [name for name in ("score", "sd", "chance", "untouched", "random") if name in table.columns]
    shares = {name: pd.to_numeric(table[name], errors="coerce") / 100 for name in columns}
    lost = [name for name in columns if (shares[name].isna() & ~table[name].isin(["", None])).any()]
    lost = [name for name in lost if not table[name].isna().equals(shares[name].isna())]
    if lost:
        raise BadInput(f"the column {lost[0]} has cells that are not numbers; leave a missing score empty")
    return table.assign(**shares)


def _finished(matrix: TransferMatrix, about: About) -> TransferMatrix:
    changes: dict[str, Any] = {}
    if about.categories:
        changes["categories"] = about.categories
    if about.name and not matrix.composition:
        changes["composition"] = about.name
    if about.runs and matrix.averaged_over == 0:
        changes["averaged_over"] = about.runs
    return replace(matrix, **changes) if changes else matrix
