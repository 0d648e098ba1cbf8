"""Cells of kind `subspace`: a subspace learned from the trained deltas of some tasks.

By principal components, or by the autoencoder of intrinsic prompt tuning (Qin et al. 2021, arXiv 2110.07867).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from deltacompose.analysis.arrays import Floats
from deltacompose.analysis.similarity.formulas import flatten
from deltacompose.analysis.subspace import learned
from deltacompose.analysis.subspace.autoencoder import Settings, TaskLoss
from deltacompose.attach.attachment import Attachment, attach
from deltacompose.cells.context import Inputs, Result, each
from deltacompose.delta.delta import Delta
from deltacompose.method.weights import generator

FILE = "subspace.safetensors"


@dataclass(frozen=True)
class SubspaceSpec:
    """Spec of a subspace cell.

    Attributes:
        seen: the tasks whose deltas the subspace is learned from.
        settings: of the autoencoder; `hidden` is None for the backbone's width.
        batch: rows of each task per step of the autoencoder.
    """

    seen: tuple[str, ...]
    way: learned.Way
    settings: tuple[tuple[str, Any], ...]
    seed: int
    batch: int

    @classmethod
    def of(cls, spec: Mapping[str, Any]) -> Self:
        """The spec of a cell, from plain data."""
        settings = tuple(sorted(spec["settings"].items()))
        return cls(tuple(spec["seen"]), spec["way"], settings, spec["seed"], spec["batch"])

    def settings_for(self, width: int) -> Settings:
        """The settings with the hidden width of a backbone where none is given."""
        settings = dict(self.settings)
        return Settings(**{**settings, "hidden": settings["hidden"] or width})


def learned_subspace(inputs: Inputs) -> Result:
    """Learns the subspace; the result has the share of each seen delta that it gives back."""
    spec = SubspaceSpec.of(inputs.cell.spec)
    deltas = {task: inputs.trained(task) for task in spec.seen}
    stacked = np.stack([flatten(arrays(delta.weights)) for delta in deltas.values()])
    settings = spec.settings_for(inputs.backbone.embedding_width)
    if spec.way == "autoencoder":
        with ReconstructionLosses(inputs, deltas, spec.batch, spec.seed) as losses:
            space = learned.learn(stacked, spec.way, settings, spec.seed, losses)
    else:
        space = learned.learn(stacked, spec.way, settings, spec.seed)
    kept = space.kept(stacked, stacked.mean(axis=0))
    result = {"parameters": stacked.shape[1], "kept": dict(zip(deltas, kept.tolist(), strict=True)), "loss": space.loss}

    def write(folder: Path) -> None:
        (folder / FILE).write_bytes(space.content())

    return result, write


carry = each(learned_subspace)


def read_subspace(inputs: Inputs) -> learned.Learned:
    """The subspace of the cell's parent."""
    return learned.read(subspace_file(inputs))


def subspace_file(inputs: Inputs) -> Path:
    """The file of the subspace of the cell's parent."""
    return inputs.folder(inputs.parent("subspace")["key"]) / FILE


def reconstructed(delta: Delta, space: learned.Learned) -> Delta:
    """A delta encoded and decoded by a subspace."""
    flat = space.reconstructed(flatten(arrays(delta.weights))[None])[0]
    return replace(delta, weights=tensors(flat, delta.weights))


class ReconstructionLosses:
    """The task losses of reconstructed deltas, for the autoencoder; its state is the number of the step.

    Every step reads one batch of each task's training rows.
    """

    def __init__(self, inputs: Inputs, deltas: Mapping[str, Delta], batch: int, seed: int) -> None:
        self.deltas, self.batch, self.seed, self.step = deltas, batch, seed, 0
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
        of_tasks = [self._loss(task, row) for task, row in zip(self.deltas, deltas, strict=True)]
        self.step += 1
        return sum(loss for loss, _ in of_tasks), np.stack([gradient for _, gradient in of_tasks])

    def _loss(self, task: str, row: Floats) -> tuple[float, Floats]:
        delta, reader = self.deltas[task], self.readers[task]
        device = self.backbone.model.device
        weights = {n: x.to(device).requires_grad_() for n, x in sorted(tensors(row, delta.weights).items())}
        if self._attachment is None:
            raise RuntimeError("the losses of reconstructed deltas are read within their context")
        self._attachment.put({**weights, **delta.constants})
        rows = reader.rows("train")
        drawn = torch.randperm(len(rows), generator=generator(self.seed, "subspace", task, self.step))
        chosen = [rows[i] for i in drawn[: self.batch].tolist()]
        lengths = [reader.lengths(chosen_row) for chosen_row in chosen]
        batch = reader.collate(chosen, (max(a for a, _ in lengths), max(b for _, b in lengths)))
        loss = reader.loss(batch, 1).sum()
        gradients = torch.autograd.grad(loss, list(weights.values()), materialize_grads=True)
        return float(loss.detach()), np.concatenate([x.detach().double().cpu().numpy().ravel() for x in gradients])


def arrays(weights: Mapping[str, Tensor]) -> dict[str, NDArray[Any]]:
    """Tensors as arrays, by name."""
    return {name: x.detach().cpu().numpy() for name, x in weights.items()}


def tensors(flat: Floats, like: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """A flat delta as tensors: the inverse of `similarity.formulas.flatten`."""
    result, start = {}, 0
    for name in sorted(like):
        size = like[name].numel()
        part = np.ascontiguousarray(flat[start : start + size], dtype=np.float32)
        result[name] = torch.from_numpy(part).reshape(like[name].shape).clone()
        start += size
    return result
