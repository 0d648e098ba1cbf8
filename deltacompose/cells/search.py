"""Cells of kind `search`: which d a search for the intrinsic dimension tries next."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self

from deltacompose.analysis.subspace.intrinsic_dimension import searched
from deltacompose.cells.loaded import task_as_read
from deltacompose.cells.task_data import TaskData
from deltacompose.cells.worker_sources import OwnTasks, Sources
from deltacompose.store.store import Store
from deltacompose.study.config import Cell


@dataclass(frozen=True)
class SearchSpec:
    """Spec of a search cell for its task; `searched` reads the settings of the search."""

    task: str
    data: TaskData

    @classmethod
    def of(cls, spec: Mapping[str, Any]) -> Self:
        """The spec of a cell, from plain data."""
        return cls(spec["task"], TaskData.of(spec))


def carry(store: Store, cells: Sequence[Cell], sources: Sources) -> None:
    """Reads off the trainings so far which d a search needs next."""
    for cell in cells:
        parents = [store.record(parent) for parent in cell.parents]
        seeds = sorted({record["spec"]["seed"] for record in parents})
        chance = chance_of(SearchSpec.of(cell.spec), seeds, sources.own_tasks)
        store.add(cell, searched(cell.spec, parents, None if math.isnan(chance) else chance))


def chance_of(spec: SearchSpec, seeds: Sequence[int], own: OwnTasks) -> float:
    """Chance on the development split; with few shots, which each seed draws anew, the mean over the seeds."""
    drawn = [spec.data.drawn_by(seed) for seed in (seeds if spec.data.cut.shots is not None else [0])]
    return sum(task_as_read(data, spec.task, own).chance("val") for data in drawn) / len(drawn)
