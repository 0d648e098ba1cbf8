"""Summaries of transfer matrices: transfer within categories against transfer across them, and one object for JSON.

The matrix itself is in `analysis/matrix.py`, its files in `tidy_tables`, intervals and marks in `uncertainty`, transfer
by initialisation in `initialization`, transfer under a stack in `stacking`; their names can be imported from here too.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from deltacompose.analysis.arrays import Bools
from deltacompose.analysis.matrix import MARGIN, TransferMatrix, mean_over_seeds
from deltacompose.analysis.permutation import PermutationTest, label_test
from deltacompose.analysis.statistics import Estimate, asymmetry, reliability
from deltacompose.analysis.transfer.initialization import InitTransfer, initialisation_transfer
from deltacompose.analysis.transfer.records import from_records, with_examples
from deltacompose.analysis.transfer.stacking import StackEffect, stack_effect
from deltacompose.analysis.transfer.tidy_tables import (
    frame,
    from_frame,
    read,
    read_categories,
    read_scores,
    write,
    write_scores,
)
from deltacompose.analysis.transfer.uncertainty import (
    Against,
    Kind,
    Marks,
    can_be_tested,
    complete,
    intervals,
    marks,
    values_of,
    weighted,
)

__all__ = [
    "MARGIN",
    "CategoryComparison",
    "InitTransfer",
    "Marks",
    "StackEffect",
    "TransferMatrix",
    "compare_categories",
    "frame",
    "from_frame",
    "from_records",
    "initialisation_transfer",
    "intervals",
    "kinds_of",
    "marks",
    "mean_over_seeds",
    "read",
    "read_categories",
    "read_scores",
    "stack_effect",
    "summary",
    "with_examples",
    "write",
    "write_scores",
]


@dataclass(frozen=True)
class CategoryComparison:
    """Mean value within categories, across them, and their difference, with a permutation test of the labels.

    `same_pairs` counts the ordered pairs (s → t) of one category that the means use, `same_unordered` the pairs of
    tasks among them, `cross_pairs` the ordered pairs of two categories. `excluded` counts off-diagonal cells whose
    value is not known in every seed. Parts that do not exist (no such pair) are None.
    """

    kind: Kind
    same: Estimate | None
    cross: Estimate | None
    difference: Estimate | None
    test: PermutationTest | None
    same_pairs: int
    same_unordered: int
    cross_pairs: int
    excluded: int


def compare_categories(
    matrix: TransferMatrix, kind: Kind, permutations: int = 9999, seed: int = 0
) -> CategoryComparison:
    """Compare transfer within categories with transfer across them, over the off-diagonal cells known in every seed.

    >>> comparison = compare_categories(matrix, "corrected", permutations=99)
    >>> round(comparison.same.value, 2), round(comparison.cross.value, 2)
    (0.74, 0.2)

    Raises:
        BadInput: the matrix has no categories.
    """
    same, used = matrix.same_category, complete(matrix, kind)
    within, across = same & used, ~same & used
    both = within.any() and across.any()
    return CategoryComparison(
        kind=kind,
        same=_mean_of(matrix, kind, within),
        cross=_mean_of(matrix, kind, across),
        difference=weighted(matrix, kind, within / within.sum() - across / across.sum()) if both else None,
        test=_permuted(matrix, kind, used, permutations, seed) if both else None,
        same_pairs=int(within.sum()),
        same_unordered=len({frozenset((matrix.sources[s], matrix.targets[t])) for s, t in np.argwhere(within)}),
        cross_pairs=int(across.sum()),
        excluded=int((matrix.off_diagonal & ~used).sum()),
    )


def _mean_of(matrix: TransferMatrix, kind: Kind, cells: Bools) -> Estimate | None:
    return weighted(matrix, kind, cells / cells.sum()) if cells.any() else None


def _permuted(matrix: TransferMatrix, kind: Kind, used: Bools, permutations: int, seed: int) -> PermutationTest:
    """Labels are permuted over all tasks, whether they are sources, targets or both."""
    names, (s, t) = matrix.names, np.nonzero(used)
    ends = [np.array([names.index(side[i]) for i in at]) for side, at in ((matrix.sources, s), (matrix.targets, t))]
    values = values_of(matrix, kind).mean(axis=0)[s, t]
    labels = [matrix.categories[name] for name in names]
    return label_test(values, labels, (ends[0], ends[1]), permutations, seed)


def summary(matrix: TransferMatrix, permutations: int = 9999) -> dict[str, Any]:
    """Summarises a matrix for JSON; a value that cannot be computed is None, with its reason in `limitations`.

    Means are over off-diagonal cells, of relative and corrected values, and of the lift A(s → t) − A(∅ → t) where the
    score of the untouched backbone is known: a source of another category may do well only because the backbone does.
    `category_p` is the one-sided p of the label permutation on the corrected values (on the relative ones where chance
    is unknown; `category_p_of` says which), `least_p` the smallest p these labels can give. `asymmetry` is that of R
    averaged over seeds. `reliability` is of the off-diagonal R over seeds, `within` after each target's mean is taken
    out.
    """
    limitations = matrix.limitations()
    kinds = kinds_of(matrix)
    compared = {kind: compare_categories(matrix, kind, permutations) for kind in kinds} if matrix.categories else {}
    tested = [kind for kind in reversed(_KINDS) if kind in compared and compared[kind].test is not None]
    test = compared[tested[0]].test if tested else None
    limitations += list(_about_categories(matrix, compared))
    repeats = _reliability(matrix)
    limitations += list(_about_reliability(repeats))
    relative = mean_over_seeds(matrix.square().relative()) if matrix.tasks else np.full((1, 1), np.nan)
    result: dict[str, Any] = {
        "composition": matrix.composition,
        "backbone": matrix.backbone,
        "tasks": len(matrix.names),
        "seeds": len(matrix.seeds),
        **{f"{kind}_{part}_category": _value(compared, kind, part) for kind in kinds for part in ("same", "cross")},
        "category_p": test.p if test else None,
        "category_p_of": tested[0] if tested else None,
        **{f"category_p_{kind}": _p(compared, kind) for kind in kinds if kind != "corrected"},
        "least_p": test.least_p if test else None,
        "arrangements": test.arrangements if test else None,
        "exact": test.exact if test else None,
        "asymmetry": _known(asymmetry(relative)),
        "left_out": list(matrix.left_out),
        "pairs": {kind: _pairs(comparison) for kind, comparison in compared.items()},
        "intervals": {kind: _intervals(comparison) for kind, comparison in compared.items()},
        "reliability": repeats,
        "marks": {level: _marked(matrix, level) for level in _LEVELS},
        "cells": _counts(matrix),
        "limitations": limitations,
    }
    return result


_KINDS: tuple[Kind, Kind] = ("relative", "corrected")
_LEVELS: tuple[Against, Against] = ("untouched", "own")


def kinds_of(matrix: TransferMatrix) -> tuple[Kind, ...]:
    """Values in which categories are compared, including the lift if the untouched backbone has every target."""
    return _KINDS if np.isnan(matrix.untouched).any() else (*_KINDS, "lift")


def _about_categories(matrix: TransferMatrix, compared: dict[Kind, CategoryComparison]) -> Iterator[str]:
    if not compared:
        yield "no categories were given: same- and cross-category transfer are not compared"
    for kind, comparison in compared.items():
        if comparison.excluded:
            yield f"{comparison.excluded} off-diagonal cells have no {kind} value in every seed and are in no mean"
        if not comparison.same_pairs:
            yield f"no two tasks of one category have a {kind} value: there is no same-category transfer"
        elif not comparison.cross_pairs:
            yield f"no two tasks of different categories have a {kind} value: there is no cross-category transfer"
    covers = {comparison.same.covers for comparison in compared.values() if comparison.same}
    if "nothing" in covers:
        yield "there are no intervals: they need a spread between two seeds, or per-example scores"
    elif covers and covers != {"seeds and examples"}:
        yield f"the intervals account for {' or '.join(sorted(covers))} only"


def _value(compared: dict[Kind, CategoryComparison], kind: Kind, part: str) -> float | None:
    estimate = getattr(compared[kind], part) if kind in compared else None
    return estimate.value if estimate else None


def _p(compared: dict[Kind, CategoryComparison], kind: Kind) -> float | None:
    test = compared[kind].test if kind in compared else None
    return test.p if test else None


def _pairs(comparison: CategoryComparison) -> dict[str, int]:
    return {name: getattr(comparison, name) for name in ("same_pairs", "same_unordered", "cross_pairs", "excluded")}


def _intervals(comparison: CategoryComparison) -> dict[str, Any]:
    """Low and high ends of each mean, None where unknown, and what they account for."""
    estimates = {part: getattr(comparison, part) for part in ("same", "cross", "difference")}
    return {
        part: {name: _known(value) for name, value in asdict(estimate).items()} if estimate else None
        for part, estimate in estimates.items()
    }


def _known(value: Any) -> Any:
    """None instead of NaN, which JSON has not."""
    return None if isinstance(value, float) and np.isnan(value) else value


def _reliability(matrix: TransferMatrix) -> dict[str, float | None]:
    """Summary of the off-diagonal relative values: over all cells, and after each target's mean is taken out."""
    values = np.where(matrix.off_diagonal, matrix.relative(), np.nan)
    level = np.array([mean_over_seeds(of_seed) for of_seed in values])
    flat = len(matrix.seeds), -1
    return {
        "all": _known(reliability(values.reshape(flat))),
        "within_targets": _known(reliability((values - level[:, None, :]).reshape(flat))),
    }


def _about_reliability(reliabilities: dict[str, float | None]) -> Iterator[str]:
    for name, where in (("all", ""), ("within_targets", " within targets")):
        value = reliabilities[name]
        if value is not None and value <= 0:
            yield (
                f"the map of relative values{where} does not repeat: halves of the seeds correlate at {value:.2f}, "
                "which is given uncorrected as its reliability"
            )


def _marked(matrix: TransferMatrix, level: Against) -> dict[str, Any] | None:
    """How many cells differ from a level, by either correction; None where nothing can be tested."""
    if not can_be_tested(matrix, level):
        return None
    marked = marks(matrix, level)
    above, tested = marked.difference > 0, int((~np.isnan(marked.p)).sum())
    sides = {"above": above, "below": ~above}
    counts = {
        f"{rule}_{side}": int((getattr(marked, rule) & at).sum()) for rule in ("bh", "by") for side, at in sides.items()
    }
    return {"q": marked.q, "tested": tested, **counts, "covers": list(marked.covers)}


def _counts(matrix: TransferMatrix) -> dict[str, int]:
    missing = np.isnan(matrix.values) & ~matrix.failed
    states = {"failed": matrix.failed, "missing": missing, "trivial": matrix.trivial}
    return {"all": matrix.values.size, **{state: int(where.sum()) for state, where in states.items()}}
