"""A task by its name: one that a study describes, a mixture, or an installed one."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from deltacompose.task.build import task_from_mapping
from deltacompose.task.mixture import is_mixture, mix_from_mapping, mix_of_name, mixture
from deltacompose.task.task import Task


def named_task(
    name: str,
    own_tasks: Mapping[str, Mapping[str, Any]],
    folder: str | Path,
    installed: Callable[[str], Task],
) -> Task:
    """The task of a name.

    Args:
        own_tasks: descriptions of a study's own tasks, mixtures among them, by name.
        folder: of the study's file, which relative paths are relative to.
        installed: gives an installed task by name.

    Raises:
        BadInput: no such task, or a description that is not valid.
    """

    def find(part: str) -> Task:
        described = own_tasks.get(part)
        if described is not None and not is_mixture(described):
            return task_from_mapping(part, described, folder)
        if described is not None:
            return mixture(part, mix_from_mapping(part, described), find)
        mix = mix_of_name(part)
        return installed(part) if mix is None else mixture(part, mix, find)

    return find(name)
