"""Which figures a study's findings give: drawn once here, for the page and for the files alike."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple

import networkx as nx
import numpy as np
from matplotlib.figure import Figure

from deltacompose.analysis.graph.construction import edge_stability, incomplete, task_graph
from deltacompose.analysis.interaction.convergence import history
from deltacompose.analysis.limitations import shortened
from deltacompose.analysis.matrix import TransferMatrix
from deltacompose.analysis.transfer.findings import Findings
from deltacompose.analysis.transfer.lift import Lift
from deltacompose.analysis.transfer.uncertainty import Kind, Marks, can_be_tested, marks
from deltacompose.analysis.units import UNITS, graph_value, unknown_chance
from deltacompose.figures import heatmaps as heatmap
from deltacompose.figures import lifts as lift
from deltacompose.figures import task_graphs as graph
from deltacompose.figures.curves import convergence
from deltacompose.figures.heatmap_values import cells
from deltacompose.figures.recommendations import recommendation
from deltacompose.figures.style import Look, counted
from deltacompose.report.advice import caption as advice_caption

Stability = Mapping[tuple[str, str], float]
"""How often each edge stands when the seeds are drawn again."""


class Drawing(NamedTuple):
    """A figure by its short name, how to draw it (inside `style.styled()`), and how to read it."""

    name: str
    draw: partial[Figure]
    caption: str


def look_of(findings: Findings) -> Look:
    """The look of every figure of a study: each composition and category has one colour in all of them."""
    trained = {str(record["spec"]["composition"]) for record in findings.trainings}
    kinds = {kind for matrix in findings.matrices.values() for kind in matrix.categories.values()}
    return Look(compositions=tuple(sorted({*findings.matrices, *trained})), categories=tuple(sorted(kinds)))


def tested(matrix: TransferMatrix) -> Marks | None:
    """Which cells differ from the untouched backbone; None where that cannot be tested."""
    return marks(matrix, "untouched") if can_be_tested(matrix, "untouched") else None


def heatmaps(matrix: TransferMatrix, look: Look, marked: Marks | None) -> Iterator[Drawing]:
    """Relative and corrected performance where every chance level is known, else raw scores."""
    for unit in ratios(matrix) or ("score",):
        shown = cells(matrix, unit, marks=marked)
        caption = f"Transfer of {matrix.composition}: {UNITS[unit]}. {tested_by(marked)}"
        yield Drawing(unit, partial(heatmap.draw, matrix, shown, "category", look), caption)


def not_drawn(matrix: TransferMatrix) -> Iterator[str]:
    """Why there is no heatmap of a ratio."""
    if not ratios(matrix):
        levels = shortened(unknown_chance(matrix))
        yield f"no heatmap of relative or corrected values: the chance level of {levels} is unknown"


def ratios(matrix: TransferMatrix) -> tuple[Kind, ...]:
    """The ratios that may be shown: none where the chance level of some target is unknown."""
    return () if unknown_chance(matrix) else ("relative", "corrected")


def tested_by(marked: Marks | None) -> str:
    """A sentence on the test behind the marks, or on why there is none."""
    if marked is None:
        return "No cell is marked: a test needs two seeds, or per-example scores."
    covers = ", ".join(cover for cover in marked.covers if cover != "nothing")
    return (
        f"Marked cells differ from the {marked.against} backbone, Benjamini–Yekutieli at q = {marked.q}, "
        f"tests over {covers}; the diagonal is not tested."
    )


def nearest(matrix: TransferMatrix) -> nx.Graph:
    """The graph of each task's three nearest ones, fewer where there are few tasks; cells without a value are skipped.

    Raises:
        BadInput: fewer than two tasks, or no cell with a value.
    """
    value = graph_value(matrix)
    drawn = [name for name in matrix.tasks if value == "raw" or name not in matrix.left_out]
    return task_graph(matrix, k=min(3, max(1, len(drawn) - 2)), value=value, missing="skip")


def stability_of(matrix: TransferMatrix, tasks: nx.Graph) -> Stability | None:
    """How often each edge stands when the seeds are drawn again; None for one seed or incomplete cells."""
    whole = len(matrix.seeds) > 1 and not incomplete(matrix, tasks)
    return edge_stability(matrix, tasks) if whole else None


def network(matrix: TransferMatrix, tasks: nx.Graph, stability: Stability | None, look: Look) -> Drawing:
    """The graph of `nearest`, unstable edges dotted where seeds and cells allow to tell."""
    caption = (
        f"Task graph of {matrix.composition} by {tasks.graph['value']} values; the width of an edge is proportional to "
        f"its weight, and edges within a category have its colour.{missing_from(tasks)}"
    )
    return Drawing("graph", partial(graph.draw, tasks, stability, look, 0), caption)


def missing_from(tasks: nx.Graph) -> str:
    """A sentence on the cells without a value that a graph was made without; empty where there are none."""
    if not (absent := tasks.graph.get("missing", 0)):
        return ""
    partly = sum(1 for _, _, directions in tasks.edges(data="directions") if directions == 1)
    return (
        f" {counted(absent, 'cell')} without a value: {counted(partly, 'edge')} with the value of one direction only, "
        "pairs without any value have no edge."
    )


def advice(text: str, answer: Mapping[str, Any]) -> Drawing:
    """Regret and NDCG of recommended sources against the other strategies."""
    return Drawing("recommend", partial(recommendation, answer, title=text), advice_caption(answer))


def overall(findings: Findings, lifts: Sequence[Lift]) -> Iterator[Drawing]:
    """Figures over all compositions: lift and convergence, where there is something to draw."""
    look = look_of(findings)
    if known := [each for each in lifts if not np.isnan(each.value)]:
        caption = "Each delta on the task it was trained on, minus the untouched backbone, with 95 % intervals."
        yield Drawing("lift", partial(lift.draw, known, look), caption)
    if rows := curves(findings):
        caption = "Score on the development split against training steps: mean over seeds, the band is their range."
        yield Drawing("convergence", partial(convergence, rows, style=look), caption)


def curves(findings: Findings) -> list[dict[str, Any]]:
    """The evaluations during training: composition, unit (the task), seed, metric, step, seconds and score."""
    return [
        {**_training(record), "step": point.step, "seconds": point.seconds, "score": point.score}
        for record in findings.trainings
        for point in history(record["result"].get("history", ()))
    ]


def _training(record: Mapping[str, Any]) -> dict[str, Any]:
    spec = record["spec"]
    about = {"composition": str(spec["composition"]), "unit": str(spec["task"]), "seed": int(spec["seed"])}
    return {**about, "metric": str(record["result"].get("metric", ""))}
