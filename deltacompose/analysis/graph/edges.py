"""How edges are chosen: a graph from any square matrix of names in which greater means nearer."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal, get_args

import networkx as nx
import numpy as np

from deltacompose.analysis.arrays import Bools, Floats
from deltacompose.errors import BadInput, unknown

Kind = Literal["knn", "mutual_knn", "mst", "threshold", "disparity"]


def build(
    names: Sequence[str],
    weights: Floats,
    kind: str = "knn",
    k: int = 3,
    level: float | None = None,
    directed: bool = False,
) -> nx.Graph:
    """A graph of a square matrix (sources, targets) in which greater means nearer; its diagonal is not read.

    Kinds, undirected on W = (weights + weightsᵀ)/2:
        knn: an edge where either end is among the other's k nearest.
        mutual_knn: an edge where both are.
        mst: the maximum spanning tree; directed, the maximum spanning arborescence (Edmonds 1967).
        threshold: every pair of weight at least `level`.
        disparity: every pair with `disparity` below `level` at one of its ends (Serrano et al. 2009).

    Directed, an edge runs from source to target: for `knn` from each target's k best sources, for `mutual_knn` where
    the target is among the source's k best targets too.

    >>> weights = np.array([[1.0, 0.9, 0.1], [0.8, 1.0, 0.2], [0.1, 0.1, 1.0]])
    >>> build(["rte", "mnli", "cola"], weights, k=1).number_of_edges()
    2
    """
    if kind not in get_args(Kind):
        raise unknown("kind of graph", kind, get_args(Kind))
    weights = checked(names, weights)
    weights = weights if directed else (weights + weights.T) / 2
    parameter = _parameter(kind, k, level, len(names))
    choose: dict[str, Callable[[], Bools]] = {
        "knn": lambda: _nearest(weights, k, directed, np.logical_or),
        "mutual_knn": lambda: _nearest(weights, k, directed, np.logical_and),
        "mst": lambda: _spanning_tree(weights, directed),
        "threshold": lambda: weights >= parameter["level"],
        "disparity": lambda: _backbone(weights, parameter["level"]),
    }
    edges = choose[kind]() & ~np.eye(len(names), dtype=bool)
    graph = nx.DiGraph(kind=kind, **parameter) if directed else nx.Graph(kind=kind, **parameter)
    graph.add_nodes_from(names)
    graph.add_weighted_edges_from((names[i], names[j], float(weights[i, j])) for i, j in np.argwhere(edges))
    return graph


def checked(names: Sequence[str], weights: Floats) -> Floats:
    """The matrix as floats, one row and one column for each name, finite off its diagonal."""
    weights = np.array(weights, dtype=np.float64)
    if weights.shape != (len(names), len(names)) or len(names) < 2:
        raise BadInput(
            f"a graph needs at least 2 tasks, and a row and a column for each; "
            f"found {len(names)} tasks and a matrix of shape {weights.shape}"
        )
    if len(set(names)) < len(names):
        raise BadInput(f"task names must differ: {', '.join(names)}")
    np.fill_diagonal(weights, 0.0)
    if not np.isfinite(weights).all():
        i, j = np.argwhere(~np.isfinite(weights))[0]
        raise BadInput(f"the weight of {names[i]} → {names[j]} is {weights[i, j]}; a graph needs every pair")
    return weights


def disparity(weights: Floats) -> Floats:
    """α_ij = (1 − w_ij/s_i)^(k_i − 1) of each row's positive weights, 1 elsewhere (Serrano et al. 2009, eq. 2).

    The probability that node i, were its strength s_i spread at random over its k_i edges, had one as heavy as w_ij.

    >>> disparity(np.array([[0.0, 3.0, 1.0], [1.0, 0.0, 1.0], [1.0, 1.0, 0.0]]))
    array([[1.  , 0.25, 0.75],
           [0.5 , 1.  , 0.5 ],
           [0.5 , 0.5 , 1.  ]])

    Args:
        weights: (nodes, nodes), non-negative; 0 means no edge.
    """
    if (weights < 0).any():
        raise BadInput(f"the disparity filter needs weights of at least 0; the least is {weights.min():.3g}")
    degree = (weights > 0).sum(axis=1, keepdims=True)
    strength = weights.sum(axis=1, keepdims=True)
    share = weights / np.where(strength > 0, strength, 1)
    return np.asarray(np.where(weights > 0, (1 - share) ** np.maximum(degree - 1, 0), 1.0))


def centralities(graph: nx.Graph) -> dict[str, dict[str, float]]:
    """For each task its strength (in and out where directed), betweenness in hops, and PageRank of positive weights."""
    positive = nx.create_empty_copy(graph)
    positive.add_edges_from((u, v, data) for u, v, data in graph.edges(data=True) if data["weight"] > 0)
    columns: dict[str, Mapping[str, float]] = {
        "betweenness": nx.betweenness_centrality(graph),
        "pagerank": nx.pagerank(positive, weight="weight"),
    }
    if graph.is_directed():
        columns |= {"strength_out": dict(graph.out_degree(weight="weight"))}
        columns |= {"strength_in": dict(graph.in_degree(weight="weight"))}
    else:
        columns |= {"strength": dict(graph.degree(weight="weight"))}
    return {name: {key: float(values[name]) for key, values in columns.items()} for name in graph}


def edges(graph: nx.Graph) -> list[dict[str, Any]]:
    """Every edge with its attributes, heaviest first, ready for JSON."""
    rows = [{"source": u, "target": v, **data} for u, v, data in graph.edges(data=True)]
    return sorted(rows, key=lambda row: (-row["weight"], row["source"], row["target"]))


def _parameter(kind: str, k: int, level: float | None, tasks: int) -> dict[str, Any]:
    """The one number that the kind reads, by its name: what is recorded with the graph."""
    if kind == "mst":
        return {}
    if kind in ("knn", "mutual_knn"):
        if not 1 <= k < tasks:
            raise BadInput(f"{tasks} tasks have at most {tasks - 1} neighbours each; k = {k} was asked for")
        return {"k": k}
    if level is None:
        raise BadInput(f"a {kind} graph needs a level, such as {'0.05' if kind == 'disparity' else '0.9'}")
    return {"level": float(level)}


def _nearest(weights: Floats, k: int, directed: bool, join: Callable[[Bools, Bools], Bools]) -> Bools:
    """Whether j is among the k nearest of i, joined with the other way round; ties go to the earlier name."""
    near = np.array(weights)
    np.fill_diagonal(near, -np.inf)
    targets = _top(near, k)
    sources = _top(near.T, k).T
    if directed and join is np.logical_or:
        return sources
    return join(targets, sources)


def _top(near: Floats, k: int) -> Bools:
    """Which k columns are greatest in each row."""
    chosen = np.zeros(near.shape, dtype=bool)
    np.put_along_axis(chosen, np.argsort(-near, axis=1, kind="stable")[:, :k], True, axis=1)
    return chosen


def _spanning_tree(weights: Floats, directed: bool) -> Bools:
    whole = nx.from_numpy_array(weights - weights.min() + 1, create_using=nx.DiGraph if directed else nx.Graph)
    whole.remove_edges_from(list(nx.selfloop_edges(whole)))
    tree = nx.maximum_spanning_arborescence(whole) if directed else nx.maximum_spanning_tree(whole)
    chosen = np.zeros(weights.shape, dtype=bool)
    for i, j in tree.edges:
        chosen[i, j] = True
    return chosen


def _backbone(weights: Floats, level: float) -> Bools:
    """Whether the pair is significant for its source or for its target."""
    return np.asarray(np.minimum(disparity(weights), disparity(weights.T).T) < level)
