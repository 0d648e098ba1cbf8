"""Prefix tuning: trained keys and values before every attention's own."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Annotated, ClassVar

import torch
from annotated_types import Ge
from torch import Generator, Tensor

from deltacompose.backbone import Backbone
from deltacompose.method import Category, Edit, KeyValueEdit, Method, Tensors


@dataclass(frozen=True)
class Prefix(Method):
    """softmax(Q [P_K; K]ᵀ / √d) [P_V; V]: l trained keys and values before the attention's own.

    Li & Liang 2021, *Prefix-Tuning: Optimizing Continuous Prompts for Generation* (arXiv 2101.00190, section 4). The
    positions of the tokens are not shifted. 2·l·d parameters at each attention whose keys have width d:

    >>> from deltacompose.method.catalogue import count
    >>> from deltacompose.backbone.pico import pico_backbone
    >>> attentions, l, d = 2 + 2 + 2, 5, 16
    >>> count(Prefix(length=l), pico_backbone("t5")) == attentions * 2 * l * d
    True

    Args:
        length: l.
        mlp: width of the network through which the prefix is trained (section 4.3), folded away after training;
            0 trains the keys and values themselves.
        places: kinds of attention, `*` standing for anything: encoder, decoder, cross attention.
    """

    name: ClassVar[str] = "prefix"
    category: ClassVar[Category] = "addition"
    learning_rate: ClassVar[float] = 1e-2
    source: ClassVar[str] = "Li & Liang 2021, arXiv 2101.00190"
    linear: ClassVar[bool] = True
    formula: ClassVar[str] = "2ld per attention"
    neutral: ClassVar[bool] = False

    length: Annotated[int, Ge(1)] = 10
    mlp: Annotated[int, Ge(0)] = 0
    places: tuple[str, ...] = ("*attention",)

    def init(self, backbone: Backbone, generator: Generator) -> dict[str, Tensor]:
        if not self.mlp:
            return {
                f"{place.name}.{tensor}": 0.5 * torch.randn(heads, self.length, width, generator=generator)
                for place in backbone.places(*self.places)
                for heads, width in (backbone.heads(place),)
                for tensor in ("keys", "values")
            }
        weights = {
            "shared.rows": torch.randn(self.length, self.mlp, generator=generator),
            "shared.inner": torch.randn(self.mlp, self.mlp, generator=generator) / self.mlp**0.5,
        }
        for place in backbone.places(*self.places):
            heads, width = backbone.heads(place)
            for tensor in ("keys", "values"):
                outer = torch.randn(heads, self.mlp, width, generator=generator) / self.mlp**0.5
                weights[f"{place.name}.{tensor}_outer"] = outer
        return weights

    def prepare(self, t: Tensors, generator: Generator) -> dict[str, Tensor]:
        """Folds the network: keys and values = tanh(rows · inner) · outer, `(heads, length, head width)`."""
        if "shared.rows" not in t:
            return dict(t)
        inner = torch.tanh(t["shared.rows"] @ t["shared.inner"])
        return {name.removesuffix("_outer"): inner @ outer for name, outer in t.items() if name.endswith("_outer")}

    def finalize(self, t: Tensors) -> dict[str, Tensor]:
        return self.prepare(t, torch.Generator())

    def edits(self, backbone: Backbone) -> list[Edit]:
        return [KeyValueEdit(place, partial(_prefix, place.name)) for place in backbone.places(*self.places)]


def _prefix(place: str, t: Tensors) -> tuple[Tensor, Tensor]:
    return t[f"{place}.keys"], t[f"{place}.values"]
