"""Sentences on what the numbers show and do not show; none claims more than its interval or test."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

import numpy as np

from deltacompose.analysis.matrix import TransferMatrix, shortened
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
    "includes": "includes zero, which shows neither a lift nor its absence,",
    "unknown": "is not known",
}


def _about_categories(text: str, comparison: CategoryComparison) -> Iterator[str]:
    """Same- against cross-category transfer, with what the test could have shown at all."""
    if comparison.same is None or comparison.cross is None or comparison.difference is None or comparison.test is None:
        yield f"{text}, {comparison.kind}: same- and cross-category transfer cannot be compared, as one has no pair."
        return
    signed = comparison.kind != "relative"
    means = (
        f"same-category {estimate(comparison.same, signed)} against cross-category {estimate(comparison.cross, signed)}"
    )
    pairs = f"{counted(comparison.same_pairs, 'ordered pair')} in {counted(comparison.same_unordered, 'pair')} of tasks"
    yield (
        f"{text}, {comparison.kind}: {means}, difference {estimate(comparison.difference)} "
        f"({pairs}, against {comparison.cross_pairs}). {_verdict(comparison)}"
    )


def _verdict(comparison: CategoryComparison) -> str:
    """Conclusions: an interval is about new runs on these tasks, a permutation test about the labels of the tasks."""
    test, gap = comparison.test, comparison.difference
    if test is None or gap is None:
        return ""
    if test.least_p > LEVEL:
        sentence = (
            f"With these categories no outcome could give p below {test.least_p:.2g}, so the permutation test cannot"
        )
        sentence += f" show it at the level {number(LEVEL)} (p = {test.p:.2g})."
    elif test.p <= LEVEL:
        sentence = f"The permutation of the categories rejects (p = {test.p:.2g}, least attainable {test.least_p:.2g})."
    else:
        sentence = f"The permutation of the categories does not reject (p = {test.p:.2g}, least attainable "
        sentence += f"{test.least_p:.2g}): it is not shown that categories matter."
    if np.isnan(gap.low):
        return sentence + " There is no interval, so nothing is known of other runs."
    side = "excludes" if gap.low > 0 or gap.high < 0 else "includes"
    return sentence + f" The interval of the difference, for new {gap.covers} on these same tasks, {side} zero."


def _about_reliability(matrix: TransferMatrix) -> Iterator[str]:
    values = np.where(matrix.off_diagonal, matrix.relative(), np.nan).reshape(len(matrix.seeds), -1)
    repeatability = reliability(values)
    if repeatability <= 0:
        yield (
            f"{matrix.composition}: the map of relative performance does not repeat over "
            f"{counted(len(matrix.seeds), 'seed')}: halves correlate at {number(repeatability, signed=True)}, "
            "uncorrected."
        )
    elif not np.isnan(repeatability):
        yield (
            f"{matrix.composition}: the map of relative performance over {counted(len(matrix.seeds), 'seed')} has a "
            f"split-half reliability of {number(repeatability)} (1 would repeat exactly)."
        )


def unknown(findings: Findings) -> list[str]:
    """Questions that these records cannot answer."""
    differing = [f"Cells were computed with different versions: {difference}." for difference in findings.environments]
    return [*_about_scope(findings), *_about_cells(findings), *differing, *_limitations(findings.matrices.values())]


def _about_scope(findings: Findings) -> Iterator[str]:
    if findings.backbones:
        yield f"One backbone, {', '.join(findings.backbones)}: nothing here speaks of another."
    seeds = len(findings.seeds)
    if seeds == 1:
        yield "One seed: nothing is known of the spread between training runs, and no ranking by one run is a finding."
    elif 1 < seeds < 5:
        yield (
            f"{seeds} seeds: an interval over seeds alone rests on {counted(seeds - 1, 'degree')} of freedom; it is "
            f"wide, and small differences between compositions cannot be resolved."
        )
    if len(findings.matrices) > 1:
        yield "Compositions stand side by side; their differences are not tested here, so no order of them is claimed."


def _about_cells(findings: Findings) -> Iterator[str]:
    if findings.failures:
        yield f"{counted(len(findings.failures), 'cell')} failed and stand in no mean."
    if findings.unread:
        yield f"Trained and never evaluated on the {findings.split} split: {shortened(findings.unread)}."


def _limitations(matrices: Iterable[TransferMatrix]) -> Iterator[str]:
    """Each limitation once, with the compositions that it concerns."""
    whom: dict[str, list[str]] = {}
    for matrix in matrices:
        for sentence in matrix.limitations():
            whom.setdefault(sentence, []).append(matrix.composition)
    for sentence, texts in whom.items():
        yield f"{shortened(texts)}: {sentence}."
