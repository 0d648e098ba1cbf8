"""The scores of many deltas on the few examples of one task."""

from __future__ import annotations

from collections.abc import Sequence

from deltacompose.delta.delta import Delta
from deltacompose.errors import Diverged
from deltacompose.scoring import Reader
from deltacompose.task.metrics import Score
from deltacompose.training.evaluation import evaluate_many


def few_example_scores(read: Reader, deltas: Sequence[Delta | None]) -> list[Score]:
    """The score of each delta, or of the untouched backbone for None, on the training examples of a task.

    Deltas of one composition share the passes through the backbone.

    Raises:
        Diverged: the scores of a delta are not numbers.
    """
    scores = []
    for evaluation in evaluate_many(read, deltas, "train"):
        if isinstance(evaluation, Diverged):
            raise evaluation
        scores.append(evaluation.score)
    return scores
