"""Whether the order of the stages matters: gain per stage over all orders, Friedman's test and a permutation test."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise, permutations
from statistics import fmean
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.stats import friedmanchisquare

from deltacompose.analysis.interaction.bootstrap import Resampled, Scores, resample
from deltacompose.analysis.interaction.composition_text import Stages, joined, stages
from deltacompose.analysis.interaction.factorial import NONE, Contrast, applied
from deltacompose.analysis.permutation import relabelling_test

Array = npt.NDArray[np.float64]
TIE = 1e-10


def friedman(blocks: Array) -> dict[str, float | int] | None:
    """Friedman's (1937) chi-square that all orders rank alike, by scipy.

    >>> blocks = np.array([[0.7, 0.8, 0.9], [0.6, 0.7, 0.8], [0.5, 0.8, 0.9], [0.6, 0.7, 0.9]])
    >>> round(friedman(blocks)["p"], 3)
    0.018

    Args:
        blocks: scores (blocks, orders); a block is a task, or a task and seed.

    Returns:
        `statistic`, `p` and the number of `blocks`; None for fewer than three orders or two blocks.
    """
    if blocks.shape[0] < 2 or blocks.shape[1] < 3:
        return None
    if np.all(blocks == blocks[:, :1]):  # scipy divides by zero where every rank is tied
        return {"statistic": 0.0, "p": 1.0, "blocks": len(blocks)}
    result = friedmanchisquare(*blocks.T)
    return {"statistic": float(result.statistic), "p": float(result.pvalue), "blocks": len(blocks)}


def order_effects(scores: Scores) -> list[dict[str, Any]]:
    """Effects of the order of the stages, for every set of stages that was trained in sequence.

    Args:
        scores: the score of each seed, by (composition's text, unit). The beginnings of a sequence are compositions of
            their own (`a` and `a >> b` for `a >> b >> c`), the untouched backbone is `none`.

    Returns:
        One record per set of stages: `orders` (score after each stage, gain per stage with its interval), `positions`
        (a stage's mean gain by its position, likewise), `best` (each unit's best order, or those that tie), `tests`
        (across units, whose blocks are units; within units, whose blocks are unit and seed), `units`, `seeds`, and
        `missing`. Tests compare the orders that were trained, each in every unit and seed; where one of those runs is
        missing they are None. Orders that share a trained beginning are not wholly independent, which the tests take
        them to be.
    """
    families: dict[Stages, list[Stages]] = {}
    sequences = [sequence for sequence in dict.fromkeys(stages(text) for text, _ in scores) if len(sequence) > 1]
    for sequence in sequences:
        families.setdefault(tuple(sorted(sequence)), []).append(sequence)
    return [_family(scores, family) for family in families.values() if not all(_begins(s, sequences) for s in family)]


def _begins(sequence: Stages, sequences: Sequence[Stages]) -> bool:
    return any(other[: len(sequence)] == sequence and len(other) > len(sequence) for other in sequences)


def _family(scores: Scores, sequences: Sequence[Stages]) -> dict[str, Any]:
    every = sorted(set(permutations(sequences[0])))
    orders = {joined(order): order for order in every if order in sequences}
    units = sorted({unit for text, unit in scores if text in orders})
    seeds = sorted({seed for (text, _), each in scores.items() if text in orders for seed in each})
    missing = _missing(scores, list(orders), units, seeds)
    table = _finals(scores, list(orders), units, seeds) if not missing else None
    about = _about(scores, orders.values(), units, seeds)
    gains = {text: [about.told(contrast) for contrast in _gains(order)] for text, order in orders.items()}
    return {
        "stages": [" + ".join(stage) for stage in sorted(set(sequences[0]))],
        "orders": {
            text: {
                "scores": [about.means.get(done) for done in _beginnings(order)],
                "gains": [gain for gain, _ in gains[text]],
                "intervals": [interval for _, interval in gains[text]],
            }
            for text, order in orders.items()
        },
        "positions": {
            stage: _split(map(about.told, each)) for stage, each in _positions(list(orders.values())).items()
        },
        "resampled": about.drawn.resampled,
        "best": {unit: _best(scores, list(orders), unit) for unit in units},
        "tests": {
            "across units": _tests(table.mean(axis=1)) if table is not None else None,
            "within units": _tests(table.reshape(-1, len(orders))) if table is not None else None,
        },
        "units": units,
        "seeds": seeds,
        "missing": {"orders": [joined(order) for order in every if order not in sequences], "runs": missing},
    }


@dataclass(frozen=True)
class _About:
    """Means and draws of all orders of one family and of their beginnings."""

    means: Mapping[str, float]
    drawn: Resampled

    def told(self, contrast: Contrast | None) -> tuple[float | None, tuple[float, float] | None]:
        """A statistic and its interval; None where a run is missing."""
        if contrast is None:
            return None, None
        return applied(contrast, self.means), self.drawn.interval(contrast, self.means)


def _about(scores: Scores, orders: Iterable[Stages], units: Sequence[str], seeds: Sequence[str]) -> _About:
    """All compositions of the family are resampled together, so that gains are paired."""
    texts = dict.fromkeys(done for order in orders for done in _beginnings(order))
    kept = {(text, unit): scores[text, unit] for text in texts for unit in units if (text, unit) in scores}
    complete = [text for text in texts if all((text, unit) in kept for unit in units)]
    means = {text: fmean(fmean(kept[text, unit].values()) for unit in units) for text in complete}
    return _About(means, resample(kept | _every_seed(kept, seeds)))


def _every_seed(scores: Scores, seeds: Sequence[str]) -> dict[tuple[str, str], Mapping[str, float]]:
    """The untouched backbone, which has one score per unit, gets it under every seed of the sequences."""
    fixed = {cell: each for cell, each in scores.items() if cell[0] == NONE and len(each) == 1}
    return {cell: dict.fromkeys(seeds, *each.values()) for cell, each in fixed.items()}


def _beginnings(order: Stages) -> list[str]:
    return [joined(order[:done]) for done in range(len(order) + 1)]


def _gains(order: Stages) -> list[Contrast]:
    return [{after: 1.0, before: -1.0} for before, after in pairwise(_beginnings(order))]


def _positions(orders: Sequence[Stages]) -> dict[str, list[Contrast | None]]:
    """A stage's mean gain when it comes first, second, …, as contrasts; None where it never does."""
    result: dict[str, list[Contrast | None]] = {}
    for stage in sorted({stage for order in orders for stage in order}):
        there = [[_gains(order)[place] for order in orders if order[place] == stage] for place in range(len(orders[0]))]
        result[" + ".join(stage)] = [_average(contrasts) if contrasts else None for contrasts in there]
    return result


def _average(contrasts: Sequence[Contrast]) -> Contrast:
    names = dict.fromkeys(name for contrast in contrasts for name in contrast)
    return {name: sum(each.get(name, 0.0) for each in contrasts) / len(contrasts) for name in names}


def _split(told: Iterable[tuple[Any, Any]]) -> dict[str, list[Any]]:
    gains, intervals = zip(*told, strict=True)
    return {"gains": list(gains), "intervals": list(intervals)}


def _missing(scores: Scores, texts: list[str], units: list[str], seeds: list[str]) -> list[dict[str, str]]:
    return [
        {"order": text, "unit": unit, "seed": seed}
        for text in texts
        for unit in units
        for seed in seeds
        if seed not in scores.get((text, unit), {})
    ]


def _finals(scores: Scores, texts: list[str], units: list[str], seeds: list[str]) -> Array:
    """Final scores (units, seeds, orders)."""
    return np.array([[[scores[text, unit][seed] for text in texts] for seed in seeds] for unit in units])


def _tests(blocks: Array) -> dict[str, Any]:
    return {"friedman": friedman(blocks), "permutation": relabelling_test(blocks)}


def _best(scores: Scores, texts: Sequence[str], unit: str) -> list[str]:
    """The order, or the orders that tie, with the highest mean; empty where an order lacks the unit."""
    means = {text: fmean(scores[text, unit].values()) for text in texts if (text, unit) in scores}
    highest = max(means.values(), default=0.0)
    return [text for text, mean in means.items() if mean >= highest - TIE] if len(means) == len(texts) else []
