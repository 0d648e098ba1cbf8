"""Score against cost with the Pareto front, and score against the size of the backbone."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter, NullLocator

from deltacompose.analysis.arrays import Floats
from deltacompose.analysis.matrix import mean_over_seeds
from deltacompose.errors import BadInput, unknown
from deltacompose.figures.frames import (
    check_path,
    entitle,
    figure_of,
    head_height,
    legend,
    legend_height,
    named,
    numbers,
    opened,
    saved,
    table,
)
from deltacompose.figures.labels import width_of
from deltacompose.figures.palette import GREY, lines_of, points_of
from deltacompose.figures.rounding import counts, memory, quantity, seconds
from deltacompose.figures.style import styled
from deltacompose.figures.venues import Style, style_of

COSTS: dict[str, tuple[str, Callable[[float], str]]] = {
    "parameters": ("trainable parameters", quantity),
    "memory": ("peak memory in training", memory),
    "seconds": ("seconds per step", seconds),
}
"""Columns that hold a cost, what they are called, and how their numbers are printed."""


def cost(
    data: Any,
    path: str | Path | None = None,
    *,
    ax: Axes | None = None,
    style: Style | str | None = None,
    against: str = "parameters",
    title: str = "",
) -> Axes:
    """Draw the mean score of every composition against a cost, and the Pareto front: those that none beats at both.

    Args:
        data: rows, a DataFrame or a file with the columns `composition`, `score` and the cost, one row per composition
            or several (tasks, seeds), which are averaged; or the findings of a store.
        path: file to write.
        ax: axes to draw in.
        style: of `dc.style`, or the name of a venue.
        against: `parameters`, `memory` (bytes) or `seconds` (per step).

    Raises:
        BadInput: an unknown cost, or a column that is missing.
    """
    check_path(path)
    if against not in COSTS:
        raise unknown("cost", against, COSTS)
    rows = table(costs_of(data) if hasattr(data, "trainings") else data, ("composition", "score", against), "cost")
    rows = rows.dropna(subset=[against, "score"])
    if not len(rows):
        raise BadInput(f"no composition has both a score and its {COSTS[against][0]}")
    means = rows.groupby("composition")[["score", against]].mean()
    spread = rows.groupby("composition")["score"].agg(["min", "max", "count"])
    look = style_of(style)
    names = [str(name) for name in means.index]
    with styled(look):
        texts = [*named(names), "Pareto front"]
        facts = f"mean of {counts([int(n) for n in spread['count']], 'score')}; bars: their range"
        facts = facts if spread["count"].max() > 1 else "one score each, no spread"
        around = legend_height(texts, look) + head_height(look, title, facts)
        axes = opened(ax, look, 0.55 * look.width + around + 0.3)
        signs = points_of(names, look.compositions)
        points = means.to_numpy(dtype=float)
        for name, (score, at), (low, high, _) in zip(names, points, spread.to_numpy(dtype=float), strict=True):
            axes.plot([at, at], [low, high], color=signs[name]["color"], linewidth=0.6)
            axes.plot([at], [score], **signs[name], markersize=5)
        front = pareto(means[against].to_numpy(), means["score"].to_numpy())
        corner = means.iloc[front]
        axes.step(corner[against], corner["score"], where="post", color=GREY, linewidth=0.8, zorder=0)
        _log(axes, means[against].to_numpy(), COSTS[against][1], look, base=2 if against == "memory" else 10)
        axes.set(xlabel=COSTS[against][0], ylabel="mean score")
        numbers(axes.yaxis)
        handles = [
            Line2D([], [], label=t, **{**signs[n], "linestyle": ""}) for t, n in zip(texts[:-1], names, strict=True)
        ]
        legend(axes, ax is None, [*handles, Line2D([], [], color=GREY, label="Pareto front")], look)
        entitle(axes, ax is None, title, facts, look)
        saved(figure_of(axes), path)
        return axes


def pareto(costs: Sequence[float] | Floats, scores: Sequence[float] | Floats) -> list[int]:
    """The places of those with a higher score than all that cost as much or less, by rising cost.

    >>> pareto([3, 1, 2, 2], [0.9, 0.5, 0.4, 0.7])
    [1, 3, 0]
    """
    front: list[int] = []
    best = -np.inf
    for place in sorted(range(len(costs)), key=lambda i: (costs[i], -scores[i])):
        if scores[place] > best:
            front.append(place)
            best = float(scores[place])
    return front


def costs_of(findings: Any) -> pd.DataFrame:
    """Score, parameters, memory and seconds per step of every composition and task of a store.

    The score is that of the delta on its own task, the mean over seeds, on the split of the findings.
    """
    costs: dict[tuple[str, str], dict[str, list[float]]] = {}
    for record in findings.trainings:
        result, key = record["result"], (str(record["spec"]["composition"]), str(record["spec"]["task"]))
        measured = costs.setdefault(key, {name: [] for name in COSTS})
        steps = (record["spec"].get("recipe") or {}).get("steps") or record["spec"].get("steps")
        took = result.get("seconds")
        values = {
            "parameters": result.get("parameters"),
            "memory": result.get("peak_memory"),
            "seconds": took / steps if took is not None and steps else None,
        }
        for name, value in values.items():
            if value is not None:
                measured[name].append(float(value))
    rows = []
    for text, matrix in findings.matrices.items():
        own = mean_over_seeds(matrix.own)
        for task, score in zip(matrix.targets, own.tolist(), strict=True):
            measured = costs.get((text, task), {name: [] for name in COSTS})
            average = {name: float(np.mean(values)) if values else np.nan for name, values in measured.items()}
            rows.append({"composition": text, "task": task, "score": score, **average})
    return pd.DataFrame(rows, columns=["composition", "task", "score", *COSTS])


def scale(
    data: Any,
    path: str | Path | None = None,
    *,
    ax: Axes | None = None,
    style: Style | str | None = None,
    title: str = "",
) -> Axes:
    """Draw the score against the size of the backbone, a line per composition with the range of its scores.

    Args:
        data: rows, a DataFrame or a file with the columns `composition`, `size` (parameters of the backbone) and
            `score`; several rows of one size (tasks, seeds) are averaged.
        path: file to write.
        ax: axes to draw in.
        style: of `dc.style`, or the name of a venue.

    Raises:
        BadInput: a column that is missing, or sizes that are not above zero.
    """
    check_path(path)
    rows = table(data, ("composition", "size", "score"), "scale")
    if not (rows["size"] > 0).all():
        raise BadInput("sizes of backbones are numbers of parameters above zero")
    look, names = style_of(style), sorted(map(str, rows["composition"].unique()))
    with styled(look):
        texts = named(names)
        per_size = [int(n) for n in rows.groupby(["composition", "size"])["score"].count()]
        facts = f"mean of {counts(per_size, 'score')}; band: their range"
        facts = facts if max(per_size) > 1 else "one score each, no spread"
        around = legend_height(texts, look) + head_height(look, title, facts)
        axes = opened(ax, look, 0.55 * look.width + around + 0.3)
        signs = lines_of(names, look.compositions)
        for name in names:
            groups = rows[rows["composition"] == name].groupby("size")["score"]
            middle, low, high = groups.mean(), groups.min(), groups.max()
            axes.fill_between(middle.index, low, high, color=signs[name]["color"], alpha=0.15, linewidth=0)
            axes.plot(middle.index, middle, **signs[name])
        sizes = rows["size"].to_numpy(dtype=float)
        _log(axes, sizes, quantity, look)
        _ticks_at(axes, sorted(set(sizes.tolist())), quantity, look)
        axes.set(xlabel="parameters of the backbone", ylabel="mean score")
        numbers(axes.yaxis)
        handles = [Line2D([], [], label=t, **signs[n]) for t, n in zip(texts, names, strict=True)]
        legend(axes, ax is None, handles, look)
        entitle(axes, ax is None, title, facts, look)
        saved(figure_of(axes), path)
        return axes


def _log(axes: Axes, values: Floats, printed: Callable[[float], str], look: Style, base: int = 10) -> None:
    """A logarithmic axis where all values are above zero, with few ticks, printed in units."""
    if (values > 0).all():
        axes.set_xscale("log", base=base)
        axes.xaxis.set_major_locator(LogLocator(base, numticks=max(3, int(look.width) + 1)))
        axes.xaxis.set_minor_formatter(NullFormatter())
        if values.max() < 10 * values.min():
            axes.set_xlim(values.min() / 3, values.max() * 3)
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: printed(value)))


def _ticks_at(axes: Axes, values: Sequence[float], printed: Callable[[float], str], look: Style) -> None:
    """Ticks at the values themselves on a logarithmic axis, where their numbers do not touch."""
    low, high = np.log(axes.get_xlim())
    places = 0.75 * look.points * (np.log(values) - low) / (high - low)
    half = np.array([width_of(printed(value), look.tick, look.font) / 2 + 2 for value in values])
    if (np.diff(places) > half[1:] + half[:-1]).all():
        axes.set_xticks(values)
        axes.xaxis.set_minor_locator(NullLocator())
