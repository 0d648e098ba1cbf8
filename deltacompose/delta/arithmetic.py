"""Trained deltas of one composition combined into one, by plain functions on their weights.

They are what composing *methods* is compared with. A function takes K mappings of equal names and shapes, one for each
delta, and gives one such mapping; `combined` does it to deltas. Weights are combined as they are, factor by factor: the
mean of two LoRAs is (B₁ + B₂)/2 · (A₁ + A₂)/2, as in LoraHub, and not the mean of the two products.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from deltacompose.attach.attachment import attach
from deltacompose.backbone.backbone import Backbone, evaluating
from deltacompose.composition import Composition
from deltacompose.delta.delta import Delta
from deltacompose.errors import BadInput
from deltacompose.method.contract import Tensors
from deltacompose.scoring import Reader

Combining = Callable[[Sequence[Tensors]], dict[str, Tensor]]
"""From K deltas' weights to one's."""


def mean(weights: Sequence[Tensors]) -> dict[str, Tensor]:
    """θ = Σ θₖ / K (Wortsman et al. 2022, *Model soups*, arXiv 2203.05482).

    >>> mean([{"x": torch.tensor([1.0, 3.0])}, {"x": torch.tensor([3.0, 5.0])}])
    {'x': tensor([2., 4.])}
    """
    return weighted(weights, [1 / len(weights)] * len(weights))


def weighted(weights: Sequence[Tensors], coefficients: Sequence[float]) -> dict[str, Tensor]:
    """θ = Σ cₖ θₖ.

    >>> weighted([{"x": torch.tensor([1.0])}, {"x": torch.tensor([2.0])}], [0.5, 2.0])
    {'x': tensor([4.5000])}
    """
    _alike(weights)
    if len(coefficients) != len(weights):
        raise BadInput(f"{len(coefficients)} coefficients for {len(weights)} deltas; each needs one")
    return {
        name: torch.stack([c * one[name] for c, one in zip(coefficients, weights, strict=True)]).sum(0)
        for name in weights[0]
    }


def task_arithmetic(
    weights: Sequence[Tensors], start: Tensors | None = None, coefficients: Sequence[float] | float = 1.0
) -> dict[str, Tensor]:
    """θ = θ₀ + Σ λₖ (θₖ - θ₀) (Ilharco et al. 2023, *Editing Models with Task Arithmetic*, arXiv 2212.04089).

    Args:
        start: θ₀, the weights that all deltas started from; zeros if None. A negative λ forgets a task.
        coefficients: λ, one for all or one for each.
    """
    vectors = _vectors(weights, start)
    each = [coefficients] * len(weights) if isinstance(coefficients, int | float) else coefficients
    return _plus(start, weighted(vectors, each))


def ties(
    weights: Sequence[Tensors], start: Tensors | None = None, density: float = 0.2, coefficient: float = 1.0
) -> dict[str, Tensor]:
    """Trims each task vector to its largest entries, elects a sign for each entry, and averages those that have it.

    Yadav et al. 2023, *TIES-Merging: Resolving Interference When Merging Models* (arXiv 2306.01708, algorithm 1).

    Args:
        start: as in `task_arithmetic`.
        density: the share of each delta's entries that are kept, over all of its tensors together.
        coefficient: λ, on the merged vector.
    """
    if not 0 < density <= 1:
        raise BadInput(f"density={density}; it is the share of entries to keep, above 0 and at most 1")
    trimmed = [_trimmed(vector, density) for vector in _vectors(weights, start)]
    merged = {}
    for name in weights[0]:
        stacked = torch.stack([vector[name] for vector in trimmed])
        agree = (stacked.sign() == stacked.sum(0).sign()) & (stacked != 0)
        merged[name] = coefficient * (stacked * agree).sum(0) / agree.sum(0).clamp(min=1)
    return _plus(start, merged)


@dataclass(frozen=True)
class Weighting:
    """Coefficients that a search has found.

    Attributes:
        coefficients: one for each delta, in their order.
        loss: on the few examples, without the term for the coefficients' size.
        evaluations: how often the loss was computed.
    """

    coefficients: tuple[float, ...]
    loss: float
    evaluations: int


def few_shot(
    weights: Sequence[Tensors],
    loss: Callable[[dict[str, Tensor]], float],
    evaluations: int = 40,
    bound: float = 1.5,
    size: float = 0.05,
) -> Weighting:
    """The coefficients c whose Σ cₖ θₖ has the least loss(θ) + size · mean |cₖ|, sought without gradients.

    Huang et al. 2024, *LoraHub: Efficient Cross-Task Generalization via Dynamic LoRA Composition* (arXiv 2307.13269,
    equation 2), with Powell's COBYLA (1994) of scipy where they take Shiwa of nevergrad. The search starts at zero, the
    untouched backbone, and its best point is kept; it draws nothing, so it always ends alike.

    Args:
        loss: of combined weights on the target's few examples, as `loss_on` makes it.
        bound: coefficients stay within [-bound, bound].
    """
    from scipy.optimize import minimize

    if evaluations < 1:
        raise BadInput(f"evaluations={evaluations}; the search needs at least one")
    tried: list[tuple[float, float, tuple[float, ...]]] = []

    def objective(point: Any) -> float:
        coefficients = tuple(min(bound, max(-bound, float(c))) for c in point)
        value = float(loss(weighted(weights, coefficients)))
        whole = value + size * sum(map(abs, coefficients)) / len(coefficients)
        tried.append((whole, value, coefficients))
        return whole

    options = {"maxiter": evaluations, "rhobeg": bound / 3}
    minimize(objective, [0.0] * len(weights), method="COBYLA", bounds=[(-bound, bound)] * len(weights), options=options)
    _, value, coefficients = min(tried)
    return Weighting(coefficients, value, len(tried))


def loss_on(reader: Reader, delta: Delta, indices: Sequence[int], split: str = "train") -> Callable[[Tensors], float]:
    """The mean loss on a few rows of a split as a function of a delta's weights, its constants staying as they are."""
    rows = [reader.rows(split)[index] for index in indices]
    lengths = [reader.lengths(row) for row in rows]
    batch = reader.collate(rows, (max(a for a, _ in lengths), max(b for _, b in lengths)))

    def loss(weights: Tensors) -> float:
        attachment = attach(reader.backbone, delta.expression)
        try:
            attachment.put({**weights, **delta.constants})
            with torch.no_grad(), evaluating(reader.backbone.model):
                return float(reader.loss(batch, 1).sum())
        finally:
            attachment.detach()

    return loss


def combined(deltas: Sequence[Delta], how: Combining, backbone: Backbone | None = None) -> Delta:
    """One delta out of several of one composition and one backbone.

    >>> from functools import partial
    >>> by = partial(ties, density=0.5)

    Args:
        how: a function of this module, its other arguments bound.
        backbone: checked to be the one that the deltas were trained on.

    Raises:
        BadInput: the deltas differ in composition, backbone, names, shapes or constants.
    """
    first = _same(deltas)
    if backbone is not None:
        first.check(backbone)
    weights = how([delta.weights for delta in deltas])
    tasks = [delta.record.get("task") for delta in deltas]
    called = getattr(how, "func", how)
    record = {"combined": tasks, "how": getattr(called, "__name__", str(called))}
    return replace(first, weights=weights, record=record)


def _same(deltas: Sequence[Delta]) -> Delta:
    if not deltas:
        raise BadInput("there are no deltas to combine")
    first = deltas[0]
    for other in deltas[1:]:
        if Composition(other.expression.stages) != first.expression:
            raise BadInput(f"deltas of {first.expression} and of {other.expression} cannot be combined; take one kind")
        if other.backbone.get("fingerprint") != first.backbone.get("fingerprint"):
            raise BadInput(
                f"deltas of {first.backbone.get('name')} and of {other.backbone.get('name')} cannot be combined"
            )
        differing = sorted(n for n, x in first.constants.items() if not torch.equal(x, other.constants[n]))
        if differing:
            raise BadInput(f"the deltas differ in constants, as {differing[0]}, so their weights mean different things")
    return first


def _alike(weights: Sequence[Tensors]) -> None:
    if not weights:
        raise BadInput("there are no weights to combine")
    shapes: list[Mapping[str, torch.Size]] = [{name: x.shape for name, x in one.items()} for one in weights]
    for index, other in enumerate(shapes[1:], start=1):
        if other != shapes[0]:
            differing = sorted(set(shapes[0].items()) ^ set(other.items()))[0][0]
            raise BadInput(f"deltas 0 and {index} differ in names or shapes, as in {differing}")


def _vectors(weights: Sequence[Tensors], start: Tensors | None) -> list[dict[str, Tensor]]:
    """θₖ - θ₀."""
    _alike(weights if start is None else [*weights, start])
    return [{name: x if start is None else x - start[name] for name, x in one.items()} for one in weights]


def _plus(start: Tensors | None, vector: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name: x if start is None else start[name] + x for name, x in vector.items()}


def _trimmed(vector: Tensors, density: float) -> dict[str, Tensor]:
    """The entries of largest magnitude, over all tensors; the others become zero."""
    sizes = torch.cat([x.abs().flatten() for x in vector.values()])
    kept = max(1, round(density * len(sizes)))
    threshold = sizes.topk(kept).values[-1]
    return {name: torch.where(x.abs() >= threshold, x, 0.0) for name, x in vector.items()}
