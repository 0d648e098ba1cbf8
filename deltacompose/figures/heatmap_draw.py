"""Draws a planned heatmap into axes: cells, names, categories; and below them scale, marks and keys."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection
from matplotlib.legend import Legend
from matplotlib.patches import Patch, Rectangle
from matplotlib.transforms import ScaledTranslation, Transform
from scipy.cluster import hierarchy

from deltacompose.analysis.arrays import Floats
from deltacompose.figures.frames import figure_of
from deltacompose.figures.heatmap_layout import COLOURED, PAD, Blocks, Plan, columns_of
from deltacompose.figures.heatmap_style import Ink, dash, keys, mark, readable_on
from deltacompose.figures.heatmap_values import Cells
from deltacompose.figures.labels import LINE, label, legend_width, width_of, wrapped_to
from deltacompose.figures.palette import INK, PALE, colours_of
from deltacompose.figures.rounding import number
from deltacompose.figures.venues import Style


def grid(
    axes: Axes, shown: Cells, ink: Ink, plan: Plan, look: Style, ends: tuple[str, str] = ("source", "target")
) -> None:
    """The cells of sources and of the rows of reference, the names at both axes, and the categories.

    Args:
        ends: what the rows and the columns are called; an empty one leaves its names out as well.
    """
    rows, columns = len(shown.sources), len(shown.targets)
    heights = np.array(plan.heights) / plan.cell
    edges = rows + plan.gap / plan.cell + np.concatenate([[0.0], np.cumsum(heights)])
    bottom = float(edges[-1]) if len(heights) else float(rows)
    axes.set(xlim=(0, columns), ylim=(bottom, 0), aspect="equal")
    axes.set_anchor("NW")
    for side in ("top", "right", "bottom", "left"):
        axes.spines[side].set_visible(False)
    ink.paint(axes, shown.mean, shown.sd)
    if len(heights):
        ink.paint(axes, np.array(list(shown.baselines.values())), None, edges)
        dash(axes, shown.unscaled, edges, ink.cell)
        dash(axes, shown.unrated, edges, ink.cell, "?")
    mark(axes, shown, ink)
    _ticks(axes, shown, plan, look, (edges[:-1] + edges[1:]) / 2, ends)
    if plan.blocks is not None:
        _strips(axes, plan.blocks, plan, look, (rows, columns))


def _ticks(axes: Axes, shown: Cells, plan: Plan, look: Style, level_rows: Floats, ends: tuple[str, str]) -> None:
    text = plan.labels.shown
    rows = [(place + 0.5, text[name]) for place, name in enumerate(shown.sources) if _stands(text[name], plan, 0)]
    levels = list(zip(level_rows.tolist(), plan.levels, strict=True)) if len(plan.levels) else []
    columns = [(place + 0.5, text[name]) for place, name in enumerate(shown.targets) if _stands(text[name], plan, 1)]
    row_name, column_name = ends
    axes.set_yticks([at for at, _ in (*rows, *levels)] if row_name else [])
    axes.set_xticks([at for at, _ in columns] if column_name else [])
    if row_name:
        for tick, (_, name) in zip(
            axes.set_yticklabels([name for _, name in (*rows, *levels)]), (*rows, *levels), strict=True
        ):
            tick.set_fontsize(plan.label_size)
            if name in plan.levels:
                tick.set(style="italic", fontsize=look.tick)
        axes.set_ylabel(row_name, labelpad=PAD)
    if column_name:
        turned: dict[str, Any] = {"rotation": 90, "va": "top"} if plan.upright else {}
        axes.set_xticklabels([name for _, name in columns], fontsize=plan.label_size, **turned)
        axes.set_xlabel(column_name, labelpad=PAD / 2)
    axes.tick_params(length=0, pad=PAD * 0.7)


def _stands(text: str, plan: Plan, axis: int) -> bool:
    """Whether a label is printed: all names, and of numbers the first and every so many."""
    step = plan.steps[axis]
    return step == 1 or int(text) % step == 0 or (text == "1" and step > 2)


def _strips(axes: Axes, blocks: Blocks, plan: Plan, look: Style, shape: tuple[int, int]) -> None:
    """A strip of colour per category right of the rows and above the columns, with letters where there are no names."""
    kinds = [name for _, _, name in (*blocks.rows, *blocks.columns)]
    colours = colours_of(kinds, look.categories)
    few = _coloured(kinds, look)
    wide, off = plan.strip / plan.cell, PAD / plan.cell
    line = 0.0 if blocks.scattered else 0.7 if plan.cell >= 8 else 0.4
    for runs, upright in ((blocks.rows, True), (blocks.columns, False)):
        for number_of_run, (first, length, name) in enumerate(runs):
            corner = (shape[1] + off, first) if upright else (first, -off - wide)
            size = (wide, length) if upright else (length, wide)
            if first:
                (axes.axhline if upright else axes.axvline)(
                    first, *(() if upright else _share(axes, shape[0])), color=INK, linewidth=line, zorder=3
                )
            if upright and not blocks.beside:
                continue
            colour = colours[name] if few else (PALE, "#f2f2f2")[number_of_run % 2]
            axes.add_patch(Rectangle(corner, *size, facecolor=colour, edgecolor="white", linewidth=0.6, clip_on=False))
            if blocks.names and upright:
                place = shape[1] + off + wide + off
                axes.text(place, first + length / 2, blocks.names[name], va="center", fontsize=look.tick, color=INK)
            if length * plan.cell >= 1.1 * look.smallest:
                middle = (corner[0] + size[0] / 2, corner[1] + size[1] / 2)
                letter = blocks.letters[name]
                axes.text(*middle, letter, ha="center", va="center", fontsize=look.smallest, color=readable_on(colour))


def dendrogram(axes: Axes, tree: Floats, plan: Plan) -> None:
    """The tree of a linkage above the columns, which stand in the order of its leaves."""
    drawn = hierarchy.dendrogram(tree, no_plot=True)
    tallest = max(max(heights) for heights in drawn["dcoord"]) or 1.0
    low, high = plan.tree / plan.cell, (plan.top - plan.tree - PAD) / plan.cell
    lines = [
        [(x / 10, -low - high * y / tallest) for x, y in zip(across, heights, strict=True)]
        for across, heights in zip(drawn["icoord"], drawn["dcoord"], strict=True)
    ]
    axes.add_collection(LineCollection(lines, colors=INK, linewidths=0.5, clip_on=False), autolim=False)


def _share(axes: Axes, rows: int) -> tuple[float, float]:
    """The part of the axes' height that the sources take, from the top."""
    bottom = axes.get_ylim()[0]
    return 1 - rows / bottom, 1.0


def below(
    axes: Axes,
    shown: Cells,
    ink: Ink,
    plan: Plan,
    look: Style,
    room: float,
    start: float,
    notes: str = "",
    bar: bool = True,
) -> float:
    """The colour scale, the keys of marks, of categories and of names below the axes; gives their height in points.

    Args:
        room: how wide they may be, from the left end of the names on.
        start: points below the axes where they begin.
        notes: a further line.
    """
    left, down = -plan.left + PAD, start
    if bar:
        down += _bar(axes, shown, ink, plan, look, room, down)
    for handles in (keys(shown), _colour_keys(plan, look)):
        if handles:
            down += _marks(axes, handles, look, room, (left, down))
    for text in filter(None, (_letter_key(plan, look), plan.labels.note, notes)):
        lines = wrapped_to(text, room, look.tick, look.font)
        _write(axes, lines, (left, down), look.tick)
        down += LINE * look.tick * (1 + lines.count("\n")) + PAD
    size = max(look.smallest, look.tick - 1)
    parts = columns_of(plan.labels.entries, room, size, look.font)
    for across, part in enumerate(parts):
        _write(axes, part, (left + across * (room + 2 * size) / len(parts), down), size)
    down += max((LINE * size * (1 + part.count("\n")) for part in parts), default=0.0)
    return down - start + PAD


def _coloured(kinds: Sequence[str], look: Style) -> bool:
    """Whether colours identify categories; there are as many as have one of their own."""
    return len({*kinds, *look.categories}) <= COLOURED


def _kinds(plan: Plan) -> list[str]:
    """The categories that need a key, in the order of their letters."""
    if plan.blocks is None or plan.blocks.names:
        return []
    letters = plan.blocks.letters
    return sorted({name for _, _, name in (*plan.blocks.rows, *plan.blocks.columns)}, key=letters.__getitem__)


def _colour_keys(plan: Plan, look: Style) -> list[Patch]:
    """Keys of the colours and letters of few categories."""
    kinds = _kinds(plan)
    if plan.blocks is None or not _coloured(kinds, look):
        return []
    colours, letters = colours_of(kinds, look.categories), plan.blocks.letters
    return [Patch(facecolor=colours[name], label=f"{letters[name]} {label(name, 60)}") for name in kinds]


def _letter_key(plan: Plan, look: Style) -> str:
    """Key of the letters of many categories, which have no colours."""
    kinds = _kinds(plan)
    if plan.blocks is None or not kinds or _coloured(kinds, look):
        return ""
    return "categories: " + ", ".join(f"{plan.blocks.letters[name]} {label(name, 60)}" for name in kinds)


def at(axes: Axes, right: float, down: float) -> Transform:
    """Points right of and below the lower left corner of axes."""
    return axes.transAxes + ScaledTranslation(right / 72, -down / 72, figure_of(axes).dpi_scale_trans)


def _write(axes: Axes, text: str, place: tuple[float, float], size: float) -> None:
    axes.text(0, 0, text, transform=at(axes, *place), va="top", ha="left", fontsize=size, color=INK)


def _bar(axes: Axes, shown: Cells, ink: Ink, plan: Plan, look: Style, room: float, down: float) -> float:
    """The colour scale; gives its height in points."""
    wide, high = plan.cell * len(shown.targets), plan.cell * len(shown.sources) + plan.grid_height
    long = min(max(wide, 0.6 * room), room - plan.left - 2 * look.tick)
    thick = 0.75 * look.text
    inset = axes.inset_axes((0, -(down + thick) / high, long / wide, thick / high))
    mesh = next(each for each in axes.collections if each.get_label() == "values")
    scale = figure_of(axes).colorbar(mesh, cax=inset, orientation="horizontal", extend=ink.extend)
    scale.outline.set_visible(False)
    ticks = _round_ticks(ink, long, look)
    scale.set_ticks(ticks, labels=[number(value, signed=ink.signed, percent=ink.percent) for value in ticks])
    inset.tick_params(length=2, pad=1.5, width=0.5)
    text = shown.axis_label + (" (in hundredths)" if ink.percent else "")
    lines = wrapped_to(text, room - plan.left, look.text, look.font)
    inset.set_xlabel("")
    label_at = down + thick + 2 + 1.5 + LINE * look.tick + 1
    _write(axes, lines, (0, label_at), look.text)
    return thick + 4.5 + LINE * look.tick + LINE * look.text * (1 + lines.count("\n")) + PAD


def _round_ticks(ink: Ink, long: float, look: Style) -> list[float]:
    """Round values along the scale whose numbers do not touch."""
    span = ink.high - ink.low
    wide = 1.6 * width_of(number(ink.low, signed=ink.signed, percent=ink.percent), look.tick, look.font)
    for step in (0.01, 0.02, 0.05, 0.1, 0.25, 0.5, 1.0, 2.0, 5.0, 10.0, 20.0, 50.0, 100.0, 200.0, 500.0, 1000.0):
        first, last = np.ceil(ink.low / step - 1e-9), np.floor(ink.high / step + 1e-9)
        if (last - first + 1) * wide <= long and last - first <= 8:
            return [float(value) for value in step * np.arange(first, last + 1)] or [(ink.low + ink.high) / 2]
    return [ink.low + span / 2]


def _marks(axes: Axes, handles: Sequence[Any], look: Style, room: float, place: tuple[float, float]) -> float:
    """The keys of marks in as many columns as fit; gives their height in points."""
    widths = [width_of(handle.get_label(), look.tick, look.font) + 3.4 * look.tick for handle in handles]
    across = next(n for n in range(len(handles), 0, -1) if n == 1 or legend_width(widths, n) <= room)
    legend = Legend(
        axes,
        handles,
        [wrapped_to(handle.get_label(), room - 2.5 * look.tick, look.tick, look.font) for handle in handles],
        loc="upper left",
        bbox_to_anchor=(0, 0),
        bbox_transform=at(axes, *place),
        borderaxespad=0,
        borderpad=0,
        ncols=across,
        handlelength=1.4,
        handletextpad=0.5,
        columnspacing=1.2,
        labelspacing=0.35,
        fontsize=look.tick,
    )
    axes.add_artist(legend)
    legend.set_clip_on(False)
    return -(-len(handles) // across) * 1.5 * look.tick + PAD
