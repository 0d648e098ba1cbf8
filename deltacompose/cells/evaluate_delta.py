"""Cells of kind `evaluate`: a trained delta, a random one or the untouched backbone, scored on a split of a task."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Self

import torch

from deltacompose.cells.context import Inputs, check, group_of, inputs_of, missing
from deltacompose.cells.loaded import backbone_of, stored_delta
from deltacompose.cells.scored_answers import result_of
from deltacompose.cells.worker_sources import Sources
from deltacompose.delta.delta import Delta
from deltacompose.distributed import ProcessGroup
from deltacompose.errors import Diverged
from deltacompose.method.weights import generator
from deltacompose.planning.plan import RANDOM
from deltacompose.scoring import Reader
from deltacompose.store.store import Store
from deltacompose.study.config import Cell
from deltacompose.training.evaluation import evaluate_many


@dataclass(frozen=True)
class EvaluateSpec:
    """Spec of an evaluation cell: whose delta is scored, on which split of which task."""

    source: str
    target: str
    seed: int
    split: str

    @classmethod
    def of(cls, spec: Mapping[str, Any]) -> Self:
        """The spec of a cell, from plain data."""
        return cls(spec["source"], spec["target"], spec["seed"], spec["split"])


def carry(store: Store, cells: Sequence[Cell], sources: Sources) -> None:
    """Scores the deltas of some cells, those of one composition on one task in shared passes.

    A delta whose scores are not numbers fails alone.
    """
    with group_of(sources) as group:
        backbone = backbone_of(sources.backbone)
        check(backbone, cells)
        together: dict[tuple[Reader, str], list[Inputs]] = {}
        for cell in list(missing(group, store, cells, backbone)):
            spec, inputs = EvaluateSpec.of(cell.spec), inputs_of(store, cell, backbone, sources)
            together.setdefault((inputs.reader(spec.target), spec.split), []).append(inputs)
        for (reader, split), alike in together.items():
            _score(store, reader, split, alike, group)


def _score(store: Store, reader: Reader, split: str, alike: Sequence[Inputs], group: ProcessGroup) -> None:
    started = time.monotonic()
    evaluations = evaluate_many(reader, [delta_of(inputs) for inputs in alike], split, group)
    cells = [inputs.cell for inputs in alike]
    check(reader.backbone, cells)
    seconds = (time.monotonic() - started) / len(cells)
    for cell, evaluation in zip(cells, evaluations, strict=True):
        if group.rank:
            continue
        if isinstance(evaluation, Diverged):
            store.fail(cell, evaluation)
            continue
        result, write = result_of(reader.task, split, evaluation)
        store.add(cell, result | {"backbone": reader.backbone.name}, write, seconds)


def delta_of(inputs: Inputs) -> Delta | None:
    """The delta that an evaluation cell scores; None for the untouched backbone.

    Where the parents have a selection, it chooses among the trained ones.
    """
    if not inputs.parents:
        return None
    chosen = next((record["result"]["grid"] for record in inputs.parents if record["kind"] == "select"), None)
    trained = [r for r in inputs.parents if r["kind"] == "train" and (chosen is None or r["spec"]["grid"] == chosen)]
    delta, spec = stored_delta(inputs.folder(trained[0]["key"])), EvaluateSpec.of(inputs.cell.spec)
    return randomised(delta, spec.seed) if spec.source == RANDOM else delta


def randomised(delta: Delta, seed: int) -> Delta:
    """A delta of random tensors, each with the norm of the trained one: its score is a baseline of transfer."""
    weights = {}
    for name, tensor in delta.weights.items():
        drawn = torch.randn(tensor.shape, generator=generator(seed, "random", name))
        weights[name] = drawn * (tensor.norm() / drawn.norm().clamp(min=1e-12))
    return replace(delta, weights=weights)
