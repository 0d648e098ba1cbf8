"""The facts of a backbone, its tasks and its compositions that a plan is made from."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from deltacompose.planning.flops import DeltaShape, Lengths, Shape
from deltacompose.study.config import KEYS
from deltacompose.task.mixed_rows import Mixed, fingerprint_of
from deltacompose.task.mixture import mix_of_name


@dataclass(frozen=True)
class TaskFacts:
    """Facts of a task for the plan: the fingerprint, number and lengths in tokens of its examples."""

    fingerprint: str
    category: str
    rows: Mapping[str, int]
    lengths: Lengths


@dataclass(frozen=True)
class Facts:
    """Facts of the backbone and the tasks of a study for its plan and, for costs, of its compositions by text.

    Attributes:
        fingerprint: the digest by which keys name the backbone: of its content; of its rounded weights in version 1.
        needs: the arrays that the study's similarity measures need.
        implementations: digests of the methods' code by name; version 1 has none.
        version: of the cells' keys.
        absent: why the digest of the backbone is not known, so that keys are not final; "" where it is known.
    """

    fingerprint: str
    shape: Shape
    tasks: Mapping[str, TaskFacts]
    deltas: Mapping[str, DeltaShape] = field(default_factory=dict)
    needs: tuple[str, ...] = ()
    implementations: Mapping[str, str] = field(default_factory=dict)
    version: int = KEYS
    absent: str = ""

    def of(self, task: str) -> TaskFacts:
        """The facts of a task, or of a mixture that a joined name stands for."""
        return facts_of(self.tasks, task)


def facts_of(tasks: Mapping[str, TaskFacts], name: str) -> TaskFacts:
    """The facts of a task by name; of a joined name (`a + b`) those of the mixture, from its tasks'."""
    mix = None if name in tasks else mix_of_name(name)
    if mix is None:
        return tasks[name]
    parts = {part: tasks[part] for part in mix.mix}
    how = Mixed((), tuple(mix.mix.values()), mix.sampling, mix.temperature)
    longest = max(parts.values(), key=lambda own: own.lengths.padded)
    return TaskFacts(
        fingerprint_of(how, [(part, own.fingerprint) for part, own in parts.items()]),
        "mixture",
        {split: sum(own.rows[split] for own in parts.values()) for split in longest.rows},
        longest.lengths,
    )
