"""Common part of all readers: examples become rows of tokens, and rows batches of tensors."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from deltacompose.backbone.backbone import Backbone, evaluating
from deltacompose.distributed import ALONE, ProcessGroup
from deltacompose.errors import BadInput, Diverged
from deltacompose.task.task import Example, Task

Batch = Mapping[str, Tensor]

IGNORED = -100
"""In place of a token where there is none."""


@dataclass(frozen=True)
class Row:
    """One example in tokens: its input, its answer, and the candidates it ranks with the right one's index.

    Attributes:
        sizes: bytes of each candidate's text, where the task ranks by `bytes`.
        empty: the input of an example that says nothing, where the task ranks by `pmi`.
    """

    input: tuple[int, ...]
    answer: tuple[int, ...]
    candidates: tuple[tuple[int, ...], ...] = ()
    label: int = -1
    sizes: tuple[int, ...] = ()
    empty: tuple[int, ...] = ()


def encoded(tokenizer: Any, text: str) -> list[int]:
    """A text's tokens with those that the tokenizer puts around it, each once.

    A template may write them too, as `<s> {input} </s>` for RoBERTa, which would put two at either end.
    """
    ids: list[int] = list(tokenizer(text, verbose=False)["input_ids"])
    around = tokenizer("", verbose=False)["input_ids"] if len(ids) > 1 and (_twice(ids) or _twice(ids[::-1])) else ()
    if _twice(ids) and ids[0] in around:
        ids = ids[1:]
    return ids[:-1] if _twice(ids[::-1]) and ids[-1] in around else ids


def _twice(ids: Sequence[int]) -> bool:
    return len(ids) > 1 and ids[0] == ids[1]


def continuation(tokenizer: Any, text: str) -> tuple[int, ...]:
    """A text's tokens as they follow other text, without special tokens."""
    before = tokenizer("x", add_special_tokens=False)["input_ids"]
    joined = tokenizer(f"x {text}", add_special_tokens=False)["input_ids"]
    if joined[: len(before)] == before:
        return tuple(joined[len(before) :])
    return tuple(tokenizer(text, add_special_tokens=False)["input_ids"])


def highest(scores: Tensor) -> list[int]:
    """For each row of `(rows, candidates)` the index of the highest score, the first of equals.

    Raises:
        Diverged: a score is NaN, so that no candidate is the highest.
    """
    if bool(torch.isnan(scores).any()):
        raise Diverged("the scores of candidates are not numbers")
    return scores.argmax(-1).tolist()


def repeated(batch: Batch, deltas: int) -> Batch:
    """A batch for each of a bank's deltas, one after another along the first axis of each tensor."""
    if deltas == 1:
        return batch
    return {name: x.repeat(deltas, *(1 for _ in x.shape[1:])) for name, x in batch.items()}


class Reader(ABC):
    """One task as one backbone reads it.

    Args:
        limit: the longest input in tokens; longer ones lose their middle.

    Attributes:
        known: rows of examples by the example's identity. Readers of one task at one limit, which differ in the choice
            of examples alone, may share it: each example is then put into tokens once.
    """

    def __init__(self, backbone: Backbone, task: Task, limit: int = 128) -> None:
        self.known: dict[int, tuple[Example, Row]] = {}
        if backbone.tokenizer is None:
            raise BadInput(f"{backbone.name} has no tokenizer; give one to load_backbone(model, tokenizer)")
        longest = backbone.stream(backbone.streams[0]).limit
        if longest is not None and limit > longest:
            raise BadInput(f"limit={limit} tokens of input, and {backbone.name} has positions for {longest}")
        self.backbone, self.task, self.limit = backbone, task, limit
        self._mixes_padding = backbone.mixes_padding  # found now: while a bank is attached, rows come in groups
        self._rows: dict[str, list[Row]] = {}

    def rows(self, split: str) -> list[Row]:
        """The examples of a split in tokens; read once."""
        if split not in self._rows:
            self._rows[split] = [self._known(example) for example in self.task.examples(split)]
        return self._rows[split]

    def _known(self, example: Example) -> Row:
        """The row of an example, from `known` if the same object was read before."""
        if id(example) not in self.known:
            # The example is kept with its row, so that its identity is not given to another one.
            self.known[id(example)] = example, self._row(example)
        return self.known[id(example)][1]

    def batch(self, split: str, indices: Sequence[int], lengths: tuple[int, int]) -> Batch:
        """Rows of a split as tensors, padded to `lengths` of input and answer.

        A bank's batch is the batches of its deltas joined along the first axis of each tensor.
        """
        return self.collate([self.rows(split)[index] for index in indices], lengths)

    def kind(self, split: str, indices: Sequence[int]) -> Hashable:
        """Equals that of other rows, also of another task, with which these can be joined at one padded length."""
        return len(indices)

    @abstractmethod
    def lengths(self, row: Row) -> tuple[int, int]:
        """How many tokens of input and of answer a row needs."""

    @abstractmethod
    def collate(self, rows: Sequence[Row], lengths: tuple[int, int]) -> Batch: ...

    @abstractmethod
    def loss(self, batch: Batch, deltas: int) -> Tensor:
        """The mean loss of each delta's rows, `(deltas,)`."""

    def tokens(self, rows: Sequence[Row]) -> int:
        """How many tokens a batch of rows has, without padding."""
        return sum(len(row.input) + len(row.answer) for row in rows)

    def units(self, row: Row) -> int:
        """How much a row counts in the mean loss of a batch: what the mean is taken over."""
        return 1

    @abstractmethod
    def scores(self, rows: Sequence[Row], deltas: int = 1) -> Tensor:
        """For rows of equally many candidates what they are ranked by: log p(candidate|input) but for a constant of the
        row.

        Args:
            deltas: how many deltas are attached as a bank; each reads all rows.

        Returns:
            `(deltas · rows, candidates)`, one delta after another.
        """

    @abstractmethod
    def logits(self, batch: Batch) -> Tensor:
        """For each answer token of a batch the logits it is drawn from, `(rows, tokens, vocabulary)`."""

    @abstractmethod
    def features(self, rows: Sequence[Row]) -> Tensor:
        """The mean of the last states of each input's tokens, `(rows, width)`."""

    def rank(self, rows: Sequence[Row], deltas: int = 1) -> list[int]:
        """For rows of equally many candidates, the index of the one that the backbone puts first; for each delta."""
        return highest(self.scores(rows, deltas))

    @abstractmethod
    def generate(self, rows: Sequence[Row], tokens: int, deltas: int = 1) -> list[str]:
        """The text of at most so many tokens that the backbone gives for each row; for each delta."""

    def predict(self, split: str, budget: int = 4096, processes: ProcessGroup = ALONE) -> list[str]:
        """A prediction for every example of a split, in its order: a label, or a text.

        Args:
            budget: how many tokens to hold at once; it bounds memory and changes no prediction.
            processes: the processes that share the examples; all of them call this, and each is given all predictions.

        Raises:
            Diverged: the backbone's numbers, in any of the processes, are none.
        """
        return self.predict_each(split, 1, budget, processes)[0]

    def predict_each(
        self, split: str, deltas: int, budget: int = 4096, processes: ProcessGroup = ALONE
    ) -> list[list[str]]:
        """The predictions of each of the deltas that are attached as a bank; see `predict`.

        Args:
            budget: how many tokens to hold at once, those of all deltas.
        """
        rows, own, failure = self.rows(split), [], ""
        with torch.no_grad(), evaluating(self.backbone.model):
            for chunk in _chunks(rows, budget * processes.size // deltas):
                share = processes.share(chunk)
                # A process without a share passes over an example all the same: the others may need its shards.
                read = [rows[i] for i in share or chunk[:1]]
                try:
                    predicted = self._predicted(read, deltas)
                except Diverged as error:
                    if processes.size == 1:
                        raise
                    failure = failure or str(error)  # to be raised when all have made all their passes
                    continue
                of_deltas = [predicted[k * len(read) : (k + 1) * len(read)] for k in range(deltas)]
                own += [(i, [each[at] for each in of_deltas]) for at, i in enumerate(share)]
        predictions = [[""] * len(rows) for _ in range(deltas)]
        for theirs, reported in processes.gathered([own, failure], self.backbone.model.device):
            if reported:
                raise Diverged(reported)
            for i, of_row in theirs:
                for each, prediction in zip(predictions, of_row, strict=True):
                    each[i] = prediction
        return predictions

    def _predicted(self, rows: Sequence[Row], deltas: int) -> list[str]:
        if self.task.kind == "choice":
            return [self.task.labels[k] for k in self.rank(rows, deltas)]
        return self.generate(rows, self._longest, deltas)

    @property
    def _longest(self) -> int:
        """The most tokens that an answer may have: those of the longest answer that is known before the test."""
        return max(len(row.answer) for split in ("train", "val") for row in self.rows(split))

    def _row(self, example: Example) -> Row:
        candidates: tuple[tuple[int, ...], ...] = ()
        label = -1
        if self.task.kind == "choice":
            candidates = tuple(map(self.answer_tokens, self.task.options(example)))
            label = self.task.labels.index(example.target)
        return Row(self.example_tokens(example), self.answer_tokens(self.task.answer(example)), candidates, label)

    def example_tokens(self, example: Example) -> tuple[int, ...]:
        """The tokens of an example's input in the task's template."""
        return self.input_tokens(self.task.text(example))

    def input_tokens(self, text: str) -> tuple[int, ...]:
        """A text's tokens; of one that is too long the middle is cut out, for templates end in what they ask."""
        ids = encoded(self.backbone.tokenizer, text)
        end = self.limit // 2
        return tuple(ids if len(ids) <= self.limit else [*ids[: self.limit - end], *ids[len(ids) - end :]])

    @abstractmethod
    def answer_tokens(self, text: str) -> tuple[int, ...]: ...

    @property
    def _pad(self) -> int:
        pad = self.backbone.tokenizer.pad_token_id
        return 0 if pad is None else pad

    def _without_padding(self, mask: Tensor, read: Callable[[Tensor, int], Tensor]) -> Tensor:
        """`read(rows, length)` of the rows of each length apart, `(rows, ...)`, joined in the order of the rows.

        For backbones whose tokens see the padding of a batch: a text's score must not depend on its neighbours'.
        """
        lengths = mask.sum(1)
        groups = [(int(n), (lengths == n).nonzero().flatten()) for n in lengths.unique().tolist()]
        joined = torch.cat([read(rows, n) for n, rows in groups])
        return joined[torch.cat([rows for _, rows in groups]).argsort()]

    def _tensor(self, rows: Sequence[Sequence[int]], length: int, fill: int, side: str = "right") -> Tensor:
        """`(rows, length)`, filled up on one side."""
        padded = [
            [*row, *[fill] * (length - len(row))] if side == "right" else [*[fill] * (length - len(row)), *row]
            for row in rows
        ]
        return torch.tensor(padded, device=self.backbone.model.device)

    def _mask(self, rows: Sequence[Sequence[int]], length: int, side: str = "right") -> Tensor:
        return self._tensor([[1] * len(row) for row in rows], length, 0, side)


def _chunks(rows: Sequence[Row], budget: int) -> Iterator[list[int]]:
    """Indices of rows in chunks of similar length and equally many candidates, within a budget of tokens."""
    order = sorted(range(len(rows)), key=lambda i: (len(rows[i].candidates), len(rows[i].input), i))
    chunk: list[int] = []
    for i in order:
        cost = len(rows[i].input) + sum(map(len, rows[i].candidates))
        full = chunk and (len(chunk) + 1) * cost > budget
        if full or (chunk and len(rows[chunk[0]].candidates) != len(rows[i].candidates)):
            yield chunk
            chunk = []
        chunk.append(i)
    if chunk:
        yield chunk
