"""Examples, and readers that draw fewer of them.

The draw depends only on the seed and on each example's id, so fewer rows are always among the more.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice, zip_longest

from deltacompose.errors import BadInput

SPLITS = ("train", "val", "test")


@dataclass(frozen=True)
class Example:
    """One example: its input as bare text, and its target, a label (choice) or a text (generation).

    Attributes:
        id: unlike that of any other example of the task.
        candidates: the words to rank where they differ from example to example; they stand for the task's first labels.
        accepted: further answers that count as right besides the target (generation).
        columns: named parts of the input, which a template may ask for.
        messages: the turns of a conversation before the answer, each a role and a text, the last one a user's. A
            backbone that chats reads them in place of the input, which has the same turns as one text.
    """

    id: str
    input: str
    target: str
    candidates: tuple[str, ...] = ()
    accepted: tuple[str, ...] = ()
    columns: Mapping[str, str] = field(default_factory=dict, hash=False)
    messages: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True)
class FewShot:
    """Reads a task's examples, `shots` per label (choice) or in total (generation), but the test split whole."""

    name: str
    labels: tuple[str, ...]
    read: Callable[[str], tuple[Example, ...]]
    shots: int
    seed: int

    def __post_init__(self) -> None:
        if self.shots < 1:
            raise BadInput(f"{self.shots} shots; there must be at least one")

    def __call__(self, split: str) -> tuple[Example, ...]:
        examples = self.read(split)
        if split == "test":
            return examples
        groups = _by_label(self.labels, shuffled(examples, self.seed))
        if split == "train":
            for label in self.labels or ("",):
                self._check(label, len(groups.get(label, ())))
        return _in_order(examples, (example for group in groups.values() for example in group[: self.shots]))

    def _check(self, label: str, available: int) -> None:
        if available < self.shots:
            of = f" of label {label!r}" if label else ""
            raise BadInput(f"task {self.name!r} has {available} training examples{of}, fewer than {self.shots} shots")


@dataclass(frozen=True)
class Limited:
    """Reads at most `rows` examples of a task's (train, val, test), evenly over labels as far as there are enough."""

    labels: tuple[str, ...]
    read: Callable[[str], tuple[Example, ...]]
    rows: tuple[int | None, int | None, int | None]
    seed: int

    def __post_init__(self) -> None:
        for split, rows in zip(SPLITS, self.rows, strict=True):
            if rows is not None and rows < 1:
                raise BadInput(f"{split} limited to {rows} rows; a limit is at least 1, or none")

    def __call__(self, split: str) -> tuple[Example, ...]:
        examples = self.read(split)
        rows = self.rows[SPLITS.index(split)]
        if rows is None or rows >= len(examples):
            return examples
        groups = _by_label(self.labels, shuffled(examples, self.seed))
        in_turn = (example for turn in zip_longest(*groups.values()) for example in turn if example is not None)
        return _in_order(examples, islice(in_turn, rows))


def shuffled(examples: Sequence[Example], seed: int) -> list[Example]:
    """Examples in an order that depends on the seed and each id only, so that fewer rows are among the more."""
    return sorted(examples, key=lambda example: hashlib.sha256(f"{seed} {example.id}".encode()).digest())


def _by_label(labels: tuple[str, ...], examples: Sequence[Example]) -> dict[str, list[Example]]:
    """Examples by label in the labels' order (choice), or all of them together (generation)."""
    groups: dict[str, list[Example]] = {label: [] for label in labels or ("",)}
    for example in examples:
        groups[example.target if labels else ""].append(example)
    return groups


def _in_order(examples: Sequence[Example], drawn: Iterable[Example]) -> tuple[Example, ...]:
    kept = {example.id for example in drawn}
    return tuple(example for example in examples if example.id in kept)
