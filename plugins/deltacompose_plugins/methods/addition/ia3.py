"""(IA)³: learned scales of keys, values and the feed-forward network's inner activation."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import ClassVar

import torch
from torch import Generator, Tensor

from deltacompose.backbone import Backbone, Place
from deltacompose.method import Category, Edit, Method, OutputEdit, Tensors, WeightEdit


@dataclass(frozen=True)
class IA3(Method):
    """l_k ⊙ K, l_v ⊙ V and l_ff ⊙ f(W₁ x), with l = 1 + δ and δ zero at the start.

    Liu et al. 2022, *Few-Shot Parameter-Efficient Fine-Tuning is Better and Cheaper than In-Context Learning* (arXiv
    2205.05638, section 3.3). The tensors are δ, so that a delta of zeros changes nothing, as in the other methods.
    One parameter per scaled feature, in a mixture of experts one for each expert: with keys and values of width d and
    an inner width m,

    >>> from deltacompose.method.catalogue import count
    >>> from deltacompose.backbone.pico import pico_backbone
    >>> layers, d, m = 2, 16, 32
    >>> count(IA3(), pico_backbone("bert")) == layers * (d + d + m)
    True

    Args:
        places: kinds of places that are scaled, `*` standing for anything.
    """

    name: ClassVar[str] = "ia3"
    category: ClassVar[Category] = "addition"
    learning_rate: ClassVar[float] = 1e-2
    source: ClassVar[str] = "Liu et al. 2022, arXiv 2205.05638"
    linear: ClassVar[bool] = True
    formula: ClassVar[str] = "d per key and value, m per feed-forward network"

    places: tuple[str, ...] = ("*attention.key", "*attention.value", "ffn.activation")

    def init(self, backbone: Backbone, generator: Generator) -> dict[str, Tensor]:
        return {f"{place.name}.scale": torch.zeros(_shape(backbone, place)) for place in self._where(backbone)}

    def edits(self, backbone: Backbone) -> list[Edit]:
        return [_edit(place) for place in self._where(backbone)]

    def _where(self, backbone: Backbone) -> tuple[Place, ...]:
        """The places. In a mixture of experts `ffn.activation` is that of the shared and of each routed expert."""
        kinds = set(self.places)
        if "ffn.activation" in kinds:
            mixed = {place.kind for place in backbone.places()} & {"ffn.shared.activation", EXPERTS}
            dense = any(place.kind == "ffn.activation" for place in backbone.places())
            kinds = kinds | mixed if dense or not mixed else kinds - {"ffn.activation"} | mixed
        return backbone.places(*kinds)


EXPERTS = "ffn.experts.down"
"""Scales the columns of a routed expert's down projection, which equals scaling its inner activation."""


def _shape(backbone: Backbone, place: Place) -> tuple[int, ...]:
    if place.kind != EXPERTS:
        return (backbone.width(place),)
    experts, _, inner = backbone.parameter(place, "weight").shape
    return experts, inner


def _edit(place: Place) -> Edit:
    if place.kind == EXPERTS:
        return WeightEdit(place, "weight", partial(_columns, place.name))
    return OutputEdit(place, partial(_scaled, place.name))


def _columns(place: str, t: Tensors, frozen: Tensor) -> Tensor:
    return frozen * t[f"{place}.scale"][:, None, :]


def _scaled(place: str, t: Tensors, input: Tensor, output: Tensor) -> Tensor:
    return output * (1 + t[f"{place}.scale"])
