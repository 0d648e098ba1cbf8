"""A small regularised model of what a source gives on a target, fitted on a library and judged on tasks left out.

Gains g(s, t), scores minus that of no source, are split in two. Within a target, ridge regression on the predictors,
both centred over the target's sources, says which source is better than which; its strength is chosen by generalised
cross-validation (Golub et al. 1979). Between targets, the level is the library's mean, or, where a few examples were
tried, a ridge regression on the sources' mean gain there. Intervals are made of leave-one-task-out residuals
(`half_width`), so they hold as far as the new task is like the library's.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from scipy import stats
from sklearn.linear_model import RidgeCV

from deltacompose.analysis.arrays import Floats
from deltacompose.analysis.recommendation.evidence import POPULARITY, TRIED, Table
from deltacompose.errors import BadInput

ALPHAS = tuple(np.logspace(-1, 4, 11))
COVERAGE = 0.9
"""The share of scores that intervals are meant to cover."""
LEVEL = 0.05
"""Sources are distinguished where a predicted order that is this good or better has at most this p-value."""
_PERMUTATIONS = 999


@dataclass(frozen=True, eq=False)
class Model:
    """A fitted model.

    Attributes:
        predictors: names, in the order of the coefficients.
        coefficients: of the predictors in units of their spread within a target.
        scale: the spread of each predictor that is not standardised by target; 1 for those that are.
        level: intercept and slope of a target's mean gain on the sources' mean gain on a few examples.
        spread: half the width of an interval.
        gap: a predicted difference of two sources that is smaller than this is not told apart from none.
        p: probability of the predicted orders of tasks left out by chance.
        skill: the mean over tasks left out of Spearman's ρ of predicted and true gains.
        tasks: on how many tasks it was fitted.
    """

    predictors: tuple[str, ...]
    coefficients: Floats
    scale: Floats
    level: tuple[float, float]
    spread: float = np.nan
    gap: float = np.nan
    p: float = 1.0
    skill: float = np.nan
    tasks: int = 0

    def predict(self, x: Floats) -> Floats:
        """(sources,) predicted gains of a target whose predictors are (sources, predictors)."""
        return self.mean(x) + self.centred(x) @ self.coefficients

    def mean(self, x: Floats) -> float:
        """The predicted mean gain over the sources of a target."""
        intercept, slope = self.level
        return intercept + (slope * _mean_tried(x, self.predictors) if slope else 0.0)

    def centred(self, x: Floats) -> Floats:
        """The predictors in the model's units."""
        return _centred(x, self.predictors) / self.scale


@dataclass(frozen=True, eq=False)
class _Left:
    """A target that was left out: its true gains and the predicted ones, for the sources whose gain is known."""

    target: str
    gains: Floats
    predicted: Floats


def fit(table: Table, judged: bool = True, seed: int = 0) -> Model:
    """The model of a table.

    Args:
        judged: whether each task is left out in turn, for intervals and for the model's skill.
        seed: of the permutations.

    Raises:
        BadInput: fewer than two targets have two sources of known gain.
    """
    designs = list(_designs(table))
    if len(designs) < 2:
        raise BadInput(f"a model needs at least 2 tasks with two sources of known score, found {len(designs)}")
    model = _fitted(table.predictors, designs)
    if not judged:
        return model
    left = [_left_out(table, target) for target in table.targets]
    known = [each for each in left if each is not None]
    if len(known) < 2:
        raise BadInput(f"a model is judged on at least 2 tasks with two sources of known score, found {len(known)}")
    return Model(
        **{**vars(model), "spread": _spread(known), "gap": _gap(known), "p": _p(known, seed)}
        | {"skill": float(np.mean([_order(each) for each in known])), "tasks": len(known)}
    )


def ties(model: Model, predicted: Floats) -> list[bool]:
    """For each source whether it is not told apart from the one with the highest prediction."""
    if model.p > LEVEL:
        return [True] * len(predicted)
    return [bool(value > np.max(predicted) - model.gap) for value in predicted]


def _left_out(table: Table, target: str) -> _Left | None:
    """The target's gains, with the predictions of a model that was fitted without it."""
    rest = table.without(target)
    rows = [table.sources.index(name) for name in rest.sources]
    gains = table.gains[rows, table.targets.index(target)]
    known = ~np.isnan(gains)
    designs = list(_designs(rest))
    if known.sum() < 2 or not designs:
        return None
    predicted = _fitted(table.predictors, designs).predict(table.predictors_of(target, rest))
    return _Left(target, gains[known], predicted[known])


def _designs(table: Table) -> Iterator[tuple[Floats, Floats]]:
    """Predictors and gains of each target, popularity being read from the other targets."""
    for target in table.targets:
        rest = table.without(target)
        gains = table.gains[[table.sources.index(name) for name in rest.sources], table.targets.index(target)]
        known = ~np.isnan(gains)
        if known.sum() > 1:
            yield table.predictors_of(target, rest)[known], gains[known]


def _fitted(predictors: tuple[str, ...], designs: Sequence[tuple[Floats, Floats]]) -> Model:
    rows = np.concatenate([_centred(x, predictors) for x, _ in designs])
    scale = np.where((spread := rows.std(axis=0)) > 1e-12, spread, 1.0)
    gains = np.concatenate([y - y.mean() for _, y in designs])
    slopes = RidgeCV(alphas=ALPHAS, fit_intercept=False).fit(rows / scale, gains).coef_
    return Model(predictors, np.asarray(slopes), scale, _level(predictors, designs))


def _level(predictors: tuple[str, ...], designs: Sequence[tuple[Floats, Floats]]) -> tuple[float, float]:
    """Intercept and slope of mean gains on mean gains on the few examples, shrunk by one pseudo-observation."""
    means = np.array([y.mean() for _, y in designs])
    if TRIED not in predictors:
        return float(means.mean()), 0.0
    tried = np.array([_mean_tried(x, predictors) for x, _ in designs])
    centred, variance = tried - tried.mean(), tried.var()
    slope = float(centred @ (means - means.mean()) / (centred @ centred + variance)) if variance > 1e-12 else 0.0
    return float(means.mean() - slope * tried.mean()), slope


def _mean_tried(x: Floats, predictors: Sequence[str]) -> float:
    column = x[:, list(predictors).index(TRIED)]
    known = column[~np.isnan(column)]
    return float(known.mean()) if len(known) else 0.0


def _centred(x: Floats, predictors: Sequence[str]) -> Floats:
    """Predictors minus their mean over a target's sources; measures in units of their spread there. NaN becomes 0.

    Measures have no common unit over targets, while gains do.
    """
    known = ~np.isnan(x)
    count = np.maximum(known.sum(axis=0), 1)
    filled = np.where(known, x, 0.0)
    centred = np.where(known, filled - filled.sum(axis=0) / count, 0.0)
    spread = np.sqrt((centred**2).sum(axis=0) / count)
    own = np.array([name in (POPULARITY, TRIED) for name in predictors])
    return np.asarray(centred / np.where(own | (spread < 1e-12), 1.0, spread))


def _spread(left: Sequence[_Left]) -> float:
    """Half the width of intervals, from the residuals of tasks left out."""
    return half_width([np.abs(each.gains - each.predicted) for each in left])


def half_width(errors: Sequence[Floats]) -> float:
    """Half the width that covers a share `COVERAGE` of the errors of a new task, on average over tasks.

    The quantile of all errors covers too few of a new task's, because errors of one task are alike. It is widened by
    the factor at which the quantiles of the other tasks' errors cover that share of each task's own. The quantile at
    COVERAGE · (1 + 1/tasks) (Dunn, Wasserman & Ramdas 2023, arXiv 1809.07441) never covers fewer, and covers
    .95 or more where tasks are alike; it is taken where errors are zero.

    Args:
        errors: absolute errors of each task, for two tasks or more.

    >>> errors = np.linspace(0.0, 1.0, 101)
    >>> half_width([errors, errors, errors])
    0.9
    """
    quantile = float(np.quantile(np.concatenate(errors), COVERAGE))
    others = [float(np.quantile(np.concatenate([*errors[:t], *errors[t + 1 :]]), COVERAGE)) for t in range(len(errors))]
    if min(quantile, *others) < 1e-12:
        return float(np.quantile(np.concatenate(errors), min(1.0, COVERAGE * (1 + 1 / len(errors)))))
    ratios = [own / other for own, other in zip(errors, others, strict=True)]
    return quantile * max(1.0, float(np.quantile(np.concatenate(ratios), COVERAGE)))


def _gap(left: Sequence[_Left]) -> float:
    """The quantile of errors in the difference of two sources of one target."""
    errors = [
        abs((each.gains[a] - each.gains[b]) - (each.predicted[a] - each.predicted[b]))
        for each in left
        for a, b in itertools.combinations(range(len(each.gains)), 2)
    ]
    return float(np.quantile(errors, COVERAGE))


def _order(left: _Left) -> float:
    """Spearman's ρ of predicted and true gains; 0 where one of them is constant."""
    if np.ptp(left.gains) == 0 or np.ptp(left.predicted) == 0:
        return 0.0
    return float(stats.spearmanr(left.predicted, left.gains).statistic)


def _p(left: Sequence[_Left], seed: int) -> float:
    """One-sided probability that the mean order of tasks left out is this good by chance.

    The signs of the tasks' correlations are exchanged at random; all exchanges where there are few tasks.
    """
    orders = np.array([_order(each) for each in left])
    return sign_flip(orders, seed)


def sign_flip(values: Floats, seed: int = 0) -> float:
    """One-sided p of the mean of values whose signs are exchangeable under the null: exact for up to 14 values.

    >>> sign_flip(np.array([1.0, 1.0, 1.0]))
    0.125
    """
    if not len(values):
        return 1.0
    if len(values) <= 14:
        signs = np.array(list(itertools.product((1.0, -1.0), repeat=len(values))))
        return float((signs @ values >= values.sum() - 1e-12).mean())
    source = np.random.default_rng(seed)
    signs = source.choice((1.0, -1.0), size=(_PERMUTATIONS, len(values)))
    return float((1 + (signs @ values >= values.sum() - 1e-12).sum()) / (1 + _PERMUTATIONS))
