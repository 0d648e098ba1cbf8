"""An encoder with a masked-language head ranks candidate answers by how well they fill a mask in the input."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from deltacompose.backbone.backbone import Backbone
from deltacompose.errors import BadInput
from deltacompose.scoring.rows import IGNORED, Batch, Reader, Row, continuation, encoded, repeated
from deltacompose.task.examples import Example
from deltacompose.task.task import Task

MASK = "<mask>"
"""How a template says where the answer stands, whatever the backbone's own mask token looks like."""

_HERE = "\ue000"
"""A character for private use, which stands in a text for the template's mask while the text is put together."""


class MaskedReader(Reader):
    """Ranks candidates by their tokens' mean log-probability, each token at a mask of its own.

    After Schick and Schütze 2021, arXiv 2001.07676, and Gao et al. 2021, arXiv 2012.15723. Where all candidates are of
    one token, there is one mask. Else there are as many as the longest candidate of the example has tokens; a shorter
    one is read at the first of them, and the mean over its tokens gives no candidate an advantage by its length. The
    tokens of one candidate are independent of each other given the input, so one pass ranks all.

    The masks stand where the template says `<mask>`, else at the end. Where an input is too long, they are not cut.
    """

    def __init__(self, backbone: Backbone, task: Task, limit: int = 128) -> None:
        super().__init__(backbone, task, limit)
        if backbone.tokenizer.mask_token is None:
            raise BadInput(f"the tokenizer of {backbone.name} has no mask token, at which its head could be asked")
        if task.template.count(MASK) > 1:
            raise BadInput(f"task {task.name!r}: the template has {MASK} twice; an answer stands in one place")
        self._marked = replace(task, template=task.template.replace(MASK, _HERE))
        self._head = _head(backbone)

    def answer_tokens(self, text: str) -> tuple[int, ...]:
        return continuation(self.backbone.tokenizer, text)

    def lengths(self, row: Row) -> tuple[int, int]:
        if not row.candidates:
            raise BadInput(
                f"{self.backbone.name} has a masked-language head, which ranks candidates; task {self.task.name!r} is "
                "a generation task and needs a decoder or an encoder-decoder"
            )
        return len(row.input), max(map(len, row.candidates))

    def collate(self, rows: Sequence[Row], lengths: tuple[int, int]) -> Batch:
        """`input` `(rows, tokens)`; `slots` `(rows, masks)`, where they stand; `words` `(rows, candidates, masks)`."""
        inputs = [row.input for row in rows]
        most = max(len(row.candidates) for row in rows)
        words = [c for row in rows for c in (*row.candidates, *[()] * (most - len(row.candidates)))]
        mask = self.backbone.tokenizer.mask_token_id
        slots = [[at for at, token in enumerate(row.input) if token == mask] for row in rows]
        return {
            "input": self._tensor(inputs, lengths[0], self._pad),
            "mask": self._mask(inputs, lengths[0]),
            "slots": self._tensor(slots, lengths[1], 0),
            "words": self._tensor(words, lengths[1], IGNORED).unflatten(0, (len(rows), most)),
            "label": torch.tensor([row.label for row in rows], device=self.backbone.model.device),
        }

    def loss(self, batch: Batch, deltas: int) -> Tensor:
        each = F.cross_entropy(self._scores(batch), batch["label"], reduction="none")
        return each.view(deltas, -1).mean(1)

    def scores(self, rows: Sequence[Row], deltas: int = 1) -> Tensor:
        return self._scores(repeated(self._together(rows), deltas))

    def logits(self, batch: Batch) -> Tensor:
        """At the masks `(rows, masks, vocabulary)`; the head is asked nowhere else."""
        if self._mixes_padding and not bool(batch["mask"].all()):

            def alone(rows: Tensor, n: int) -> Tensor:
                own = {"input": batch["input"][rows, :n], "mask": batch["mask"][rows, :n]}
                return self.logits({**own, "slots": batch["slots"][rows]})

            return self._without_padding(batch["mask"], alone)

        def at_masks(module: nn.Module, args: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
            states, *rest = args
            return (states.gather(1, batch["slots"][..., None].expand(-1, -1, states.shape[-1])), *rest)

        handle = self._head.register_forward_pre_hook(at_masks, prepend=True)
        try:
            output = self.backbone.model(input_ids=batch["input"], attention_mask=batch["mask"])
        finally:
            handle.remove()
        if "logits" not in output:
            raise BadInput(
                f"cannot read tasks with {type(self.backbone.model).__name__} because it gives no logits of a masked-"
                f"language head alone (found {', '.join(output)}); load it with transformers.AutoModelForMaskedLM"
            )
        return output.logits  # type: ignore[no-any-return]

    def features(self, rows: Sequence[Row]) -> Tensor:
        batch = self._together(rows)
        return self._pooled(batch["input"], batch["mask"])

    def _pooled(self, ids: Tensor, mask: Tensor) -> Tensor:
        """The mean state of each row's tokens, `(rows, width)`."""
        if self._mixes_padding and not bool(mask.all()):
            return self._without_padding(mask, lambda rows, n: self._pooled(ids[rows, :n], mask[rows, :n]))
        states = self.backbone.model.base_model(input_ids=ids, attention_mask=mask).last_hidden_state.float()
        return (states * mask[..., None]).sum(1) / mask.sum(1, keepdim=True)  # type: ignore[no-any-return]

    def generate(self, rows: Sequence[Row], tokens: int, deltas: int = 1) -> list[str]:
        raise BadInput(f"{self.backbone.name} is an encoder and cannot generate, as task {self.task.name!r} asks")

    def _together(self, rows: Sequence[Row]) -> Batch:
        lengths = [self.lengths(row) for row in rows]
        return self.collate(rows, (max(a for a, _ in lengths), max(b for _, b in lengths)))

    def _scores(self, batch: Batch) -> Tensor:
        """`(rows, candidates)`; minus infinity where a row has fewer candidates."""
        words, known = batch["words"], batch["words"] != IGNORED
        log_p = F.log_softmax(self.logits(batch).float(), -1)[:, None].expand(-1, words.shape[1], -1, -1)
        word_log_p = log_p.gather(-1, words.clamp(min=0)[..., None]).squeeze(-1)
        means = (word_log_p * known).sum(-1) / known.sum(-1).clamp(min=1)
        return means.masked_fill(~known.any(-1), -torch.inf)

    def _row(self, example: Example) -> Row:
        candidates = tuple(map(self.answer_tokens, self.task.options(example))) if self.task.kind == "choice" else ()
        label = self.task.labels.index(example.target) if candidates else -1
        answer = self.answer_tokens(self.task.answer(example))
        masks = max(map(len, candidates), default=1)
        return Row(self._filled(self._marked.text(example), masks, example.id), answer, candidates, label)

    def _filled(self, text: str, masks: int, name: str) -> tuple[int, ...]:
        """A text's tokens with so many masks in it; a blank before them belongs to the candidate."""
        tokenizer = self.backbone.tokenizer
        before, _, after = text.partition(_HERE)
        ids = encoded(tokenizer, f"{before.rstrip()}{tokenizer.mask_token * masks}{after}")
        positions = [at for at, token in enumerate(ids) if token == tokenizer.mask_token_id]
        if len(positions) != masks:
            raise BadInput(
                f"task {self.task.name!r}: the input of {name!r} holds {tokenizer.mask_token!r} itself, so that the "
                "place of the answer is not clear; take it out"
            )
        return tuple(_shortened(ids, self.limit, positions[0], positions[-1] + 1))


def _shortened(ids: list[int], limit: int, start: int, stop: int) -> list[int]:
    """Tokens without their middle where they are too many; `start` to `stop` and the first and last token stay."""
    excess, half = len(ids) - limit, limit - limit // 2
    if excess <= 0:
        return ids
    if stop <= half or half + excess <= start:
        return [*ids[:half], *ids[half + excess :]]
    before = max(0, min(excess, start - 1))  # the middle holds the masks: what goes stands before them, then behind
    return [*ids[: start - before], *ids[start:stop], *ids[stop + excess - before :]]


def _head(backbone: Backbone) -> nn.Module:
    """The module that turns last states into scores of words: all of the model that comes behind its layers."""
    paths = {place.kind: place.module for place in reversed(backbone.places())}
    path = next(paths[kind] for kind in ("head.transform", "head.norm", "head") if kind in paths)
    return backbone.model.get_submodule(path.partition(".")[0])  # type: ignore[no-any-return]
