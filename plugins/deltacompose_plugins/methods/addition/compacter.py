"""Compacter: adapters whose matrices are sums of Kronecker products."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Annotated, ClassVar

import torch
from annotated_types import Ge
from torch import Generator, Tensor
from torch.nn import functional as F

from deltacompose.backbone import Backbone
from deltacompose.errors import BadInput
from deltacompose.method import Category, Edit, Method, OutputEdit, Tensors


@dataclass(frozen=True)
class Compacter(Method):
    """An adapter h + W_up gelu(W_down h + b_down) + b_up with W = Σᵢ Aᵢ ⊗ (sᵢ tᵢᵀ), i = 1 … n.

    Mahabadi et al. 2021, *Compacter: Efficient Low-Rank Hypercomplex Adapter Layers* (arXiv 2106.04647, equations 5
    and 6). The Aᵢ `(n, n)` are shared by all adapters; sᵢ and tᵢ have rank r. The factor tᵢ of W_up is zero at the
    start. n³ parameters, and 2r(d + m) + m + d more for each sublayer of width d:

    >>> from deltacompose.method.catalogue import count
    >>> from deltacompose.backbone.pico import pico_backbone
    >>> sublayers, n, m, r, d = 2 * 2, 4, 8, 1, 16
    >>> tuned = Compacter(n=n, bottleneck=m, rank=r)
    >>> count(tuned, pico_backbone("bert")) == n**3 + sublayers * (2 * r * (d + m) + m + d)
    True

    Args:
        n: products in a sum; it divides the bottleneck and the width.
        bottleneck: m.
        rank: r.
        places: kinds of sublayers, `*` standing for anything; Compacter++ has `("ffn",)`.
    """

    name: ClassVar[str] = "compacter"
    category: ClassVar[Category] = "addition"
    learning_rate: ClassVar[float] = 5e-3
    source: ClassVar[str] = "Mahabadi et al. 2021, arXiv 2106.04647"
    formula: ClassVar[str] = "n³ + 2r(d + m) + m + d per sublayer"

    n: Annotated[int, Ge(1)] = 4
    bottleneck: Annotated[int, Ge(1)] = 24
    rank: Annotated[int, Ge(1)] = 1
    places: tuple[str, ...] = ("*attention", "ffn")

    def init(self, backbone: Backbone, generator: Generator) -> dict[str, Tensor]:
        weights = {"shared.A": torch.randn(self.n, self.n, self.n, generator=generator) / self.n}
        for place in backbone.places(*self.places):
            d, m, (n, r) = backbone.width(place), self.bottleneck, (self.n, self.rank)
            if d % n or m % n:
                raise BadInput(f"compacter: n={n} must divide the bottleneck {m} and the width {d} of {place.name}")
            weights[f"{place.name}.down_s"] = torch.randn(n, m // n, r, generator=generator) / math.sqrt(r)
            weights[f"{place.name}.down_t"] = torch.randn(n, r, d // n, generator=generator) / math.sqrt(d)
            weights[f"{place.name}.down_bias"] = torch.zeros(m)
            weights[f"{place.name}.up_s"] = torch.randn(n, d // n, r, generator=generator) / math.sqrt(r)
            weights[f"{place.name}.up_t"] = torch.zeros(n, r, m // n)
            weights[f"{place.name}.up_bias"] = torch.zeros(d)
        return weights

    def edits(self, backbone: Backbone) -> list[Edit]:
        return [OutputEdit(place, partial(_change, place.name)) for place in backbone.places(*self.places)]

    def combined(self, weights: Sequence[Tensors], coefficients: Sequence[float]) -> tuple[Method, dict[str, Tensor]]:
        """c W_up for one term; several have matrices Aᵢ of their own, which all adapters of one delta share."""
        if len(weights) > 1:
            raise BadInput(f"cannot combine {len(weights)} deltas of {self} because each has matrices A of its own")
        scaled = (".up_t", ".up_bias")
        return self, {n: coefficients[0] * x if n.endswith(scaled) else x for n, x in weights[0].items()}


def _change(place: str, t: Tensors, input: Tensor, output: Tensor) -> Tensor:
    down, up = (kronecker(t["shared.A"], t[f"{place}.{m}_s"] @ t[f"{place}.{m}_t"]) for m in ("down", "up"))
    return output + F.linear(F.gelu(F.linear(output, down, t[f"{place}.down_bias"])), up, t[f"{place}.up_bias"])


def kronecker(a: Tensor, b: Tensor) -> Tensor:
    """Σᵢ Aᵢ ⊗ Bᵢ: `(n, p, q)` and `(n, k, l)` to `(pk, ql)`."""
    return torch.einsum("npq,nkl->pkql", a, b).flatten(2, 3).flatten(0, 1)
