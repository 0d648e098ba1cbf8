"""How good recommendations are on tasks left out, against a random source, the most popular, one measure, and none.

Every task is left out in turn: the model, the popularity and the choice of the best measure know nothing of it, neither
as a target nor as a source. Regret@k is the gain of the best source minus that of the best among the first k; NDCG has
the gains themselves, negative ones counted as 0.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from deltacompose.analysis.arrays import Floats
from deltacompose.analysis.prediction.evaluate import ndcg, ndcg_of_chance, regret_at
from deltacompose.analysis.recommendation.evidence import LEAST_TASKS, POPULARITY, TRIED, Evidence, Table
from deltacompose.analysis.recommendation.model import COVERAGE, LEVEL, fit, sign_flip
from deltacompose.errors import BadInput

if TYPE_CHECKING:
    import pandas as pd

MODEL, RANDOM, POPULAR, BEST, UNTOUCHED, ORACLE = (
    "model",
    "random source",
    "most popular source",
    "best predictor alone",
    "untouched backbone",
    "oracle",
)
STRATEGIES = (MODEL, RANDOM, POPULAR, BEST, UNTOUCHED, ORACLE)
LEAST_LEFT = LEAST_TASKS + 1
"""Tasks below which nothing can be judged: without the task that is left out there must be enough to fit a model."""
METRICS = ("regret_at_1", "regret_at_3", "ndcg")


@dataclass(frozen=True)
class HeldOut:
    """How each strategy recommends sources for one task that was left out, with one seed.

    Attributes:
        values: for each strategy regret@1, regret@3 and NDCG; NaN where undefined.
        covered: the share of the sources whose gain lies in the model's interval.
        told_apart: whether the model says that it can tell the sources apart.
        alone: the predictor that did best alone on the other tasks.
        coefficients: of the model, by predictor.
    """

    seed: int
    target: str
    values: Mapping[str, Mapping[str, float]]
    covered: float
    told_apart: bool
    alone: str
    coefficients: Mapping[str, float]

    def to_pandas(self) -> pd.DataFrame:
        """One row per strategy: seed, target, strategy and its metrics."""
        import pandas as pd

        about = {"seed": self.seed, "target": self.target}
        return pd.DataFrame([{**about, "strategy": name, **metrics} for name, metrics in self.values.items()])


def outcomes(evidence: Evidence) -> list[HeldOut]:
    """The outcome of every task that has two sources of known gain, for every seed."""
    return [
        outcome
        for number, seed in enumerate(evidence.seeds)
        for outcome in _of_table(evidence.table(number), seed, evidence, number)
    ]


def summary(evidence: Evidence, seed: int = 0, resamples: int = 2000) -> dict[str, Any]:
    """The quality of recommendations, ready for JSON; None where undefined.

    Per strategy the mean of each metric over tasks, each averaged over seeds, with a 95 % bootstrap interval over
    tasks, and for all but the model `p`, two-sided by paired sign flips over tasks, that the model differs from it.

    Args:
        seed: of the bootstrap and of the sign flips.

    Raises:
        BadInput: too few scores are known to leave any task out.
    """
    every = outcomes(evidence)
    if not every:
        raise BadInput(
            "no task can be left out, because the others give too few scores; leaving out each task in turn needs at "
            f"least {LEAST_LEFT} tasks with their transfer, found {len(evidence.targets)}"
        )
    strategies = {
        name: {metric: _estimated(_by_task(every, name, metric), seed, resamples) for metric in METRICS}
        for name in STRATEGIES
    }
    for name in STRATEGIES[1:]:
        for metric in METRICS:
            strategies[name][metric]["p"] = _paired(every, name, metric, seed)
    covered = np.array([outcome.covered for outcome in every])
    return {
        "sources": list(evidence.sources),
        "targets": list(evidence.targets),
        "seeds": len(evidence.seeds),
        "tasks_left_out": len({outcome.target for outcome in every}),
        "predictors": list(evidence.table(0).predictors),
        "strategies": strategies,
        "coverage": {"intended": COVERAGE, "found": _number(float(np.nanmean(covered)))},
        "told_apart": float(np.mean([outcome.told_apart for outcome in every])),
        "best_alone": _counted([outcome.alone for outcome in every]),
        "coefficients": {
            name: float(np.mean([outcome.coefficients[name] for outcome in every]))
            for name in evidence.table(0).predictors
        },
        "limitations": list(_limitations(evidence, every)),
    }


def rows(answer: Mapping[str, Any]) -> list[dict[str, Any]]:
    """A `summary` as a table, a row for each strategy."""
    return [
        {"strategy": name}
        | {
            f"{metric}{suffix}": estimate[key]
            for metric, estimate in metrics.items()
            for suffix, key in (("", "value"), ("_low", "low"), ("_high", "high"), ("_p", "p"))
            if key in estimate
        }
        for name, metrics in answer["strategies"].items()
    ]


def _of_table(table: Table, seed: int, evidence: Evidence, number: int) -> Iterator[HeldOut]:
    for t, target in enumerate(table.targets):
        rest = table.without(target)
        sources = [table.sources.index(name) for name in rest.sources]
        gains = table.gains[sources, t]
        if (~np.isnan(gains)).sum() < 2 or len(rest.targets) < 3:
            continue
        try:
            model = fit(rest, seed=seed)
        except BadInput:  # too few scores remain
            continue
        x = table.predictors_of(target, rest)
        predicted = model.predict(x)
        alone = best_alone(rest)
        scores = {
            MODEL: predicted,
            RANDOM: np.zeros(len(sources)),
            POPULAR: x[:, table.predictors.index(POPULARITY)],
            BEST: x[:, table.predictors.index(alone)],
            ORACLE: gains,
        }
        absolute = evidence.scores[number][sources, t]
        values = {name: _measured(ranked, gains, absolute) for name, ranked in scores.items()}
        known = ~np.isnan(evidence.untouched[number, t])
        none = {"regret_at_1": float(np.nanmax(gains)) if known else np.nan}
        values[UNTOUCHED] = {"regret_at_3": none["regret_at_1"], "ndcg": np.nan, **none}
        within = np.abs(predicted - gains) <= model.spread
        yield HeldOut(
            seed,
            target,
            values,
            float(within[~np.isnan(gains)].mean()),
            model.p <= LEVEL,
            alone,
            dict(zip(model.predictors, model.coefficients.tolist(), strict=True)),
        )


def best_alone(table: Table) -> str:
    """The predictor whose order of the sources has the best mean NDCG over the targets of a table; the first of equals.

    Popularity is read from the other targets each time.
    """
    scores: dict[str, list[float]] = {name: [] for name in table.predictors}
    for t, target in enumerate(table.targets):
        rest = table.without(target)
        rows = [table.sources.index(name) for name in rest.sources]
        gains = _positive(table.gains[rows, t])
        x = table.predictors_of(target, rest)
        for k, name in enumerate(table.predictors):
            scores[name].append(float(ndcg(x[:, k], gains)))
    means = {name: np.nanmean(values) if not np.isnan(values).all() else -np.inf for name, values in scores.items()}
    return max(table.predictors, key=lambda name: float(means[name]))


def _measured(ranked: Floats, gains: Floats, absolute: Floats) -> dict[str, float]:
    """Regrets in gains, and NDCG with the scores themselves as gains."""
    flat = np.ptp(ranked[~np.isnan(ranked)]) == 0 if (~np.isnan(ranked)).any() else True
    scored = np.where(np.isnan(gains), np.nan, absolute)
    quality = ndcg_of_chance(scored) if flat else ndcg(ranked, scored)
    return {
        "regret_at_1": regret_at(1, ranked, gains),
        "regret_at_3": regret_at(3, ranked, gains),
        "ndcg": float(quality),
    }


def _positive(gains: Floats) -> Floats:
    """Gains shifted so that the worst source of a target has 0: for choosing between predictors alone."""
    known = gains[~np.isnan(gains)]
    return gains - known.min() if len(known) else gains


def _by_task(every: Sequence[HeldOut], strategy: str, metric: str) -> dict[str, float]:
    """The mean over seeds for each task; NaN where no seed has one."""
    tasks = dict.fromkeys(outcome.target for outcome in every)
    values = {
        task: np.array([outcome.values[strategy][metric] for outcome in every if outcome.target == task])
        for task in tasks
    }
    return {task: float(np.nanmean(x)) if not np.isnan(x).all() else np.nan for task, x in values.items()}


def _estimated(by_task: Mapping[str, float], seed: int, resamples: int) -> dict[str, Any]:
    """The mean over tasks and its percentile interval."""
    values = np.array([value for value in by_task.values() if not np.isnan(value)])
    if not len(values):
        return {"value": None, "low": None, "high": None}
    drawn = np.random.default_rng(seed).integers(len(values), size=(resamples, len(values)))
    low, high = np.quantile(values[drawn].mean(axis=1), (0.025, 0.975))
    return {"value": float(values.mean()), "low": float(low), "high": float(high)}


def _paired(every: Sequence[HeldOut], strategy: str, metric: str, seed: int) -> float | None:
    """Two-sided p of the mean difference between the model and a strategy over tasks."""
    own, other = _by_task(every, MODEL, metric), _by_task(every, strategy, metric)
    differences = np.array([own[task] - other[task] for task in own])
    differences = differences[~np.isnan(differences)]
    if not len(differences):
        return None
    return min(1.0, 2 * min(sign_flip(differences, seed), sign_flip(-differences, seed)))


def _counted(names: Sequence[str]) -> dict[str, int]:
    return {name: names.count(name) for name in sorted(set(names), key=lambda name: (-names.count(name), name))}


def _number(value: float) -> float | None:
    return None if np.isnan(value) else value


def _limitations(evidence: Evidence, every: Sequence[HeldOut]) -> Iterator[str]:
    if len(evidence.seeds) == 1:
        yield "one seed: nothing is known of the spread between training runs"
    left = [target for target in evidence.targets if target not in {outcome.target for outcome in every}]
    if left:
        yield f"{', '.join(left)}: too few sources of known score, so not left out"
    if evidence.tried is None:
        yield f"no scores of single examples are known, so {TRIED!r} is not a predictor"
    if np.isnan(evidence.untouched).all():
        yield "the score of the untouched backbone is not known, so using no source is not compared"
    yield ("p-values are two-sided, of paired sign flips over tasks; tasks of one library are not independent")
