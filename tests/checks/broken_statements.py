"""Methods that say of themselves what does not hold, or depend on what nobody states."""

from __future__ import annotations

import os
import time
from dataclasses import dataclass
from typing import Annotated, ClassVar

import numpy as np
import torch
from annotated_types import Ge
from broken import Good, GoodWeights
from torch import Generator, Tensor

from deltacompose.backbone import Backbone
from deltacompose.method import Tensors


@dataclass(frozen=True)
class OneSeed(GoodWeights):
    """Draws from a generator of its own, always the same numbers."""

    def init(self, backbone: Backbone, generator: Generator) -> dict[str, Tensor]:
        return super().init(backbone, torch.Generator().manual_seed(7))


@dataclass(frozen=True)
class OneSeedOfNumpy(GoodWeights):
    """Draws from a generator of NumPy's, always the same numbers."""

    def init(self, backbone: Backbone, generator: Generator) -> dict[str, Tensor]:
        source = np.random.default_rng(7)
        drawn = super().init(backbone, torch.Generator())
        return {n: torch.from_numpy(source.normal(size=x.shape)).float() if x.any() else x for n, x in drawn.items()}


@dataclass(frozen=True)
class WrongFormula(Good):
    """Says that it has twice as many parameters as it has."""

    formula: ClassVar[str] = "2d per place"


@dataclass(frozen=True)
class IdleSetting(Good):
    """Has a setting that nothing reads."""

    name: ClassVar[str] = "idle_setting"

    strength: Annotated[int, Ge(0)] = 3


@dataclass(frozen=True)
class OfTheClock(Good):
    """Acts otherwise with every day."""

    def change(self, place: str, t: Tensors, input: Tensor, output: Tensor) -> Tensor:
        return output * (1 + (1 + time.time() // 86400 % 7) * t[f"{place}.scale"])


@dataclass(frozen=True)
class OfTheEnvironment(Good):
    """Reads a factor from the environment."""

    def change(self, place: str, t: Tensors, input: Tensor, output: Tensor) -> Tensor:
        return output * (1 + float(os.environ.get("SCALE_FACTOR", "1")) * t[f"{place}.scale"])
