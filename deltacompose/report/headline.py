"""The result in three plain sentences: what training gained, what transfers, and what limits both."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from deltacompose.analysis.arrays import Floats
from deltacompose.analysis.matrix import TransferMatrix, mean_over_seeds
from deltacompose.analysis.transfer.lift import Lift
from deltacompose.analysis.transfer.summaries import CategoryComparison
from deltacompose.analysis.units import baselines
from deltacompose.figures.style import counted, number
from deltacompose.report.analysed import Analysed
from deltacompose.report.statements import LEVEL, preferred


def headline(study: Analysed) -> list[str]:
    """Three sentences; the statements of `statements` have the intervals and tests behind them."""
    return [_training(study), _transfer(study), _limits(study)]


def _training(study: Analysed) -> str:
    known = [lift for lift in study.lifts if not np.isnan(lift.value)]
    if not study.findings.matrices:
        return "Training: no evaluation is finished, so nothing is known yet."
    if not known:
        return "Training: the gain is not known, because the untouched backbone or the task's own delta has no score."
    higher = sum(lift.value > 0 for lift in known)
    mean = number(float(np.mean([lift.value for lift in known])), signed=True)
    pairs = counted(len(known), "pair") + " of composition and task"
    return (
        f"Training: in {higher} of {pairs} the delta scores higher than the untouched backbone, on average over all by "
        f"{mean}; {_certain(known)}."
    )


def _certain(lifts: Sequence[Lift]) -> str:
    counts = {verdict: sum(lift.verdict == verdict for lift in lifts) for verdict in ("above", "below", "unknown")}
    if counts["unknown"] == len(lifts):
        return "no interval is known, so none of this is certain"
    below = f", a loss in {counts['below']}" if counts["below"] else ""
    return f"a 95 % interval shows a gain in {counts['above'] or 'none'}{below}"


def _transfer(study: Analysed) -> str:
    if not study.parts:
        return "Transfer: no delta was evaluated on a task other than its own."
    whole = [(text, each) for text, each in study.compared if each.same is not None and each.cross is not None]
    chosen = [comparison for _, comparison in preferred(whole)]
    if not chosen:
        return f"Transfer: {_everywhere([part.matrix for part in study.parts])}."
    kind = chosen[0].kind
    chosen = [comparison for comparison in chosen if comparison.kind == kind]
    same, cross = (_range([_value(comparison, side) for comparison in chosen], kind) for side in ("same", "cross"))
    means = f"on another task of the same category a delta {_keeps(kind, same)}, on a task of another category {cross}"
    beside = _untouched([part.matrix for part in study.parts]) if kind == "corrected" else ""
    return f"Transfer: {means}{beside}{_over(len(chosen))}; {_tested(chosen)}."


def _value(comparison: CategoryComparison, side: str) -> float:
    estimate = comparison.same if side == "same" else comparison.cross
    return np.nan if estimate is None else estimate.value


def _keeps(kind: str, text: str) -> str:
    return (
        f"keeps {text} of what the task's own delta gains over chance"
        if kind == "corrected"
        else f"changes the score by {text} against the untouched backbone"
    )


def _range(values: Sequence[float], kind: str) -> str:
    texts = dict.fromkeys(
        f"{value:.0%}".replace("-", "−") if kind == "corrected" else number(value, signed=True)
        for value in (min(values), max(values))
    )
    return " to ".join(texts).replace("%", " %")


def _over(compositions: int) -> str:
    return f" (mean, by composition over {compositions} compositions)" if compositions > 1 else " (mean)"


def _tested(compared: Sequence[CategoryComparison]) -> str:
    tests = [comparison.test for comparison in compared if comparison.test is not None]
    able = [test for test in tests if test.least_p <= LEVEL]
    if not able:
        return "with so few tasks and categories no test could show that the category matters"
    shown = sum(test.p <= LEVEL for test in able)
    where = f"for {shown} of {len(able)} compositions" if len(able) > 1 else ""
    if not shown:
        return "a permutation test does not show that the category matters"
    return f"a permutation test shows that the category matters {where}".strip() + f" (p at most {number(LEVEL)})"


def _everywhere(matrices: Sequence[TransferMatrix]) -> str:
    """Without categories: the mean over all pairs of different tasks."""
    means = [float(np.nanmean(values)) for matrix in matrices if not np.isnan(values := _others(matrix)).all()]
    if not means:
        return "deltas were evaluated on other tasks, and no value could be formed"
    share, beside = _range(means, "corrected"), _untouched(matrices)
    gain = "of what the task's own delta gains over chance"
    return f"on another task a delta keeps {share} {gain}{beside}{_over(len(means))}"


def _untouched(matrices: Sequence[TransferMatrix]) -> str:
    """The backbone's value without any delta in the same unit, without which no share of a gain can be judged."""
    levels = [baselines(matrix, "corrected")["untouched"] for matrix in matrices]
    means = [float(np.nanmean(level)) for level in levels if not np.isnan(level).all()]
    return f", the untouched backbone {_range(means, 'corrected')}" if means else ""


def _others(matrix: TransferMatrix) -> Floats:
    """(sources, targets): corrected values, NaN on the diagonal."""
    return np.where(matrix.off_diagonal, mean_over_seeds(matrix.corrected()), np.nan)


def _limits(study: Analysed) -> str:
    return f"Read with care: {', '.join(_cautions(study))}."


def _cautions(study: Analysed) -> Iterator[str]:
    findings = study.findings
    seeds = len(findings.seeds)
    yield "one seed, so the spread between runs is unknown" if seeds == 1 else counted(seeds, "seed")
    if len(findings.backbones) == 1:
        yield "one backbone"
    if len(findings.matrices) > 1:
        yield "differences between compositions are not tested"
    absent = sum(int((np.isnan(each.values) & ~each.failed).sum()) for each in findings.transfer.values())
    yield f"{counted(len(findings.failures), 'cell')} failed" if findings.failures else "nothing failed"
    yield f"{counted(absent, 'evaluation')} missing" if absent else "nothing is missing"
