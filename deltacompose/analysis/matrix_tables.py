"""Transfer matrices as tidy tables and as xarray datasets.

A matrix is anything with the attributes of `matrix.TransferMatrix`, which has these functions as methods.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import numpy as np

from deltacompose.analysis.labelled import xarray_module
from deltacompose.study.config import RESERVED

if TYPE_CHECKING:
    import pandas as pd
    import xarray

REFERENCES = RESERVED[:2]


def frame(matrix: Any) -> pd.DataFrame:
    """The tidy table: one row per seed, source and target.

    `state` is done, failed or missing. Where per-example scores are known, a column `example_scores` holds them as a
    JSON list, and those of the reference rows stand in rows of state `reference`. A column `chance_of` names the row
    that was taken for chance, where one was; a column `averaged_over` has the number of runs behind published means.

    >>> list(frame(matrix).columns)[:5]
    ['composition', 'backbone', 'seed', 'source', 'target']
    """
    # Imported here because every worker imports this module, and few make a table.
    import pandas as pd

    rows = [_row(matrix, k, s, t) for k, s, t in np.ndindex(matrix.values.shape)]
    if matrix.examples:
        rows += [_reference_row(matrix, key) for key in matrix.examples if key[1] in REFERENCES]
        for row in rows:
            scores = matrix.examples.get((row["seed"], row["source"], row["target"]))
            row["example_scores"] = "" if scores is None else json.dumps([float(score) for score in scores])
    if matrix.spread is not None:
        for row, (_, s, t) in zip(rows, np.ndindex(matrix.values.shape), strict=False):
            row["sd"] = float(matrix.spread[s, t])
    about = {"chance_of": matrix.chance_of or None, "averaged_over": matrix.averaged_over}
    return pd.DataFrame(
        [{**row, **{name: value for name, value in about.items() if value is not None}} for row in rows]
    )


def _row(matrix: Any, k: int, s: int, t: int) -> dict[str, Any]:
    score = matrix.values[k, s, t]
    state = "failed" if matrix.failed[k, s, t] else "missing" if np.isnan(score) else "done"
    about = _about(matrix, matrix.seeds[k], matrix.sources[s], t)
    return {**about, "score": score, "state": state, "trivial": bool(matrix.trivial[k, s, t]), **_levels(matrix, k, t)}


def _reference_row(matrix: Any, key: tuple[int, str, str]) -> dict[str, Any]:
    seed, source, target = key
    t = matrix.targets.index(target)
    k = matrix.seeds.index(seed) if seed in matrix.seeds else 0
    score = matrix.untouched[t] if source == "untouched" else matrix.random[k, t]
    about = _about(matrix, seed, source, t)
    return {**about, "score": score, "state": "reference", "trivial": False, **_levels(matrix, k, t)}


def _about(matrix: Any, seed: int, source: str, t: int) -> dict[str, Any]:
    target = matrix.targets[t]
    return {
        "composition": matrix.composition,
        "backbone": matrix.backbone,
        "seed": seed,
        "source": source,
        "target": target,
        "source_category": matrix.categories.get(source, ""),
        "target_category": matrix.categories.get(target, ""),
        "metric": matrix.metric[t],
    }


def _levels(matrix: Any, k: int, t: int) -> dict[str, float]:
    return {"chance": matrix.chance[t], "untouched": matrix.untouched[t], "random": matrix.random[k, t]}


def to_xarray(matrix: Any) -> xarray.Dataset:
    """A dataset: `score`, `trivial`, `failed` (seed, source, target), `random` (seed, target), `chance`, `untouched`.

    `sd` (source, target) is there where it was published. Coordinates are the names, the metric of each target and the
    categories; attributes are the composition, the backbone, and what the means are over.

    Raises:
        BadInput: xarray is not installed.
    """
    whole = ("seed", "source", "target")
    variables: dict[str, Any] = {
        "score": (whole, matrix.values),
        "trivial": (whole, matrix.trivial),
        "failed": (whole, matrix.failed),
        "chance": ("target", matrix.chance),
        "untouched": ("target", matrix.untouched),
        "random": (("seed", "target"), matrix.random),
    }
    if matrix.spread is not None:
        variables["sd"] = (("source", "target"), matrix.spread)
    coordinates: dict[str, Any] = {
        "seed": list(matrix.seeds),
        "source": list(matrix.sources),
        "target": list(matrix.targets),
        "metric": ("target", list(matrix.metric)),
    }
    if matrix.categories:
        for end, names in (("source", matrix.sources), ("target", matrix.targets)):
            coordinates[f"{end}_category"] = (end, [matrix.categories[name] for name in names])
    about: dict[str, Any] = {
        "composition": matrix.composition,
        "backbone": matrix.backbone,
        "chance_of": matrix.chance_of,
    }
    if matrix.averaged_over is not None:
        about["averaged_over"] = matrix.averaged_over
    return xarray_module().Dataset(variables, coordinates, about)  # type: ignore[no-any-return]
