"""The Python interface: expressions, tasks and backbones by the names that plugins gave them."""

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
    """The digest of a method's code, by which cells name it: see `deltacompose.plugins.implementation`.

    Raises:
        BadInput: no such method, or its source cannot be read or changed after it was imported.
    """
    return implementation(plugins.loaded(), method)


def origin_of(method: str) -> str:
    """The distribution and version that a method came from."""
    return plugins.loaded().origin("method", method)


def sources_of(method: str) -> list[Path]:
    """The source files by which cells name a method; none of a built-in method of a release."""
    return sources(plugins.loaded(), method)


def parse(text: str) -> Composition:
    """The composition that a text says; `str` of it gives the text back.

    >>> import deltacompose as dc
    >>> str(dc.parse("prompt(length=8) + bitfit + adapter"))
    'prompt(length=8) + bitfit + adapter'
    """
    known = plugins.loaded()
    return algebra.parse(text, known.methods, known.expressions)


def load_backbone(model: Any, tokenizer: Any = None, **how: Any) -> Backbone:
    """The backbone of a name (`embedded`, or one on the hub), a folder, or a transformers model in hand.

    It goes to a GPU if there is one. See `deltacompose.backbone.loading` for head, dtype, device and table.
    """
    if isinstance(model, str | Path):
        how.setdefault("device", "cuda" if torch.cuda.is_available() else "cpu")
    return loading.load_backbone(model, tokenizer, tables=plugins.loaded().backbones, **how)


def fetch_backbone(model: str) -> Path:
    """The folder with the files of a backbone's name, fetched from the hub if need be, and not yet read."""
    return loading.fetch(model, plugins.loaded().backbones)


def expression_of(given: Term | str) -> Composition:
    """An expression as such, or as text."""
    return parse(given) if isinstance(given, str) else algebra.composition(given)


def task_of(given: Task | str) -> Task:
    """A task as such, or by name."""
    if isinstance(given, Task):
        return given
    if given not in tasks():
        raise unknown("task", given, tasks())
    return tasks()[given]


def engine_of(name: str) -> Any:
    """What makes the executor of an engine's name, given its options."""
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
    """The backbone's transformers model with these weights in force; exactly undone on leaving."""
    with attach.attached(backbone, expression_of(expression), weights, constants) as model:
        yield model


def train(backbone: Backbone, expression: Term | str, task: Task | str, seed: int = 0, **recipe: Any) -> Delta:
    """Trains a composition on a task, stage after stage, and gives the delta.

    Args:
        recipe: the fields of `deltacompose.Recipe`: steps, batch, learning_rates, ...

    Raises:
        BadInput: unknown names, a place that the backbone lacks, or a setting of the recipe out of its range.
        Diverged: a loss or gradient was no finite number.
    """
    how = recipe_of(recipe, "training")
    check_rates(how)
    whole, read = expression_of(expression), reader(backbone, task_of(task), how.limit)
    trained: Delta | None = None
    for stage in range(1, len(whole.stages) + 1):
        result = training.train(backbone, [Job(whole.until(stage), read, seed, how, trained)])[0]
        if isinstance(result, Exception):
            raise result
        trained = result
    if trained is None:
        raise BadInput("a composition needs at least one stage")
    return with_origins(trained)


def check_rates(recipe: Recipe) -> None:
    """Refuses learning rates of methods that there are not: a misspelt one would be without effect."""
    for name in recipe.learning_rates:
        if name not in methods():
            raise BadInput(f"learning_rates: {unknown('method', name, methods())}")


def evaluate(
    backbone: Backbone, given: Delta | None, task: Task | str, split: str = "val", limit: int | None = None
) -> Evaluation:
    """The score and the predictions of a delta, or of the untouched backbone, on a split of a task.

    A delta is evaluated as it was trained: with its own limit of tokens, and with its own template where the task is
    given by name. A reading that differs is reported as a warning.

    Args:
        limit: the longest input in tokens; None takes the delta's own, and 128 for the untouched backbone.
    """
    read = reader_for(backbone, given, task, limit)
    if given is not None:
        for sentence in mismatches(read, Reading.of(given.record)):
            warnings.warn(sentence, stacklevel=2)
    return training.evaluate(read, given, split)


def reader_for(backbone: Backbone, given: Delta | None, task: Task | str, limit: int | None = None) -> Reader:
    """A task as a delta was trained to read it: its limit, and its template where the task is given by name."""
    reading = Reading.of({} if given is None else given.record)
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
