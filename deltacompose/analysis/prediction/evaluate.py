"""Which measure of similarity predicts transfer, and what to do with the prediction.

A measure is judged target by target: the target's sources are ranked by it, the target itself left out, and the ranking
is held against their relative performance R (gains). Science behind the protocol: Achille et al. 2019, Vu et al. 2020
and 2022, Su et al. 2022. Arrays are (sources, targets) over the tasks that are both, and diagonals take no part.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from scipy import stats

from deltacompose.analysis.arrays import Bools, Floats
from deltacompose.analysis.limitations import shortened
from deltacompose.analysis.matrix import TransferMatrix, mean_over_seeds
from deltacompose.analysis.permutation import PermutationTest, against, mantel, permuted_orders, qap
from deltacompose.analysis.prediction.matrix_completion import Completion, choose_cells, complete, completion_quality
from deltacompose.analysis.prediction.mixtures import similarities_to, softmax_mixture, top_k, weighted_top_k
from deltacompose.analysis.statistics import adjusted
from deltacompose.errors import BadInput

__all__ = [
    "Completion",
    "best_single_source",
    "choose_cells",
    "complete",
    "completion_quality",
    "gains_of",
    "kendall_pooled",
    "kendall_within",
    "mean_known",
    "ndcg",
    "ndcg_of_chance",
    "ndcg_test",
    "popularity",
    "rank_discounts",
    "regret_at",
    "similarities_to",
    "softmax_mixture",
    "spearman_within",
    "summary",
    "top_k",
    "weighted_top_k",
]

ONE_BY_ONE = (
    "p-values are one-sided and of one measure each; those that end in `_by` are adjusted over all measures shown "
    "(Benjamini and Yekutieli)"
)
BLOCK = 4_000_000
"""How many comparisons of two sources are held in memory at once."""


def gains_of(matrix: TransferMatrix) -> Floats:
    """(tasks, tasks): R averaged over seeds, NaN on the diagonal and where unknown."""
    return _without_diagonal(mean_over_seeds(matrix.square().relative()))


def _without_diagonal(values: Floats) -> Floats:
    return np.where(np.eye(len(values)) == 1, np.nan, values)


def rank_discounts(scores: Floats, ranked: Bools) -> Floats:
    """(..., sources): the discount 1/log₂(rank + 1) of each ranked source, highest score first; 0 for the others.

    Sources of equal score share the mean of their discounts (McSherry & Najork 2008), so that the order in which they
    happen to stand never matters.

    >>> scores = np.array([0.2, 0.9, 0.5])
    >>> rank_discounts(scores, np.array([True, True, True])).round(3)
    array([0.5  , 1.   , 0.631])
    """
    over = ((scores[..., None, :] > scores[..., :, None]) & ranked[..., None, :]).sum(axis=-1)
    equal = ((scores[..., None, :] == scores[..., :, None]) & ranked[..., None, :]).sum(axis=-1)
    total = np.concatenate([[0.0], np.cumsum(1 / np.log2(np.arange(2, scores.shape[-1] + 2)))])
    return np.where(ranked, (total[over + equal] - total[over]) / np.maximum(equal, 1), 0.0)


def ndcg(scores: Floats, gains: Floats) -> Floats:
    """(...,) normalised discounted cumulative gain of (..., sources) ranked by score (Järvelin & Kekäläinen 2002).

    Gains are R as it is, negative ones counted as 0; sources whose gain is NaN are not ranked, those without a score
    come last. NaN where no gain is above zero, fewer than two sources are ranked, or all gains are equal, so that any
    ranking would do.

    >>> round(float(ndcg(np.array([1.0, 2.0, 3.0]), np.array([3.0, 2.0, 1.0]))), 4)
    0.79
    """
    ranked, gains = ~np.isnan(gains), np.maximum(np.nan_to_num(gains), 0.0)
    unequal = np.where(ranked, gains, -np.inf).max(axis=-1) > np.where(ranked, gains, np.inf).min(axis=-1)
    ideal = (gains * rank_discounts(gains, ranked)).sum(axis=-1)
    gained = (gains * rank_discounts(np.where(np.isnan(scores), -np.inf, scores), ranked)).sum(axis=-1)
    defined = (ideal > 0) & (ranked.sum(axis=-1) > 1) & unequal
    return np.where(defined, gained / np.where(defined, ideal, 1.0), np.nan)


def ndcg_of_chance(gains: Floats) -> Floats:
    """(...,) the expected NDCG of a random ranking, exactly: every source tied with every other.

    >>> float(ndcg_of_chance(np.array([0.0, 0.5, 1.0])).round(3))
    0.81
    """
    return ndcg(np.zeros_like(gains), gains)


def regret_at(k: int, scores: Floats, gains: Floats) -> float:
    """Gain of the best source minus that of the best among the first k by score, for one target.

    Where the k-th place is tied, the expectation over all ways to break the tie.

    >>> gains = np.array([[np.nan, 0.9, 0.8], [0.4, np.nan, 0.6], [0.2, 0.1, np.nan]])
    >>> regret_at(1, -gains, gains)
    0.8

    Raises:
        BadInput: k below one.
    """
    if k < 1:
        raise BadInput(f"regret@{k}: at least one source is chosen")
    known = ~np.isnan(gains)
    scores, gains = np.where(np.isnan(scores), -np.inf, scores)[known], gains[known]
    if not len(gains):
        return np.nan
    last = np.sort(scores)[::-1][min(k, len(scores)) - 1]
    sure, tied = gains[scores > last], np.sort(gains[scores == last])[::-1]
    return float(gains.max()) - _expected_best(sure.max(initial=-np.inf), tied, min(k, len(scores)) - len(sure))


def _expected_best(sure: float, tied: Floats, drawn: int) -> float:
    """Expected maximum of a sure gain and of so many drawn from the tied ones, which stand in falling order."""
    best, left = 0.0, 1.0
    for position, gain in enumerate(tied):
        rest = len(tied) - position
        chance = left * min(drawn / rest, 1.0)
        best += chance * max(float(gain), sure)
        left -= chance
    return best


def popularity(gains: Floats) -> Floats:
    """(sources, targets): mean gain of a source on the other targets, the predicted one and its own left out.

    >>> gains = np.array([[np.nan, 0.9, 0.8], [0.4, np.nan, 0.6], [0.2, 0.1, np.nan]])
    >>> popularity(gains).round(2)
    array([[0.85, 0.8 , 0.9 ],
           [0.6 , 0.5 , 0.4 ],
           [0.1 , 0.2 , 0.15]])
    """
    known = ~np.isnan(gains)
    total, count = np.nan_to_num(gains).sum(axis=1, keepdims=True), known.sum(axis=1, keepdims=True)
    rest, others = total - np.nan_to_num(gains), count - known
    return np.where(others > 0, rest / np.maximum(others, 1), np.nan)


def best_single_source(matrix: TransferMatrix) -> dict[str, str]:
    """For each target, the source that does best on average over the other targets.

    >>> best_single_source(matrix)
    {'cola': 'mnli', 'mnli': 'mrpc', 'mrpc': 'mnli', 'rte': 'mrpc'}
    """
    tasks, scores = matrix.tasks, _without_diagonal(popularity(gains_of(matrix)))
    _enough(tasks)
    return {target: tasks[int(np.nanargmax(scores[:, t]))] for t, target in enumerate(tasks)}


def kendall_within(scores: Floats, gains: Floats) -> Floats:
    """(targets,): Kendall's τ_b of scores and gains over the sources of each target; NaN where either is constant.

    >>> gains = np.array([[np.nan, 0.9, 0.8], [0.4, np.nan, 0.6], [0.2, 0.1, np.nan]])
    >>> kendall_within(gains**2, gains)
    array([1., 1., 1.])
    """
    return _within(lambda x, y: stats.kendalltau(x, y).statistic, scores, gains)


def spearman_within(scores: Floats, gains: Floats) -> Floats:
    """(targets,): Spearman's ρ of scores and gains over the sources of each target; NaN where either is constant."""
    return _within(lambda x, y: stats.spearmanr(x, y).statistic, scores, gains)


def kendall_pooled(scores: Floats, gains: Floats) -> float:
    """Kendall's τ_b over all pairs at once: it mixes in how hard the targets are, so it is shown only for contrast."""
    known = ~np.isnan(gains)
    return float(stats.kendalltau(scores[known], gains[known]).statistic)


def _within(correlation: Any, scores: Floats, gains: Floats) -> Floats:
    columns = [(scores[~np.isnan(column), t], column[~np.isnan(column)]) for t, column in enumerate(gains.T)]
    constant = [len(y) < 2 or np.ptp(x) == 0 or np.ptp(y) == 0 for x, y in columns]
    return np.array([np.nan if no else correlation(x, y) for no, (x, y) in zip(constant, columns, strict=True)])


def ndcg_test(measure: Floats, gains: Floats, permutations: int = 999, seed: int = 0) -> PermutationTest:
    """The mean NDCG against those of the measure with its tasks' names permuted, rows and columns together.

    One-sided; all permutations where there are few, else p = (1 + #)/(1 + B).
    """
    observed = mean_known(ndcg(measure.T, gains.T))
    orders, exact = permuted_orders(len(measure), permutations, seed)
    blocks = [
        np.nanmean(ndcg(measure[block[:, None, :], block[:, :, None]], gains.T), axis=1)
        for some in orders
        for block in np.array_split(some, len(some) * len(measure) ** 3 // BLOCK + 1)
    ]
    return against(observed, np.concatenate(blocks), exact, least=1 / math.factorial(len(measure)))


def mean_known(values: Floats) -> float:
    """Mean of the values that are not NaN; NaN if none is."""
    known = values[~np.isnan(values)]
    return float(known.mean()) if len(known) else np.nan


def summary(
    matrix: TransferMatrix, measures: Mapping[str, Floats | pd.DataFrame], permutations: int = 999, seed: int = 0
) -> dict[str, Any]:
    """How well each measure predicts the matrix, ready for JSON; None where undefined.

    Per measure: `ndcg` (mean over targets), `ndcg_null` (a random ranking), `ndcg_null_low` and `ndcg_null_high` (the
    5 % and 95 % quantiles with permuted tasks), `ndcg_popularity`, `ndcg_p` with
    `ndcg_least_p`, the smallest that could come out, and `ndcg_p_by`, adjusted over the measures,
    `ndcg_by_target`, `ndcg_by_seed`, `regret_at_1` and `regret_at_3` next to those of chance and popularity,
    `kendall_within` (τ_b per target, averaged), `kendall_pooled` and `spearman_within` for contrast, `mantel_r` and
    `mantel_p` likewise (for a directed measure QAP, as `mantel_of` says).

    Args:
        matrix: the transfer matrix; the tasks that are both source and target are judged.
        measures: by name (tasks, tasks) similarities of source and target, higher is nearer, in the order of
            `matrix.tasks`; a table with names on both axes is put into that order.

    Raises:
        BadInput: fewer than 4 tasks, no measure, or a measure of another shape, with other names or with a NaN.
    """
    tasks = matrix.tasks
    _enough(tasks)
    if not measures:
        raise BadInput("no measure to judge; give at least one matrix of similarities")
    aligned = {name: _aligned(name, measure, tasks) for name, measure in measures.items()}
    gains = gains_of(matrix)
    if np.isnan(ndcg_of_chance(gains.T)).all():
        raise BadInput("no target has two sources of known relative performance, one of them above zero")
    judged = {name: _judged(measure, gains, matrix, permutations, seed) for name, measure in aligned.items()}
    return {
        "tasks": list(tasks),
        "seeds": len(matrix.seeds),
        "gains": "relative performance, off the diagonal",
        "measures": _with_adjusted(judged),
        "limitations": [
            *matrix.limitations(),
            *_about_gains(gains, tasks),
            *_about_measures(aligned, tasks),
            ONE_BY_ONE,
        ],
    }


def _enough(tasks: Sequence[str]) -> None:
    if len(tasks) < 4:
        raise BadInput(
            f"predicting transfer needs at least 4 tasks that are both source and target, found {len(tasks)}"
        )


def _aligned(name: str, measure: Floats | pd.DataFrame, tasks: Sequence[str]) -> Floats:
    """The measure as an array in the tasks' order, its off-diagonal cells known."""
    if isinstance(measure, pd.DataFrame):
        for axis, labels in (("rows", list(measure.index)), ("columns", list(measure.columns))):
            missing, twice = (
                [task for task in tasks if task not in labels],
                sorted({x for x in labels if labels.count(x) > 1}),
            )
            if missing or twice:
                fault = f"lack {', '.join(missing)}" if missing else f"name {', '.join(twice)} twice"
                raise BadInput(f"measure {name!r}: its {axis} {fault}; tasks: {', '.join(tasks)}")
        measure = measure.loc[list(tasks), list(tasks)].to_numpy()
    array = np.asarray(measure, dtype=float)
    if array.shape != (len(tasks), len(tasks)):
        raise BadInput(
            f"measure {name!r} has shape {array.shape}, expected one row and column for each of {len(tasks)} tasks"
        )
    unknown_cells = np.argwhere(~np.isfinite(array) & ~np.eye(len(tasks), dtype=bool))
    if len(unknown_cells):
        cells = [f"{tasks[s]} → {tasks[t]}" for s, t in unknown_cells]
        raise BadInput(f"measure {name!r} is not a finite number for {shortened(cells)}")
    return array


def _judged(measure: Floats, gains: Floats, matrix: TransferMatrix, permutations: int, seed: int) -> dict[str, Any]:
    """One measure against all baselines."""
    popular, flat = popularity(gains), np.zeros_like(measure)
    by_target, tested = ndcg(measure.T, gains.T), ndcg_test(measure, gains, permutations, seed)
    each_seed = [_without_diagonal(relative) for relative in matrix.square().relative()]
    result: dict[str, Any] = {
        "ndcg": mean_known(by_target),
        "ndcg_null": mean_known(ndcg_of_chance(gains.T)),
        "ndcg_popularity": mean_known(ndcg(popular.T, gains.T)),
        "ndcg_null_low": tested.null_range[0],
        "ndcg_null_high": tested.null_range[1],
        "ndcg_p": tested.p,
        "ndcg_least_p": tested.least_p,
        "ndcg_by_seed": [_known(mean_known(ndcg(measure.T, relative.T))) for relative in each_seed],
        "ndcg_by_target": {task: _known(float(value)) for task, value in zip(matrix.tasks, by_target, strict=True)},
        "kendall_within": mean_known(kendall_within(measure, gains)),
        "spearman_within": mean_known(spearman_within(measure, gains)),
        "kendall_pooled": kendall_pooled(measure, gains),
        **_mantel(measure, gains, permutations, seed),
    }
    for k in (1, 3):
        for suffix, scores in (("", measure), ("_null", flat), ("_popularity", popular)):
            each = [regret_at(k, scores[:, t], gains[:, t]) for t in range(len(gains))]
            result[f"regret_at_{k}{suffix}"] = mean_known(np.array(each))
    return {name: _known(value) for name, value in result.items()}


def _mantel(measure: Floats, gains: Floats, permutations: int, seed: int) -> dict[str, Any]:
    """Mantel against (R + Rᵀ)/2 for a symmetric measure, QAP against R for a directed one; None if it is constant."""
    directed = not np.allclose(measure, measure.T)
    off = ~np.eye(len(measure), dtype=bool)
    of = "qap, R" if directed else "mantel, (R + Rᵀ)/2"
    target = gains if directed else (gains + gains.T) / 2
    if np.ptp(measure[off]) == 0 or np.isnan(target[off]).all() or np.ptp(target[off & ~np.isnan(target)]) == 0:
        return {"mantel_r": None, "mantel_p": None, "mantel_least_p": None, "mantel_of": of}
    test = (qap if directed else mantel)(measure, target, permutations, seed)
    return {"mantel_r": test.statistic, "mantel_p": test.p, "mantel_least_p": test.least_p, "mantel_of": of}


def _with_adjusted(judged: Mapping[str, dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """`ndcg_p_by` and `mantel_p_by`: the p-values adjusted over all measures (Benjamini & Yekutieli 2001)."""
    by = {name: _adjusted_over(judged, name) for name in ("ndcg_p", "mantel_p")}
    return {
        measure: {**summary, **{f"{name}_by": _known(float(p[i])) for name, p in by.items()}}
        for i, (measure, summary) in enumerate(judged.items())
    }


def _adjusted_over(judged: Mapping[str, dict[str, Any]], name: str) -> Floats:
    return adjusted(
        np.array([np.nan if summary[name] is None else summary[name] for summary in judged.values()]), dependent=True
    )


def _known(value: Any) -> Any:
    """None instead of NaN, which JSON has not."""
    return None if isinstance(value, float) and np.isnan(value) else value


def _about_gains(gains: Floats, tasks: Sequence[str]) -> Iterator[str]:
    unranked = [task for task, value in zip(tasks, ndcg_of_chance(gains.T), strict=True) if np.isnan(value)]
    if unranked:
        yield f"{shortened(unranked)}: no ranking of sources to predict, so in no mean over targets"
    negative = int((gains < 0).sum())
    if negative:
        yield f"{negative} relative performances are negative and count as gain 0 in NDCG"


def _about_measures(measures: Mapping[str, Floats], tasks: Sequence[str]) -> Iterator[str]:
    for name, measure in measures.items():
        columns = _without_diagonal(measure)
        flat = [task for t, task in enumerate(tasks) if np.nanmax(columns[:, t]) == np.nanmin(columns[:, t])]
        if len(flat) == len(tasks):
            yield f"measure {name!r} is constant for every target: it ranks nothing and correlates with nothing"
        elif flat:
            yield f"measure {name!r} is constant for {shortened(flat)}: no Kendall or Spearman correlation there"
