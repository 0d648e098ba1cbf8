"""PiSSA, as a stranger would write it: the principal part of each pretrained matrix is what is trained."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Annotated, Any, ClassVar

import torch
from annotated_types import Ge
from torch import Generator, Tensor

from deltacompose.backbone import Backbone
from deltacompose.method import Category, Edit, Method, Tensors, WeightEdit


@dataclass(frozen=True)
class PiSSA(Method):
    """W − B₀A₀ + B A, with B₀ = U√S and A₀ = √S Vᵀ of the r largest singular values of W, where B and A begin.

    Meng et al. 2024, *PiSSA: Principal Singular Values and Singular Vectors Adaptation* (arXiv 2404.02948, equations 2
    to 4). Nothing is drawn; B₀ and A₀ are constants. r(o + i) parameters a matrix `(o, i)`.

    Args:
        rank: r.
        places: kinds of places, `*` standing for anything.
    """

    name: ClassVar[str] = "pissa"
    category: ClassVar[Category] = "reparameterization"
    learning_rate: ClassVar[float] = 2e-3
    source: ClassVar[str] = "Meng et al. 2024, arXiv 2404.02948"
    formula: ClassVar[str] = "r(o + i) per matrix"

    rank: Annotated[int, Ge(1)] = 3
    places: tuple[str, ...] = ("*attention.query", "*attention.value")

    def init(self, backbone: Backbone, generator: Generator) -> dict[str, Tensor]:
        return {f"{place}.{name}": x for place, pair in self._principal(backbone) for name, x in pair.items()}

    def constants(self, backbone: Backbone, data: Any = None) -> dict[str, Tensor]:
        return {f"{place}.{name}0": x for place, pair in self._principal(backbone) for name, x in pair.items()}

    def edits(self, backbone: Backbone) -> list[Edit]:
        places = backbone.places(*self.places)
        return [WeightEdit(place, "weight", partial(_change, place.name)) for place in places]

    def _principal(self, backbone: Backbone) -> list[tuple[str, dict[str, Tensor]]]:
        """For each place B₀ `(o, r)` and A₀ `(r, i)`."""
        found = []
        for place in backbone.places(*self.places):
            weight = backbone.parameter(place, "weight").detach().float().cpu()
            u, s, v = torch.linalg.svd(weight, full_matrices=False)
            root = s[: self.rank].sqrt()
            found.append((place.name, {"B": u[:, : self.rank] * root, "A": root[:, None] * v[: self.rank]}))
        return found


def _change(place: str, t: Tensors, frozen: Tensor) -> Tensor:
    """Not as factors of rank 2r: two products of equal tensors cancel to exactly nothing at the start."""
    return t[f"{place}.B"] @ t[f"{place}.A"] - t[f"{place}.B0"] @ t[f"{place}.A0"]
