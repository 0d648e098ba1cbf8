"""Sentences on what the numbers show and do not show; none claims more than its interval or test."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from deltacompose.analysis.limitations import shortened
from deltacompose.analysis.matrix import TransferMatrix
from deltacompose.analysis.statistics import reliability
from deltacompose.analysis.transfer.findings import Findings
from deltacompose.analysis.transfer.lift import Lift
from deltacompose.analysis.transfer.summaries import CategoryComparison
from deltacompose.figures.style import counted, number
from deltacompose.report.tables import estimate

LEVEL = 0.05
"""The p-value at which a test rejects."""


def known(
    lifts: Sequence[Lift], compared: Sequence[tuple[str, CategoryComparison]], matrices: Sequence[TransferMatrix]
) -> list[str]:
    """Statements that intervals and tests support: lifts, same-category transfer, and reliability over seeds."""
    return [
        *_about_lifts(lifts),
        *(sentence for text, comparison in preferred(compared) for sentence in _about_categories(text, comparison)),
        *(sentence for matrix in matrices for sentence in _about_reliability(matrix)),
    ]


def preferred(compared: Sequence[tuple[str, CategoryComparison]]) -> list[tuple[str, CategoryComparison]]:
    """One comparison for each composition: of corrected values, else of the lift, else of what there is.

    The others say the same in other units; the table of categories has them all.
    """
    chosen: dict[str, CategoryComparison] = {}
    for text, comparison in compared:
        if text not in chosen or _RANKS[comparison.kind] < _RANKS[chosen[text].kind]:
            chosen[text] = comparison
    return list(chosen.items())


_RANKS = {"corrected": 0, "lift": 1, "relative": 2, "raw": 3}


def _about_lifts(lifts: Sequence[Lift]) -> Iterator[str]:
    for text in dict.fromkeys(lift.composition for lift in lifts):
        mine = [lift for lift in lifts if lift.composition == text]
        by = {verdict: [x.task for x in mine if x.verdict == verdict] for verdict in _VERDICTS}
        parts = [f"{saying} on {len(by[v])} ({shortened(by[v])})" for v, saying in _VERDICTS.items() if by[v]]
        covers = sorted({lift.covers for lift in mine if lift.verdict != "unknown"})
        over = f" over {', '.join(covers)}" if covers else ""
        yield (
            f"{text}, lift over the untouched backbone on {counted(len(mine), 'task')}: "
            f"the 95 % interval{over} {'; '.join(parts)}."
        )


_VERDICTS = {
    "above": "lies above zero",
    "below": "lies below zero",
    "includes": "includes zero, so neither a gain nor its absence is shown,",
    "unknown": "is not known",
}


def _about_categories(text: str, comparison: CategoryComparison) -> Iterator[str]:
    """Same- against cross-category transfer, with what the test could have shown at all."""
    same, cross, kind = comparison.same, comparison.cross, comparison.kind
    if same is None or cross is None or comparison.difference is None or comparison.test is None:
        lacking = "the same category has" if same is None else "different categories have"
        yield f"{text}, {kind}: same and cross category cannot be compared, because no pair of {lacking} a value."
        return
    signed = kind != "relative"
    means = f"same-category {estimate(same, signed)} against cross-category {estimate(cross, signed)}"
    pairs = f"{counted(comparison.same_pairs, 'ordered pair')} in {counted(comparison.same_unordered, 'pair')} of tasks"
    yield (
        f"{text}, {kind}: {means}, difference {estimate(comparison.difference)} "
        f"({pairs}, against {comparison.cross_pairs}). {_verdict(comparison)}"
    )


def _verdict(comparison: CategoryComparison) -> str:
    """Conclusions: an interval is about new runs on these tasks, a permutation about the labels of the tasks."""
    test, gap = comparison.test, comparison.difference
    if test is None or gap is None:
        return ""
    if test.least_p > LEVEL:
        verdict = (
            f"With these categories no outcome could give p below {test.least_p:.2g}, so the permutation test cannot "
            f"show a difference at the level {number(LEVEL)} (p = {test.p:.2g})."
        )
    elif test.p <= LEVEL:
        verdict = f"The permutation of the categories rejects (p = {test.p:.2g}, least attainable {test.least_p:.2g})."
    else:
        verdict = (
            f"The permutation of the categories does not reject (p = {test.p:.2g}, least attainable "
            f"{test.least_p:.2g}): it is not shown that categories matter."
        )
    if np.isnan(gap.low):
        return verdict + " No interval is known, so other runs may differ."
    side = "excludes" if gap.low > 0 or gap.high < 0 else "includes"
    return verdict + f" The interval of the difference, for new {gap.covers} on these same tasks, {side} zero."


def _about_reliability(matrix: TransferMatrix) -> Iterator[str]:
    values = np.where(matrix.off_diagonal, matrix.relative(), np.nan).reshape(len(matrix.seeds), -1)
    correlation, seeds = reliability(values), counted(len(matrix.seeds), "seed")
    if correlation <= 0:
        yield (
            f"{matrix.composition}: the map of relative performance does not repeat over {seeds}: halves of the seeds "
            f"correlate at {number(correlation, signed=True)}, uncorrected."
        )
    elif not np.isnan(correlation):
        yield (
            f"{matrix.composition}: the map of relative performance over {seeds} has a split-half reliability of "
            f"{number(correlation)} (1 would repeat exactly)."
        )


def unknown(findings: Findings) -> list[str]:
    """Questions that these records cannot answer."""
    differing = [f"Cells were computed with different versions: {text}." for text in findings.environments]
    return [*_about_scope(findings), *_about_cells(findings), *differing, *_limitations(findings)]


def _about_scope(findings: Findings) -> Iterator[str]:
    if findings.backbones:
        yield f"One backbone, {', '.join(findings.backbones)}: another may give other results."
    seeds = len(findings.seeds)
    if seeds == 1:
        yield f"{_ONE_SEED[0].upper()}{_ONE_SEED[1:]}, and a ranking by one run is not a finding."
    elif 1 < seeds < 5:
        yield (
            f"{seeds} seeds: an interval over seeds alone has {counted(seeds - 1, 'degree')} of freedom; it is wide, "
            "and small differences between compositions cannot be told apart."
        )
    if len(findings.matrices) > 1:
        yield "Differences between compositions are not tested, so their order is not a finding."


def _about_cells(findings: Findings) -> Iterator[str]:
    if findings.failures:
        yield f"{counted(len(findings.failures), 'cell')} failed; no mean includes them."
    if findings.unread:
        yield f"Trained and never evaluated on the {findings.split} split: {shortened(findings.unread)}."


_ONE_SEED = "one seed: nothing is known of the spread between training runs"


def _limitations(findings: Findings) -> Iterator[str]:
    """Each limitation once, with the compositions that it concerns; not the number of seeds, which has been stated."""
    concerned: dict[str, list[str]] = {}
    for matrix in findings.matrices.values():
        for sentence in matrix.limitations():
            concerned.setdefault(sentence, []).append(matrix.composition)
    if len(findings.seeds) == 1:
        concerned.pop(_ONE_SEED, None)
    for sentence, texts in concerned.items():
        yield f"{shortened(texts)}: {sentence}."
