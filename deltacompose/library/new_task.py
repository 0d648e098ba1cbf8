"""Evidence of a few labelled examples of a new task on every source: scores, and similarities by a fresh delta."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from deltacompose import registry
from deltacompose.analysis.arrays import Floats
from deltacompose.analysis.similarity.formulas import cosine
from deltacompose.analysis.similarity.stored_arrays import PROBED
from deltacompose.cells import probe
from deltacompose.delta.delta import Delta
from deltacompose.errors import BadInput, quoted
from deltacompose.formats.yaml_files import read_yaml
from deltacompose.library.banked import few_example_scores
from deltacompose.library.from_store import EMBEDDING
from deltacompose.library.library import Library
from deltacompose.library.library_evidence import EMBEDDED, FROM_WEIGHTS, Gathered, arrays_of, near, of_weights
from deltacompose.scoring import Reader
from deltacompose.study.config import recipe_of
from deltacompose.task.build import task_from_mapping
from deltacompose.task.task import Task
from deltacompose.training.embedding import task_embedding
from deltacompose.training.learner import Job
from deltacompose.training.loop import train


@dataclass(frozen=True, eq=False)
class NewTask:
    """A new task as its few examples show it.

    Attributes:
        tried: (sources,), scores on the examples.
        untouched: (examples,), the score of each example of the untouched backbone.
        measures: by name (sources,), nearness.
    """

    tried: Floats
    untouched: Floats
    chance: float
    measures: Mapping[str, Floats]


def task_given(task: Task | str | Path) -> Task:
    """The task itself, the installed one of a name, or the one that a YAML file describes.

    Raises:
        BadInput: no such task, or a file that does not describe one.
    """
    if isinstance(task, Task):
        return task
    if isinstance(task, Path) or str(task).endswith((".yaml", ".yml")):
        path = Path(task)
        data = read_yaml(path)
        if not isinstance(data, dict):
            raise BadInput(f"{path} does not describe a task; it needs at least path, columns, metric and category")
        name = data.pop("name", path.stem)
        if not isinstance(name, str):
            raise BadInput(f"{path}: the name {quoted(name)} is not text")
        return task_from_mapping(name, data, path.parent)
    return registry.task_of(task)


def few_examples(task: Task, shots: int, seed: int) -> Task:
    """The task with so many training examples in total, as many of each class.

    Raises:
        BadInput: fewer shots than classes, or a class with fewer examples.
    """
    classes = max(1, len(task.labels))
    if shots < classes:
        raise BadInput(
            f"{shots} shots for task {task.name!r}, which has {classes} classes; give at least one example per class"
        )
    present = {example.target for example in task.examples("train")}
    absent = [label for label in task.labels if label not in present]
    if absent:
        raise BadInput(
            f"task {task.name!r} has no training example of the label {quoted(absent[0])}; every label of its "
            "verbalizer needs one"
        )
    return task.few_shot(shots // classes, seed)


def measured(
    library: Library,
    gathered: Gathered,
    read: Reader,
    deltas: Mapping[str, Delta],
    names: Mapping[str, str],
    training: tuple[int, int],
) -> NewTask:
    """Evidence of the few examples on every source."""
    scores = few_example_scores(read, [None, *deltas.values()])
    wanted = [name for name in gathered.zero_shot.measures if name != EMBEDDED]
    registered = registry.measures()
    needs = {registered[name].needs for name in wanted}
    fresh = _fresh_delta(read, next(iter(deltas.values())), training) if needs else None
    own = {need: _own_array(need, read, fresh, gathered.composition, training) for need in needs} if fresh else {}
    measures: dict[str, Floats] = {}
    for name in wanted:
        measure = registered[name]
        tasks = {s: arrays_of(library, at, measure.needs, gathered.composition) for s, at in names.items()}
        try:
            measures[name] = near(measure, {**tasks, "": own[measure.needs]})[:-1, -1]
        except BadInput:  # as a cosine with a fresh delta that is still zero
            measures[name] = np.full(len(names), np.nan)
    if EMBEDDED in gathered.zero_shot.measures:
        embeddings = [library.features(at)[EMBEDDING] for at in names.values()]
        measures[EMBEDDED] = cosine(np.stack([*embeddings, task_embedding(read)]))[:-1, -1]
    chance = read.task.chance("train")
    means = np.array([score.value for score in scores[1:]])
    return NewTask(means, np.array(scores[0].per_example, dtype=float), chance, measures)


def _fresh_delta(read: Reader, like: Delta, training: tuple[int, int]) -> Delta:
    """A delta of the sources' composition, trained on the few examples by the recipe of a source."""
    seed, steps = training
    recorded = dict(like.record.get("recipe") or {})
    settings = {name: recorded[name] for name in ("batch", "learning_rates", "limit") if name in recorded}
    recipe = recipe_of(settings | {"steps": steps, "evaluate_every": steps, "keep": "last"}, "the fresh delta")
    trained: Delta | None = None
    for stage in range(1, len(like.expression.stages) + 1):
        [outcome] = train(read.backbone, [Job(like.expression.until(stage), read, seed, recipe, trained)])
        if isinstance(outcome, Exception):
            raise outcome
        trained = outcome
    if trained is None:
        raise BadInput("a composition needs at least one stage")
    return trained


def _own_array(need: str, read: Reader, fresh: Delta, composition: str, training: tuple[int, int]) -> Any:
    """The array of the new task that a need asks for."""
    seed, _ = training
    if need in FROM_WEIGHTS:
        return of_weights(need, composition, {n: x.numpy() for n, x in fresh.weights.items()})
    if need not in PROBED:
        raise BadInput(f"{need} of a new task cannot be computed")
    examples = len(read.rows("train"))
    if need == "activations":
        return probe.activations(read.backbone, fresh).numpy()
    if need == "gradients":
        job = Job(fresh.expression, read, seed, recipe_of({"limit": read.limit}, "gradients"))
        return probe.gradients(job, examples)[None].numpy()
    return probe.fisher(read, fresh, seed, examples).sqrt()[None].numpy()
