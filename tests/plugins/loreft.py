"""LoReFT, as a stranger would write it: a low-rank intervention on the first and last tokens of a row."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Annotated, ClassVar

import torch
from annotated_types import Ge
from torch import Generator, Tensor

from deltacompose.backbone import Backbone
from deltacompose.method import Category, Edit, Method, OutputEdit, Tensors


@dataclass(frozen=True)
class LoReFT(Method):
    """h + Rᵀ(W h + b − R h) at the first p and, in an encoder, the last s tokens, with R `(r, d)` of orthonormal rows.

    Wu et al. 2024, *ReFT: Representation Finetuning for Language Models* (arXiv 2404.03592, equation 2). W starts at R
    and b at zero, so that nothing changes. A later token decides which are the last ones, so behind a causal attention
    only the first ones are edited.

    Args:
        rank: r.
        prefix: p.
        suffix: s.
        place: kind of place.
    """

    name: ClassVar[str] = "loreft"
    category: ClassVar[Category] = "addition"
    learning_rate: ClassVar[float] = 4e-3
    source: ClassVar[str] = "Wu et al. 2024, arXiv 2404.03592"
    formula: ClassVar[str] = "2rd + r per layer"

    rank: Annotated[int, Ge(1)] = 3
    prefix: Annotated[int, Ge(0)] = 3
    suffix: Annotated[int, Ge(0)] = 1
    place: str = "layer"

    def init(self, backbone: Backbone, generator: Generator) -> dict[str, Tensor]:
        weights = {}
        for place in backbone.places(self.place):
            rotation = _orthonormal(torch.randn(self.rank, backbone.width(place), generator=generator))
            weights |= {f"{place.name}.R": rotation, f"{place.name}.W": torch.zeros_like(rotation)}
            weights[f"{place.name}.b"] = torch.zeros(self.rank)
        return weights

    def prepare(self, t: Tensors, generator: Generator) -> dict[str, Tensor]:
        """R as it acts; bfloat16 has no QR decomposition, so it is made in fp32."""
        return {**t, **{name: _orthonormal(x) for name, x in t.items() if name.endswith(".R")}}

    def finalize(self, t: Tensors) -> dict[str, Tensor]:
        return self.prepare(t, Generator())

    def edits(self, backbone: Backbone) -> list[Edit]:
        return [
            OutputEdit(
                place,
                partial(self._change, place.name, self.suffix if place.stack == "encoder" else 0),
                needs=("mask", "positions"),
            )
            for place in backbone.places(self.place)
        ]

    def _change(
        self, place: str, last: int, t: Tensors, input: Tensor, output: Tensor, mask: Tensor, positions: Tensor
    ) -> Tensor:
        """`output` is (batch, tokens, width), mask and positions (batch, tokens). The weight W is kept as W − R."""
        end = torch.where(mask, positions, -1).amax(-1, keepdim=True)
        chosen = mask & (positions >= 0) & ((positions < self.prefix) | (positions > end - last))
        moved = output @ t[f"{place}.W"].mT + t[f"{place}.b"]
        return output + chosen[..., None] * (moved @ t[f"{place}.R"])


def _orthonormal(x: Tensor) -> Tensor:
    """Rows made orthonormal by Gram and Schmidt's procedure, with signs that keep an orthonormal matrix as it is."""
    basis, triangle = torch.linalg.qr(x.mT if x.dtype == torch.float64 else x.mT.float())
    return (basis * triangle.diagonal().sign()).mT.to(x.dtype)
