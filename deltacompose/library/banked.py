"""The scores of many deltas on the few examples of one task."""

from __future__ import annotations

from collections.abc import Sequence

from deltacompose.delta.delta import Delta
from deltacompose.scoring import Reader
from deltacompose.task.metrics import Score
from deltacompose.training.loop import evaluate


def few_example_scores(read: Reader, deltas: Sequence[Delta | None]) -> list[Score]:
    """The score of each delta, or of the untouched backbone for None, on the training examples of a task."""
    return [evaluate(read, delta, "train").score for delta in deltas]
