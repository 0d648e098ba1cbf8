"""The task graph as a picture: who is near whom, category by colour and shape, weight by width."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from pathlib import Path

import networkx as nx
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patheffects import withStroke

from deltacompose.analysis.arrays import Floats
from deltacompose.errors import BadInput
from deltacompose.figures.style import (
    GREY,
    INK,
    Look,
    canvas,
    colours_of,
    counted,
    label,
    markers_of,
    number,
    save,
    styled,
    wrapped,
)

Positions = dict[str, Floats]
_THIN, _THICK, _NODE, _FONT = 0.3, 3.0, 7.0, 6.5
"""Width of the thinnest and of the heaviest edge, size of a node and of its name, in points."""


def network(
    graph: nx.Graph,
    path: str | Path,
    *,
    stability: Mapping[tuple[str, str], float] | None = None,
    look: Look | None = None,
    seed: int = 0,
) -> Path:
    """Draw a task graph to a `.pdf`, `.png` or `.svg` file, and give its path.

    Args:
        graph: nodes may have a `category`, edges a `weight`; the graph's own attributes (`kind`, `k`, `value`, `seeds`,
            `weighs` where the weights are not the value itself) are named in the title. A directed graph is drawn with
            arrows from source to target.
        stability: how often each edge stands when seeds are drawn again; edges below one half are dotted.
        seed: of the layout (Fruchterman and Reingold 1991, from the shortest paths of Kamada and Kawai 1989).

    Raises:
        BadInput: a graph without nodes, or another suffix.
    """
    if not len(graph):
        raise BadInput("a task graph without tasks cannot be drawn")
    with styled():
        return save(draw(graph, stability, look or Look(), seed), Path(path))


def draw(graph: nx.Graph, stability: Mapping[tuple[str, str], float] | None, look: Look, seed: int) -> Figure:
    """The graph as a matplotlib figure; to be called inside `style.styled()`."""
    places = _layout(graph, look, seed)
    low, high = (end([place[1] for place in places.values()]) for end in (min, max))
    figure = canvas(look.width, (high - low + 3 * _FONT) / 72 + 1.0)
    axes = figure.subplots()
    axes.set_axis_off()
    axes.set(xlim=(0, 72 * 0.94 * look.width), ylim=(low - _NODE, high + _NODE + _FONT), aspect="equal")
    categories = {name: str(graph.nodes[name].get("category", "")) for name in graph}
    colours = colours_of(categories.values(), look.categories)
    markers = markers_of(categories.values(), look.categories)
    _edges(axes, graph, places, {name: colours[categories[name]] for name in graph}, stability)
    for category in sorted(set(categories.values())):
        members = [name for name in graph if categories[name] == category]
        drawn = nx.draw_networkx_nodes(
            graph,
            places,
            nodelist=members,
            ax=axes,
            node_size=_NODE**2,
            node_color=colours[category],
            node_shape=markers[category],
            edgecolors="white",
            linewidths=0.6,
        )
        drawn.set_zorder(3)
    for name in graph:
        _label(axes, name, places[name])
    figure.suptitle(wrapped(_title(graph, stability), look), x=0.01, ha="left", fontsize=7.5)
    keys = [_category_key(name, colours[name], markers[name]) for name in sorted(set(categories.values())) if name]
    figure.legend(
        handles=[*keys, *_weight_keys(graph)],
        loc="outside lower left",
        ncols=max(1, int(look.width / 1.35)),
        columnspacing=1.2,
    )
    return figure


def _layout(graph: nx.Graph, look: Look, seed: int) -> Positions:
    """Places in points: tasks near those they share heavy edges with, none on another; the same for the same seed."""
    undirected = graph.to_undirected()
    weights = _scaled([data.get("weight", 1.0) for _, _, data in undirected.edges(data=True)], 0.3, 1.0)
    for (component, other), weight in zip(list(undirected.edges), weights, strict=True):
        undirected.edges[component, other].update(pull=weight, distance=1 / weight)
    start = nx.kamada_kawai_layout(undirected, weight="distance") if nx.is_connected(undirected) else None
    near = 1.6 / np.sqrt(len(graph))
    spring = nx.spring_layout(undirected, pos=start, weight="pull", seed=seed, k=near, iterations=60)
    rough = np.array([spring[name] for name in graph])
    room = 72 * look.width * np.array([0.94, 0.5 if len(graph) < 12 else 0.7])
    rough = (rough - rough.min(axis=0)) / np.maximum(np.ptp(rough, axis=0), 1e-9) * room
    sizes = np.array([(0.6 * _FONT * len(label(name)) + 2, _NODE + _FONT + 6) for name in graph])
    return dict(zip(graph, _push_apart(rough, sizes, float(room[0])), strict=True))


def _push_apart(places: Floats, sizes: Floats, width: float, rounds: int = 200) -> Floats:
    """Move boxes that overlap apart, each half the way and the shorter way, and keep them within the width.

    Args:
        places: (boxes, 2), their middles.
        sizes: (boxes, 2), widths and heights.
    """
    places, half = places.copy(), sizes / 2
    for _ in range(rounds):
        places[:, 0] = np.clip(places[:, 0], half[:, 0], width - half[:, 0])
        still = True
        for i, j in itertools.combinations(range(len(places)), 2):
            overlap = half[i] + half[j] - np.abs(places[i] - places[j])
            if (overlap > 0.1).all():
                still, axis = False, int(np.argmin(overlap))
                step = (overlap[axis] / 2 + 0.05) * (1 if places[i, axis] >= places[j, axis] else -1)
                places[i, axis] += step
                places[j, axis] -= step
        if still:
            break
    return places


def _scaled(values: list[float], low: float, high: float) -> list[float]:
    """Values brought linearly to [low, high]; equal ones to the middle."""
    if not values or max(values) == min(values):
        return [(low + high) / 2] * len(values)
    return [low + (high - low) * (value - min(values)) / (max(values) - min(values)) for value in values]


def widths_of(graph: nx.Graph) -> list[float]:
    """(edges,) widths in points, proportional to the weights from zero on; an edge of weight 0 or less is a hairline.

    Equal weights, as of a graph without weights, give lines of half the greatest width.
    """
    weights = [float(data.get("weight", 1.0)) for _, _, data in graph.edges(data=True)]
    if not weights or min(weights) == max(weights):
        return [_THICK / 2] * len(weights)
    heaviest = max(weights)
    return [max(_THIN, _THICK * weight / heaviest) if heaviest > 0 else _THIN for weight in weights]


def _edges(
    axes: Axes,
    graph: nx.Graph,
    places: Positions,
    colours: Mapping[str, str],
    stability: Mapping[tuple[str, str], float] | None,
) -> None:
    """Edges with a width proportional to their weight, in their category's colour where both ends share it."""
    edges = list(graph.edges)
    for edge, width in zip(edges, widths_of(graph), strict=True):
        known = _stands(edge, stability)
        bend = _bend(edge, places, 0.08 if graph.is_directed() else 0.0)
        curve = {"arrows": True, "arrowsize": 6, "connectionstyle": f"arc3,rad={bend}", "node_size": 70}
        curve |= {} if graph.is_directed() else {"arrowstyle": "-"}
        nx.draw_networkx_edges(
            graph,
            places,
            edgelist=[edge],
            ax=axes,
            width=width,
            edge_color=colours[edge[0]] if colours[edge[0]] == colours[edge[1]] else GREY,
            alpha=0.75,
            style="solid" if known else "dotted",
            **(curve if bend else {}),
        )


def _bend(edge: tuple[str, str], places: Positions, usual: float) -> float:
    """How far an edge is curved, as a share of its length, so that it runs through no third node."""
    start, end = (places[name] for name in edge)
    others = np.array([place for name, place in places.items() if name not in edge]).reshape(-1, 2)
    clear = {bend: _clearance(start, end, others, bend) for bend in (usual, 0.2, -0.2, 0.35, -0.35)}
    return next((bend for bend, room in clear.items() if room > _NODE), max(clear, key=clear.__getitem__))


def _clearance(start: Floats, end: Floats, others: Floats, bend: float) -> float:
    """The least distance of other nodes from matplotlib's `arc3` between two places."""
    along = end - start
    control = (start + end) / 2 + bend * np.array([along[1], -along[0]])
    t = np.linspace(0, 1, 41)[:, None]
    path = (1 - t) ** 2 * start + 2 * t * (1 - t) * control + t**2 * end
    return float(np.linalg.norm(path[:, None] - others, axis=2).min(initial=np.inf))


def _stands(edge: tuple[str, str], stability: Mapping[tuple[str, str], float] | None) -> bool:
    """Whether an edge is there in at least half of the resamples of the seeds, as far as that is known."""
    return stability is None or stability.get(edge, stability.get(edge[::-1], 0.0)) >= 0.5


def _label(axes: Axes, name: str, place: Floats) -> None:
    """The name above its node, readable on whatever lies below it."""
    halo = [withStroke(linewidth=1.8, foreground="white")]
    x, y = place[0], place[1] + _NODE / 2 + 1
    axes.text(x, y, label(name), ha="center", va="bottom", fontsize=_FONT, color=INK, zorder=5, path_effects=halo)


def _title(graph: nx.Graph, stability: Mapping[tuple[str, str], float] | None) -> str:
    facts = {name: graph.graph[name] for name in ("value", "kind", "k", "level") if name in graph.graph}
    facts |= {"value": f"nearness: {graph.graph['weighs']}"} if "weighs" in graph.graph else {}
    facts_text = ", ".join(f"{name}={value}" if name in ("k", "level") else str(value) for name, value in facts.items())
    seeds = graph.graph.get("seeds")
    parts = ["task graph" + (f" ({facts_text})" if facts_text else ""), _over(int(seeds)) if seeds else ""]
    if not all(_stands(edge, stability) for edge in graph.edges):
        parts.append("dotted: in less than half of the resamples of the seeds")
    if graph.graph.get("left_out"):
        parts.append(f"left out: {label(str(graph.graph['left_out']), 60)}")
    return "; ".join(part for part in parts if part)


def _over(seeds: int) -> str:
    return "1 seed, so no stability is known" if seeds == 1 else f"mean over {counted(seeds, 'seed')}"


def _category_key(category: str, colour: str, marker: str) -> Line2D:
    return Line2D([], [], linestyle="", marker=marker, markersize=5, color=colour, label=label(category))


def _weight_keys(graph: nx.Graph) -> list[Line2D]:
    """The widths of the lightest and the heaviest edge; the width is proportional to the weight, from 0 on."""
    weights = [float(data["weight"]) for _, _, data in graph.edges(data=True) if "weight" in data]
    if not weights or min(weights) == max(weights):
        return []
    widths = widths_of(graph)
    ends = {
        weight: width for weight, width in zip(weights, widths, strict=True) if weight in (min(weights), max(weights))
    }
    return [
        Line2D([], [], color=GREY, linewidth=width, label=f"weight {number(weight)}")
        for weight, width in sorted(ends.items())
    ]
