"""The transfer heatmap as a chart to point at: a Vega-Lite specification, and the script that draws it offline.

Both come from the extra `report` (altair and vl-convert-python); without it the report is static and says so.
"""

from __future__ import annotations

import re
from importlib.util import find_spec
from typing import Any

import numpy as np

from deltacompose.analysis.matrix import TransferMatrix, mean_over_seeds
from deltacompose.figures.heatmap_values import UNITS, baselines, deviation, in_unit
from deltacompose.figures.style import counted, ordered

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


def chart(matrix: TransferMatrix) -> dict[str, Any]:
    """A Vega-Lite specification: every cell with its numbers in all units, colour by the one chosen."""
    import altair as alt

    units = [unit for unit in ("corrected", "relative", "lift", "score") if _defined(matrix, unit)]
    sources = [*ordered(matrix.sources, matrix.categories), *baselines(matrix, "score")]
    unit = alt.param(name="unit", value=units[0], bind=alt.binding_select(options=units, name="colour by "))
    plain = alt.Chart({"values": rows(matrix, units)}).transform_calculate(shown="datum[unit]", word=_WORD)
    base = plain.encode(
        x=alt.X("target:N", sort=ordered(matrix.targets, matrix.categories), title="target").axis(
            labelAngle=-50, labelLimit=140
        ),
        y=alt.Y("source:N", sort=sources, title="source").axis(labelLimit=200),
        tooltip=[alt.Tooltip(f"{name}:N") for name in (*_ABOUT, *units)],
    )
    tint = alt.Color("shown:Q", title="value").scale(
        scheme="redblue", reverse=True, domain=[-1, 1], clamp=True, nice=False
    )
    squares = base.mark_rect(stroke="white").encode(color=tint).transform_filter("isValid(datum.shown)")
    legible = alt.condition("abs(datum.shown) > 0.6", alt.value("white"), alt.value("black"))
    numbers = base.mark_text(fontSize=9).encode(text=alt.Text("shown:Q", format=".2f"), color=legible)
    words = base.mark_text(fontSize=9, color="#a50f15").encode(text="word:N")
    layers = alt.layer(
        squares,
        numbers.transform_filter("isValid(datum.shown)"),
        words.transform_filter("!isValid(datum.shown)"),
    )
    size = {"width": alt.Step(42 if len(matrix.targets) <= 14 else 28), "height": alt.Step(20)}
    last = f"{sources[-1]} in the last row"
    title = f"mean over {counted(len(matrix.seeds), 'seed')}; {last}; – is undefined"
    return dict(layers.add_params(unit).properties(title=title, **size).to_dict())


_WORD = "datum.state == 'failed' || datum.state == 'missing' ? datum.state : '–'"

_ABOUT = ("source", "target", "state", "seeds", "sd of the score", "source category", "target category")


def _defined(matrix: TransferMatrix, unit: str) -> bool:
    """Whether a unit may be shown: a ratio only where every chance level is known, a lift where any start is."""
    if unit in ("relative", "corrected"):
        return not np.isnan(matrix.chance).any()
    return unit == "score" or not np.isnan(matrix.untouched).all()


def rows(matrix: TransferMatrix, units: list[str]) -> list[dict[str, Any]]:
    """One row per source and target, and per level of reference and target; null where a unit has no value."""
    means = {unit: mean_over_seeds(in_unit(matrix, unit, matrix.values)) for unit in UNITS}
    levels = {unit: baselines(matrix, unit) for unit in UNITS}
    spread, count = deviation(matrix.values), (~np.isnan(matrix.values)).sum(axis=0)
    failed = matrix.failed.sum(axis=0)
    found = []
    for s, source in enumerate(matrix.sources):
        for t, target in enumerate(matrix.targets):
            state = "done" if count[s, t] else "failed" if failed[s, t] else "missing"
            about = {"state": state, "seeds": int(count[s, t]), "sd of the score": _rounded(float(spread[s, t]))}
            values = {unit: _rounded(float(means[unit][s, t])) for unit in units}
            found.append({**_ends(matrix, source, target), **about, **values})
    for name in levels["score"]:
        for t, target in enumerate(matrix.targets):
            values = {unit: _rounded(float(levels[unit][name][t])) for unit in units}
            state = "missing" if values["score"] is None else "level of reference"
            found.append({**_ends(matrix, name, target), "state": state, **values})
    return found


def _ends(matrix: TransferMatrix, source: str, target: str) -> dict[str, str]:
    categories = {
        f"{end} category": matrix.categories.get(name, "") for end, name in (("source", source), ("target", target))
    }
    return {"source": source, "target": target, **categories}


def _rounded(value: float) -> float | None:
    return None if np.isnan(value) else round(value, 4)
