"""The transfer heatmap as a chart to point at: a Vega-Lite specification, and the script that draws it offline.

Both come from the extra `report` (altair and vl-convert-python); without it the report is static and says so.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from importlib.util import find_spec
from itertools import pairwise, product
from typing import Any

import numpy as np

from deltacompose.analysis.matrix import TransferMatrix
from deltacompose.analysis.transfer.uncertainty import Marks
from deltacompose.analysis.units import baselines, deviation, ordered, unknown_chance
from deltacompose.figures.heatmap_style import Ink
from deltacompose.figures.heatmap_values import Cells, cells
from deltacompose.figures.heatmaps import runs
from deltacompose.figures.style import INK, Look

DRAW = """for (const source of document.querySelectorAll('script[type="application/json"]')) {
  const options = {renderer: "svg", actions: false};
  vegaEmbed(document.getElementById(source.dataset.chart), JSON.parse(source.textContent), options);
}"""


def available() -> bool:
    """Whether the packages of the extra `report` are installed."""
    return find_spec("altair") is not None and find_spec("vl_convert") is not None


def script() -> str:
    """Vega, Vega-Lite and Vega-Embed as one script that loads nothing, and the lines that draw every chart."""
    import altair
    import vl_convert

    version = ".".join(altair.SCHEMA_VERSION.removeprefix("v").split(".")[:2])
    bundle = vl_convert.javascript_bundle("window.vegaEmbed = vegaEmbed;", vl_version=version)
    return re.sub(r"</(?=script)", r"<\\/", str(bundle), flags=re.IGNORECASE) + "\n" + DRAW


def chart(matrix: TransferMatrix, marked: Marks | None = None) -> dict[str, Any]:
    """A Vega-Lite specification: every cell with its numbers in all units, colour by the one chosen.

    Colours, limits and printed numbers are those of the printed heatmap, computed once in Python.
    """
    import altair as alt

    units = units_of(matrix)
    shown = {unit: cells(matrix, unit, marks=marked) for unit in units}
    inks = {unit: Ink.of(shown[unit], Look()) for unit in units}
    sources = [*ordered(matrix.sources, matrix.categories), *baselines(matrix, "score")]
    targets = ordered(matrix.targets, matrix.categories)
    unit = alt.param(name="unit", value=units[0], bind=alt.binding_select(options=units, name="colour by "))
    plain = alt.Chart({"values": rows(matrix, shown, inks)}).transform_calculate(**_CHOSEN)
    base = plain.encode(
        x=alt.X("target:N", sort=targets, title="target").axis(labelAngle=-50, labelLimit=140),
        y=alt.Y("source:N", sort=sources, title="source").axis(labelLimit=200),
        tooltip=[alt.Tooltip(f"{name}:N") for name in (*_ABOUT, *units)],
    )
    fill, ink = (alt.Color(f"{name}:N").scale(None).legend(None) for name in ("fill", "ink"))
    known = "datum.text !== ''"
    layers = alt.layer(
        base.mark_rect(stroke="white").encode(color=fill).transform_filter(known),
        base.mark_text(fontSize=9).encode(text="text:N", color=ink).transform_filter(known),
        base.mark_text(fontSize=9, color="#a50f15").encode(text="word:N").transform_filter(f"!({known})"),
        base.mark_rect(filled=False, stroke=INK, strokeWidth=1.5).transform_filter("datum.source === datum.target"),
        base.mark_text(text="★", fontSize=8, dx=14, dy=-5, color=INK).transform_filter("datum.marked === true"),
        *_blocks(plain, (sources, targets), matrix),
    )
    size = {"width": alt.Step(42 if len(targets) <= 14 else 28), "height": alt.Step(20)}
    title = f"{runs(matrix)}; {sources[-1]} in the last row; – is undefined; ★ {next(iter(shown.values())).mark}"
    layers = layers.properties(title=title if marked else title.rpartition(";")[0], **size)
    return dict(alt.vconcat(layers, _scale(inks)).add_params(unit).to_dict())


def units_of(matrix: TransferMatrix) -> list[str]:
    """The units that may be shown: a ratio only where every chance level is known, a lift where any start is."""
    known = {
        "corrected": not unknown_chance(matrix),
        "relative": not unknown_chance(matrix),
        "lift": not np.isnan(matrix.untouched).all(),
        "score": True,
    }
    return [unit for unit, defined in known.items() if defined]


_CHOSEN = {
    "text": "datum['text ' + unit]",
    "fill": "datum['fill ' + unit]",
    "ink": "datum['ink ' + unit]",
    "word": "datum.state == 'failed' || datum.state == 'missing' ? datum.state : '–'",
}
_ABOUT = ("source", "target", "state", "seeds", "sd of the score", "source category", "target category")


def _blocks(plain: Any, axes: tuple[list[str], list[str]], matrix: TransferMatrix) -> list[Any]:
    """Lines between the categories, as in the printed heatmap; none without categories."""
    import altair as alt

    kinds, lines = matrix.categories, []
    for name, encode, order in (("source", alt.Y, axes[0]), ("target", alt.X, axes[1])):
        firsts = [b for a, b in pairwise(order) if kinds.get(a) != kinds.get(b)] if kinds else []
        if firsts:
            place = encode(f"{name}:N", sort=order, bandPosition=0)
            line = plain.mark_rule(color=INK, strokeWidth=1).encode(place)
            lines.append(line.transform_filter(alt.FieldOneOfPredicate(field=name, oneOf=firsts)))
    return lines


def _scale(inks: Mapping[str, Ink]) -> Any:
    """The colour scale of the unit chosen, from limit to limit."""
    import altair as alt

    steps = []
    for unit, ink in inks.items():
        width = (ink.high - ink.low) / _STEPS
        for low in np.linspace(ink.low, ink.high, _STEPS, endpoint=False):
            middle = float(low) + width / 2
            steps.append({"unit": unit, "from": float(low), "to": float(low) + width, "fill": ink.colour(middle)})
    base = alt.Chart({"values": steps}).transform_filter("datum.unit === unit")
    across = alt.X("from:Q", title="value; beyond the limits the colour stays the same").scale(nice=False, zero=False)
    return (
        base.mark_rect()
        .encode(x=across, x2="to:Q", color=alt.Color("fill:N").scale(None).legend(None))
        .properties(width=260, height=10)
    )


_STEPS = 32
"""Colours of the scale."""


def rows(matrix: TransferMatrix, shown: Mapping[str, Cells], inks: Mapping[str, Ink]) -> list[dict[str, Any]]:
    """One row per source and target, and per reference row and target.

    Each has the value, the printed text and both colours in every unit; null and an empty text where there is no value.
    """
    first = next(iter(shown.values()))
    at = {(source, target): (s, t) for s, source in enumerate(first.sources) for t, target in enumerate(first.targets)}
    spread, count, failed = (
        deviation(matrix.values),
        (~np.isnan(matrix.values)).sum(axis=0),
        np.any(matrix.failed, axis=0),
    )
    table = []
    for (s, source), (t, target) in product(enumerate(matrix.sources), enumerate(matrix.targets)):
        state = "done" if count[s, t] else "failed" if failed[s, t] else "missing"
        about = {"state": state, "seeds": int(count[s, t]), "sd of the score": _rounded(float(spread[s, t]))}
        place = at[source, target]
        about |= {"marked": True} if first.marked[place] else {}
        values = {unit: float(shown[unit].mean[place]) for unit in shown}
        table.append({**_ends(matrix, source, target), **about, **_in_units(values, inks)})
    for name in baselines(matrix, "score"):
        levels = {unit: baselines(matrix, unit)[name] for unit in shown}
        for t, target in enumerate(matrix.targets):
            values = {unit: float(level[t]) for unit, level in levels.items()}
            state = "missing" if np.isnan(values["score"]) else "level of reference"
            table.append({**_ends(matrix, name, target), "state": state, **_in_units(values, inks)})
    return table


def _in_units(values: Mapping[str, float], inks: Mapping[str, Ink]) -> dict[str, Any]:
    """The columns of one cell in every unit."""
    columns: dict[str, Any] = {}
    for unit, value in values.items():
        columns[unit] = _rounded(value)
        columns[f"text {unit}"] = "" if np.isnan(value) else inks[unit].exact(value)
        if not np.isnan(value):
            columns |= {f"fill {unit}": inks[unit].colour(value), f"ink {unit}": inks[unit].readable(value)}
    return columns


def _ends(matrix: TransferMatrix, source: str, target: str) -> dict[str, str]:
    categories = {
        f"{end} category": matrix.categories.get(name, "") for end, name in (("source", source), ("target", target))
    }
    return {"source": source, "target": target, **categories}


def _rounded(value: float) -> float | None:
    """A value for the tooltip; the printed text is made from the whole value, so that nothing is rounded twice."""
    return None if np.isnan(value) else round(value, 4)
