"""A method that keeps the contract, and for each check of the suite one that breaks it in just that way."""

from __future__ import annotations

import multiprocessing
import os
from collections import Counter
from dataclasses import dataclass, field
from functools import partial
from typing import Annotated, Any, ClassVar

import torch
from annotated_types import Ge
from torch import Generator, Tensor
from torch.nn import functional as F

from deltacompose.backbone import Backbone, Place
from deltacompose.method import Category, Edit, KeyValueEdit, Method, OutputEdit, Tensors, WeightEdit

CALLS: Counter[str] = Counter()
"""What a broken method may count, as a pure one must not."""


@dataclass(frozen=True)
class Good(Method):
    """h (1 + s), with one vector s of the place's width, zero at the start."""

    name: ClassVar[str] = "scale"
    category: ClassVar[Category] = "addition"
    learning_rate: ClassVar[float] = 5e-3
    source: ClassVar[str] = "these tests"

    place: str = "ffn"
    factor: Annotated[float, Ge(0)] = 1.0

    def init(self, backbone: Backbone, generator: Generator) -> dict[str, Tensor]:
        return {f"{place.name}.scale": torch.zeros(backbone.width(place)) for place in backbone.places(self.place)}

    def edits(self, backbone: Backbone) -> list[Edit]:
        return [OutputEdit(place, partial(self.change, place.name)) for place in backbone.places(self.place)]

    def change(self, place: str, t: Tensors, input: Tensor, output: Tensor) -> Tensor:
        return output * (1 + self.factor * t[f"{place}.scale"])


@dataclass(frozen=True)
class GoodWeights(Method):
    """ΔW = B A, by its factors."""

    name: ClassVar[str] = "product"
    category: ClassVar[Category] = "reparameterization"
    learning_rate: ClassVar[float] = 5e-3
    source: ClassVar[str] = "these tests"

    places: tuple[str, ...] = ("*attention.query",)

    def init(self, backbone: Backbone, generator: Generator) -> dict[str, Tensor]:
        weights = {}
        for place in backbone.places(*self.places):
            outputs, inputs = backbone.parameter(place, "weight").shape
            weights[f"{place.name}.down"] = torch.randn(2, inputs, generator=generator) / 4
            weights[f"{place.name}.up"] = torch.zeros(outputs, 2)
        return weights

    def edits(self, backbone: Backbone) -> list[Edit]:
        places = backbone.places(*self.places)
        return [WeightEdit(p, "weight", partial(self.change, p.name), partial(self.factors, p.name)) for p in places]

    def factors(self, place: str, t: Tensors) -> tuple[Tensor, Tensor]:
        return t[f"{place}.up"], t[f"{place}.down"]

    def change(self, place: str, t: Tensors, frozen: Tensor) -> Tensor:
        return t[f"{place}.up"] @ t[f"{place}.down"]


# What it says of itself


class NoSuchCategory(Good):
    """A category of its own."""

    category: ClassVar[Any] = "magic"


@dataclass(frozen=True)
class SevenSettings(Good):
    """One setting too many."""

    c: int = 0
    d: int = 0
    e: int = 0
    f: int = 0
    g: int = 0


class NotFrozen(Good):
    """No dataclass of its own."""


@dataclass(frozen=True)
class NotCompared(Good):
    """A setting that does not count."""

    name: ClassVar[str] = "not_compared"

    seed: int = field(default=0, compare=False)

    def __str__(self) -> str:
        return f"not_compared(place={self.place!r})"


@dataclass(frozen=True)
class Unchecked(Good):
    """Takes any setting."""

    def __post_init__(self) -> None:
        pass


@dataclass(frozen=True)
class Speechless(Good):
    """Its text says none of its settings."""

    def __str__(self) -> str:
        return "scale"


# Its tensors


@dataclass(frozen=True)
class Unrepeatable(Good):
    """Counts how often it is drawn."""

    def init(self, backbone: Backbone, generator: Generator) -> dict[str, Tensor]:
        CALLS["init"] += 1
        return {name: x + CALLS["init"] for name, x in super().init(backbone, generator).items()}


@dataclass(frozen=True)
class DrawsInVain(Good):
    """Draws numbers and does not use them."""

    def init(self, backbone: Backbone, generator: Generator) -> dict[str, Tensor]:
        torch.rand(1, generator=generator)
        return super().init(backbone, generator)


@dataclass(frozen=True)
class DrawsGlobally(Good):
    """Draws from the global generator."""

    def init(self, backbone: Backbone, generator: Generator) -> dict[str, Tensor]:
        return {name: torch.randn_like(x) for name, x in super().init(backbone, generator).items()}


@dataclass(frozen=True)
class Misnamed(Good):
    """Names its tensors by modules."""

    def init(self, backbone: Backbone, generator: Generator) -> dict[str, Tensor]:
        return {f"{place.module}.scale": torch.zeros(backbone.width(place)) for place in backbone.places(self.place)}


@dataclass(frozen=True)
class Doubled(Good):
    """Weights in double precision."""

    def init(self, backbone: Backbone, generator: Generator) -> dict[str, Tensor]:
        return {name: x.double() for name, x in super().init(backbone, generator).items()}


@dataclass(frozen=True)
class Sharing(GoodWeights):
    """Begins with a view of the pretrained matrix."""

    def init(self, backbone: Backbone, generator: Generator) -> dict[str, Tensor]:
        drawn = super().init(backbone, generator)
        for place in backbone.places(*self.places):
            drawn[f"{place.name}.down"] = backbone.parameter(place, "weight")[:2]
        return drawn


@dataclass(frozen=True)
class NoPlaceIsFine(Good):
    """Looks for its places by itself."""

    def init(self, backbone: Backbone, generator: Generator) -> dict[str, Tensor]:
        return {f"{place.name}.scale": torch.zeros(backbone.width(place)) for place in self._mine(backbone)}

    def edits(self, backbone: Backbone) -> list[Edit]:
        return [OutputEdit(place, partial(self.change, place.name)) for place in self._mine(backbone)]

    def _mine(self, backbone: Backbone) -> list[Place]:
        return [place for place in backbone.places() if place.kind == self.place]


@dataclass(frozen=True)
class Miscounting(Good):
    """Forgets that there are layers."""

    def count(self, backbone: Backbone) -> int:
        return 16


@dataclass(frozen=True)
class RestlessConstants(Good):
    """Draws its constants anew each time."""

    def constants(self, backbone: Backbone, data: Any = None) -> dict[str, Tensor]:
        return {"shared.noise": torch.rand(3)}


@dataclass(frozen=True)
class RestlessPreparation(Good):
    """Prepares with the global generator."""

    def prepare(self, t: Tensors, generator: Generator) -> dict[str, Tensor]:
        return {name: x + torch.rand(()) for name, x in t.items()}


@dataclass(frozen=True)
class RestlessEnd(Good):
    """Keeps another delta each time."""

    def finalize(self, t: Tensors) -> dict[str, Tensor]:
        return {name: x + torch.rand(()) for name, x in t.items()}


@dataclass(frozen=True)
class ForgetfulEnd(Good):
    """Keeps nothing."""

    def finalize(self, t: Tensors) -> dict[str, Tensor]:
        return {}


@dataclass(frozen=True)
class PenaltyForEach(Good):
    """A penalty for each of its weights."""

    def penalty(self, t: Tensors) -> Tensor:
        return torch.stack([x.abs().sum() for x in t.values()])


@dataclass(frozen=True)
class EmptyBeginning(Good):
    """Carries nothing over."""

    def carried(self, backbone: Backbone, lower: Method, t: Tensors) -> dict[str, Tensor]:
        return {}


# In force


@dataclass(frozen=True)
class Broadcasting(Good):
    """Gives one number for each token, which would spread over the width unseen."""

    def change(self, place: str, t: Tensors, input: Tensor, output: Tensor) -> Tensor:
        return (output * (1 + t[f"{place}.scale"])).mean(-1, keepdim=True)


@dataclass(frozen=True)
class OneHead(Method):
    """One head's keys and values for all heads."""

    name: ClassVar[str] = "one_head"
    category: ClassVar[Category] = "addition"
    learning_rate: ClassVar[float] = 5e-3
    source: ClassVar[str] = "these tests"
    neutral: ClassVar[bool] = False

    def init(self, backbone: Backbone, generator: Generator) -> dict[str, Tensor]:
        return {
            f"{place.name}.keys": torch.randn(1, 2, 4, generator=generator) for place in backbone.places("attention")
        }

    def edits(self, backbone: Backbone) -> list[Edit]:
        return [KeyValueEdit(p, lambda t, n=p.name: (t[f"{n}.keys"],) * 2) for p in backbone.places("attention")]


@dataclass(frozen=True)
class Misreading(Good):
    """Reads a tensor that there is not."""

    def change(self, place: str, t: Tensors, input: Tensor, output: Tensor) -> Tensor:
        return output * t[f"{place}.sclae"]


@dataclass(frozen=True)
class NotNeutral(Good):
    """Says that it changes nothing at first, and does."""

    def init(self, backbone: Backbone, generator: Generator) -> dict[str, Tensor]:
        return {name: x + 1e-3 for name, x in super().init(backbone, generator).items()}


@dataclass(frozen=True)
class Overwriting(GoodWeights):
    """Computes the pretrained projection again, and forgets what earlier stages made of it."""

    def edits(self, backbone: Backbone) -> list[Edit]:
        return [self._edit(backbone, place) for place in backbone.places(*self.places)]

    def _edit(self, backbone: Backbone, place: Place) -> Edit:
        weight, bias = (backbone.parameter(place, name).clone() for name in ("weight", "bias"))

        def change(t: Tensors, input: Tensor, output: Tensor) -> Tensor:
            return F.linear(input, weight, bias) + input @ t[f"{place.name}.down"].mT @ t[f"{place.name}.up"].mT

        return OutputEdit(place, change)


@dataclass(frozen=True)
class Idle(Good):
    """Changes nothing, ever."""

    def change(self, place: str, t: Tensors, input: Tensor, output: Tensor) -> Tensor:
        return output + 0 * t[f"{place}.scale"]


@dataclass(frozen=True)
class InPlace(Good):
    """Changes its own tensors in a forward pass."""

    def change(self, place: str, t: Tensors, input: Tensor, output: Tensor) -> Tensor:
        return output * (1 + t[f"{place}.scale"].add_(0.1))


@dataclass(frozen=True)
class OverItsOutput(Good):
    """Writes its result over the output that it is given."""

    def change(self, place: str, t: Tensors, input: Tensor, output: Tensor) -> Tensor:
        return output.mul_(1 + t[f"{place}.scale"])


@dataclass(frozen=True)
class OverItsInput(Good):
    """Writes over the input that it is given."""

    def change(self, place: str, t: Tensors, input: Tensor, output: Tensor) -> Tensor:
        return output + input.mul_(t[f"{place}.scale"])


@dataclass(frozen=True)
class Noisy(Good):
    """Draws numbers in a forward pass."""

    def change(self, place: str, t: Tensors, input: Tensor, output: Tensor) -> Tensor:
        return output * (1 + t[f"{place}.scale"]) + torch.randn_like(output)


@dataclass(frozen=True)
class WrongFactors(GoodWeights):
    """Leaves the factor out of its factors."""

    def change(self, place: str, t: Tensors, frozen: Tensor) -> Tensor:
        return 2 * t[f"{place}.up"] @ t[f"{place}.down"]


@dataclass(frozen=True)
class SinglePrecision(Good):
    """Knows one precision."""

    def change(self, place: str, t: Tensors, input: Tensor, output: Tensor) -> Tensor:
        return output @ torch.eye(output.shape[-1]) * (1 + t[f"{place}.scale"])


# In training


@dataclass(frozen=True)
class Unread(Good):
    """Allocates a tensor that nothing reads."""

    def init(self, backbone: Backbone, generator: Generator) -> dict[str, Tensor]:
        return super().init(backbone, generator) | {"shared.unused": torch.zeros(3)}


@dataclass(frozen=True)
class Stuck(Good):
    """Multiplies two weights that both start at zero."""

    def init(self, backbone: Backbone, generator: Generator) -> dict[str, Tensor]:
        return super().init(backbone, generator) | {"shared.gain": torch.zeros(())}

    def change(self, place: str, t: Tensors, input: Tensor, output: Tensor) -> Tensor:
        return output * (1 + t["shared.gain"] * t[f"{place}.scale"])


@dataclass(frozen=True)
class Meddling(Good):
    """Changes the backbone's own parameters when it is attached."""

    def edits(self, backbone: Backbone) -> list[Edit]:
        backbone.parameter(backbone.places("ffn.up")[0], "weight").add_(1e-3)
        return super().edits(backbone)


@dataclass(frozen=True)
class Thawing(Good):
    """Trains a parameter of the backbone."""

    def edits(self, backbone: Backbone) -> list[Edit]:
        backbone.module(backbone.places("ffn.up")[0]).weight.requires_grad_(True)
        return super().edits(backbone)


@dataclass(frozen=True)
class Branching(Good):
    """Asks for the value of a weight, which a bank has K of."""

    def change(self, place: str, t: Tensors, input: Tensor, output: Tensor) -> Tensor:
        return output * (1 + t[f"{place}.scale"]) if t[f"{place}.scale"].sum() != 17 else output


@dataclass(frozen=True)
class Unequal(Good):
    """Refuses tensors that are a part of others, as those of a bank's second delta are."""

    def change(self, place: str, t: Tensors, input: Tensor, output: Tensor) -> Tensor:
        if t[f"{place}.scale"].storage_offset():
            raise ValueError("the second delta")
        return output * (1 + t[f"{place}.scale"])


@dataclass(frozen=True)
class Counting(Good):
    """Counts its calls, of which a bank has fewer and a recomputation more."""

    def change(self, place: str, t: Tensors, input: Tensor, output: Tensor) -> Tensor:
        CALLS[place] += 1
        return output * (1 + t[f"{place}.scale"] * (1 + CALLS[place] % 2))


@dataclass(frozen=True)
class FromTheStart(Good):
    """Reads its tensor from the start of the memory, where another delta's may be."""

    def change(self, place: str, t: Tensors, input: Tensor, output: Tensor) -> Tensor:
        scale = t[f"{place}.scale"]
        return output * (1 + scale.as_strided(scale.shape, scale.stride(), 0))


# Detaching


@dataclass(frozen=True)
class Hooking(Good):
    """Leaves a hook behind."""

    def edits(self, backbone: Backbone) -> list[Edit]:
        backbone.module(backbone.places("ffn.up")[0]).register_forward_hook(lambda *_: None)
        return super().edits(backbone)


@dataclass(frozen=True)
class Moody(Good):
    """Leaves the model in training mode."""

    def edits(self, backbone: Backbone) -> list[Edit]:
        backbone.model.train()
        return super().edits(backbone)


@dataclass(frozen=True)
class Worn(Good):
    """Does something else each time that it is attached."""

    def edits(self, backbone: Backbone) -> list[Edit]:
        CALLS["edits"] += 1
        other = type(self)(factor=1.0 + CALLS["edits"])
        return [OutputEdit(p, partial(other.change, p.name)) for p in backbone.places(self.place)]


# In company, generating, elsewhere


@dataclass(frozen=True)
class Detached(Good):
    """Cuts the gradient of all that lies before it."""

    def change(self, place: str, t: Tensors, input: Tensor, output: Tensor) -> Tensor:
        return output.detach() * (1 + t[f"{place}.scale"])


@dataclass(frozen=True)
class Positional(Good):
    """Counts positions from the first token that it is shown, which with a cache is the newest."""

    def change(self, place: str, t: Tensors, input: Tensor, output: Tensor) -> Tensor:
        return output * (1 + torch.arange(output.shape[-2])[:, None] * t[f"{place}.scale"])


@dataclass(frozen=True)
class Shortening(Good):
    """Drops the first position of the logits."""

    def change(self, place: str, t: Tensors, input: Tensor, output: Tensor) -> Tensor:
        return output[..., 1:, :] * (1 + t[f"{place}.scale"])


@dataclass(frozen=True)
class OfThisProcess(Good):
    """Draws from the number of the process."""

    def init(self, backbone: Backbone, generator: Generator) -> dict[str, Tensor]:
        return {name: x + os.getpid() for name, x in super().init(backbone, generator).items()}


@dataclass(frozen=True)
class Remembering(Good):
    """Keeps a factor outside its tensors, which a fresh process does not have."""

    def change(self, place: str, t: Tensors, input: Tensor, output: Tensor) -> Tensor:
        remembered = 3 if multiprocessing.parent_process() is None else 0
        return output * (1 + remembered * t[f"{place}.scale"])


def local() -> Method:
    """A method whose class no other process can find."""

    @dataclass(frozen=True)
    class Local(Good):
        """Defined where only this process is."""

    return Local()
