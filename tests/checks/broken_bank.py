"""Methods that are right one delta at a time, and wrong for several deltas or tasks in one process."""

from __future__ import annotations

import itertools
from collections import defaultdict
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from broken import Good
from torch import Tensor

from deltacompose.backbone import Backbone
from deltacompose.method import Edit, OutputEdit, Tensors

_CALLS: dict[str, int] = defaultdict(int)


@dataclass(frozen=True)
class ScaledByCall(Good):
    """Loops over a bank, and gives the k-th call of a training step a scale of its own."""

    def edits(self, backbone: Backbone) -> list[Edit]:
        return [OutputEdit(p, partial(self.change, p.name), vmap=False) for p in backbone.places(self.place)]

    def change(self, place: str, t: Tensors, input: Tensor, output: Tensor) -> Tensor:
        _CALLS[place] += torch.is_grad_enabled()
        return output * (1 + (1 + _CALLS[place] % 3) * t[f"{place}.scale"])


_BY_FAMILY: dict[str, dict[str, Tensor]] = {}
_FIRST: list[int] = []


@dataclass(frozen=True)
class Reading(Good):
    """Scales by a constant that the task's first training example gives."""

    def constants(self, backbone: Backbone, data: Any = None) -> dict[str, Tensor]:
        return {"shared.length": torch.tensor(float(self.measured(backbone, data)))}

    def measured(self, backbone: Backbone, data: Any) -> int:
        return len(data.reader.rows("train")[0].input) if data else 1

    def change(self, place: str, t: Tensors, input: Tensor, output: Tensor) -> Tensor:
        return output * (1 + t["shared.length"] * t[f"{place}.scale"])


@dataclass(frozen=True)
class Memoising(Reading):
    """Keeps a backbone's constants, so that the second task gets the first one's."""

    def constants(self, backbone: Backbone, data: Any = None) -> dict[str, Tensor]:
        if backbone.family not in _BY_FAMILY:
            _BY_FAMILY[backbone.family] = super().constants(backbone, data)
        return _BY_FAMILY[backbone.family]


@dataclass(frozen=True)
class FirstTask(Reading):
    """Adds to each task's constant that of the task which was read first."""

    def measured(self, backbone: Backbone, data: Any) -> int:
        _FIRST.append(super().measured(backbone, data))
        return _FIRST[-1] + 100 * _FIRST[0]


@dataclass(frozen=True)
class Scheduled(Good):
    """A scale that grows from step to step, as `update` says."""

    def constants(self, backbone: Backbone, data: Any = None) -> dict[str, Tensor]:
        return {"shared.grown": torch.zeros(())}

    def update(self, t: Tensors, gradients: Tensors, step: int, steps: int) -> dict[str, Tensor]:
        return {"shared.grown": torch.tensor((step + 1) / steps)}

    def change(self, place: str, t: Tensors, input: Tensor, output: Tensor) -> Tensor:
        return output * (1 + (1 + t["shared.grown"]) * t[f"{place}.scale"])


_SUM: dict[str, Tensor] = defaultdict(lambda: torch.zeros(()))


@dataclass(frozen=True)
class MixingUpdate(Scheduled):
    """Takes the mean over all deltas whose step it has seen."""

    def update(self, t: Tensors, gradients: Tensors, step: int, steps: int) -> dict[str, Tensor]:
        _SUM["size"] = _SUM["size"] / 2 + sum(x.detach().abs().sum() for x in gradients.values()) / 2
        return {"shared.grown": _SUM["size"].clone()}


@dataclass(frozen=True)
class OverSharedConstants(Scheduled):
    """Writes its schedule over the constants that it is given, which the deltas of a bank share."""

    def update(self, t: Tensors, gradients: Tensors, step: int, steps: int) -> dict[str, Tensor]:
        return {"shared.grown": t["shared.grown"].add_(1 / steps)}


_COUNT = itertools.count()


@dataclass(frozen=True)
class OwnSteps(Scheduled):
    """Counts the steps by itself, so that a run that is resumed is another one."""

    def update(self, t: Tensors, gradients: Tensors, step: int, steps: int) -> dict[str, Tensor]:
        return {"shared.grown": torch.tensor((next(_COUNT) + 1) / steps)}
