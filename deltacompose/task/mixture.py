"""Mixtures of tasks, which are tasks: every example keeps its template, its labels and its metric."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar

from annotated_types import Ge, Gt, Len, MaxLen
from pydantic import ConfigDict

from deltacompose.errors import BadInput, quoted
from deltacompose.limits import ENTRIES, NAME_CHARACTERS
from deltacompose.task.mixed_rows import Mixed, Sampling
from deltacompose.task.task import Task
from deltacompose.validation import checked

JOINED = " + "
"""Stands between the names of the tasks in the name of a mixture that a study makes itself, as of a cluster."""

_Name = Annotated[str, Len(1, NAME_CHARACTERS)]


@dataclass(frozen=True)
class Mix:
    """The description of a mixture, as a study file has it under `own_tasks`.

    Attributes:
        mix: tasks with their weights.
        sampling: whether a task's share of the training rows is in proportion to its own, equal, or in between.
        temperature: T of the sampling `temperature`; 1 is proportional, and larger is more equal.
        category: of the mixture; that of its tasks if they share one, else `mixture`.
    """

    __pydantic_config__: ClassVar[ConfigDict] = ConfigDict(strict=True, extra="forbid", allow_inf_nan=False)

    mix: Annotated[Mapping[_Name, Annotated[float, Gt(0)]], Len(1, ENTRIES)]
    sampling: Sampling = "proportional"
    temperature: Annotated[float, Ge(1)] = 2.0
    category: Annotated[str, MaxLen(NAME_CHARACTERS)] = ""


def is_mixture(described: Mapping[str, Any]) -> bool:
    """Whether the description of a task is that of a mixture."""
    return "mix" in described


def mix_from_mapping(name: str, described: Mapping[str, Any]) -> Mix:
    """The description of a mixture, checked."""
    return checked(Mix, dict(described), f"task {name!r}", "entry")


def mixture(name: str, mix: Mix, find: Callable[[str], Task]) -> Task:
    """The mixture of some tasks.

    Args:
        find: gives a task by name.

    Raises:
        BadInput: a task is unknown or a mixture itself, or the tasks are of different kinds or rank differently.
    """
    parts = tuple(_part(name, part, find) for part in mix.mix)
    first = parts[0]
    for part in parts:
        if part.kind != first.kind:
            raise BadInput(
                f"task {name!r}: {first.name!r} is a {first.kind} task and {part.name!r} a {part.kind} task; a mixture "
                "is of tasks of one kind"
            )
        if part.ranking != first.ranking:
            raise BadInput(
                f"task {name!r}: {first.name!r} ranks candidates by {first.ranking} and {part.name!r} by "
                f"{part.ranking}; a mixture is of tasks that rank alike"
            )
    categories = {part.category for part in parts}
    most = max(len(part.labels) for part in parts)
    metrics = list(dict.fromkeys(part.metric for part in parts))
    return Task(
        name=name,
        category=mix.category or (categories.pop() if len(categories) == 1 else "mixture"),
        kind=first.kind,
        metric=metrics[0] if len(parts) == 1 else f"mean of {', '.join(metrics)}",
        read=Mixed(parts, tuple(mix.mix.values()), mix.sampling, mix.temperature),
        verbalizer={str(k): str(k) for k in range(most)},
        source="; ".join(part.source for part in parts if part.source),
        licence="; ".join(dict.fromkeys(part.licence for part in parts if part.licence)),
        verified=all(part.verified for part in parts),
        ranking=first.ranking,
        parts=parts,
    )


def joined_name(tasks: tuple[str, ...]) -> str:
    """The name of the proportional mixture of some tasks: their names joined by ` + `.

    Raises:
        BadInput: a name has ` + ` in itself.
    """
    for task in tasks:
        if JOINED in task:
            raise BadInput(f"task {quoted(task)} has {JOINED!r} in its name and cannot be part of a cluster; rename it")
    return JOINED.join(tasks)


def mix_of_name(name: str) -> Mix | None:
    """The mixture that a joined name stands for; None of a name that is not joined."""
    tasks = name.split(JOINED)
    return Mix(dict.fromkeys(tasks, 1.0)) if len(tasks) > 1 else None


def _part(name: str, part: str, find: Callable[[str], Task]) -> Task:
    task = find(part)
    if task.parts:
        raise BadInput(f"task {name!r}: {part!r} is a mixture itself; name the tasks that it is made of")
    return task
