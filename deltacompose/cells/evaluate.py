"""Cells of kind `evaluate`: a trained delta, a random one or the untouched backbone, scored on a split of a task."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Self

import torch

from deltacompose import registry
from deltacompose.cells.answers import scored
from deltacompose.cells.context import Inputs, Result, each
from deltacompose.delta.delta import Delta
from deltacompose.method.weights import generator
from deltacompose.planning.plan import RANDOM


@dataclass(frozen=True)
class EvaluateSpec:
    """What an evaluation cell's spec says: whose delta is scored, on which split of which task."""

    source: str
    target: str
    seed: int
    split: str

    @classmethod
    def of(cls, spec: Mapping[str, Any]) -> Self:
        """The spec of a cell, from plain data."""
        return cls(spec["source"], spec["target"], spec["seed"], spec["split"])


def evaluated(inputs: Inputs) -> Result:
    """The score of the cell's delta, with the name of the backbone, which reports show."""
    spec = EvaluateSpec.of(inputs.cell.spec)
    result, write = scored(inputs.reader(spec.target), delta_of(inputs), spec.split, inputs.company)
    return result | {"backbone": inputs.backbone.name}, write


carry = each(evaluated)


def delta_of(inputs: Inputs) -> Delta | None:
    """The delta that an evaluation cell scores; None for the untouched backbone.

    Where the parents have a selection, it chooses among the trained ones.
    """
    if not inputs.parents:
        return None
    chosen = next((record["result"]["grid"] for record in inputs.parents if record["kind"] == "select"), None)
    trained = [r for r in inputs.parents if r["kind"] == "train" and (chosen is None or r["spec"]["grid"] == chosen)]
    delta, spec = registry.load_delta(inputs.folder(trained[0]["key"])), EvaluateSpec.of(inputs.cell.spec)
    return randomised(delta, spec.seed) if spec.source == RANDOM else delta


def randomised(delta: Delta, seed: int) -> Delta:
    """A delta of random tensors, each with the norm of the trained one: its score is a baseline of transfer."""
    weights = {}
    for name, tensor in delta.weights.items():
        drawn = torch.randn(tensor.shape, generator=generator(seed, "random", name))
        weights[name] = drawn * (tensor.norm() / drawn.norm().clamp(min=1e-12))
    return replace(delta, weights=weights)
