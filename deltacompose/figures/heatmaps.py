"""The transfer heatmap: sources by targets, with its seeds, its spread and its chance level always on it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.transforms import ScaledTranslation

from deltacompose.analysis.arrays import Bools, Floats
from deltacompose.analysis.matrix import TransferMatrix
from deltacompose.analysis.transfer.published import matrix_in_shares
from deltacompose.analysis.transfer.uncertainty import Marks
from deltacompose.errors import BadInput
from deltacompose.figures.frames import figure_of
from deltacompose.figures.heatmap_draw import below, dendrogram, grid
from deltacompose.figures.heatmap_layout import PAD, Plan, plan
from deltacompose.figures.heatmap_style import Ink
from deltacompose.figures.heatmap_values import Cells, cells
from deltacompose.figures.labels import LINE, height_of, label, wrapped_to
from deltacompose.figures.rounding import counted, number
from deltacompose.figures.style import Canvas, format_of, save, styled
from deltacompose.figures.venues import Style, style_of


@dataclass(frozen=True)
class Options:
    """Options of a heatmap; see `heatmap`."""

    title: str | None = None
    limits: tuple[float, float] | None = None
    annotate: str = "auto"
    digits: int = 2
    percent: bool = False
    transpose: bool = False
    baselines: bool = True
    colorbar: bool = True


def heatmap(
    data: TransferMatrix | pd.DataFrame | str | Path,
    path: str | Path | None = None,
    *,
    ax: Axes | None = None,
    style: Style | str | None = None,
    value: str = "relative",
    order: str = "category",
    marks: Marks | Bools | None = None,
    title: str | None = None,
    limits: tuple[float, float] | None = None,
    annotate: str = "auto",
    digits: int = 2,
    percent: bool = False,
    transpose: bool = False,
    baselines: bool = True,
    colorbar: bool = True,
) -> Axes:
    """Draw a transfer matrix, in a figure of its own or in the caller's axes.

    Rows are sources, columns targets; below the sources stand a random delta, the untouched backbone and chance, in
    the same unit; the first and the last are one row where the random delta was taken for chance. A row that is not
    known at all is left out, and the title says so. Numbers are means over seeds; the title says how many, and how far
    they spread.

    Args:
        data: a matrix, a table (a DataFrame or an xarray, tidy or wide, see `analysis.transfer.published`), or a file
            of one: `.csv`, `.tsv`, `.xlsx` or `.parquet`.
        path: `.pdf`, `.png` or `.svg` file to write; nothing is written without one.
        ax: axes to draw in, whose size decides that of the cells; keys stand below them. Without axes a new figure is
            made, as wide as the style and as high as the matrix needs.
        style: of `dc.style`, or the name of a venue.
        value: `relative`, `corrected`, `score` or `lift` (`analysis.units.UNITS` has the formulas).
        order: `category` puts the tasks in blocks, `cluster` puts tasks that transfer alike side by side, `given` keeps
            the order of the matrix.
        marks: the result of `uncertainty.marks` for this matrix, or (sources, targets) of booleans in the matrix' own
            order: the cells to mark.
        title: in place of the composition; what the numbers are means over is always below it.
        limits: least and greatest value of the colour scale; values beyond are shown by an arrow on it.
        annotate: `spread` prints the value and its spread in each cell, `value` the value, `none` nothing, `auto` what
            fits at a legible size.
        digits: digits after the point.
        percent: numbers in hundredths; a table may have percentages too.
        transpose: targets as rows.
        baselines: whether the rows of reference are drawn; without them the title says so.
        colorbar: whether there is a colour scale.

    Returns:
        The axes of the cells, whose `figure` is the whole figure.

    Raises:
        BadInput: unknown value, order, form or suffix; marks of another shape; no chance level for a relative
            performance; a file that is not a valid table of scores.

    >>> axes = heatmap(matrix, folder / "heatmap.pdf", value="corrected", style="acl")
    >>> axes.get_xlabel(), axes.get_ylabel()
    ('target', 'source')
    """
    matrix, look = matrix_in_shares(data, percent), style_of(style)
    if path is not None:
        format_of(Path(path))
    options = Options(title, limits, annotate, digits, percent, transpose, baselines, colorbar)
    shown = cells(matrix, value, order, marks)
    with styled(look):
        if ax is None:
            figure = draw(matrix, shown, order, look, options)
            axes = figure.axes[0]
        else:
            axes = draw_in(ax, matrix, shown, order, look, options)
        _saved(axes, path)
    return axes


def _saved(axes: Axes, path: str | Path | None) -> None:
    figure = axes.get_figure(root=True)
    if path is not None and figure is not None:
        save(figure, Path(path))


def draw(matrix: TransferMatrix, shown: Cells, order: str, look: Style, options: Options | None = None) -> Figure:
    """The heatmap as a matplotlib figure of the style's width; to be called inside `style.styled()`."""
    options = options or Options()
    shown, ends = _turned(shown, options)
    title = title_of(matrix, shown, order, options)
    return drawn(shown, matrix.categories, look, title, options, ends)


def drawn(
    shown: Cells,
    categories: Mapping[str, str],
    look: Style,
    title: tuple[str, str],
    options: Options,
    ends: tuple[str, str] = ("source", "target"),
    notes: str = "",
    tree: Floats | None = None,
) -> Figure:
    """Any cells as a figure, its height what they need.

    Args:
        title: the headline and the facts below it.
        ends: what rows and columns are called.
        notes: a line below the keys.
        tree: the linkage of the columns, whose leaves stand in their order; drawn above them.
    """
    room = look.points - 2 * PAD
    sizes = _with_tree(plan(shown, categories, look, room), tree, look)
    ink = _ink(shown, look, sizes, options)
    headline, facts = _head(title, room, look)
    top = height_of(headline, look.title) + height_of(facts, look.tick) + 3 * PAD + sizes.top
    wide, high = sizes.cell * len(shown.targets), sizes.cell * len(shown.sources) + sizes.grid_height
    figure = Canvas(look, 1.0, None)
    axes = figure.add_axes((0, 0, 1, 1))
    grid(axes, shown, ink, sizes, look, ends)
    if tree is not None:
        dendrogram(axes, tree, sizes)
    start = sizes.names_below + LINE * look.text + PAD
    under = below(axes, shown, ink, sizes, look, room, start, notes, options.colorbar)
    height = top + high + start + under + PAD
    figure.set_size_inches(look.width, height / 72)
    left = PAD + sizes.left
    axes.set_position((left / look.points, 1 - (top + high) / height, wide / look.points, high / height))
    _entitle(axes, headline, facts, sizes, look, (left - PAD) / wide)
    return figure


def draw_in(
    ax: Axes, matrix: TransferMatrix, shown: Cells, order: str, look: Style, options: Options | None = None
) -> Axes:
    """Draw the heatmap in the caller's axes, as large as they are, with names, scale and keys around them."""
    options = options or Options()
    shown, ends = _turned(shown, options)
    return inside(ax, shown, matrix.categories, look, title_of(matrix, shown, order, options), options, ends)


def inside(
    ax: Axes,
    shown: Cells,
    categories: Mapping[str, str],
    look: Style,
    title: tuple[str, str],
    options: Options,
    ends: tuple[str, str] = ("source", "target"),
    tree: Floats | None = None,
) -> Axes:
    """Any cells in the caller's axes; arguments as of `drawn`."""
    figure = ax.get_figure(root=True)
    if figure is None:
        raise BadInput("cannot draw in axes that belong to no figure")
    frame = ax.get_window_extent()
    box = frame.width * 72 / figure.dpi, frame.height * 72 / figure.dpi
    cell = min(box[0] / len(shown.targets), box[1] / (len(shown.sources) + 1.2 * len(shown.baselines) + 0.4))
    around = replace(look, width=box[0] / 72)
    sizes = _with_tree(plan(shown, categories, around, 1.6 * box[0], most=cell), tree, look)
    ink = _ink(shown, look, sizes, options)
    grid(ax, shown, ink, sizes, look, ends)
    if tree is not None:
        dendrogram(ax, tree, sizes)
    start = sizes.names_below + LINE * look.text + PAD
    room = sizes.left + sizes.cell * len(shown.targets) + sizes.right
    below(ax, shown, ink, sizes, look, room, start, bar=options.colorbar)
    headline, facts = _head(title, room, look)
    _entitle(ax, headline, facts, sizes, look, sizes.left / (sizes.cell * len(shown.targets)))
    return ax


def _with_tree(sizes: Plan, tree: Floats | None, look: Style) -> Plan:
    """The plan with room for a dendrogram above the columns."""
    return sizes if tree is None else replace(sizes, tree=sizes.top + PAD, top=sizes.top + 2 * PAD + 3.5 * look.text)


def _head(title: tuple[str, str], room: float, look: Style) -> tuple[str, str]:
    """The headline and the facts, each on as many lines as it needs."""
    return wrapped_to(title[0], room, look.title, look.font), wrapped_to(title[1], room, look.tick, look.font)


def _entitle(axes: Axes, headline: str, facts: str, sizes: Plan, look: Style, left: float) -> None:
    """Write the headline, and below it the facts, above the categories; `left` of the cells, in widths of the axes."""
    above = sizes.top + PAD
    place = axes.transAxes + ScaledTranslation(0, above / 72, figure_of(axes).dpi_scale_trans)
    axes.text(-left, 1, facts, transform=place, va="bottom", ha="left", fontsize=look.tick, color="#444444")
    pad = above + height_of(facts, look.tick) + 1
    axes.set_title(headline, loc="left", pad=pad, x=-left, fontsize=look.title, va="bottom")


def _ink(shown: Cells, look: Style, sizes: Plan, options: Options) -> Ink:
    form = {"limits": options.limits, "annotate": options.annotate}
    return Ink.of(shown, look, sizes.cell, **form, digits=options.digits, percent=options.percent)  # type: ignore[arg-type]


def _turned(shown: Cells, options: Options) -> tuple[Cells, tuple[str, str]]:
    """The cells as they are drawn, and what rows and columns are called: with targets as rows where that is wanted.

    Rows of reference belong to targets; where those are rows themselves there is no place for them.
    """
    if not options.baselines or options.transpose:
        shown = replace(
            shown, baselines={}, unscaled=shown.unscaled[:0], unrated=shown.unrated[:0], absent=tuple(shown.baselines)
        )
    if not options.transpose:
        return shown, ("source", "target")
    flipped: dict[str, Any] = {
        name: getattr(shown, name).T
        for name in ("mean", "sd", "count", "missing", "failed", "undefined", "unowned", "trivial", "marked")
    }
    nothing = np.zeros((0, len(shown.sources)), dtype=bool)
    turned = replace(shown, sources=shown.targets, targets=shown.sources, **flipped, unscaled=nothing, unrated=nothing)
    return turned, ("target", "source")


def runs(matrix: TransferMatrix) -> str:
    """Sentence on the runs behind the means, and on whether their spread is known."""
    if matrix.averaged_over is not None:
        over = f"published mean over {matrix.averaged_over or 'an unknown number of'} runs"
        return over if matrix.spread is not None else f"{over}; spread not given"
    count = len(matrix.seeds)
    return f"mean over {counted(count, 'seed')}" if count > 1 else "1 seed, so no spread is known"


def title_of(matrix: TransferMatrix, shown: Cells, order: str, options: Options) -> tuple[str, str]:
    """Title with the composition, the number of seeds and their spread; every heatmap has it."""
    facts = [runs(matrix)]
    if shown.spread:
        of = "sd over runs" if matrix.averaged_over is not None else shown.spread_of
        facts.append(f"{of}: median {number(shown.spread[0])}, largest {number(shown.spread[1])}")
    if shown.absent:
        reason = "not shown" if not options.baselines or options.transpose else "not known"
        facts.append(f"{', '.join(shown.absent)} {reason}")
    if order == "cluster":
        facts.append("tasks ordered by average linkage")
    name = options.title if options.title is not None else matrix.composition or "transfer matrix"
    return label(name, 200), "; ".join(facts)
