"""The examples of several tasks read as those of one, each as its own task puts it."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal, Protocol

from deltacompose.errors import BadInput
from deltacompose.task.examples import Example, shuffled

Sampling = Literal["proportional", "equal", "temperature"]
PART = "part"
"""The column that names the task of a mixture's example."""


class MixedTask(Protocol):
    """A task of a mixture, as far as the mixture reads it."""

    @property
    def name(self) -> str:
        """The task's name."""
        ...

    @property
    def kind(self) -> str:
        """`choice` or `generation`."""
        ...

    @property
    def labels(self) -> tuple[str, ...]:
        """The labels of a choice task, in a fixed order."""
        ...

    def examples(self, split: str) -> tuple[Example, ...]: ...

    def text(self, example: Example) -> str: ...

    def options(self, example: Example) -> tuple[str, ...]: ...


@dataclass(frozen=True)
class Mixed:
    """Reads the examples of several tasks, in their order; training rows in the shares that a sampling asks for.

    A share is wₖ nₖ (`proportional`), wₖ (`equal`) or wₖ nₖ^(1/T) (`temperature`; Raffel et al. 2020, arXiv 1910.10683,
    section 3.5.2), nₖ being a task's training rows. There are as many rows as the tasks have together; a task whose
    share is larger than its rows has them several times, one whose share is smaller the same ones each time.

    Attributes:
        names: of the tasks.
        weights: w, above zero.
    """

    parts: tuple[MixedTask, ...]
    weights: tuple[float, ...]
    sampling: Sampling = "proportional"
    temperature: float = 2.0

    def __call__(self, split: str) -> tuple[Example, ...]:
        rows = [part.examples(split) for part in self.parts]
        counts = self.counts(list(map(len, rows))) if split == "train" else list(map(len, rows))
        return tuple(
            _as_mixed(part, example, again)
            for part, own, count in zip(self.parts, rows, counts, strict=True)
            for example, again in _drawn(own, count)
        )

    def counts(self, rows: Sequence[int]) -> list[int]:
        """How many training rows each task has in the mixture, from those that it has alone."""
        power = {"proportional": 1.0, "equal": 0.0, "temperature": 1 / self.temperature}[self.sampling]
        shares = [weight * count**power for weight, count in zip(self.weights, rows, strict=True)]
        return [max(1, round(sum(rows) * share / sum(shares))) for share in shares]

    def of(self, parts: tuple[MixedTask, ...]) -> Mixed:
        """The same mixture of other versions of its tasks."""
        return replace(self, parts=parts)


def fingerprint_of(how: Mixed, parts: Sequence[tuple[str, str]]) -> str:
    """SHA-256 (hex) of a mixture, from the names and fingerprints of its tasks and their shares."""
    content = ["mixture", how.weights, how.sampling, how.temperature, parts]
    return hashlib.sha256(json.dumps(content, ensure_ascii=False, separators=(",", ":")).encode()).hexdigest()


def part_of(example: Example) -> str:
    """The name of the task that a mixture has an example from.

    Raises:
        BadInput: it is not an example of a mixture.
    """
    if PART not in example.columns:
        raise BadInput(f"example {example.id!r} is of no mixture of tasks")
    return example.columns[PART]


def _as_mixed(part: MixedTask, example: Example, again: int) -> Example:
    """An example as its own task puts it: input in its template, its own words to rank, its label by number."""
    name = f"{part.name}/{example.id}" + (f"#{again}" if again else "")
    target = example.target if part.kind == "generation" else str(part.labels.index(example.target))
    candidates = () if part.kind == "generation" else part.options(example)
    return Example(name, part.text(example), target, candidates, example.accepted, {PART: part.name})


def _drawn(rows: tuple[Example, ...], count: int) -> list[tuple[Example, int]]:
    """So many rows with how often each was there before: all of them in turn, the last time some."""
    turns, rest = divmod(count, len(rows))
    chosen = {example.id for example in shuffled(rows, 0)[:rest]}
    whole = [(example, turn) for turn in range(turns) for example in rows]
    return whole + [(example, turns) for example in rows if example.id in chosen]
