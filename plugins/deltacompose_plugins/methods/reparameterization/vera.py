"""VeRA: scales of random matrices that every layer shares."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Annotated, Any, ClassVar

import torch
from annotated_types import Ge
from torch import Generator, Tensor

from deltacompose.backbone import Backbone
from deltacompose.errors import BadInput
from deltacompose.method import Category, Edit, Method, Tensors, WeightEdit
from deltacompose_plugins.methods.reparameterization.lora import matrix


@dataclass(frozen=True)
class VeRA(Method):
    """ΔW = Λ_b B Λ_d A: B `(output, r)` and A `(r, input)` random, frozen and shared, the vectors b and d trained.

    Kopiczko et al. 2023, *VeRA: Vector-based Random Matrix Adaptation* (arXiv 2310.11454, equation 2). b is zero and
    d is .1 at the start. Matrices of unlike shapes take the first rows of B and columns of A. o + r parameters a matrix
    `(o, i)`:

    >>> from deltacompose.method.catalogue import count
    >>> from deltacompose.backbone.pico import pico_backbone
    >>> matrices, r, o = 2 * 2, 64, 16
    >>> count(VeRA(rank=r), pico_backbone("bert")) == matrices * (o + r)
    True

    Args:
        rank: r.
        places: kinds of places whose matrices change, `*` standing for anything.
        seed: of A and B.
    """

    name: ClassVar[str] = "vera"
    category: ClassVar[Category] = "reparameterization"
    learning_rate: ClassVar[float] = 5e-2
    source: ClassVar[str] = "Kopiczko et al. 2023, arXiv 2310.11454"
    formula: ClassVar[str] = "o + r per matrix"

    rank: Annotated[int, Ge(1)] = 256
    places: tuple[str, ...] = ("*attention.query", "*attention.value")
    seed: Annotated[int, Ge(0)] = 0

    def init(self, backbone: Backbone, generator: Generator) -> dict[str, Tensor]:
        weights = {}
        for place in backbone.places(*self.places):
            weights[f"{place.name}.d"] = torch.full((self.rank,), 0.1)
            weights[f"{place.name}.b"] = torch.zeros(matrix(self, backbone, place).shape[0])
        return weights

    def constants(self, backbone: Backbone, data: Any = None) -> dict[str, Tensor]:
        """A and B as large as the largest matrix needs, uniform with Kaiming's bound √(6 / fan in)."""
        shapes = [matrix(self, backbone, place).shape for place in backbone.places(*self.places)]
        outputs, inputs = (max(sizes) for sizes in zip(*shapes, strict=True))
        source = torch.Generator().manual_seed(self.seed)
        return {
            "shared.A": _kaiming(self.rank, inputs, source),
            "shared.B": _kaiming(outputs, self.rank, source),
        }

    def edits(self, backbone: Backbone) -> list[Edit]:
        edits: list[Edit] = []
        for place in backbone.places(*self.places):
            factors = partial(_factors, place.name, matrix(self, backbone, place).shape[1])
            edits.append(WeightEdit(place, "weight", partial(_change, factors), factors))
        return edits

    def combined(self, weights: Sequence[Tensors], coefficients: Sequence[float]) -> tuple[Method, dict[str, Tensor]]:
        """c b for one term. Several have vectors d of their own, so that one pair of vectors cannot do their sum."""
        if len(weights) > 1:
            raise BadInput(
                f"cannot combine {len(weights)} deltas of {self} because each scales the rows of A differently"
            )
        return self, {n: coefficients[0] * x if n.endswith(".b") else x for n, x in weights[0].items()}


def _kaiming(rows: int, columns: int, source: Generator) -> Tensor:
    bound = math.sqrt(6 / columns)
    return torch.empty(rows, columns).uniform_(-bound, bound, generator=source)


def _factors(place: str, inputs: int, t: Tensors) -> tuple[Tensor, Tensor]:
    d, b = t[f"{place}.d"], t[f"{place}.b"]
    return b[:, None] * t["shared.B"][: b.shape[0]], d[:, None] * t["shared.A"][:, :inputs]


def _change(factors: partial[tuple[Tensor, Tensor]], t: Tensors, frozen: Tensor) -> Tensor:
    up, down = factors(t)
    return up @ down
