"""The task-similarity graph of a transfer matrix: edges, communities, agreement with categories, stability over seeds.

How edges are chosen is in `network`, which also takes any other square matrix with names, such as that of a similarity
measure; communities are in `communities`, choosing sources in `sources`.
"""

from __future__ import annotations

import itertools
import json
import math
import os
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, get_args

import networkx as nx
import numpy as np
import pandas as pd

from deltacompose.analysis.arrays import Bools, Floats
from deltacompose.analysis.graph import communities
from deltacompose.analysis.graph import edges as network
from deltacompose.analysis.labelled import labelled
from deltacompose.analysis.limitations import shortened
from deltacompose.analysis.matrix import TransferMatrix, mean_over_seeds
from deltacompose.analysis.units import check_chance
from deltacompose.errors import BadInput, unknown
from deltacompose.notebook import counted, table

if TYPE_CHECKING:
    import xarray

Value = Literal["relative", "corrected", "raw"]
Missing = Literal["refuse", "skip"]
HIGH = 0.5
"""From this relative performance of chance on, that of a source says little."""


class TaskGraph(nx.Graph):  # type: ignore[misc]
    """A graph of tasks that shows itself in notebooks: a networkx graph in everything else."""

    def __repr__(self) -> str:
        edges = counted(self.number_of_edges(), "edge")
        return f"<task graph: {counted(len(self), 'task')}, {edges} ({self.graph.get('kind', 'any kind')})>"

    def _repr_html_(self) -> str:
        weights = sorted(self.edges(data="weight", default=0.0), key=lambda edge: -edge[2])
        arrow = " → " if self.is_directed() else " – "
        rows = ({"edge": f"{source}{arrow}{other}", "weight": float(weight)} for source, other, weight in weights)
        return table(repr(self).strip("<>"), rows, ("edge", "weight"))

    def to_pandas(self) -> pd.DataFrame:
        """One row per edge: `source`, `target`, `weight` and its other attributes, heaviest first."""
        return pd.DataFrame(network.edges(self), columns=None if len(self.edges) else ["source", "target", "weight"])

    def to_xarray(self) -> xarray.DataArray:
        """The weights (source, target) as an array with names; NaN where there is no edge.

        Raises:
            BadInput: xarray is not installed.
        """
        names = list(self)
        weights = nx.to_numpy_array(self, nodelist=names, weight="weight", nonedge=np.nan)
        return labelled(weights, {"source": names, "target": names}, "weight")


class DirectedTaskGraph(TaskGraph, nx.DiGraph):  # type: ignore[misc]
    """A task graph whose edges run from source to target."""


def task_graph(
    matrix: TransferMatrix,
    kind: str = "knn",
    k: int = 3,
    level: float | None = None,
    value: str = "relative",
    directed: bool = False,
    missing: str = "refuse",
) -> nx.Graph:
    """The graph of the tasks of a transfer matrix; edges carry `weight`, nodes their `category` and `own` score.

    >>> graph = task_graph(matrix, k=1)
    >>> sorted(graph.nodes)
    ['cola', 'mnli', 'mrpc', 'rte']

    Args:
        matrix: transfer scores; the mean over seeds is used.
        kind: how edges are chosen, see `network.build`.
        k: number of neighbours.
        level: least weight (`threshold`) or greatest significance (`disparity`) of an edge.
        value: `relative` R, `corrected` C or `raw` scores A.
        directed: edges run from source to target and weigh W; otherwise they weigh (W + Wᵀ)/2.
        missing: cells without a value are refused (`refuse`), or the graph is made of the others (`skip`): an edge of
            which one direction is known weighs that one and has `directions` 1, a pair of which none is known has no
            edge, and the graph's `missing` counts the cells.

    Raises:
        BadInput: unknown kind, value or treatment of missing cells, missing cells that are refused, no known cell, or
            too few tasks for k neighbours.
    """
    names, weights = affinity(matrix, value, missing)
    filled, unknown_cells = _filled(weights, kind, directed)
    built = network.build(names, filled, kind, k=k, level=level, directed=directed)
    graph = DirectedTaskGraph(built) if directed else TaskGraph(built)
    _mark_missing(graph, names, unknown_cells)
    left_out = [name for name in matrix.names if name not in names]
    graph.graph.update(value=value, seeds=len(matrix.seeds), left_out=", ".join(left_out))
    own = dict(zip(matrix.targets, mean_over_seeds(matrix.own)))
    for name in names:
        graph.nodes[name]["own"] = float(own[name])
        if matrix.categories:
            graph.nodes[name]["category"] = matrix.categories[name]
    return graph


def _filled(weights: Floats, kind: str, directed: bool) -> tuple[Floats, Bools]:
    """The weights with a number in every cell, and which off-diagonal cells had none.

    Undirected, an unknown direction takes the value of the other one, so that the mean of both is what is known. A pair
    of which nothing is known is made farther than every known one; its edge, if any, is removed afterwards.
    """
    unknown_cells = np.isnan(weights) & ~np.eye(len(weights), dtype=bool)
    if not unknown_cells.any():
        return weights, unknown_cells
    filled = weights if directed else np.where(np.isnan(weights), weights.T, weights)
    least = 0.0 if kind == "disparity" else float(np.nanmin(np.where(np.eye(len(weights)) == 1, np.nan, weights))) - 1
    return np.where(np.isnan(filled), least, filled), unknown_cells


def _mark_missing(graph: nx.Graph, names: Sequence[str], unknown_cells: Bools) -> None:
    """Remove the edges of which nothing is known, and mark those of which one direction is known."""
    if not unknown_cells.any():
        return
    at = {name: place for place, name in enumerate(names)}
    for source, target in list(graph.edges):
        forth, back = unknown_cells[at[source], at[target]], unknown_cells[at[target], at[source]]
        if forth and (back or graph.is_directed()):
            graph.remove_edge(source, target)
        elif (forth or back) and not graph.is_directed():
            graph.edges[source, target]["directions"] = 1
    graph.graph["missing"] = int(unknown_cells.sum())


def affinity(
    matrix: TransferMatrix, value: str = "relative", missing: str = "refuse"
) -> tuple[tuple[str, ...], Floats]:
    """The tasks that are source and target, and their (sources, targets) values, averaged over seeds.

    Tasks whose corrected value is undefined (`matrix.left_out`) are left out.

    Args:
        missing: cells without a value are refused (`refuse`) or NaN (`skip`).

    Raises:
        BadInput: an unknown value, a relative or corrected one without the chance levels, a cell without a value, no
            cell with one, or fewer than two tasks.
    """
    if value not in get_args(Value):
        raise unknown("value", value, get_args(Value))
    if missing not in get_args(Missing):
        raise unknown("treatment of missing cells", missing, get_args(Missing))
    check_chance(matrix, value)
    names = tuple(name for name in matrix.tasks if value != "corrected" or name not in matrix.left_out)
    weights = mean_over_seeds(_of_names(matrix, value, names))
    without = [f"{names[s]} → {names[t]}" for s, t in np.argwhere(np.isnan(weights))]
    others = ~np.eye(len(names), dtype=bool)
    if without and (missing == "refuse" or np.isnan(weights[others]).all()):
        shown = ", ".join(without[:5]) + (", …" if len(without) > 5 else "")
        raise BadInput(
            f"{len(without)} cells of the transfer matrix have no {value} value: {shown}; a graph needs them all"
        )
    if len(names) < 2:
        raise BadInput(f"a graph needs at least 2 tasks that are source and target, found {len(names)}")
    return names, weights


def _of_names(matrix: TransferMatrix, value: str, names: Sequence[str]) -> Floats:
    """(seeds, names, names): the values of these tasks alone."""
    values = {"relative": matrix.relative(), "corrected": matrix.corrected(), "raw": matrix.values}[value]
    rows = [matrix.sources.index(name) for name in names]
    columns = [matrix.targets.index(name) for name in names]
    return values[:, rows][:, :, columns]


def incomplete(matrix: TransferMatrix, graph: nx.Graph) -> int:
    """How many off-diagonal cells of the graph have no value in some seed, though they have one in another."""
    values = _of_names(matrix, graph.graph["value"], list(graph))
    return int((np.isnan(values).any(axis=0) & ~np.eye(len(graph), dtype=bool)).sum())


def edge_stability(
    matrix: TransferMatrix, graph: nx.Graph, draws: int = 1000, seed: int = 0
) -> dict[tuple[str, str], float]:
    """How often each edge stands when the seeds are drawn again: bootstrap frequencies of all pairs that ever stand.

    Every resample of the seeds is taken, with its probability, where there are at most `draws` of them (up to 6 seeds).

    Args:
        matrix: what the graph was made of.
        graph: from `task_graph`; its kind, number and value are used again.
        draws: number of resamples where they are too many to take all.
        seed: of those draws.

    Raises:
        BadInput: the matrix has one seed, or a cell has none of the graph's values in one of them.
    """
    if len(matrix.seeds) < 2:
        raise BadInput("the stability of edges is a bootstrap over seeds; the transfer matrix has only one seed")
    if missing := incomplete(matrix, graph):
        raise BadInput(
            f"the stability of edges needs every cell at every seed; "
            f"{missing} of them have no {graph.graph['value']} value in some seed"
        )
    settings = {key: graph.graph[key] for key in ("kind", "k", "level", "value") if key in graph.graph}
    frequency: dict[tuple[str, str], float] = {}
    for chosen, probability in _resamples(len(matrix.seeds), draws, seed):
        again = task_graph(_with_seeds(matrix, chosen), directed=graph.is_directed(), **settings)
        for pair in again.edges:
            frequency[_pair(graph, *pair)] = frequency.get(_pair(graph, *pair), 0.0) + probability
    return frequency


def summary(
    matrix: TransferMatrix,
    graph: nx.Graph | None = None,
    permutations: int = 9999,
    draws: int = 1000,
    seed: int = 0,
    about: Sequence[str] | None = None,
) -> dict[str, Any]:
    """Summarises the graph for JSON: edges, communities, their agreement with the categories, centralities.

    `ari_average_linkage`, `ari_louvain` and `nmi_…` likewise, each with `_p` and `_null`, are None where they cannot be
    computed, and `limitations` says why.

    Args:
        matrix: the transfer scores.
        graph: from `task_graph`, which is also the default.
        permutations: of the null of every agreement.
        draws: resamples of the seeds for each edge's `stability`.
        seed: of Louvain's method, the permutations and the resamples.
        about: limitations of the graph's data if it is not transfer; by default those of the matrix.
    """
    graph = task_graph(matrix) if graph is None else graph
    limitations = [*(matrix.limitations() if about is None else about), *_about_weights(matrix, graph)]
    parts = _communities(matrix, graph, seed, limitations)
    if reason := _ungrouped(matrix, graph):
        limitations.append(f"{reason}: there is no agreement to state")
    return {
        **graph.graph,
        "left_out": [name for name in matrix.names if name not in graph],
        "directed": graph.is_directed(),
        "tasks": list(graph),
        "edges": _edges_with_stability(matrix, graph, (draws, seed), limitations),
        "communities": parts,
        **_agreements({} if reason else matrix.categories, parts, (permutations, seed)),
        "centralities": network.centralities(graph),
        "limitations": limitations,
    }


def _about_weights(matrix: TransferMatrix, graph: nx.Graph) -> Iterator[str]:
    yield "agreement with categories depends on the algorithm: read average linkage and Louvain together"
    if graph.graph["left_out"]:
        yield f"not in the graph: {graph.graph['left_out']}"
    if not graph.is_directed():
        yield "an edge weighs the mean of both directions; a directed graph tells them apart"
    if graph.graph["value"] == "relative":
        yield from _about_chance(matrix, list(graph))


def _about_chance(matrix: TransferMatrix, names: Sequence[str]) -> Iterator[str]:
    """Targets on which any source has a great part of the own score."""
    of_chance = dict(zip(matrix.targets, matrix.chance / mean_over_seeds(matrix.own), strict=True))
    high = {name: of_chance[name] for name in names if of_chance[name] >= HIGH}
    if high:
        least, most = min(high.values()), max(high.values())
        yield (
            f"{shortened(list(high))}: chance alone has a relative performance of {least:.2f} to {most:.2f}, "
            "so every source seems near; corrected values take it out"
        )


def write(graph: nx.Graph, path: Path) -> None:
    """The graph as GraphML, GEXF or JSON (node-link), by the path's suffix; the same graph gives the same bytes.

    Raises:
        BadInput: another suffix.
    """
    texts: dict[str, Callable[[], str]] = {
        ".graphml": lambda: "\n".join(nx.generate_graphml(graph)),
        ".gexf": lambda: re.sub(r' lastmodifieddate="[^"]*"', "", "\n".join(nx.generate_gexf(graph))),
        ".json": lambda: json.dumps(nx.node_link_data(graph, edges="edges"), indent=1, allow_nan=False),
    }
    if path.suffix not in texts:
        raise unknown("graph format", path.suffix, texts)
    partial = path.with_name(f".{path.name}.{os.getpid()}")
    partial.write_text(texts[path.suffix]() + "\n", encoding="utf-8")
    partial.replace(path)


def _communities(
    matrix: TransferMatrix, graph: nx.Graph, seed: int, limitations: list[str]
) -> dict[str, dict[str, int]]:
    if len(graph) < communities.LEAST_TASKS:
        limitations.append(f"no communities of {len(graph)} tasks: at least {communities.LEAST_TASKS} are needed")
        return {}
    negative = sum(weight <= 0 for _, _, weight in graph.edges(data="weight"))
    if negative:
        limitations.append(f"Louvain's method did not read {negative} edges, whose weight is not positive")
    detected = communities.louvain(graph, seed)
    reason = _ungrouped(matrix, graph)
    kinds = set(detected.values()) if reason else {matrix.categories[name] for name in graph}
    if reason:
        limitations.append(f"{reason}: average linkage is cut into as many clusters as Louvain's method finds")
    names, weights = affinity(matrix, graph.graph["value"])
    return {"average_linkage": communities.average_linkage(names, weights, len(kinds)), "louvain": detected}


def _ungrouped(matrix: TransferMatrix, graph: nx.Graph) -> str:
    """Why the categories group nothing, so that no partition can agree with them; empty where they do."""
    kinds = {matrix.categories[name] for name in graph} if matrix.categories else set()
    reasons = {0: "no categories", 1: "one category for all tasks", len(graph): "a category for each task"}
    return reasons.get(len(kinds), "")


def _agreements(
    categories: Mapping[str, str], parts: dict[str, dict[str, int]], null: tuple[int, int]
) -> dict[str, float | None]:
    """`<index>_<algorithm>` with `_p` and `_null`, for both indices and algorithms."""
    indices: dict[str, float | None] = {}
    for algorithm in ("average_linkage", "louvain"):
        partition = parts.get(algorithm) if categories else None
        result = asdict(communities.agreement(partition, categories, *null)) if partition else {}
        for index in ("ari", "nmi"):
            for part in ("", "_p", "_null"):
                indices[f"{index}_{algorithm}{part}"] = result.get(f"{index}{part}")
        indices["permutations"] = result.get("permutations")
    return indices


def _edges_with_stability(
    matrix: TransferMatrix, graph: nx.Graph, draws: tuple[int, int], limitations: list[str]
) -> list[dict[str, Any]]:
    """The edges, heaviest first, each with the frequency with which it stands when the seeds are drawn again."""
    rows = network.edges(graph)
    missing = incomplete(matrix, graph)
    if missing:
        value, cells = graph.graph["value"], len(graph) * (len(graph) - 1)
        limitations.append(
            f"{missing} of {cells} cells have no {value} value in some seed and are the mean over the others"
        )
    if len(matrix.seeds) < 2 or missing:
        limitations.append("no stability of edges: it needs at least two seeds, and every cell at every seed")
        return [{**row, "stability": None} for row in rows]
    stability = edge_stability(matrix, graph, *draws)
    return [{**row, "stability": stability.get(_pair(graph, row["source"], row["target"]), 0.0)} for row in rows]


def _pair(graph: nx.Graph, u: str, v: str) -> tuple[str, str]:
    """An edge's name: as it runs where directed, else in the order of the alphabet."""
    return (u, v) if graph.is_directed() or u < v else (v, u)


def _with_seeds(matrix: TransferMatrix, chosen: Sequence[int]) -> TransferMatrix:
    """The matrix of resampled seeds, a seed drawn twice standing twice under another number."""
    arrays = {name: getattr(matrix, name)[list(chosen)] for name in ("values", "random", "trivial", "failed")}
    return replace(matrix, seeds=tuple(range(len(chosen))), examples={}, **arrays)


def _resamples(seeds: int, draws: int, seed: int) -> Iterator[tuple[tuple[int, ...], float]]:
    """Resamples of the seeds with their probabilities: all of them, or `draws` at random."""
    if math.comb(2 * seeds - 1, seeds) > draws:
        generator = np.random.default_rng(seed)
        for _ in range(draws):
            yield tuple(generator.integers(0, seeds, seeds).tolist()), 1 / draws
        return
    for chosen in itertools.combinations_with_replacement(range(seeds), seeds):
        ways = math.factorial(seeds) // math.prod(math.factorial(chosen.count(s)) for s in range(seeds))
        yield chosen, ways / seeds**seeds
