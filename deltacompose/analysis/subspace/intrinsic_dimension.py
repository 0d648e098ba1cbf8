"""The intrinsic dimension of each task from a store: the trained `intrinsic(d=…)` deltas compared with full tuning.

d₉₀ (Li et al. 2018, arXiv 1804.08838) is the least d whose score reaches 90 % of the full one, of those d that were
trained: a grid that the study lists among its compositions, or what a search asked for, one d after another. Scores are
those on development data, which nothing else is read from here.

A search with a warm start (`DimensionChoice.warm_start`) stands by itself: its trainings have had the steps at lower d
as well, and are not to be mixed with those that began anew.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from deltacompose.analysis.subspace.dimension_search import Search, next_dimensions, start_from
from deltacompose.errors import BadInput, unknown
from deltacompose.study.queries import Record, done, of_kind

Scores = dict[int, dict[int, float]]
"""Seed → d → development score."""
Family = tuple[str, bool]
"""The settings of the method without d, as text, and whether trainings begin with the solution at a lower d."""

METHOD, REFERENCE, SHARE = "intrinsic", "full", 0.9


def intrinsic_dimensions(
    records: Iterable[Record], reference: str | None = None, share: float | None = None
) -> list[Any]:
    """d₉₀ of every task for each way of projecting that a store has, ready for JSON; empty if it has none.

    One entry per setting of the method (projection, scales, places, seed of P), and one more for searches with a
    `warm_start`. `scales` is how many scales are trained besides the d numbers, which Aghajanyan et al. 2021 (arXiv
    2012.13255) count among d and we do not; None where the records do not say how many parameters were trained. `tasks`
    has for each task `d` of the mean over seeds, `below`, the next lower d that was tried, `by_seed`, and the same
    `above_chance`, where the share is of what the full score exceeds chance by. None means that no d reached the goal.
    `search` says which d a search has yet to train, `next`, none at its end; it is None where there was no search.

    Args:
        records: finished cells, those of training, search and evaluation.
        reference: the composition whose score is the full one; None is that of the searches, else `full`.
        share: of the full score that is enough; None is that of the searches, else .9.

    Raises:
        BadInput: `intrinsic` deltas without the full ones to compare them with, or searches that differ in what they
            compare with.
    """
    finished = done(records)
    trained = [r for r in finished if r["kind"] == "train" and not r["spec"].get("start")]
    searches = of_kind(finished, "search")
    families, scales = _families(trained, searches), _scales(trained)
    if not families:
        return []
    reference = _agreed(searches, "reference", REFERENCE) if reference is None else reference
    share = _agreed(searches, "share", SHARE) if share is None else share
    full = _full(trained, reference)
    chance = {r["spec"]["target"]: float(r["result"]["chance"]) for r in finished if r["kind"] == "evaluate"}
    chance |= {r["spec"]["task"]: r["result"]["chance"] for r in searches}  # that of development data
    latest = {(_family(r), r["spec"]["task"]): r for r in sorted(searches, key=_tried)}
    return [
        {
            **json.loads(family[0]),
            "warm_start": family[1],
            "scales": scales.get(family[0]),
            "reference": reference,
            "share": share,
            "tasks": {
                task: {
                    **_of_task(task, own, full, chance.get(task), share),
                    "search": _state(latest.get((family, task))),
                }
                for task, own in sorted(tasks.items())
            },
        }
        for family, tasks in sorted(families.items())
    ]


def searched(spec: Mapping[str, Any], parents: Sequence[Record], chance: float | None) -> dict[str, Any]:
    """Result of a search on its task once all of `parents` are trained, and `next`, the d to train now by seed.

    Two goals are searched for, the share of the full score and the share of what it exceeds chance by, each for the
    mean over the seeds, which trains all of them, and for every seed by itself, so that d is as fine for a seed as for
    the mean. `next` is empty when all have been found. With a warm start `begin` says for each of them, by seed and
    factor of the grid, the training among `parents` with whose solution it begins: that at the nearest lower d. The
    rest of the result is as `intrinsic_dimensions` says of one task.

    Args:
        spec: of the search: `task`, `settings` without d, `reference`, `share`, `resolution`, `most`, and `warm_start`
            where it has one.
        parents: the training cells of the reference and of every d so far, those of all seeds.
        chance: of the task, on development data; None where it is not known.
    """
    task, full = spec["task"], _full(parents, spec["reference"])
    scores: Scores = {seed: {} for seed in full[task]}
    for record in parents:
        settings = _settings(record) or {}
        d = settings.pop("d", None)
        if _text(settings) == _text(spec["settings"]):
            _best(scores[int(record["spec"]["seed"])], int(d), record)
    summary = _of_task(task, scores, full, chance, spec["share"])
    mean = {int(d): score for d, score in summary["scores"].items()}

    def wanted(goal: float, known: Mapping[int, float]) -> set[int]:
        floors = {floor for floor in (0.0, chance or 0.0) if goal > floor}
        searches = [Search(goal, spec["most"], spec["share"], floor, spec["resolution"]) for floor in floors]
        return {d for search in searches for d in next_dimensions(search, known)}

    together = wanted(summary["full"], mean)
    each = {seed: (together | wanted(full[task][seed], own)) - set(own) for seed, own in sorted(scores.items())}
    result = {
        **summary,
        "chance": chance,
        "next": {str(seed): sorted(waiting) for seed, waiting in each.items() if waiting},
    }
    return result | ({"begin": _beginnings(spec, parents, each)} if spec.get("warm_start") else {})


def _beginnings(
    spec: Mapping[str, Any], parents: Sequence[Record], waiting: Mapping[int, Iterable[int]]
) -> list[dict[str, Any]]:
    """The start of each d to train, where a lower d has been trained with the same seed and factor."""
    solved: dict[tuple[int, float], dict[int, Record]] = defaultdict(dict)
    for record in parents:
        settings = _settings(record) or {}
        d = settings.pop("d", None)
        if _text(settings) == _text(spec["settings"]):
            solved[int(record["spec"]["seed"]), record["spec"]["grid"]][int(d)] = record
    begin = []
    for (seed, grid), known in sorted(solved.items()):
        for d in sorted(waiting.get(seed, ())):
            lower = start_from(d, known)
            if lower is not None:
                start = {"composition": known[lower]["spec"]["composition"], "key": known[lower]["key"]}
                begin.append({"seed": seed, "d": d, "grid": grid, **start})
    return begin


def _scales(trained: Iterable[Record]) -> dict[str, int]:
    """Number of parameters besides d that each setting of the method trains, where the records say so."""
    extra = {}
    for record in trained:
        settings = _settings(record)
        if settings is not None and "parameters" in record["result"]:
            d = int(settings.pop("d"))
            extra[_text(settings)] = int(record["result"]["parameters"]) - d
    return extra


def _families(trained: Iterable[Record], searches: Iterable[Record]) -> dict[Family, dict[str, Scores]]:
    """The scores of each family's tasks: of a warm start what its searches have read, else all that began anew.

    Where those that began anew are but the first d of warm-started searches, they are not a family of their own.
    """
    warm: dict[tuple[Family, str], set[str]] = defaultdict(set)
    cold = set()
    for search in searches:
        where = _family(search), search["spec"]["task"]
        if where[0][1]:
            warm[where] |= set(search["parents"])
        else:
            cold.add(where)
    members: dict[tuple[Family, str], list[tuple[int, Record]]] = defaultdict(list)
    for record in trained:
        settings = _settings(record)
        if settings is None:
            continue
        d, task = int(settings.pop("d")), record["spec"]["task"]
        for family in ((_text(settings), False), (_text(settings), True)):
            if record.get("key") in warm[family, task] if family[1] else not record["spec"].get("carried"):
                members[family, task].append((d, record))
    families: dict[Family, dict[str, Scores]] = defaultdict(dict)
    for (family, task), own in members.items():
        begun = warm[(family[0], True), task]
        if family[1] or (family, task) in cold or any(record.get("key") not in begun for _, record in own):
            scores: Scores = defaultdict(dict)
            for d, record in own:
                _best(scores[int(record["spec"]["seed"])], d, record)
            families[family][task] = scores
    return families


def _family(search: Record) -> Family:
    return _text(search["spec"]["settings"]), bool(search["spec"].get("warm_start"))


def _text(settings: Mapping[str, Any]) -> str:
    return json.dumps(settings, sort_keys=True)


def _settings(record: Record) -> dict[str, Any] | None:
    """The settings of a delta that is `intrinsic` alone; None of any other."""
    stages = record["spec"].get("settings") or []
    if len(stages) != 1 or len(stages[0]) != 1 or stages[0][0]["method"] != METHOD:
        return None
    return dict(stages[0][0]["settings"])


def _best(scores: dict[int, float], d: int, record: Record) -> None:
    """Of several learning rates the best development score counts, as it would be chosen."""
    scores[d] = max(float(record["result"]["dev"]), scores.get(d, -np.inf))


def _tried(search: Record) -> int:
    return len(search["parents"])


def _state(search: Record | None) -> dict[str, Any] | None:
    if search is None:
        return None
    return {
        "next": sorted({d for own in search["result"]["next"].values() for d in own}),
        "most": search["spec"]["most"],
    }


def _agreed(searches: Iterable[Record], name: str, otherwise: Any) -> Any:
    """The value of a setting on which all searches agree, or its default without any search."""
    values = sorted({record["spec"][name] for record in searches})
    if len(values) > 1:
        raise BadInput(
            f"the searches of this store differ in their {name}: {', '.join(map(str, values))}; give the one that is "
            "meant, or the study's file instead of its store"
        )
    return values[0] if values else otherwise


def _full(trained: Iterable[Record], reference: str) -> dict[str, dict[int, float]]:
    full: dict[str, dict[int, float]] = defaultdict(dict)
    texts = set()
    for record in trained:
        spec = record["spec"]
        texts.add(str(spec["composition"]))
        if spec["composition"] == reference and not spec.get("carried"):
            own, seed = full[spec["task"]], int(spec["seed"])
            own[seed] = max(float(record["result"]["dev"]), own.get(seed, -np.inf))
    if not full:
        raise unknown("composition to compare intrinsic dimensions with", reference, texts)
    return full


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
