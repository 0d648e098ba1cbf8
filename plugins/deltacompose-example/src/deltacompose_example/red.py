"""Representation editing (RED; Wu et al. 2024, "Advancing Parameter Efficiency in Fine-tuning via Representation
Editing", arXiv 2402.15179): a scale and a bias on what the feed-forward networks put out."""

from dataclasses import dataclass
from functools import partial
from typing import ClassVar

import torch
from torch import Generator, Tensor

from deltacompose.backbone import Backbone, Place
from deltacompose.method import Category, Edit, Method, OutputEdit, Tensors


@dataclass(frozen=True)
class RED(Method):
    """`h <- l_scaling * h + l_bias`, elementwise, with two vectors of the place's width.

    The scaling starts at one and the bias at zero, so an untrained delta changes nothing. L layers of width d have
    2 L d parameters. The paper edits the feed-forward output of every layer; `place` may name any other kind.
    """

    name: ClassVar[str] = "red"
    category: ClassVar[Category] = "addition"
    learning_rate: ClassVar[float] = 5e-3
    source: ClassVar[str] = "Wu et al. 2024, arXiv 2402.15179"

    place: str = "ffn"

    def init(self, backbone: Backbone, generator: Generator) -> dict[str, Tensor]:
        vectors = {"scaling": torch.ones, "bias": torch.zeros}
        places = backbone.places(self.place)
        return {f"{p.name}.{vector}": new(backbone.width(p)) for p in places for vector, new in vectors.items()}

    def edits(self, backbone: Backbone) -> list[Edit]:
        return [OutputEdit(place, partial(_edited, place)) for place in backbone.places(self.place)]


def _edited(place: Place, t: Tensors, input: Tensor, output: Tensor) -> Tensor:
    """`output` is (batch, tokens, width), the vectors (width,)."""
    return t[f"{place.name}.scaling"] * output + t[f"{place.name}.bias"]
