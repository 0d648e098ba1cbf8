"""Intervals for statistics of a factorial: a hierarchical bootstrap over units (tasks) and, within them, seeds."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from math import sqrt

import numpy as np
import numpy.typing as npt
from scipy.stats import t

from deltacompose.analysis.interaction.factorial import Contrast, applied

Array = npt.NDArray[np.float64]
Scores = Mapping[tuple[str, str], Mapping[str, float]]
"""The score of each seed, by (combination, unit)."""


@dataclass(frozen=True)
class Resampled:
    """The means of every combination in every draw, and what was drawn.

    Attributes:
        means: by combination, an array (draws,); combinations that lack a unit are left out.
        single: combinations with one seed in every unit.
        freedom: degrees of freedom, the number of units (of seeds, where there is one unit) minus one.
        resampled: what was drawn, in words.
    """

    means: Mapping[str, Array]
    single: frozenset[str]
    freedom: int
    resampled: str

    def interval(
        self, contrast: Contrast, means: Mapping[str, float], level: float = 0.95
    ) -> tuple[float, float] | None:
        """A t interval with the bootstrap's standard error, around the statistic of the observed means.

        With the three seeds or eight tasks that there are, a percentile interval is far too narrow (Hesterberg 2015,
        *What teachers should know about the bootstrap*, arXiv 1411.5279); so the error is scaled by √(n/(n-1)) and
        multiplied by the quantile of t with n-1 degrees of freedom. The interval may reach beyond the score's range.

        Returns:
            Lower and upper end, or None where a mean is missing or nothing that the statistic weighs was resampled.
        """
        estimate = applied(contrast, means)
        if estimate is None or not self.freedom or (self.resampled == SEEDS and contrast.keys() <= self.single):
            return None
        draws = sum(weight * self.means[name] for name, weight in contrast.items())
        error = float(np.std(draws)) * sqrt((self.freedom + 1) / self.freedom)
        reach = float(t.ppf((1 + level) / 2, self.freedom)) * error
        return estimate - reach, estimate + reach


NOTHING = "nothing: there is one unit and one seed"
SEEDS = "seeds, within the only unit"
UNITS = "units; there is one seed"
BOTH = "units, then seeds within each drawn unit"


def resample(scores: Scores, draws: int = 2000, seed: int = 0) -> Resampled:
    """Draw units with replacement, and within each drawn unit its seeds with replacement.

    Combinations of a unit that were run with the same seeds share the draw, so that comparisons stay paired. Choices
    (of the learning rate) are held fixed. Where seeds vary more than units the result is somewhat too wide, because
    the variation between units already contains that of their seeds (Davison and Hinkley 1997, section 3.8).
    """
    units = sorted({unit for _, unit in scores})
    names = [name for name in dict.fromkeys(name for name, _ in scores) if all((name, u) in scores for u in units)]
    kept = {cell: value for cell, value in scores.items() if cell[0] in names}
    counts = [len(value) for value in kept.values()]
    single = frozenset(name for name in names if all(len(kept[name, unit]) == 1 for unit in units))
    resampled = _resampled(len(units), max(counts, default=0))
    freedom = len(units) - 1 or min((count for count in counts if count > 1), default=1) - 1
    means = _draw(kept, names, units, draws, np.random.default_rng(seed))
    return Resampled(dict(zip(names, means.T, strict=True)), single, max(freedom, 0), resampled)


def _resampled(units: int, seeds: int) -> str:
    if units > 1:
        return BOTH if seeds > 1 else UNITS
    return SEEDS if seeds > 1 else NOTHING


def _draw(scores: Scores, names: list[str], units: list[str], draws: int, random: np.random.Generator) -> Array:
    """The means (draws, combinations). Cells with the same seeds are one block, drawn together."""
    drawn = random.integers(len(units), size=(draws, len(units))) if len(units) > 1 else np.zeros((draws, 1), int)
    total = np.zeros((draws, len(names)))
    for seeds in sorted({tuple(sorted(value)) for value in scores.values()}):
        cells = [cell for cell, value in scores.items() if tuple(sorted(value)) == seeds]
        values = np.array([[scores[cell][seed] for cell in cells] for seed in seeds])
        weights = random.multinomial(len(seeds), [1 / len(seeds)] * len(seeds), size=drawn.shape) / len(seeds)
        present = drawn[:, :, None] == np.array([units.index(unit) for _, unit in cells])
        part = np.einsum("dus,sc,duc->dc", weights, values, present, optimize=True) / len(units)
        np.add.at(total.T, [names.index(name) for name, _ in cells], part.T)
    return total
