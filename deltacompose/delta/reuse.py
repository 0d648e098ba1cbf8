"""Several trained deltas made one for a new task: means, sign election, weights found on few examples, routing.

Tensors are combined as they are stored, as LoraHub (Huang et al. 2024) and model soups (Wortsman et al. 2022) do, so
that the result is a delta of the same composition from which training can start. `arithmetic.combined` instead acts
on what deltas do.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from deltacompose.backbone.backbone import Backbone
from deltacompose.composition import Part, composition
from deltacompose.delta.arithmetic import few_shot, loss_on, task_arithmetic, ties, weighted
from deltacompose.delta.delta import Delta
from deltacompose.errors import BadInput, unknown
from deltacompose.method.weights import finalized, init_constants, init_weights
from deltacompose.scoring import Reader

TENSOR_WAYS = ("mean", "similarity", "ties", "task_arithmetic", "few_shot")
"""Ways that combine tensors."""
SCALE = 0.4
"""λ of task arithmetic: without validation data (Yadav et al. 2023, arXiv 2306.01708, section 5)."""


def merged(
    way: str,
    deltas: Sequence[Delta],
    backbone: Backbone,
    read: Reader | None = None,
    weights: Sequence[float] | None = None,
    evaluations: int = 40,
) -> tuple[Delta, tuple[float, ...] | None]:
    """One delta of several of one composition, and how much each counts where that is a number.

    Args:
        way: `mean`, `similarity` (the mean with `weights`), `ties`, `task_arithmetic` or `few_shot`.
        read: the new task, whose training examples `few_shot` reads.
        weights: one for each delta, for `similarity`.
        evaluations: of the loss, for `few_shot`.

    Raises:
        BadInput: an unknown way, deltas of different compositions or backbones, or what the way needs is missing.
    """
    if way not in TENSOR_WAYS:
        raise unknown("merging way", way, TENSOR_WAYS)
    first = _alike(deltas, backbone)
    tensors = [delta.weights for delta in deltas]
    coefficients: tuple[float, ...] | None = None
    if way == "similarity" and weights is None:
        raise BadInput("a mean by similarity needs a weight for each delta; take 'mean' for equal ones")
    if way in ("mean", "similarity"):
        coefficients = tuple(weights or [1 / len(deltas)] * len(deltas))
        joined = weighted(tensors, coefficients)
    elif way == "few_shot":
        if read is None:
            raise BadInput("weights are found on few examples of a task; name the task")
        rows = range(len(read.rows("train")))
        weighting = few_shot(tensors, loss_on(read, first, list(rows)), evaluations)
        coefficients = weighting.coefficients
        joined = weighted(tensors, coefficients)
    else:
        start = _start(first, backbone)
        joined = ties(tensors, start) if way == "ties" else task_arithmetic(tensors, start, SCALE)
    record = {"combined": [delta.record.get("task") for delta in deltas], "how": way}
    record |= {"reading": first.record["reading"]} if "reading" in first.record else {}
    return replace(first, weights=joined, record=record), coefficients


def routed(deltas: Sequence[Delta], names: Sequence[str], backbone: Backbone, method: type[Part], top: int) -> Delta:
    """The delta that routes every token over LoRAs (`arrow`), which are kept in it.

    Args:
        names: of the deltas, from which the setting `sha256` is made.
        method: the method `arrow`, as `dc.methods()["arrow"]`.
    """
    first = _alike(deltas, backbone)
    digest = hashlib.sha256("\n".join(names).encode()).hexdigest()
    arrow: Any = method
    router, experts = arrow.over(list(deltas), backbone, top=top, sha256=digest)
    record = {"combined": [delta.record.get("task") for delta in deltas], "how": "arrow"}
    record |= {"reading": first.record["reading"]} if "reading" in first.record else {}
    constants = {f"0.0.{name}": x for name, x in experts.items()}
    own = init_weights(backbone, router)
    return Delta(composition(router), own, constants, first.backbone, {}, record)


def _alike(deltas: Sequence[Delta], backbone: Backbone) -> Delta:
    if not deltas:
        raise BadInput("there are no deltas to merge")
    first = deltas[0]
    for delta in deltas:
        delta.check(backbone)
        if delta.expression != first.expression:
            raise BadInput(f"deltas of {first.expression} and of {delta.expression} cannot be merged; take one kind")
        different = sorted(n for n, x in first.constants.items() if not torch.equal(x, delta.constants[n]))
        if different:
            raise BadInput(f"the deltas differ in constants, as {different[0]}, so their weights mean different things")
    return first


def _start(delta: Delta, backbone: Backbone) -> dict[str, Tensor]:
    """The tensors that training with the delta's seed began with, finalised as those that are kept."""
    seed = delta.record.get("seed")
    weights = init_weights(backbone, delta.expression, seed if isinstance(seed, int) else 0)
    constants = init_constants(backbone, delta.expression) if not delta.constants else dict(delta.constants)
    final = finalized(delta.expression, {**weights, **constants})
    return {name: final[name].detach() for name in delta.weights}
