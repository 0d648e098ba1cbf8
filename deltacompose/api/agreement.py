"""How far a backbone in another data type answers as in float32, with the trained deltas of a study attached."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from deltacompose import registry
from deltacompose.api.stores import records
from deltacompose.backbone.backbone import Backbone, evaluating
from deltacompose.cells.loaded import backbone_of, reader_as_planned, stored_delta
from deltacompose.cells.task_data import TaskData
from deltacompose.cells.worker_sources import Sources
from deltacompose.delta.delta import Delta
from deltacompose.errors import BadInput, Diverged
from deltacompose.scoring import Reader
from deltacompose.store.store import open_store
from deltacompose.study.config import Study
from deltacompose.study.queries import Record, done
from deltacompose.training.evaluation import Evaluation, evaluate_many

ROWS = 32
"""Rows of a pass whose loss is taken."""


@dataclass(frozen=True)
class Agreement:
    """One composition's deltas, each on its own task, in two data types of the frozen backbone.

    Attributes:
        examples: predictions that were compared, over all deltas.
        agreement: the share of equal predictions.
        scores, losses: the means over deltas, in float32 and in the other data type.
        score_difference, loss_difference: the largest absolute difference of one delta.
    """

    composition: str
    deltas: int
    examples: int
    agreement: float
    scores: tuple[float, float]
    losses: tuple[float, float]
    score_difference: float
    loss_difference: float


@dataclass(frozen=True)
class _Read:
    """One delta in one data type: its evaluation and its mean loss on the split."""

    evaluation: Evaluation
    loss: float


def agreement(study: Study, store: str | Path, dtype: str = "bfloat16", split: str = "test") -> list[Agreement]:
    """For every composition of a study the agreement of a backbone in a data type with float32.

    The deltas are those of the store, in whichever data type they were trained. A row for the untouched backbone comes
    first, under the composition `untouched`.

    Args:
        dtype: `bfloat16` or `float16`.
        split: `test` or `val`.

    Raises:
        BadInput: no delta of the study is stored, or its predictions are not finite in one of the two types.
    """
    study_deltas = _trained(study, store)
    if not study_deltas:
        raise BadInput(f"{store} has no trained delta of {study.name}; run the study first")
    precise, other = (_Backbone(study, name) for name in ("float32", dtype))
    untouched = [(TaskData.of(r["spec"]), r["spec"]["task"], None) for r in _one_of_each_task(study_deltas)]
    rows = [_compared("untouched", untouched, precise, other, split)]
    for text in dict.fromkeys(str(record["spec"]["composition"]) for record in study_deltas):
        own = [record for record in study_deltas if record["spec"]["composition"] == text]
        opened = open_store(store, create=False)
        deltas = [(TaskData.of(r["spec"]), r["spec"]["task"], stored_delta(opened.folder(r["key"]))) for r in own]
        rows.append(_compared(text, deltas, precise, other, split))
    return rows


class _Backbone:
    """The study's backbone in one data type, and how it reads tasks."""

    def __init__(self, study: Study, dtype: str) -> None:
        choice = replace(study.backbone, dtype=dtype)  # type: ignore[arg-type]
        self.sources = Sources.of(replace(study, backbone=choice))
        self.backbone: Backbone = backbone_of(self.sources.backbone)

    def reads(self, data: TaskData, task: str, delta: Delta | None, split: str) -> _Read:
        """One delta on a split of its task."""
        reader = reader_as_planned(self.backbone, data, task, self.sources.own_tasks)
        own = None if delta is None else replace(delta, backbone={})  # trained on the same weights in another type
        [evaluation] = evaluate_many(reader, [own], split)
        if isinstance(evaluation, Diverged):
            raise BadInput(f"cannot compare {task} in {self.backbone.model.dtype}: {evaluation}")
        with evaluating(self.backbone.model), own.attached(self.backbone) if own else nullcontext(), torch.no_grad():
            losses = list(_losses(reader, split))
        return _Read(evaluation, sum(loss * count for loss, count in losses) / sum(count for _, count in losses))


def _losses(reader: Reader, split: str) -> Iterator[tuple[float, int]]:
    """The mean loss of each chunk of rows, and how many rows it has."""
    rows = reader.rows(split)
    alike: dict[int, list[int]] = {}
    for index, row in enumerate(rows):
        alike.setdefault(len(row.candidates), []).append(index)
    for same in alike.values():
        for start in range(0, len(same), ROWS):
            chunk = same[start : start + ROWS]
            lengths = [reader.lengths(rows[i]) for i in chunk]
            longest = max(a for a, _ in lengths), max(b for _, b in lengths)
            yield float(reader.loss(reader.batch(split, chunk, longest), 1)[0]), len(chunk)


def _compared(
    text: str, deltas: Sequence[tuple[TaskData, str, Delta | None]], precise: _Backbone, other: _Backbone, split: str
) -> Agreement:
    pairs = [tuple(each.reads(data, task, delta, split) for each in (precise, other)) for data, task, delta in deltas]
    predictions = [
        (a, b)
        for first, second in pairs
        for a, b in zip(first.evaluation.predictions, second.evaluation.predictions, strict=True)
    ]
    scores = [(first.evaluation.score.value, second.evaluation.score.value) for first, second in pairs]
    losses = [(first.loss, second.loss) for first, second in pairs]
    return Agreement(
        text,
        len(pairs),
        len(predictions),
        sum(a == b for a, b in predictions) / len(predictions),
        _means(scores),
        _means(losses),
        max(abs(a - b) for a, b in scores),
        max(abs(a - b) for a, b in losses),
    )


def _means(pairs: Sequence[tuple[float, float]]) -> tuple[float, float]:
    return sum(a for a, _ in pairs) / len(pairs), sum(b for _, b in pairs) / len(pairs)


def _trained(study: Study, store: str | Path) -> list[Record]:
    """The trainings of whole compositions on the study's tasks, from nothing."""
    whole = {str(registry.parse(str(text))) for text in study.compositions}
    trained = done(records(store, study), "train")
    return [r for r in trained if r["spec"]["composition"] in whole and r["spec"].get("start") is None]


def _one_of_each_task(trained: Sequence[Record]) -> list[Record]:
    """A record for every task, whose data the untouched backbone reads."""
    by_task: Mapping[str, Any] = {record["spec"]["task"]: record for record in reversed(trained)}
    return list(by_task.values())
