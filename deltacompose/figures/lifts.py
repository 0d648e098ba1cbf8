"""Figure of the lift: what training gave each task over the untouched backbone, with intervals."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from deltacompose.analysis.transfer.lift import Lift, lifts
from deltacompose.analysis.units import ordered
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

__all__ = ["Lift", "dots", "draw", "lifts"]


def dots(rows: Sequence[Lift], path: str | Path, look: Look | None = None) -> Path:
    """Draw lifts with their intervals, tasks down, one colour and shape per composition, and give the path.

    Raises:
        BadInput: no lifts, or another suffix than `.pdf`, `.png` and `.svg`.
    """
    with styled():
        return save(draw(rows, look or Look()), Path(path))


def draw(rows: Sequence[Lift], look: Look) -> Figure:
    """The lifts as a matplotlib figure; to be called inside `style.styled()`."""
    if not rows:
        raise BadInput("no lift over the untouched backbone is known, so there is none to draw")
    names = list(dict.fromkeys(lift.composition for lift in rows))
    categories = {lift.task: lift.category for lift in rows}
    tasks = ordered(dict.fromkeys(lift.task for lift in rows), categories)
    figure = canvas(look.width, (0.1 + 0.1 * len(names)) * len(tasks) + 1.1)
    axes = figure.subplots()
    colours, markers = colours_of(names, look.compositions), markers_of(names, look.compositions)
    keys = []
    for place, name in enumerate(names):
        sign: dict[str, Any] = {"color": colours[name], "marker": markers[name]}
        offset = (place + 0.5) / len(names) * 0.8 - 0.4
        _row(
            axes,
            [lift for lift in rows if lift.composition == name],
            {t: i + offset for i, t in enumerate(tasks)},
            sign,
        )
        keys.append(Line2D([], [], linestyle="", markersize=3.5, label=label(name, 60), **sign))
    _frame(axes, tasks, categories)
    parts = f"lift on the task trained on; mean over {_seeds(rows)}; {_intervals(rows)}"
    figure.suptitle(wrapped(parts, look), x=0.01, ha="left", fontsize=7.5)
    figure.legend(handles=keys, loc="outside lower left", ncols=1 if len(names) < 5 else 2)
    return figure


def _seeds(rows: Sequence[Lift]) -> str:
    counts = sorted({lift.seeds for lift in rows if lift.seeds} or {0})
    return counted(counts[0], "seed") if len(counts) == 1 else f"{counts[0]} to {counted(counts[-1], 'seed')}"


def _intervals(rows: Sequence[Lift]) -> str:
    """Sources of variation that the intervals cover, and the meaning of a hollow dot."""
    covers = sorted({lift.covers for lift in rows if lift.verdict != "unknown"})
    hollow = any(lift.verdict == "unknown" and not np.isnan(lift.value) for lift in rows)
    parts = [f"95 % intervals over {', '.join(covers)}"] if covers else []
    return "; ".join([*parts, *(["hollow: no interval known"] if hollow else [])])


def _row(axes: Axes, drawn: Sequence[Lift], rows: Mapping[str, float], sign: Mapping[str, Any]) -> None:
    """One composition's dots, hollow where no interval is known."""
    for lift in drawn:
        if np.isnan(lift.value):
            continue
        row = rows[lift.task]
        hollow = {"markerfacecolor": "white"} if lift.verdict == "unknown" else {}
        axes.plot([lift.value], [row], **{**sign, "linestyle": "", "markersize": 3.5, "zorder": 3, **hollow})
        if not hollow:
            axes.plot([lift.low, lift.high], [row, row], color=sign["color"], linewidth=0.9)


def _frame(axes: Axes, tasks: Sequence[str], categories: Mapping[str, str]) -> None:
    """Names of the tasks, lines between categories, and the zero line."""
    axes.axvline(0, color=INK, linewidth=0.7)
    axes.set_yticks(range(len(tasks)), [label(task) for task in tasks])
    axes.set_ylim(len(tasks) - 0.5, -0.5)
    axes.set_xlabel("A(t→t) − A(∅→t)")
    axes.xaxis.set_major_formatter(lambda at, _: number(at, signed=True))
    axes.tick_params(axis="y", length=0)
    first = 0
    for category, members in groupby(tasks, key=lambda task: categories[task]):
        length = len(list(members))
        axes.axhline(first - 0.5, color=GREY, linewidth=0.4)
        axes.text(
            1.01, first + (length - 1) / 2, label(category, 20), transform=axes.get_yaxis_transform(), va="center"
        )
        first += length
