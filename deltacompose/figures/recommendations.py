"""The quality of recommendations of sources: a figure of every strategy, and the files of the command."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pandas as pd
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from deltacompose.analysis.recommendation.quality import rows as rows_of
from deltacompose.errors import BadInput
from deltacompose.figures.figure_files import slugs, write_text
from deltacompose.figures.frames import (
    check_path,
    head_height,
    key_of,
    legend,
    legend_height,
    numbers,
    record,
    rows,
    rows_height,
    saved,
)
from deltacompose.figures.labels import fitted, label, wrapped_to
from deltacompose.figures.palette import GREY, INK
from deltacompose.figures.rounding import counted
from deltacompose.figures.style import Canvas, styled
from deltacompose.figures.venues import Style, style_of

_TITLES = {"regret_at_1": "regret@1", "regret_at_3": "regret@3", "ndcg": "NDCG"}
FORMATS = ("pdf", "png")
_NAMES = 0.28
"""The share of the figure's width that names of strategies may take."""


def recommendation(
    data: Any, path: str | Path | None = None, *, style: Style | str | None = None, title: str = ""
) -> Figure:
    """Draw how good recommended sources are: regret@1, regret@3 and NDCG of every strategy, with 95 % intervals.

    Means over the tasks that were left out in turn. Regret is the score that is lost by taking the best of the first
    one or three sources, less is better; of NDCG (Järvelin and Kekäläinen 2002) more is better. The filled point is
    the model of `dc.recommend`.

    Args:
        data: the answer of `deltacompose recommend --evaluate --json` for one composition, or a record of
            `recommendation.quality.summary`.
        path: file to write.
        style: of `dc.style`, or the name of a venue.

    Raises:
        BadInput: not such a record.
    """
    check_path(path)
    answer, look = record(data, "recommendations"), style_of(style)
    if not answer.get("strategies"):
        raise BadInput("this is not a record of recommendations: it lacks strategies")
    with styled(look):
        figure = _drawn(answer, look, title or str(answer.get("composition", "")))
        saved(figure, path)
        return figure


def _drawn(answer: Mapping[str, Any], look: Style, title: str) -> Figure:
    strategies = dict(answer["strategies"])
    names = list(strategies)
    facts = f"{counted(answer['tasks_left_out'], 'task')} left out in turn, {counted(answer['seeds'], 'seed')}"
    texts = [label(names[0], 60), "other strategies", "95 % interval"]
    short = key_of(fitted(names, _NAMES * look.points, look.tick, look.font))
    around = legend_height(texts, look) + head_height(look, title, "; ".join(filter(None, (facts, short))))
    figure = Canvas(look, rows_height(len(names), look, 3) + around + 0.2, "constrained")
    panels = figure.subplots(1, len(_TITLES), sharey=True)
    labels = rows(panels[0], names, look, True, _NAMES)
    for axes, (metric, name) in zip(panels, _TITLES.items(), strict=True):
        for row, strategy in enumerate(names):
            estimate = strategies[strategy].get(metric) or {}
            if estimate.get("value") is None:
                continue
            if estimate.get("low") is not None:
                axes.plot([estimate["low"], estimate["high"]], [row, row], color=INK, linewidth=look.line)
            inside = INK if strategy == names[0] else "white"
            axes.plot([estimate["value"]], [row], "o", color=INK, markerfacecolor=inside)
        axes.set_xlabel(name)
        axes.tick_params(axis="y", length=0)
        axes.grid(axis="x", color=GREY, alpha=0.3, linewidth=0.4)
        numbers(axes.xaxis, most=3)
    keys = [
        Line2D([], [], color=INK, marker="o", linestyle="", label=texts[0]),
        Line2D([], [], color=INK, marker="o", markerfacecolor="white", linestyle="", label=texts[1]),
        Line2D([], [], color=INK, label=texts[2]),
    ]
    legend(panels[0], True, keys, look)
    facts = "; ".join(filter(None, (facts, key_of(labels))))
    text = wrapped_to("\n".join(filter(None, (title, facts))), look.points - 6, look.title, look.font)
    figure.suptitle(text, x=3 / look.points, ha="left", fontsize=look.title)
    return figure


def write_quality(answers: Mapping[str, Mapping[str, Any]], out: Path) -> list[Path]:
    """Writes `recommend.csv`, `.pdf` and `.png` for each composition; several have their slug before the name."""
    stems = {text: "" if len(answers) == 1 else f"{stem}." for text, stem in slugs(answers).items()}
    written = []
    for text, answer in answers.items():
        stem = f"{stems[text]}recommend"
        written.append(write_table(answer, out / f"{stem}.csv"))
        for kind in FORMATS:
            recommendation(answer, out / f"{stem}.{kind}", title=text)
            written.append(out / f"{stem}.{kind}")
    return written


def write_table(answer: Mapping[str, Any], path: Path) -> Path:
    """Writes a row for each strategy as CSV."""
    return write_text(path, pd.DataFrame(rows_of(answer)).to_csv(index=False))
