"""The intrinsic dimension of a task: the least d whose random subspace is good enough.

Li et al. 2018 (arXiv 1804.08838): θ = θ₀ + P θ_d, and d₉₀ is the least d with 90 % of the full score. The search is a
function of the results so far, so a plan may ask it again after every finished cell, and a search that was broken off
goes on from what the store holds. It doubles d until the goal is reached, then bisects on a grid, taking the score to
rise with d.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field

from deltacompose.errors import BadInput


@dataclass(frozen=True)
class Search:
    """Settings of a dimension search.

    Attributes:
        full: the score when everything is trained.
        most: the greatest d that is tried.
        share: of the full score that is enough, .9 for d₉₀.
        floor: the score without training, chance or untouched; the share is of what exceeds it. 0 is the paper's.
        resolution: neighbouring grid points differ by at most that share (or by one); 0 tries every integer.
        at_once: how many d may run at a time.
    """

    full: float
    most: int
    share: float = 0.9
    floor: float = 0.0
    resolution: float = 0.1
    at_once: int = 1

    def __post_init__(self) -> None:
        if not self.full > self.floor:
            raise BadInput(f"the full score {self.full} must exceed the floor {self.floor}: there is nothing to reach")
        if not 0 < self.share <= 1 or self.resolution < 0 or self.most < 1 or self.at_once < 1:
            raise BadInput(
                f"a search needs a share in 0 to 1, a resolution of at least 0, and most and at_once of at least 1; "
                f"found share={self.share}, resolution={self.resolution}, most={self.most}, at_once={self.at_once}"
            )

    @property
    def goal(self) -> float:
        """The score that d must reach."""
        return self.floor + self.share * (self.full - self.floor)

    def reached(self, score: float) -> bool:
        """Whether a score is enough."""
        return score >= self.goal


@dataclass(frozen=True)
class Found:
    """How a search ended.

    Attributes:
        d: the least d of the grid that reached the goal, the next lower one having missed it; None if none did.
        goal: the score to be reached.
        below: the next lower d that was tried, so d lies above it; 0 if d is 1.
        scores: every d that was run.
    """

    d: int | None
    goal: float
    below: int
    scores: Mapping[int, float] = field(default_factory=dict)


def grid(most: int, resolution: float = 0.1) -> tuple[int, ...]:
    """The d that may be tried, ascending: powers of two, `most`, and between them steps of at most the resolution.

    >>> grid(16, resolution=1.0)
    (1, 2, 4, 8, 16)
    """
    values = {most} | {2**i for i in range(most.bit_length()) if 2**i <= most}
    d = 1
    while d < most:
        values.add(d)
        d = max(d + 1, math.floor(d * (1 + resolution)))
    return tuple(sorted(values))


def next_dimensions(search: Search, scores: Mapping[int, float]) -> tuple[int, ...]:
    """The d to run now, given the scores so far (d → score, mean over seeds); empty when the search is at its end."""
    lower, upper = _bracket(search, scores)
    if upper is None:
        doubling = [d for d in _doubling(search.most) if d > lower and d not in scores]
        return tuple(doubling[: search.at_once])
    between = [d for d in grid(search.most, search.resolution) if lower < d < upper]
    count = min(search.at_once, len(between))
    return tuple(between[(i + 1) * len(between) // (count + 1)] for i in range(count))


def found(search: Search, scores: Mapping[int, float]) -> Found:
    """The answer of a search that is at its end.

    Raises:
        BadInput: it is not; the message says what is still to be run.
    """
    waiting = next_dimensions(search, scores)
    if waiting:
        raise BadInput(f"the search is not at its end: still to run d = {', '.join(map(str, waiting))}")
    lower, upper = _bracket(search, scores)
    return Found(upper, search.goal, lower, dict(sorted(scores.items())))


def d90(
    full_score: float, score_of: Callable[[int], float], most: int, share: float = 0.9, resolution: float = 0.1
) -> Found:
    """The whole search at once, `score_of(d)` being run for every d that it asks for.

    >>> d90(0.8, lambda d: min(0.8, 0.1 * d), most=64, resolution=1.0).d
    8
    """
    search, scores = Search(full_score, most, share, resolution=resolution), dict[int, float]()
    while waiting := next_dimensions(search, scores):
        scores.update({d: score_of(d) for d in waiting})
    return found(search, scores)


def most_tries(most: int, resolution: float, goals: int = 1) -> int:
    """No search for so many goals at once runs more d than this: all doublings, and a bisection for each goal."""
    doubling, tried = _doubling(most), grid(most, resolution)
    between = [sum(low < d < high for d in tried) for low, high in itertools.pairwise(doubling)]
    return len(doubling) + goals * max(between, default=0).bit_length()


def start_from(d: int, tried: Iterable[int]) -> int | None:
    """The nearest lower d that has been run, whose solution d may start from; None if there is none."""
    return max((lower for lower in tried if lower < d), default=None)


def _doubling(most: int) -> list[int]:
    return sorted({2**i for i in range(most.bit_length())} | {most})


def _bracket(search: Search, scores: Mapping[int, float]) -> tuple[int, int | None]:
    """The greatest d known to miss the goal below the least known to reach it (0 if none), and that least."""
    unknown = [d for d, score in scores.items() if not math.isfinite(score)]
    if unknown:
        raise BadInput(f"the score of d = {unknown[0]} is {scores[unknown[0]]}; the search needs a number for every d")
    upper = min((d for d, score in scores.items() if search.reached(score)), default=None)
    missed = (d for d, score in scores.items() if not search.reached(score) and (upper is None or d < upper))
    return max(missed, default=0), upper
