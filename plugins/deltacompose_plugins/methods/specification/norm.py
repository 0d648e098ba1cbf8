"""Norm tuning: the scales and biases of the layer norms alone."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Generator, Tensor

from deltacompose.backbone import Backbone
from deltacompose.method import Category, Edit, Method
from deltacompose_plugins.methods.reparameterization.full import changes, zeros


@dataclass(frozen=True)
class Norm(Method):
    """(γ + Δγ) ⊙ x̂ + (β + Δβ): every layer norm's scale, and its bias where it has one.

    Qi et al. 2022, *Parameter-Efficient Tuning on Layer Normalization for Pre-trained Language Models* (arXiv
    2211.08682). 2d parameters a norm of width d, or d where a norm has no bias, as T5's and Llama's have none:

    >>> from deltacompose.method.catalogue import count
    >>> from deltacompose.backbone.pico import pico_backbone
    >>> count(Norm(), pico_backbone("bert")) == 5 * 2 * 16, count(Norm(), pico_backbone("llama")) == 5 * 16
    (True, True)

    Args:
        places: kinds of norms, `*` standing for anything.
    """

    name: ClassVar[str] = "norm"
    category: ClassVar[Category] = "specification"
    learning_rate: ClassVar[float] = 3e-3
    source: ClassVar[str] = "Qi et al. 2022, arXiv 2211.08682"
    linear: ClassVar[bool] = True
    formula: ClassVar[str] = "2d per norm, d without bias"

    places: tuple[str, ...] = ("*norm",)

    def init(self, backbone: Backbone, generator: Generator) -> dict[str, Tensor]:
        return zeros(backbone, backbone.places(*self.places))

    def edits(self, backbone: Backbone) -> list[Edit]:
        return changes(backbone, backbone.places(*self.places))
