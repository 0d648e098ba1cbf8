"""Full fine-tuning, as a change of every parameter; and the same for some of them, which other methods are made of."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import partial
from typing import ClassVar

import torch
from torch import Generator, Tensor

from deltacompose.backbone import Backbone, Part, Place
from deltacompose.method import Category, Edit, Method, Tensors, WeightEdit

LINEAR = ("*attention.query", "*attention.key", "*attention.value", "*attention.output", "ffn.*")
"""The linear layers of every family, gated or not, and the norm of the feed-forward network."""


@dataclass(frozen=True)
class Full(Method):
    """W + ΔW for every parameter W, with ΔW zero at the start: the reference that delta tuning is compared with.

    A parameter that several places share (tied embeddings) is changed once. Ding et al. 2023 (arXiv 2203.06904,
    section 5) call it FT. It has as many parameters as the backbone:

    >>> from deltacompose.method.catalogue import count
    >>> from deltacompose.backbone.pico import pico_backbone
    >>> backbone = pico_backbone("t5")
    >>> count(Full(), backbone) == sum(parameter.numel() for parameter in backbone.model.parameters())
    True

    Args:
        places: kinds of places whose parameters change, `*` standing for anything.
    """

    name: ClassVar[str] = "full"
    category: ClassVar[Category] = "reparameterization"
    learning_rate: ClassVar[float] = 1e-4
    source: ClassVar[str] = "Ding et al. 2023, arXiv 2203.06904"
    linear: ClassVar[bool] = True
    formula: ClassVar[str] = "all of the places' parameters"
    banked: ClassVar[bool] = False

    places: tuple[str, ...] = ("*",)

    def init(self, backbone: Backbone, generator: Generator) -> dict[str, Tensor]:
        return zeros(backbone, backbone.places(*self.places))

    def edits(self, backbone: Backbone) -> list[Edit]:
        return changes(backbone, backbone.places(*self.places))


def parameters(backbone: Backbone, places: Iterable[Place]) -> list[tuple[Place, str]]:
    """Each parameter of these places once: slices of a fused one by their places, a tied one by the first."""
    found: list[tuple[Place, str]] = []
    taken: set[tuple[int, Part | None]] = set()
    for place in places:
        for name in backbone.parameter_names(place):
            path, own, _, part = backbone.parameter_location(place, name)
            key = (id(getattr(backbone.model.get_submodule(path), own)), part)
            if key not in taken:
                taken.add(key)
                found.append((place, name))
    return found


def zeros(backbone: Backbone, places: Iterable[Place]) -> dict[str, Tensor]:
    """A change of nothing for every parameter of these places, `<place>.<parameter>`."""
    found = parameters(backbone, places)
    return {f"{place.name}.{name}": torch.zeros(backbone.parameter(place, name).shape) for place, name in found}


def changes(backbone: Backbone, places: Iterable[Place]) -> list[Edit]:
    """The edits that add such a change."""
    found = parameters(backbone, places)
    return [WeightEdit(place, name, partial(_change, f"{place.name}.{name}")) for place, name in found]


def _change(name: str, t: Tensors, frozen: Tensor) -> Tensor:
    return t[name]
