"""EVA, as a stranger would write it: LoRA whose A begins at the directions in which a task's activations vary."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Annotated, Any, ClassVar

import torch
from annotated_types import Ge
from torch import Generator, Tensor

from deltacompose.backbone import Backbone, Place
from deltacompose.method import Category, Edit, Method, Tensors, WeightEdit


@dataclass(frozen=True)
class EVA(Method):
    """ΔW = B (A₀ + A), A₀ `(r, i)` being the leading right singular vectors of the place's inputs on training data.

    Paischer et al. 2024, *One Initialization to Rule them All: Fine-tuning via Explained Variance Adaptation* (arXiv
    2410.07170, section 3.2), without the redistribution of ranks. A₀ is a constant, for `init` knows no task; A and B
    start at zero. r(o + i) parameters a matrix `(o, i)`.

    Args:
        rank: r.
        examples: training examples whose inputs are looked at.
        places: kinds of places, `*` standing for anything.
    """

    name: ClassVar[str] = "eva"
    category: ClassVar[Category] = "reparameterization"
    learning_rate: ClassVar[float] = 2e-3
    source: ClassVar[str] = "Paischer et al. 2024, arXiv 2410.07170"
    formula: ClassVar[str] = "r(o + i) per matrix"

    rank: Annotated[int, Ge(1)] = 3
    examples: Annotated[int, Ge(1)] = 4
    places: tuple[str, ...] = ("*attention.query", "*attention.value")

    def init(self, backbone: Backbone, generator: Generator) -> dict[str, Tensor]:
        weights = {}
        for place in backbone.places(*self.places):
            outputs, inputs = backbone.parameter(place, "weight").shape
            weights |= {
                f"{place.name}.A": torch.zeros(self.rank, inputs),
                f"{place.name}.B": torch.zeros(outputs, self.rank),
            }
        return weights

    def constants(self, backbone: Backbone, data: Any = None) -> dict[str, Tensor]:
        """Without data, as for a count, the first unit vectors stand for the directions."""
        places = backbone.places(*self.places)
        sizes = {place.name: backbone.parameter(place, "weight").shape[1] for place in places}
        if data is None:
            return {f"{name}.A0": torch.eye(self.rank, inputs) for name, inputs in sizes.items()}
        reader = data.reader
        rows = reader.rows("train")[: self.examples]
        lengths = [reader.lengths(row) for row in rows]
        batch = reader.collate(rows, (max(a for a, _ in lengths), max(b for _, b in lengths)))
        with _inputs(backbone, places) as seen, torch.no_grad():
            reader.loss(batch, 1)
        return {f"{name}.A0": _directions(torch.cat(seen[name]), self.rank) for name in sizes}

    def edits(self, backbone: Backbone) -> list[Edit]:
        places = backbone.places(*self.places)
        return [WeightEdit(p, "weight", partial(_change, p.name), partial(_factors, p.name)) for p in places]


@contextmanager
def _inputs(backbone: Backbone, places: tuple[Place, ...]) -> Iterator[dict[str, list[Tensor]]]:
    """What goes into the module of each place, `(tokens, inputs)`; an encoder reads inputs and candidates in turn."""
    seen: dict[str, list[Tensor]] = {place.name: [] for place in places}

    def noting(name: str) -> Any:
        return lambda module, args: seen[name].append(args[0].detach().flatten(0, -2).float().cpu())

    handles = [backbone.module(place).register_forward_pre_hook(noting(place.name)) for place in places]
    try:
        yield seen
    finally:
        for handle in handles:
            handle.remove()


def _directions(x: Tensor, rank: int) -> Tensor:
    """The leading right singular vectors of `(tokens, inputs)`, `(rank, inputs)`, their largest entry positive."""
    v = torch.linalg.svd(x - x.mean(0), full_matrices=True)[2][:rank]
    largest = v.gather(1, v.abs().argmax(1, keepdim=True))
    return v * largest.sign()


def _factors(place: str, t: Tensors) -> tuple[Tensor, Tensor]:
    return t[f"{place}.B"], t[f"{place}.A0"] + t[f"{place}.A"]


def _change(place: str, t: Tensors, frozen: Tensor) -> Tensor:
    up, down = _factors(place, t)
    return up @ down
