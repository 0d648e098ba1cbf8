"""Masked tuning: the few parameters that matter most to the task, found on its training data."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import partial
from typing import Annotated, Any, ClassVar, Literal

import torch
from annotated_types import Ge, Gt, Le
from torch import Generator, Tensor

from deltacompose.backbone import Backbone
from deltacompose.errors import BadInput
from deltacompose.method import Category, Edit, Method, Tensors, WeightEdit
from deltacompose_plugins.methods.reparameterization.full import LINEAR, Full, parameters

_WIDER = 2
"""How many times as many candidates there are as chosen parameters where the choice is made again."""


@dataclass(frozen=True)
class Masked(Method):
    """W + M ⊙ ΔW with a fixed mask M of the fD parameters that a criterion puts first, g being the loss's gradient.

    `gradient` |E g|; `fisher` E g² over single examples (Sung et al. 2021, FISH mask, arXiv 2111.09839, equation 4);
    `sensitivity` |W E g| (Lee et al. 2019, SNIP, arXiv 1810.02340); `magnitude` |W|, which needs no data. With
    `reselect` twice as many are candidates, all of them get gradients, and so many times in training those that have
    moved most are chosen again (after Ansell et al. 2022, arXiv 2110.07560). Of D parameters fD:

    >>> from deltacompose.method.catalogue import count
    >>> from deltacompose.backbone.pico import pico_backbone
    >>> D = 2 * 2 * 16 * 16
    >>> tuned = Masked(fraction=0.1, places=("*attention.query", "*attention.output"))
    >>> count(tuned, pico_backbone("llama")) == round(0.1 * D)
    True

    Args:
        criterion: what puts parameters first.
        fraction: f, the share that is trained.
        examples: how many training examples are looked at.
        places: kinds of places to choose from, `*` standing for anything.
        reselect: how often the choice is made again.
    """

    name: ClassVar[str] = "masked"
    category: ClassVar[Category] = "specification"
    learning_rate: ClassVar[float] = 3e-3
    source: ClassVar[str] = "Sung et al. 2021, arXiv 2111.09839"
    linear: ClassVar[bool] = True
    formula: ClassVar[str] = "fD"

    criterion: Literal["gradient", "fisher", "magnitude", "sensitivity"] = "gradient"
    fraction: Annotated[float, Gt(0), Le(1)] = 0.005
    examples: Annotated[int, Ge(1)] = 64
    places: tuple[str, ...] = LINEAR
    reselect: Annotated[int, Ge(0)] = 0

    def init(self, backbone: Backbone, generator: Generator) -> dict[str, Tensor]:
        return {"shared.values": torch.zeros(self._size(backbone, _WIDER if self.reselect else 1))}

    def constants(self, backbone: Backbone, data: Any = None) -> dict[str, Tensor]:
        """Which parameters, counted through all places; with `reselect` also which of them are chosen now."""
        scores = torch.cat([x.flatten() for x in self._scores(backbone, data).values()])
        index = scores.topk(len(self.init(backbone, Generator())["shared.values"])).indices
        if not self.reselect:
            return {"shared.index": index.sort().values}
        return {"shared.index": index, "shared.chosen": (torch.arange(len(index)) < self._size(backbone)).to(scores)}

    def update(self, t: Tensors, gradients: Tensors, step: int, steps: int) -> dict[str, Tensor]:
        every = math.ceil(steps / (self.reselect + 1))
        if not self.reselect or (step + 1) % every or step + 1 == steps:
            return {}
        chosen = t["shared.values"].detach().abs().topk(int(t["shared.chosen"].sum())).indices
        return {"shared.chosen": torch.zeros_like(t["shared.chosen"]).index_fill(0, chosen, 1)}

    def finalize(self, t: Tensors) -> dict[str, Tensor]:
        return {**t, "shared.values": t["shared.values"] * t["shared.chosen"]} if self.reselect else dict(t)

    def edits(self, backbone: Backbone) -> list[Edit]:
        edits: list[Edit] = []
        before = 0
        for place, name in parameters(backbone, backbone.places(*self.places)):
            edits.append(WeightEdit(place, name, partial(_change, before)))
            before += backbone.parameter(place, name).numel()
        return edits

    def _size(self, backbone: Backbone, times: int = 1) -> int:
        """How many parameters the fraction is, or so many times as many, but never more than there are."""
        where = parameters(backbone, backbone.places(*self.places))
        total = sum(backbone.parameter(place, name).numel() for place, name in where)
        return min(total, times * max(1, round(self.fraction * total)))

    def _scores(self, backbone: Backbone, data: Any) -> dict[str, Tensor]:
        """How much each parameter of the places matters, `<place>.<parameter>`."""
        where = parameters(backbone, backbone.places(*self.places))
        frozen = {f"{place.name}.{name}": backbone.parameter(place, name).float() for place, name in where}
        if self.criterion == "magnitude":
            return {name: x.abs() for name, x in frozen.items()}
        if data is None:
            raise BadInput(f"{self} finds its mask on training data and was given none; take criterion='magnitude'")
        dense, batch = Full(places=self.places), 1 if self.criterion == "fisher" else 16
        scores = {name: torch.zeros_like(x) for name, x in frozen.items()}
        for gradients in data.gradients(dense, dense.init(backbone, Generator()), self.examples, batch):
            for name, gradient in gradients.items():
                scores[name] += gradient.square() if self.criterion == "fisher" else gradient
        return {name: (x * frozen[name] if self.criterion == "sensitivity" else x).abs() for name, x in scores.items()}


def _change(before: int, t: Tensors, frozen: Tensor) -> Tensor:
    """The values that belong to one parameter at their entries; `before` entries belong to those before it."""
    values, own = _straight_through(t), t["shared.index"] - before
    elsewhere = (own < 0) | (own >= frozen.numel())
    spread = values.new_zeros(frozen.numel() + 1).scatter(0, own.masked_fill(elsewhere, frozen.numel()), values)
    return spread[:-1].view(frozen.shape)


def _straight_through(t: Tensors) -> Tensor:
    """The chosen values, of which those that are not chosen now have a gradient too."""
    values = t["shared.values"]
    if "shared.chosen" not in t:
        return values
    return values * t["shared.chosen"] + (values - values.detach()) * (1 - t["shared.chosen"])
