"""Transfer matrices from xarray datasets and arrays."""

from __future__ import annotations

from typing import Any

import numpy as np

from deltacompose.analysis.arrays import Floats
from deltacompose.analysis.matrix import TransferMatrix
from deltacompose.analysis.transfer.score_checks import checked
from deltacompose.errors import BadInput


def from_xarray(data: Any) -> TransferMatrix:
    """The matrix of a dataset with a variable `score`, or of one array of scores, over `source` and `target`.

    A dimension `seed` is optional: without it the scores are published means.

    Raises:
        BadInput: other dimensions, no variable `score`, or percentages.
    """
    if hasattr(data, "data_vars") and "score" not in data.data_vars:
        raise BadInput(f"the dataset has no variable score; found {', '.join(map(str, data.data_vars)) or 'none'}")
    parts = dict(data.data_vars) if hasattr(data, "data_vars") else {"score": data}
    score = parts["score"]
    if {"source", "target"} - set(score.dims) or set(score.dims) - {"seed", "source", "target"}:
        raise BadInput(f"the scores have the dimensions {', '.join(map(str, score.dims))}; expected source and target")
    seeded = "seed" in score.dims
    if not seeded:
        parts = {name: part.expand_dims("seed") if name != "sd" else part for name, part in parts.items()}
    sources, targets = (tuple(map(str, score[end].values.tolist())) for end in ("source", "target"))
    seeds = tuple(int(seed) for seed in score["seed"].values.tolist()) if seeded else (0,)
    shape = (len(seeds), len(sources), len(targets))

    def array(name: str, dimensions: tuple[str, ...], default: Any, kind: type = float) -> Floats:
        wanted = tuple(shape[("seed", "source", "target").index(d)] for d in dimensions)
        if name not in parts:
            return np.full(wanted, default, dtype=kind)
        part = parts[name]
        if "seed" in part.dims and "seed" not in dimensions:
            part = part.isel(seed=0)
        return np.broadcast_to(
            np.asarray(part.transpose(..., *[d for d in dimensions if d in part.dims]), dtype=kind), wanted
        )

    categories = {
        str(name): str(kind)
        for end in ("source", "target")
        if f"{end}_category" in data.coords
        for name, kind in zip(data[end].values.tolist(), data[f"{end}_category"].values.tolist(), strict=True)
    }
    about = dict(data.attrs)
    whole = ("seed", "source", "target")
    metric = data["metric"].values.tolist() if "metric" in data.coords else ["score"] * len(targets)
    averaged = about.get("averaged_over", None if seeded else 0)
    matrix = TransferMatrix(
        sources=sources,
        targets=targets,
        seeds=seeds,
        values=array("score", whole, np.nan),
        chance=array("chance", ("target",), np.nan),
        untouched=array("untouched", ("target",), np.nan),
        random=array("random", ("seed", "target"), np.nan),
        trivial=array("trivial", whole, False, bool).astype(bool),
        failed=array("failed", whole, False, bool).astype(bool),
        metric=tuple(map(str, metric)),
        categories=categories,
        composition=str(about.get("composition", "")),
        backbone=str(about.get("backbone", "")),
        chance_of=str(about.get("chance_of", "")),
        averaged_over=None if averaged is None else int(averaged),
        spread=array("sd", ("source", "target"), np.nan) if "sd" in parts else None,
    )
    return checked(matrix, "the dataset")
