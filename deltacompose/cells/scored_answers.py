"""The answers of a delta to each example of a split, stored in the cell's folder."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from deltacompose.cells.context import Result
from deltacompose.delta.delta import Delta
from deltacompose.distributed import ProcessGroup
from deltacompose.scoring import Reader
from deltacompose.task.metrics import Score
from deltacompose.task.task import Task, scores_of_parts
from deltacompose.training.evaluation import Evaluation, evaluate

ANSWERS = "predictions.jsonl"
"""The file with the answer, and the right answer, of every example of a split."""


def scored(reader: Reader, delta: Delta | None, split: str, processes: ProcessGroup) -> Result:
    """The result of evaluating a delta, and the function that writes its answers."""
    return result_of(reader.task, split, evaluate(reader, delta, split, processes))


def result_of(task: Task, split: str, evaluation: Evaluation) -> Result:
    """The result of an evaluation, and the function that writes its answers."""
    score = evaluation.score
    result: dict[str, Any] = {
        "score": score.value,
        "metric": score.metric,
        "chance": task.chance(split),
        "trivial": score.trivial,
        "examples": len(score.per_example),
    }
    if task.parts:
        parts = scores_of_parts(task, task.examples(split), evaluation.predictions)
        result["parts"] = {name: own.value for name, own in parts.items()}
    return result, partial(write_answers, rows=answers(task, split, evaluation.predictions, score))


def answers(task: Task, split: str, predictions: Sequence[str], score: Score) -> list[dict[str, Any]]:
    """A row for each example of a split: its id, the prediction, the target, and the score of the prediction."""
    scored_examples = zip(task.examples(split), predictions, score.per_example, strict=True)
    return [
        {"id": example.id, "prediction": prediction, "target": example.target, "score": value}
        for example, prediction, value in scored_examples
    ]


def write_answers(folder: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """Writes answers into a cell's folder, one to a line."""
    text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    (folder / ANSWERS).write_text(text, encoding="utf-8")
