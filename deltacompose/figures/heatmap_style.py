"""The inside of a heatmap's cells: colours, numbers, and marks on cells that need a word, with their keys."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.backend_bases import RendererBase
from matplotlib.collections import PolyCollection, QuadMesh
from matplotlib.colors import Colormap
from matplotlib.lines import Line2D
from matplotlib.patches import Patch, Rectangle
from matplotlib.path import Path

from deltacompose.analysis.arrays import Bools, Floats
from deltacompose.analysis.matrix import MARGIN
from deltacompose.errors import BadInput, unknown
from deltacompose.figures.heatmap_values import Cells
from deltacompose.figures.labels import width_of
from deltacompose.figures.palette import GREY, INK, PALE
from deltacompose.figures.rounding import counted, number
from deltacompose.figures.venues import Style

CROWDED = 20
"""From more columns than this on no values are printed, because nobody reads them; the colour scale remains."""
FORMS = ("auto", "spread", "value", "none")
"""Text of a cell: chosen by its size, or the value and its spread, the value alone, nothing."""
_FULL = 0.9
"""The share of a cell's width and height that its text may take."""
_LEADING = 1.05
_FAILED = "#a50f15"


class Mosaic(QuadMesh):
    """Cells of which a vector file holds one path a colour, not one a cell: 60 by 60 take a fifth of the time.

    A class, because matplotlib asks a collection itself to draw what it holds.
    """

    def draw(self, renderer: RendererBase) -> None:
        """Draws the cells; into pixels as matplotlib does, which is quick there."""
        whole = getattr(renderer.draw_quad_mesh, "__func__", None)
        if whole is not RendererBase.draw_quad_mesh:
            super().draw(renderer)
            return
        self.update_scalarmappable()
        corners = np.asarray(self.get_coordinates())
        cells = np.stack(
            [corners[:-1, :-1], corners[:-1, 1:], corners[1:, 1:], corners[1:, :-1], corners[:-1, :-1]], axis=2
        ).reshape(-1, 5, 2)
        colours, which = np.unique(np.asarray(self.get_facecolor()), axis=0, return_inverse=True)
        pen = renderer.new_gc()
        self._set_gc_clip(pen)  # type: ignore[attr-defined]
        pen.set_linewidth(float(np.ravel(self.get_linewidth())[0]))
        pen.set_foreground("white")
        turns = np.array([Path.MOVETO, *[Path.LINETO] * 3, Path.CLOSEPOLY], dtype=Path.code_type)
        for place, colour in enumerate(colours):
            if colour[3]:
                own = cells[which.ravel() == place]
                path = Path(own.reshape(-1, 2), np.tile(turns, len(own)))
                renderer.draw_path(pen, path, self.get_transform(), tuple(colour))
        pen.restore()
        self.stale = False


@dataclass(frozen=True)
class Ink:
    """How numbers become colours and text in one figure: the same for the sources and for what stands below them.

    `form` is what is printed in each cell, `size` how large in points, `digits` how many digits after the point, and
    `percent` whether in hundredths. `cell` is the side of a cell in points.
    """

    palette: str
    low: float
    high: float
    extend: str
    signed: bool
    form: str = "value"
    size: float = 6.5
    digits: int = 2
    percent: bool = False
    cell: float = 30.0

    @classmethod
    def of(
        cls,
        shown: Cells,
        look: Style,
        cell: float = 30.0,
        *,
        limits: tuple[float, float] | None = None,
        annotate: str = "auto",
        digits: int = 2,
        percent: bool = False,
    ) -> Ink:
        """Limits that hold every value up to ±1.5, symmetric where zero is neutral; what lies beyond is an arrow.

        Raises:
            BadInput: limits that are not two rising numbers, or an unknown form.
        """
        if annotate not in FORMS:
            raise unknown("form of cells", annotate, FORMS)
        every = np.concatenate([shown.mean.ravel(), *shown.baselines.values()])
        every = every[~np.isnan(every)]
        least, most = (float(every.min()), float(every.max())) if every.size else (0.0, 1.0)
        low, high = _limits(shown, least, most) if limits is None else _checked(limits)
        extend = {(0, 0): "neither", (1, 0): "min", (0, 1): "max", (1, 1): "both"}[least < low - 1e-12, most > high]
        palette = look.diverging if shown.signed else look.sequential
        form, size, whole = _form(shown, look, cell, annotate, (digits, percent))
        return cls(palette, low, high, extend, shown.signed, form, size, digits, whole, cell)

    def paint(self, axes: Axes, means: Floats, deviations: Floats | None, edges: Floats | None = None) -> None:
        """Draw (rows, columns) of values; cells without one are hatched.

        Args:
            edges: (rows + 1,) where rows begin and end, by default whole numbers.
        """
        rows, columns = means.shape
        edges = np.arange(rows + 1.0) if edges is None else edges
        mesh = Mosaic(
            np.dstack(np.meshgrid(np.arange(columns + 1.0), edges)),
            array=np.ma.masked_invalid(means),
            antialiased=False,
            cmap=self.palette,
            edgecolors="white",
            linewidth=0.4 if self.cell >= 6 else 0.0,
        )
        mesh.set_clim(self.low, self.high)
        mesh.set_label("values")
        axes.add_collection(mesh, autolim=False)
        hatch(axes, np.isnan(means), edges)
        if self.form == "none":
            return
        for (row, column), mean in np.ndenumerate(means):
            if np.isnan(mean):
                continue
            text = self.exact(float(mean))
            if self.form == "spread" and deviations is not None and not np.isnan(deviations[row, column]):
                text += f"\n±{number(float(deviations[row, column]), digits=self.digits, percent=self.percent)}"
            middle = (edges[row] + edges[row + 1]) / 2
            axes.text(
                column + 0.5,
                middle,
                text,
                ha="center",
                va="center",
                fontsize=self.size,
                linespacing=_LEADING,
                color=self.readable(float(mean)),
                zorder=6,
            ).set_in_layout(False)  # lies within the axes; measuring hundreds of them takes seconds

    def colour(self, mean: float) -> str:
        """The colour of a value as `#rrggbb`; beyond the limits that of the limit."""
        share = np.clip((mean - self.low) / (self.high - self.low), 0, 1)
        return str(mpl.colors.to_hex(_colours(self.palette)(share)))

    def exact(self, mean: float) -> str:
        """A value as it is printed, with its sign where zero is neutral; in hundredths only minus signs fit."""
        signed = self.signed and not (self.percent and self.form == "value")
        return number(mean, signed=signed, digits=self.digits, percent=self.percent)

    text = exact

    def readable(self, mean: float) -> str:
        """Black or white, whichever can be read on the colour of this value."""
        return readable_on(self.colour(mean))


@cache
def _colours(palette: str) -> Colormap:
    """A palette of matplotlib, which gives a copy at each look-up and computes its colours anew at their first use."""
    return mpl.colormaps[palette]


def readable_on(colour: str) -> str:
    """Ink or white, whichever differs more from a colour (WCAG 2.2, relative luminance)."""
    red, green, blue = (c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in mpl.colors.to_rgb(colour))
    return "white" if 0.2126 * red + 0.7152 * green + 0.0722 * blue < 0.2 else INK


def _limits(shown: Cells, least: float, most: float) -> tuple[float, float]:
    if shown.unit == "difference" or (shown.signed and shown.unit == "lift"):
        high = float(np.clip(max(-least, most), 0.05, 1.5))
        return -high, high
    if shown.signed:
        high = float(np.clip(max(-least, most), 1.0, 1.5))
        return -high, high
    if shown.unit == "similarity":
        return (least, most) if most > least else (least - 0.5, most + 0.5)
    return max(min(0.0, least), -0.5), min(max(1.0, most), 1.5)


def _checked(limits: tuple[float, float]) -> tuple[float, float]:
    low, high = (float(end) for end in limits)
    if not low < high or not np.isfinite([low, high]).all():
        raise BadInput(f"the limits of the colours are two rising numbers, not {low:g} and {high:g}")
    return low, high


def _form(shown: Cells, look: Style, cell: float, wanted: str, form: tuple[int, bool]) -> tuple[str, float, bool]:
    """Text that fits into a cell, the size of its letters, and whether it is in hundredths."""
    digits, percent = form
    if wanted == "none" or (wanted == "auto" and len(shown.targets) > CROWDED):
        return "none", look.smallest, percent
    levels = [*shown.baselines.values()]
    values = np.concatenate([shown.mean.ravel(), *levels])
    values = values[~np.isnan(values)]
    spreads = shown.sd[~np.isnan(shown.sd)]
    kinds = ("spread", "value") if wanted in ("auto", "spread") and spreads.size else ("value",)
    for kind in kinds:
        for whole in dict.fromkeys((percent, True)) if digits == 2 else (percent,):
            signed = shown.signed and not (whole and kind == "value")
            texts = {number(v, signed=signed, digits=digits, percent=whole) for v in values.tolist()}
            if kind == "spread":
                texts |= {f"±{number(v, digits=digits, percent=whole)}" for v in spreads.tolist()}
            size = _size(texts, 2 if kind == "spread" else 1, cell, look)
            if size is not None:
                return kind, size, whole
    if wanted != "auto":
        return wanted, 0.8 * look.smallest, percent
    return "none", look.smallest, percent


def _size(texts: set[str], lines: int, cell: float, look: Style) -> float | None:
    """The largest legible size at which every text fits into a cell."""
    widest = max((width_of(text, 1.0, look.font) for text in texts), default=1.0)
    size = min(look.tick, _FULL * cell / widest, _FULL * cell / (lines * _LEADING * 1.1))
    return size if size >= look.smallest else None


def hatch(axes: Axes, where: Bools, edges: Floats) -> None:
    """Hatch cells that have no value."""
    if where.any():
        axes.add_collection(
            PolyCollection(
                _boxes(where, edges), facecolor="white", edgecolor=GREY, hatch="//////", linewidth=0, zorder=1.5
            ),
            autolim=False,
        )


def _boxes(where: Bools, edges: Floats) -> list[list[tuple[float, float]]]:
    return [[(c, edges[r]), (c + 1, edges[r]), (c + 1, edges[r + 1]), (c, edges[r + 1])] for r, c in np.argwhere(where)]


def dash(axes: Axes, where: Bools, edges: Floats, cell: float, sign: str = "–") -> None:
    """A sign on grey, for a known score without a value in this unit: a dash, or `?` where the own score is missing."""
    if not where.any():
        return
    axes.add_collection(
        PolyCollection(_boxes(where, edges), facecolor=PALE, edgecolor="white", linewidth=0.4, zorder=2), autolim=False
    )
    for row, column in np.argwhere(where) if cell >= 5 else ():
        middle = (edges[row] + edges[row + 1]) / 2
        axes.text(
            column + 0.5, middle, sign, ha="center", va="center", fontsize=min(6.0, 0.9 * cell), color=INK, zorder=6
        ).set_in_layout(False)


def mark(axes: Axes, shown: Cells, ink: Ink) -> None:
    """Frames and signs on cells: own tasks, failures, undefined, constant answers, fewer seeds, significance."""
    edges = np.arange(len(shown.sources) + 1.0)
    if shown.failed.any():
        edge: dict[str, Any] = {
            "facecolor": "white",
            "edgecolor": _FAILED,
            "linewidth": 0.6 if ink.cell >= 8 else 0.2,
            "zorder": 1.6,
        }
        axes.add_collection(PolyCollection(_boxes(shown.failed, edges), **edge), autolim=False)
    dash(axes, shown.undefined, edges, ink.cell)
    dash(axes, shown.unowned, edges, ink.cell, "?")
    for row, source in enumerate(shown.sources):
        if source in shown.targets and shown.unit != "similarity":
            corner = (shown.targets.index(source) + 0.03, row + 0.03)
            wide = 0.9 if ink.cell >= 8 else 0.3
            for colour, width in (("white", wide + 0.7), (INK, wide)) if ink.cell >= 6 else ((INK, wide),):
                axes.add_patch(Rectangle(corner, 0.94, 0.94, fill=False, edgecolor=colour, linewidth=width, zorder=4))
    signs = _signs(ink.cell, empty=ink.form == "none")
    near = 0.3 if ink.form == "none" else 0.11
    places = (
        (shown.failed, "failed", 0.5, 0.5),
        (shown.trivial, "trivial", near, 1 - near),
        (shown.partial, "partial", near, near),
        (shown.marked, "marked", 1 - near, near),
    )
    for where, name, right, down in places:
        rows, columns = np.nonzero(where)
        if len(rows):
            axes.plot(columns + right, rows + down, **{**signs[name], "linestyle": "", "zorder": 5})


def _signs(cell: float, empty: bool = False) -> dict[str, dict[str, Any]]:
    """The signs in cells, which differ in shape, so that grey print keeps them.

    Their size is what the corner of a cell with a number holds, or a quarter of an empty cell.
    """
    size = float(np.clip((0.26 if empty else 0.13) * cell, 1.3, 3.6))
    edge = {"markeredgecolor": "white", "markeredgewidth": min(0.5, 0.15 * size)}
    return {
        "failed": {"marker": "x", "markersize": 1.6 * size, "color": _FAILED, "markeredgewidth": 0.35 * size},
        "trivial": {"marker": "o", "markersize": size, "markerfacecolor": "white", "markeredgecolor": INK,
                    "markeredgewidth": min(0.5, 0.2 * size)},
        "partial": {"marker": "v", "markersize": 1.1 * size, "markerfacecolor": "#E69F00", **edge},
        "marked": {"marker": "*", "markersize": 1.9 * size, "markerfacecolor": "black", **edge},
    }  # fmt: skip


def keys(shown: Cells) -> list[Patch | Line2D]:
    """The legend: keys of those marks alone that occur."""
    levels = np.array(list(shown.baselines.values())).reshape(-1, len(shown.targets))
    unknown_level = bool(np.isnan(levels)[~shown.unscaled & ~shown.unrated].any())
    own = bool(set(shown.sources) & set(shown.targets)) and shown.unit != "similarity"
    signs = _signs(25.0)
    every: list[tuple[bool, Patch | Line2D]] = [
        (own, Patch(fill=False, linewidth=1, label="own task")),
        (bool(shown.missing.any()) or unknown_level, _hatching(label="missing or unknown")),
        (bool(shown.failed.any()), _sign("failed", signs["failed"])),
        (bool(shown.undefined.any() or shown.unscaled.any()), Patch(facecolor=PALE, label=_why_undefined(shown.unit))),
        (bool(shown.unowned.any() or shown.unrated.any()), _unowned()),
        (bool(shown.trivial.any()), _sign("constant answer in a seed", signs["trivial"])),
        (bool(shown.partial.any()), _sign(f"fewer than {counted(shown.seeds, 'seed')}", signs["partial"])),
        (bool(shown.marked.any()), _sign(shown.mark, signs["marked"])),
    ]
    return [key for occurs, key in every if occurs]


def _hatching(label: str) -> Patch:
    return Patch(facecolor="white", edgecolor=GREY, hatch="//////", linewidth=0, label=label)


def _sign(label: str, sign: dict[str, Any]) -> Line2D:
    return Line2D([], [], linestyle="", label=label, **sign)


def _unowned() -> Patch:
    return Patch(facecolor=PALE, label="?: the target's own score is missing")


def _why_undefined(unit: str) -> str:
    return {
        "relative": "–: own score not above 0",
        "corrected": f"–: own score < chance + {number(MARGIN)}",
        "lift": "–: untouched unknown",
    }.get(unit, "–: undefined")
