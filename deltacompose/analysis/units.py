"""The units in which a transfer matrix is read: which are defined where, and the reference rows in each of them.

Figures, the report and tables share these functions, so that one number is computed in one place.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Literal

import numpy as np

from deltacompose.analysis.arrays import Floats
from deltacompose.analysis.limitations import shortened
from deltacompose.analysis.matrix import MARGIN, TransferMatrix, mean_over_seeds
from deltacompose.errors import BadInput

UNITS = {
    "score": "score",
    "relative": "relative performance A(s→t) / A(t→t)",
    "corrected": "chance-corrected transfer (A(s→t) − chance) / (A(t→t) − chance)",
    "lift": "lift over the untouched backbone A(s→t) − A(∅→t)",
}
"""Labels of the units in figures."""
SIGNED = ("corrected", "lift")
"""The units whose zero is neutral: chance for one, the untouched backbone for the other."""


def in_unit(matrix: TransferMatrix, unit: str, scores: Floats) -> Floats:
    """(seeds, rows, targets) raw scores in a unit, each divided by or taken from what its own seed and target give."""
    if unit == "relative":
        return scores / np.where(matrix.own > 0, matrix.own, np.nan)[:, None, :]
    if unit == "corrected":
        gain = matrix.own - matrix.chance
        return (scores - matrix.chance) / np.where(gain > MARGIN, gain, np.nan)[:, None, :]
    return scores - matrix.untouched if unit == "lift" else scores


def references(matrix: TransferMatrix) -> dict[str, Floats]:
    """Baselines, (seeds, targets) raw scores each: a random delta, the untouched backbone, the chance level.

    Where the random row was taken for chance, the two are one.
    """
    levels = {"random": matrix.random, "untouched": matrix.untouched, "chance": matrix.chance}
    if matrix.chance_of:
        levels = {"random (taken as chance)": matrix.random, "untouched": matrix.untouched}
    whole = (len(matrix.seeds), len(matrix.targets))
    return {name: np.broadcast_to(level, whole) for name, level in levels.items()}


def baselines(matrix: TransferMatrix, unit: str) -> dict[str, Floats]:
    """(targets,) each of `references`, in a unit."""
    levels = references(matrix)
    return {name: mean_over_seeds(in_unit(matrix, unit, level[:, None, :]))[0] for name, level in levels.items()}


def deviation(values: Floats) -> Floats:
    """(...) from (seeds, ...): standard deviation over the seeds that have a value, NaN where fewer than two have."""
    count = (~np.isnan(values)).sum(axis=0)
    squares = np.nansum((values - mean_over_seeds(values)) ** 2, axis=0)
    return np.where(count > 1, np.sqrt(squares / np.maximum(count - 1, 1)), np.nan)


def check_chance(matrix: TransferMatrix, unit: str) -> None:
    """Refuse a ratio of scores without the score of the best guess, in a figure and in a graph alike.

    Raises:
        BadInput: a relative or corrected value, and a target without a chance level.
    """
    if unit in ("relative", "corrected") and (without := unknown_chance(matrix)):
        raise BadInput(
            f"no chance level is known for {shortened(without)}, and a {unit} performance is not shown without it; "
            "give the chance levels, or take raw scores"
        )


def unknown_chance(matrix: TransferMatrix) -> list[str]:
    """The targets whose chance level is unknown."""
    return [name for name, level in zip(matrix.targets, matrix.chance, strict=True) if np.isnan(level)]


def graph_value(matrix: TransferMatrix) -> Literal["corrected", "raw"]:
    """The values that a task graph weighs by default.

    Corrected values where every chance level is known: relative ones make any two tasks look near where chance is a
    large part of the own score. Raw scores otherwise, as no ratio is shown without chance.
    """
    return "raw" if unknown_chance(matrix) else "corrected"


def ordered(names: Iterable[str], categories: Mapping[str, str]) -> list[str]:
    """Names in blocks of one category each; blocks in the order of the categories' names, tasks in their own order.

    >>> ordered(["rte", "cola", "mnli"], {"rte": "nli", "mnli": "nli", "cola": "grammar"})
    ['cola', 'rte', 'mnli']
    """
    return sorted(names, key=lambda name: categories.get(name, ""))
