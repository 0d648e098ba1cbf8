"""The transfer heatmap: sources by targets, with its seeds, its spread and its chance level always on it."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping
from dataclasses import replace
from itertools import groupby
from pathlib import Path
from typing import overload

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from deltacompose.analysis.arrays import Bools
from deltacompose.analysis.matrix import TransferMatrix
from deltacompose.analysis.transfer import tidy_tables as files
from deltacompose.analysis.transfer.uncertainty import Marks
from deltacompose.analysis.units import UNITS
from deltacompose.errors import BadInput
from deltacompose.figures.heatmap_style import CROWDED, DENSE, Ink, dash, keys, mark
from deltacompose.figures.heatmap_values import Cells, cells
from deltacompose.figures.style import (
    INK,
    Look,
    canvas,
    colours_of,
    counted,
    label,
    labels,
    number,
    save,
    styled,
    wrapped,
)
from deltacompose.formats.row_files import csv_header


@overload
def heatmap(
    data: TransferMatrix | pd.DataFrame | str | Path,
    path: str | Path,
    *,
    ax: Axes | None = None,
    value: str = "relative",
    order: str = "category",
    marks: Marks | Bools | None = None,
    look: Look | None = None,
) -> Path: ...


@overload
def heatmap(
    data: TransferMatrix | pd.DataFrame | str | Path,
    path: None = None,
    *,
    ax: Axes | None = None,
    value: str = "relative",
    order: str = "category",
    marks: Marks | Bools | None = None,
    look: Look | None = None,
) -> Axes: ...


def heatmap(
    data: TransferMatrix | pd.DataFrame | str | Path,
    path: str | Path | None = None,
    *,
    ax: Axes | None = None,
    value: str = "relative",
    order: str = "category",
    marks: Marks | Bools | None = None,
    look: Look | None = None,
) -> Path | Axes:
    """Draw a transfer matrix, in a figure of its own or in the caller's axes.

    Rows are sources, columns targets; below the sources stand a random delta, the untouched backbone and chance, in
    the same unit; the first and the last are one row where the random delta was taken for chance. Numbers are means
    over seeds; the title says how many, and how far they spread.

    >>> heatmap(matrix, folder / "heatmap.png").name
    'heatmap.png'

    Args:
        data: a matrix, a tidy table (a DataFrame as of `analysis.transfer.frame`), or a file of either kind of table.
        path: `.pdf`, `.png` or `.svg` file to write; nothing is written without one.
        ax: axes to draw in, which become the frame of the heatmap, its reference rows and its colour scale; without
            them a new figure.
        value: `relative`, `corrected`, `score` or `lift` (`analysis.units.UNITS` has the formulas).
        order: `category` puts the tasks in blocks, `cluster` puts tasks that transfer alike side by side, `given` keeps
            the order of the matrix.
        marks: the result of `uncertainty.marks` for this matrix, or (sources, targets) of booleans in the matrix' own
            order: the cells to mark.

    Returns:
        The path if one is given, else the axes of the sources, whose `figure` is the whole figure.

    Raises:
        BadInput: unknown value, order or suffix; marks of another shape; no chance level for a relative performance; a
            file that is not a valid table of scores.
    """
    matrix, look = _matrix_of(data), look or Look()
    shown = cells(matrix, value, order, marks)
    with styled():
        figure = draw(matrix, shown, order, look) if ax is None else draw_in(ax, matrix, shown, order, look)
        if path is not None:
            return save(figure, Path(path))
        return figure.axes[0] if ax is None else ax


def _matrix_of(data: TransferMatrix | pd.DataFrame | str | Path) -> TransferMatrix:
    """The matrix of any kind of data that a figure takes."""
    if isinstance(data, TransferMatrix):
        return data
    if isinstance(data, pd.DataFrame):
        return files.from_frame(data, name="the data frame")
    path = Path(data)
    tidy = path.suffix == ".parquet" or set(files.COLUMNS) <= set(csv_header(path))
    return files.read(path) if tidy else files.read_scores(path)


def draw(matrix: TransferMatrix, shown: Cells, order: str, look: Look) -> Figure:
    """The heatmap as a matplotlib figure; to be called inside `style.styled()`."""
    rows, columns, below = len(shown.sources), len(shown.targets), len(shown.baselines)
    cell = float(np.clip(0.5 * look.width / columns, 0.15, 0.3))
    names, across = max(len(label(name)) for name in shown.targets), max(1, int(look.width / 1.8))
    legend = keys(shown)
    figure = canvas(look.width, cell * (rows + below) + 0.05 * names + 1.1 + 0.13 * -(-len(legend) // across))
    above, under, bar = figure.subplots(3, 1, height_ratios=[rows * cell, below * cell, 0.08])
    _fill((above, under, bar), matrix, shown, look)
    figure.suptitle(_title(matrix, shown, order, look), x=0.01, ha="left", fontsize=7.5)
    figure.legend(handles=legend, loc="outside lower left", ncols=across, handlelength=1.4, columnspacing=1.2)
    return figure


def draw_in(ax: Axes, matrix: TransferMatrix, shown: Cells, order: str, look: Look) -> Figure:
    """Draw the heatmap inside the caller's axes, as large as they are, and give their figure."""
    figure = ax.get_figure(root=True)
    if figure is None:
        raise BadInput("cannot draw in axes that belong to no figure")
    wide = ax.get_position().width * figure.get_figwidth()
    rows, below = len(shown.sources), len(shown.baselines)
    share = 0.8 / (rows + below)
    ax.set_axis_off()
    parts = (
        ax.inset_axes((0, 1 - share * rows, 0.86, share * rows)),
        ax.inset_axes((0, 0.19, 0.86, share * below)),
        ax.inset_axes((0.88, 0.19, 0.03, 0.81)),
    )
    _fill(parts, matrix, shown, replace(look, width=0.86 * wide / 0.62), vertical=True)
    narrow = replace(look, width=wide)
    ax.set_title(f"{_title(matrix, shown, order, narrow)}\n{wrapped(UNITS[shown.unit], narrow)}", loc="left")
    return figure


def _fill(
    parts: tuple[Axes, Axes, Axes], matrix: TransferMatrix, shown: Cells, look: Look, vertical: bool = False
) -> None:
    """Draw the sources, the reference rows and the colour scale into three axes."""
    above, under, bar = parts
    ink = Ink.of(shown, look)
    ink.paint(above, shown.mean, shown.sd)
    ink.paint(under, np.array(list(shown.baselines.values())), None)
    dash(under, shown.unscaled)
    dash(under, shown.unrated, "?")
    mark(above, shown, ink)
    _name(above, under, shown)
    if not vertical:
        _frame_blocks(above, shown, matrix.categories, look.categories)
    way = "vertical" if vertical else "horizontal"
    scale = bar.figure.colorbar(above.collections[0], cax=bar, orientation=way, extend=ink.extend)
    scale.outline.set_visible(False)
    axis = bar.yaxis if vertical else bar.xaxis
    axis.set_label_text("" if vertical else textwrap.fill(UNITS[shown.unit], max(20, int(16 * look.width))))
    axis.set_major_formatter(lambda at, _: number(at, signed=ink.signed))


def _name(above: Axes, under: Axes, shown: Cells) -> None:
    """Names at the rows and columns; the columns' stand once, below the last row."""
    names = list(dict.fromkeys((*shown.targets, *shown.sources)))
    text = dict(zip(names, labels(names), strict=True))
    above.set_ylabel("source")
    under.set_xlabel("target")
    above.set_yticks(np.arange(len(shown.sources)) + 0.5, [text[name] for name in shown.sources], rotation=0)
    under.set_yticks(np.arange(len(shown.baselines)) + 0.5, list(shown.baselines), rotation=0, style="italic")
    steep = 90 if len(shown.targets) > 9 else 35
    places, below = np.arange(len(shown.targets)) + 0.5, [text[name] for name in shown.targets]
    above.set_xticks([])
    if steep == 90:
        under.set_xticks(places, below, rotation=90)
    else:
        under.set_xticks(places, below, rotation=steep, ha="right", rotation_mode="anchor")
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
    """Sentence on the runs behind the means, and on whether their spread is known."""
    if matrix.averaged_over is not None:
        return f"published mean over {matrix.averaged_over or 'an unknown number of'} runs; spread not given"
    count = len(matrix.seeds)
    return f"mean over {counted(count, 'seed')}" if count > 1 else "1 seed, so no spread is known"


def _title(matrix: TransferMatrix, shown: Cells, order: str, look: Look) -> str:
    """Title with the composition, the number of seeds and their spread; every heatmap has it."""
    facts = [runs(matrix)]
    if shown.spread:
        facts.append(f"sd over seeds: median {number(shown.spread[0])}, largest {number(shown.spread[1])}")
    if CROWDED >= len(shown.targets) > DENSE:
        facts.append("values in hundredths")
    if order == "cluster":
        facts.append("tasks ordered by average linkage")
    return wrapped(matrix.composition or "transfer matrix", look) + "\n" + wrapped("; ".join(facts), look)
