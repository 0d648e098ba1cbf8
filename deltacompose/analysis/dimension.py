"""The intrinsic dimension of each task from a store: the trained `intrinsic(d=…)` deltas beside full tuning.

Every d of the grid is an ordinary composition of the study, so nothing is added to the plan while it runs; d₉₀ (Li et
al. 2018, arXiv 1804.08838) is the least d of that grid whose score reaches 90 % of the full one. Scores are those on
development data, which nothing else is read from here.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from deltacompose.analysis.intrinsic import Search
from deltacompose.errors import BadInput, unknown

Record = Mapping[str, Any]
Scores = dict[int, dict[int, float]]
"""Seed → d → development score."""

METHOD, REFERENCE, SHARE = "intrinsic", "full", 0.9


def intrinsic_dimensions(records: Iterable[Record], reference: str = REFERENCE, share: float = SHARE) -> list[Any]:
    """d₉₀ of every task for each way of projecting that a store has, ready for JSON; empty if it has none.

    One entry per setting of the method (projection, scales, places, seed of P): `tasks` has for each task `d` of the
    mean over seeds, `below`, the next lower d of the grid, `by_seed`, and the same `above_chance`, where the share is
    of what the full score exceeds chance by. None means that no d of the grid reached the goal.

    Args:
        records: finished cells, those of training and evaluation.
        reference: the composition whose score is the full one.
        share: of the full score that is enough.

    Raises:
        BadInput: `intrinsic` deltas without the full ones to compare them with.
    """
    done = [record for record in records if record.get("state", "done") == "done"]
    trained = [r for r in done if r["kind"] == "train" and not r["spec"].get("start")]
    families: dict[str, dict[str, Scores]] = defaultdict(lambda: defaultdict(lambda: defaultdict(dict)))
    for record in trained:
        settings = _settings(record)
        if settings is not None:
            spec, d = record["spec"], int(settings.pop("d"))
            _best(families[json.dumps(settings, sort_keys=True)][spec["task"]][int(spec["seed"])], d, record)
    if not families:
        return []
    full = _full(trained, reference)
    chance = {r["spec"]["target"]: float(r["result"]["chance"]) for r in done if r["kind"] == "evaluate"}
    return [
        {
            **json.loads(text),
            "reference": reference,
            "share": share,
            "tasks": {t: _of_task(t, own, full, chance.get(t), share) for t, own in sorted(tasks.items())},
        }
        for text, tasks in sorted(families.items())
    ]


def _settings(record: Record) -> dict[str, Any] | None:
    """The settings of a delta that is `intrinsic` alone; None of any other."""
    stages = record["spec"].get("settings") or []
    if len(stages) != 1 or len(stages[0]) != 1 or stages[0][0]["method"] != METHOD:
        return None
    return dict(stages[0][0]["settings"])


def _best(scores: dict[int, float], d: int, record: Record) -> None:
    """Of several learning rates the best development score counts, as it would be chosen."""
    scores[d] = max(float(record["result"]["dev"]), scores.get(d, -np.inf))


def _full(trained: Iterable[Record], reference: str) -> dict[str, dict[int, float]]:
    found: dict[str, dict[int, float]] = defaultdict(dict)
    texts = set()
    for record in trained:
        spec = record["spec"]
        texts.add(str(spec["composition"]))
        if spec["composition"] == reference:
            own, seed = found[spec["task"]], int(spec["seed"])
            own[seed] = max(float(record["result"]["dev"]), own.get(seed, -np.inf))
    if not found:
        raise unknown("composition to compare intrinsic dimensions with", reference, texts)
    return found


def _of_task(
    task: str, scores: Scores, full: Mapping[str, Mapping[int, float]], chance: float | None, share: float
) -> dict[str, Any]:
    seeds = sorted(set(scores) & set(full.get(task, {})))
    if not seeds:
        raise BadInput(f"{task} has intrinsic deltas and no full one of the same seed")
    dimensions = sorted({d for seed in seeds for d in scores[seed]})
    everywhere = [d for d in dimensions if all(d in scores[seed] for seed in seeds)]
    mean = {d: float(np.mean([scores[seed][d] for seed in seeds])) for d in everywhere}
    own = float(np.mean([full[task][seed] for seed in seeds]))

    def least(floor: float) -> dict[str, Any]:
        each = {seed: _least(scores[seed], full[task][seed], floor, share)[0] for seed in seeds}
        d, below = _least(mean, own, floor, share)
        return {"d": d, "below": below, "by_seed": {str(seed): value for seed, value in each.items()}}

    return {
        **least(0.0),
        "above_chance": None if chance is None else {"chance": chance, **least(chance)},
        "full": own,
        "scores": {str(d): value for d, value in mean.items()},
        "seeds": seeds,
    }


def _least(scores: Mapping[int, float], full: float, floor: float, share: float) -> tuple[int | None, int]:
    """The least d that reaches the goal (None if none does), and the greatest one that misses it below that."""
    if not full > floor or not scores:
        return None, 0
    search = Search(full, max(scores), share, floor)
    upper = min((d for d, score in scores.items() if search.reached(score)), default=None)
    missed = (d for d in scores if upper is None or d < upper)
    return upper, max(missed, default=0)
