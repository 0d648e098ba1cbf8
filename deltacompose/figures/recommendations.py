"""The quality of recommendations as files: a table, a figure and its numbers."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pandas as pd
from matplotlib.figure import Figure

from deltacompose.analysis.recommendation.quality import rows
from deltacompose.figures.figure_files import slugs, write_text
from deltacompose.figures.style import NEURIPS, canvas, counted, save, styled

_TITLES = {"regret_at_1": "regret@1", "regret_at_3": "regret@3", "ndcg": "NDCG"}


def write_quality(answers: Mapping[str, Mapping[str, Any]], out: Path) -> list[Path]:
    """Writes `recommend.csv` and `recommend.pdf` for each composition; several have their slug before the name."""
    stems = {text: "" if len(answers) == 1 else f"{stem}." for text, stem in slugs(answers).items()}
    written = []
    for text, answer in answers.items():
        written.append(write_table(answer, out / f"{stems[text]}recommend.csv"))
        written.append(quality_figure(answer, out / f"{stems[text]}recommend.pdf", text))
    return written


def write_table(answer: Mapping[str, Any], path: Path) -> Path:
    """Writes a row for each strategy as CSV."""
    return write_text(path, pd.DataFrame(rows(answer)).to_csv(index=False))


def quality_figure(answer: Mapping[str, Any], path: Path, title: str = "") -> Path:
    """Saves the figure of `draw_quality`.

    Args:
        path: of the file; its suffix is the format.
    """
    with styled():
        return save(draw_quality(answer, title), path)


def draw_quality(answer: Mapping[str, Any], title: str = "") -> Figure:
    """Draws regret@1, regret@3 and NDCG of every strategy, means over tasks with 95 % intervals.

    It is called inside `style.styled()`.

    Args:
        answer: of `analysis.recommendation.quality.summary`.
    """
    names = list(answer["strategies"])
    figure = canvas(NEURIPS, 0.6 + 0.26 * len(names))
    axes = figure.subplots(1, len(_TITLES), sharey=True)
    for axis, (metric, label) in zip(axes, _TITLES.items(), strict=True):
        for y, name in enumerate(reversed(names)):
            estimate = answer["strategies"][name][metric]
            if estimate["value"] is None:
                continue
            color = "C0" if name == names[0] else "0.4"
            axis.plot([estimate["low"], estimate["high"]], [y, y], color=color, linewidth=1.2)
            axis.plot(estimate["value"], y, "o", color=color, markersize=4)
        axis.set_xlabel(label)
        axis.margins(y=0.1)
    axes[0].set_yticks(range(len(names)), list(reversed(names)))
    heading = f"{title}: " if title else ""
    figure.suptitle(
        f"{heading}{answer['tasks_left_out']} tasks left out, {counted(answer['seeds'], 'seed')}", fontsize="medium"
    )
    return figure
