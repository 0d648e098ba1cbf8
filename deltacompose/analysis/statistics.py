"""Uncertainty: intervals over seeds and examples, many tests at once, reliability; see `permutation` for its tests.

No function here knows of tasks or deltas; arrays come in, numbers with their uncertainty come out.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import optimize, special, stats

from deltacompose.analysis.arrays import Floats
from deltacompose.errors import BadInput

Indices = NDArray[np.intp]
ROUNDING = 1e-12
"""A spread no larger than this is rounding, not spread."""


# -- intervals ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Estimate:
    """A value with its 95 % interval; `covers` says what the interval accounts for, `p` is against zero, two-sided.

    NaN marks a value that cannot be estimated: an interval needs a spread between two seeds, or between examples.
    """

    value: float
    low: float
    high: float
    error: float
    p: float
    covers: str


def estimate(per_seed: Floats, influences: Sequence[Floats] = (), level: float = 0.95) -> Estimate:
    """Mean over seeds with an interval for new seeds and new examples at once.

    Seeds and examples are crossed: every seed is read on the same examples. The error of the mean has a share of the
    seeds, s²/S, and a share of the examples, Σ_g max(V_g − W_g, 0), where V_g is the variance of the examples of group
    g, averaged over seeds, and W_g = MS_interaction/(n S) the part of it that s²/S has already (two-way random effects;
    Cornfield & Tukey 1956). Scores are counts, so seeds can tie by chance: since E[s²/S] ≥ Σ W_g, s²/S is taken to be
    a thirtieth of that at least. The interval is

        mean ± √( t²_{S−1} s²/S + t²_{n−1} Σ_g max(V_g − W_g, 0) )

    (Banerjee 1960, Sankhyā 22: it covers with at least its level). A percentile bootstrap of few seeds covers far too
    seldom: `python studies/interval_coverage.py` prints how seldom, and `docs/studies.md` has the table.
    Satterthwaite's degrees of freedom make too many discoveries.

    >>> mean = estimate(np.array([0.61, 0.64, 0.58]))
    >>> round(mean.value, 3), round(mean.low, 3), round(mean.high, 3)
    (0.61, 0.535, 0.685)

    Args:
        per_seed: (seeds,) the statistic of each seed.
        influences: per independent group of examples (seeds, examples): the statistic's derivative by each example's
            weight. For a mean of per-example scores these are the scores themselves.
        level: probability with which the interval is to cover.

    Raises:
        BadInput: no seed, a NaN, or influences that do not fit the seeds.
    """
    seeds = len(per_seed)
    if seeds == 0 or np.isnan(per_seed).any():
        raise BadInput(f"an estimate needs a known value per seed, found {np.asarray(per_seed).tolist()}")
    for group in influences:
        if group.ndim != 2 or len(group) != seeds or group.shape[1] < 2:
            raise BadInput(f"influences of shape {group.shape}, expected ({seeds}, examples) with two examples or more")
    value, between, within = float(np.mean(per_seed)), *_variances(np.asarray(per_seed, dtype=float), influences)
    if math.sqrt(between + within) <= ROUNDING * max(1.0, abs(value)):
        return Estimate(value, np.nan, np.nan, np.nan, np.nan, "nothing")
    freedoms = max(seeds - 1, 1), min((group.shape[1] - 1 for group in influences), default=1)
    half = _half_width((1 - level) / 2, (between, within), freedoms)
    p = _two_sided(abs(value), (between, within), freedoms)
    covers = " and ".join(["seeds"] * (seeds > 1) + ["examples"] * bool(influences))
    return Estimate(value, value - half, value + half, math.sqrt(between + within), p, covers)


@dataclass(frozen=True, eq=False)
class Estimates:
    """The estimates of many cells, as arrays (cells,); see `Estimate`."""

    value: Floats
    low: Floats
    high: Floats
    error: Floats
    p: Floats
    covers: tuple[str, ...]

    def cell(self, place: int) -> Estimate:
        """The estimate of one cell."""
        arrays = (self.value, self.low, self.high, self.error, self.p)
        value, low, high, error, p = (float(array[place]) for array in arrays)
        return Estimate(value, low, high, error, p, self.covers[place])


def estimates(per_seed: Floats, influences: Floats | None = None, level: float = 0.95) -> Estimates:
    """`estimate` of many cells at once, each with one group of examples or none: the same numbers in a few passes.

    >>> cells = estimates(np.array([[0.61, 0.64, 0.58], [0.5, 0.5, 0.5]]))
    >>> cells.low.round(3), cells.covers
    (array([0.535,   nan]), ('seeds', 'nothing'))

    Args:
        per_seed: (cells, seeds) the statistic of each seed.
        influences: (cells, seeds, examples) as in `estimate`; None without examples.

    Raises:
        BadInput: no seed, a NaN, or influences that do not fit the seeds.
    """
    if per_seed.ndim != 2 or per_seed.shape[1] == 0 or np.isnan(per_seed).any():
        raise BadInput(f"estimates need (cells, seeds) of known values, found shape {per_seed.shape}")
    seeds = per_seed.shape[1]
    if influences is not None and (influences.shape[:2] != per_seed.shape or influences.shape[2] < 2):
        raise BadInput(f"influences of shape {influences.shape}, expected {per_seed.shape} and two examples or more")
    value = per_seed.mean(axis=1)
    between, within = _variances_of_cells(per_seed, influences)
    error = np.sqrt(between + within)
    certain = error <= ROUNDING * np.maximum(1.0, np.abs(value))
    freedoms = max(seeds - 1, 1), 1 if influences is None else influences.shape[2] - 1
    half = _half_widths(np.full(len(value), (1 - level) / 2), (between, within), freedoms)
    p = _two_sided_of_cells(np.abs(value), (between, within), freedoms)
    low, high, error, p = (np.where(certain, np.nan, array) for array in (value - half, value + half, error, p))
    covers = " and ".join(["seeds"] * (seeds > 1) + ["examples"] * (influences is not None))
    return Estimates(value, low, high, error, p, tuple("nothing" if flag else covers for flag in certain.tolist()))


def _variances_of_cells(per_seed: Floats, influences: Floats | None) -> tuple[Floats, Floats]:
    """(cells,) each: the shares of `_variances`, of seeds and of examples."""
    seeds, nothing = per_seed.shape[1], np.zeros(len(per_seed))
    between = per_seed.var(axis=1, ddof=1) / seeds if seeds > 1 else nothing
    if influences is None:
        return between, nothing
    n, twice = influences.shape[2], nothing
    over_seeds = influences.mean(axis=1)
    variance = over_seeds.var(axis=1, ddof=1) / n
    if seeds > 1:
        of_seed, whole = influences.mean(axis=2, keepdims=True), influences.mean(axis=(1, 2), keepdims=True)
        rest = influences - over_seeds[:, None] - of_seed + whole
        twice = (rest**2).sum(axis=(1, 2)) / ((seeds - 1) * (n - 1)) / (n * seeds)
    return np.maximum(between, twice / 30), np.maximum(variance - twice, 0.0)


def _half_widths(tail: Floats, variances: tuple[Floats, Floats], freedoms: tuple[int, int]) -> Floats:
    """(cells,): `_half_width` of each cell at its tail."""
    squares = [v * special.stdtrit(f, tail) ** 2 for v, f in zip(variances, freedoms, strict=True)]
    widths: Floats = np.sqrt(squares[0] + squares[1])
    return widths


def _two_sided_of_cells(distance: Floats, variances: tuple[Floats, Floats], freedoms: tuple[int, int]) -> Floats:
    """(cells,): `_two_sided` of each cell; where one of the two variances is zero, Student's p-value itself."""
    p, least = np.ones(len(distance)), np.full(len(distance), 1e-12)
    for share, other, freedom in zip(variances, variances[::-1], freedoms, strict=True):
        alone = (other == 0) & (share > 0)
        p[alone] = np.maximum(2 * special.stdtr(freedom, -distance[alone] / np.sqrt(share[alone])), least[alone])
    both = (variances[0] > 0) & (variances[1] > 0) & (distance > 0)
    beyond = both & (_half_widths(least / 2, variances, freedoms) <= distance)
    p[beyond] = least[beyond]
    if (searched := both & ~beyond).any():
        p[searched] = _at_width(distance[searched], (variances[0][searched], variances[1][searched]), freedoms)
    return p


def _at_width(distance: Floats, variances: tuple[Floats, Floats], freedoms: tuple[int, int]) -> Floats:
    """(cells,): the p-value between 1e-12 and 1 whose half width is the distance: the Illinois method in log p."""

    def excess(log_p: Floats) -> Floats:
        return _half_widths(np.exp(log_p) / 2, variances, freedoms) - distance

    low, high = np.full(len(distance), math.log(1e-12)), np.zeros(len(distance))
    at_low, at_high, middle, still = excess(low), excess(high), high, 0
    for _ in range(200):
        before, middle = middle, (low * at_high - high * at_low) / (at_high - at_low)
        at_middle = excess(middle)
        above = at_middle > 0
        # The end that stays counts half from then on, else the other one would creep towards the root.
        at_low, at_high = np.where(above, at_middle, at_low / 2), np.where(above, at_high / 2, at_middle)
        low, high = np.where(above, middle, low), np.where(above, high, middle)
        still = still + 1 if (np.abs(middle - before) < 1e-13).all() else 0
        if still == 2:
            break
    p: Floats = np.exp(middle)
    return p


def _variances(per_seed: Floats, influences: Sequence[Floats]) -> tuple[float, float]:
    """The shares of seeds and of examples in the squared error of the mean."""
    seeds, both, within = len(per_seed), 0.0, 0.0
    for group in influences:
        n = group.shape[1]
        variance, twice = float(np.var(group.mean(axis=0), ddof=1)) / n, 0.0
        if seeds > 1:
            rest = group - group.mean(axis=0) - group.mean(axis=1, keepdims=True) + group.mean()
            twice = float((rest**2).sum()) / ((seeds - 1) * (n - 1)) / (n * seeds)
        # A difference of two estimates can be negative by chance; a variance cannot.
        within += max(variance - twice, 0.0)
        both += twice
    return (max(float(np.var(per_seed, ddof=1)) / seeds, both / 30) if seeds > 1 else 0.0), within


def _half_width(tail: float, variances: tuple[float, float], freedoms: tuple[int, int]) -> float:
    """Half the width of the interval that leaves this probability in either tail."""
    return math.sqrt(sum(v * float(special.stdtrit(f, tail)) ** 2 for v, f in zip(variances, freedoms, strict=True)))


def _two_sided(distance: float, variances: tuple[float, float], freedoms: tuple[int, int]) -> float:
    """The p-value at which the interval just reaches zero; values below 1e-12 are reported as 0."""

    def excess(log_p: float) -> float:
        return _half_width(math.exp(log_p) / 2, variances, freedoms) - distance

    # The width is smooth in log p, where a root near 1e-9 is as easy to find as one near 0.1.
    least = math.log(1e-12)
    if excess(least) <= 0:
        return 1e-12
    return math.exp(float(optimize.brentq(excess, least, 0.0))) if distance > 0 else 1.0


# -- many tests at once ------------------------------------------------------------------------------------------------


def adjusted(p: Floats, dependent: bool = False) -> Floats:
    """p-values adjusted for the false discovery rate, of any shape; NaN is not a test and stays NaN.

    Benjamini & Hochberg (1995), for independent or positively dependent tests; with `dependent`, Benjamini & Yekutieli
    (2001), for any dependence. A cell is marked where its adjusted value is at most q.

    >>> adjusted(np.array([0.01, 0.02, 0.5, np.nan])).round(3)
    array([0.03, 0.03, 0.5 ,  nan])
    >>> adjusted(np.array([0.01, 0.02, 0.5]), dependent=True).round(3)
    array([0.055, 0.055, 0.917])
    """
    known = ~np.isnan(p)
    if ((p[known] < 0) | (p[known] > 1)).any():
        raise BadInput("a p-value lies between 0 and 1")
    result = np.full(p.shape, np.nan)
    if known.any():
        result[known] = stats.false_discovery_control(p[known], method="by" if dependent else "bh")
    return result


# -- maps: how reliable, how symmetric ---------------------------------------------------------------------------------


def reliability(maps: Floats) -> float:
    """How well the map averaged over all its seeds would correlate with one from as many new seeds.

    Split-half: the mean over all ways to halve the seeds of the correlation between the halves' mean maps, brought to
    full length by Spearman & Brown's 2r/(1 + r), or for an odd number of seeds by Horst's (1951) formula for unequal
    parts, which is the same at equal parts. Halves that do not agree, r ≤ 0, give r itself: the formulas diverge there.
    NaN with one seed or a constant map.

    >>> maps = np.array([[0.1, 0.4, 0.8], [0.2, 0.5, 0.7], [0.1, 0.3, 0.9]])
    >>> round(reliability(maps), 2)
    0.99

    Args:
        maps: (seeds, cells); cells with a NaN in any seed take no part.
    """
    seeds = len(maps)
    known = maps[:, ~np.isnan(maps).any(axis=0)]
    if seeds < 2 or known.shape[1] < 3:
        return np.nan
    size = seeds // 2
    halves = [list(half) for half in itertools.combinations(range(seeds), size) if 2 * size < seeds or 0 in half]
    total = known.sum(axis=0)
    pairs = [(known[half].sum(axis=0) / size, (total - known[half].sum(axis=0)) / (seeds - size)) for half in halves]
    r = float(np.mean([correlation(half, other) for half, other in pairs]))
    return lengthened(r, size / seeds)


def lengthened(r: float, share: float = 0.5) -> float:
    """Reliability of the whole from the correlation r of two parts, the first being that share of the whole.

    Parts that do not agree share nothing that more of them could bring out: r ≤ 0 is given back as it is.

    >>> round(lengthened(0.5), 6)
    0.666667
    """
    product = share * (1 - share)
    if not 0 < r < 1:
        return r
    return (r * math.sqrt(r**2 + 4 * product * (1 - r**2)) - r**2) / (2 * product * (1 - r**2))


def disattenuated(r: float, own: float, other: float) -> float:
    """Correlation of two maps without their noise, r/√(r₁ r₂) (Spearman 1904); chance can carry it past 1.

    >>> round(disattenuated(0.4, 0.8, 0.5), 3)
    0.632

    Raises:
        BadInput: a reliability that is not above zero.
    """
    if not (own > 0 and other > 0):
        raise BadInput(f"reliabilities {own:.3g} and {other:.3g}: a map that is not reliable cannot be disattenuated")
    return r / math.sqrt(own * other)


def correlation(x: Floats, y: Floats) -> float:
    """Pearson correlation; NaN where either is constant.

    >>> round(correlation(np.array([1.0, 2, 3]), np.array([2.0, 4, 7])), 3)
    0.993
    >>> correlation(np.array([1.0, 2, 3]), np.ones(3))
    nan
    """
    x, y = x - x.mean(), y - y.mean()
    norm = float(np.linalg.norm(x) * np.linalg.norm(y))
    return float(x @ y) / norm if norm > 0 else np.nan


def asymmetry(matrix: Floats) -> float:
    """‖R − Rᵀ‖/‖R + Rᵀ‖ (Frobenius), diagonal included, over the pairs known in both directions: 0 is symmetric.

    >>> asymmetry(np.array([[1.0, 0.5], [0.5, 1.0]]))
    0.0
    >>> round(asymmetry(np.array([[1.0, 0.9], [0.1, 1.0]])), 3)
    0.358
    """
    known = ~np.isnan(matrix) & ~np.isnan(matrix.T)
    sums = float(np.linalg.norm((matrix + matrix.T)[known]))
    return float(np.linalg.norm((matrix - matrix.T)[known])) / sums if sums > 0 else np.nan
