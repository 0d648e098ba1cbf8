"""Intrinsic dimension: a change of the parameters within a random subspace of d dimensions."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Annotated, Any, ClassVar, Literal

import torch
from annotated_types import Ge
from torch import Generator, Tensor

from deltacompose.backbone import Backbone, Place
from deltacompose.errors import BadInput
from deltacompose.method import Category, Edit, Method, Tensors, WeightEdit
from deltacompose_plugins.methods.reparameterization import projections
from deltacompose_plugins.methods.reparameterization.full import parameters

_SEEDS = 1_000_003


@dataclass(frozen=True)
class Intrinsic(Method):
    """ΔW = λ · P θ: d numbers θ, zero at the start, projected by a frozen random P onto all of the places' parameters.

    Li et al. 2018, *Measuring the Intrinsic Dimension of Objective Landscapes* (arXiv 1804.08838, equation 2); with one
    scale λ per layer, Aghajanyan et al. 2021 (arXiv 2012.13255, equation 3), who count the scales among the d. P's
    rows are drawn parameter by parameter and have norm √(d / D) on average, so its columns have norm 1. d parameters,
    and one more a layer:

    >>> from deltacompose.method.catalogue import count
    >>> from deltacompose.backbone.pico import pico_backbone
    >>> d, layers = 50, 2
    >>> count(Intrinsic(d=d), pico_backbone("bert")) == d + layers
    True

    Args:
        d: dimensions of the subspace.
        projection: `sketch`, `fastfood` or `dense`.
        per_layer: whether every layer has a scale.
        places: kinds of places whose parameters change, `*` standing for anything.
        seed: of P, which is the same for every task and training seed.
    """

    name: ClassVar[str] = "intrinsic"
    category: ClassVar[Category] = "reparameterization"
    learning_rate: ClassVar[float] = 3e-1
    source: ClassVar[str] = "Li et al. 2018, arXiv 1804.08838"
    formula: ClassVar[str] = "d + one per layer"

    d: Annotated[int, Ge(1)] = 200
    projection: Literal["sketch", "fastfood", "dense"] = "sketch"
    per_layer: bool = True
    places: tuple[str, ...] = ("*attention.query", "*attention.value")
    seed: Annotated[int, Ge(0)] = 0

    def init(self, backbone: Backbone, generator: Generator) -> dict[str, Tensor]:
        scales = {"shared.scales": torch.ones(len(self._layers(backbone)))} if self.per_layer else {}
        return {"shared.theta": torch.zeros(self.d), **scales}

    def constants(self, backbone: Backbone, data: Any = None) -> dict[str, Tensor]:
        """P's rows for each parameter, `<place>.<parameter>_<tensor>`, and what their norm is to be multiplied by."""
        drawn = zip(parameters(backbone, backbone.places(*self.places)), self._rows(backbone), strict=True)
        return {f"{place.name}.{name}_{of}": x for (place, name), rows in drawn for of, x in rows.items()}

    def carried(self, backbone: Backbone, lower: Method, t: Tensors) -> dict[str, Tensor]:
        """θ and the scales of fewer dimensions in this larger subspace; the scales as they are.

        Where the smaller P is the first columns of this one (`dense`, and `fastfood` with blocks of one width, as long
        as d is no more than the size of any parameter), θ with zeros appended, so that ΔW is the same. Else Pᵀ of the
        smaller one's P θ, the nearest there is as far as P's columns are orthogonal: for a `sketch` whose d is doubled
        the same ΔW but for where a parameter's entries do not part evenly.

        Raises:
            BadInput: `lower` differs in more than d, or has a greater one.
        """
        if not isinstance(lower, Intrinsic) or replace(lower, d=self.d) != self or lower.d > self.d:
            raise BadInput(f"{self} cannot begin with the solution of {lower}; a lower d of the same settings can")
        theta = t["shared.theta"]
        if self._nests(backbone, lower.d):
            return {**t, "shared.theta": torch.nn.functional.pad(theta, (0, self.d - lower.d))}
        projected = torch.zeros(self.d, dtype=torch.float64)
        for size, fewer, rows in zip(self._sizes(backbone), lower._rows(backbone), self._rows(backbone), strict=True):
            change = fewer["norm"] * projections.apply(fewer, theta.double())[:size]
            padded = torch.nn.functional.pad(change, (0, max(size, self.d) - size))
            projected += rows["norm"] * projections.transposed(rows, padded, self.d)
        return {**t, "shared.theta": projected.to(theta.dtype)}

    def combined(self, weights: Sequence[Tensors], coefficients: Sequence[float]) -> tuple[Method, dict[str, Tensor]]:
        """Σ cₖ θₖ, where all have the same scales; otherwise the sum is outside the subspace."""
        scales = [t["shared.scales"] for t in weights if "shared.scales" in t]
        if any(not torch.equal(x, scales[0]) for x in scales):
            raise BadInput(f"cannot combine deltas of {self} because the scales of their layers differ")
        theta = torch.stack([c * t["shared.theta"] for c, t in zip(coefficients, weights, strict=True)]).sum(0)
        return self, {**weights[0], "shared.theta": theta}

    def edits(self, backbone: Backbone) -> list[Edit]:
        layers = self._layers(backbone)
        return [
            WeightEdit(place, name, partial(self._change, f"{place.name}.{name}_", layers.index(_layer(place))))
            for place, name in parameters(backbone, backbone.places(*self.places))
        ]

    def _sizes(self, backbone: Backbone) -> list[int]:
        where = parameters(backbone, backbone.places(*self.places))
        return [backbone.parameter(place, name).numel() for place, name in where]

    def _rows(self, backbone: Backbone) -> Iterator[dict[str, Tensor]]:
        """The projection of each parameter, one after another, with its norm; of one below d, onto d numbers."""
        sizes = self._sizes(backbone)
        for number, size in enumerate(sizes):
            drawn = max(size, self.d)
            rows = projections.project(self.projection, _SEEDS * self.seed + number, self.d, drawn)
            yield {**rows, "norm": torch.tensor((drawn / sum(sizes)) ** 0.5)}

    def _nests(self, backbone: Backbone, lower: int) -> bool:
        """Whether the P of so many dimensions is the first columns of this one, for every parameter."""
        sizes = self._sizes(backbone)
        within = self.d <= min(sizes) and all(projections.nested(self.projection, lower, self.d, n) for n in sizes)
        return lower == self.d or within

    def _layers(self, backbone: Backbone) -> list[tuple[str, int | None]]:
        return list(dict.fromkeys(map(_layer, backbone.places(*self.places))))

    def _change(self, prefix: str, layer: int, t: Tensors, frozen: Tensor) -> Tensor:
        rows = {name.removeprefix(prefix): x for name, x in t.items() if name.startswith(prefix)}
        change = rows["norm"] * projections.apply(rows, t["shared.theta"])[: frozen.numel()].view(frozen.shape)
        return t["shared.scales"][layer] * change if self.per_layer else change


def _layer(place: Place) -> tuple[str, int | None]:
    """Group with one scale: a layer, or everything outside the layers of a stack."""
    return place.stack, place.layer
