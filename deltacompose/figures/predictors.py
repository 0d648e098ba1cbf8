"""Which similarity predicts transfer, with the band of chance; similarity against transfer; how far maps repeat."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from deltacompose.analysis.arrays import Floats
from deltacompose.analysis.matrix import TransferMatrix, mean_over_seeds
from deltacompose.analysis.permutation import mantel, qap
from deltacompose.analysis.statistics import reliability as reliability_of
from deltacompose.analysis.transfer.published import matrices_of, matrix_of
from deltacompose.analysis.units import UNITS, check_chance, in_unit
from deltacompose.errors import BadInput, unknown
from deltacompose.figures.frames import (
    check_path,
    entitle,
    figure_of,
    head_height,
    key_of,
    legend,
    legend_height,
    numbers,
    opened,
    record,
    rows,
    rows_height,
    saved,
    written_below,
)
from deltacompose.figures.labels import label, wrapped_to
from deltacompose.figures.palette import GREY, INK, OKABE_ITO, lines_of
from deltacompose.figures.rounding import counted, number, p_value
from deltacompose.figures.similarities import frame_of
from deltacompose.figures.style import styled
from deltacompose.figures.venues import Style, style_of

_DENSE = 400
"""From more points than this they are small and pale, so that none hides those of another composition."""
_KEYS = (
    "p ≤ .05 (adjusted)",
    "not told from chance",
    "single seeds",
    "tasks permuted, 5 % to 95 %",
    "random ranking",
    "popular sources first",
)


def prediction(
    data: Any,
    path: str | Path | None = None,
    *,
    ax: Axes | None = None,
    style: Style | str | None = None,
    title: str = "",
) -> Axes:
    """Draw how well each measure of similarity ranks the sources of a target, with the band of chance.

    The value is NDCG (Järvelin and Kekäläinen 2002), the mean over targets; small ticks are single seeds. The grey band
    of a measure is from the 5 % to the 95 % quantile with its tasks permuted, the dashed line the expectation of a
    random ranking, the dotted one that of the sources' popularity.

    Args:
        data: the answer of `deltacompose predict --json` for one composition, or a record of `prediction.summary`.
        path: file to write.
        ax: axes to draw in.
        style: of `dc.style`, or the name of a venue.

    Raises:
        BadInput: not such a record.
    """
    check_path(path)
    answer, look = record(data, "predictions"), style_of(style)
    if not answer.get("measures"):
        raise BadInput("this is not a record of predictions: it lacks measures")
    measures = dict(sorted(answer["measures"].items(), key=lambda pair: -(pair[1]["ndcg"] or 0)))
    with styled(look):
        facts = f"{counted(len(answer['tasks']), 'task')}, {counted(answer['seeds'], 'seed')}"
        keys = _keys_of(measures)
        around = legend_height([str(key.get_label()) for key in keys], look) + head_height(
            look, title or str(answer.get("composition", "")), facts
        )
        axes = opened(ax, look, rows_height(len(measures), look, 4) + around + 0.2)
        labels = rows(axes, list(measures), look, ax is None)
        for row, of in enumerate(measures.values()):
            low, high = of.get("ndcg_null_low"), of.get("ndcg_null_high")
            if low is not None and high is not None:
                axes.barh([row], [high - low], left=[low], height=0.62, color=GREY, alpha=0.4)
            for value in of.get("ndcg_by_seed") or ():
                if value is not None:
                    axes.plot([value], [row], "|", color=INK, markersize=5)
            if of["ndcg"] is not None:
                clear = (of.get("ndcg_p_by") or 1) <= 0.05
                axes.plot([of["ndcg"]], [row], "o", color=INK, markerfacecolor=INK if clear else "white", markersize=4)
        first = next(iter(measures.values()))
        for name, dash in (("ndcg_null", "--"), ("ndcg_popularity", ":")):
            if first.get(name) is not None:
                axes.axvline(first[name], color=OKABE_ITO[5], linestyle=dash, linewidth=0.9, zorder=0)
        written_below(axes, "NDCG of ranked sources, mean over targets", look, ax is None)
        numbers(axes.xaxis)
        legend(axes, ax is None, keys, look)
        facts = "; ".join(filter(None, (facts, key_of(labels))))
        entitle(axes, ax is None, title or str(answer.get("composition", "")), facts, look)
        saved(figure_of(axes), path)
        return axes


def _keys_of(measures: Mapping[str, Mapping[str, Any]]) -> list[Any]:
    """The keys of what is drawn of any measure."""
    every, first = list(measures.values()), next(iter(measures.values()))
    clear = [(of.get("ndcg_p_by") or 1) <= 0.05 for of in every if of["ndcg"] is not None]
    ink: dict[str, Any] = {"color": INK, "linestyle": ""}
    keys: list[tuple[bool, Any]] = [
        (any(clear), Line2D([], [], marker="o", label=_KEYS[0], **ink)),
        (not all(clear), Line2D([], [], marker="o", markerfacecolor="white", label=_KEYS[1], **ink)),
        (any(value is not None for of in every for value in of.get("ndcg_by_seed") or ()),
         Line2D([], [], marker="|", label=_KEYS[2], **ink)),
        (any(of.get("ndcg_null_low") is not None for of in every), Patch(color=GREY, alpha=0.4, label=_KEYS[3])),
        (first.get("ndcg_null") is not None, Line2D([], [], color=OKABE_ITO[5], linestyle="--", label=_KEYS[4])),
        (first.get("ndcg_popularity") is not None, Line2D([], [], color=OKABE_ITO[5], linestyle=":", label=_KEYS[5])),
    ]  # fmt: skip
    return [key for occurs, key in keys if occurs]


def similarity_transfer(
    similarity: Any,
    transfer: Any,
    path: str | Path | None = None,
    *,
    ax: Axes | None = None,
    style: Style | str | None = None,
    value: str = "corrected",
    title: str = "",
) -> Axes:
    """Draw transfer against similarity, a point per ordered pair of tasks, with their correlation and its p.

    The p-value permutes tasks, because pairs that share a task are not independent: Mantel's test where the similarity
    is symmetric (against the mean of both directions), QAP where it is directed; one-sided.

    Args:
        similarity: a comparison of `similarity.compare`, a square DataFrame, or a file of one; greater is nearer.
        transfer: a transfer matrix, or what `heatmap` takes.
        path: file to write.
        ax: axes to draw in.
        style: of `dc.style`, or the name of a venue.
        value: `relative`, `corrected`, `score` or `lift`.

    Raises:
        BadInput: fewer than four tasks in both, or an unknown value.
    """
    check_path(path)
    if value not in UNITS:
        raise unknown("value of transfer", value, UNITS)
    matrix, near, look = matrix_of(transfer), frame_of(similarity), style_of(style)
    check_chance(matrix, value)
    tasks = [name for name in matrix.tasks if name in near.index and name in near.columns]
    if len(tasks) < 4:
        raise BadInput(f"similarity and transfer have {len(tasks)} tasks in common; expected at least 4")
    square = matrix.selected(tasks, tasks)
    gains = mean_over_seeds(in_unit(square, value, square.values))
    alike = near.loc[tasks, tasks].to_numpy(dtype=float)
    off = ~np.eye(len(tasks), dtype=bool)
    same = square.same_category if square.categories else np.zeros_like(off)
    with styled(look):
        axes = opened(ax, look, 0.75 * look.width + 0.3)
        groups: tuple[tuple[Any, str, dict[str, Any]], ...] = (
            (off & same, "same category", {"marker": "o", "color": OKABE_ITO[0]}),
            (off & ~same, "different categories" if square.categories else "", {"marker": "x", "color": OKABE_ITO[5]}),
        )
        for where, name, sign in groups:
            known = where & ~np.isnan(gains)
            if known.any():
                size = 3.2 if known.sum() < _DENSE else 1.6
                axes.plot(alike[known], gains[known], linestyle="", markersize=size, alpha=0.8, label=name, **sign)
        axes.set(xlabel=f"similarity: {near.attrs.get('measure', 'greater is nearer')}", ylabel=UNITS[value])
        numbers(axes.xaxis, most=5)
        numbers(axes.yaxis, signed=value in ("corrected", "lift"))
        keys = [line for line in axes.get_lines() if str(line.get_label()).strip("_")[:1].isalpha()]
        legend(axes, ax is None, keys if square.categories else [], look)
        entitle(axes, ax is None, title or square.composition, _correlation(alike, gains, len(tasks)), look)
        _wrap_labels(axes, look)
        saved(figure_of(axes), path)
        return axes


def _correlation(alike: Floats, gains: Floats, tasks: int) -> str:
    """The correlation of two maps with the p-value of permuted tasks, in words."""
    off = ~np.eye(tasks, dtype=bool)
    known = off & ~np.isnan(gains)
    if known.sum() < 3 or np.ptp(alike[known]) == 0 or np.ptp(gains[known]) == 0:
        return f"{tasks} tasks; no correlation, because one of the two is constant"
    directed = not np.allclose(alike[off], alike.T[off])
    test = (qap if directed else mantel)(alike, gains if directed else (gains + gains.T) / 2)
    name = "QAP" if directed else "Mantel, mean of both directions"
    return f"{tasks} tasks; r = {number(test.statistic, signed=True)}, {p_value(test.p)} ({name})"


def _wrap_labels(axes: Axes, look: Style) -> None:
    high = 72 * figure_of(axes).get_figheight()
    axes.set_ylabel(wrapped_to(axes.get_ylabel(), 0.6 * high, look.text, look.font))
    axes.set_xlabel(wrapped_to(axes.get_xlabel(), 0.7 * look.points, look.text, look.font))


def reliability(
    data: Any,
    path: str | Path | None = None,
    *,
    ax: Axes | None = None,
    style: Style | str | None = None,
    value: str = "relative",
    title: str = "",
) -> Axes:
    """Draw how far maps of transfer repeat: every off-diagonal cell by one half of the seeds against the other.

    The number of each composition is its reliability: the correlation that the map over all seeds would have with
    one from as many new seeds (split-half, Spearman and Brown).

    Args:
        data: a transfer matrix with two seeds at least, several by composition, or a tidy table or file of them.
        path: file to write.
        ax: axes to draw in.
        style: of `dc.style`, or the name of a venue.
        value: `relative`, `corrected`, `score` or `lift`.

    Raises:
        BadInput: no matrix with two seeds, or an unknown value.
    """
    check_path(path)
    if value not in UNITS:
        raise unknown("value of transfer", value, UNITS)
    matrices = {name: matrix for name, matrix in matrices_of(data).items() if len(matrix.seeds) > 1}
    if not matrices:
        raise BadInput("the reliability of a map needs at least two seeds; every matrix has one, or published means")
    look = style_of(style)
    with styled(look):
        axes = opened(ax, look, 0.9 * min(look.width, 4.0 * look.text / 7) + 0.5)
        signs, keys = lines_of(matrices, look.compositions), []
        for name, matrix in matrices.items():
            check_chance(matrix, value)
            halves, repeats = _halves(matrix, value)
            dense: dict[str, Any] = (
                {"markersize": 1.2, "alpha": 0.3} if len(halves[0]) > _DENSE else {"markersize": 2.5, "alpha": 0.8}
            )
            axes.plot(*halves, **{**signs[name], "linestyle": "", "markeredgewidth": 0}, **dense)
            text = f"{label(name, 200)}: reliability {number(repeats) if repeats == repeats else 'not known'}"
            keys.append(Line2D([], [], label=text, **{**signs[name], "linestyle": ""}))
        ends = [*axes.get_xlim(), *axes.get_ylim()]
        axes.plot([min(ends), max(ends)], [min(ends), max(ends)], color=GREY, linewidth=0.6, zorder=0)
        axes.set(xlabel=f"{value}, first half of the seeds", ylabel=f"{value}, second half", aspect="equal")
        numbers(axes.xaxis)
        numbers(axes.yaxis)
        legend(axes, ax is None, keys, look)
        counts = ", ".join(sorted({counted(len(matrix.seeds), "seed") for matrix in matrices.values()}))
        entitle(axes, ax is None, title, f"cells off the diagonal; {counts}", look)
        saved(figure_of(axes), path)
        return axes


def _halves(matrix: TransferMatrix, value: str) -> tuple[tuple[Floats, Floats], float]:
    """The known off-diagonal cells by the first and the second half of the seeds, and the reliability of the map."""
    values = np.where(matrix.off_diagonal, in_unit(matrix, value, matrix.values), np.nan)
    flat = values.reshape(len(matrix.seeds), -1)
    half = len(matrix.seeds) // 2
    first, second = mean_over_seeds(flat[:half]), mean_over_seeds(flat[half:])
    known = ~np.isnan(first) & ~np.isnan(second)
    return (first[known], second[known]), float(reliability_of(flat))
