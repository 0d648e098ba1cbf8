"""Scores of deltas on a split of a task: one delta, or many in the passes of one.

Deltas of one composition are evaluated as banks, as they are trained: K deltas read the rows in one pass. A pass is
bounded in tokens, so on few examples many deltas cost hardly more passes than one, and on many examples a pass
has fewer rows of each delta. The predictions are those of evaluating each delta by itself but for rounding.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass

import torch
from torch import Tensor

from deltacompose.attach.attachment import Attachment, attach
from deltacompose.attach.bound import Stacked
from deltacompose.attach.frozen_prefix import frozen_prefix
from deltacompose.backbone.backbone import Backbone, evaluating
from deltacompose.composition import Composition
from deltacompose.delta.delta import Delta
from deltacompose.distributed import ALONE, ProcessGroup
from deltacompose.errors import Diverged
from deltacompose.method.contract import Tensors
from deltacompose.method.weights import parts
from deltacompose.scoring import Reader
from deltacompose.study.recipe import PASS_TOKENS
from deltacompose.task.metrics import Score
from deltacompose.task.task import score

MOST = 16
"""Deltas in one pass: more would leave a few rows of each, and hold the weights of all at once."""


@dataclass(frozen=True)
class Evaluation:
    """A score on a split with the prediction behind each example's."""

    score: Score
    predictions: tuple[str, ...]

    def __repr__(self) -> str:
        trivial = ", all predictions the same" if self.score.trivial else ""
        return f"<evaluation: {self.score.metric} {self.score.value:.3f} on {len(self.predictions)} examples{trivial}>"


def evaluate(reader: Reader, delta: Delta | None, split: str, processes: ProcessGroup = ALONE) -> Evaluation:
    """Scores a delta, or the untouched backbone, on a split of a task, whose examples a company of processes shares.

    Raises:
        BadInput: the delta was trained on another backbone.
        Diverged: the backbone's numbers are not numbers.
    """
    with evaluating(reader.backbone.model), delta.attached(reader.backbone) if delta else nullcontext():
        predictions = reader.predict(split, processes=processes)
    return _scored(reader, split, predictions)


def evaluate_many(
    reader: Reader,
    deltas: Sequence[Delta | None],
    split: str,
    processes: ProcessGroup = ALONE,
    budget: int | None = None,
) -> list[Evaluation | Diverged]:
    """Scores many deltas on a split of a task, those of one composition in shared passes.

    Args:
        reader: the task as the deltas' backbone reads it.
        deltas: of any compositions; None is the untouched backbone.
        budget: how many tokens one pass through the backbone may hold; None chooses by device.

    Returns:
        For each delta its evaluation, or the error of a delta whose scores are not numbers.

    Raises:
        BadInput: a delta was trained on another backbone.

    >>> import deltacompose as dc
    >>> from deltacompose.backbone.pico import pico_backbone
    >>> from deltacompose.scoring import reader
    >>> backbone, task = pico_backbone("bert"), dc.tasks()["sentiment_tweet"].limited(train=8, val=4, test=4)
    >>> recipe = {"steps": 1, "batch": 4, "evaluate_every": 1, "limit": 32}
    >>> deltas = [dc.train(backbone, "bitfit", task, seed, **recipe) for seed in range(2)]
    >>> [len(result.predictions) for result in evaluate_many(reader(backbone, task, 32), deltas, "test")]
    [4, 4]
    """
    results: dict[int, Evaluation | Diverged] = {}
    for indices in _alike(deltas):
        group = [delta for i in indices if (delta := deltas[i]) is not None]
        evaluations = (
            _of_one_composition(reader, group, split, processes, budget)
            if group
            else [_untouched(reader, split, processes)]
        )
        results |= zip(indices, evaluations, strict=True)
    return [results[i] for i in range(len(deltas))]


def predict_many(
    attachment: Attachment,
    expression: Composition,
    tensors: Sequence[Tensors],
    reader: Reader,
    split: str,
    processes: ProcessGroup = ALONE,
    budget: int | None = None,
) -> Iterator[list[str] | Diverged]:
    """The predictions of deltas whose expression is attached, in as few passes as the budget of tokens allows.

    Args:
        tensors: weights and constants of each delta, finalized, of equal names and shapes.
    """
    budget = budget or tokens_at_once(reader.backbone)
    size = MOST if is_banked(attachment, expression) else 1
    for start in range(0, len(tensors), size):
        group = _shared(tensors[start : start + size])
        attachment.put(Stacked.of(group) if len(group) > 1 else group[0])
        try:
            yield from reader.predict_each(split, len(group), budget, processes)
        except Diverged as error:
            if len(group) == 1:
                yield error
            else:  # one of them alone has diverged
                for own in group:
                    yield from predict_many(attachment, expression, [own], reader, split, processes, budget)


def prefix_of(attachment: Attachment, processes: ProcessGroup) -> AbstractContextManager[object]:
    """Within, the layers below the first touched one are computed once for each text.

    Not where several processes pass together: their shards of a layer must be gathered by all or by none.
    """
    if processes.size > 1:
        return nullcontext()
    return frozen_prefix(attachment.backbone, attachment.first_touched())


def is_banked(attachment: Attachment, expression: Composition) -> bool:
    """Whether several deltas of an expression can pass through the backbone at once."""
    apart = attachment.backbone.mixes_padding  # texts of one length at a time, which leaves no equal groups of rows
    return attachment.once is None and not apart and all(part.banked for _, part in parts(expression))


def tokens_at_once(backbone: Backbone) -> int:
    """The most tokens of one pass of a bank on the backbone's device."""
    return PASS_TOKENS["cpu" if backbone.model.device.type == "cpu" else "cuda"]


def _scored(reader: Reader, split: str, predictions: Sequence[str]) -> Evaluation:
    return Evaluation(score(reader.task, reader.task.examples(split), predictions), tuple(predictions))


def _untouched(reader: Reader, split: str, processes: ProcessGroup) -> Evaluation | Diverged:
    try:
        return evaluate(reader, None, split, processes)
    except Diverged as error:
        return error


def _alike(deltas: Sequence[Delta | None]) -> list[list[int]]:
    """Indices of deltas of one expression and of tensors of equal shapes; each untouched backbone by itself."""
    groups: dict[object, list[int]] = {}
    for index, delta in enumerate(deltas):
        key: object = index
        if delta is not None:
            tensors = {**delta.weights, **delta.constants}
            key = str(delta.expression), tuple((name, x.shape, x.dtype) for name, x in sorted(tensors.items()))
        groups.setdefault(key, []).append(index)
    return list(groups.values())


def _of_one_composition(
    reader: Reader, deltas: Sequence[Delta], split: str, processes: ProcessGroup, budget: int | None
) -> list[Evaluation | Diverged]:
    for delta in deltas:
        delta.check(reader.backbone)
    expression, tensors = deltas[0].expression, [{**delta.weights, **delta.constants} for delta in deltas]
    attachment = attach(reader.backbone, expression)
    try:
        with evaluating(reader.backbone.model), prefix_of(attachment, processes):
            predictions = list(predict_many(attachment, expression, tensors, reader, split, processes, budget))
    finally:
        attachment.detach()
    return [own if isinstance(own, Diverged) else _scored(reader, split, own) for own in predictions]


def _shared(tensors: Sequence[Tensors]) -> list[Mapping[str, Tensor]]:
    """The same, where a tensor that equals the first delta's is that one, so that a bank holds it once."""
    known = tensors[0]
    return [
        {name: known[name] if x is known[name] or torch.equal(x, known[name]) else x for name, x in own.items()}
        for own in tensors
    ]
