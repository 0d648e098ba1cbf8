"""Widths and font sizes of the venues that figures are drawn for, and the context in which matplotlib draws them.

| venue | one column | two columns | source of the widths |
|---|---|---|---|
| `neurips` | 5.50 in | 5.50 in | `neurips.sty`: the text is 5.5 in wide, in one column |
| `icml` | 3.25 in | 6.75 in | `icml.sty`: columns of 3.25 in, 0.25 in apart |
| `acl` | 3.03 in | 6.30 in | `acl.sty`: a text of 16 cm in columns 0.6 cm apart |
| `nature` | 3.50 in | 7.20 in | guide to authors: 89 mm and 183 mm; letters of 5 to 7 pt |
| `talk` | 6.00 in | 12.00 in | half and whole of a slide of 13.33 by 7.5 in |

Letters are of 7 pt (labels, keys), 6.5 pt (ticks) and 7.5 pt (titles), 7, 6 and 7 pt for `nature`, and 16, 15 and 18 pt
for `talk`. Nothing is printed smaller than 5 pt (12 pt for `talk`): what would be is left out, or numbered with a key.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field, replace
from types import TracebackType
from typing import Any

import matplotlib as mpl
from matplotlib.font_manager import fontManager

from deltacompose.errors import BadInput, unknown
from deltacompose.figures.palette import Palette, palette_of

FONT = "DejaVu Sans"
"""The font that matplotlib brings with it, so that figures have the same bytes on every machine."""
FALLBACKS = (
    "Noto Sans CJK SC", "Noto Sans CJK JP", "Noto Sans CJK KR", "Noto Sans SC", "Noto Sans JP", "Noto Sans KR",
    "Source Han Sans SC", "WenQuanYi Zen Hei", "WenQuanYi Micro Hei", "Droid Sans Fallback", "Noto Sans Devanagari",
    "Noto Sans Thai", "Noto Sans Hebrew", "Noto Sans Arabic", "PingFang SC", "Hiragino Sans", "Apple SD Gothic Neo",
    "Microsoft YaHei", "Yu Gothic", "Malgun Gothic", "Arial Unicode MS",
)  # fmt: skip
"""Fonts that are taken, where they are installed, for characters that the font lacks."""


@dataclass(frozen=True)
class Style:
    """How a figure looks, as far as a venue, a user or a study decides it; a context manager as well.

    Attributes:
        width: of the figure, in inches.
        text, tick, title, smallest: sizes of letters in points: labels and keys, ticks, titles, and the least legible.
        line: width of lines, in points.
        diverging: colour map of signed values; `RdBu_r` and `PuOr` can be read by colour-blind readers.
        sequential: colour map of other values.
        font: name of an installed font.
        compositions, categories, tasks: all those of the study, so that each has the same colour and marker in every
            figure, also in those that show only some of them.
    """

    width: float = 5.5
    text: float = 7.0
    tick: float = 6.5
    title: float = 7.5
    smallest: float = 5.0
    line: float = 0.9
    diverging: str = "RdBu_r"
    sequential: str = "YlGnBu"
    font: str = FONT
    compositions: tuple[str, ...] = ()
    categories: tuple[str, ...] = ()
    tasks: tuple[str, ...] = ()
    _entered: list[ExitStack] = field(default_factory=list, init=False, repr=False, compare=False)

    def __enter__(self) -> Style:
        """Makes this the style of every figure drawn in the context, and of the user's own matplotlib figures."""
        stack = ExitStack()
        stack.enter_context(styled(self))
        token = _CURRENT.set(self)
        stack.callback(_CURRENT.reset, token)
        self._entered.append(stack)
        return self

    def __exit__(self, *error: type[BaseException] | BaseException | TracebackType | None) -> None:
        self._entered.pop().close()

    @property
    def points(self) -> float:
        """The width in points."""
        return 72 * self.width

    def of(self, study: Any) -> Style:
        """The same style with the palette of a study (`palette.palette_of`)."""
        names: Palette = palette_of(study)
        return replace(self, compositions=names.compositions, categories=names.categories, tasks=names.tasks)


_SIZES: dict[str, dict[str, float]] = {
    "talk": {"text": 16.0, "tick": 15.0, "title": 18.0, "smallest": 12.0, "line": 2.0},
    "nature": {"text": 7.0, "tick": 6.0, "title": 7.0},
}
WIDTHS = {
    "neurips": (5.5, 5.5),
    "icml": (3.25, 6.75),
    "acl": (3.03, 6.3),
    "nature": (3.5, 7.2),
    "talk": (6.0, 12.0),
}
"""Widths in inches of one column and of two."""


def style(
    venue: str = "neurips",
    columns: int = 1,
    *,
    width: float | None = None,
    font: str = "",
    diverging: str = "RdBu_r",
    sequential: str = "YlGnBu",
    study: Any = None,
) -> Style:
    """The style of a venue: an argument `style=` of every figure, or a context in which all figures have it.

    Inside `with dc.style("icml"):` matplotlib's own figures have these fonts and sizes too. The module
    `deltacompose.figures.venues` lists widths and font sizes.

    Args:
        venue: `neurips`, `icml`, `acl`, `nature` or `talk`.
        columns: how many columns of the page the figure spans, 1 or 2.
        width: in inches, in place of that of the columns; 1.5 to 40.
        font: name of an installed font; DejaVu Sans by default.
        diverging, sequential: matplotlib's names of colour maps, of signed values and of others.
        study: a study, findings, a transfer matrix or several of them, whose names then have fixed colours.

    Raises:
        BadInput: an unknown venue, font or colour map, or another number of columns.

    >>> style("icml").width, style("icml", columns=2).width, style("nature", width=4).tick
    (3.25, 6.75, 6.0)
    """
    if venue not in WIDTHS:
        raise unknown("venue", venue, WIDTHS)
    if columns not in (1, 2):
        raise BadInput(f"a figure spans 1 or 2 columns, not {columns}")
    if width is not None and not 1.5 <= width <= 40:
        raise BadInput(f"the width of a figure is from 1.5 to 40 inches, not {width:g}")
    if font and font not in fontManager.get_font_names():
        raise unknown("installed font", font, fontManager.get_font_names())
    for colours in (diverging, sequential):
        if colours not in mpl.colormaps:
            raise unknown("colour map", colours, mpl.colormaps)
    look = Style(
        width=WIDTHS[venue][columns - 1] if width is None else float(width),
        **_SIZES.get(venue, {}),  # type: ignore[arg-type]
        diverging=diverging,
        sequential=sequential,
        font=font or FONT,
    )
    return look if study is None else look.of(study)


_CURRENT: ContextVar[Style | None] = ContextVar("style", default=None)


def style_of(chosen: Style | str | None) -> Style:
    """The style that a figure was given, by value or by the name of a venue; else that of the context."""
    if chosen is None:
        return _CURRENT.get() or Style()
    return style(chosen) if isinstance(chosen, str) else chosen


@contextmanager
def styled(look: Style | None = None) -> Iterator[None]:
    """matplotlib with our settings and none of the user's, which are back on leaving."""
    with mpl.rc_context():
        mpl.rcdefaults()
        mpl.rcParams.update(settings(look or _CURRENT.get() or Style()))
        yield


def settings(look: Style) -> dict[Any, Any]:
    """matplotlib's settings (`rcParams`) of a style."""
    thin = 0.6 * look.line / 0.9
    return {
        "font.family": list(fonts(look.font)),
        "font.size": look.text,
        "axes.titlesize": look.title,
        "axes.titlelocation": "left",
        "axes.labelsize": look.text,
        "axes.labelcolor": "#222222",
        "axes.linewidth": thin,
        "axes.spines.top": False,
        "axes.spines.right": False,
        "xtick.labelsize": look.tick,
        "ytick.labelsize": look.tick,
        "xtick.major.width": thin,
        "ytick.major.width": thin,
        "xtick.minor.width": thin / 2,
        "ytick.minor.width": thin / 2,
        "lines.linewidth": look.line,
        "lines.markersize": 3.3 * look.line / 0.9,
        "legend.fontsize": look.tick,
        "legend.title_fontsize": look.tick,
        "legend.frameon": False,
        "hatch.linewidth": 0.5,
        "figure.figsize": (look.width, 0.62 * look.width),
        "figure.constrained_layout.h_pad": 0.03,
        "figure.constrained_layout.w_pad": 0.03,
        "figure.constrained_layout.hspace": 0.0,
        "savefig.dpi": 300,
        "pdf.fonttype": 42,
        "ps.fonttype": 42,
        "svg.hashsalt": "deltacompose",
        "text.hinting": "none",  # so that measured widths hold
        "text.parse_math": False,  # a task may be named "$x$"
    }


def fonts(font: str = FONT) -> tuple[str, ...]:
    """A font, ours, and those of the fallbacks that are installed."""
    installed = set(fontManager.get_font_names())
    return tuple(dict.fromkeys((font, FONT, *(name for name in FALLBACKS if name in installed))))
