"""Shared parts of figures with numeric axes: opening them, titles and keys that wrap, rows of names, files."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator

from deltacompose.analysis.transfer.tidy_tables import table_of
from deltacompose.errors import BadInput
from deltacompose.figures.labels import LINE, Labels, fitted, legend_width, width_of, wrapped_to
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
    texts = [str(handle.get_label()) for handle in handles]
    if not own:
        axes.legend(handles=handles, loc="best")
        return
    room = look.points - 12
    texts = [wrapped_to(text, room - 4 * look.tick, look.tick, look.font) for text in texts]
    widths = [width_of(text, look.tick, look.font) + 4.6 * look.tick for text in texts]
    across = next(n for n in range(len(texts), 0, -1) if n == 1 or legend_width(widths, n) <= room)
    figure_of(axes).legend(handles, texts, loc="outside lower left", ncols=across, columnspacing=1.2)


def legend_height(texts: Sequence[str], look: Style) -> float:
    """About how many inches a legend of these texts takes."""
    widths = [width_of(text, look.tick, look.font) + 4.6 * look.tick for text in texts] or [1.0]
    across = next((n for n in range(len(widths), 0, -1) if legend_width(widths, n) <= look.points - 12), 1)
    return -(-len(widths) // across) * 1.6 * look.tick / 72


def rows(axes: Axes, names: Sequence[str], look: Style, own: bool, share: float = 0.36) -> Labels:
    """Names at the rows of axes, the first on top; abbreviated to a share of the figure's width, or numbered."""
    room = share * (look.points if own else 72 * axes.get_position().width * figure_of(axes).get_figwidth())
    labels = fitted(list(names), room, look.tick, look.font)
    axes.set_yticks(range(len(names)), [labels.shown[name] for name in names])
    axes.set_ylim(len(names) - 0.4, -0.6)
    axes.tick_params(axis="y", length=0)
    return labels


def rows_height(count: int, look: Style, lines: float = 5.0) -> float:
    """Inches that so many rows take, and so many lines of text around them."""
    return (count * ROW * look.tick + lines * LINE * look.text) / 72


def key_of(labels: Labels) -> str:
    """Full forms of shortened or numbered names, in one text; of many it says that they were shortened."""
    key = ", ".join(f"{short}: {name}" for short, name in labels.key)
    if len(labels.key) > _FEW and not labels.numbered:
        key = "“…” stands for what was left out of long names"
    return "; ".join(filter(None, [labels.note, key]))


_FEW = 4


def head_height(look: Style, *texts: str) -> float:
    """Inches that a title of these texts takes."""
    lines = [wrapped_to(text, look.points - 6, look.title, look.font) for text in texts if text]
    return sum(LINE * look.title * (1 + text.count("\n")) for text in lines) / 72 + 0.08


def numbers(axis: Any, *, signed: bool = False, most: int = 5) -> None:
    """At most so many round ticks, printed as all other numbers are."""
    axis.set_major_locator(MaxNLocator(most, steps=[1, 2, 2.5, 5, 10]))
    axis.set_major_formatter(FuncFormatter(lambda value, _: _tick(value, signed)))


def _tick(value: float, signed: bool) -> str:
    digits = next((d for d in range(4) if abs(round(value, d) - value) < 1e-9), 4)
    return number(value, signed=signed, digits=digits)


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
