"""Subspaces of deltas: intrinsic dimensions with d90, and the spectrum with that of random directions."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullFormatter

from deltacompose.analysis.subspace.linear import explained_if_random
from deltacompose.errors import BadInput
from deltacompose.figures.frames import (
    ROWS,
    check_path,
    entitle,
    figure_of,
    head_height,
    key_of,
    legend,
    legend_height,
    named,
    numbers,
    opened,
    record,
    rows,
    rows_height,
    saved,
    written_below,
)
from deltacompose.figures.labels import fitted, wrapped_to
from deltacompose.figures.palette import GREY, INK, lines_of
from deltacompose.figures.rounding import counts, number, quantity
from deltacompose.figures.style import Canvas, styled
from deltacompose.figures.venues import Style, style_of

Record = Mapping[str, Any]
COLOURED = 7
"""With more tasks than this their curves are grey, because nobody tells them apart."""


def dimension(
    data: Any, path: str | Path | None = None, *, style: Style | str | None = None, title: str = ""
) -> Figure:
    """Draw the intrinsic dimension of every task: score by dimension above, and d₉₀ of every task below.

    d₉₀ (Li et al. 2018, arXiv 1804.08838) is the least d that was trained whose score reaches 90 % of the full one. It
    lies above the greatest d that missed it, at the left end of the line; small ticks are the d₉₀ of single seeds. A
    task that no d reached has an arrow.

    Args:
        data: one entry of `intrinsic_dimensions`, as `deltacompose subspace --json` gives under `intrinsic_dimension`.
        path: file to write.
        style: of `dc.style`, or the name of a venue.

    Raises:
        BadInput: not such a record.
    """
    check_path(path)
    answer, look = record(_entry(data), "intrinsic dimensions"), style_of(style)
    if not {"tasks", "share"} <= set(answer) or not answer["tasks"]:
        raise BadInput("this is not a record of intrinsic dimensions: it lacks tasks or share")
    with styled(look):
        figure = _dimension(answer, look, title)
        saved(figure, path)
        return figure


def _entry(data: Any) -> Any:
    """The entry of intrinsic dimensions within the answer of the command."""
    whole = record(data, "intrinsic dimensions") if isinstance(data, str | Path) else data
    return whole.get("intrinsic_dimension", whole) if isinstance(whole, Mapping) else whole


def _dimension(answer: Record, look: Style, title: str) -> Figure:
    tasks, share = dict(answer["tasks"]), float(answer["share"])
    tall, below = 0.42 * look.width, rows_height(len(tasks), look, 3.5)
    few = len(tasks) <= COLOURED
    signs = lines_of(tasks, look.tasks)
    texts = named(list(tasks)) if few else ["a task"]
    handles = [
        Line2D([], [], label=text, **(signs[task] if few else _FAINT)) for text, task in zip(texts, tasks, strict=False)
    ]
    handles += _keys_of_reached(tasks, number(share, percent=True))
    keys = [str(handle.get_label()) for handle in handles]
    seeds = [len(of["seeds"]) for of in tasks.values()]
    over = f"mean over {counts(seeds, 'seed')}" if max(seeds) > 1 else "1 seed"
    abbreviated = fitted(list(tasks), ROWS * look.points, look.tick, look.font)
    key = abbreviated.note if few else key_of(abbreviated)  # the legend has few names in full
    facts = "; ".join(filter(None, (over, f"reference: {answer.get('reference', 'full')}", key)))
    around = legend_height(keys, look) + head_height(look, title, facts)
    figure = Canvas(look, tall + below + around, "constrained")
    above, under = figure.subplots(2, 1, sharex=True, height_ratios=[tall, below])
    for task, of in tasks.items():
        points = sorted((int(d), score / of["full"]) for d, score in of["scores"].items() if of["full"] > 0)
        sign = signs[task] if few else _FAINT
        if points:
            above.plot(*zip(*points, strict=True), **sign)
    above.axhline(share, color=INK, linewidth=0.7, linestyle="--")
    above.set_ylabel("score / full score")
    numbers(above.yaxis)
    rows(under, list(tasks), look, True)
    for row, of in enumerate(tasks.values()):
        _reached(under, row, of, look)
    text = f"dimension d; {_d(number(share, percent=True))} is the least that reaches the dashed line"
    written_below(under, text, look, True, 0.5)
    _log(under)
    _log(above)
    text = wrapped_to("\n".join(filter(None, (title, facts))), look.points - 6, look.title, look.font)
    figure.suptitle(text, x=3 / look.points, ha="left", fontsize=look.title)
    legend(above, True, handles, look)
    return figure


_FAINT: dict[str, Any] = {"color": GREY, "linewidth": 0.6}


def _d(share: str) -> str:
    """`d₉₀`, with the share as small digits."""
    return "d" + share.translate(str.maketrans("0123456789", "₀₁₂₃₄₅₆₇₈₉"))


def _keys_of_reached(tasks: Record, share: str) -> list[Any]:
    """The keys of the lower panel: those that occur."""
    name, every = _d(share), list(tasks.values())
    seeds = any(value is not None for of in every for value in of.get("by_seed", {}).values())
    found = Line2D([], [], color=INK, marker="o", markersize=3.5, linewidth=0.8)
    found.set_label(f"{name}, and down to the greatest d that missed it")
    single = Line2D([], [], color=INK, label=f"{name} of single seeds", **_SINGLE)
    beyond = Line2D([], [], color=GREY, marker=">", markersize=4, linestyle="", label="above the greatest d trained")
    kept = (any(of.get("d") is not None for of in every), seeds, any(_beyond(of) for of in every))
    return [key for key, occurs in zip((found, single, beyond), kept, strict=True) if occurs]


def _beyond(of: Record) -> bool:
    return of.get("d") is None and bool(of.get("below"))


_SINGLE: dict[str, Any] = {"marker": 2, "markersize": 2.6, "markeredgewidth": 0.7, "linestyle": ""}
"""A short tick from a row upwards, so that those of neighbouring rows do not look like a line."""


def _reached(axes: Axes, row: int, of: Record, look: Style) -> None:
    """d90 of one task as a point, a line down to the greatest d that missed it, and ticks of single seeds."""
    d, below = of.get("d"), of.get("below") or 0
    if d is None:
        if below:
            axes.plot([below], [row], ">", color=GREY, markersize=4)
        else:
            place: dict[str, Any] = {"transform": axes.get_yaxis_transform(), "va": "center", "color": GREY}
            axes.text(0.02, row, "not known", fontsize=look.smallest, **place)
        return
    axes.plot([max(below, 1), d], [row, row], color=INK, linewidth=0.8)
    axes.plot([d], [row], "o", color=INK, markersize=3.5)
    for value in of.get("by_seed", {}).values():
        if value is not None:
            axes.plot([value], [row - 0.12], color=INK, **_SINGLE)


def _log(axes: Axes) -> None:
    axes.set_xscale("log")
    axes.xaxis.set_major_locator(LogLocator(numticks=6))
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: quantity(value)))


def spectrum(
    data: Any,
    path: str | Path | None = None,
    *,
    ax: Axes | None = None,
    style: Style | str | None = None,
    title: str = "",
) -> Axes:
    """Draw the share of all deltas that the first k components hold, and of random directions of the same norms.

    The band is from the 5 % to the 95 % quantile of random directions: below it the deltas share a subspace no more
    than chance does.

    Args:
        data: the answer of `deltacompose subspace --json` for one composition, or a record of `linear.summary`.
        path: file to write.
        ax: axes to draw in.
        style: of `dc.style`, or the name of a venue.

    Raises:
        BadInput: not such a record.
    """
    check_path(path)
    answer, look = record(data, "a spectrum"), style_of(style)
    seeds = dict(answer.get("by_seed") or {"": answer})
    if not all({"explained", "norms", "parameters"} <= set(of) for of in seeds.values()):
        raise BadInput("this is not a record of a spectrum: it lacks explained, norms or parameters")
    with styled(look):
        axes = opened(ax, look, 0.62 * look.width + 0.4)
        curves = np.array([of["explained"] for of in seeds.values()])
        across = np.arange(1, curves.shape[1] + 1)
        first = next(iter(seeds.values()))
        null = explained_if_random(list(first["norms"].values()), int(first["parameters"]))[: len(across)]
        low, middle, high = (np.array([k[part] for k in null]) for part in ("q05", "mean", "q95"))
        axes.fill_between(across, low, high, color=GREY, alpha=0.35, linewidth=0)
        axes.plot(across, middle, color=GREY, linestyle="--")
        for curve in curves if len(curves) > 1 else ():
            axes.plot(across, curve, color=INK, linewidth=0.4)
        axes.plot(across, curves.mean(axis=0), color=INK, marker="o", markevery=max(1, len(across) // 15))
        axes.set(xlabel="components k", ylabel="share held by k components", ylim=(0, 1.04))
        axes.xaxis.set_major_locator(MaxNLocator(6, integer=True))
        numbers(axes.yaxis)
        keys: list[Any] = [
            Line2D([], [], color=INK, marker="o", label="deltas"),
            Line2D([], [], color=GREY, linestyle="--", label="random directions, same norms"),
            Patch(color=GREY, alpha=0.35, label="5 % to 95 % of them"),
        ]
        if len(curves) > 1:
            keys.insert(1, Line2D([], [], color=INK, linewidth=0.4, label="single seeds"))
        legend(axes, ax is None, keys, look)
        facts = (
            f"{len(first['norms'])} tasks, {counts([len(seeds)], 'seed')}, {quantity(first['parameters'])} parameters"
        )
        entitle(axes, ax is None, title, facts, look)
        saved(figure_of(axes), path)
        return axes
