"""Bottleneck adapters after the sublayers."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Annotated, ClassVar, Literal

import torch
from annotated_types import Ge
from torch import Generator, Tensor
from torch.nn import functional as F

from deltacompose.backbone import Backbone, Place
from deltacompose.method import Category, Edit, Method, OutputEdit, Tensors
from deltacompose_plugins.methods.reparameterization.full import changes, zeros

ACTIVATIONS = {"relu": F.relu, "gelu": F.gelu, "silu": F.silu, "tanh": torch.tanh}


@dataclass(frozen=True)
class Adapter(Method):
    """h + W_up f(W_down h + b_down) + b_up on a sublayer's output h, before the residual; W_up is zero at the start.

    Houlsby et al. 2019, *Parameter-Efficient Transfer Learning for NLP* (arXiv 1902.00751, section 2.1): after
    attention and after the feed-forward network, the norms trained too if `norms`. Pfeiffer et al. 2021,
    *AdapterFusion* (arXiv 2005.00247): after the feed-forward network alone, `places=("ffn",)`. 2md + m + d parameters
    a sublayer of width d:

    >>> from deltacompose.method.catalogue import count
    >>> from deltacompose.backbone.pico import pico_backbone
    >>> sublayers, m, d = 2 * 2, 4, 16
    >>> count(Adapter(bottleneck=m), pico_backbone("bert")) == sublayers * (2 * m * d + m + d)
    True

    Args:
        bottleneck: m.
        activation: f.
        places: kinds of sublayers, `*` standing for anything.
        norms: whether the scales and biases of the layer norms are trained as well.
    """

    name: ClassVar[str] = "adapter"
    category: ClassVar[Category] = "addition"
    learning_rate: ClassVar[float] = 2e-3
    source: ClassVar[str] = "Houlsby et al. 2019, arXiv 1902.00751"
    formula: ClassVar[str] = "2md + m + d per sublayer"

    bottleneck: Annotated[int, Ge(1)] = 16
    activation: Literal["relu", "gelu", "silu", "tanh"] = "relu"
    places: tuple[str, ...] = ("*attention", "ffn")
    norms: bool = False

    def init(self, backbone: Backbone, generator: Generator) -> dict[str, Tensor]:
        return bottleneck(backbone, self.places, self.bottleneck, generator) | zeros(backbone, self._norms(backbone))

    def edits(self, backbone: Backbone) -> list[Edit]:
        where = backbone.places(*self.places)
        adapters: list[Edit] = [OutputEdit(place, partial(self._change, place.name)) for place in where]
        return adapters + changes(backbone, self._norms(backbone))

    def combined(self, weights: Sequence[Tensors], coefficients: Sequence[float]) -> tuple[Method, dict[str, Tensor]]:
        """The adapters side by side, in a bottleneck of K times the width; changes of norms are summed."""
        return replace(self, bottleneck=len(weights) * self.bottleneck), side_by_side(weights, coefficients)

    def _change(self, place: str, t: Tensors, input: Tensor, output: Tensor) -> Tensor:
        inner = ACTIVATIONS[self.activation](F.linear(output, t[f"{place}.down"], t[f"{place}.down_bias"]))
        return output + F.linear(inner, t[f"{place}.up"], t[f"{place}.up_bias"])

    def _norms(self, backbone: Backbone) -> tuple[Place, ...]:
        return backbone.places("*norm") if self.norms else ()


def bottleneck(backbone: Backbone, places: tuple[str, ...], m: int, generator: Generator) -> dict[str, Tensor]:
    """New adapters at places of these kinds: `down` `(m, d)`, `up` `(d, m)` of zeros, and their biases."""
    weights = {}
    for place in backbone.places(*places):
        width, bound = backbone.width(place), 1 / math.sqrt(backbone.width(place))
        weights[f"{place.name}.down"] = torch.empty(m, width).uniform_(-bound, bound, generator=generator)
        weights[f"{place.name}.down_bias"] = torch.zeros(m)
        weights[f"{place.name}.up"] = torch.zeros(width, m)
        weights[f"{place.name}.up_bias"] = torch.zeros(width)
    return weights


def side_by_side(weights: Sequence[Tensors], coefficients: Sequence[float]) -> dict[str, Tensor]:
    """The tensors of one adapter that does Σ cₖ times what adapters do to the same input."""
    terms = list(zip(coefficients, weights, strict=True))

    def joined(name: str) -> Tensor:
        match name.rpartition(".")[2]:
            case "up":
                return torch.cat([c * t[name] for c, t in terms], 1)
            case "down" | "down_bias":
                return torch.cat([t[name] for _, t in terms])
            case _:
                return torch.stack([c * t[name] for c, t in terms]).sum(0)

    return {name: joined(name) for name in weights[0]}
