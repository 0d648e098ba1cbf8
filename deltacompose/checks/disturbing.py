"""A trained delta at whatever places are asked for, to see that a method builds on what others have changed there."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import ClassVar

import torch
from torch import Generator, Tensor

from deltacompose.backbone.backbone import Backbone, Place
from deltacompose.method.contract import Category, Edit, Method, OutputEdit, Tensors, TokenEdit, WeightEdit, edits_of


@dataclass(frozen=True)
class Disturbing(Method):
    """y (1 + s) on the output of each place, and W + ΔW, b + Δb where it has a weight and a bias."""

    name: ClassVar[str] = "disturbing"
    category: ClassVar[Category] = "addition"
    learning_rate: ClassVar[float] = 1e-3
    source: ClassVar[str] = "these checks"
    neutral: ClassVar[bool] = False

    names: tuple[str, ...] = ()

    def init(self, backbone: Backbone, generator: Generator) -> dict[str, Tensor]:
        weights = {}
        for place in map(backbone.place, self.names):
            weights[f"{place.name}.scale"] = torch.zeros(backbone.width(place))
            for parameter in backbone.parameter_names(place):
                weights[f"{place.name}.{parameter}"] = torch.zeros(backbone.parameter(place, parameter).shape)
        return weights

    def edits(self, backbone: Backbone) -> list[Edit]:
        disturbances: list[Edit] = []
        for place in map(backbone.place, self.names):
            disturbances += [
                WeightEdit(place, p, partial(_added, f"{place.name}.{p}")) for p in backbone.parameter_names(place)
            ]
            disturbances.append(OutputEdit(place, partial(_scaled, place.name)))
        return disturbances


def disturbing(method: Method, backbone: Backbone) -> Disturbing | None:
    """A delta at every place that a method edits; None where it edits no place."""
    places = [edit.place for edit in edits_of(method, backbone) if not isinstance(edit, TokenEdit)]
    return Disturbing(tuple(dict.fromkeys(place.name for place in places if _is_open(place)))) if places else None


def _is_open(place: Place) -> bool:
    """Whether an output edit can act there: not on a table of positions, which sees no rows."""
    return place.kind not in ("positions", "attention.positions", "segments")


def _added(name: str, t: Tensors, frozen: Tensor) -> Tensor:
    return t[name]


def _scaled(place: str, t: Tensors, input: Tensor, output: Tensor) -> Tensor:
    return output * (1 + t[f"{place}.scale"])
