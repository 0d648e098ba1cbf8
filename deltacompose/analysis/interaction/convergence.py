"""How fast training came to its final score, what it took, and how far apart dev and training scores lie."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from statistics import fmean

from deltacompose.errors import BadInput

ROUNDING = 1e-12


@dataclass(frozen=True)
class Point:
    """One evaluation during training: after so many steps and seconds, this score (higher is better)."""

    step: int
    seconds: float
    score: float


@dataclass(frozen=True)
class Training:
    """How one training went, and what it took; None where it was not measured.

    Attributes:
        seconds_per_step: wall-clock time.
        peak_memory, checkpoint: in bytes.
        ratio: trainable parameters per parameter of the backbone.
        alone: measured in a process of its own, on one delta.
    """

    history: tuple[Point, ...] = ()
    parameters: int | None = None
    ratio: float | None = None
    peak_memory: int | None = None
    seconds_per_step: float | None = None
    checkpoint: int | None = None
    alone: bool = False


def reached(history: Sequence[Point], percent: float, floor: float = 0.0) -> Point | None:
    """The first evaluation that reached so many percent of the way from the floor to the final (last) score.

    >>> history = [Point(10, 1.0, 0.5), Point(20, 2.0, 0.85), Point(30, 3.0, 0.9)]
    >>> reached(history, percent=90)
    Point(step=20, seconds=2.0, score=0.85)

    Args:
        history: evaluations in the order of their steps.
        percent: above 0, at most 100.
        floor: the score that counts as no learning: 0 as in Ding et al. (2023), or the task's chance score, which makes
            tasks with different floors comparable.

    Returns:
        The evaluation, or None where training ended at or below the floor: nothing was learned that could be reached.

    Raises:
        BadInput: an empty history, steps that do not increase, or a percentage out of range.
    """
    if not 0 < percent <= 100:
        raise BadInput(f"percent is {percent}; expected more than 0 and at most 100")
    if not history:
        raise BadInput("the history holds no evaluation; expected at least one")
    if any(later.step <= earlier.step for earlier, later in pairwise(history)):
        raise BadInput(f"the history's steps do not increase: {[point.step for point in history]}")
    final = history[-1].score
    if final <= floor:
        return None
    target = floor + percent / 100 * (final - floor) - ROUNDING
    return next(point for point in history if point.score >= target or point is history[-1])


def speed(trainings: Sequence[Training], percent: float, floor: float = 0.0) -> dict[str, float | int | None]:
    """Mean steps and seconds of trainings to so many percent of their final score, and how many never left the floor.

    A training that never left the floor has no time of arrival and is counted apart, never as a long one.
    """
    points = [reached(training.history, percent, floor) for training in trainings if training.history]
    there = [point for point in points if point is not None]
    return {
        "percent": percent,
        "floor": floor,
        "steps": fmean(point.step for point in there) if there else None,
        "seconds": fmean(point.seconds for point in there) if there else None,
        "runs": len(points),
        "never": len(points) - len(there),
    }


def efficiency(trainings: Sequence[Training]) -> dict[str, float | int | None]:
    """Costs of training: the mean of each measure over these trainings, and how many were measured alone.

    Where any training was measured alone, only those count: in a shared process memory and time belong to all deltas
    that were trained together.
    """
    alone = [training for training in trainings if training.alone]
    counted = alone or list(trainings)
    measures = ("parameters", "ratio", "peak_memory", "seconds_per_step", "checkpoint")
    return {
        **{measure: _mean([getattr(training, measure) for training in counted]) for measure in measures},
        "runs": len(counted),
        "alone": len(alone),
    }


def gap(dev: Sequence[float | None], train: Sequence[float | None]) -> float | None:
    """The generalisation gap, mean |dev − train| over runs (Ding et al. 2023); None where either was not measured.

    >>> gap([0.5, 0.75], [1.0, 0.75])
    0.25
    """
    pairs = list(zip(dev, train, strict=True))
    known = [abs(d - t) for d, t in pairs if d is not None and t is not None]
    return fmean(known) if known and len(known) == len(pairs) else None


def history(rows: Sequence[Mapping[str, float | None]]) -> tuple[Point, ...]:
    """The evaluations among the rows of a training's record; rows without a score are training steps alone."""
    return tuple(
        Point(int(row["step"] or 0), float(row.get("seconds") or 0.0), float(row["score"]))
        for row in rows
        if row.get("score") is not None and row["score"] is not None
    )


def _mean(values: Sequence[float | int | None]) -> float | None:
    known = [value for value in values if value is not None]
    return fmean(known) if known else None
