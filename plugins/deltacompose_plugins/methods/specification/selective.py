"""Selective-module tuning: modules chosen at random."""

from __future__ import annotations

import random
from dataclasses import dataclass
from typing import Annotated, ClassVar

from annotated_types import Ge, Gt, Le
from torch import Generator, Tensor

from deltacompose.backbone import Backbone, Place
from deltacompose.method import Category, Edit, Method
from deltacompose_plugins.methods.reparameterization.full import LINEAR, changes, parameters, zeros


@dataclass(frozen=True)
class Selective(Method):
    """W + ΔW for every parameter of randomly chosen modules: which ones matters less the larger the backbone is.

    Ding et al. 2023 (arXiv 2203.06904, section 5, "the power of scale"). The chosen modules' parameters; of modules
    of one size, as the attention's matrices `(d, d)` of T5, which has no biases:

    >>> from deltacompose.method.catalogue import count
    >>> from deltacompose.backbone.pico import pico_backbone
    >>> matrices, d = 2 * 2 + 2 * 2 * 2, 16
    >>> tuned = Selective(modules=("*attention.query", "*attention.value"), fraction=0.25)
    >>> count(tuned, pico_backbone("t5")) == round(0.25 * matrices) * d * d
    True

    Args:
        modules: kinds of modules to choose from, `*` standing for anything.
        fraction: the share of these modules that is tuned, at least one.
        seed: of the choice, which is the same for every task and training seed.
    """

    name: ClassVar[str] = "selective"
    category: ClassVar[Category] = "specification"
    learning_rate: ClassVar[float] = 3e-4
    source: ClassVar[str] = "Ding et al. 2023, arXiv 2203.06904"
    linear: ClassVar[bool] = True
    formula: ClassVar[str] = "the chosen modules' parameters"

    modules: tuple[str, ...] = LINEAR
    fraction: Annotated[float, Gt(0), Le(1)] = 0.1
    seed: Annotated[int, Ge(0)] = 0

    def init(self, backbone: Backbone, generator: Generator) -> dict[str, Tensor]:
        return zeros(backbone, self._where(backbone))

    def edits(self, backbone: Backbone) -> list[Edit]:
        return changes(backbone, self._where(backbone))

    def _where(self, backbone: Backbone) -> list[Place]:
        names = dict.fromkeys(place.name for place, _ in parameters(backbone, backbone.places(*self.modules)))
        chosen = random.Random(self.seed).sample(list(names), max(1, round(self.fraction * len(names))))
        return [backbone.place(name) for name in names if name in chosen]
