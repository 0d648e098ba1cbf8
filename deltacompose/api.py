"""The Python interface: expressions, tasks and backbones by their registered names."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel

from deltacompose import composition as algebra
from deltacompose.analysis.similarity.measure import Measure
from deltacompose.attach import attachment as attach
from deltacompose.backbone import loading
from deltacompose.backbone.backbone import Backbone
from deltacompose.composition import Composition, Part, Term
from deltacompose.delta import delta
from deltacompose.delta.delta import Delta
from deltacompose.errors import BadInput, unknown
from deltacompose.method import weights as tensors
from deltacompose.plugins import loader as plugins
from deltacompose.plugins.implementation import implementation, sources
from deltacompose.scoring import Reader, reader
from deltacompose.scoring.as_trained import Reading, as_trained, mismatches
from deltacompose.study.config import recipe_of
from deltacompose.study.recipe import Recipe
from deltacompose.task.task import Task
from deltacompose.training import loop as training
from deltacompose.training.learner import Job
from deltacompose.training.loop import Evaluation


def methods() -> Mapping[str, type[Part]]:
    """Every installed method by name."""
    return plugins.loaded().methods


def tasks() -> Mapping[str, Task]:
    """Every installed task by name."""
    return plugins.loaded().tasks


def measures() -> Mapping[str, Measure]:
    """Every installed measure of similarity by name."""
    return plugins.loaded().measures


def implementation_of(method: str) -> str:
    """The digest of a method's code, which is part of cell keys: see `deltacompose.plugins.implementation`.

    Raises:
        BadInput: the method is unknown, its source cannot be read, or its source changed after the import.
    """
    return implementation(plugins.loaded(), method)


def origin_of(method: str) -> str:
    """The distribution and version that a method came from."""
    return plugins.loaded().origin("method", method)


def sources_of(method: str) -> list[Path]:
    """The source files of a method that are part of cell keys; empty for a built-in method of a release."""
    return sources(plugins.loaded(), method)


def parse(text: str) -> Composition:
    """Parses the text of a composition; `str` of the result gives the text back.

    >>> import deltacompose as dc
    >>> str(dc.parse("prompt(length=8) + bitfit + adapter"))
    'prompt(length=8) + bitfit + adapter'
    """
    known = plugins.loaded()
    return algebra.parse(text, known.methods, known.expressions)


def load_backbone(model: Any, tokenizer: Any = None, **options: Any) -> Backbone:
    """Loads the backbone of a name (`embedded`, or one on the hub), a folder, or a loaded transformers model.

    A backbone loaded by name or folder is placed on a GPU if there is one. See `deltacompose.backbone.loading` for
    head, dtype, device and table.
    """
    if isinstance(model, str | Path):
        options.setdefault("device", "cuda" if torch.cuda.is_available() else "cpu")
    return loading.load_backbone(model, tokenizer, tables=plugins.loaded().backbones, **options)


def fetch_backbone(model: str) -> Path:
    """The folder with the files of a backbone, fetched from the hub if necessary, without loading them."""
    return loading.fetch(model, plugins.loaded().backbones)


def expression_of(expression: Term | str) -> Composition:
    """The composition of an expression or of its text."""
    return parse(expression) if isinstance(expression, str) else algebra.composition(expression)


def task_of(task: Task | str) -> Task:
    """The task itself, or the installed task of that name.

    Raises:
        BadInput: no installed task has the name.
    """
    if isinstance(task, Task):
        return task
    if task not in tasks():
        raise unknown("task", task, tasks())
    return tasks()[task]


def engine_of(name: str) -> Any:
    """The function that makes an engine's executor from its options.

    Raises:
        BadInput: no installed engine has the name.
    """
    engines = plugins.loaded().engines
    if name not in engines:
        raise unknown("engine", name, engines)
    return engines[name]


def init_weights(backbone: Backbone, expression: Term | str, seed: int = 0) -> dict[str, Tensor]:
    """New trainable tensors for an expression: `<stage>.<part>.<place>.<tensor>`, fp32, on the CPU."""
    return tensors.init_weights(backbone, expression_of(expression), seed)


@contextmanager
def attached(
    backbone: Backbone,
    expression: Term | str,
    weights: Mapping[str, Tensor],
    constants: Mapping[str, Tensor] | None = None,
) -> Iterator[PreTrainedModel]:
    """Attaches weights to the backbone within the block; leaving it restores the backbone exactly."""
    with attach.attached(backbone, expression_of(expression), weights, constants) as model:
        yield model


def train(backbone: Backbone, expression: Term | str, task: Task | str, seed: int = 0, **recipe: Any) -> Delta:
    """Trains a composition on a task, stage after stage, and returns the delta.

    Args:
        recipe: the fields of `deltacompose.Recipe`: steps, batch, learning_rates, ...

    Raises:
        BadInput: a name is unknown, the backbone lacks a place, or a setting of the recipe is out of range.
        Diverged: a loss or gradient was not finite.
    """
    training_recipe = recipe_of(recipe, "training")
    check_rates(training_recipe)
    composition, scorer = expression_of(expression), reader(backbone, task_of(task), training_recipe.limit)
    trained: Delta | None = None
    for stage in range(1, len(composition.stages) + 1):
        job = Job(composition.until(stage), scorer, seed, training_recipe, trained)
        result = training.train(backbone, [job])[0]
        if isinstance(result, Exception):
            raise result
        trained = result
    if trained is None:
        raise BadInput("a composition needs at least one stage")
    return with_origins(trained)


def check_rates(recipe: Recipe) -> None:
    """Checks that learning rates name installed methods; a misspelt name would have no effect.

    Raises:
        BadInput: a learning rate names an unknown method.
    """
    for name in recipe.learning_rates:
        if name not in methods():
            raise BadInput(f"learning_rates: {unknown('method', name, methods())}")


def evaluate(
    backbone: Backbone, delta: Delta | None, task: Task | str, split: str = "val", limit: int | None = None
) -> Evaluation:
    """Scores a delta, or the untouched backbone, on a split of a task, and returns score and predictions.

    A delta is evaluated as it was trained: with its own limit of tokens, and with its own template if the task is given
    by name. Any difference from the training is reported as a warning.

    Args:
        limit: the longest input in tokens; None takes the delta's own, and 128 for the untouched backbone.
    """
    scorer = reader_for(backbone, delta, task, limit)
    if delta is not None:
        for sentence in mismatches(scorer, Reading.of(delta.record)):
            warnings.warn(sentence, stacklevel=2)
    return training.evaluate(scorer, delta, split)


def reader_for(backbone: Backbone, delta: Delta | None, task: Task | str, limit: int | None = None) -> Reader:
    """The reader of a task with the delta's own limit, and with its own template if the task is given by name."""
    reading = Reading.of({} if delta is None else delta.record)
    chosen = task_of(task)
    if isinstance(task, str):
        chosen = as_trained(chosen, reading, tasks().get(reading.task))
    return reader(backbone, chosen, reading.limit if limit is None else limit)


def with_origins(trained: Delta) -> Delta:
    """The delta with the distribution and version that each of its methods came from."""
    names = {part.name for _, part in trained.expression.parts()}
    known = plugins.loaded()
    return replace(trained, plugins={n: known.origin("method", n) for n in sorted(names) if n in known.methods})


def load_delta(folder: str | Path) -> Delta:
    """The delta in a folder that `Delta.save` wrote."""
    return delta.load(folder, methods())
