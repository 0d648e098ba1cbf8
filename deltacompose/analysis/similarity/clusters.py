"""Clusters of tasks from similarities of their deltas: model-based clustering (Ostapenko et al. 2024, section 3.1)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.spatial.distance import pdist, squareform

from deltacompose.analysis.arrays import Floats
from deltacompose.errors import BadInput

_STARTS = 20
"""Starts of k-means, the best of which is kept."""


@dataclass(frozen=True)
class Clusters:
    """Tasks in clusters.

    Attributes:
        labels: the cluster of each task, numbered in the order in which they first appear.
        silhouette: mean silhouette (Rousseeuw 1987) of the tasks, -1 to 1; NaN where every or no task is by itself.
    """

    labels: tuple[int, ...]
    silhouette: float

    def groups(self, tasks: Sequence[str]) -> list[list[str]]:
        """The tasks of each cluster, in their order."""
        return [[t for t, own in zip(tasks, self.labels, strict=True) if own == k] for k in range(max(self.labels) + 1)]


def clusters_of(similarity: Floats, count: int | None = None, seed: int = 0) -> Clusters:
    """k-means of tasks in the space in which their inner products are as near to the similarities as can be.

    The space is that of classical multidimensional scaling (Torgerson 1952), which for cosines of flattened deltas is
    the space of the deltas themselves, up to a rotation. Ostapenko et al. (2024, arXiv 2405.11157) cluster LoRAs so.

    Args:
        similarity: (tasks, tasks), symmetric, greater is nearer.
        count: of clusters; None takes the one with the best silhouette.

    Raises:
        BadInput: fewer than three tasks, a count outside 1 to the number of tasks, or values that are not finite.

    >>> blocks = np.kron(np.eye(2), np.ones((3, 3)))
    >>> clusters_of(blocks, 2).labels
    (0, 0, 0, 1, 1, 1)
    """
    tasks = len(similarity)
    if tasks < 3:
        raise BadInput(f"clustering needs at least 3 tasks, found {tasks}")
    if not np.isfinite(similarity).all():
        raise BadInput("clustering needs a similarity of every pair of tasks; some are not known")
    if count is not None and not 1 <= count <= tasks:
        raise BadInput(f"{count} clusters of {tasks} tasks; there can be 1 to {tasks}")
    points = _embedded((similarity + similarity.T) / 2)
    distances = squareform(pdist(points))
    if not distances.any():
        return Clusters((0,) * tasks, float("nan"))
    tried = [count] if count is not None else list(range(2, tasks))
    candidates = [_clustered(points, distances, k, seed) for k in tried]
    return max(candidates, key=lambda clusters: -2.0 if np.isnan(clusters.silhouette) else clusters.silhouette)


def _clustered(points: Floats, distances: Floats, count: int, seed: int) -> Clusters:
    # Imported here because every worker imports this module, and few cluster; scikit-learn imports pandas too.
    from sklearn.cluster import KMeans
    from sklearn.metrics import silhouette_score

    raw = KMeans(count, n_init=_STARTS, random_state=seed).fit_predict(points).tolist()
    order = {label: k for k, label in enumerate(dict.fromkeys(raw))}
    labels = tuple(order[label] for label in raw)
    several = 1 < len(order) < len(points)
    quality = float(silhouette_score(distances, labels, metric="precomputed")) if several else float("nan")
    return Clusters(labels, quality)


def _embedded(similarity: Floats) -> Floats:
    """(tasks, dimensions) whose inner products are the centred similarities, as far as those are positive."""
    tasks = len(similarity)
    centring = np.eye(tasks) - 1 / tasks
    values, vectors = np.linalg.eigh(centring @ similarity @ centring)
    kept = values > max(1e-9 * float(np.abs(values).max()), 1e-12)
    return np.asarray(vectors[:, kept] * np.sqrt(values[kept])) if kept.any() else np.zeros((tasks, 1))
