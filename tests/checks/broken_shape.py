"""Methods for one size of inputs, layers or matrices alone."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from broken import Good, GoodWeights
from torch import Generator, Tensor

from deltacompose.backbone import Backbone
from deltacompose.method import Edit, Tensors


@dataclass(frozen=True)
class OneTokenOfLong(Good):
    """Gives one token for inputs longer than twenty, which is broadcast over all of them."""

    def change(self, place: str, t: Tensors, input: Tensor, output: Tensor) -> Tensor:
        changed = output * (1 + t[f"{place}.scale"])
        return changed.mean(-2, keepdim=True) if output.shape[-2] > 20 else changed


@dataclass(frozen=True)
class TwoLayers(Good):
    """Knows the first two layers of a stack."""

    def edits(self, backbone: Backbone) -> list[Edit]:
        return [edit for edit in super().edits(backbone) if (edit.place.layer or 0) < 2]  # type: ignore[union-attr]


@dataclass(frozen=True)
class WidthSixteen(Good):
    """Knows one width."""

    def init(self, backbone: Backbone, generator: Generator) -> dict[str, Tensor]:
        return {name: torch.zeros(16) for name in super().init(backbone, generator)}


@dataclass(frozen=True)
class Square(GoodWeights):
    """Takes the numbers of inputs and outputs for one number."""

    def init(self, backbone: Backbone, generator: Generator) -> dict[str, Tensor]:
        drawn = super().init(backbone, generator)
        return {name: torch.zeros(x.shape) if name.endswith("up") else x.T[: x.shape[1]].T for name, x in drawn.items()}

    def factors(self, place: str, t: Tensors) -> tuple[Tensor, Tensor]:
        up, down = t[f"{place}.up"], t[f"{place}.down"]
        return torch.eye(down.shape[1]).to(up) @ up, down

    def change(self, place: str, t: Tensors, frozen: Tensor) -> Tensor:
        up, down = self.factors(place, t)
        return up @ down
