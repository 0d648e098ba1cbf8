"""Losses and gradients of deltas, of one or of a bank, and how far two of them are apart."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from deltacompose.attach.attachment import attach
from deltacompose.backbone.backbone import Backbone
from deltacompose.checks.batches import forward, joined, losses
from deltacompose.composition import Composition
from deltacompose.method.contract import Tensors
from deltacompose.method.weights import generator, prepared

Gradients = list[dict[str, Tensor]]
ROUNDING = 1e-6
"""The largest relative difference between two fp32 gradients that are the same but for the order of additions."""
_FLOOR = 0.1


@dataclass(frozen=True)
class Pass:
    """The losses `(deltas,)` and the gradients of each delta's weights by name."""

    losses: Tensor
    gradients: Gradients

    def first(self, deltas: int) -> Pass:
        """The pass of some of the deltas."""
        return Pass(self.losses[:deltas], self.gradients[:deltas])


def together(
    backbone: Backbone,
    expression: Composition,
    weights: Sequence[Tensors],
    constants: Tensors,
    batches: Sequence[Mapping[str, Tensor]],
) -> Pass:
    """Losses and gradients of a bank in one pass."""
    return _pass(backbone, expression, weights, constants, batches, range(len(weights)), bank=True)


def apart(
    backbone: Backbone,
    expression: Composition,
    weights: Sequence[Tensors],
    constants: Tensors,
    batches: Sequence[Mapping[str, Tensor]],
) -> Pass:
    """The same in a pass for each delta."""
    each = [
        _pass(backbone, expression, [own], constants, [batch], [k], bank=False)
        for k, (own, batch) in enumerate(zip(weights, batches, strict=True))
    ]
    return Pass(torch.cat([separate.losses for separate in each]), [separate.gradients[0] for separate in each])


def _pass(
    backbone: Backbone,
    expression: Composition,
    weights: Sequence[Tensors],
    constants: Tensors,
    batches: Sequence[Mapping[str, Tensor]],
    numbers: Sequence[int],
    *,
    bank: bool,
) -> Pass:
    leaves = [{name: x.detach().clone().requires_grad_() for name, x in own.items()} for own in weights]
    t = [
        prepared(expression, {**own, **constants}, generator(k, "prepare"))
        for k, own in zip(numbers, leaves, strict=True)
    ]
    attachment = attach(backbone, expression)
    try:
        attachment.put(t if bank else t[0], [generator(k, "dropout").initial_seed() for k in numbers])
        batch = joined(batches)
        summed = losses(forward(backbone, batch), batch, len(leaves))
        flat = [x for own in leaves for x in own.values()]
        gradients = iter(torch.autograd.grad(summed.sum(), flat, allow_unused=True))
    finally:
        attachment.detach()
    named = [{name: _or_zeros(next(gradients), x) for name, x in own.items()} for own in leaves]
    return Pass(summed.detach(), named)


def farthest(actual: Pass, expected: Pass) -> tuple[float, str]:
    """The largest relative difference between two passes, of the losses or of one tensor's gradients, and where.

    Each tensor's difference is relative to its own norm, but not to less than a tenth of the largest of its delta:
    what cancels to nothing, as the gradient of a key's bias does, has no digits to compare.
    """
    worst = [(distance(actual.losses, expected.losses), "the losses")]
    for k, (a, b) in enumerate(zip(actual.gradients, expected.gradients, strict=True)):
        floor = _FLOOR * max(float(x.norm()) for x in b.values())
        worst += [(distance(a[name], x, floor), f"the gradient of {name!r} of delta {k}") for name, x in b.items()]
    return max(worst)


def distance(a: Tensor, b: Tensor, floor: float = 0.0) -> float:
    """||a − b|| / ||b||, the denominator at least `floor`; NaN and unequal shapes are infinitely far."""
    if a.shape != b.shape:
        return float("inf")
    far = float((a - b).norm()) / max(float(b.norm()), floor, torch.finfo(torch.float32).tiny)
    return far if far == far else float("inf")


def _or_zeros(gradient: Tensor | None, x: Tensor) -> Tensor:
    return torch.zeros_like(x) if gradient is None else gradient
