"""Figures of the interaction of methods: marginals and effects, orders of stages, convergence."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import seaborn
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from deltacompose.errors import BadInput
from deltacompose.figures.style import (
    GREY,
    INK,
    MARKERS,
    NEURIPS,
    Look,
    canvas,
    colours_of,
    counted,
    label,
    markers_of,
    styled,
)
from deltacompose.study.queries import Record

ROW = 0.17
"""Inches that one row of text takes."""


def effects(record: Record, title: str = "") -> Figure:
    """Conditional marginals of every method (left) and the ±1 effects of every set of methods (right), with intervals.

    Args:
        record: one group's record of `interaction.analyse`.
        title: what the group is.

    Raises:
        BadInput: the factorial is so incomplete that not one marginal is known.
    """
    marginals = {(m, on): value for m, each in record["marginals"].items() for on, value in each.items()}
    if all(value is None for value in marginals.values()):
        raise BadInput(f"no marginal is known, for means are missing: {', '.join(_unknown(record['means']))}")
    names = [f"{method} on {on}" for method, on in marginals]
    reach = {f"{m} on {on}": r for m, each in record["intervals"]["marginals"].items() for on, r in each.items()}
    with styled():
        rows = max(len(marginals), len(record["effects"]))
        figure = canvas(NEURIPS, 1.0 + ROW * rows)
        left, right = figure.subplots(1, 2)
        colours = colours_of(record["factors"])
        _dots(left, dict(zip(names, marginals.values(), strict=True)), reach, [colours[m] for m, _ in marginals])
        _dots(right, record["effects"], record["intervals"]["effects"], [INK] * len(record["effects"]))
        left.set(title="what a method adds on top of others", xlabel="points")
        right.set(title="effect of a set of methods (±1 coding)", xlabel="points")
        figure.suptitle(_heading(record, title), fontsize=7.5)
        return figure


def orders(record: Record, title: str = "", look: Look | None = None) -> Figure:
    """The score after each stage, one line per order, and every stage's gain by its position.

    Args:
        record: one record of `order.order_effects`.
        title: what the group is.
        look: has the compositions of the study, which decide the colours of the orders.
    """
    study = (look or Look()).compositions
    colours, markers = colours_of(record["orders"], study), markers_of(record["orders"], study)
    stages = colours_of(record["positions"])
    with styled():
        figure = canvas(NEURIPS, 2.5 + 0.13 * len(record["orders"]))
        left, right = figure.subplots(1, 2)
        for text, order in record["orders"].items():
            style = {"color": colours[text], "marker": markers[text]}
            known = [(stage, score) for stage, score in enumerate(order["scores"]) if score is not None]
            left.plot(*zip(*known, strict=True), label=label(text, 40), markersize=3, linewidth=0.9, **style)
        for place, (stage, each) in enumerate(record["positions"].items()):
            _position(right, place, (stage, stages[stage]), each)
        right.axhline(0, color=GREY, linewidth=0.6)
        _whole_numbers(left, len(record["stages"]), "stages trained", "score")
        _whole_numbers(right, len(record["stages"]), "position of the stage", "gain (mean over orders)")
        counts = f"{counted(len(record['units']), 'task')}, {counted(len(record['seeds']), 'seed')}"
        figure.suptitle(
            " · ".join(filter(None, [label(title, 60) if title else "", counts, _p_values(record)])), fontsize=7.5
        )
        return figure


def curves(rows: Sequence[Record], by: str = "step", look: Look | None = None) -> Figure:
    """The score during training: one line per composition (mean over seeds, with their range), one panel per unit.

    Panels have one scale. Lines differ in colour, dashes and markers.

    Args:
        rows: evaluations during training, with `composition`, `unit`, `seed`, `step`, `seconds` and `score`, and
            `metric` where it is known.
        by: `step` or `seconds`. Seconds differ between seeds, so lines are then drawn seed by seed.
        look: has the compositions of the study, which decide colours and markers.

    Raises:
        BadInput: no evaluations, or another axis.
    """
    if not rows or by not in ("step", "seconds"):
        raise BadInput(
            f"{len(rows)} evaluations during training by {by!r}; expected at least one, by 'step' or 'seconds'"
        )
    units = sorted({row["unit"] for row in rows})
    across = min(3, len(units))
    down = -(-len(units) // across)
    names = list(dict.fromkeys(row["composition"] for row in rows))
    study = (look or Look()).compositions
    signs = _signs(names, study)
    with styled():
        figure = canvas(NEURIPS, 1.7 * down + 0.2 * -(-len(names) // 3))
        panels = figure.subplots(down, across, squeeze=False, sharey=True).flat
        for panel, unit in zip(panels, units, strict=False):
            here = [row for row in rows if row["unit"] == unit]
            _curve_panel(panel, here, by, signs)
            metrics = sorted({str(row["metric"]) for row in here if row.get("metric")})
            panel.set_ylabel(", ".join(metrics) or "score")
            panel.set_title(f"{label(unit)} ({counted(len({row['seed'] for row in here}), 'seed')})")
        for panel in list(figure.axes)[len(units) :]:
            panel.set_axis_off()
        handles = [
            figure.axes[0].plot([], [], label=label(name, 40), linewidth=0.9, markersize=3, **signs[name])[0]
            for name in names
        ]
        figure.legend(handles=handles, loc="outside lower center", ncols=3)
        return figure


_DASHES = ("-", "--", ":", "-.")


def _signs(names: Sequence[str], study: Sequence[str]) -> dict[str, dict[str, Any]]:
    """Colour, marker and dashes of each composition's line."""
    colours, markers = colours_of(names, study), markers_of(names, study)
    every = list(colours)
    return {
        name: {"color": colours[name], "marker": markers[name], "linestyle": _DASHES[every.index(name) % len(_DASHES)]}
        for name in names
    }


def _curve_panel(panel: Axes, rows: Sequence[Record], by: str, signs: Mapping[str, Mapping[str, Any]]) -> None:
    columns = {name: [row[name] for row in rows] for name in ("composition", "seed", by, "score")}
    lines: dict[str, Any] = {"errorbar": ("pi", 100)} if by == "step" else {"units": "seed", "estimator": None}
    for name, sign in signs.items():
        kept = [place for place, row in enumerate(rows) if row["composition"] == name]
        if kept:
            own = {column: [values[place] for place in kept] for column, values in columns.items()}
            seaborn.lineplot(own, x=by, y="score", legend=False, linewidth=0.9, markersize=3, ax=panel, **sign, **lines)


def _dots(axes: Axes, values: Mapping[str, float | None], reach: Mapping[str, Any], colours: Sequence[Any]) -> None:
    """One row per value with its interval; an unknown value is written in words, not left out."""
    for row, ((name, value), colour) in enumerate(zip(values.items(), colours, strict=True)):
        if value is None:
            place: dict[str, Any] = {"transform": axes.get_yaxis_transform(), "ha": "left", "va": "center"}
            axes.text(0.02, row, "means are missing", color=GREY, fontsize=6, **place)
            continue
        if reach[name] is not None:
            axes.plot(reach[name], [row, row], color=colour, linewidth=0.8)
        axes.plot([value], [row], "o", color=colour, markersize=3)
    axes.axvline(0, color=GREY, linewidth=0.6)
    axes.set_yticks(range(len(values)), [label(name, 34) for name in values])
    axes.set_ylim(len(values) - 0.5, -0.5)


def _position(axes: Axes, place: int, named: tuple[str, str], each: Mapping[str, Sequence[Any]]) -> None:
    """A stage's mean gain at each position; stages stand side by side so that intervals do not overlap."""
    aside, (stage, colour) = 0.06 * place, named
    known = [(position + 1 + aside, gain) for position, gain in enumerate(each["gains"]) if gain is not None]
    for position, interval in enumerate(each["intervals"]):
        if interval is not None:
            axes.plot([position + 1 + aside] * 2, interval, color=colour, linewidth=0.6)
    marker = MARKERS[place % len(MARKERS)]
    across, gains = zip(*known, strict=True) if known else ((), ())
    axes.plot(across, gains, label=label(stage), markersize=3, linewidth=0.9, color=colour, marker=marker)


def _whole_numbers(axes: Axes, most: int, across: str, up: str) -> None:
    axes.set(xlabel=across, ylabel=up, xticks=range(most + 1))
    axes.legend(fontsize=5.5, loc="upper center", bbox_to_anchor=(0.5, -0.2))


def _heading(record: Record, title: str) -> str:
    interval = f"{record['intervals']['level']:.0%} intervals, resampled: {record['intervals']['resampled']}"
    counts = f"{counted(len(record['units']) or 1, 'task')}, {counted(len(record['seeds']) or 1, 'seed')}"
    return "\n".join([" · ".join([label(title, 60), counts] if title else [counts]), interval])


def _p_values(record: Record) -> str:
    tests = record["tests"]["across units"]
    values = {name: tests[name]["p"] for name in ("friedman", "permutation") if tests and tests[name]}
    return ", ".join(f"{name} p = {p:.3f}" for name, p in values.items()) or "no test across tasks"


def _unknown(means: Mapping[str, float | None]) -> list[str]:
    return [name for name, mean in means.items() if mean is None]
