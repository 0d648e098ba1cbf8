"""An encoder ranks candidate answers by how alike their states are to the input's."""

from __future__ import annotations

from collections.abc import Hashable, Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from deltacompose.errors import BadInput
from deltacompose.scoring.rows import Batch, Reader, Row, repeated

TEMPERATURE = 20.0
"""Scale of an encoder's cosines; fixed, so that it is not part of what is learned (Reimers & Gurevych 2019)."""


class EncoderReader(Reader):
    """Ranks candidates by the cosine of mean-pooled states, times `TEMPERATURE`."""

    def answer_tokens(self, text: str) -> tuple[int, ...]:
        return self.input_tokens(text)

    def lengths(self, row: Row) -> tuple[int, int]:
        if not row.candidates:
            raise BadInput(
                f"{self.backbone.name} is an encoder, which ranks candidates; task {self.task.name!r} is a generation "
                "task and needs a decoder or an encoder-decoder, or a verbalizer with the words of its labels"
            )
        return len(row.input), max(map(len, row.candidates))

    def kind(self, split: str, indices: Sequence[int]) -> Hashable:
        rows = [self.rows(split)[index] for index in indices]
        shared = all(row.candidates == rows[0].candidates for row in rows)
        return len(rows), len(rows[0].candidates), shared

    def tokens(self, rows: Sequence[Row]) -> int:
        shared = all(row.candidates == rows[0].candidates for row in rows)
        read = rows[:1] if shared else rows
        return sum(len(row.input) for row in rows) + sum(len(c) for row in read for c in row.candidates)

    def collate(self, rows: Sequence[Row], lengths: tuple[int, int]) -> Batch:
        """`input` `(rows, tokens)`; `candidates` once where all rows have the same, else for every row."""
        shared = all(row.candidates == rows[0].candidates for row in rows)
        candidates = [c for row in rows[: 1 if shared else None] for c in row.candidates]
        inputs = [row.input for row in rows]
        return {
            "input": self._tensor(inputs, lengths[0], self._pad),
            "mask": self._mask(inputs, lengths[0]),
            "candidates": self._tensor(candidates, lengths[1], self._pad),
            "candidates_mask": self._mask(candidates, lengths[1]),
            "label": torch.tensor([row.label for row in rows], device=self.backbone.model.device),
            "count": torch.tensor([len(rows[0].candidates)]),
        }

    def loss(self, batch: Batch, deltas: int) -> Tensor:
        scores, labels = self._scores(batch, deltas), batch["label"].view(deltas, -1)
        each = F.cross_entropy(scores.flatten(0, 1), labels.flatten(), reduction="none")
        return each.view(deltas, -1).mean(1)

    def scores(self, rows: Sequence[Row], deltas: int = 1) -> Tensor:
        lengths = max(len(row.input) for row in rows), max(len(c) for row in rows for c in row.candidates)
        return self._scores(repeated(self.collate(rows, lengths), deltas), deltas).flatten(0, 1)

    def logits(self, batch: Batch) -> Tensor:
        raise BadInput(f"{self.backbone.name} is an encoder and draws no tokens, as task {self.task.name!r} asks")

    def features(self, rows: Sequence[Row]) -> Tensor:
        inputs = [row.input for row in rows]
        longest = max(map(len, inputs))
        return self._pooled(self._tensor(inputs, longest, self._pad), self._mask(inputs, longest))

    def generate(self, rows: Sequence[Row], tokens: int, deltas: int = 1) -> list[str]:
        raise BadInput(f"{self.backbone.name} is an encoder and cannot generate, as task {self.task.name!r} asks")

    def _scores(self, batch: Batch, deltas: int) -> Tensor:
        """`(deltas, rows, candidates)`."""
        inputs = self._pooled(batch["input"], batch["mask"]).unflatten(0, (deltas, -1))
        candidates = self._pooled(batch["candidates"], batch["candidates_mask"]).unflatten(0, (deltas, -1))
        if candidates.shape[1] == int(batch["count"][0]):
            return TEMPERATURE * inputs @ candidates.mT  # type: ignore[no-any-return]
        own = candidates.unflatten(1, (inputs.shape[1], -1))
        return TEMPERATURE * (own @ inputs[..., None]).squeeze(-1)  # type: ignore[no-any-return]

    def _pooled(self, ids: Tensor, mask: Tensor) -> Tensor:
        """Unit vectors `(rows, width)`: the mean of the states of all tokens that are not padding."""
        if self._mixes_padding and not bool(mask.all()):
            return self._without_padding(mask, lambda rows, n: self._pooled(ids[rows, :n], mask[rows, :n]))
        states = self.backbone.model(input_ids=ids, attention_mask=mask).last_hidden_state.float()
        pooled = F.normalize((states * mask[..., None]).sum(1) / mask.sum(1, keepdim=True), dim=-1)
        if pooled.requires_grad:
            pooled.register_hook(Tensor.contiguous)  # of one delta it comes as a view, whose sums round otherwise
        return pooled
