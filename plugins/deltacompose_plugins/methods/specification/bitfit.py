"""BitFit: the biases alone."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import ClassVar

import torch
from torch import Generator, Tensor

from deltacompose.backbone import Backbone, Place
from deltacompose.method import Category, Edit, Method, Tensors, WeightEdit


@dataclass(frozen=True)
class BitFit(Method):
    """b + Δb at every linear layer and norm; where the model has no bias, one is added.

    Ben Zaken et al. 2022, *BitFit: Simple Parameter-efficient Fine-tuning for Transformer-based Masked
    Language-models* (arXiv 2106.10199). One parameter per output: T5, which has no biases, gets one for each of its
    linear and norm outputs, here seven (twelve) of width d and one of m in each layer of the encoder (decoder):

    >>> from deltacompose.method.catalogue import count
    >>> from deltacompose.backbone.pico import pico_backbone
    >>> d, m, layers = 16, 32, 2
    >>> count(BitFit(), pico_backbone("t5")) == layers * (7 * d + m) + d + layers * (12 * d + m) + d
    True

    Args:
        places: kinds of places whose biases change, `*` standing for anything; embeddings and the output head have
            none.
    """

    name: ClassVar[str] = "bitfit"
    category: ClassVar[Category] = "specification"
    learning_rate: ClassVar[float] = 3e-3
    formula: ClassVar[str] = "one per linear and norm output"
    source: ClassVar[str] = "Ben Zaken et al. 2022, arXiv 2106.10199"
    linear: ClassVar[bool] = True

    places: tuple[str, ...] = ("*",)

    def init(self, backbone: Backbone, generator: Generator) -> dict[str, Tensor]:
        return {f"{place.name}.bias": torch.zeros(backbone.width(place)) for place in self._where(backbone)}

    def edits(self, backbone: Backbone) -> list[Edit]:
        return [WeightEdit(place, "bias", partial(self._change, place.name)) for place in self._where(backbone)]

    def _where(self, backbone: Backbone) -> list[Place]:
        """The places with a bias to change; the output head's would be as long as the vocabulary."""
        return [p for p in backbone.places(*self.places) if backbone.takes_bias(p) and p.kind != "head"]

    @staticmethod
    def _change(place: str, t: Tensors, frozen: Tensor) -> Tensor:
        return t[f"{place}.bias"]
