"""The task graph as a figure: who is near whom, category by colour and shape, weight by width, stability by dashes."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import networkx as nx
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch, Polygon
from matplotlib.patheffects import withStroke
from scipy.spatial import ConvexHull, QhullError

from deltacompose.analysis.arrays import Floats
from deltacompose.analysis.graph.communities import LEAST_TASKS, louvain
from deltacompose.analysis.graph.construction import edge_stability, incomplete, task_graph
from deltacompose.analysis.transfer.published import matrix_of
from deltacompose.analysis.units import graph_value
from deltacompose.errors import BadInput
from deltacompose.figures.frames import arranged, check_path, entitle, figure_of, head_height, legend_height, saved
from deltacompose.figures.graph_layout import NODE, Positions, apart, bend_of, layout
from deltacompose.figures.heatmap_layout import columns_of
from deltacompose.figures.labels import LINE, Labels, fitted, label, numbered, width_of, wrapped_to
from deltacompose.figures.palette import GREY, INK, colours_of, markers_of
from deltacompose.figures.rounding import counted, number
from deltacompose.figures.style import Canvas, save, styled
from deltacompose.figures.venues import Style, style_of

Stability = Mapping[tuple[str, str], float]
_THIN, _THICK = 0.3, 3.0
"""Width of the thinnest and of the heaviest edge, in points."""
FIRM, SHAKY = 0.9, 0.5
"""Edges in at least these shares of the resamples are solid, and dashed; others are dotted."""
_CROWDED = 0.42
"""The share of a square of the figure's width that boxes of names may take before they are numbered."""


def graph(
    data: Any,
    path: str | Path | None = None,
    *,
    ax: Axes | None = None,
    style: Style | str | None = None,
    kind: str = "knn",
    k: int = 3,
    level: float | None = None,
    value: str = "",
    stability: Stability | None = None,
    hulls: bool = True,
    seed: int = 0,
    title: str = "",
) -> Axes:
    """Draw a task graph: a node per task, an edge where two are near, as wide as its weight.

    Names never overlap; where there is no room for them they are numbered with a key. An edge is solid if it stands in
    at least 90 % of the resamples of the seeds, dashed from 50 % on, else dotted. Pale hulls are the communities of
    Louvain's method.

    Args:
        data: a graph of `dc.task_graph` (networkx), whose nodes may have a `category` and edges a `weight`; or what
            `heatmap` takes, of which the graph is made by `kind`, `k`, `level` and `value`.
        path: file to write.
        ax: axes to draw in.
        style: of `dc.style`, or the name of a venue.
        stability: share of resamples by edge; of a matrix with several seeds it is computed.
        hulls: whether communities are drawn, from four tasks on.
        seed: of the layout (Fruchterman and Reingold 1991, from the shortest paths of Kamada and Kawai 1989) and of
            Louvain's method.

    Raises:
        BadInput: a graph without tasks, or what `dc.task_graph` refuses.
    """
    check_path(path)
    tasks, stability = _graph_of(data, (kind, k, level, value), stability)
    if not len(tasks):
        raise BadInput("a task graph without tasks cannot be drawn")
    look = style_of(style)
    with styled(look):
        axes = _draw(tasks, stability, look, seed, ax, hulls, title)
        saved(figure_of(axes), path)
        return axes


def _graph_of(data: Any, how: tuple[str, int, float | None, str], stability: Stability | None) -> tuple[nx.Graph, Any]:
    if isinstance(data, nx.Graph):
        return data, stability
    matrix = matrix_of(data)
    kind, k, level, value = how
    tasks = task_graph(
        matrix, kind, min(k, max(1, len(matrix.tasks) - 1)), level, value or graph_value(matrix), missing="skip"
    )
    if stability is None and len(matrix.seeds) > 1 and not incomplete(matrix, tasks):
        stability = edge_stability(matrix, tasks)
    return tasks, stability


def network(
    graph: nx.Graph,
    path: str | Path,
    *,
    stability: Stability | None = None,
    look: Style | None = None,
    seed: int = 0,
) -> Path:
    """Draw a task graph to a `.pdf`, `.png` or `.svg` file, and give its path; `graph` has all settings."""
    if not len(graph):
        raise BadInput("a task graph without tasks cannot be drawn")
    look = style_of(look)
    with styled(look):
        return save(draw(graph, stability, look, seed), Path(path))


def draw(graph: nx.Graph, stability: Stability | None, look: Style, seed: int) -> Figure:
    """The graph as a matplotlib figure; to be called inside `style.styled()`."""
    return figure_of(_draw(graph, stability, look, seed, None, True, ""))


def _draw(
    graph: nx.Graph, stability: Stability | None, look: Style, seed: int, ax: Axes | None, hulls: bool, title: str
) -> Axes:
    wide = look.width if ax is None else figure_of(ax).get_figwidth() * ax.get_position().width
    names = _labels(graph, wide, look)
    groups = louvain(graph, seed) if hulls and len(graph) >= LEAST_TASKS and graph.number_of_edges() else {}
    places = layout(graph, wide, seed, (names, groups), look)
    groups = groups if apart(groups, places) else {}
    low, high = (float(end([place[1] for place in places.values()])) for end in (min, max))
    categories = {name: str(graph.nodes[name].get("category", "")) for name in graph}
    colours = colours_of(filter(None, categories.values()), look.categories) | {"": INK}
    markers = markers_of(filter(None, categories.values()), look.categories) | {"": "o"}
    keys: list[Any] = [
        _category_key(name, colours[name], markers[name]) for name in sorted(set(categories.values())) if name
    ]
    keys += [*_weight_keys(graph), *_stability_keys(graph, stability)]
    keys += [Patch(facecolor="#eeeeee", label="community (Louvain)")] if groups else []
    size = max(look.smallest, look.tick - 1)
    note = wrapped_to(names.note, look.points - 6, size, look.font)
    parts = columns_of(names.entries, look.points - 6, size, look.font)
    under = _below(parts, note, size)
    texts = [str(key.get_label()) for key in keys]
    headline = label(title, 200) if title else ""
    facts = _title(graph, stability)
    around = legend_height(texts, look) + head_height(look, headline, facts) + under
    tall = (high - low + 2 * NODE + look.tick + 4) / 72 + around + 0.15
    figure = Canvas(look, tall, None) if ax is None else figure_of(ax)
    axes = figure.add_axes((0, 0, 1, 1)) if ax is None else ax
    axes.set_axis_off()
    axes.set(xlim=(0, 72 * wide), ylim=(low - NODE - 2, high + NODE + look.tick + 2))
    axes.set_aspect("equal")
    _hulls(axes, groups, places)
    ends = {name: colours[categories[name]] for name in graph}
    _edges(axes, graph, places, ends, stability)
    for category in sorted(set(categories.values())):
        members = [name for name in graph if categories[name] == category]
        at = np.array([places[name] for name in members])
        sign: dict[str, Any] = {
            "marker": markers[category],
            "color": colours[category],
            "markersize": NODE,
            "markeredgecolor": "white",
        }
        axes.plot(at[:, 0], at[:, 1], linestyle="", zorder=3, markeredgewidth=0.6, **sign)
    for name in graph:
        _label(axes, names.shown[name], places[name], look)
    if ax is None:
        _frame(axes, (headline, facts), keys, (parts, note), look, tall)
    else:
        entitle(axes, False, headline, facts, look)
        axes.legend(handles=keys, loc="upper left", bbox_to_anchor=(0, 0), ncols=2)
    return axes


def _below(parts: list[str], note: str, size: float) -> float:
    """Inches that the key of names and its note take."""
    lines = max((1 + part.count("\n") for part in parts), default=0) + (1 + note.count("\n") if note else 0)
    return lines * LINE * size / 72


def _frame(
    axes: Axes, title: tuple[str, str], keys: list[Any], names: tuple[list[str], str], look: Style, tall: float
) -> None:
    """Titles above, keys below, each in its own room; `names` is the key of names in columns, and its note."""
    figure = figure_of(axes)
    entitle(axes, True, *title, look)
    head = getattr(figure, "_suptitle", None)
    lines = 1 + head.get_text().count("\n") if head is not None else 1
    top = (LINE * look.title * lines + 6) / 72
    if head is not None:
        head.set(y=1 - 3 / 72 / tall, va="top")
    size = max(look.smallest, look.tick - 1)
    parts, note = names
    below, notes = _below(parts, note, size), _below([], note, size)
    figure.text(3 / look.points, (below + 0.03) / tall, note, va="top", fontsize=size, color=INK)
    for across, part in enumerate(parts):
        left = (3 + across * (look.points - 6 + 2 * size) / len(parts)) / look.points
        figure.text(left, (below - notes + 0.03) / tall, part, va="top", fontsize=size, color=INK)
    high = 0.0
    if keys:
        texts, across, high = arranged([str(key.get_label()) for key in keys], look)
        place = {"bbox_to_anchor": (4 / look.points, (below + 0.05) / tall), "borderaxespad": 0}
        figure.legend(keys, texts, loc="lower left", ncols=across, columnspacing=1.2, **place)
    bottom = below + high + 0.1
    axes.set_position((0, bottom / tall, 1, 1 - (bottom + top) / tall))


def _labels(graph: nx.Graph, wide: float, look: Style) -> Labels:
    """Names, abbreviated where they are long, or numbers where their boxes would fill the figure."""
    names = [str(name) for name in graph]
    fit = fitted(names, 0.3 * 72 * wide, look.tick, look.font)
    area = sum(width_of(text, look.tick, look.font) * (NODE + look.tick + 6) for text in fit.shown.values())
    return numbered(names) if area > _CROWDED * (72 * wide) ** 2 else fit


def _hulls(axes: Axes, groups: Mapping[str, int], places: Positions) -> None:
    """A pale hull around the tasks of each community, wide enough to show around two or one."""
    for group in sorted(set(groups.values())):
        at = np.array([places[name] for name, own in groups.items() if own == group])
        corners = at
        if len(at) > 2:
            try:
                corners = at[ConvexHull(at).vertices]
            except QhullError:  # the tasks lie on a line
                corners = at[[at[:, 0].argmin(), at[:, 0].argmax()]]
        style: dict[str, Any] = {"linewidth": 16, "joinstyle": "round", "capstyle": "round", "zorder": 0.5}
        axes.add_patch(Polygon(corners, closed=True, facecolor="#eeeeee", edgecolor="#eeeeee", **style))


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
    axes: Axes, graph: nx.Graph, places: Positions, colours: Mapping[str, str], stability: Stability | None
) -> None:
    """Edges with a width proportional to their weight, in their category's colour where both ends share it."""
    for edge, width in zip(list(graph.edges), widths_of(graph), strict=True):
        bend = bend_of(edge, places, 0.08 if graph.is_directed() else 0.0)
        axes.annotate(
            "",
            xy=tuple(places[edge[1]]),
            xytext=tuple(places[edge[0]]),
            zorder=1,
            arrowprops={
                "arrowstyle": "-|>,head_length=0.35,head_width=0.15" if graph.is_directed() else "-",
                "connectionstyle": f"arc3,rad={bend}",
                "linewidth": width,
                "linestyle": _dashes(edge, stability),
                "color": colours[edge[0]] if colours[edge[0]] == colours[edge[1]] else GREY,
                "alpha": 0.75,
                "shrinkA": NODE / 2,
                "shrinkB": NODE / 2 + (1 if graph.is_directed() else 0),
            },
        )


def _dashes(edge: tuple[str, str], stability: Stability | None) -> Literal["solid", "dashed", "dotted"]:
    """Solid, dashed or dotted, by how often an edge is there when the seeds are drawn again; solid if unknown."""
    if stability is None:
        return "solid"
    share = stability.get(edge, stability.get(edge[::-1], 0.0))
    return "solid" if share >= FIRM else "dashed" if share >= SHAKY else "dotted"


def _label(axes: Axes, text: str, place: Floats, look: Style) -> None:
    """The name above its node, readable on whatever lies below it."""
    halo = [withStroke(linewidth=1.8, foreground="white")]
    x, y = place[0], place[1] + NODE / 2 + 1
    axes.text(x, y, text, ha="center", va="bottom", fontsize=look.tick, color=INK, zorder=5, path_effects=halo)


def _title(graph: nx.Graph, stability: Stability | None) -> str:
    facts = {name: graph.graph[name] for name in ("value", "kind", "k", "level") if name in graph.graph}
    facts |= {"value": f"nearness: {graph.graph['weighs']}"} if "weighs" in graph.graph else {}
    text = ", ".join(f"{name}={value}" if name in ("k", "level") else str(value) for name, value in facts.items())
    seeds = graph.graph.get("seeds")
    parts = ["task graph" + (f" ({text})" if text else ""), _over(int(seeds)) if seeds else ""]
    if graph.graph.get("left_out"):
        parts.append(f"left out: {label(str(graph.graph['left_out']), 60)}")
    if graph.graph.get("missing"):
        parts.append(f"{counted(graph.graph['missing'], 'cell')} without a value")
    return "; ".join(part for part in parts if part)


def _over(seeds: int) -> str:
    return "1 seed, so no stability is known" if seeds == 1 else f"mean over {counted(seeds, 'seed')}"


def _category_key(category: str, colour: str, marker: str) -> Line2D:
    return Line2D([], [], linestyle="", marker=marker, markersize=5, color=colour, label=label(category, 40))


def _weight_keys(graph: nx.Graph) -> list[Any]:
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


def _stability_keys(graph: nx.Graph, stability: Stability | None) -> list[Any]:
    """Key of the dashes that occur, where not all edges are firm."""
    fit = {_dashes(edge, stability) for edge in graph.edges}
    if stability is None or fit <= {"solid"}:
        return []
    firm, shaky = (number(share, percent=True) for share in (FIRM, SHAKY))
    texts: dict[Literal["solid", "dashed", "dotted"], str] = {
        "solid": f"in at least {firm} % of resampled seeds",
        "dashed": f"in {shaky} % to {firm} %",
        "dotted": f"in less than {shaky} %",
    }
    return [Line2D([], [], color=GREY, linestyle=dash, label=text) for dash, text in texts.items() if dash in fit]
