"""How one stage of a composition is trained."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated, ClassVar, Literal

from annotated_types import Ge, Gt, Le
from pydantic import ConfigDict
from typing_extensions import TypedDict

from deltacompose.limits import COUNT

Count = Annotated[int, Ge(1), Le(COUNT)]
"""A number of steps, rows, dimensions, ...: at least one, and bounded."""

PASS_TOKENS = {"cpu": 4096, "cuda": 1 << 17}
"""The most tokens that the deltas of a bank share in one pass, by device, where nothing else is asked: on a CPU a
larger pass leaves the caches; a GPU wants far more work at once."""


@dataclass(frozen=True)
class Recipe:
    """The training settings of one stage; the architecture is the expression's, not the recipe's.

    >>> recipe = dc.Recipe(steps=100, warmup=0.1)
    >>> recipe.factor(5), recipe.factor(10)
    (0.6, 1.0)

    Attributes:
        steps: optimiser steps.
        batch: examples per step.
        learning_rates: peak learning rates by method name; a method that is not named takes its own default.
        warmup: fraction of the steps over which the rate rises from zero; then it falls linearly to zero.
        weight_decay: AdamW's, on all trained tensors.
        clip: largest norm of one delta's gradient.
        evaluate_every: steps between evaluations on development data.
        keep: `best` keeps the weights of the best evaluation (the earliest of equals), `last` those of the last step.
        thaw: whether earlier stages go on training too.
        limit: longest input in tokens; longer inputs are truncated in the middle.
        checkpointing: recompute activations in the backward pass, to save memory.
    """

    __pydantic_config__: ClassVar[ConfigDict] = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False)

    steps: Annotated[int, Ge(0), Le(COUNT)] = 200
    batch: Count = 16
    learning_rates: Mapping[str, Annotated[float, Gt(0)]] = field(default_factory=dict)
    warmup: Annotated[float, Ge(0), Le(1)] = 0.06
    weight_decay: Annotated[float, Ge(0)] = 0.0
    clip: Annotated[float, Gt(0)] = 1.0
    evaluate_every: Count = 50
    keep: Literal["best", "last"] = "best"
    thaw: bool = False
    limit: Count = 128
    checkpointing: bool = False

    def factor(self, step: int) -> float:
        """The learning rate of a step, counted from 0, as a fraction of its peak."""
        rising = (step + 1) / max(1, round(self.warmup * self.steps))
        return min(1.0, rising, (self.steps - step) / max(1, round((1 - self.warmup) * self.steps)))


class RecipeSettings(TypedDict, total=False):
    """The fields of a `Recipe` as keywords: what `deltacompose.train` takes besides its own arguments."""

    steps: int
    batch: int
    learning_rates: Mapping[str, float]
    warmup: float
    weight_decay: float
    clip: float
    evaluate_every: int
    keep: Literal["best", "last"]
    thaw: bool
    limit: int
    checkpointing: bool
