"""Scores of trained deltas on held-out tasks: merged, routed, or as the start of training on few examples.

Every way is compared with a fresh delta that was trained on the same examples, paired by target and seed.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from deltacompose.analysis.arrays import Floats
from deltacompose.analysis.labelled import dataset, tidy
from deltacompose.analysis.recommendation.model import sign_flip
from deltacompose.errors import BadInput
from deltacompose.study.queries import Record

if TYPE_CHECKING:
    import pandas as pd
    import xarray


NOTHING = "nothing"
_RESAMPLES = 2000


@dataclass(frozen=True, eq=False)
class Used:
    """The scores of one way of using trained deltas.

    Attributes:
        way: as in a study's `reuse`; `untouched` and `chance` are the baselines.
        trained: whether training on the few examples followed.
        shots: training examples per class that were used; None for none.
        scores: (targets, seeds); NaN where missing.
    """

    composition: str
    way: str
    trained: bool
    shots: int | None
    targets: tuple[str, ...]
    seeds: tuple[int, ...]
    scores: Floats

    def to_pandas(self) -> pd.DataFrame:
        """One row per target and seed, with the score and how the deltas were used."""
        about: dict[str, Any] = {
            "composition": self.composition,
            "way": self.way,
            "trained": self.trained,
            "shots": self.shots,
        }
        return tidy(self._arrays(), self._names()).assign(**about)

    def to_xarray(self) -> xarray.Dataset:
        """The scores with names along their axes.

        Raises:
            BadInput: xarray is not installed.
        """
        return dataset(self._arrays(), self._names())

    def _names(self) -> dict[str, tuple[Any, ...]]:
        return {"target": self.targets, "seed": self.seeds}

    def _arrays(self) -> dict[str, tuple[tuple[str, ...], Any]]:
        return {"score": (("target", "seed"), self.scores)}


def used(records: Iterable[Record]) -> list[Used]:
    """The scores of every way, from the finished cells of a study.

    Raises:
        BadInput: there are none.
    """
    done = [record for record in records if record.get("state", "done") == "done"]
    scored = [record for record in done if record["kind"] == "reuse"]
    if not scored:
        raise BadInput("no scores on held-out tasks; give `reuse` and `held_out` in the study, and run it")
    targets = tuple(sorted({record["spec"]["target"] for record in scored}))
    seeds = tuple(sorted({record["spec"]["seed"] for record in scored}))
    groups: dict[tuple[str, str, bool, int | None], Floats] = {}
    for record in scored:
        spec = record["spec"]
        key = (spec["composition"], spec["way"], spec["trained"], spec["shots"])
        values = groups.setdefault(key, np.full((len(targets), len(seeds)), np.nan))
        values[targets.index(spec["target"]), seeds.index(spec["seed"])] = record["result"]["score"]
    order = sorted(groups, key=lambda key: (key[0], key[2], key[3] or 0, key[1] != NOTHING, key[1]))
    baselines = _baselines(done, scored, targets, seeds)
    return baselines + [Used(*key, targets, seeds, groups[key]) for key in order]


def rows(every: Sequence[Used], seed: int = 0) -> list[dict[str, Any]]:
    """A row for each way: the mean over targets and its 95 % interval, and the difference to training from nothing.

    The interval is a bootstrap over targets, and over seeds within them. `p` is two-sided, of sign flips of the mean
    differences of targets; with T targets it is at least 2^(1-T).
    """
    fresh = {(way.composition, way.shots): way for way in every if way.way == NOTHING and way.trained}
    table = []
    for way in every:
        value, low, high = _interval(way.scores, seed)
        row: dict[str, Any] = {
            "composition": way.composition,
            "way": way.way,
            "few-shot": way.trained,
            "shots": way.shots,
            "score": value,
            "low": low,
            "high": high,
            "difference": None,
            "difference_low": None,
            "difference_high": None,
            "p": None,
        }
        against = fresh.get((way.composition, way.shots)) if way.way != NOTHING else None
        if against is not None:
            differences = way.scores - against.scores
            mean, lower, upper = _interval(differences, seed)
            by_target = np.array([_mean(own) for own in differences])
            by_target = by_target[~np.isnan(by_target)]
            p = min(1.0, 2 * min(sign_flip(by_target, seed), sign_flip(-by_target, seed)))
            row |= {"difference": mean, "difference_low": lower, "difference_high": upper, "p": p}
        table.append(row)
    return table


def _baselines(
    done: Sequence[Record], scored: Sequence[Record], targets: tuple[str, ...], seeds: tuple[int, ...]
) -> list[Used]:
    """Chance and the untouched backbone on the held-out tasks."""
    chance, untouched = np.full((len(targets), 1), np.nan), np.full((len(targets), 1), np.nan)
    for record in scored:
        chance[targets.index(record["spec"]["target"]), 0] = record["result"]["chance"]
    for record in done:
        spec = record["spec"]
        if record["kind"] == "evaluate" and spec["source"] == "untouched" and spec["target"] in targets:
            untouched[targets.index(spec["target"]), 0] = record["result"]["score"]
    return [
        Used("", "chance", False, None, targets, seeds[:1], chance),
        Used("", "untouched", False, None, targets, seeds[:1], untouched),
    ]


def _interval(scores: Floats, seed: int) -> tuple[float | None, float | None, float | None]:
    """Mean over targets of means over seeds, with its interval; None where nothing is known."""
    each = [row[~np.isnan(row)] for row in scores]
    known = [row for row in each if len(row)]
    if not known:
        return None, None, None
    source = np.random.default_rng(seed)
    means = []
    for _ in range(_RESAMPLES):
        chosen = source.integers(len(known), size=len(known))
        means.append(np.mean([known[k][source.integers(len(known[k]), size=len(known[k]))].mean() for k in chosen]))
    low, high = np.quantile(means, (0.025, 0.975))
    return float(np.mean([row.mean() for row in known])), float(low), float(high)


def _mean(row: Floats) -> float:
    known = row[~np.isnan(row)]
    return float(known.mean()) if len(known) else float("nan")
