"""The six readouts of a learned subspace (Qin et al. 2021, intrinsic prompt tuning, arXiv 2110.07867)."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from deltacompose.analysis.matrix import MARGIN
from deltacompose.analysis.statistics import estimate
from deltacompose.errors import BadInput

READOUTS = {
    "reconstruction_seen": "a seen task's delta, encoded and decoded",
    "reconstruction_unseen": "an unseen task's delta, encoded and decoded",
    "tuning_same_data": "a seen task tuned in the subspace on the data that its delta was trained on",
    "tuning_new_data": "a seen task tuned in the subspace on other data of that task",
    "tuning_unseen_in_category": "an unseen task of a seen category, tuned in the subspace",
    "tuning_unseen_out_of_category": "an unseen task of no seen category, tuned in the subspace",
}
"""Mean of each readout over tasks, relative to each task's own delta."""


@dataclass(frozen=True)
class Readout:
    """One task's score by way of the subspace.

    Attributes:
        task: its name.
        way: `reconstructed`, the task's own delta encoded and decoded; `tuned`, only the coordinates trained.
        data: `same` as the task's own delta was trained on, or `new`.
        score: what the task reaches; higher is better.
        own: what it reaches with its own full delta.
        chance: what a guess reaches; None if unknown.
        seed: of the delta and of the subspace.
    """

    task: str
    way: Literal["reconstructed", "tuned"]
    data: Literal["same", "new"]
    score: float
    own: float
    chance: float | None = None
    seed: int = 0


def readouts(outcomes: Iterable[Readout], seen: Collection[str], categories: Mapping[str, str]) -> dict[str, Any]:
    """For each readout the mean of score/own, the mean of (score − chance)/(own − chance), and its tasks.

    A readout without outcomes is None. The corrected mean leaves out tasks whose own score does not exceed a known
    chance by more than .05 and names them. `by_seed` has both means of each seed, over the same tasks, and `intervals`
    the 95 % interval over seeds; where there is none it is None, and `limitations` says why.

    Args:
        outcomes: of any tasks; several of one task (seeds) are averaged first, so that every task counts once.
        seen: the tasks whose deltas the subspace was learned from.
        categories: a category for each task of `outcomes` and `seen`.

    Raises:
        BadInput: a task without a category, or an own score that is not above 0.
    """
    groups: dict[str, dict[str, list[Readout]]] = {name: {} for name in READOUTS}
    for outcome in outcomes:
        name = readout_of(outcome, seen, categories)
        groups[name].setdefault(outcome.task, []).append(outcome)
    return {name: _averaged(tasks) if tasks else None for name, tasks in groups.items()}


def readout_of(outcome: Readout, seen: Collection[str], categories: Mapping[str, str]) -> str:
    """Which of the six an outcome belongs to."""
    missing = [task for task in (outcome.task, *seen) if task not in categories]
    if missing:
        raise BadInput(
            f"the categories miss {', '.join(missing)}; they are given for {', '.join(categories) or 'no task'}"
        )
    if outcome.way == "reconstructed":
        return "reconstruction_seen" if outcome.task in seen else "reconstruction_unseen"
    if outcome.task in seen:
        return "tuning_same_data" if outcome.data == "same" else "tuning_new_data"
    in_category = categories[outcome.task] in {categories[task] for task in seen}
    return "tuning_unseen_in_category" if in_category else "tuning_unseen_out_of_category"


def _averaged(tasks: Mapping[str, list[Readout]]) -> dict[str, Any]:
    relative, corrected, left_out = {}, {}, []
    for task, outcomes in tasks.items():
        own = float(np.mean([outcome.own for outcome in outcomes]))
        score = float(np.mean([outcome.score for outcome in outcomes]))
        if own <= 0:
            raise BadInput(f"the own score of {task!r} is {own}; a relative score needs one above 0")
        relative[task] = score / own
        chance = outcomes[0].chance
        if chance is None or own - chance <= MARGIN:
            left_out.append(task)
        else:
            corrected[task] = (score - chance) / (own - chance)
    limitations: list[str] = []
    by_seed = {
        "relative": _each_seed(tasks, relative, False, limitations),
        "corrected": _each_seed(tasks, corrected, True, limitations),
    }
    return {
        "relative": float(np.mean(list(relative.values()))),
        "corrected": float(np.mean(list(corrected.values()))) if corrected else None,
        "tasks": relative,
        "tasks_corrected": corrected,
        "left_out_of_corrected": left_out,
        "by_seed": by_seed,
        "intervals": {kind: _interval(of_seed) for kind, of_seed in by_seed.items()},
        "limitations": list(dict.fromkeys(limitations)),
    }


def _each_seed(
    tasks: Mapping[str, list[Readout]], kept: Collection[str], corrected: bool, limitations: list[str]
) -> dict[str, float]:
    """The mean over the kept tasks for each seed; empty, with the reason, where seeds are not of the same tasks."""
    chosen = {task: _of_seeds(tasks[task]) for task in kept}
    if not chosen:
        return {}
    seeds = sorted({seed for of_task in chosen.values() for seed in of_task})
    if len(seeds) == 1:
        limitations.append("one seed: nothing is known of the spread between training runs")
    if any(len(of_task) < len(seeds) for of_task in chosen.values()):
        limitations.append("no interval over seeds: they are not of the same tasks")
        return {}
    result = {}
    for seed in seeds:
        values = []
        for of_task in chosen.values():
            score, own, chance = of_task[seed]
            floor, least = (chance or 0.0, MARGIN) if corrected else (0.0, 0.0)
            if own - floor <= least:
                what = "chance by more than .05" if corrected else "0"
                limitations.append(f"no interval over seeds: with seed {seed} an own score does not exceed {what}")
                return {}
            values.append((score - floor) / (own - floor))
        result[str(seed)] = float(np.mean(values))
    return result


def _of_seeds(outcomes: list[Readout]) -> dict[int, tuple[float, float, float | None]]:
    """Seed → score, own score and chance, averaged where a seed has several outcomes."""
    result = {}
    for seed in {outcome.seed for outcome in outcomes}:
        own = [outcome for outcome in outcomes if outcome.seed == seed]
        score, whole = float(np.mean([o.score for o in own])), float(np.mean([o.own for o in own]))
        result[seed] = score, whole, own[0].chance
    return result


def _interval(by_seed: Mapping[str, float]) -> dict[str, float] | None:
    """The mean over seeds with its 95 % interval; None with one seed, or where seeds agree to the last digit."""
    if len(by_seed) < 2:
        return None
    interval = estimate(np.array(list(by_seed.values())))
    return None if np.isnan(interval.low) else {"value": interval.value, "low": interval.low, "high": interval.high}
