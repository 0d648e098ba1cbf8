"""Checks of scores from files: numbers, shares in place of percentages, and the size of the table."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from deltacompose.analysis.matrix import TransferMatrix
from deltacompose.errors import BadInput, quoted
from deltacompose.limits import SCORES

MOST = 1.5
"""No metric gives a score so far from zero: larger ones are percentages, for which no margin over chance holds."""


class Percentages(BadInput):
    """Scores are percentages where shares are expected."""


def check_size(name: str, sources: Sequence[str], targets: Sequence[str]) -> None:
    """Refuses a table so large that tests of its cells would not end in reasonable time."""
    if max(len(sources), len(targets)) > SCORES:
        raise BadInput(f"{name} has {len(sources)} sources and {len(targets)} targets; the limit is {SCORES} of each")


def checked(matrix: TransferMatrix, name: str) -> TransferMatrix:
    """The same matrix, none of whose scores is a percentage."""
    levels = (matrix.values, matrix.chance, matrix.untouched, matrix.random)
    beyond = [score for level in levels for score in level[np.abs(level) > MOST].tolist()]
    if beyond:
        raise Percentages(
            f"{name}: found the score {beyond[0]:g}, expected scores of 1 at most; divide percentages by 100 "
            "(a heatmap takes percent=True, commands take --percent)"
        )
    return matrix


def number_of(value: Any, name: str, where: str = "") -> float:
    """A score, or NaN for an empty cell; anything else is refused."""
    if value is None or (isinstance(value, str) and value.strip().lower() in ("", "nan")):
        return np.nan
    try:
        number = float(value)
    except (TypeError, ValueError, OverflowError):
        raise BadInput(f"{name}: {quoted(value)}{where} is not a number; leave a missing score empty") from None
    if np.isinf(number):
        raise BadInput(f"{name}: {quoted(value)}{where} is not a finite number")
    return number
