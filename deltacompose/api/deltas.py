"""Training, attaching and evaluating one delta in Python, with expressions and tasks by name."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from torch import Tensor
from transformers import PreTrainedModel
from typing_extensions import Unpack

from deltacompose.attach import attachment as attach
from deltacompose.backbone.backbone import Backbone
from deltacompose.composition import Term
from deltacompose.delta.delta import Delta
from deltacompose.errors import BadInput
from deltacompose.method import weights as tensors
from deltacompose.registry import check_rates, expression_of, task_of, tasks, with_origins
from deltacompose.scoring import Reader, reader
from deltacompose.scoring.as_trained import Reading, as_trained, mismatches
from deltacompose.study.config import recipe_of
from deltacompose.study.recipe import RecipeSettings
from deltacompose.task.task import Task
from deltacompose.training import loop as training
from deltacompose.training.evaluation import Evaluation
from deltacompose.training.evaluation import evaluate as evaluated
from deltacompose.training.learner import Job


def init_weights(backbone: Backbone, expression: Term | str, seed: int = 0) -> dict[str, Tensor]:
    """New trainable tensors for an expression: `<stage>.<part>.<place>.<tensor>`, fp32, on the CPU.

    >>> weights = dc.init_weights(pico_backbone("bert"), "lora(rank=2)", seed=0)
    >>> name = next(iter(weights))
    >>> name, tuple(weights[name].shape)
    ('0.0.encoder.0.attention.query.down', (2, 16))
    """
    return tensors.init_weights(backbone, expression_of(expression), seed)


@contextmanager
def attached(
    backbone: Backbone,
    expression: Term | str,
    weights: Mapping[str, Tensor],
    constants: Mapping[str, Tensor] | None = None,
) -> Iterator[PreTrainedModel]:
    """Attaches weights to the backbone within the block; leaving it restores the backbone exactly.

    >>> backbone = pico_backbone("bert")
    >>> weights = dc.init_weights(backbone, "bitfit")
    >>> with dc.attached(backbone, "bitfit", weights) as model:
    ...     hidden = backbone.read(torch.ones(1, 4, dtype=torch.long)).last_hidden_state
    >>> hidden.shape
    torch.Size([1, 4, 16])
    """
    with attach.attached(backbone, expression_of(expression), weights, constants) as model:
        yield model


def train(
    backbone: Backbone, expression: Term | str, task: Task | str, seed: int = 0, **recipe: Unpack[RecipeSettings]
) -> Delta:
    """Trains a composition on a task, stage after stage, and returns the delta.

    >>> delta = dc.train(pico_backbone("bert"), "bitfit", "sentiment_movie", steps=2, batch=4, limit=16)
    >>> str(delta.expression)
    'bitfit'

    Args:
        backbone: what `load_backbone` gives.
        expression: a composition, as `LoRA(rank=8) + BitFit()`, or its text.
        task: a task, or the name of an installed one.
        seed: of the initial weights and of the order of the examples.
        recipe: the fields of `deltacompose.Recipe`: steps, batch, learning_rates (peak rates by method), warmup,
            weight_decay, clip, evaluate_every, keep, thaw, limit (tokens of input), checkpointing.

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


def evaluate(
    backbone: Backbone, delta: Delta | None, task: Task | str, split: str = "val", limit: int | None = None
) -> Evaluation:
    """Scores a delta, or the untouched backbone, on a split of a task, and returns score and predictions.

    A delta is evaluated as it was trained: with its own limit of tokens, and with its own template if the task is given
    by name. Any difference from the training is reported as a warning.

    >>> task = dc.tasks()["sentiment_movie"]
    >>> evaluation = dc.evaluate(pico_backbone("bert"), None, task, limit=16)
    >>> 0 <= evaluation.score.value <= 1, len(evaluation.predictions) == len(task.examples("val"))
    (True, True)

    Args:
        limit: the longest input in tokens; None takes the delta's own, and 128 for the untouched backbone.
    """
    scorer = reader_for(backbone, delta, task, limit)
    if delta is not None:
        for sentence in mismatches(scorer, Reading.of(delta.record)):
            warnings.warn(sentence, stacklevel=2)
    return evaluated(scorer, delta, split)


def reader_for(backbone: Backbone, delta: Delta | None, task: Task | str, limit: int | None = None) -> Reader:
    """The reader of a task with the delta's own limit, and with its own template if the task is given by name."""
    reading = Reading.of({} if delta is None else delta.record)
    chosen = task_of(task)
    if isinstance(task, str):
        chosen = as_trained(chosen, reading, tasks().get(reading.task))
    return reader(backbone, chosen, reading.limit if limit is None else limit)
