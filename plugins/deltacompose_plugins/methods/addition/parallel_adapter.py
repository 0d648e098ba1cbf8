"""Bottleneck adapters parallel to the sublayers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Annotated, ClassVar, Literal

from annotated_types import Ge, Gt
from torch import Generator, Tensor
from torch.nn import functional as F

from deltacompose.backbone import Backbone
from deltacompose.method import Category, Edit, Method, OutputEdit, Tensors
from deltacompose_plugins.methods.addition.adapter import ACTIVATIONS, bottleneck, side_by_side


@dataclass(frozen=True)
class ParallelAdapter(Method):
    """h + s · (W_up f(W_down x + b_down) + b_up), x being a sublayer's input and h its output; W_up is zero at first.

    He et al. 2021, *Towards a Unified View of Parameter-Efficient Transfer Learning* (arXiv 2110.04366, section 3.3,
    the scaled parallel adapter). 2md + m + d parameters a sublayer of width d:

    >>> from deltacompose.method.catalogue import count
    >>> from deltacompose.backbone.pico import pico_backbone
    >>> layers, m, d = 2, 4, 16
    >>> count(ParallelAdapter(bottleneck=m), pico_backbone("llama")) == layers * (2 * m * d + m + d)
    True

    Args:
        bottleneck: m; the paper's is 512.
        scale: s; the paper's is 4.
        activation: f.
        places: kinds of sublayers, `*` standing for anything.
    """

    name: ClassVar[str] = "parallel_adapter"
    category: ClassVar[Category] = "addition"
    learning_rate: ClassVar[float] = 3e-4
    source: ClassVar[str] = "He et al. 2021, arXiv 2110.04366"
    formula: ClassVar[str] = "2md + m + d per sublayer"

    bottleneck: Annotated[int, Ge(1)] = 16
    scale: Annotated[float, Gt(0)] = 4.0
    activation: Literal["relu", "gelu", "silu", "tanh"] = "relu"
    places: tuple[str, ...] = ("ffn",)

    def init(self, backbone: Backbone, generator: Generator) -> dict[str, Tensor]:
        return bottleneck(backbone, self.places, self.bottleneck, generator)

    def edits(self, backbone: Backbone) -> list[Edit]:
        return [OutputEdit(place, partial(self._change, place.name)) for place in backbone.places(*self.places)]

    def combined(self, weights: Sequence[Tensors], coefficients: Sequence[float]) -> tuple[Method, dict[str, Tensor]]:
        """The adapters side by side, in a bottleneck of K times the width."""
        return replace(self, bottleneck=len(weights) * self.bottleneck), side_by_side(weights, coefficients)

    def _change(self, place: str, t: Tensors, input: Tensor, output: Tensor) -> Tensor:
        inner = ACTIVATIONS[self.activation](F.linear(input, t[f"{place}.down"], t[f"{place}.down_bias"]))
        return output + self.scale * F.linear(inner, t[f"{place}.up"], t[f"{place}.up_bias"])
