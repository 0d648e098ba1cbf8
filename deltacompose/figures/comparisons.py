"""Several transfer matrices on one scale, and the difference of two with intervals."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from deltacompose.analysis.matrix import TransferMatrix
from deltacompose.analysis.transfer.difference import Difference, differences
from deltacompose.analysis.transfer.published import matrices_of, matrix_of
from deltacompose.analysis.units import UNITS
from deltacompose.errors import BadInput
from deltacompose.figures.frames import check_path, figure_of, saved
from deltacompose.figures.heatmap_draw import below, grid
from deltacompose.figures.heatmap_layout import PAD, Blocks, Plan, plan
from deltacompose.figures.heatmap_style import Ink
from deltacompose.figures.heatmap_values import Cells, cells, plain_cells
from deltacompose.figures.heatmaps import Options, drawn, inside, runs
from deltacompose.figures.labels import LINE, height_of, label, width_of, wrapped_to
from deltacompose.figures.rounding import number
from deltacompose.figures.style import Canvas, styled
from deltacompose.figures.venues import Style, style_of

_LEGIBLE = 5.5
"""Sides of cells in points from which panels stand side by side."""
_TITLED = 110.0
"""Width of a panel in points from which a word of its title may be broken."""


def panels(
    data: Any,
    path: str | Path | None = None,
    *,
    style: Style | str | None = None,
    value: str = "relative",
    order: str = "category",
    by: str = "composition",
    limits: tuple[float, float] | None = None,
    annotate: str = "auto",
    title: str = "",
) -> Figure:
    """Draw several transfer matrices as small multiples on one colour scale, with the tasks in one order.

    Args:
        data: matrices by name, a list of them, findings, or a tidy table (or its file) with several compositions or
            backbones.
        path: file to write.
        style: of `dc.style`, or the name of a venue.
        value, order, limits, annotate: as of `heatmap`.
        by: `composition` or `backbone`: what tells the matrices of a table apart.

    Raises:
        BadInput: no matrix, matrices without a common task, or what `heatmap` refuses.
    """
    check_path(path)
    matrices = _common(matrices_of(data, by=by))
    look = style_of(style)
    with styled(look):
        figure = _multiples(matrices, (value, order), look, Options(title, limits, annotate), title)
        saved(figure, path)
        return figure


def _common(matrices: Mapping[str, TransferMatrix]) -> dict[str, TransferMatrix]:
    """The matrices over the sources and targets that all have, in the order of the first."""
    first = next(iter(matrices.values()))
    sources = [name for name in first.sources if all(name in matrix.sources for matrix in matrices.values())]
    targets = [name for name in first.targets if all(name in matrix.targets for matrix in matrices.values())]
    if not sources or not targets:
        raise BadInput(f"{', '.join(matrices)} have no source or no target in common")
    parts = {name: matrix.selected(sources, targets) for name, matrix in matrices.items()}
    return {name: replace(part, categories=first.categories) for name, part in parts.items()}


def _multiples(
    matrices: Mapping[str, TransferMatrix], what: tuple[str, str], look: Style, options: Options, title: str
) -> Figure:
    value, order = what
    shown = {name: cells(matrix, value, order) for name, matrix in matrices.items()}
    whole = next(iter(shown.values()))
    if order == "cluster":  # one order for all: that of the first
        first = next(iter(matrices.values())).selected(whole.sources, whole.targets)
        aligned = {name: matrix.selected(first.sources, first.targets) for name, matrix in matrices.items()}
        shown = {name: cells(matrix, value, "given") for name, matrix in aligned.items()}
    categories = next(iter(matrices.values())).categories
    room = look.points - 2 * PAD
    words = " ".join(label(name, 200) for name in shown).split()
    widest = max(width_of(word, look.tick, look.font) for word in words)
    across = next(
        n
        for n in range(min(len(shown), 6), 0, -1)
        if n == 1 or _fit(plan(whole, categories, look, room, panels=n), len(whole.targets), widest)
    )
    sizes = plan(whole, categories, look, room, panels=across)
    ink = _shared(shown, look, sizes, options)
    figure = Canvas(look, 1.0, None)
    wide = sizes.cell * len(whole.targets)
    high = sizes.cell * len(whole.sources) + sizes.grid_height
    heads = [wrapped_to(label(name, 200), wide, look.tick, look.font) for name in shown]
    head = max(height_of(text, look.tick) for text in heads) + PAD
    facts = "; ".join(dict.fromkeys(runs(matrix) for matrix in matrices.values()))
    top_text = wrapped_to("\n".join(filter(None, (title, facts))), room, look.title, look.font)
    down = -(-len(shown) // across)
    start = sizes.names_below + LINE * look.text + PAD
    row = head + sizes.top + high + 2 * PAD
    above = height_of(top_text, look.title) + 2 * PAD
    places: list[tuple[float, float, Axes]] = []
    for place, (name, part) in enumerate(shown.items()):
        axes = figure.add_axes((0, 0, 1, 1), label=name)
        last = place + across >= len(shown)
        own = replace(sizes, blocks=_blocks(sizes, _last_in_row(place, across, len(shown))))
        grid(axes, part, ink, own, look, ("source" if place % across == 0 else "", "target" if last else ""))
        axes.set_title(heads[place], fontsize=look.tick, pad=sizes.top + PAD, loc="left", va="bottom")
        left = PAD + sizes.left + (place % across) * (wide + 3 * PAD)
        places.append(
            (left, height_of(top_text, look.title) + 2 * PAD + (place // across) * row + head + sizes.top, axes)
        )
    first_of_last = next(i for i in range(len(places)) if i // across == down - 1)
    under = below(places[first_of_last][2], whole, ink, sizes, look, room, start, bar=True)
    height = above + down * row + start + under + PAD
    figure.set_size_inches(look.width, height / 72)
    for left, top, axes in places:
        axes.set_position((left / look.points, 1 - (top + high) / height, wide / look.points, high / height))
    figure.suptitle(top_text, x=PAD / look.points, y=1 - PAD / height, ha="left", va="top", fontsize=look.title)
    return figure


def _fit(sizes: Plan, columns: int, word: float) -> bool:
    """Whether panels of these sizes can stand side by side: cells one can see, titles of whole words."""
    return sizes.cell >= min(_LEGIBLE, 160 / columns) and sizes.cell * columns >= min(word, _TITLED)


def _last_in_row(place: int, across: int, count: int) -> bool:
    return place % across == across - 1 or place == count - 1


def _blocks(sizes: Plan, beside: bool) -> Blocks | None:
    """The categories, whose strip beside the rows stands once, at the right."""
    return None if sizes.blocks is None else replace(sizes.blocks, beside=beside)


def _shared(shown: Mapping[str, Cells], look: Style, sizes: Plan, options: Options) -> Ink:
    """One ink whose limits hold the values of all panels."""
    parts = list(shown.values())
    levels = {
        name: np.concatenate([part.baselines[name] for part in parts if name in part.baselines])
        for name in parts[0].baselines
    }
    whole = replace(
        parts[0],
        mean=np.concatenate([part.mean for part in parts]),
        sd=np.concatenate([part.sd for part in parts]),
        baselines=levels,
    )
    return Ink.of(whole, look, sizes.cell, limits=options.limits, annotate=options.annotate)


def difference(
    minuend: Any,
    subtrahend: Any = None,
    path: str | Path | None = None,
    *,
    ax: Axes | None = None,
    style: Style | str | None = None,
    value: str = "score",
    order: str = "category",
    by: str = "composition",
    limits: tuple[float, float] | None = None,
    annotate: str = "auto",
    title: str | None = None,
) -> Axes:
    """Draw one transfer matrix minus another, with the half-width of each cell's 95 % interval.

    Significant differences have a star (Benjamini–Yekutieli over all cells, q = .05). See
    `analysis.transfer.difference.differences` for the intervals.

    Args:
        minuend: a matrix or what `heatmap` takes; or a result of `differences`; or, without a subtrahend, two matrices
            by name, or a tidy table with two compositions or backbones.
        subtrahend: the matrix that is subtracted.
        path: file to write.
        ax: axes to draw in.
        style: of `dc.style`, or the name of a venue.
        value: `score`, `relative`, `corrected` or `lift`.
        order: `category` puts tasks in blocks of categories, `given` keeps the order of the minuend.
        by: what tells the matrices of a table apart, where one table was given.
        limits, annotate, title: as of `heatmap`.

    Raises:
        BadInput: not two matrices, no common task, or what `heatmap` refuses.
    """
    check_path(path)
    gap, categories = _difference_of(minuend, subtrahend, value, by)
    look = style_of(style)
    shown = _cells(gap, categories if order == "category" else {})
    facts = _facts(gap)
    headline = title if title is not None else f"{gap.names[0]} minus {gap.names[1]}"
    options = Options(title, limits, annotate)
    with styled(look):
        if ax is None:
            axes = drawn(shown, categories, look, (label(headline, 200), facts), options).axes[0]
        else:
            axes = inside(ax, shown, categories, look, (label(headline, 200), facts), options)
        saved(figure_of(axes), path)
        return axes


def _difference_of(minuend: Any, subtrahend: Any, value: str, by: str) -> tuple[Difference, Mapping[str, str]]:
    if isinstance(minuend, Difference):
        return minuend, {}
    if subtrahend is None:
        matrices = matrices_of(minuend, by=by)
        if len(matrices) != 2:
            raise BadInput(f"a difference is of two matrices, found {len(matrices)}: {', '.join(matrices)}")
        names = tuple(matrices)
        first, second = matrices.values()
        return differences(first, second, value, names=(names[0], names[1])), first.categories
    first, second = matrix_of(minuend), matrix_of(subtrahend)
    gap = differences(first, second, value)
    every = {*gap.sources, *gap.targets}
    known = first.categories or second.categories
    return gap, known if every <= set(known) else {}


def _cells(gap: Difference, categories: Mapping[str, str]) -> Cells:
    rows, columns = (
        sorted(range(len(names)), key=[categories.get(name, "") for name in names].__getitem__)
        for names in (gap.sources, gap.targets)
    )
    pick = np.ix_(rows, columns)
    return plain_cells(
        tuple(gap.sources[i] for i in rows),
        tuple(gap.targets[i] for i in columns),
        gap.value[pick],
        "difference",
        sd=((gap.high - gap.low) / 2)[pick],
        marked=gap.differs[pick],
        mark=f"≠ 0, BY q = {number(gap.q)}",
        zero=True,
        label=f"difference of {UNITS[gap.unit]}",
        spread_of="half of the 95 % interval",
    )


def _facts(gap: Difference) -> str:
    if not gap.tested:
        facts = "no intervals: the spread of one of the two is not known"
    else:
        half = (gap.high - gap.low) / 2
        known = half[~np.isnan(half)]
        way = "paired by seed" if gap.paired else "Welch"
        facts = f"±: half of the 95 % interval ({way}), median {number(float(np.median(known)))}"
    off = f"; left out: {', '.join(gap.left_out[:8])}" if gap.left_out else ""
    return facts + off
