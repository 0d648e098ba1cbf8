"""LoRA: a low-rank change of weight matrices."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Annotated, ClassVar

import torch
from annotated_types import Ge, Gt, Lt
from torch import Generator, Tensor

from deltacompose.backbone import Backbone, Place
from deltacompose.errors import BadInput
from deltacompose.method import Category, Edit, Method, Tensors, WeightEdit


@dataclass(frozen=True)
class LoRA(Method):
    """ΔW = (α / r) · B A, with B `(output, r)` zero and A `(r, input)` random at the start.

    Hu et al. 2022, *LoRA: Low-Rank Adaptation of Large Language Models* (arXiv 2106.09685, equation 3). r(o + i)
    parameters a matrix `(o, i)`, and o more with `dora`:

    >>> from deltacompose.method.catalogue import count
    >>> from deltacompose.backbone.pico import pico_backbone
    >>> matrices, r, o, i = 2 * 2, 4, 16, 16
    >>> count(LoRA(rank=r), pico_backbone("bert")) == matrices * r * (o + i)
    True

    Args:
        rank: r.
        alpha: α.
        dropout: on the input of A, in training.
        places: kinds of places whose matrices change, `*` standing for anything.
        rslora: α / √r instead of α / r (Kalajdzievski 2023, arXiv 2312.03732).
        dora: W + ΔW is scaled, row by row, to the norms m of W's rows, and m is trained too (Liu et al. 2024, *DoRA*,
            arXiv 2402.09353, equation 5); the norms of W + ΔW take no part in the gradient (section 4.3).
    """

    name: ClassVar[str] = "lora"
    category: ClassVar[Category] = "reparameterization"
    learning_rate: ClassVar[float] = 2e-3
    source: ClassVar[str] = "Hu et al. 2022, arXiv 2106.09685"
    formula: ClassVar[str] = "r(o + i) per matrix"

    rank: Annotated[int, Ge(1)] = 8
    alpha: Annotated[float, Gt(0)] = 16.0
    dropout: Annotated[float, Ge(0), Lt(1)] = 0.0
    places: tuple[str, ...] = ("*attention.query", "*attention.value")
    rslora: bool = False
    dora: bool = False

    def init(self, backbone: Backbone, generator: Generator) -> dict[str, Tensor]:
        weights = {}
        for place in backbone.places(*self.places):
            outputs, inputs = matrix(self, backbone, place).shape
            bound = 1 / math.sqrt(inputs)
            weights[f"{place.name}.down"] = torch.empty(self.rank, inputs).uniform_(-bound, bound, generator=generator)
            weights[f"{place.name}.up"] = torch.zeros(outputs, self.rank)
            if self.dora:
                weights[f"{place.name}.magnitude"] = torch.zeros(outputs)
        return weights

    def edits(self, backbone: Backbone) -> list[Edit]:
        return [self._edit(place) for place in backbone.places(*self.places)]

    def combined(self, weights: Sequence[Tensors], coefficients: Sequence[float]) -> tuple[Method, dict[str, Tensor]]:
        """Σ cₖ Bₖ Aₖ = [c₁ B₁ …] [A₁; …], of K times the rank; α grows so that the scale stays.

        Terms that are zero are left out.
        """
        if self.dora:
            raise BadInput(
                f"cannot combine deltas of {self} because DoRA's change of a matrix is not linear in its tensors"
            )
        each = list(zip(coefficients, weights, strict=True))
        terms = [(c, t) for c, t in each if c and any(x.any() for n, x in t.items() if n.endswith(".up"))] or each[:1]
        count = len(terms)
        joined = {
            name: torch.cat([c * t[name] for c, t in terms], 1)
            if name.endswith(".up")
            else torch.cat([t[name] for _, t in terms])
            for name in weights[0]
        }
        if count == 1:
            return self, joined
        alpha = self.alpha * (math.sqrt(count) if self.rslora else count)
        return replace(self, rank=count * self.rank, alpha=alpha), joined

    def _edit(self, place: Place) -> WeightEdit:
        factors = None if self.dora else partial(self.factors, place.name)
        return WeightEdit(place, "weight", partial(self._change, place.name), factors, self.dropout)

    def factors(self, place: str, t: Tensors) -> tuple[Tensor, Tensor]:
        """B, with the scale α / r in it, and A at a place."""
        scale = self.alpha / (math.sqrt(self.rank) if self.rslora else self.rank)
        return t[f"{place}.up"] * scale, t[f"{place}.down"]

    def _change(self, place: str, t: Tensors, frozen: Tensor) -> Tensor:
        up, down = self.factors(place, t)
        if not self.dora:
            return up @ down
        whole = frozen + up @ down
        magnitude = frozen.norm(dim=1) + t[f"{place}.magnitude"]
        return (magnitude / whole.detach().norm(dim=1))[:, None] * whole - frozen


def matrix(method: Method, backbone: Backbone, place: Place) -> Tensor:
    """The weight of a place that must be a matrix, `(output, input)`."""
    weight = backbone.parameter(place, "weight")
    if weight.ndim != 2:
        raise BadInput(f"{method.name}: {place.name} has a weight of {weight.ndim} axes; a low rank needs a matrix")
    return weight
