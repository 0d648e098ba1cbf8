"""Convergence: the score during training, with bands over seeds, lines that differ in grey."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from deltacompose.errors import BadInput
from deltacompose.figures.frames import check_path, key_of, legend, legend_height, named, numbers, saved, table
from deltacompose.figures.labels import LINE, fitted, wrapped_to
from deltacompose.figures.palette import lines_of
from deltacompose.figures.rounding import counted, counts
from deltacompose.figures.style import Canvas, styled
from deltacompose.figures.venues import Style, style_of

MOST_PANELS = 12
"""With more tasks than this one panel shows the mean over tasks."""
_MARKS = 8
"""About how many markers a line has."""
_PANEL = 1.45
"""Least width of a panel in inches, with letters of 7 points."""


def convergence(
    data: Any,
    path: str | Path | None = None,
    *,
    style: Style | str | None = None,
    by: str = "step",
    panels: str = "auto",
    title: str = "",
) -> Figure:
    """Draw the score during training: a line per composition, its band the range over seeds; a panel per task.

    Panels have one scale. Lines differ in colour, dashes and markers. With more than twelve tasks one panel shows the
    mean over tasks, and its band is the range over tasks.

    Args:
        data: evaluations during training, as rows, a DataFrame or a file, with the columns `composition`, `step` and
            `score`, and where they are known `unit` (the task), `seed`, `seconds` and `metric`; or the findings of a
            store.
        path: file to write.
        style: of `dc.style`, or the name of a venue.
        by: `step` or `seconds`. Seconds differ between seeds, so lines are then drawn seed by seed, without a band.
        panels: `tasks` for a panel per task, `mean` for the mean over tasks, `auto` for what is legible.

    Raises:
        BadInput: no evaluations, a column that is missing, or another axis.
    """
    check_path(path)
    if by not in ("step", "seconds") or panels not in ("auto", "tasks", "mean"):
        raise BadInput(
            f"curves are drawn by 'step' or 'seconds', in panels 'auto', 'tasks' or 'mean'; found {by!r}, {panels!r}"
        )
    rows = _rows(data, by)
    look = style_of(style)
    with styled(look):
        units = list(dict.fromkeys(rows["unit"]))
        mean = panels == "mean" or (panels == "auto" and len(units) > MOST_PANELS)
        figure = _drawn(rows, [""] if mean else units, by, look, title)
        saved(figure, path)
        return figure


def _rows(data: Any, by: str) -> pd.DataFrame:
    """The evaluations with all columns that a panel reads."""
    if hasattr(data, "trainings"):
        data = _of_findings(data)
    rows = table(data, ("composition", by, "score"), "convergence")
    defaults: dict[str, Any] = {name: default for name, default in _DEFAULTS.items() if name not in rows.columns}
    return rows.assign(**defaults)


_DEFAULTS = {"unit": "", "seed": 0, "metric": ""}


def _of_findings(findings: Any) -> list[dict[str, Any]]:
    from deltacompose.analysis.interaction.convergence import history

    return [
        {
            "composition": str(record["spec"]["composition"]),
            "unit": str(record["spec"]["task"]),
            "seed": int(record["spec"]["seed"]),
            "metric": str(record["result"].get("metric", "")),
            "step": point.step,
            "seconds": point.seconds,
            "score": point.score,
        }
        for record in findings.trainings
        for point in history(record["result"].get("history", ()))
    ]


def _drawn(rows: pd.DataFrame, units: Sequence[str], by: str, look: Style, title: str) -> Figure:
    names = list(dict.fromkeys(map(str, rows["composition"])))
    signs = lines_of(names, look.compositions)
    across = max(1, min(len(units), int(look.width / (_PANEL * look.text / 7))))
    down = -(-len(units) // across)
    texts = named(names)
    tall = 0.62 * look.width / across
    score, metrics = _metrics(rows, units)
    each = min(tall, 2.4) + (LINE * look.title / 72 if metrics else 0.0)
    figure = Canvas(look, max(down * each + legend_height(texts, look) + 0.55, 1.8), "constrained")
    grid = figure.subplots(down, across, squeeze=False, sharey=True, sharex=True)
    room = look.points / across - 30
    labels = fitted(list(map(str, units)), room, look.title, look.font)
    for place, unit in enumerate(units):
        axes = grid.flat[place]
        here = rows if unit == "" and units == [""] else rows[rows["unit"] == unit]
        for name, sign in signs.items():
            _line(axes, here[here["composition"] == name], by, sign, mean=units == [""])
        facts = f"mean of {counted(rows['unit'].nunique(), 'task')}, band: their range"
        head = wrapped_to(facts, room, look.title, look.font) if units == [""] else labels.shown[str(unit)]
        axes.set_title(f"{head}\n{metrics[str(unit)]}" if metrics else head)
        numbers(axes.yaxis)
        numbers(axes.xaxis, most=max(2, int(room / (5 * look.tick))))
    for axes in list(grid.flat)[len(units) :]:
        axes.set_axis_off()
    for axes in list(grid.flat)[::across]:
        axes.set_ylabel(wrapped_to(score, 60 * each, look.text, look.font))
    for axes in list(grid.flat)[max(0, len(units) - across) : len(units)]:
        axes.set_xlabel("training steps" if by == "step" else "seconds")
        axes.tick_params(labelbottom=True)
    seeds = [int(count) for count in rows.groupby(["composition", "unit"])["seed"].nunique()]
    band = "; band: range over seeds" if max(seeds) > 1 and by == "step" and units != [""] else ""
    facts = f"{'mean over ' if max(seeds) > 1 else ''}{counts(seeds, 'seed')}{band}"
    facts = "; ".join(filter(None, (facts, key_of(labels) if units != [""] else "")))
    figure.suptitle(
        wrapped_to("\n".join(filter(None, (title, facts))), look.points - 6, look.title, look.font),
        x=3 / look.points,
        ha="left",
        fontsize=look.title,
    )
    handles = [Line2D([], [], label=text, **sign) for text, sign in zip(texts, signs.values(), strict=True)]
    legend(grid.flat[0], True, handles, look)
    return figure


def _metrics(rows: pd.DataFrame, units: Sequence[str]) -> tuple[str, dict[str, str]]:
    """The label of the scores, and by unit the metric of its panel, where panels have different ones."""
    names = sorted({str(name) for name in rows["metric"] if name})
    if len(names) < 2 or list(units) == [""]:
        return ", ".join(names) or "score", {}
    of = {unit: sorted({str(name) for name in part if name}) for unit, part in rows.groupby("unit")["metric"]}
    return "score", {str(unit): ", ".join(each) or "score" for unit, each in of.items()}


def _line(axes: Axes, rows: pd.DataFrame, by: str, sign: Mapping[str, Any], mean: bool) -> None:
    """One composition: the mean and its range, or each seed by itself where they were not read at the same place."""
    if not len(rows):
        return
    if by == "seconds":
        for _, seed in rows.groupby(["unit", "seed"]):
            ordered = seed.sort_values(by)
            axes.plot(ordered[by], ordered["score"], markevery=max(1, len(ordered) // _MARKS), **sign)
        return
    groups = rows.groupby([by, "unit"])["score"].mean().groupby(level=0) if mean else rows.groupby(by)["score"]
    middle, low, high = groups.mean(), groups.min(), groups.max()
    axes.fill_between(middle.index, low, high, color=sign["color"], alpha=0.15, linewidth=0)
    for end in (low, high) if (high > low).any() else ():
        axes.plot(end.index, end, color=sign["color"], linestyle=sign["linestyle"], linewidth=0.3)
    axes.plot(middle.index, middle, markevery=max(1, len(middle) // _MARKS), **sign)
