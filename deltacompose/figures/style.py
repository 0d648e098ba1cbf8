"""How every figure looks, and how it becomes a file: the same bytes from the same numbers, on any machine.

Figures are made without pyplot, inside `styled()`, so nothing is left behind in matplotlib's global state and nothing
of a user's own settings gets in.
"""

from __future__ import annotations

import io
import textwrap
import warnings
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import matplotlib as mpl
import seaborn
from matplotlib.figure import Figure
from matplotlib.font_manager import fontManager
from matplotlib.ft2font import FT2Font

from deltacompose.errors import unknown
from deltacompose.figures.figure_files import write_bytes

NEURIPS = 5.5
"""Width of a NeurIPS column in inches; ICML's is 3.25."""
INK, GREY = "#222222", "#8c8c8c"
OKABE_ITO = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00", "#882255")
"""Colours that colour-blind readers can tell apart (Okabe and Ito 2008; wine for the yellow that is lost on white)."""
MARKERS = "osD^vPXhp8"
FONT = "DejaVu Sans"
FALLBACKS = (
    "Noto Sans CJK SC", "Noto Sans CJK JP", "Noto Sans CJK KR", "Noto Sans SC", "Noto Sans JP", "Noto Sans KR",
    "Source Han Sans SC", "WenQuanYi Zen Hei", "WenQuanYi Micro Hei", "Droid Sans Fallback", "Noto Sans Devanagari",
    "Noto Sans Thai", "Noto Sans Hebrew", "Noto Sans Arabic", "PingFang SC", "Hiragino Sans", "Apple SD Gothic Neo",
    "Microsoft YaHei", "Yu Gothic", "Malgun Gothic", "Arial Unicode MS",
)  # fmt: skip
"""Fonts that are taken, where they are installed, for characters that `FONT` lacks."""
_RC: dict[Any, Any] = {
    "font.size": 7.0,
    "axes.titlesize": 7.5,
    "axes.labelsize": 7.0,
    "axes.linewidth": 0.6,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "xtick.labelsize": 6.5,
    "ytick.labelsize": 6.5,
    "xtick.major.width": 0.6,
    "ytick.major.width": 0.6,
    "legend.fontsize": 6.5,
    "legend.frameon": False,
    "hatch.linewidth": 0.5,
    "figure.constrained_layout.h_pad": 0.025,
    "figure.constrained_layout.w_pad": 0.02,
    "figure.constrained_layout.hspace": 0.0,
    "pdf.fonttype": 42,
    "svg.hashsalt": "deltacompose",
    "text.parse_math": False,  # a task may be named "$x$"
}
_METADATA: dict[str, dict[str, str | None]] = {
    "pdf": {"CreationDate": None, "Creator": None, "Producer": None},
    "png": {"Software": None},
    "svg": {"Date": None, "Creator": None},
}


@dataclass(frozen=True)
class Look:
    """How a figure looks, as far as a user or a study decides it.

    Attributes:
        width: inches.
        diverging: colour map of signed values; `RdBu_r` and `PuOr` can be read by colour-blind readers.
        compositions, categories: all those of the study, so that each has the same colour and marker in every figure,
            also in those that show only some of them.
    """

    width: float = NEURIPS
    diverging: str = "RdBu_r"
    compositions: tuple[str, ...] = ()
    categories: tuple[str, ...] = ()


@contextmanager
def styled() -> Iterator[None]:
    """matplotlib with our settings and none of the user's, which are back on leaving."""
    with mpl.rc_context():
        mpl.rcdefaults()
        mpl.rcParams.update({**_RC, "font.family": list(_fonts())})
        yield


def canvas(width: float, height: float) -> Figure:
    """An empty figure of that size in inches, known to no pyplot, laid out so that nothing is cut off."""
    return Figure(figsize=(width, height), layout="constrained")


def save(figure: Figure, path: Path) -> Path:
    """Write a figure to a file, the format by the suffix: `.pdf`, `.png` or `.svg`.

    Raises:
        BadInput: another suffix, or a file that cannot be written.
    """
    kind = path.suffix.removeprefix(".").lower()
    if kind not in _METADATA:
        raise unknown("figure format", kind, _METADATA)
    return write_bytes(path, rendered(figure, kind))


def rendered(figure: Figure, kind: str, dpi: int = 300) -> bytes:
    """The bytes of a figure as `pdf`, `png` or `svg`, without dates or versions in them."""
    _settle(figure)
    buffer = io.BytesIO()
    figure.savefig(buffer, format=kind, metadata=_METADATA[kind], dpi=dpi)
    return buffer.getvalue()


def _settle(figure: Figure) -> None:
    """Lay out once and round: the layout's solver differs in the last digit from run to run, which an SVG shows."""
    figure.draw_without_rendering()
    figure.set_layout_engine("none")
    for axes in figure.axes:
        left, bottom, width, height = (round(edge, 6) for edge in axes.get_position(original=True).bounds)
        axes.set_position((left, bottom, width, height))


def colours_of(names: Iterable[str], study: Iterable[str] = ()) -> dict[str, str]:
    """One colour per composition, method or category, by its place in the alphabet; beyond seven, evenly spaced hues.

    Args:
        names: those to be drawn.
        study: all those of the study, whose number and order decide the colours.
    """
    every = sorted({*names, *study})
    palette = OKABE_ITO if len(every) <= len(OKABE_ITO) else seaborn.husl_palette(len(every), s=0.75, l=0.6).as_hex()
    return dict(zip(every, palette, strict=False))


def markers_of(names: Iterable[str], study: Iterable[str] = ()) -> dict[str, str]:
    """One marker shape per name, chosen like its colour, for readers who cannot tell the colours apart."""
    return {name: MARKERS[i % len(MARKERS)] for i, name in enumerate(sorted({*names, *study}))}


def label(name: str, limit: int = 26) -> str:
    """A name as it is printed in a figure: on one line, its middle left out where it is too long.

    Characters that no installed font has are written as escapes, `\\u4efb`, and reported: empty boxes would make all
    such names alike.

    >>> label("a_very_long_name_of_a_task_in_a_figure", limit=16)
    'a_very_lon…igure'
    """
    line = " ".join("".join(c if c.isprintable() else " " for c in name).split()) or repr(name)
    line = _drawable(line)
    if len(line) <= limit:
        return line
    head = (limit - 1) * 2 // 3
    return f"{line[:head]}…{line[head + 1 - limit :]}"


def labels(names: Sequence[str], limit: int = 26) -> list[str]:
    """The labels of several names; where shortening makes two of them alike, all that coincide are numbered."""
    texts = [label(name, limit) for name in names]
    alike = {text for text, count in Counter(texts).items() if count > 1}
    return [
        f"{position} {label(name, limit - 1 - len(str(position)))}" if text in alike else text
        for position, (name, text) in enumerate(zip(names, texts, strict=True), start=1)
    ]


def _drawable(line: str) -> str:
    """A text whose characters all have a glyph, the others as escapes."""
    if line.isascii():
        return line
    known = _characters(_fonts())
    lacking = [c for c in line if ord(c) not in known]
    if not lacking:
        return line
    warnings.warn(
        f"no installed font has {''.join(dict.fromkeys(lacking))[:20]!r}, which figures show as escapes; install one "
        f"of {', '.join(FALLBACKS[:3])} (on Debian: apt install fonts-noto-cjk)",
        stacklevel=3,
    )
    return "".join(c if ord(c) in known else ascii(c)[1:-1] for c in line)


def _fonts() -> tuple[str, ...]:
    """The fonts of a figure: ours, and those of the fallbacks that are installed."""
    installed = set(fontManager.get_font_names())
    return (FONT, *(name for name in FALLBACKS if name in installed))


@cache
def _characters(fonts: tuple[str, ...]) -> frozenset[int]:
    """The code points that some of the fonts have a glyph for."""
    return frozenset(code for name in fonts for code in FT2Font(fontManager.findfont(name)).get_charmap())


def number(value: float, *, signed: bool = False, digits: int = 2) -> str:
    """A number as papers print it: no zero before the point, a true minus sign.

    >>> number(0.871), number(-0.5, signed=True), number(0.25, signed=True)
    ('.87', '−.50', '+.25')
    """
    text = f"{value:+.{digits}f}" if signed else f"{value:.{digits}f}"
    if float(text) == 0:
        text = text.lstrip("+-")
    for zero, bare in (("-0.", "-."), ("+0.", "+."), ("0.", ".")):
        if text.startswith(zero):
            text = bare + text.removeprefix(zero)
            break
    return text.replace("-", "−")


def counted(n: int, noun: str) -> str:
    """`1 seed`, `3 seeds`.

    >>> counted(1, "seed"), counted(3, "seed")
    ('1 seed', '3 seeds')
    """
    return f"{n} {noun}" if n == 1 else f"{n} {noun}s"


def wrapped(text: str, look: Look) -> str:
    """A title on as many lines as the figure's width asks for."""
    return "\n".join(textwrap.wrap(" ".join(text.split()), int(17 * look.width)))
