"""Statements of the report on a study, computed once for the page, the figures and the notes."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import networkx as nx

from deltacompose.analysis.arrays import Floats
from deltacompose.analysis.matrix import TransferMatrix
from deltacompose.analysis.transfer.findings import Findings
from deltacompose.analysis.transfer.lift import Lift
from deltacompose.analysis.transfer.lift import lifts as lifts_of
from deltacompose.analysis.transfer.summaries import CategoryComparison, compare_categories, kinds_of
from deltacompose.analysis.transfer.uncertainty import Marks
from deltacompose.errors import BadInput
from deltacompose.figures.style import Look
from deltacompose.report import figures
from deltacompose.report.advice import Answer, advice_of, sentence

Step = Callable[[str], None]
"""Called with what was just finished."""


@dataclass(frozen=True, eq=False)
class AnalysedTransfer:
    """The transfer matrix of one composition with what is computed from it.

    Attributes:
        marked: cells that differ from the untouched backbone; None where nothing can be tested.
        tasks: the task graph; None where there is none, for the reason in `ungraphed`.
        stability: of its edges; None where it is unknown.
        compared: same- against cross-category transfer in each unit that may be shown; empty without categories.
        advice: the quality of recommended sources (`recommendation.quality.summary`); None where there is none, for the
            reason in `unadvised`, which is empty for fewer than five tasks.
    """

    matrix: TransferMatrix
    marked: Marks | None
    tasks: nx.Graph | None
    ungraphed: str
    stability: figures.Stability | None
    compared: tuple[CategoryComparison, ...]
    advice: Answer | None
    unadvised: str


@dataclass(frozen=True, eq=False)
class Analysed:
    """Findings with everything that is computed from them.

    Attributes:
        lifts: of every composition, also of those without transfer.
        parts: the compositions with transfer.
    """

    findings: Findings
    look: Look
    lifts: tuple[Lift, ...]
    parts: tuple[AnalysedTransfer, ...]

    @property
    def compared(self) -> list[tuple[str, CategoryComparison]]:
        """Every comparison of categories with its composition."""
        return [(part.matrix.composition, comparison) for part in self.parts for comparison in part.compared]


def analysed(
    findings: Findings, step: Step | None = None, measures: Mapping[str, Mapping[str, Floats]] | None = None
) -> Analysed:
    """Compute marks, graphs, lifts, comparisons of categories and the quality of recommendations of every composition.

    Args:
        step: called with each composition when it is finished, see `steps`.
        measures: similarities of the tasks' deltas by composition and name, (seeds, tasks, tasks); recommendations use
            them as predictors, with popularity and scores on few examples.
    """
    lifts: list[Lift] = []
    parts: list[AnalysedTransfer] = []
    transfer = findings.transfer
    for text, matrix in findings.matrices.items():
        lifts += lifts_of(matrix)
        if text in transfer:
            parts.append(_part(matrix, (measures or {}).get(text, {})))
        if step is not None:
            step(text)
    return Analysed(findings, figures.look_of(findings), tuple(lifts), tuple(parts))


def advised(study: Analysed) -> list[str]:
    """A sentence on the recommended sources of each composition."""
    return [sentence(part.matrix.composition, part.advice) for part in study.parts if part.advice is not None]


def _part(matrix: TransferMatrix, measures: Mapping[str, Floats]) -> AnalysedTransfer:
    tasks: nx.Graph | None = None
    stability: figures.Stability | None = None
    reason = ""
    try:
        tasks = figures.nearest(matrix)
        stability = figures.stability_of(matrix, tasks)
    except BadInput as error:
        reason = str(error)
    kinds = kinds_of(matrix) if matrix.categories else ()
    shown = [kind for kind in kinds if kind == "lift" or kind in figures.ratios(matrix)]
    compared = tuple(compare_categories(matrix, kind) for kind in shown)
    return AnalysedTransfer(
        matrix, figures.tested(matrix), tasks, reason, stability, compared, *advice_of(matrix, measures)
    )
