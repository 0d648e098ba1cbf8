"""Trained deltas combined into one: arithmetic on what deltas do.

They are what composing *methods* is compared with. A function such as `mean` takes K mappings of equal names and
shapes and gives one such mapping; `combined` applies it to deltas. It acts on what deltas do, not on how they store it.
Tensors are combined as they are where a method is linear in them (a change of weights, biases, rows of a prompt). Where
a method stores factors of a product, as LoRA's B A, the sum Σ cₖ Bₖ Aₖ is again a LoRA, of a higher rank: factors that
were combined one by one would give (Σ cₖ Bₖ)(Σ cₖ Aₖ), in which -1 acts as 1 and ½ as ¼. A change that no settings
can represent is refused by name; `dense` turns such deltas into plain changes of weights, of which every function is
exact.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, TypeVar

import torch
from torch import Tensor

from deltacompose.attach.attachment import attach
from deltacompose.backbone.backbone import Backbone, evaluating
from deltacompose.composition import Composition
from deltacompose.delta.delta import Delta
from deltacompose.delta.merge import Active, change_of
from deltacompose.errors import BadInput
from deltacompose.method.contract import Combines, Method, Tensors, WeightEdit, edits_of
from deltacompose.method.weights import part_of, parts
from deltacompose.scoring import Reader

X = TypeVar("X")
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
        name: torch.stack([c * tensors[name] for c, tensors in zip(coefficients, weights, strict=True)]).sum(0)
        for name in weights[0]
    }


def task_arithmetic(
    weights: Sequence[Tensors], start: Tensors | None = None, coefficients: Sequence[float] | float = 1.0
) -> dict[str, Tensor]:
    """θ = θ₀ + Σ λₖ (θₖ - θ₀) (Ilharco et al. 2023, *Editing Models with Task Arithmetic*, arXiv 2212.04089).

    >>> x = {"w": torch.tensor([1.0, 0.0])}, {"w": torch.tensor([0.0, 2.0])}
    >>> task_arithmetic(x, coefficients=0.5)
    {'w': tensor([0.5000, 1.0000])}

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

    >>> x = {"w": torch.tensor([1.0, -0.1])}, {"w": torch.tensor([3.0, 0.2])}
    >>> ties(x, density=0.5)
    {'w': tensor([2., 0.])}

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
    weights: Sequence[X],
    loss: Callable[[X], float],
    evaluations: int = 40,
    bound: float = 1.5,
    size: float = 0.05,
    combine: Callable[[Sequence[X], Sequence[float]], X] | None = None,
) -> Weighting:
    """The coefficients c whose Σ cₖ θₖ has the least loss(θ) + size · mean |cₖ|, sought without gradients.

    Huang et al. 2024, *LoraHub: Efficient Cross-Task Generalization via Dynamic LoRA Composition* (arXiv 2307.13269,
    equation 2), with Powell's COBYLA (1994) of scipy where they take Shiwa of nevergrad. The search starts at zero, the
    untouched backbone, and its best point is kept; it draws nothing, so it always ends alike.

    LoraHub combines the factors of LoRAs one by one, as `weighted` does to tensors. `combine=weighted_deltas` sums what
    the deltas do.

    >>> x = {"w": torch.tensor([1.0])}, {"w": torch.tensor([0.0])}
    >>> weighting = few_shot(x, loss=lambda t: float((t["w"] - 0.5) ** 2), evaluations=20)
    >>> len(weighting.coefficients)
    2

    Args:
        weights: tensors of each delta; or deltas, with `combine=weighted_deltas`.
        loss: of combined weights on the target's few examples, as `loss_on` makes it; of a delta, as `loss_of` does.
        combine: makes one of K and their coefficients; `weighted` if None.
        evaluations: of the loss, at most; never fewer than two more than there are deltas.
        bound: coefficients stay within [-bound, bound].
    """
    from scipy.optimize import minimize

    if evaluations < 1:
        raise BadInput(f"evaluations={evaluations}; the search needs at least one")
    tried: list[tuple[float, float, tuple[float, ...]]] = []
    joined: Callable[..., Any] = weighted if combine is None else combine

    def objective(point: Any) -> float:
        coefficients = tuple(min(bound, max(-bound, float(c))) for c in point)
        value = float(loss(joined(weights, coefficients)))
        whole = value + size * sum(map(abs, coefficients)) / len(coefficients)
        tried.append((whole, value, coefficients))
        return whole

    least = len(weights) + 2  # of a linear model, with which COBYLA begins
    options = {"maxiter": max(evaluations, least), "rhobeg": bound / 3}
    minimize(objective, [0.0] * len(weights), method="COBYLA", bounds=[(-bound, bound)] * len(weights), options=options)
    _, value, coefficients = min(tried)
    return Weighting(coefficients, value, len(tried))


def loss_on(reader: Reader, delta: Delta, indices: Sequence[int], split: str = "train") -> Callable[[Tensors], float]:
    """The mean loss on a few rows of a split as a function of a delta's weights, its constants staying as they are."""
    whole = loss_of(reader, indices, split)
    return lambda weights: whole(replace(delta, weights=weights))


def loss_of(reader: Reader, indices: Sequence[int], split: str = "train") -> Callable[[Delta], float]:
    """The mean loss on a few rows of a split as a function of a delta."""
    rows = [reader.rows(split)[index] for index in indices]
    lengths = [reader.lengths(row) for row in rows]
    batch = reader.collate(rows, (max(a for a, _ in lengths), max(b for _, b in lengths)))

    def loss(delta: Delta) -> float:
        attachment = attach(reader.backbone, delta.expression)
        try:
            attachment.put({**delta.weights, **delta.constants})
            with torch.no_grad(), evaluating(reader.backbone.model):
                return float(reader.loss(batch, 1).sum())
        finally:
            attachment.detach()

    return loss


def weighted_deltas(deltas: Sequence[Delta], coefficients: Sequence[float]) -> Delta:
    """The delta that does Σ cₖ times what the deltas do."""
    return combined(deltas, partial(weighted, coefficients=list(coefficients)))


def combined(deltas: Sequence[Delta], how: Combining, backbone: Backbone | None = None) -> Delta:
    """One delta out of several of one composition and one backbone, by arithmetic on what they do.

    Parts that are linear in their tensors are combined as they are, all of them together. Of the others `mean`,
    `weighted` and `task_arithmetic` are exact where the method can represent the sum (`method.Combines`): LoRAs become
    one of a higher rank.

    >>> from functools import partial
    >>> by = partial(ties, density=0.5)

    Args:
        how: a function of this module, its other arguments bound.
        backbone: checked to be the one that the deltas were trained on.

    Raises:
        BadInput: the deltas differ in composition, backbone, names, shapes or constants; or a part cannot represent
            the result.
    """
    first = _same(deltas)
    if backbone is not None:
        first.check(backbone)
    weights = [delta.weights for delta in deltas]
    _alike(weights)
    products = {prefix: part for prefix, part in parts(first.expression) if not part.linear}
    settings: dict[str, Method] = {}
    result: dict[str, Tensor] = {}
    straight = [_outside(tensors, products) for tensors in weights]
    if straight[0]:
        result |= _with_start(how, lambda start: _outside(start, products))(straight)
    for prefix, part in products.items():
        settings[prefix], own = _product(part, prefix, weights, how)
        result |= {prefix + name: x for name, x in own.items()}
    tasks = [delta.record.get("task") for delta in deltas]
    record = {"combined": tasks, "how": getattr(_called(how), "__name__", str(_called(how)))}
    readings = [delta.record.get("reading") for delta in deltas]
    if readings[0] and all(reading == readings[0] for reading in readings):
        record["reading"] = readings[0]
    return replace(first, expression=_replaced(first.expression, settings), weights=result, record=record)


def dense(delta: Delta, backbone: Backbone, full: Any) -> Delta:
    """The same delta with each part that changes weights written as a plain change ΔW of every parameter.

    The effect of a method's factors, scales or rotations on a matrix is then in one tensor, for which every function of
    this module is exact. Parts that change no weights stay as they are.

    Args:
        full: the method `full`, as `dc.methods()["full"]`.
    """
    settings: dict[str, Method] = {}
    weights: dict[str, Tensor] = {}
    constants: dict[str, Tensor] = {}
    t = {**delta.weights, **delta.constants}
    for prefix, part in parts(delta.expression):
        edits = edits_of(part, backbone)
        changing = [edit for edit in edits if isinstance(edit, WeightEdit)]
        if part.linear or not edits or len(changing) < len(edits):
            weights |= {prefix + name: x for name, x in part_of(delta.weights, prefix).items()}
            constants |= {prefix + name: x for name, x in part_of(delta.constants, prefix).items()}
            continue
        changes = [Active(part, edit, part_of(t, prefix)) for edit in changing]
        settings[prefix] = full(places=tuple(dict.fromkeys(edit.place.kind for edit in changing)))
        weights |= {prefix + name: x for name, x in _plain(settings[prefix], changes, backbone).items()}
    return replace(
        delta, expression=_replaced(delta.expression, settings), weights=weights, constants=constants, plugins={}
    )


def _plain(whole: Method, changes: Sequence[Active[WeightEdit]], backbone: Backbone) -> dict[str, Tensor]:
    """The weights of `full` that do what some weight edits do."""
    weights = whole.init(backbone, torch.Generator())
    for change in changes:
        name = f"{change.edit.place.name}.{change.edit.parameter}"
        if name not in weights:
            raise BadInput(f"cannot write {change.part} as a change of weights because {whole} does not change {name}")
        with torch.no_grad():
            weights[name] = weights[name] + change_of(change, backbone).cpu()
    return weights


def _product(part: Method, prefix: str, weights: Sequence[Tensors], how: Combining) -> tuple[Method, dict[str, Tensor]]:
    """Settings and weights of a part that is not linear in its tensors."""
    own = [part_of(tensors, prefix) for tensors in weights]
    remedy = "take deltacompose.delta.arithmetic.dense of each delta first, whose changes of weights add up"
    if not isinstance(part, Combines):
        raise BadInput(
            f"cannot combine deltas of {part} because what it does is not known to be linear in its tensors; {remedy}"
        )
    coefficients, start = _coefficients(how, len(own))
    if coefficients is None:
        raise BadInput(
            f"cannot combine deltas of {part} by {getattr(_called(how), '__name__', how)} because that is not a "
            f"weighted sum; {remedy}"
        )
    if start is not None:
        own, coefficients = [part_of(start, prefix), *own], (1 - sum(coefficients), *coefficients)
    try:
        return part.combined(own, coefficients)
    except BadInput as error:
        raise BadInput(f"{error}; {remedy}") from None


def _coefficients(how: Combining, deltas: int) -> tuple[tuple[float, ...] | None, Tensors | None]:
    """The coefficients of a function that is a weighted sum, and θ₀ where it has one; None of any other function."""
    called, start = _called(how), getattr(how, "keywords", {}).get("start")
    if called not in (mean, weighted, task_arithmetic):
        return None, None
    unit = torch.eye(deltas, dtype=torch.float64)
    units = [{"x": row} for row in unit]
    coefficients = _with_start(how, lambda _: {"x": torch.zeros(deltas, dtype=torch.float64)})(units)["x"]
    return tuple(coefficients.tolist()), start


def _with_start(how: Combining, change: Callable[[Tensors], Tensors]) -> Combining:
    """The same function with its bound `start`, if it has one, changed."""
    start = getattr(how, "keywords", {}).get("start")
    changed: Callable[..., Any] = how
    return how if start is None else partial(changed, start=change(start))


def _called(how: Combining) -> Any:
    """The function itself, without what is bound to it."""
    return getattr(how, "func", how)


def _outside(weights: Tensors, prefixes: Iterable[str]) -> dict[str, Tensor]:
    return {name: x for name, x in weights.items() if not name.startswith(tuple(prefixes))}


def _replaced(expression: Composition, settings: Mapping[str, Method]) -> Composition:
    """The expression with other settings of some parts, by their prefixes."""
    stages = tuple(
        tuple(settings.get(f"{stage}.{number}.", part) for number, part in enumerate(methods))
        for stage, methods in enumerate(expression.stages)
    )
    return Composition(stages)


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
    shapes: list[Mapping[str, torch.Size]] = [{name: x.shape for name, x in tensors.items()} for tensors in weights]
    for index, other in enumerate(shapes[1:], start=1):
        if other != shapes[0]:
            differing = sorted(set(shapes[0].items()) ^ set(other.items()))[0][0]
            raise BadInput(f"deltas 0 and {index} differ in names or shapes, as in {differing}")


def _vectors(weights: Sequence[Tensors], start: Tensors | None) -> list[dict[str, Tensor]]:
    """θₖ - θ₀."""
    _alike(weights if start is None else [*weights, start])
    return [{name: x if start is None else x - start[name] for name, x in tensors.items()} for tensors in weights]


def _plus(start: Tensors | None, vector: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name: x if start is None else start[name] + x for name, x in vector.items()}


def _trimmed(vector: Tensors, density: float) -> dict[str, Tensor]:
    """The entries of largest magnitude, over all tensors; the others become zero."""
    sizes = torch.cat([x.abs().flatten() for x in vector.values()])
    kept = max(1, round(density * len(sizes)))
    threshold = sizes.topk(kept).values[-1]
    return {name: torch.where(x.abs() >= threshold, x, 0.0) for name, x in vector.items()}
