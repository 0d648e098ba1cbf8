"""A library made from the store of a study: its trained deltas, with all that the store knows of them."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from deltacompose import registry
from deltacompose.analysis import delta_tensors as tensors
from deltacompose.analysis.similarity.stored_arrays import FILE, PROBED, StoredDeltas, stored_deltas
from deltacompose.errors import BadInput
from deltacompose.library.card import Result
from deltacompose.library.layout import examples_of
from deltacompose.library.library import Arrays, Library
from deltacompose.store.store import Store
from deltacompose.study.queries import Record
from deltacompose.task.mixture import mix_of_name
from deltacompose.task.task import Task

Scores = Mapping[tuple[str, str, int], list[Result]]
"""Results by composition, source and seed of the delta."""

EMBEDDING = "embedding"
"""The feature that holds the embedding of a task: the mean of its inputs' states in the untouched backbone."""


@dataclass(frozen=True)
class Made:
    """Result of adding deltas to a library.

    Attributes:
        names: of the deltas, in the order in which they were added.
        notes: a sentence on each thing that the store lacks.
    """

    names: tuple[str, ...]
    notes: tuple[str, ...] = ()


def make(
    store: Store,
    records: Sequence[Record],
    place: str | Path,
    tasks: Callable[[str], Task | None] = lambda name: None,
    embeddings: Mapping[str, Arrays] | None = None,
) -> Made:
    """Adds every trained delta of a store to a library, which is made if there is none.

    Args:
        records: of the store, finished ones; those that `results.records` gives.
        tasks: gives a task by name, for its category, licence and kind; or None.
        embeddings: features of each task by name, as `task_embedding` gives them.

    Raises:
        BadInput: the store has no trained delta, or the library is of another backbone.
    """
    done = [record for record in records if record.get("state", "done") == "done"]
    deltas = stored_deltas(done, store.folder, mixtures=True)
    if not deltas:
        raise BadInput(f"the store {store.root} has no trained delta that was evaluated; run the study first")
    scores, examples, names, library = results_of(done), _examples(done), [], None
    known = {name: tasks(name) for stored in deltas.values() for name in stored.tasks}
    for text, stored in deltas.items():
        arrays = _arrays(stored)
        for (task, seed), key in sorted(stored.trained.items()):
            delta = registry.load_delta(store.folder(key))
            library = library or Library.create(place, delta.backbone)
            spec = store.record(key)["spec"]
            features = arrays.get((task, seed), {}) | dict((embeddings or {}).get(task, {}))
            features |= examples.get((text, task, seed), {})
            about = _about(known[task]) | {"data": spec["data"], "seed": seed}
            about |= {"parts": _parts_of(task, known[task])}
            about["results"] = tuple(scores.get((text, task, seed), ()))
            names.append(library.add(delta, None, features, task=task, **about))
    if library is not None:
        library.write_readme()
    return Made(tuple(names), tuple(_notes(scores)))


def results_of(records: Iterable[Record]) -> Scores:
    """The scores of each trained delta: zero-shot on every target, and after training on a target from it."""
    evaluations = [r for r in records if r["kind"] == "evaluate" and r["spec"].get("grid") is None]
    untouched: dict[tuple[str, str], float] = {}
    for record in evaluations:
        if record["spec"]["source"] == "untouched":
            untouched[record["spec"]["target"], record["spec"]["split"]] = record["result"]["score"]
    scores: dict[tuple[str, str, int], list[Result]] = defaultdict(list)
    for record in evaluations:
        spec = record["spec"]
        if spec["composition"] is None or spec["source"] in ("untouched", "random"):
            continue
        source = spec.get("start") or spec["source"]
        at = (spec["composition"], source, spec["seed"])
        scores[at].append(_result(record, untouched.get((spec["target"], spec["split"]))))
    return scores


def _result(record: Record, untouched: float | None) -> Result:
    spec, result = record["spec"], record["result"]
    chance = result["chance"]
    trained = bool(spec.get("start")) or (spec["source"] == spec["target"] and spec["shots"] is not None)
    return Result(
        target=spec["target"],
        split=spec["split"],
        metric=result["metric"],
        score=float(result["score"]),
        chance=None if chance is None or np.isnan(chance) else float(chance),
        untouched=untouched,
        shots=spec["shots"] if trained else None,
        started=bool(spec.get("start")),
        seed=spec["seed"] if trained else None,
        trivial=bool(result["trivial"]),
    )


def _examples(records: Iterable[Record]) -> dict[tuple[str, str, int], dict[str, Any]]:
    """The score of each example of the zero-shot evaluations, by composition, source and seed of the delta."""
    arrays: dict[tuple[str, str, int], dict[str, Any]] = defaultdict(dict)
    for record in records:
        spec = record["spec"]
        if record["kind"] == "evaluate" and record.get("example_scores") and not spec.get("start"):
            name = examples_of(spec["target"], spec["split"])
            bare = spec["composition"] is None
            at = ("", "untouched", 0) if bare else (spec["composition"], spec["source"], spec["seed"])
            if bare or spec.get("grid") is None:
                arrays[at][name] = np.array(record["example_scores"], dtype=np.float32)
    untouched = arrays.pop(("", "untouched", 0), {})
    for at, own in arrays.items():
        bare_name = next((n for n in untouched if n == examples_of(at[1], n.partition(".")[0])), None)
        own |= {} if bare_name is None else {f"untouched.{bare_name}": untouched[bare_name]}
    return arrays


def _arrays(stored: StoredDeltas) -> dict[tuple[str, int], dict[str, Any]]:
    """The probed arrays of each task and seed, by need."""
    arrays: dict[tuple[str, int], dict[str, Any]] = defaultdict(dict)
    for record in stored.records:
        spec = record["spec"]
        if record["kind"] == "probe" and spec["array"] in PROBED:
            need = spec["array"]
            arrays[spec["source"], spec["seed"]][need] = tensors.read(stored.folder(record["key"]) / FILE)[need]
    return arrays


def _parts_of(name: str, task: Task | None) -> tuple[str, ...]:
    """The tasks of a mixture; none of an ordinary task."""
    mix = mix_of_name(name)
    return tuple(mix.mix) if mix is not None else () if task is None else tuple(part.name for part in task.parts)


def _about(task: Task | None) -> dict[str, Any]:
    if task is None:
        return {}
    return {"category": task.category, "kind": task.kind, "licence": task.licence, "source": task.source}


def _notes(scores: Scores) -> Iterator[str]:
    rows = [(source, result) for (_, source, _), results in scores.items() for result in results]
    if not any(source != result.target and not result.started for source, result in rows):
        yield "no delta was evaluated on another task, so nothing can be recommended; set `transfer: true` in the study"
    if not any(result.started for _, result in rows):
        yield "no training started from a delta, so scores after few-shot training cannot be predicted from this store"
