"""Reasons to doubt a factorial: trivial solutions, ties, single seeds, dev sets that are test."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from deltacompose.analysis.interaction.factorial import NONE
from deltacompose.analysis.interaction.runs import Run
from deltacompose.analysis.interaction.selection import Chosen

NO_SPREAD = 1e-7
CHANCE = 1e-4
NAMED = 8
"""How many missing combinations are listed by name."""


@dataclass(frozen=True)
class Trivial:
    """A combination whose seeds, at one grid value, all score what a constant answer scores.

    Attributes:
        chosen: whether this grid value is the one that enters the means.
        because: what gives it away.
    """

    combination: str
    unit: str
    grid: str
    score: float
    seeds: int
    chosen: bool
    because: str


def trivial(runs: Sequence[Run], cells: Sequence[Chosen], everything: Sequence[Run]) -> list[Trivial]:
    """The trivial solutions of one group.

    A run may be marked as one, or the chance score (majority class, all positive) be known. Where neither is, runs that
    differ in seed and in combination or grid value and yet score exactly alike give it away: independent
    trainings agree to the last digit only if they answer alike. A perfect score is not taken for trivial.

    Args:
        runs: of the group.
        cells: what was chosen in it.
        everything: the runs of all groups, in which a score may recur.
    """
    recurring = Counter((run.unit, round(run.score, 6)) for run in everything)
    chosen = {(cell.combination, cell.unit, cell.grid) for cell in cells}
    points: dict[tuple[str, str, str], list[Run]] = {}
    for run in runs:
        points.setdefault((run.combination, run.unit, run.grid), []).append(run)
    result = []
    for point, runs_there in points.items():
        because = _because(runs_there, recurring[runs_there[0].unit, round(runs_there[0].score, 6)] - len(runs_there))
        if because:
            result.append(Trivial(*point, runs_there[0].score, len(runs_there), point in chosen, because))
    return result


def _because(runs: Sequence[Run], elsewhere: int) -> str:
    scores = [run.score for run in runs]
    if all(run.trivial for run in runs):
        return "every run is marked as a constant answer"
    if len(runs) < 2 or max(scores) - min(scores) > NO_SPREAD:
        return ""
    away = [abs(run.score - run.chance) for run in runs if run.chance is not None]
    if away:
        at_chance = max(away) <= CHANCE
        return f"no spread over {len(runs)} seeds, at the chance score" if at_chance else ""
    if elsewhere and scores[0] not in (1.0, 100.0):
        return f"no spread over {len(runs)} seeds, and exactly this score in {elsewhere} other runs of the same unit"
    return ""


def notes(cells: Sequence[Chosen], combinations: Sequence[str], scale: float) -> list[str]:
    """Sentences on how far the numbers of a group can be trusted, and on what was decided for the reader."""
    units = list(dict.fromkeys(cell.unit for cell in cells))
    sentences = [*_scale(scale), *_incomplete(cells, combinations, units), *_seeds(cells), *_ties(cells)]
    return [*sentences, *_same_split(cells, units)]


def _scale(scale: float) -> list[str]:
    return ["all scores lie within -1 and 1 and are reported times 100"] if scale != 1 else []


def _incomplete(cells: Sequence[Chosen], combinations: Sequence[str], units: Sequence[str]) -> list[str]:
    lacking = {name: len(units) - sum(cell.combination == name for cell in cells) for name in combinations}
    never = [name for name, count in lacking.items() if count == len(units)]
    some = sum(count for name, count in lacking.items() if name not in never)
    listed = ", ".join(never[:NAMED]) + (f" and {len(never) - NAMED} more" if len(never) > NAMED else "")
    gaps = [f"never run: {listed}"] if never else []
    gaps += [f"{some} cells (combination and unit) lack a run"] if some else []
    return [f"the factorial is incomplete ({'; '.join(gaps)}): what weighs a missing mean is not given"] if gaps else []


def _seeds(cells: Sequence[Chosen]) -> list[str]:
    if all(run.seed == "" for cell in cells for run in cell.runs):
        return ["no seeds are given: each cell is one score, and no spread or interval over seeds can be stated"]
    counts = Counter(len(cell.runs) for cell in cells)
    single = sorted({cell.combination for cell in cells if len(cell.runs) == 1} - {NONE})
    untrained = any(cell.combination == NONE and len(cell.runs) == 1 for cell in cells)
    sentences = [f"one seed, so no spread over seeds: {', '.join(single)}"] if single else []
    if untrained:
        sentences.append("the untrained combination has one seed and counts as fixed")
    if len(counts.keys() - {1}) > 1:
        sentences.append(
            "cells differ in their number of seeds: " + ", ".join(f"{n} with {k}" for k, n in sorted(counts.items()))
        )
    return sentences


def _ties(cells: Sequence[Chosen]) -> list[str]:
    tied = sum(1 for cell in cells if cell.tied)
    return [f"in {tied} cells several grid values tied; the smallest was taken"] if tied else []


def _same_split(cells: Sequence[Chosen], units: Sequence[str]) -> list[str]:
    """Units whose dev score is the test score: there, choosing on dev is choosing on test and optimism is hidden."""
    same = []
    for unit in units:
        if not any(cell.values > 1 for cell in cells if cell.unit == unit):
            continue  # nothing was chosen
        pairs = [
            (run.dev, run.score) for cell in cells if cell.unit == unit for run in cell.runs if run.dev is not None
        ]
        if len(pairs) > 1 and all(dev == score for dev, score in pairs):
            same.append(unit or "the only unit")
    if not same:
        return []
    return [f"dev and test scores are the same numbers, so choosing on dev is choosing on test: {', '.join(same)}"]
