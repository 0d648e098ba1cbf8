"""Which figures a study's findings give: drawn once here, for the page and for the files alike."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import partial
from typing import Any, NamedTuple

import networkx as nx
import numpy as np
from matplotlib.figure import Figure

from deltacompose.analysis.graph.build import edge_stability, incomplete, task_graph
from deltacompose.analysis.interaction.convergence import history
from deltacompose.analysis.matrix import TransferMatrix, shortened
from deltacompose.analysis.transfer.findings import Findings
from deltacompose.analysis.transfer.summaries import CategoryComparison, compare_categories, kinds_of
from deltacompose.analysis.transfer.uncertainty import Kind, Marks, can_be_tested, marks
from deltacompose.figures import graph, heatmap, interaction, lift
from deltacompose.figures.heatmap_values import UNITS, cells
from deltacompose.figures.style import Look


class Drawing(NamedTuple):
    """A figure by its short name, how to draw it (inside `style.styled()`), and how to read it."""

    name: str
    draw: partial[Figure]
    caption: str


def heatmaps(matrix: TransferMatrix) -> Iterator[Drawing]:
    """Relative and corrected performance where every chance level is known, else raw scores."""
    tested = marks(matrix, "untouched") if can_be_tested(matrix, "untouched") else None
    for unit in ratios(matrix) or ("score",):
        shown = cells(matrix, unit, marks=tested)
        caption = f"Transfer of {matrix.composition}: {UNITS[unit]}. {_tested(tested)}"
        yield Drawing(unit, partial(heatmap.draw, matrix, shown, "category", Look()), caption)


def not_drawn(matrix: TransferMatrix) -> Iterator[str]:
    """Why there is no heatmap of a ratio."""
    if not ratios(matrix):
        unknown = [name for name, level in zip(matrix.targets, matrix.chance, strict=True) if np.isnan(level)]
        yield f"no heatmap of relative or corrected values: the chance level of {shortened(unknown)} is unknown"


def ratios(matrix: TransferMatrix) -> tuple[Kind, ...]:
    """The ratios that may be shown: none where the chance level of some target is unknown."""
    return () if np.isnan(matrix.chance).any() else ("relative", "corrected")


def _tested(tested: Marks | None) -> str:
    if tested is None:
        return "No cell is marked: a test needs two seeds, or per-example scores."
    covers = ", ".join(cover for cover in tested.covers if cover != "nothing")
    return (
        f"Marked cells differ from the {tested.against} backbone, Benjamini–Yekutieli at q = {tested.q}, "
        f"tests over {covers}; the diagonal is not tested."
    )


def nearest(matrix: TransferMatrix) -> nx.Graph:
    """The graph of each task's three nearest ones, fewer where there are few tasks.

    Raises:
        BadInput: a cell without a value.
    """
    near = min(3, max(1, len(matrix.tasks) - 2))
    return task_graph(matrix, k=near, value="relative" if ratios(matrix) else "raw")


def network(matrix: TransferMatrix, tasks: nx.Graph) -> Drawing:
    """The graph of `nearest`, unstable edges dotted where seeds and cells allow to tell."""
    whole = len(matrix.seeds) > 1 and not incomplete(matrix, tasks)
    stability = edge_stability(matrix, tasks) if whole else None
    caption = f"Task graph of {matrix.composition}; edges as wide as they weigh, in colour within a category."
    return Drawing("graph", partial(graph.draw, tasks, stability, Look(), 0), caption)


def lifts(found: Findings) -> list[lift.Lift]:
    """The lifts of every composition."""
    return [one for matrix in found.matrices.values() for one in lift.lifts(matrix)]


def overall(found: Findings) -> Iterator[Drawing]:
    """Figures over all compositions: lift and convergence, where there is something to draw."""
    if known := [one for one in lifts(found) if not np.isnan(one.value)]:
        caption = "Each delta on the task it was trained on, minus the untouched backbone, with 95 % intervals."
        yield Drawing("lift", partial(lift.draw, known, Look()), caption)
    if rows := _curves(found):
        caption = "Score on the development split against training steps: mean over seeds, the band is their range."
        yield Drawing("convergence", partial(interaction.curves, rows), caption)


def _curves(found: Findings) -> list[dict[str, Any]]:
    """The evaluations during training, as `interaction.curves` takes them."""
    return [
        {**_training(record["spec"]), "step": point.step, "seconds": point.seconds, "score": point.score}
        for record in found.trainings
        for point in history(record["result"].get("history", ()))
    ]


def _training(spec: Mapping[str, Any]) -> dict[str, Any]:
    return {"composition": str(spec["composition"]), "unit": str(spec["task"]), "seed": int(spec["seed"])}


def compared(found: Findings) -> list[tuple[str, CategoryComparison]]:
    """Same- against cross-category transfer of every composition, in every ratio that may be shown, and in lift."""
    return [
        (text, compare_categories(matrix, kind))
        for text, matrix in found.transfer.items()
        if matrix.categories
        for kind in kinds_of(matrix)
        if kind == "lift" or kind in ratios(matrix)
    ]
