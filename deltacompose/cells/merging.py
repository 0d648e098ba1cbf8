"""Cells of kind `merge`: one delta of several, for a held-out task with few examples."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

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


def merge(inputs: Inputs) -> Result:
    """Makes one delta of several; its result says which was chosen, or how much each counts."""
    spec = inputs.cell.spec
    deltas = {
        name: stored_delta(inputs.folder(record["key"]))
        for name, record in zip(spec["sources"], inputs.parents, strict=True)
    }
    way = spec["way"]
    if way == "arrow":
        keys = [str(record["key"]) for record in inputs.parents]
        delta = routed(list(deltas.values()), keys, inputs.backbone, inputs.methods["arrow"], spec["top"])
        return {"way": way, "sources": list(deltas)}, _saved(delta)
    if len(deltas) == 1 or way in ("single", "cluster", "all"):
        return _best(inputs, deltas)
    read = inputs.reader(spec["target"])
    weights = None
    if way == "similarity":
        weights = _by_embedding(inputs, deltas)
    delta, coefficients = merged(way, list(deltas.values()), inputs.backbone, read, weights)
    result: dict[str, Any] = {"way": way, "sources": list(deltas)}
    if coefficients is not None:
        result["coefficients"] = dict(zip(deltas, coefficients, strict=True))
    return result, _saved(delta)


def _best(inputs: Inputs, deltas: Mapping[str, Delta]) -> Result:
    """The delta with the best score on the few training examples, the first of equals.

    Raises:
        Diverged: the scores of every delta are not numbers.
    """
    if len(deltas) == 1:
        [(name, delta)] = deltas.items()
        return {"chosen": name}, _saved(delta)
    read = inputs.reader(inputs.cell.spec["target"])
    evaluations = dict(zip(deltas, evaluate_many(read, list(deltas.values()), "train", inputs.processes), strict=True))
    scores = {name: own.score.value for name, own in evaluations.items() if not isinstance(own, Diverged)}
    if not scores:
        raise Diverged("the scores of all deltas are not numbers")
    chosen = max(scores, key=lambda name: scores[name])
    return {"chosen": chosen, "scores": scores}, _saved(deltas[chosen])


def _by_embedding(inputs: Inputs, deltas: Mapping[str, Delta]) -> list[float]:
    """A softmax over the cosines of the target's embedding and each source's."""
    # Imported here because every worker imports this module; the package of predictions imports pandas.
    from deltacompose.analysis.prediction.mixtures import softmax_mixture

    target = task_embedding(inputs.reader(inputs.cell.spec["target"]))
    own = [task_embedding(inputs.reader(name)) for name in deltas]
    near = cosine(np.stack([*own, target]).astype(float))[:-1, -1]
    weights = softmax_mixture(dict(zip(deltas, near.tolist(), strict=True)), TEMPERATURE)
    return [weights[name] for name in deltas]


def _saved(delta: Delta) -> Callable[[Path], None]:
    record = {name: value for name, value in delta.record.items() if name != "dev_predictions"}
    return partial(_write, replace(delta, record=record))


def _write(delta: Delta, folder: Path) -> None:
    delta.save(folder)


carry = each(merge)
