"""Methods that are wrong about the backbone, about training, or about what is kept."""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from functools import partial

import torch
from broken import Good, GoodWeights
from torch import Generator, Tensor

from deltacompose.backbone import Backbone, Place
from deltacompose.method import Edit, Method, OutputEdit, Tensors


@dataclass(frozen=True)
class ThawingTheNorm(Good):
    """Thaws the final norm when it is attached."""

    def edits(self, backbone: Backbone) -> list[Edit]:
        backbone.module(backbone.places("*norm")[-1]).requires_grad_(True)
        return super().edits(backbone)


@dataclass(frozen=True)
class ReadingTheBackbone(Good):
    """Reads one of the backbone's own tensors in its change."""

    def edits(self, backbone: Backbone) -> list[Edit]:
        size = backbone.parameter(backbone.places("ffn.up")[0], "weight")
        return [OutputEdit(p, partial(self._change, p.name, size)) for p in backbone.places(self.place)]

    def _change(self, place: str, size: Tensor, t: Tensors, input: Tensor, output: Tensor) -> Tensor:
        return output * (1 + size.norm() * t[f"{place}.scale"])


@dataclass(frozen=True)
class NoisyEvaluation(Good):
    """Adds noise from a generator of its own whenever it acts."""

    def change(self, place: str, t: Tensors, input: Tensor, output: Tensor) -> Tensor:
        noise = torch.randn(output.shape[-1], generator=torch.Generator().manual_seed(0)).to(output)
        return output * (1 + (1 + noise) * t[f"{place}.scale"])


@dataclass(frozen=True)
class NoiseIsKept(Good):
    """Prepares with noise, and keeps it."""

    def prepare(self, t: Tensors, generator: Generator) -> dict[str, Tensor]:
        return {name: x + torch.randn(x.shape, generator=generator).to(x) * x for name, x in t.items()}

    def finalize(self, t: Tensors) -> dict[str, Tensor]:
        return self.prepare(t, torch.Generator().manual_seed(0))


@dataclass(frozen=True)
class HalfOfTheGradient(Good):
    """Has half of its gradient from another function."""

    def change(self, place: str, t: Tensors, input: Tensor, output: Tensor) -> Tensor:
        scale = t[f"{place}.scale"]
        return output * (1 + (scale + scale.detach()) / 2)


@dataclass(frozen=True)
class OnlyWithGradients(Good):
    """Acts otherwise where gradients are recorded."""

    def change(self, place: str, t: Tensors, input: Tensor, output: Tensor) -> Tensor:
        return output * (1 + (1 + torch.is_grad_enabled()) * t[f"{place}.scale"])


@dataclass(frozen=True)
class FirstColumns(Good):
    """Changes the first three columns of a batch, which are padding where inputs are padded on the left."""

    def change(self, place: str, t: Tensors, input: Tensor, output: Tensor) -> Tensor:
        columns = (torch.arange(output.shape[-2], device=output.device) < 3)[:, None]
        return output * (1 + columns * t[f"{place}.scale"])


_CALLS = itertools.count()


@dataclass(frozen=True)
class RememberingPenalty(Good):
    """A penalty that grows with every call."""

    def penalty(self, t: Tensors) -> Tensor:
        return (1 + next(_CALLS)) * torch.stack([x.square().sum() for x in t.values()]).sum()


@dataclass(frozen=True)
class WronglyCarried(Good):
    """Begins with another function than the solution that it is given."""

    def carried(self, backbone: Backbone, lower: Method, t: Tensors) -> dict[str, Tensor]:
        return {name: 2 * x for name, x in t.items()}


@dataclass(frozen=True)
class ComputedAgain(GoodWeights):
    """Computes the pretrained projection again, at a place that no built-in method changes by default."""

    places: tuple[str, ...] = ("ffn.up",)

    def edits(self, backbone: Backbone) -> list[Edit]:
        return [self._edit(backbone, place) for place in backbone.places(*self.places)]

    def _edit(self, backbone: Backbone, place: Place) -> Edit:
        weight, bias = (backbone.parameter(place, name) for name in ("weight", "bias"))

        def change(t: Tensors, input: Tensor, output: Tensor) -> Tensor:
            own = torch.nn.functional.linear(input, weight.to(input), bias.to(input))
            return own + input @ t[f"{place.name}.down"].mT @ t[f"{place.name}.up"].mT

        return OutputEdit(place, change)


# What is kept


@dataclass(frozen=True)
class Rounding(Good):
    """Keeps its weights rounded."""

    def finalize(self, t: Tensors) -> dict[str, Tensor]:
        return {name: x.bfloat16().float() for name, x in t.items()}


@dataclass(frozen=True)
class RawIsKept(Good):
    """Trains what a normalisation gives, and keeps what goes into it."""

    def prepare(self, t: Tensors, generator: Generator) -> dict[str, Tensor]:
        return {name: x / (1 + x.norm()) for name, x in t.items()}

    def finalize(self, t: Tensors) -> dict[str, Tensor]:
        return dict(t)


@dataclass(frozen=True)
class Clipped(GoodWeights):
    """A change that is clipped, and factors that are not."""

    def change(self, place: str, t: Tensors, frozen: Tensor) -> Tensor:
        return (t[f"{place}.up"] @ t[f"{place}.down"]).clamp(-1, 1)
