"""Shared parts of figures with numeric axes: opening them, titles and keys that wrap, rows of names, files."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import Formatter, MaxNLocator

from deltacompose.analysis.transfer.tidy_tables import table_of
from deltacompose.errors import BadInput
from deltacompose.figures.labels import LINE, Labels, fitted, labels, legend_width, width_of, wrapped_to
from deltacompose.figures.rounding import number
from deltacompose.figures.style import Canvas, format_of, save
from deltacompose.figures.venues import Style
from deltacompose.formats.json_files import read_json

ROW = 1.75
"""Height of a row of text in sizes of its letters."""


def opened(ax: Axes | None, look: Style, height: float) -> Axes:
    """The caller's axes, or axes of a new figure of the style's width and so many inches of height."""
    return Canvas(look, height, "constrained").subplots() if ax is None else ax


def check_path(path: str | Path | None) -> None:
    """Refuses the suffix of a file before anything is drawn.

    Raises:
        BadInput: a suffix that is not one of a figure.
    """
    if path is not None:
        format_of(Path(path))


def saved(figure: Figure | None, path: str | Path | None) -> None:
    """Writes the figure where a path was given."""
    if path is not None and figure is not None:
        save(figure, Path(path))


def figure_of(axes: Axes) -> Figure:
    """The whole figure that axes are in.

    Raises:
        BadInput: axes that belong to none.
    """
    figure = axes.get_figure(root=True)
    if figure is None:
        raise BadInput("cannot draw in axes that belong to no figure")
    return figure


def entitle(axes: Axes, own: bool, headline: str, facts: str, look: Style) -> None:
    """A headline and what the numbers are means over: above the figure, or above the caller's axes."""
    figure = figure_of(axes)
    room = look.points - 6 if own else 72 * axes.get_position().width * figure.get_figwidth()
    lines = [wrapped_to(text, room, look.title, look.font) for text in (headline, facts) if text]
    if own:
        figure.suptitle("\n".join(lines), x=3 / look.points, ha="left", fontsize=look.title)
    else:
        axes.set_title("\n".join(lines), loc="left")


def legend(axes: Axes, own: bool, handles: Sequence[Artist], look: Style) -> None:
    """The keys in as many columns as fit below the figure, or within the caller's axes."""
    if not handles:
        return
    if not own:
        axes.legend(handles=handles, loc="best")
        return
    texts, across, _ = arranged([str(handle.get_label()) for handle in handles], look)
    figure_of(axes).legend(handles, texts, loc="outside lower left", ncols=across, columnspacing=1.2)


def arranged(texts: Sequence[str], look: Style) -> tuple[list[str], int, float]:
    """The texts of a legend as wide as the figure: wrapped, in how many columns, and about how many inches high."""
    room = look.points - 12
    lines = [wrapped_to(text, room - 4.6 * look.tick, look.tick, look.font) for text in texts]
    widths = [width_of(text, look.tick, look.font) + 4.6 * look.tick for text in lines]
    across = next((n for n in range(len(lines), 0, -1) if legend_width(widths, n) <= room), 1)
    down, longer = divmod(len(lines), across)
    columns, first = [], 0
    for column in range(across):
        length = down + (column < longer)
        columns.append(sum(1 + text.count("\n") for text in lines[first : first + length]) * LINE + 0.5 * length)
        first += length
    return lines, across, max(columns) * look.tick / 72


def legend_height(texts: Sequence[str], look: Style) -> float:
    """About how many inches a legend of these texts takes."""
    return arranged(texts, look)[2] if texts else 0.0


def named(names: Sequence[str]) -> list[str]:
    """The names of compositions and methods for a legend, which wraps them: in full, and no two alike."""
    return labels(names, 200)


ROWS = 0.36
"""The share of the width that names of rows may take."""


def rows(axes: Axes, names: Sequence[str], look: Style, own: bool, share: float = ROWS) -> Labels:
    """Names at the rows of axes, the first on top; abbreviated to a share of the figure's width, or numbered."""
    room = share * (look.points if own else 72 * axes.get_position().width * figure_of(axes).get_figwidth())
    texts = fitted(list(names), room, look.tick, look.font)
    axes.set_yticks(range(len(names)), [texts.shown[name] for name in names])
    axes.set_ylim(len(names) - 0.4, -0.6)
    axes.tick_params(axis="y", length=0)
    return texts


def rows_height(count: int, look: Style, lines: float = 5.0) -> float:
    """Inches that so many rows take, and so many lines of text around them."""
    return (count * ROW * look.tick + lines * LINE * look.text) / 72


def key_of(texts: Labels) -> str:
    """Full forms of shortened or numbered names, in one text; of many it says that they were shortened."""
    key = ", ".join(f"{short}: {name}" for short, name in texts.key)
    if len(texts.key) > _FEW and not texts.numbered:
        key = "“…” stands for what was left out of long names"
    return "; ".join(filter(None, [texts.note, key]))


def written_below(axes: Axes, text: str, look: Style, own: bool, share: float = 0.55) -> None:
    """The label of the horizontal axis, on as many lines as that share of the figure's width asks for."""
    axes.set_xlabel(wrapped_to(text, share * look.points, look.text, look.font) if own else text)


_FEW = 4


def head_height(look: Style, *texts: str) -> float:
    """Inches that a title of these texts takes."""
    lines = [wrapped_to(text, look.points - 6, look.title, look.font) for text in texts if text]
    return sum(LINE * look.title * (1 + text.count("\n")) for text in lines) / 72 + 0.08


def numbers(axis: Any, *, signed: bool = False, most: int = 5) -> None:
    """At most so many round ticks, printed as all other numbers are, with as many digits as the finest needs."""
    axis.set_major_locator(MaxNLocator(most, steps=[1, 2, 2.5, 5, 10]))
    axis.set_major_formatter(_Ticks(signed))


class _Ticks(Formatter):
    """Numbers of an axis; a class, because matplotlib asks it for all of them together."""

    def __init__(self, signed: bool) -> None:
        self.signed, self.digits = signed, 2

    def format_ticks(self, values: Any) -> list[str]:
        places = [next((d for d in range(4) if abs(round(v, d) - v) < 1e-9), 4) for v in map(float, values)]
        self.digits = max(places, default=2)
        return [self(value) for value in values]

    def __call__(self, value: float, pos: int | None = None) -> str:
        return "0" if abs(value) < 1e-9 else number(float(value), signed=self.signed, digits=self.digits)


def table(data: Any, needed: Sequence[str], what: str) -> pd.DataFrame:
    """A table of rows from a DataFrame, a list of mappings, or a file of either kind of table.

    Raises:
        BadInput: a column that is not there, no rows, or something that is not a table.
    """
    if isinstance(data, str | Path):
        path = Path(data)
        data = read_json(path, list[dict[str, Any]]) if path.suffix == ".json" else _numeric(table_of(path))
    if isinstance(data, list | tuple):
        data = pd.DataFrame([dict(row) for row in data])
    if not isinstance(data, pd.DataFrame):
        raise BadInput(f"cannot draw {what} from a {type(data).__name__}; expected a DataFrame, rows, or a file")
    absent = [column for column in needed if column not in data.columns]
    if absent or not len(data):
        found = ", ".join(map(str, data.columns[:20])) or "none"
        raise BadInput(
            f"{what} needs rows with the columns {', '.join(needed)}; found {len(data)} rows with the columns {found}"
        )
    return data


def _numeric(frame: pd.DataFrame) -> pd.DataFrame:
    """Columns of text in which every cell is a number or empty, as numbers."""
    columns = {}
    for name in frame.columns:
        cells = frame[name].replace("", None)
        as_numbers = pd.to_numeric(cells, errors="coerce")
        columns[name] = as_numbers if as_numbers.notna().equals(cells.notna()) and cells.notna().any() else frame[name]
    return pd.DataFrame(columns)


def record(data: Any, what: str) -> Mapping[str, Any]:
    """A record that a command prints as JSON: a mapping, the only one of a list, or a file of either.

    Raises:
        BadInput: something else, or several records.
    """
    if isinstance(data, str | Path):
        data = read_json(Path(data), dict[str, Any] | list[dict[str, Any]])
    if isinstance(data, list | tuple) and len(data) == 1:
        data = data[0]
    if not isinstance(data, Mapping):
        found = f"{len(data)} records" if isinstance(data, list | tuple) else f"a {type(data).__name__}"
        raise BadInput(f"expected one record of {what}, found {found}")
    return data
