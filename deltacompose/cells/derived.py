"""Cells about what is made of trained deltas: a subspace learned from them, a delta by way of it, a swapped part.

* `subspace` learns a subspace from the deltas of some tasks (intrinsic prompt tuning, Qin et al. 2021, arXiv
  2110.07867; or principal components);
* `reconstruct` scores a task's delta after it was encoded and decoded;
* `tune` trains nothing but the coordinates of a soft prompt within the subspace, and scores that;
* `swap` scores a task's delta with one of its parts taken from another task's.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from deltacompose.analysis.similarity.formulas import flatten
from deltacompose.analysis.subspace import learned
from deltacompose.analysis.subspace.autoencoder import Settings, TaskLoss
from deltacompose.attach.attachment import Attachment, attach
from deltacompose.cells.context import Inputs, Outcome
from deltacompose.composition import composition
from deltacompose.delta.delta import Delta
from deltacompose.distributed import Company
from deltacompose.errors import BadInput
from deltacompose.method.weights import generator
from deltacompose.scoring import Reader, reader
from deltacompose.study.recipe import Recipe
from deltacompose.task.examples import Example
from deltacompose.task.metrics import Score
from deltacompose.task.task import Task
from deltacompose.training.learner import Job
from deltacompose.training.loop import evaluate, train

Floats = NDArray[np.float64]
FILE = "subspace.safetensors"


def scored(read: Reader, delta: Delta | None, split: str, company: Company) -> Outcome:
    """The result of an evaluation, and what writes its predictions beside it."""
    evaluation, task = evaluate(read, delta, split, company), read.task
    score = evaluation.score
    result = {
        "score": score.value,
        "metric": score.metric,
        "chance": task.chance(split),
        "trivial": score.trivial,
        "examples": len(score.per_example),
    }
    rows = answers(task, split, evaluation.predictions, score)
    return result, partial(write_answers, rows=rows)


def answers(task: Task, split: str, predictions: Sequence[str], score: Score) -> list[dict[str, Any]]:
    """What a delta says of each example of a split, what would be right, and its score."""
    return [
        {"id": one.id, "prediction": prediction, "target": one.target, "score": value}
        for one, prediction, value in zip(task.examples(split), predictions, score.per_example, strict=True)
    ]


def write_answers(folder: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """Writes answers beside a cell's other files, one to a line."""
    text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    (folder / "predictions.jsonl").write_text(text, encoding="utf-8")


def subspace(inputs: Inputs) -> Outcome:
    """Learns the subspace; its result says what it gives back of each delta that it was learned from."""
    spec = inputs.cell.spec
    deltas = {task: inputs.trained(task) for task in spec["seen"]}
    stacked = np.stack([flatten(_arrays(delta.weights)) for delta in deltas.values()])
    hidden = spec["settings"]["hidden"] or inputs.backbone.embedding_width
    settings = Settings(**{**spec["settings"], "hidden": hidden})
    if spec["way"] == "autoencoder":
        with _Losses(inputs, deltas, spec["batch"]) as losses:
            found = learned.learn(stacked, spec["way"], settings, spec["seed"], losses)
    else:
        found = learned.learn(stacked, spec["way"], settings, spec["seed"])
    kept = found.kept(stacked, stacked.mean(axis=0))
    result = {"parameters": stacked.shape[1], "kept": dict(zip(deltas, kept.tolist(), strict=True)), "loss": found.loss}

    def write(folder: Path) -> None:
        (folder / FILE).write_bytes(found.content())

    return result, write


def reconstruct(inputs: Inputs) -> Outcome:
    """Scores a task's own delta after it was encoded and decoded."""
    spec = inputs.cell.spec
    space = learned.read(inputs.folder(inputs.parent("subspace")["key"]) / FILE)
    delta = reconstructed(inputs.trained(spec["target"]), space)
    return scored(inputs.reader(spec["target"]), delta, spec["split"], inputs.company)


def reconstructed(delta: Delta, space: learned.Learned) -> Delta:
    """A delta as the subspace gives it back."""
    flat = space.reconstructed(flatten(_arrays(delta.weights))[None])[0]
    return replace(delta, weights=_tensors(flat, delta.weights))


def tune(inputs: Inputs) -> Outcome:
    """Trains the coordinates of a soft prompt within the subspace on a task, on the rows of the study or on others."""
    spec = inputs.cell.spec
    file = inputs.folder(inputs.parent("subspace")["key"]) / FILE
    method: Any = inputs.methods["intrinsic_prompt"]
    read = inputs.reader(spec["target"])
    if spec["examples"] == "new":
        read = reader(inputs.backbone, with_other_rows(inputs.whole(spec["target"]), read.task), spec["limit"])
    job = Job(composition(method.of(file)), read, spec["seed"], Recipe(**spec["recipe"]), company=inputs.company)
    outcome = train(inputs.backbone, [job])[0]
    if isinstance(outcome, Exception):
        raise outcome
    result, write = scored(read, outcome, spec["split"], inputs.company)
    kept = {name: outcome.record[name] for name in ("dev", "history", "parameters", "seconds", "tokens")}
    return result | kept, write


def swap(inputs: Inputs) -> Outcome:
    """Scores a target's delta of which one part is the source's."""
    spec = inputs.cell.spec
    delta = swapped(inputs.trained(spec["target"]), inputs.trained(spec["source"]), spec["part"])
    return scored(inputs.reader(spec["target"]), delta, spec["split"], inputs.company)


def swapped(delta: Delta, other: Delta, part: str) -> Delta:
    """A delta whose tensors under the prefix of a part (`0.1.`) are those of another one of the same composition."""
    if delta.expression != other.expression:
        raise BadInput(f"a part of {other.expression} cannot stand in {delta.expression}")
    own = {name for name, _ in delta.expression.parts()}
    if part not in own:
        raise BadInput(f"{delta.expression} has no part {part!r}; parts: {', '.join(sorted(own))}")

    def joined(mine: Mapping[str, Tensor], theirs: Mapping[str, Tensor]) -> dict[str, Tensor]:
        return {n: x for n, x in mine.items() if not n.startswith(part)} | {
            n: x for n, x in theirs.items() if n.startswith(part)
        }

    return replace(
        delta,
        weights=joined(delta.weights, other.weights),
        constants=joined(delta.constants, other.constants),
    )


def with_other_rows(whole: Task, used: Task) -> Task:
    """A task whose training examples are as many others as there are, at most as many as are in use.

    Raises:
        BadInput: all of its training examples are in use.
    """
    taken = {one.id for one in used.examples("train")}
    rest = tuple(one for one in whole.examples("train") if one.id not in taken)
    if not rest:
        raise BadInput(f"task {whole.name!r} has no training examples beside the {len(taken)} in use")

    def read(split: str) -> tuple[Example, ...]:
        return rest if split == "train" else used.examples(split)

    return replace(used, read=read).limited(train=min(len(taken), len(rest)))


class _Losses:
    """The task loss of reconstructed deltas, for the autoencoder; its state is the number of the step.

    Every step reads one batch of each task's training rows.
    """

    def __init__(self, inputs: Inputs, deltas: Mapping[str, Delta], batch: int) -> None:
        self.deltas, self.batch, self.step = deltas, batch, 0
        self.seed = inputs.cell.spec["seed"]
        self.readers = {task: inputs.reader(task) for task in deltas}
        self.backbone = inputs.backbone
        self._attachment: Attachment | None = None

    def __enter__(self) -> TaskLoss:
        self._attachment = attach(self.backbone, next(iter(self.deltas.values())).expression)
        return self

    def __exit__(self, *reason: object) -> None:
        if self._attachment is not None:
            self._attachment.detach()

    def __call__(self, deltas: Floats) -> tuple[float, Floats]:
        """From `(tasks, parameters)` to the loss, summed over tasks, and its gradient of that shape."""
        found = [self._of(task, row) for task, row in zip(self.deltas, deltas, strict=True)]
        self.step += 1
        return sum(loss for loss, _ in found), np.stack([gradient for _, gradient in found])

    def _of(self, task: str, row: Floats) -> tuple[float, Floats]:
        delta, read = self.deltas[task], self.readers[task]
        device = self.backbone.model.device
        weights = {n: x.to(device).requires_grad_() for n, x in sorted(_tensors(row, delta.weights).items())}
        if self._attachment is None:
            raise RuntimeError("the losses of reconstructed deltas are read within their context")
        self._attachment.put({**weights, **delta.constants})
        rows = read.rows("train")
        drawn = torch.randperm(len(rows), generator=generator(self.seed, "subspace", task, self.step))
        chosen = [rows[i] for i in drawn[: self.batch].tolist()]
        lengths = [read.lengths(one) for one in chosen]
        batch = read.collate(chosen, (max(a for a, _ in lengths), max(b for _, b in lengths)))
        loss = read.loss(batch, 1).sum()
        found = torch.autograd.grad(loss, list(weights.values()), materialize_grads=True)
        return float(loss.detach()), np.concatenate([x.detach().double().cpu().numpy().ravel() for x in found])


def _arrays(weights: Mapping[str, Tensor]) -> dict[str, NDArray[Any]]:
    return {name: x.detach().cpu().numpy() for name, x in weights.items()}


def _tensors(flat: Floats, like: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """A flat delta as tensors: the inverse of `similarity.flatten`."""
    result, start = {}, 0
    for name in sorted(like):
        size = like[name].numel()
        part = np.ascontiguousarray(flat[start : start + size], dtype=np.float32)
        result[name] = torch.from_numpy(part).reshape(like[name].shape).clone()
        start += size
    return result
