"""Figure of the lift: what training gave each task over the untouched backbone, with intervals."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from deltacompose.analysis.transfer.lift import Lift, lifts
from deltacompose.analysis.transfer.published import matrices_of
from deltacompose.analysis.units import ordered
from deltacompose.errors import BadInput
from deltacompose.figures.frames import (
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
    rows,
    saved,
)
from deltacompose.figures.heatmap_layout import runs_of
from deltacompose.figures.labels import LINE, Labels, label, wrapped_to
from deltacompose.figures.palette import GREY, INK, letters_of, lines_of
from deltacompose.figures.rounding import counted
from deltacompose.figures.style import styled
from deltacompose.figures.venues import Style, style_of

__all__ = ["Lift", "dots", "draw", "lift", "lifts"]


def lift(
    data: Any,
    path: str | Path | None = None,
    *,
    ax: Axes | None = None,
    style: Style | str | None = None,
    title: str = "",
) -> Axes:
    """Draw what training gave each task over the untouched backbone, with 95 % intervals, a row per task.

    Args:
        data: findings, one or several transfer matrices or what `heatmap` takes, or lifts.
        path: file to write.
        ax: axes to draw in.
        style: of `dc.style`, or the name of a venue.

    Raises:
        BadInput: no lift is known.
    """
    check_path(path)
    look = style_of(style)
    with styled(look):
        axes = _draw(_lifts_of(data), look, ax, title)
        saved(figure_of(axes), path)
        return axes


def _lifts_of(data: Any) -> list[Lift]:
    if isinstance(data, list | tuple) and all(isinstance(each, Lift) for each in data):
        return list(data)
    matrices = {name: replace(matrix, composition=name) for name, matrix in matrices_of(data).items()}
    return [each for matrix in matrices.values() for each in lifts(matrix) if not np.isnan(each.value)]


def dots(table_rows: Sequence[Lift], path: str | Path, look: Style | None = None) -> Path:
    """Draw lifts to a file, and give its path."""
    lift(list(table_rows), path, style=look)
    return Path(path)


def draw(table_rows: Sequence[Lift], look: Style) -> Figure:
    """The lifts as a matplotlib figure; to be called inside `style.styled()`."""
    return figure_of(_draw(table_rows, look, None, ""))


def _draw(table_rows: Sequence[Lift], look: Style, ax: Axes | None, title: str) -> Axes:
    if not table_rows:
        raise BadInput("no lift over the untouched backbone is known, so there is none to draw")
    names = list(dict.fromkeys(each.composition for each in table_rows))
    categories = {each.task: each.category for each in table_rows}
    tasks = ordered(dict.fromkeys(each.task for each in table_rows), categories)
    texts = named(names)
    each_row = (0.5 + max(1.0, 0.75 * len(names))) * look.tick
    blocks = _blocks(tasks, categories, look, each_row)
    facts = f"lift on the task trained on; {_seeds(table_rows)}; {_intervals(table_rows)}"
    if blocks.key:
        facts += f"; {blocks.key}"
    tall = (each_row * len(tasks) + 5 * look.text) / 72 + legend_height(texts, look) + head_height(look, title, facts)
    axes = opened(ax, look, tall + 0.2)
    signs, keys = lines_of(names, look.compositions), []
    for place, name in enumerate(names):
        sign = {**signs[name], "linestyle": ""}
        offset = (place + 0.5) / len(names) * 0.8 - 0.4
        own = [each for each in table_rows if each.composition == name]
        _row(axes, own, {task: i + offset for i, task in enumerate(tasks)}, sign)
        keys.append(Line2D([], [], markersize=3.5, label=texts[place], **sign))
    labels = _frame(axes, tasks, blocks, look, ax is None)
    entitle(axes, ax is None, title, "; ".join(filter(None, (facts, key_of(labels)))), look)
    legend(axes, ax is None, keys, look)
    return axes


def _seeds(table_rows: Sequence[Lift]) -> str:
    counts = sorted({lift.seeds for lift in table_rows if lift.seeds} or {0})
    if counts == [1]:
        return "1 seed"
    return f"mean over {counted(counts[0], 'seed') if len(counts) == 1 else f'{counts[0]} to {counts[-1]} seeds'}"


def _intervals(table_rows: Sequence[Lift]) -> str:
    """Sources of variation of the intervals, and the meaning of hollow dots."""
    covers = sorted({lift.covers for lift in table_rows if lift.verdict != "unknown"})
    hollow = any(lift.verdict == "unknown" and not np.isnan(lift.value) for lift in table_rows)
    said = [f"95 % intervals over {', '.join(covers)}"] if covers else []
    return "; ".join([*said, *(["hollow: no interval known"] if hollow else [])])


def _row(axes: Axes, table_rows: Sequence[Lift], rows: Mapping[str, float], sign: Mapping[str, Any]) -> None:
    """One composition's dots, hollow where no interval is known."""
    for lift in table_rows:
        if np.isnan(lift.value):
            continue
        row = rows[lift.task]
        hollow = {"markerfacecolor": "white"} if lift.verdict == "unknown" else {}
        axes.plot([lift.value], [row], **{**sign, "linestyle": "", "markersize": 3.5, "zorder": 3, **hollow})
        if not hollow:
            axes.plot([lift.low, lift.high], [row, row], color=sign["color"], linewidth=0.9)


@dataclass(frozen=True)
class _Blocks:
    """Neighbours of one category: first row, length and printed name of each, and the key of letters, where there are.

    Names stand at all blocks or at none: where one has no room, letters stand in their place.
    """

    rows: tuple[tuple[int, int, str], ...]
    key: str = ""


def _blocks(tasks: Sequence[str], categories: Mapping[str, str], look: Style, each_row: float) -> _Blocks:
    runs = runs_of(tasks, categories)
    texts = {
        name: wrapped_to(label(name, 60), 0.2 * look.points, look.tick, look.font) if name else "" for *_, name in runs
    }
    if all((1 + texts[name].count("\n")) * LINE * look.tick <= 0.95 * length * each_row for _, length, name in runs):
        return _Blocks(tuple((first, length, texts[name]) for first, length, name in runs))
    letters = letters_of(filter(None, texts), look.categories)
    key = "categories: " + ", ".join(f"{letter} {label(name, 60)}" for name, letter in letters.items() if name in texts)
    return _Blocks(tuple((first, length, letters.get(name, "")) for first, length, name in runs), key)


def _frame(axes: Axes, tasks: Sequence[str], blocks: _Blocks, look: Style, own: bool) -> Labels:
    """Names of the tasks, lines between categories, and the zero line."""
    axes.axvline(0, color=INK, linewidth=0.7)
    labels = rows(axes, tasks, look, own, 0.3)
    axes.set_xlabel("A(t→t) − A(∅→t)")
    numbers(axes.xaxis, signed=True, most=4)
    for first, length, name in blocks.rows:
        if first:
            axes.axhline(first - 0.5, color=GREY, linewidth=0.4)
        middle = first + (length - 1) / 2
        axes.text(1.01, middle, name, transform=axes.get_yaxis_transform(), va="center", fontsize=look.tick)
    return labels
