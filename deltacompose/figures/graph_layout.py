"""Places of the tasks of a graph: near those they share heavy edges with, no name on another, edges around others."""

from __future__ import annotations

import itertools
from collections.abc import Mapping

import networkx as nx
import numpy as np
from scipy.spatial import ConvexHull, QhullError

from deltacompose.analysis.arrays import Floats
from deltacompose.figures.labels import Labels, width_of
from deltacompose.figures.venues import Style

Positions = dict[str, Floats]
NODE = 7.0
"""Size of a node in points."""


def layout(graph: nx.Graph, wide: float, seed: int, known: tuple[Labels, Mapping[str, int]], look: Style) -> Positions:
    """Places in points: tasks near those they share heavy edges with, none on another; the same for the same seed.

    Edges within a community pull more than others, so that communities stand apart.
    """
    names, groups = known
    undirected = graph.to_undirected()
    weights = _scaled([data.get("weight", 1.0) for _, _, data in undirected.edges(data=True)], 0.3, 1.0)
    for (one, other), weight in zip(list(undirected.edges), weights, strict=True):
        pull = weight * (2.0 if groups and groups[one] == groups[other] else 0.5 if groups else 1.0)
        undirected.edges[one, other].update(pull=pull, distance=1 / pull)
    start = nx.kamada_kawai_layout(undirected, weight="distance") if nx.is_connected(undirected) else None
    near = 1.6 / np.sqrt(len(graph))
    spring = nx.spring_layout(undirected, pos=start, weight="pull", seed=seed, k=near, iterations=60)
    rough = np.array([spring[name] for name in graph])
    room = 72 * wide * np.array([1.0, 0.5 if len(graph) < 12 else 0.7])
    rough = (rough - rough.min(axis=0)) / np.maximum(np.ptp(rough, axis=0), 1e-9) * room
    boxes = [
        (max(width_of(names.shown[name], look.tick, look.font), NODE) + 4, NODE + 1.3 * look.tick + 3) for name in graph
    ]
    return dict(zip(graph, push_apart(rough, np.array(boxes), float(room[0])), strict=True))


def push_apart(places: Floats, sizes: Floats, width: float, rounds: int = 60) -> Floats:
    """Move boxes that overlap apart, each half the way and the shorter way, and keep them within the width.

    Boxes that still overlap after some rounds are moved up, one box after the other, so that nothing does in the end.

    Args:
        places: (boxes, 2), their middles.
        sizes: (boxes, 2), widths and heights.
    """
    places, half = places.copy(), sizes / 2
    for _ in range(rounds):
        places[:, 0] = np.clip(places[:, 0], half[:, 0], np.maximum(width - half[:, 0], half[:, 0]))
        still = True
        for i, j in itertools.combinations(range(len(places)), 2):
            overlap = half[i] + half[j] - np.abs(places[i] - places[j])
            if (overlap > 0.1).all():
                still, axis = False, int(np.argmin(overlap))
                step = (overlap[axis] / 2 + 0.05) * (1 if places[i, axis] >= places[j, axis] else -1)
                places[i, axis] += step
                places[j, axis] -= step
        if still:
            return places
    places[:, 0] = np.clip(places[:, 0], half[:, 0], np.maximum(width - half[:, 0], half[:, 0]))
    return _stacked(places, half)


def _stacked(places: Floats, half: Floats) -> Floats:
    """Boxes from the lowest on, each as low as it can be at or above its place without lying on those before it."""
    order = np.argsort(places[:, 1], kind="stable")
    set_down: list[int] = []
    for i in order:
        while True:
            reach = half[i] + half[set_down] if set_down else np.zeros((0, 2))
            gap = reach - np.abs(places[i] - places[set_down]) if set_down else reach
            blocking = [j for j, over in zip(set_down, gap, strict=True) if (over > 0.05).all()]
            if not blocking:
                break
            places[i, 1] = max(places[j, 1] + half[j, 1] + half[i, 1] for j in blocking)
        set_down.append(int(i))
    return places


def _scaled(values: list[float], low: float, high: float) -> list[float]:
    """Values brought linearly to [low, high]; equal ones to the middle."""
    if not values or max(values) == min(values):
        return [(low + high) / 2] * len(values)
    return [low + (high - low) * (value - min(values)) / (max(values) - min(values)) for value in values]


_FOREIGN = 0.1
"""The share of tasks that may lie in the hull of a community that is not theirs; with more no hull is drawn."""


def apart(groups: Mapping[str, int], places: Positions) -> bool:
    """Whether the hulls of communities are nearly free of the tasks of others, so that they show something."""
    foreign = 0
    for group in set(groups.values()):
        own = np.array([places[name] for name, number in groups.items() if number == group])
        if len(own) < 3:
            continue
        try:
            planes = ConvexHull(own).equations
        except QhullError:  # the tasks lie on a line
            continue
        others = np.array([places[name] for name, number in groups.items() if number != group]).reshape(-1, 2)
        foreign += int((others @ planes[:, :2].T + planes[:, 2] <= 0).all(axis=1).sum())
    return foreign <= _FOREIGN * len(groups)


def bend_of(edge: tuple[str, str], places: Positions, usual: float) -> float:
    """How far an edge is curved, as a share of its length, so that it runs through no third node."""
    start, end = (places[name] for name in edge)
    others = np.array([place for name, place in places.items() if name not in edge]).reshape(-1, 2)
    clear = {bend: clearance(start, end, others, bend) for bend in (usual, 0.2, -0.2, 0.35, -0.35)}
    return next((bend for bend, room in clear.items() if room > NODE), max(clear, key=clear.__getitem__))


def clearance(start: Floats, end: Floats, others: Floats, bend: float) -> float:
    """The least distance of other nodes from matplotlib's `arc3` between two places."""
    along = end - start
    control = (start + end) / 2 + bend * np.array([along[1], -along[0]])
    t = np.linspace(0, 1, 41)[:, None]
    path = (1 - t) ** 2 * start + 2 * t * (1 - t) * control + t**2 * end
    return float(np.linalg.norm(path[:, None] - others, axis=2).min(initial=np.inf))
