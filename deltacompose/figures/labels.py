"""Names as figures print them: on one line, drawable, distinct, short enough, with a key of what was shortened.

Widths are measured with the glyphs of the font, so a figure can be laid out before it is drawn.
"""

from __future__ import annotations

import warnings
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache, lru_cache
from itertools import takewhile

from matplotlib.font_manager import FontProperties, fontManager
from matplotlib.ft2font import FT2Font
from matplotlib.textpath import text_to_path

from deltacompose.figures.venues import FALLBACKS, FONT, fonts

LINE = 1.2
"""Height of a line of text, in sizes of its letters."""
_MEASURED = 10.0
_HINTING = 1.05
"""Rendered text is at most this much wider than its outlines, because glyphs move to whole pixels."""


@lru_cache(maxsize=20_000)
def _width(text: str, font: str) -> float:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a character without a glyph is reported by `label`
        properties = FontProperties(family=list(fonts(font)), size=_MEASURED)
        return float(text_to_path.get_text_width_height_descent(text, properties, False)[0]) / _MEASURED


def width_of(text: str, size: float, font: str = FONT) -> float:
    """The width in points of a text, of its longest line where it has several."""
    return max((_HINTING * size * _width(line, font) for line in text.split("\n") if line), default=0.0)


def height_of(text: str, size: float) -> float:
    """The height in points of a text of one or more lines."""
    return LINE * size * (text.count("\n") + 1) if text else 0.0


def wrapped_to(text: str, room: float, size: float, font: str = FONT) -> str:
    """A text on as many lines as it needs to be no wider than `room` points; a longer word is broken.

    Lines that the text has already are kept.
    """
    lines: list[str] = []
    for line in text.split("\n"):
        lines += _broken(line.split(), room, size, font)
    return "\n".join(lines)


def _broken(words: Sequence[str], room: float, size: float, font: str) -> list[str]:
    lines, current = [], ""
    for word in words:
        joined = f"{current} {word}" if current else word
        if width_of(joined, size, font) <= room:
            current = joined
            continue
        if current:
            lines.append(current)
        while width_of(word, size, font) > room and len(word) > 1:
            kept = next((n for n in range(len(word) - 1, 0, -1) if width_of(word[:n], size, font) <= room), 1)
            lines.append(word[:kept])
            word = word[kept:]
        current = word
    return [*lines, current] if current else lines


def legend_width(widths: Sequence[float], across: int) -> float:
    """The width of a legend whose entries have these widths, in so many columns, filled as matplotlib fills them."""
    down, longer = divmod(len(widths), across)
    total, first = 0.0, 0
    for column in range(across):
        length = down + (column < longer)
        total += max(widths[first : first + length], default=0.0)
        first += length
    return total


def label(name: str, limit: int = 26) -> str:
    """A name as it is printed in a figure: on one line, its middle left out where it is too long.

    Characters that no installed font has are written as escapes, `\\u4efb`, and reported: empty boxes would make all
    such names alike.
    """
    line = _line(name)
    return _cut(line, limit, 2 / 3)


def _line(name: str) -> str:
    return _drawable(" ".join("".join(c if c.isprintable() else " " for c in name).split()) or repr(name))


def _cut(line: str, limit: int, share: float) -> str:
    """At most `limit` characters, `share` of them from the beginning and the others from the end."""
    if len(line) <= limit:
        return line
    head = int((limit - 1) * share)
    return f"{line[:head]}…{line[head + 1 - limit :]}" if limit - 1 > head else f"{line[:head]}…"


def labels(names: Sequence[str], limit: int = 26) -> list[str]:
    """The labels of several names; where shortening makes two of them alike, all that coincide are numbered."""
    texts = [label(name, limit) for name in names]
    alike = {text for text, count in Counter(texts).items() if count > 1}
    return [
        f"{position} {label(name, limit - 1 - len(str(position)))}" if text in alike else text
        for position, (name, text) in enumerate(zip(names, texts, strict=True), start=1)
    ]


@dataclass(frozen=True)
class Labels:
    """Labels of names, and the key of those that are not the name itself.

    Attributes:
        shown: label by name; the labels of different names differ.
        key: (label, name) of every name that was shortened or numbered.
        numbered: whether the labels are numbers.
        note: what all names begin and end with, where it was left out.
    """

    shown: Mapping[str, str]
    key: tuple[tuple[str, str], ...] = ()
    numbered: bool = field(default=False)
    note: str = ""

    @property
    def entries(self) -> list[str]:
        """The key as texts: `12 name` of numbers, `abbreviation: name` of others."""
        return [f"{short}{'' if self.numbered else ':'} {name}" for short, name in self.key]

    def widest(self, size: float, font: str = FONT) -> float:
        """Width in points of the widest label."""
        return max((width_of(text, size, font) for text in self.shown.values()), default=0.0)


def fitted(names: Sequence[str], room: float, size: float, font: str = FONT) -> Labels:
    """Labels no wider than `room` points: the names, else what differs of them, else an abbreviation, else numbers.

    The common beginning and end of all names are left out first. An abbreviation leaves out the least of the middle
    that keeps all labels different; of the beginning or the end only where that keeps clearly more letters.
    """
    lines = {name: _line(name) for name in dict.fromkeys(names)}
    if len(set(lines.values())) < len(lines):
        return numbered(names)
    if _fits(lines.values(), room, size, font):
        return Labels(lines)
    lines, note = _without_shared(lines)
    if _fits(lines.values(), room, size, font):
        return Labels(lines, note=note)
    abbreviations = [_abbreviated(lines, share, room, size, font) for share in _SHARES]
    best = max(filter(None, abbreviations), key=lambda candidate: candidate[0], default=None)
    if best is None:
        return numbered(names)
    texts = best[1]
    return Labels(texts, tuple((texts[name], line) for name, line in lines.items() if texts[name] != line), note=note)


_SHARES = {2 / 3: 4, 1 / 2: 4, 1 / 3: 2, 0.0: 0, 1.0: 0}
"""Shares of an abbreviation that come from the beginning of a name, and how many letters each is worth.

A reader knows a name by its beginning; with 0 and 1 one of its ends is lost altogether.
"""


def _abbreviated(
    lines: Mapping[str, str], share: float, room: float, size: float, font: str
) -> tuple[int, dict[str, str]] | None:
    """The longest abbreviations with this share that fit and are different, and how good they are."""
    for limit in range(max(map(len, lines.values())) - 1, 6, -1):
        texts = {name: _cut(line, limit, share) for name, line in lines.items()}
        if len(set(texts.values())) == len(texts) and _fits(texts.values(), room, size, font):
            return limit + _SHARES[share], texts
    return None


def numbered(names: Sequence[str]) -> Labels:
    """Numbers from 1 on in place of names, with a key of all."""
    lines, note = _without_shared({name: _line(name) for name in dict.fromkeys(names)})
    shown = {name: str(number) for number, name in enumerate(lines, start=1)}
    return Labels(shown, tuple((number, lines[name]) for name, number in shown.items()), numbered=True, note=note)


def _fits(texts: Iterable[str], room: float, size: float, font: str) -> bool:
    return all(width_of(text, size, font) <= room for text in texts)


_BREAKS = "_-/ .:"


def _without_shared(lines: Mapping[str, str]) -> tuple[dict[str, str], str]:
    """The lines without the words that all begin and end with, and a note of these; as they are where none is long."""
    texts = list(lines.values())
    if len(texts) < 3:
        return dict(lines), ""
    first = _common(texts)
    first = first[: max(first.rfind(sign) for sign in _BREAKS) + 1]
    last = _common([text[len(first) :][::-1] for text in texts])[::-1]
    starts = [last.find(sign) for sign in _BREAKS if sign in last]
    last = last[min(starts) :] if starts else ""
    short = {name: text[len(first) : len(text) - len(last)] for name, text in lines.items()}
    if len(first) + len(last) < 4 or not all(short.values()) or len(set(short.values())) < len(short):
        return dict(lines), ""
    parts = [f"“{part}”" for part in (first, last) if part]
    return short, f"names without {' and '.join(parts)}"


def _common(texts: Sequence[str]) -> str:
    """The letters that all texts begin with."""
    same = takewhile(lambda letters: len(set(letters)) == 1, zip(*texts, strict=False))
    return "".join(letters[0] for letters in same)


def _drawable(line: str) -> str:
    """A text whose characters all have a glyph, the others as escapes."""
    if line.isascii():
        return line
    known = _characters(fonts())
    lacking = [c for c in line if ord(c) not in known]
    if not lacking:
        return line
    warnings.warn(
        f"no installed font has {''.join(dict.fromkeys(lacking))[:20]!r}, which figures show as escapes; install one "
        f"of {', '.join(FALLBACKS[:3])} (on Debian: apt install fonts-noto-cjk)",
        stacklevel=3,
    )
    return "".join(c if ord(c) in known else ascii(c)[1:-1] for c in line)


@cache
def _characters(names: tuple[str, ...]) -> frozenset[int]:
    """The code points that some of the fonts have a glyph for."""
    return frozenset(code for name in names for code in FT2Font(fontManager.findfont(name)).get_charmap())
