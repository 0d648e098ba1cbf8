"""Composition-aware transfer: one part of a stack from another task, the others from the task itself.

A stack of several methods may transfer because one of them does. Swapping one component's source at a time says which.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict, replace
from typing import Any

import numpy as np

from deltacompose.analysis.matrix import TransferMatrix
from deltacompose.analysis.statistics import Estimate
from deltacompose.analysis.transfer.records import from_records
from deltacompose.analysis.transfer.stacking import stack_effect
from deltacompose.analysis.transfer.summaries import compare_categories
from deltacompose.analysis.transfer.uncertainty import complete, weighted
from deltacompose.errors import BadInput
from deltacompose.study.queries import Record


def swap_matrices(
    records: Iterable[Record], composition: str, categories: Mapping[str, str], split: str = "test"
) -> dict[tuple[str, str], TransferMatrix]:
    """For each part of a composition, by its prefix and its method, the matrix of swaps.

    A cell off the diagonal is the target's own delta with that part from the source; the diagonal is the target's own
    delta as it is.

    Args:
        records: finished and failed cells; those of kinds `evaluate` and `swap` are read.
        categories: of each task.
        split: whose evaluations are read.
    """
    records = list(records)
    own = [r for r in records if r["kind"] == "evaluate" and r["spec"]["source"] in ("untouched", r["spec"]["target"])]
    parts: dict[tuple[str, str], list[Record]] = {}
    for record in records:
        if record["kind"] == "swap" and record["spec"]["composition"] == composition:
            part = (str(record["spec"]["part"]), str(record["spec"]["method"]))
            parts.setdefault(part, []).append({**record, "kind": "evaluate"})
    by_part = {
        part: from_records([*own, *swaps], composition, categories, split) for part, swaps in sorted(parts.items())
    }
    return {part: replace(matrix, composition=f"{composition}, {part[1]} swapped") for part, matrix in by_part.items()}


def swap_effects(
    swaps: Mapping[tuple[str, str], TransferMatrix], matrices: Mapping[str, TransferMatrix], composition: str
) -> list[dict[str, Any]]:
    """Effect of swapping each part on the chance-corrected performance, ready for JSON.

    For each part `corrected` off the diagonal (and within and across categories), `minus_stack`, that minus C of the
    whole stack from the source, and `minus_alone`, that minus C of the method trained alone; None where the matrix to
    compare with is not there.
    """
    return [
        {
            "part": prefix,
            "method": method,
            "corrected": _all(matrix),
            **_by_category(matrix),
            "minus_stack": _minus(matrix, matrices.get(composition)),
            "minus_alone": _minus(matrix, matrices.get(method)),
            "limitations": matrix.limitations(),
        }
        for (prefix, method), matrix in swaps.items()
    ]


def _all(matrix: TransferMatrix) -> dict[str, Any] | None:
    cells = matrix.off_diagonal & complete(matrix, "corrected")
    return _plain(weighted(matrix, "corrected", cells / cells.sum())) if cells.any() else None


def _by_category(matrix: TransferMatrix) -> dict[str, Any]:
    if not matrix.categories:
        return {"corrected_same_category": None, "corrected_cross_category": None}
    comparison = compare_categories(matrix, "corrected", permutations=1)
    return {f"corrected_{part}_category": _plain(getattr(comparison, part)) for part in ("same", "cross")}


def _minus(matrix: TransferMatrix, other: TransferMatrix | None) -> dict[str, Any] | None:
    if other is None:
        return None
    try:
        return _plain(stack_effect(matrix, other).mean)
    except BadInput as reason:
        return {"value": None, "reason": str(reason)}


def _plain(estimate: Estimate | None) -> dict[str, Any] | None:
    """None instead of NaN, which JSON has not."""
    if estimate is None:
        return None
    return {n: None if isinstance(v, float) and np.isnan(v) else v for n, v in asdict(estimate).items()}
