"""Features of tasks and of deltas that the backbone computes: embeddings, activations, gradients."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
import torch
from numpy.typing import NDArray

from deltacompose import registry
from deltacompose.backbone.backbone import evaluating
from deltacompose.library.from_store import EMBEDDING
from deltacompose.library.library import Arrays
from deltacompose.scoring import Reader, reader
from deltacompose.study.config import Study
from deltacompose.task.build import task_from_mapping
from deltacompose.task.task import Task

EXAMPLES = 64
"""Training examples whose inputs an embedding is the mean of."""
_ROWS = 16


def task_embedding(reader: Reader, split: str = "train", examples: int = EXAMPLES) -> NDArray[np.float32]:
    """The mean of the last states of a task's inputs in the untouched backbone, `(width,)`.

    Vu et al. 2020, *Exploring and Predicting Transferability across NLP Tasks* (arXiv 2005.00770), TextEmb.

    Args:
        examples: at most so many of the split's first ones.
    """
    rows = reader.rows(split)[:examples]
    with torch.no_grad(), evaluating(reader.backbone.model):
        states = [reader.features(rows[k : k + _ROWS]).float().cpu() for k in range(0, len(rows), _ROWS)]
    mean: NDArray[np.float32] = torch.cat(states).mean(0).numpy()
    return mean


def of_study(study: Study) -> Mapping[str, Arrays]:
    """The embedding of every task of a study, by task."""
    choice, find = study.backbone, task_finder(study)
    options = {name: getattr(choice, name) for name in ("dtype", "head", "table", "attention")}
    backbone = registry.load_backbone(choice.model, **options)
    tasks = {name: find(name) or registry.task_of(name) for name in study.tasks}
    readers = {
        name: reader(backbone, (task if study.template else task.without_template()), study.training.limit)
        for name, task in tasks.items()
    }
    return {name: {EMBEDDING: task_embedding(read)} for name, read in readers.items()}


def task_finder(study: Study | None) -> Callable[[str], Task | None]:
    """Gives a task of a study, or an installed one, by name; None of a name that is neither."""

    def find(name: str) -> Task | None:
        if study is not None and name in study.own_tasks:
            return task_from_mapping(name, study.own_tasks[name], study.folder)
        return registry.tasks().get(name)

    return find
