"""Which examples of its tasks a cell reads, and how: the part that the specs of most kinds of cell share."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Self

from deltacompose.task.task import Task


@dataclass(frozen=True)
class Cut:
    """Which examples of a task a cell reads.

    Attributes:
        rows: the most of each split, `train`, `val`, `test`; None for all.
        shots: examples per class, drawn by `seed`; None for all.
    """

    rows: tuple[int | None, int | None, int | None] = (None, None, None)
    shots: int | None = None
    seed: int = 0

    def of(self, task: Task) -> Task:
        """The task cut to these examples."""
        train, val, test = self.rows
        task = task.limited(train=train, val=val, test=test)
        return task if self.shots is None else task.few_shot(self.shots, self.seed)


@dataclass(frozen=True)
class TaskData:
    """How a cell reads the examples of the tasks that its spec names.

    Attributes:
        fingerprints: of the examples of each task, by the task's name.
        template: whether inputs are put into the tasks' templates.
        limit: the longest input in tokens; None in a cell that reads no tokens.
        ranking: the study's rule for candidates.
    """

    fingerprints: tuple[tuple[str, str], ...]
    cut: Cut
    template: bool
    limit: int | None = None
    ranking: str = "sum"

    @classmethod
    def of(cls, spec: Mapping[str, Any]) -> Self:
        """The data that a cell's spec names.

        The fingerprint in `data` is that of the target, else of the task, else of the source; `source_data` is that of
        a source as well as a target. A cell of many tasks has a mapping of fingerprints.
        """
        data, rows = spec["data"], spec["rows"]
        if isinstance(data, Mapping):
            fingerprints = dict(data)
        else:
            fingerprints = {spec["source"]: spec["source_data"]} if "source_data" in spec else {}
            fingerprints[spec.get("target") or spec.get("task") or spec["source"]] = data
        few = {} if spec["shots"] is None else {"shots": spec["shots"], "seed": spec.get("seed", 0)}
        cut = Cut((rows["train"], rows["val"], rows["test"]), **few)
        limit = spec["limit"] if "limit" in spec else spec.get("recipe", {}).get("limit")
        ranking = spec.get("ranking", "sum")
        return cls(tuple(sorted(fingerprints.items())), cut, spec["template"], limit, ranking)

    def fingerprint(self, task: str) -> str:
        """The fingerprint of a task's examples.

        Raises:
            KeyError: the spec does not name the task's data.
        """
        return dict(self.fingerprints)[task]

    def drawn_by(self, seed: int) -> Self:
        """The same, with few-shot examples drawn by another seed."""
        return replace(self, cut=replace(self.cut, seed=seed if self.cut.shots is not None else 0))
