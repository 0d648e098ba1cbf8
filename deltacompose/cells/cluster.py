"""Cells of kind `cluster`: the tasks of a study put into clusters by similarities of their deltas."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import numpy as np

from deltacompose import registry
from deltacompose.analysis import delta_tensors as tensors
from deltacompose.analysis.arrays import Floats
from deltacompose.analysis.matrix import mean_over_seeds
from deltacompose.analysis.similarity.clusters import clusters_of
from deltacompose.analysis.similarity.formulas import delta_inner_products, flatten, low_rank
from deltacompose.analysis.similarity.measure import compare, named
from deltacompose.analysis.similarity.stored_arrays import FILE, PROBED, from_weights
from deltacompose.cells.context import Inputs, Result, each
from deltacompose.errors import BadInput
from deltacompose.study.config import Study
from deltacompose.study.queries import Record

_OF_TENSORS = ("weights", "prompts", "low_rank")
"""Needs of measures that the tensors of a delta satisfy."""


def check_clusters(study: Study) -> None:
    """Refuses clusters by a measure whose arrays the study does not collect, before anything is trained.

    Raises:
        BadInput: an unknown measure, one that compares answers, or one that is not under `measures` and needs a probe.
    """
    by = "weights" if study.clusters is None else study.clusters.by
    if by in ("weights", "transfer"):
        return
    need = named(by, registry.measures()).needs
    collected = {named(name, registry.measures()).needs for name in study.measures}
    if need not in (*PROBED, *_OF_TENSORS):
        raise _answers(by)
    if need in PROBED and need not in collected:
        raise BadInput(f"study {study.name!r}: clusters by {by} need its {need}; name {by} under `measures` as well")


@dataclass(frozen=True)
class ClusterSpec:
    """Spec of a cluster cell.

    Attributes:
        composition: the expression whose deltas are compared, as text.
        by: `weights`, `transfer` or the name of a measure.
        count: how many clusters; None takes the number with the best silhouette.
    """

    tasks: tuple[str, ...]
    composition: str
    by: str
    count: int | None

    @classmethod
    def of(cls, spec: Mapping[str, Any]) -> Self:
        """The spec of a cell, from plain data."""
        count = None if spec["count"] == "auto" else spec["count"]
        return cls(tuple(spec["tasks"]), spec["composition"], spec["by"], count)


def cluster(inputs: Inputs) -> Result:
    """Puts the tasks into clusters; its result names the tasks of each."""
    spec = ClusterSpec.of(inputs.cell.spec)
    similarity = _transfer(inputs.parents, spec.tasks) if spec.by == "transfer" else _similarity(inputs, spec)
    partition = clusters_of(similarity, spec.count)
    quality = None if math.isnan(partition.silhouette) else partition.silhouette
    result = {"clusters": partition.groups(spec.tasks), "silhouette": quality, "similarity": similarity.tolist()}
    return result, _nothing


def _similarity(inputs: Inputs, spec: ClusterSpec) -> Floats:
    """(tasks, tasks): the mean over seeds of the similarity of deltas trained with one seed."""
    trained: dict[int, dict[str, str]] = defaultdict(dict)
    for record in inputs.parents:
        if record["kind"] == "train":
            trained[record["spec"]["seed"]][record["spec"]["task"]] = record["key"]
    of_seeds = [
        _of_seed(inputs, spec, {task: keys[task] for task in spec.tasks}, seed) for seed, keys in trained.items()
    ]
    return np.asarray(np.mean(of_seeds, axis=0))


def _of_seed(inputs: Inputs, spec: ClusterSpec, keys: Mapping[str, str], seed: int) -> Floats:
    weights = {task: tensors.read(inputs.folder(key)) for task, key in keys.items()}
    if spec.by == "weights":
        return _of_weights(list(weights.values()))
    measure = named(spec.by, registry.measures())
    if measure.needs == "weights":
        arrays: dict[str, Any] = {task: flatten(own) for task, own in weights.items()}
    elif measure.needs in _OF_TENSORS:
        arrays = {task: from_weights(measure.needs, spec.composition, own) for task, own in weights.items()}
    elif measure.needs in PROBED:
        arrays = _probed(inputs, tuple(keys), measure.needs, seed)
    else:
        raise _answers(spec.by)
    return np.asarray(measure.nearness(compare(measure, arrays)))


def _answers(by: str) -> BadInput:
    return BadInput(
        f"cannot cluster by {by} because it compares answers on every pair of tasks; take `transfer`, `weights` or "
        "a measure of the deltas themselves"
    )


def _of_weights(each: Sequence[Mapping[str, Any]]) -> Floats:
    """Cosines of what deltas do to the weights (ΔW = BA); of other methods, of their tensors minus the tasks' mean.

    Deltas of one seed start from the same tensors, which would make all of them alike.
    """
    try:
        inner = delta_inner_products([low_rank(weights) for weights in each])
    except BadInput:
        flat = np.stack([flatten(weights) for weights in each])
        centred = flat - flat.mean(axis=0)
        inner = centred @ centred.T
    return cosines(inner)


def cosines(inner: Floats) -> Floats:
    """(tasks, tasks): cosines from inner products; a delta that changes nothing is like no other.

    >>> cosines(np.array([[4.0, 0.0], [0.0, 0.0]])).tolist()
    [[1.0, 0.0], [0.0, 1.0]]
    """
    norms = np.sqrt(np.maximum(np.diag(inner), 0.0))
    scale = np.where(norms > 0, norms, 1.0)
    result = inner / np.outer(scale, scale)
    np.fill_diagonal(result, 1.0)
    return np.asarray(result)


def _probed(inputs: Inputs, tasks: Sequence[str], need: str, seed: int) -> dict[str, Any]:
    keys = {
        record["spec"]["source"]: record["key"]
        for record in inputs.parents
        if record["kind"] == "probe" and record["spec"]["array"] == need and record["spec"]["seed"] == seed
    }
    missing = [task for task in tasks if task not in keys]
    if missing:
        raise BadInput(f"no {need} were collected of {missing[0]!r}; name the measure under `measures` as well")
    return {task: tensors.read(inputs.folder(keys[task]) / FILE)[need] for task in tasks}


def _transfer(parents: Sequence[Record], tasks: Sequence[str]) -> Floats:
    """(tasks, tasks): relative performance, mean over seeds and both directions, 1 on the diagonal."""
    seeds = sorted({record["spec"]["seed"] for record in parents if record["kind"] == "evaluate"})
    scores = np.full((len(seeds), len(tasks), len(tasks)), np.nan)
    for record in parents:
        if record["kind"] == "evaluate":
            spec = record["spec"]
            at = seeds.index(spec["seed"]), tasks.index(spec["source"]), tasks.index(spec["target"])
            scores[at] = record["result"]["score"]
    own = np.diagonal(scores, axis1=1, axis2=2)
    relative = mean_over_seeds(scores / np.where(own > 0, own, np.nan)[:, None, :])
    both = (relative + relative.T) / 2
    np.fill_diagonal(both, 1.0)
    return np.asarray(both)


def _nothing(folder: Path) -> None:
    """Writes no file."""


carry = each(cluster)
