"""Cells of kind `merge`: one delta of several, for a held-out task with few examples."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Self

import numpy as np

from deltacompose.analysis.similarity.formulas import cosine
from deltacompose.cells.context import Inputs, Result, each
from deltacompose.cells.loaded import stored_delta
from deltacompose.delta.delta import Delta
from deltacompose.delta.reuse import merged, routed
from deltacompose.errors import Diverged
from deltacompose.training.embedding import task_embedding
from deltacompose.training.evaluation import evaluate_many

TEMPERATURE = 0.1
"""Temperature of the softmax over cosines of embeddings that weights a mean."""


@dataclass(frozen=True)
class MergeSpec:
    """Spec of a merge cell.

    Attributes:
        sources: names of the deltas, in the order of the cell's parents.
        top: how many LoRAs act on a token, for `arrow`; None for the other ways.
    """

    way: str
    sources: tuple[str, ...]
    target: str
    top: int | None

    @classmethod
    def of(cls, spec: Mapping[str, Any]) -> Self:
        """The spec of a cell, from plain data."""
        return cls(spec["way"], tuple(spec["sources"]), spec["target"], spec.get("top"))


def merge(inputs: Inputs) -> Result:
    """Makes one delta of several; its result says which was chosen, or how much each counts."""
    spec = MergeSpec.of(inputs.cell.spec)
    deltas = {
        name: stored_delta(inputs.folder(record["key"]))
        for name, record in zip(spec.sources, inputs.parents, strict=True)
    }
    if spec.top is not None:
        keys = [str(record["key"]) for record in inputs.parents]
        delta = routed(list(deltas.values()), keys, inputs.backbone, inputs.methods["arrow"], spec.top)
        return {"way": spec.way, "sources": list(deltas)}, _saved(delta)
    if len(deltas) == 1 or spec.way in ("single", "cluster", "all"):
        return _best(inputs, spec.target, deltas)
    weights = _by_embedding(inputs, spec.target, deltas) if spec.way == "similarity" else None
    delta, coefficients = merged(spec.way, list(deltas.values()), inputs.backbone, inputs.reader(spec.target), weights)
    result: dict[str, Any] = {"way": spec.way, "sources": list(deltas)}
    if coefficients is not None:
        result["coefficients"] = dict(zip(deltas, coefficients, strict=True))
    return result, _saved(delta)


def _best(inputs: Inputs, target: str, deltas: Mapping[str, Delta]) -> Result:
    """The delta with the best score on the few training examples, the first of equals.

    Raises:
        Diverged: the scores of every delta are not numbers.
    """
    if len(deltas) == 1:
        [(name, delta)] = deltas.items()
        return {"chosen": name}, _saved(delta)
    evaluations = dict(
        zip(deltas, evaluate_many(inputs.reader(target), list(deltas.values()), "train", inputs.processes), strict=True)
    )
    scores = {name: own.score.value for name, own in evaluations.items() if not isinstance(own, Diverged)}
    if not scores:
        raise Diverged("the scores of all deltas are not numbers")
    chosen = max(scores, key=lambda name: scores[name])
    return {"chosen": chosen, "scores": scores}, _saved(deltas[chosen])


def _by_embedding(inputs: Inputs, target: str, deltas: Mapping[str, Delta]) -> list[float]:
    """A softmax over the cosines of the target's embedding and each source's."""
    # Imported here because every worker imports this module; the package of predictions imports pandas.
    from deltacompose.analysis.prediction.mixtures import softmax_mixture

    wanted = task_embedding(inputs.reader(target))
    own = [task_embedding(inputs.reader(name)) for name in deltas]
    near = cosine(np.stack([*own, wanted]).astype(float))[:-1, -1]
    weights = softmax_mixture(dict(zip(deltas, near.tolist(), strict=True)), TEMPERATURE)
    return [weights[name] for name in deltas]


def _saved(delta: Delta) -> Callable[[Path], None]:
    record = {name: value for name, value in delta.record.items() if name != "dev_predictions"}
    return partial(_write, replace(delta, record=record))


def _write(delta: Delta, folder: Path) -> None:
    delta.save(folder)


carry = each(merge)
