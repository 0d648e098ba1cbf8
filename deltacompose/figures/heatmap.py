"""The transfer heatmap: sources by targets, with its seeds, its spread and its chance level always on it."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping
from itertools import groupby
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from deltacompose.analysis.matrix import Bools, TransferMatrix
from deltacompose.analysis.transfer.uncertainty import Marks
from deltacompose.analysis.units import UNITS
from deltacompose.figures.heatmap_style import DENSE, Ink, dash, keys, mark
from deltacompose.figures.heatmap_values import Cells, cells
from deltacompose.figures.style import (
    INK,
    Look,
    canvas,
    colours_of,
    counted,
    label,
    number,
    save,
    styled,
    wrapped,
)


def heatmap(
    matrix: TransferMatrix,
    path: str | Path,
    *,
    value: str = "relative",
    order: str = "category",
    marks: Marks | Bools | None = None,
    look: Look | None = None,
) -> Path:
    """Draw a transfer matrix to a `.pdf`, `.png` or `.svg` file, and give its path.

    Rows are sources, columns targets; below the sources stand a random delta, the untouched backbone and chance, in
    the same unit; the first and the last are one row where the random delta was taken for chance. Numbers are means
    over seeds; the title says how many, and how far they spread.

    Args:
        value: `relative`, `corrected`, `score` or `lift` (`figures.cells.UNITS` has the formulas).
        order: `category` puts the tasks in blocks, `cluster` puts tasks that transfer alike side by side.
        marks: what `uncertainty.marks` found in this matrix, or (sources, targets) of booleans in the matrix' own
            order: the cells to mark.

    Raises:
        BadInput: unknown value, order or suffix; marks of another shape; no chance level for a relative performance.
    """
    shown = cells(matrix, value, order, marks)
    with styled():
        return save(draw(matrix, shown, order, look or Look()), Path(path))


def draw(matrix: TransferMatrix, shown: Cells, order: str, look: Look) -> Figure:
    """The heatmap as a matplotlib figure; to be called inside `style.styled()`."""
    rows, columns, below = len(shown.sources), len(shown.targets), len(shown.baselines)
    cell = float(np.clip(0.5 * look.width / columns, 0.15, 0.3))
    names, across = max(len(label(name)) for name in shown.targets), max(1, int(look.width / 1.8))
    legend = keys(shown)
    figure = canvas(look.width, cell * (rows + below) + 0.05 * names + 1.1 + 0.13 * -(-len(legend) // across))
    above, under, bar = figure.subplots(3, 1, height_ratios=[rows * cell, below * cell, 0.08])
    ink = Ink.of(shown, look)
    ink.paint(above, shown.mean, shown.sd)
    ink.paint(under, np.array(list(shown.baselines.values())), None)
    dash(under, shown.unscaled)
    dash(under, shown.unrated, "?")
    mark(above, shown, ink)
    _name(above, under, shown)
    _frame_blocks(above, shown, matrix.categories, look.categories)
    scale = figure.colorbar(above.collections[0], cax=bar, orientation="horizontal", extend=ink.extend)
    scale.outline.set_visible(False)
    bar.set_xlabel(UNITS[shown.unit])
    bar.xaxis.set_major_formatter(lambda at, _: number(at, signed=ink.signed))
    figure.suptitle(_title(matrix, shown, order, look), x=0.01, ha="left", fontsize=7.5)
    figure.legend(handles=legend, loc="outside lower left", ncols=across, handlelength=1.4, columnspacing=1.2)
    return figure


def _name(above: Axes, under: Axes, shown: Cells) -> None:
    """Names at the rows and columns; the columns' stand once, below the last row."""
    above.set_ylabel("source")
    under.set_xlabel("target")
    above.set_yticks(np.arange(len(shown.sources)) + 0.5, [label(name) for name in shown.sources], rotation=0)
    under.set_yticks(np.arange(len(shown.baselines)) + 0.5, list(shown.baselines), rotation=0, style="italic")
    steep = 90 if len(shown.targets) > 9 else 35
    places, names = np.arange(len(shown.targets)) + 0.5, [label(name) for name in shown.targets]
    above.set_xticks([])
    if steep == 90:
        under.set_xticks(places, names, rotation=90)
    else:
        under.set_xticks(places, names, rotation=steep, ha="right", rotation_mode="anchor")
    for axes in (above, under):
        axes.tick_params(length=0, pad=2)


def _frame_blocks(axes: Axes, shown: Cells, categories: Mapping[str, str], study: tuple[str, ...]) -> None:
    """A strip of colour per category right of the rows and above the columns, lines between blocks, and their names."""
    if not categories:
        return
    colours = colours_of(categories.values(), study)
    wide, high = 0.018 * len(shown.targets), 0.02 * len(shown.sources)
    right = len(shown.targets) * 1.01
    rows, columns = _runs(shown.sources, categories), _runs(shown.targets, categories)
    line = 0.7 if len(rows) == len({name for _, _, name in rows}) else 0.0  # no lines where blocks are scattered
    for first, length, name in rows:
        axes.add_patch(
            Rectangle(
                (right, first), wide, length, facecolor=colours[name], edgecolor="white", linewidth=0.6, clip_on=False
            )
        )
        lines = textwrap.wrap(label(name, 32), 15)
        text = "\n".join(lines) if len(lines) <= length else label(name, 16)
        axes.text(right + 1.5 * wide, first + length / 2, text, va="center", fontsize=6.5, color=INK)
        axes.axhline(first, color=INK, linewidth=line if first else 0)
    for first, length, name in columns:
        axes.add_patch(
            Rectangle(
                (first, -1.5 * high),
                length,
                high,
                facecolor=colours[name],
                edgecolor="white",
                linewidth=0.6,
                clip_on=False,
            )
        )
        axes.axvline(first, color=INK, linewidth=line if first else 0)


def _runs(names: tuple[str, ...], categories: Mapping[str, str]) -> list[tuple[int, int, str]]:
    """Neighbours of one category: where a run starts, how long it is, and the category."""
    runs, first = [], 0
    for category, members in groupby(names, key=lambda name: categories[name]):
        length = len(list(members))
        runs.append((first, length, category))
        first += length
    return runs


def runs(matrix: TransferMatrix) -> str:
    """What the numbers are means over, and whether a spread can be known."""
    if matrix.averaged_over is not None:
        return f"published mean over {matrix.averaged_over or 'an unknown number of'} runs; spread not given"
    count = len(matrix.seeds)
    return f"mean over {counted(count, 'seed')}" if count > 1 else "1 seed, so no spread is known"


def _title(matrix: TransferMatrix, shown: Cells, order: str, look: Look) -> str:
    """What is shown, over how many seeds, and how far they spread: no heatmap is without this."""
    facts = [runs(matrix)]
    if shown.spread:
        facts.append(f"sd over seeds: median {number(shown.spread[0])}, largest {number(shown.spread[1])}")
    if len(shown.targets) > DENSE:
        facts.append("values in hundredths")
    if order == "cluster":
        facts.append("tasks ordered by average linkage")
    return wrapped(matrix.composition or "transfer matrix", look) + "\n" + wrapped("; ".join(facts), look)
