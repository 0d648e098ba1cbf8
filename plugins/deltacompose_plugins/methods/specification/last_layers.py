"""Last-layer tuning: the layers nearest to the output alone."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar

from annotated_types import Ge
from torch import Generator, Tensor

from deltacompose.backbone import Backbone, Place
from deltacompose.errors import BadInput
from deltacompose.method import Category, Edit, Method
from deltacompose_plugins.methods.reparameterization.full import changes, zeros


@dataclass(frozen=True)
class LastLayers(Method):
    """W + ΔW for every parameter of the last n layers of the stack that gives the output.

    Lee et al. 2019, *What Would Elsa Do? Freezing Layers During Transformer Fine-Tuning* (arXiv 1911.03090); good with
    scale (Ding et al. 2023, arXiv 2203.06904, section 5). n times a layer's parameters, four matrices of attention
    and two of the feed-forward network with their biases and norms:

    >>> from deltacompose.method.catalogue import count
    >>> from deltacompose.backbone.pico import pico_backbone
    >>> d, m = 16, 32
    >>> count(LastLayers(n=1), pico_backbone("bert")) == 4 * (d * d + d) + (2 * d * m + m + d) + 2 * 2 * d
    True

    Args:
        n: how many layers; of a sequence-to-sequence model the decoder's.
    """

    name: ClassVar[str] = "last_layers"
    category: ClassVar[Category] = "specification"
    learning_rate: ClassVar[float] = 3e-4
    source: ClassVar[str] = "Lee et al. 2019, arXiv 1911.03090"
    linear: ClassVar[bool] = True
    formula: ClassVar[str] = "n · a layer's parameters"

    n: Annotated[int, Ge(1)] = 1

    def init(self, backbone: Backbone, generator: Generator) -> dict[str, Tensor]:
        return zeros(backbone, self._where(backbone))

    def edits(self, backbone: Backbone) -> list[Edit]:
        return changes(backbone, self._where(backbone))

    def _where(self, backbone: Backbone) -> list[Place]:
        stack = backbone.streams[-1]
        first = backbone.layers(stack) - self.n
        if first < 0:
            raise BadInput(f"last_layers: n={self.n}, and the {stack} of {backbone.family} has {first + self.n} layers")
        in_layers = (place for place in backbone.places() if place.stack == stack and place.layer is not None)
        return [place for place in in_layers if place.layer >= first]
