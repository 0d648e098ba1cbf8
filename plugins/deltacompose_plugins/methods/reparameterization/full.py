"""Full fine-tuning, as a change of every parameter; and the same for some of them, which other methods are made of."""

from __future__ import annotations

import functools
import logging
from collections.abc import Iterable
from dataclasses import dataclass
from functools import partial
from typing import ClassVar

import torch
from torch import Generator, Tensor

from deltacompose.backbone import Backbone, FusedPart, Place
from deltacompose.errors import BadInput
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
        return zeros(backbone, self._where(backbone))

    def edits(self, backbone: Backbone) -> list[Edit]:
        return changes(backbone, self._where(backbone))

    def _where(self, backbone: Backbone) -> tuple[Place, ...]:
        """The places; all of them only where no parameter is forgotten, and what a table leaves out is reported."""
        if "*" in self.places and backbone.kind != "denoiser":
            if names := backbone.forgotten:
                raise BadInput(
                    f"cannot train all parameters of {backbone.name} because its table {backbone.family!r} has no "
                    f"place for {len(names)} of them ({', '.join(names[:4])}{', …' if len(names) > 4 else ''}); give "
                    "them places, or list them under without"
                )
            _report(backbone.name, tuple(name for name in backbone.unplaced if "pooler." not in name))
        return backbone.places(*self.places)


@functools.cache
def _report(backbone: str, left: tuple[str, ...]) -> None:
    """Logs once for each backbone which parameters `full` does not train."""
    if left:
        logging.getLogger(__name__).warning("full does not train %s of %s", ", ".join(left), backbone)


def parameters(backbone: Backbone, places: Iterable[Place]) -> list[tuple[Place, str]]:
    """Each parameter of these places once: slices of a fused one by their places, a tied one by the first."""
    located: list[tuple[Place, str]] = []
    taken: set[tuple[int, FusedPart | None]] = set()
    for place in places:
        for name in backbone.parameter_names(place):
            path, own, _, part = backbone.parameter_location(place, name)
            key = (id(getattr(backbone.model.get_submodule(path), own)), part)
            if key not in taken:
                taken.add(key)
                located.append((place, name))
    return located


def zeros(backbone: Backbone, places: Iterable[Place]) -> dict[str, Tensor]:
    """A change of nothing for every parameter of these places, `<place>.<parameter>`."""
    located = parameters(backbone, places)
    return {f"{place.name}.{name}": torch.zeros(backbone.parameter(place, name).shape) for place, name in located}


def changes(backbone: Backbone, places: Iterable[Place]) -> list[Edit]:
    """The edits that add such a change."""
    located = parameters(backbone, places)
    return [WeightEdit(place, name, partial(_change, f"{place.name}.{name}")) for place, name in located]


def _change(name: str, t: Tensors, frozen: Tensor) -> Tensor:
    return t[name]
