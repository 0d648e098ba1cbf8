"""UniPELT, as a stranger would write it: LoRA, an adapter and a prefix, each with a gate that its input opens."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Annotated, ClassVar

import torch
from annotated_types import Ge
from torch import Generator, Tensor
from torch.nn import functional as F

from deltacompose.backbone import Backbone
from deltacompose.method import Category, Edit, KeyValueEdit, Method, OutputEdit, Tensors


@dataclass(frozen=True)
class UniPELT(Method):
    """g_L B A x beside queries and values, g_A W_up relu(W_down h) behind the feed-forward network, g_P [P_K; P_V].

    Mao et al. 2022, *UniPELT: A Unified Framework for Parameter-Efficient Language Model Tuning* (arXiv 2110.07577,
    section 3.3). The gates of LoRA and the adapter are sigmoids of each token's input, as tokens of a generation come
    one by one; the prefix's gate is one number for each attention, which scales its values.

    Args:
        rank: r.
        bottleneck: m.
        length: l.
    """

    name: ClassVar[str] = "unipelt"
    category: ClassVar[Category] = "addition"
    learning_rate: ClassVar[float] = 5e-3
    source: ClassVar[str] = "Mao et al. 2022, arXiv 2110.07577"
    neutral: ClassVar[bool] = False

    rank: Annotated[int, Ge(1)] = 2
    bottleneck: Annotated[int, Ge(1)] = 4
    length: Annotated[int, Ge(1)] = 3

    def init(self, backbone: Backbone, generator: Generator) -> dict[str, Tensor]:
        weights = {}
        for place in backbone.places("*attention.query", "*attention.value"):
            outputs, inputs = backbone.parameter(place, "weight").shape
            weights |= _pair(place.name, self.rank, inputs, outputs, generator)
        for place in backbone.places("ffn"):
            width = backbone.width(place)
            weights |= _pair(place.name, self.bottleneck, width, width, generator)
        for place in backbone.places("*attention"):
            heads, width = backbone.heads(place)
            for name in ("keys", "values"):
                weights[f"{place.name}.{name}"] = 0.5 * torch.randn(heads, self.length, width, generator=generator)
            weights[f"{place.name}.gate"] = torch.zeros(())
        return weights

    def edits(self, backbone: Backbone) -> list[Edit]:
        low_rank = [
            OutputEdit(p, partial(_low_rank, p.name)) for p in backbone.places("*attention.query", "*attention.value")
        ]
        adapters = [OutputEdit(p, partial(_adapted, p.name)) for p in backbone.places("ffn")]
        prefixes = [KeyValueEdit(p, partial(_prefix, p.name)) for p in backbone.places("*attention")]
        return [*low_rank, *adapters, *prefixes]


def _pair(place: str, rank: int, inputs: int, outputs: int, generator: Generator) -> dict[str, Tensor]:
    """Two matrices through `rank` numbers and their gate; the second one is zero at the start."""
    return {
        f"{place}.down": torch.randn(rank, inputs, generator=generator) / inputs**0.5,
        f"{place}.up": torch.zeros(outputs, rank),
        f"{place}.gate": torch.zeros(inputs),
    }


def _gate(place: str, t: Tensors, x: Tensor) -> Tensor:
    return torch.sigmoid(x @ t[f"{place}.gate"])[..., None]


def _low_rank(place: str, t: Tensors, input: Tensor, output: Tensor) -> Tensor:
    return output + _gate(place, t, input) * (input @ t[f"{place}.down"].mT @ t[f"{place}.up"].mT)


def _adapted(place: str, t: Tensors, input: Tensor, output: Tensor) -> Tensor:
    return output + _gate(place, t, output) * (F.relu(output @ t[f"{place}.down"].mT) @ t[f"{place}.up"].mT)


def _prefix(place: str, t: Tensors) -> tuple[Tensor, Tensor]:
    return t[f"{place}.keys"], 2 * torch.sigmoid(t[f"{place}.gate"]) * t[f"{place}.values"]
