"""Where everything of a heatmap stands, in points, before anything is drawn: nothing overlaps, nothing is cut off.

Cells are square. Names stand at rows and columns where they fit at a legible size; else they are abbreviated to the
least form that tells them apart, else numbered, in both cases with a key below.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby

from deltacompose.figures.heatmap_values import Cells
from deltacompose.figures.labels import LINE, Labels, fitted, numbered, width_of, wrapped_to
from deltacompose.figures.palette import letters_of
from deltacompose.figures.venues import Style

PAD = 3.0
"""Points between neighbouring parts."""
_GAP = 4.0
"""Points between the sources and the rows of reference."""
COLOURED = 7
"""With more categories than this their strips are grey and only letters tell them apart."""
_NAMES = 0.3
"""The share of the width that names of rows may take; less where panels stand side by side."""
_WIDEST = 30.0
"""The side of a cell in points at most, with letters of 7 points."""


@dataclass(frozen=True)
class Blocks:
    """Neighbours of one category: (first, length, category) along the rows and the columns, and what names them.

    `names` has the text of each block of rows, empty where letters alone stand in the strips. `beside` is whether there
    is a strip beside the rows; of panels side by side only the last has it.
    """

    rows: tuple[tuple[int, int, str], ...]
    columns: tuple[tuple[int, int, str], ...]
    names: Mapping[str, str]
    letters: Mapping[str, str]
    beside: bool = True

    @property
    def scattered(self) -> bool:
        """Whether a category has several blocks."""
        return len(self.rows) > len({name for _, _, name in self.rows})


@dataclass(frozen=True)
class Plan:
    """Sizes in points.

    Attributes:
        cell: the side of a cell.
        labels: of sources and targets, and `label_size`, the size of their letters.
        steps: every how many rows, and columns, a number stands; 1 unless they are numbered.
        upright: whether the names of columns stand upright.
        left, right, top: room for names left of the cells, for categories right of them, for those above.
        names_below: room for the names of columns.
        heights: of the rows of reference, and `gap`, the room above them.
        levels: the printed name of each row of reference.
        blocks: the categories; None without them.
        strip: how wide the strip of categories is.
        tree: points above the cells where a dendrogram begins.
    """

    cell: float
    labels: Labels
    label_size: float
    steps: tuple[int, int]
    upright: bool
    left: float
    right: float
    top: float
    names_below: float
    heights: tuple[float, ...]
    gap: float
    levels: tuple[str, ...]
    blocks: Blocks | None
    strip: float
    tree: float = 0.0

    @property
    def grid_height(self) -> float:
        """Of sources and rows of reference together, in points, without the sources."""
        return (self.gap if self.heights else 0.0) + sum(self.heights)


def plan(
    shown: Cells, categories: Mapping[str, str], look: Style, room: float, most: float | None = None, panels: int = 1
) -> Plan:
    """Choose sizes so that rows, columns and names fit into `room` points of width.

    Args:
        most: the side of a cell at most.
        panels: heatmaps side by side that share the names of rows and the categories.
    """
    names = list(dict.fromkeys((*shown.targets, *shown.sources)))
    limit = most or _WIDEST * look.text / 7
    columns = len(shown.targets) * panels
    between = 3 * PAD * (panels - 1)
    levels = tuple(wrapped_to(name, _NAMES * room, look.tick, look.font) for name in shown.baselines)
    level_width = max((width_of(name, look.tick, look.font) for name in levels), default=0.0)
    title = LINE * look.text + PAD
    blocks, right, strip = _blocks(shown, categories, look, 0.22 * room)
    share = _NAMES * 2 / (1 + panels)
    for attempt in (fitted(names, share * room, look.tick, look.font), numbered(names)):
        size = look.tick
        for _ in range(3):
            left = max(attempt.widest(size, look.font), level_width) + title + 2 * PAD
            cell = min((room - left - right - between - PAD) / columns, limit)
            size = max(look.smallest, min(look.tick, cell / 1.1))
        if attempt.numbered or cell >= 1.1 * look.smallest:
            break
    widest = attempt.widest(size, look.font)
    steps = (_step(cell, LINE * size), _step(cell, 1.3 * widest)) if attempt.numbered else (1, 1)
    flat = attempt.numbered or widest <= 0.95 * cell
    if blocks and not _fit(blocks, cell, look):
        blocks, right, strip = _lettered(shown, categories, look)
        cell = min((room - left - right - between - PAD) / columns, limit)
        if not _told_apart(blocks, cell, look):
            blocks, right, strip = None, 0.0, 0.0
            cell = min((room - left - between - PAD) / columns, limit)
    return Plan(
        cell=cell,
        labels=attempt,
        label_size=size,
        steps=steps,
        upright=not flat,
        left=left,
        right=right,
        top=strip + PAD if blocks else 0.0,
        names_below=(LINE * size if flat else widest) + PAD,
        heights=tuple(max(min(cell, 1.7 * look.tick), LINE * look.tick * (1 + name.count("\n"))) for name in levels),
        gap=_GAP,
        levels=levels,
        blocks=blocks,
        strip=strip,
    )


def _step(cell: float, needed: float) -> int:
    """Every how many cells a label of that size fits."""
    return next((step for step in (1, 2, 5, 10, 20, 50, 100) if step * cell >= needed), 200)


def runs_of(names: Sequence[str], categories: Mapping[str, str]) -> tuple[tuple[int, int, str], ...]:
    """Neighbours of one category: where a run starts, how long it is, and the category."""
    runs, first = [], 0
    for category, members in groupby(names, key=lambda name: categories[name]):
        length = len(list(members))
        runs.append((first, length, category))
        first += length
    return tuple(runs)


def _blocks(
    shown: Cells, categories: Mapping[str, str], look: Style, room: float
) -> tuple[Blocks | None, float, float]:
    """The blocks of categories with their names, the room right of the cells, and the width of the strip."""
    if not categories:
        return None, 0.0, 0.0
    rows, columns = runs_of(shown.sources, categories), runs_of(shown.targets, categories)
    kinds = list(dict.fromkeys((*(name for _, _, name in rows), *(name for _, _, name in columns))))
    letters = letters_of(kinds, look.categories)
    texts = {name: wrapped_to(name, room, look.tick, look.font) for name in kinds}
    widest = max(width_of(text, look.tick, look.font) for text in texts.values())
    strip = 1.35 * look.smallest
    return Blocks(rows, columns, texts, letters), strip + 2 * PAD + widest, strip


def _fit(blocks: Blocks, cell: float, look: Style) -> bool:
    """Whether the name of every block of rows is no higher than the block, so that names do not touch."""
    return all(
        LINE * look.tick * (1 + blocks.names[name].count("\n")) <= length * cell for _, length, name in blocks.rows
    )


def _told_apart(blocks: Blocks, cell: float, look: Style) -> bool:
    """Whether strips without names show the categories: by colours, which at most seven have, or by letters that fit.

    Of more categories, in blocks too short for their letters, strips would show nothing.
    """
    runs = (*blocks.rows, *blocks.columns)
    lettered = sum(length * cell >= 1.1 * look.smallest for _, length, _ in runs)
    return len({name for *_, name in runs} | set(look.categories)) <= COLOURED or lettered >= len(runs) / 2


def _lettered(shown: Cells, categories: Mapping[str, str], look: Style) -> tuple[Blocks, float, float]:
    """The blocks with letters alone in their strips."""
    blocks, _, strip = _blocks(shown, categories, look, 1e9)
    if blocks is None:
        raise ValueError("letters of no categories")
    return Blocks(blocks.rows, blocks.columns, {}, blocks.letters), strip + PAD, strip


def columns_of(entries: Sequence[str], room: float, size: float, font: str) -> list[str]:
    """Entries of a key in as many columns as fit, each a text of several lines, filled column by column."""
    if not entries:
        return []
    entries = [wrapped_to(entry, room, size, font) for entry in entries]
    widest = max(width_of(entry, size, font) for entry in entries) + 2 * size
    across = max(1, min(len(entries), int((room + 2 * size) / widest)))
    lines = [line for entry in entries for line in entry.split("\n")]
    down = -(-len(lines) // across)
    return ["\n".join(lines[first : first + down]) for first in range(0, len(lines), down)]
