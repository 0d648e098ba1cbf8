"""Communities of tasks, and how far they agree with given categories."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import networkx as nx
import numpy as np
from numpy.typing import NDArray
from scipy.cluster.hierarchy import fcluster, linkage
from scipy.spatial.distance import squareform

from deltacompose.analysis.arrays import Floats
from deltacompose.analysis.graph.edges import checked
from deltacompose.analysis.permutation import orders_with_identity
from deltacompose.errors import BadInput

Ints = NDArray[np.intp]

LEAST_TASKS = 4
_AT_ONCE = 1000


@dataclass(frozen=True)
class Agreement:
    """Agreement of a partition with categories, compared with shuffled categories.

    Attributes:
        ari: adjusted Rand index (Hubert & Arabie 1985).
        ari_p: share of permutations with an index at least as high, the identity counted.
        nmi: mutual information over the mean of the two entropies.
        nmi_p: likewise for it.
        ari_null: mean of the index under the null; for `nmi_null` it is far from 0 with few tasks.
        permutations: how many were taken, the identity among them; all of them where that is at most 5040.
    """

    ari: float
    ari_p: float
    nmi: float
    nmi_p: float
    ari_null: float
    nmi_null: float
    permutations: int


def louvain(graph: nx.Graph, seed: int = 0, resolution: float = 1.0) -> dict[str, int]:
    """Communities by Louvain's method (Blondel et al. 2008) on the edges of positive weight, numbered from 0.

    Modularity has no meaning for negative weights, so those edges are not read; a directed graph is read as directed.
    """
    _enough(len(graph))
    positive = nx.create_empty_copy(graph)
    positive.add_edges_from((u, v, data) for u, v, data in graph.edges(data=True) if data["weight"] > 0)
    partition = nx.community.louvain_communities(positive, weight="weight", resolution=resolution, seed=seed)
    member = {name: number for number, names in enumerate(partition) for name in names}
    return {name: member[name] for name in graph}


def average_linkage(names: Sequence[str], weights: Floats, clusters: int) -> dict[str, int]:
    """Average linkage on max W − W, W = (weights + weightsᵀ)/2, cut into at most `clusters`, numbered from 0.

    >>> weights = np.array([[1, 0.9, 0.1, 0.2], [0.8, 1, 0.2, 0.1], [0.1, 0.1, 1, 0.7], [0.2, 0.1, 0.8, 1]])
    >>> average_linkage(["rte", "mnli", "cola", "blimp"], weights, clusters=2)
    {'rte': 0, 'mnli': 0, 'cola': 1, 'blimp': 1}

    Args:
        names: the tasks.
        weights: (tasks, tasks), greater is nearer; the diagonal is not read.
        clusters: how many are wanted; ties may leave fewer.
    """
    _enough(len(names))
    if not 1 <= clusters <= len(names):
        raise BadInput(f"{len(names)} tasks cannot be cut into {clusters} clusters")
    weights = checked(names, weights)
    near = (weights + weights.T) / 2
    far = near.max() - near
    np.fill_diagonal(far, 0.0)
    numbers = fcluster(linkage(squareform(far, checks=False), "average"), clusters, "maxclust")
    return {name: int(number) - 1 for name, number in zip(names, numbers)}


def agreement(
    labels: Mapping[str, Any], categories: Mapping[str, Any], permutations: int = 9999, seed: int = 0
) -> Agreement:
    """The agreement of a partition with the categories of its tasks, with a permutation null.

    >>> categories = {"rte": "nli", "mnli": "nli", "cola": "grammar", "blimp": "grammar"}
    >>> agreement({"rte": 0, "mnli": 0, "cola": 1, "blimp": 1}, categories).ari
    1.0

    Raises:
        BadInput: fewer than four tasks, or categories that miss a task.
    """
    _enough(len(labels))
    missing = [name for name in labels if name not in categories]
    if missing:
        raise BadInput(
            f"the categories miss {', '.join(missing)}; they are given for {', '.join(categories) or 'no task'}"
        )
    detected = _one_hot([labels[name] for name in labels])
    known = _one_hot([categories[name] for name in labels])
    ari, nmi = (float(values[0]) for values in _indices(detected, known[None]))
    orders = orders_with_identity(len(labels), permutations, seed)
    null = [_indices(detected, known[orders[i : i + _AT_ONCE]]) for i in range(0, len(orders), _AT_ONCE)]
    aris, nmis = (np.concatenate(values) for values in zip(*null))
    return Agreement(
        ari=ari,
        ari_p=_share_as_high(ari, aris),
        ari_null=float(aris.mean()),
        nmi=nmi,
        nmi_p=_share_as_high(nmi, nmis),
        nmi_null=float(nmis.mean()),
        permutations=len(orders),
    )


def _enough(tasks: int) -> None:
    if tasks < LEAST_TASKS:
        raise BadInput(f"communities need at least {LEAST_TASKS} tasks; found {tasks}")


def _one_hot(labels: Sequence[Any]) -> Floats:
    """(tasks, groups) of 0 and 1."""
    groups = {label: number for number, label in enumerate(dict.fromkeys(labels))}
    return np.eye(len(groups))[[groups[label] for label in labels]]


def _share_as_high(observed: float, null: Floats) -> float:
    """(1 + #)/(1 + B), the identity being one of the values."""
    return float((null >= observed - 1e-9).mean())


def _indices(detected: Floats, known: Floats) -> tuple[Floats, Floats]:
    """ARI and NMI of one partition (tasks, groups) with each of (permutations, tasks, categories)."""
    counts = detected.T @ known
    rows, columns, tasks = counts.sum(axis=2), counts.sum(axis=1), len(detected)
    together = _pairs(counts).sum(axis=(1, 2))
    in_rows, in_columns = _pairs(rows).sum(axis=1), _pairs(columns).sum(axis=1)
    expected, most = in_rows * in_columns / _pairs(np.array(tasks)), (in_rows + in_columns) / 2
    information = _entropy(rows / tasks) + _entropy(columns / tasks) - _entropy(counts.reshape(len(counts), -1) / tasks)
    return (
        _ratio(together - expected, most - expected),
        _ratio(information, (_entropy(rows / tasks) + _entropy(columns / tasks)) / 2),
    )


def _pairs(counts: Floats) -> Floats:
    return np.asarray(counts * (counts - 1) / 2)


def _entropy(shares: Floats) -> Floats:
    """Entropy of each row, in nats."""
    return np.asarray(-(shares * np.log(np.where(shares > 0, shares, 1))).sum(axis=1))


def _ratio(value: Floats, most: Floats) -> Floats:
    """Their quotient; 1 where both partitions are the same trivial one and nothing can be expected."""
    return np.asarray(np.where(most > 1e-12, value / np.where(most > 1e-12, most, 1), 1.0))
