"""How a figure becomes a file: the same bytes from the same numbers, on any machine.

Figures are made without pyplot, inside `styled()`, so nothing is left behind in matplotlib's global state and nothing
of a user's own settings gets in. A figure of ours keeps its settings when a user saves it.
"""

from __future__ import annotations

import io
import textwrap
from pathlib import Path
from typing import Any, Literal

from matplotlib.figure import Figure

from deltacompose.errors import unknown
from deltacompose.figures.figure_files import write_bytes
from deltacompose.figures.labels import label, labels
from deltacompose.figures.palette import GREY, INK, MARKERS, OKABE_ITO, colours_of, markers_of
from deltacompose.figures.rounding import counted, number
from deltacompose.figures.venues import FALLBACKS, FONT, Style, fonts, styled

__all__ = [
    "FALLBACKS",
    "FONT",
    "GREY",
    "INK",
    "MARKERS",
    "NEURIPS",
    "OKABE_ITO",
    "Canvas",
    "Look",
    "canvas",
    "colours_of",
    "counted",
    "fonts",
    "label",
    "labels",
    "markers_of",
    "number",
    "rendered",
    "save",
    "styled",
    "wrapped",
]

Look = Style
NEURIPS = 5.5
"""Width of NeurIPS' text in inches."""
METADATA: dict[str, dict[str, str | None]] = {
    "pdf": {"CreationDate": None, "Creator": None, "Producer": None},
    "png": {"Software": None},
    "svg": {"Date": None, "Creator": None},
}
"""Formats, and what is left out of their files so that they have no dates and no versions."""


class Canvas(Figure):
    """A figure that is saved with the settings it was drawn with: embedded TrueType fonts, no dates, whole layout.

    A class, because a user calls `figure.savefig` outside of any context of ours.
    """

    def __init__(self, look: Style, height: float, layout: Literal["constrained"] | None) -> None:
        self._look = look
        super().__init__(figsize=(look.width, height), layout=layout)

    def savefig(self, fname: Any, **options: Any) -> None:
        """Saves as matplotlib does, PDF, PNG and SVG without dates and versions."""
        kind = str(options.get("format") or getattr(fname, "suffix", None) or str(fname).rpartition(".")[2])
        kind = kind.removeprefix(".").lower()
        settle(self)
        with styled(self._look):
            super().savefig(fname, **({"metadata": METADATA[kind]} if kind in METADATA else {}) | options)

    def _repr_png_(self) -> bytes:
        """The picture that a notebook shows."""
        return rendered(self, "png", dpi=150)


def canvas(width: float | Style, height: float, layout: Literal["constrained"] | None = "constrained") -> Canvas:
    """An empty figure of that size in inches, known to no pyplot, laid out so that nothing is cut off."""
    return Canvas(width if isinstance(width, Style) else Style(width=width), height, layout)


def save(figure: Figure, path: Path) -> Path:
    """Write a figure to a file, the format by the suffix: `.pdf`, `.png` or `.svg`.

    Raises:
        BadInput: another suffix, or a file that cannot be written.
    """
    return write_bytes(path, rendered(figure, format_of(path)))


def format_of(path: Path) -> str:
    """The format of a figure's file.

    Raises:
        BadInput: a suffix that is not one of a figure.
    """
    kind = path.suffix.removeprefix(".").lower()
    if kind not in METADATA:
        raise unknown("figure format", kind, METADATA)
    return kind


def rendered(figure: Figure, kind: str, dpi: int = 300) -> bytes:
    """The bytes of a figure as `pdf`, `png` or `svg`, without dates or versions in them."""
    settle(figure)
    buffer = io.BytesIO()
    figure.savefig(buffer, format=kind, metadata=METADATA[kind], dpi=dpi)
    return buffer.getvalue()


def settle(figure: Figure) -> None:
    """Lay out once and round: the layout's solver differs in the last digit from run to run, which an SVG shows."""
    if figure.get_layout_engine() is None:
        return
    figure.draw_without_rendering()
    figure.set_layout_engine("none")
    for axes in figure.axes:
        left, bottom, width, height = (round(edge, 6) for edge in axes.get_position(original=True).bounds)
        axes.set_position((left, bottom, width, height))


def wrapped(text: str, look: Style) -> str:
    """A title on as many lines as the figure's width asks for."""
    return "\n".join(textwrap.wrap(" ".join(text.split()), int(17 * look.width)))
