"""Features of tasks and of deltas that the backbone computes: embeddings, activations, gradients."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from deltacompose import registry
from deltacompose.errors import BadInput
from deltacompose.library.from_store import EMBEDDING
from deltacompose.library.library import Arrays
from deltacompose.scoring import reader
from deltacompose.study.config import Study
from deltacompose.task.named import named_task
from deltacompose.task.task import Task
from deltacompose.training.embedding import task_embedding


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
        try:
            own = {} if study is None else study.own_tasks
            return named_task(name, own, "." if study is None else study.folder, registry.task_of)
        except BadInput:
            return None

    return find
