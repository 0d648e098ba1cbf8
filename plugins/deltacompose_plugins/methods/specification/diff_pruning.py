"""Diff pruning: a sparse change of the parameters, its support learned."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import partial
from typing import Annotated, ClassVar

import torch
from annotated_types import Ge, Gt, Le
from torch import Generator, Tensor

from deltacompose.backbone import Backbone
from deltacompose.method import Category, Edit, Method, Tensors, WeightEdit
from deltacompose_plugins.methods.reparameterization.full import LINEAR, parameters

LOW, HIGH = -1.5, 1.5
"""The interval that the concrete distribution is stretched to before it is cut to 0 … 1."""
_START, _PACE = 2.0, 300.0
"""A gate's α is 2 + 300 times its tensor: open at first, and to cross units while weights move by thousandths."""


@dataclass(frozen=True)
class DiffPruning(Method):
    """W + z ⊙ w: a change w of every parameter with a stochastic gate z, and the penalty λ · mean P(z ≠ 0).

    Guo et al. 2021, *Parameter-Efficient Transfer Learning with Diff Pruning* (arXiv 2012.07463, section 3.1):
    s = σ(log u − log(1 − u) + α), z = min(1, max(0, s(r − l) + l)), P(z ≠ 0) = σ(α − log(−l / r)); after training the
    gates are their medians and only the largest changes are kept (section 3.3). λ is of the mean, not of the sum over
    parameters. Trained are w and α of each of D parameters:

    >>> from deltacompose.method.catalogue import count
    >>> from deltacompose.backbone.pico import pico_backbone
    >>> matrices, d = 2 * 2, 16
    >>> count(DiffPruning(places=("*attention.query", "*attention.value")), pico_backbone("llama")) == 2 * 2 * (
    ...     d * d + d * d // 2)
    True

    Args:
        fraction: the share of the changes that is kept; the paper's is .005, after longer training.
        penalty_weight: λ.
        places: kinds of places whose parameters change, `*` standing for anything.
    """

    name: ClassVar[str] = "diff_pruning"
    category: ClassVar[Category] = "specification"
    learning_rate: ClassVar[float] = 3e-4
    source: ClassVar[str] = "Guo et al. 2021, arXiv 2012.07463"
    linear: ClassVar[bool] = True
    formula: ClassVar[str] = "2D while training, at most fD kept"
    banked: ClassVar[bool] = False

    fraction: Annotated[float, Gt(0), Le(1)] = 0.05
    penalty_weight: Annotated[float, Ge(0)] = 0.1
    places: tuple[str, ...] = LINEAR

    def init(self, backbone: Backbone, generator: Generator) -> dict[str, Tensor]:
        where = parameters(backbone, backbone.places(*self.places))
        shapes = {f"{place.name}.{name}": backbone.parameter(place, name).shape for place, name in where}
        return {f"{name}_{x}": torch.zeros(shape) for name, shape in shapes.items() for x in ("change", "gate")}

    def prepare(self, t: Tensors, generator: Generator) -> dict[str, Tensor]:
        """Draws the gates: `<place>.<parameter>_delta` is z ⊙ w."""
        gates = {name.removesuffix("_gate"): x for name, x in t.items() if name.endswith("_gate")}
        deltas = {}
        for name, gate in gates.items():
            u = torch.rand(gate.shape, generator=generator).clamp(1e-6, 1 - 1e-6).to(gate)
            deltas[f"{name}_delta"] = _gate(_alpha(gate) + u.logit()) * t[f"{name}_change"]
        return {**t, **deltas}

    def penalty(self, t: Tensors) -> Tensor:
        alphas = torch.cat([_alpha(x).flatten() for name, x in t.items() if name.endswith("_gate")])
        return self.penalty_weight * torch.sigmoid(alphas - math.log(-LOW / HIGH)).mean()

    def finalize(self, t: Tensors) -> dict[str, Tensor]:
        """The gates at their medians, and all but the largest changes at zero."""
        gates = {name.removesuffix("_gate"): x for name, x in t.items() if name.endswith("_gate")}
        deltas = {f"{name}_delta": _gate(_alpha(gate)) * t[f"{name}_change"] for name, gate in gates.items()}
        sizes = torch.cat([x.abs().flatten() for x in deltas.values()])
        least = sizes.topk(max(1, round(self.fraction * sizes.numel()))).values[-1]
        return {name: x * (x.abs() >= least) for name, x in deltas.items()}

    def edits(self, backbone: Backbone) -> list[Edit]:
        where = parameters(backbone, backbone.places(*self.places))
        return [WeightEdit(place, name, partial(_delta, f"{place.name}.{name}_delta")) for place, name in where]


def _alpha(gate: Tensor) -> Tensor:
    return _START + _PACE * gate


def _gate(logit: Tensor) -> Tensor:
    return (torch.sigmoid(logit) * (HIGH - LOW) + LOW).clamp(0, 1)


def _delta(name: str, t: Tensors, frozen: Tensor) -> Tensor:
    return t[name]
