"""The inside of a heatmap's cells: colours, numbers, and marks on cells that need a word, with their keys."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import matplotlib as mpl
import numpy as np
import seaborn
from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from matplotlib.patches import Patch, Rectangle
from numpy.typing import NDArray

from deltacompose.analysis.arrays import Bools, Floats
from deltacompose.analysis.matrix import MARGIN
from deltacompose.analysis.units import SIGNED
from deltacompose.figures.heatmap_values import Cells
from deltacompose.figures.style import GREY, INK, Look, counted, number

DENSE = 13
"""From more columns than this on, values are printed in hundredths: `87` for .87."""
CROWDED = 20
"""From more columns than this on no values are printed, because they would touch; the colour scale remains."""
_ROOMY = 8
"""Up to this many columns the spread is printed in each cell."""
_VOID = "#dddddd"
_SIGN = {"markeredgecolor": INK, "markeredgewidth": 0.3}
_FAILED: dict[str, Any] = {"marker": "x", "markersize": 5.0, "color": "#a50f15", "markeredgewidth": 1.0}
_TRIVIAL: dict[str, Any] = {**_SIGN, "marker": "o", "markersize": 2.2, "markerfacecolor": "white"}
_PARTIAL: dict[str, Any] = {**_SIGN, "marker": "v", "markersize": 2.4, "markerfacecolor": "#E69F00"}
_MARKED: dict[str, Any] = {**_SIGN, "marker": "*", "markersize": 3.0, "markerfacecolor": "#FFD92F"}


@dataclass(frozen=True)
class Ink:
    """How numbers become colours and text in one figure: the same for the sources and for what stands below them.

    `wide` is about how wide a cell is, and `size` how large its text, in points.
    """

    palette: str
    low: float
    high: float
    extend: str
    signed: bool
    columns: int
    wide: float
    size: float

    @classmethod
    def of(cls, shown: Cells, look: Look) -> Ink:
        """Limits that hold every value up to ±1.5, symmetric where zero is neutral; what lies beyond is an arrow."""
        every = np.concatenate([shown.mean.ravel(), *shown.baselines.values()])
        every = every[~np.isnan(every)]
        signed, columns = shown.unit in SIGNED, len(shown.targets)
        least, most = (float(every.min()), float(every.max())) if every.size else (0.0, 1.0)
        if signed:
            high = float(np.clip(max(-least, most), 0.05 if shown.unit == "lift" else 1.0, 1.5))
            low = -high
        else:
            low, high = max(min(0.0, least), -0.5), min(max(1.0, most), 1.5)
        extend = {(0, 0): "neither", (1, 0): "min", (0, 1): "max", (1, 1): "both"}[least < low, most > high]
        palette, wide = look.diverging if signed else "YlGnBu", 72 * 0.62 * look.width / columns
        return cls(palette, low, high, extend, signed, columns, wide, size=min(0.45 * wide, 6.5))

    def paint(self, axes: Axes, means: Floats, deviations: Floats | None) -> None:
        """Draw (rows, columns) of values; cells without one are left empty."""
        seaborn.heatmap(
            means,
            mask=np.isnan(means),
            ax=axes,
            cmap=self.palette,
            vmin=self.low,
            vmax=self.high,
            annot=self.texts(means, deviations),
            fmt="",
            annot_kws={"fontsize": self.size, "linespacing": 0.95},
            linewidths=0.4,
            linecolor="white",
            cbar=False,
            xticklabels=False,
            yticklabels=False,
        )
        for text in axes.texts:
            text.set_fontsize(min(self.size, 1.45 * self.wide / max(1, len(text.get_text()))))
            text.set_color(self.readable(float(means[int(text.get_position()[1]), int(text.get_position()[0])])))
            text.set_in_layout(False)  # lies within the axes; measuring hundreds of them takes seconds
        _hatch(axes, np.isnan(means))

    def colour(self, mean: float) -> str:
        """The colour of a value as `#rrggbb`; beyond the limits that of the limit."""
        share = np.clip((mean - self.low) / (self.high - self.low), 0, 1)
        return str(mpl.colors.to_hex(mpl.colormaps[self.palette](share)))

    def exact(self, mean: float) -> str:
        """A value to two digits, with its sign where zero is neutral."""
        return number(mean, signed=self.signed)

    def readable(self, mean: float) -> str:
        """Black or white, whichever differs more from the colour of this value (WCAG 2.2, relative luminance)."""
        share = np.clip((mean - self.low) / (self.high - self.low), 0, 1)
        red, green, blue = (
            c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in mpl.colormaps[self.palette](share)[:3]
        )
        return "white" if 0.2126 * red + 0.7152 * green + 0.0722 * blue < 0.2 else INK

    def texts(self, means: Floats, deviations: Floats | None) -> NDArray[np.object_]:
        """Text of each cell: the mean, and its spread where there is room."""
        texts = np.empty(means.shape, dtype=object)
        for at, mean in np.ndenumerate(means):
            texts[at] = "" if np.isnan(mean) or self.columns > CROWDED else self.text(float(mean))
            if deviations is not None and self.columns <= _ROOMY and not np.isnan(deviations[at]):
                texts[at] += f" ±{number(float(deviations[at]))}"
        return texts

    def text(self, mean: float) -> str:
        """A value with its sign where zero is neutral; in hundredths where columns are narrow."""
        if self.columns > DENSE:
            text = number(100 * mean, signed=self.signed, digits=0)
            return text if len(text) < 4 else text.removeprefix("+")  # "+100" does not fit
        return self.exact(mean)


def _hatch(axes: Axes, where: Bools) -> None:
    """Hatch cells that have no value."""
    for row, column in zip(*np.nonzero(where), strict=True):
        axes.add_patch(Rectangle((column, row), 1, 1, facecolor="white", edgecolor=GREY, hatch="//////", linewidth=0))


def dash(axes: Axes, where: Bools, sign: str = "–") -> None:
    """A sign on grey, for a known score without a value in this unit: a dash, or `?` where the own score is missing."""
    for row, column in zip(*np.nonzero(where), strict=True):
        axes.add_patch(Rectangle((column, row), 1, 1, facecolor=_VOID, edgecolor="white", linewidth=0.4))
        axes.text(column + 0.5, row + 0.5, sign, ha="center", va="center", fontsize=6).set_in_layout(False)


def mark(axes: Axes, shown: Cells, ink: Ink) -> None:
    """Frames and signs on cells: own tasks, failures, undefined, constant answers, fewer seeds, significance."""
    dash(axes, shown.undefined)
    dash(axes, shown.unowned, "?")
    for row, column in zip(*np.nonzero(shown.failed), strict=True):
        axes.add_patch(Rectangle((column, row), 1, 1, facecolor="white", edgecolor="#a50f15", linewidth=0.6))
    failed_rows, failed_columns = np.nonzero(shown.failed)
    axes.plot(failed_columns + 0.5, failed_rows + 0.5, **{**_FAILED, "linestyle": ""})
    for row, source in enumerate(shown.sources):
        if source in shown.targets:
            corner = (shown.targets.index(source) + 0.03, row + 0.03)
            for colour, width in (("white", 1.6), (INK, 0.9)):
                axes.add_patch(Rectangle(corner, 0.94, 0.94, fill=False, edgecolor=colour, linewidth=width, zorder=4))
    inset = 2.2 / ink.wide
    places = (
        (shown.trivial, _TRIVIAL, inset, 0.8),
        (shown.partial, _PARTIAL, inset, 0.2),
        (shown.marked, _MARKED, 1 - inset, 0.2),
    )
    for where, sign, right, down in places:
        rows, columns = np.nonzero(where)
        axes.plot(columns + right, rows + down, **{**sign, "linestyle": "", "zorder": 5})


def keys(shown: Cells) -> list[Patch | Line2D]:
    """The legend: keys of those marks alone that occur."""
    unknown = bool(np.isnan(list(shown.baselines.values()))[~shown.unscaled & ~shown.unrated].any())
    every: list[tuple[bool, Patch | Line2D]] = [
        (bool(set(shown.sources) & set(shown.targets)), Patch(fill=False, linewidth=1, label="own task")),
        (bool(shown.missing.any()) or unknown, _hatching(label="missing or unknown")),
        (bool(shown.failed.any()), _sign("failed", _FAILED)),
        (bool(shown.undefined.any() or shown.unscaled.any()), Patch(facecolor=_VOID, label=_why_undefined(shown.unit))),
        (bool(shown.unowned.any() or shown.unrated.any()), _unowned()),
        (bool(shown.trivial.any()), _sign("constant answer in a seed", _TRIVIAL)),
        (bool(shown.partial.any()), _sign(f"fewer than {counted(shown.seeds, 'seed')}", _PARTIAL)),
        (bool(shown.marked.any()), _sign(shown.mark, _MARKED)),
    ]
    return [key for occurs, key in every if occurs]


def _hatching(label: str) -> Patch:
    return Patch(facecolor="white", edgecolor=GREY, hatch="//////", linewidth=0, label=label)


def _sign(label: str, sign: dict[str, Any]) -> Line2D:
    return Line2D([], [], linestyle="", label=label, **sign)


def _unowned() -> Patch:
    return Patch(facecolor=_VOID, label="?: the target's own score is missing")


def _why_undefined(unit: str) -> str:
    return {
        "relative": "–: own score not above 0",
        "corrected": f"–: own score < chance + {number(MARGIN)}",
        "lift": "–: untouched unknown",
    }.get(unit, "–: undefined")
