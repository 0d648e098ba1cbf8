"""Interaction of methods: Shapley values, conditional marginals and effects; and what the order of stages does."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from deltacompose.errors import BadInput
from deltacompose.figures.frames import (
    check_path,
    head_height,
    key_of,
    legend,
    legend_height,
    named,
    numbers,
    record,
    rows_height,
    saved,
)
from deltacompose.figures.labels import Labels, fitted, wrapped_to
from deltacompose.figures.palette import DASHES, GREY, INK, colours_of, lines_of, markers_of
from deltacompose.figures.rounding import counted, p_value
from deltacompose.figures.style import Canvas, styled
from deltacompose.figures.venues import Style, style_of

Record = Mapping[str, Any]
MOST_ROWS = 40
"""With more marginals than this only those on nothing and on all other methods are drawn."""
_WIDE = 5.0
"""From so many inches on, with letters of 7 points, panels stand side by side."""


def factorial(
    data: Any, path: str | Path | None = None, *, style: Style | str | None = None, title: str = ""
) -> Figure:
    """Draw what methods add: Shapley values, conditional marginals, and the effects of every set, with intervals.

    A Shapley value is a method's marginal averaged over every order in which the methods may be added; the marginals
    that it averages stand below it. The effect of a set is the mean over combinations with an even number of its
    methods off minus that over the others (±1 coding; Box, Hunter and Hunter 1978).

    Args:
        data: one group's record of `interaction.analyse`, or the `interaction.json` that `deltacompose interaction`
            writes.
        path: file to write.
        style: of `dc.style`, or the name of a venue.
        title: what the group is.

    Raises:
        BadInput: not a record of a factorial, or one so incomplete that not one marginal is known.
    """
    check_path(path)
    answer, look = record(data, "interaction"), style_of(style)
    lacking = [name for name in ("marginals", "shapley", "effects", "means", "intervals") if name not in answer]
    if lacking:
        raise BadInput(f"this is not a record of `interaction`: it lacks {', '.join(lacking)}")
    if all(value is None for each in answer["marginals"].values() for value in each.values()):
        missing = [name for name, mean in answer["means"].items() if mean is None]
        raise BadInput(f"no marginal is known, because means are missing: {', '.join(missing)}")
    with styled(look):
        figure = _factorial(answer, look, title)
        saved(figure, path)
        return figure


def _factorial(answer: Record, look: Style, title: str) -> Figure:
    left = _added(answer)
    right = [(name, answer["effects"][name], _reach(answer, "effects", name), "") for name in answer["effects"]]
    if all(value is None for _, value, _, _ in right):  # an effect needs every mean
        right = []
    beside = look.width >= _WIDE * look.text / 7
    room = (0.22 if beside else 0.42) * look.points
    texts = fitted([name for name, *_ in (*left, *right)], room, look.tick, look.font)
    facts = _facts(answer, key_of(texts), bool(right))
    heights = [rows_height(len(part), look, 3.5) for part in (left, right) if part]
    figure = Canvas(look, (max(heights) if beside else sum(heights)) + head_height(look, title, facts), "constrained")
    shape: dict[str, Any] = {"ncols": len(heights)} if beside else {"nrows": len(heights), "height_ratios": heights}
    panels = figure.subplots(**shape, squeeze=False).flat
    colours, markers = (
        colours_of(answer["factors"], look.compositions),
        markers_of(answer["factors"], look.compositions),
    )
    unit = "points" if answer.get("scale", 1) == 100 else "score"
    for axes, part, signs, text in zip(
        panels,
        (left, right),
        ((colours, markers), ({}, {})),
        ("what a method adds, on others and on average", "effect of a set of methods"),
        strict=False,
    ):
        _dots(axes, part, look, texts, signs)
        axes.set_title(wrapped_to(text, look.points * (0.26 if beside and right else 0.5), look.title, look.font))
        axes.set_xlabel(unit)
    text = wrapped_to("\n".join(filter(None, (title, facts))), look.points - 6, look.title, look.font)
    figure.suptitle(text, x=3 / look.points, ha="left", fontsize=look.title)
    return figure


def _facts(answer: Record, key: str, effects: bool) -> str:
    """Facts below the headline: tasks and seeds of the means, the signs, and the means that are missing."""
    count, seeds = len(answer["units"]) or 1, len(answer["seeds"]) or 1
    reach = answer["intervals"]
    facts = [
        f"{counted(count, 'task')}, {counted(seeds, 'seed')}",
        f"{100 * reach['level']:.0f} % intervals over {reach['resampled']}",
        "filled: Shapley value (average), hollow: marginal on the methods named",
    ]
    missing = [name for name, mean in answer["means"].items() if mean is None]
    facts += [] if effects else [f"effects are not known, because means are missing: {', '.join(missing)}"]
    return "; ".join(filter(None, (*facts, key)))


Row = tuple[str, float | None, Any, str]
"""A name, a value, its interval, and the method whose colour and marker it has (empty: an average is hollow or not)."""


def _added(answer: Record) -> list[Row]:
    """Of every method its Shapley value, then its marginals."""
    marginals = answer["marginals"]
    few = sum(map(len, marginals.values())) <= MOST_ROWS
    table: list[Row] = []
    for method, each in marginals.items():
        table.append((f"{method} on average", answer["shapley"][method], _reach(answer, "shapley", method), method))
        ends = list(each)
        for on in ends if few else dict.fromkeys((ends[0], ends[-1])):
            table.append((f"on {on}", each[on], answer["intervals"]["marginals"][method][on], f"{method}/"))
    return table


def _reach(answer: Record, kind: str, name: str) -> Any:
    return answer["intervals"].get(kind, {}).get(name)


def _dots(
    axes: Axes, table: Sequence[Row], look: Style, texts: Labels, signs: tuple[Mapping[str, str], Mapping[str, str]]
) -> None:
    """One row per value with its interval; a value that is not known is written as words, not left out."""
    colours, markers = signs
    for row, (_, value, reach, of) in enumerate(table):
        method, hollow = of.rstrip("/"), of.endswith("/")
        if value is None:
            place: dict[str, Any] = {"transform": axes.get_yaxis_transform(), "ha": "left", "va": "center"}
            axes.text(0.02, row, "means are missing", color=GREY, fontsize=look.smallest, **place)
            continue
        colour = colours.get(method, INK)
        if reach is not None:
            axes.plot(reach, [row, row], color=colour, linewidth=look.line)
        face: dict[str, Any] = {"markerfacecolor": "white"} if hollow else {}
        axes.plot([value], [row], markers.get(method, "o"), color=colour, markersize=3.5, **face)
    axes.axvline(0, color=GREY, linewidth=0.6, zorder=0)
    axes.set_yticks(range(len(table)), [texts.shown[name] for name, *_ in table])
    axes.set_ylim(len(table) - 0.4, -0.6)
    axes.tick_params(axis="y", length=0)
    numbers(axes.xaxis, signed=True, most=4)


def orders(data: Any, path: str | Path | None = None, *, style: Style | str | None = None, title: str = "") -> Figure:
    """Draw what the order of stages does: the score after each stage per order, and each stage's gain by position.

    Args:
        data: one record of `order.order_effects`, as in `orders` of a record of `interaction.analyse`.
        path: file to write.
        style: of `dc.style`, or the name of a venue.
        title: what the group is.

    Raises:
        BadInput: not a record of orders.
    """
    check_path(path)
    answer, look = record(data, "orders of stages"), style_of(style)
    if not {"orders", "positions", "stages"} <= set(answer):
        raise BadInput("this is not a record of the orders of stages: it lacks orders, positions or stages")
    with styled(look):
        figure = _orders(answer, look, title)
        saved(figure, path)
        return figure


def _orders(answer: Record, look: Style, title: str) -> Figure:
    sequences, stages = list(answer["orders"]), list(answer["positions"])
    signs = lines_of(sequences, look.compositions)
    beside = look.width >= _WIDE * look.text / 7
    texts = [*named(sequences), *(f"gain of {text}" for text in named(stages))]
    counts = f"{counted(len(answer['units']) or 1, 'task')}, {counted(len(answer['seeds']) or 1, 'seed')}"
    facts = "; ".join((counts, "lines: 95 % intervals", _tests(answer)))
    tall = 0.62 * look.width * (0.5 if beside else 1.5)
    around = legend_height(texts, look) + head_height(look, title, facts)
    figure = Canvas(look, tall + around + 0.4, "constrained")
    left, right = figure.subplots(1, 2) if beside else figure.subplots(2, 1)
    for text, order in answer["orders"].items():
        reached = [(stage, score) for stage, score in enumerate(order["scores"]) if score is not None]
        if reached:
            left.plot(*zip(*reached, strict=True), **signs[text])
    for place, each in enumerate(answer["positions"].values()):
        aside = 0.05 * (place - (len(stages) - 1) / 2)
        known = [(at + 1 + aside, gain) for at, gain in enumerate(each["gains"]) if gain is not None]
        for at, reach in enumerate(each["intervals"]):
            if reach is not None:
                right.plot([at + 1 + aside] * 2, reach, color=INK, linewidth=0.6)
        if known:
            right.plot(
                *zip(*known, strict=True),
                **_of_stage(place),
            )
    right.axhline(0, color=GREY, linewidth=0.6, zorder=0)
    most = len(answer["stages"])
    left.set(xlabel="stages trained", ylabel="score", xticks=range(most + 1))
    right.set(xlabel="position of the stage", ylabel="gain, mean over orders", xticks=range(1, most + 1))
    numbers(left.yaxis)
    numbers(right.yaxis, signed=True)
    text = wrapped_to("\n".join(filter(None, (title, facts))), look.points - 6, look.title, look.font)
    figure.suptitle(text, x=3 / look.points, ha="left", fontsize=look.title)
    handles = [Line2D([], [], label=texts[i], **signs[name]) for i, name in enumerate(sequences)]
    handles += [Line2D([], [], label=texts[len(sequences) + place], **_of_stage(place)) for place in range(len(stages))]
    legend(left, True, handles, look)
    return figure


def _of_stage(place: int) -> dict[str, Any]:
    """The line of a stage's gain: in ink, because colours are those of orders; told apart by marker, face and dash."""
    face = {"markerfacecolor": "white"} if place % 2 else {}
    return {"color": INK, "marker": "os^DvP"[place % 6], "linestyle": DASHES[place % len(DASHES)], **face}


def _tests(answer: Record) -> str:
    tests, names = answer["tests"]["across units"], {"friedman": "Friedman test", "permutation": "permutation test"}
    known = {text: tests[name]["p"] for name, text in names.items() if tests and tests[name]}
    return ", ".join(f"{text} {p_value(p)}" for text, p in known.items()) or "no test across tasks"
