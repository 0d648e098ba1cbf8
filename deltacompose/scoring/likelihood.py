"""Decoders rank candidate answers by their likelihood, and generate; and what encoder-decoders share with them."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from copy import deepcopy
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from transformers import GenerationConfig

from deltacompose.backbone.backbone import Backbone
from deltacompose.backbone.chat import Conversation
from deltacompose.errors import BadInput
from deltacompose.scoring import best_first
from deltacompose.scoring.best_first import Start
from deltacompose.scoring.ranking import ranked
from deltacompose.scoring.rows import IGNORED, Batch, Reader, Row, continuation
from deltacompose.task.examples import Example
from deltacompose.task.task import Task


class LikelihoodReader(Reader):
    """Common part of decoders and encoder-decoders: answers end in the end-of-sequence token."""

    def answer_tokens(self, text: str) -> tuple[int, ...]:
        return (*self._continuation(text), self._end)

    def lengths(self, row: Row) -> tuple[int, int]:
        return len(row.input), len(row.answer)

    def units(self, row: Row) -> int:
        return len(row.answer)

    def loss(self, batch: Batch, deltas: int) -> Tensor:
        logits, answers = self.logits(batch), batch["answer"]
        each = F.cross_entropy(logits.flatten(0, 1).float(), answers.flatten(), reduction="none", ignore_index=IGNORED)
        grouped, known = each.view(deltas, -1), (answers != IGNORED).view(deltas, -1)
        return grouped.sum(1) / known.sum(1)

    def generate(self, rows: Sequence[Row], tokens: int, deltas: int = 1) -> list[str]:
        rows = [*rows] * deltas
        self._check_positions(max(map(self._read_before, rows)), tokens)
        with _generating(self.backbone.model, self.generation(tokens)):
            ids = self._generated(rows)
        texts = self.backbone.tokenizer.batch_decode(
            [self._before_end(row) for row in ids.tolist()], skip_special_tokens=True
        )
        return [text.strip() for text in texts]

    def generation(self, tokens: int) -> GenerationConfig:
        """Every setting of generation: greedy decoding of at most so many tokens, up to any of the model's end tokens.

        Of the checkpoint's own settings decoding needs the end tokens, the padding and what a decoder starts from.
        Nothing else is taken from it: a forced first token, a minimum length or a penalty of repetition would change
        what a trained delta answers.
        """
        return GenerationConfig(  # type: ignore[no-untyped-call]
            max_new_tokens=tokens,
            do_sample=False,
            num_beams=1,
            use_cache=True,
            eos_token_id=list(self._ends),
            pad_token_id=self._pad,
            decoder_start_token_id=self._start,
        )

    def rank(self, rows: Sequence[Row], deltas: int = 1) -> list[int]:
        """Every rule but the plain sum needs the scores of all candidates."""
        if (self.task.ranking or "sum") != "sum":
            return super().rank(rows, deltas)
        return best_first.ranked(self, [*rows] * deltas, deltas)

    @abstractmethod
    def begin(self, rows: Sequence[Row]) -> Start:
        """Reads the inputs once, up to the first token of the answer."""

    @abstractmethod
    def go_on(self, start: Start, which: Tensor, answers: Tensor) -> Tensor:
        """Logits of all tokens of some answers but the first; see `best_first.Decodes`."""

    def scores(self, rows: Sequence[Row], deltas: int = 1) -> Tensor:
        """Candidates' log-likelihoods by the task's rule; the input is read once."""
        rows = [*rows] * deltas
        sums, tokens = self._log_likelihoods(rows)
        rule, empty = self.task.ranking or "sum", None
        if rule == "pmi":
            empty, _ = self._log_likelihoods([replace(row, input=row.empty) for row in rows])
        return ranked(rule, sums, tokens, [row.sizes for row in rows], empty)

    def _log_likelihoods(self, rows: Sequence[Row]) -> tuple[Tensor, Tensor]:
        """The sum of each candidate's tokens' log-probabilities, and how many tokens that are, the end included."""
        count, longest = len(rows[0].candidates), max(len(c) for row in rows for c in row.candidates)
        candidates = self._tensor([c for row in rows for c in row.candidates], longest, IGNORED)
        logits = self._candidate_logits(rows, candidates, count).float()
        tokens = F.cross_entropy(logits.flatten(0, 1), candidates.flatten(), reduction="none", ignore_index=IGNORED)
        known = (candidates != IGNORED).view(len(rows), count, -1).sum(-1)
        return (-tokens).view(len(rows), count, -1).sum(-1), known

    def features(self, rows: Sequence[Row]) -> Tensor:
        states, mask = self._states(rows)
        own = states[:, -mask.shape[1] :].float()  # before a decoder, an encoder keeps a prompt's states in front
        return (own * mask[..., None]).sum(1) / mask.sum(1, keepdim=True)

    @abstractmethod
    def _read_before(self, row: Row) -> int:
        """How many tokens the stack that speaks has read of a row before its answer."""

    @abstractmethod
    def _candidate_logits(self, rows: Sequence[Row], candidates: Tensor, count: int) -> Tensor:
        """The same for candidates `(rows · count, tokens)`."""

    @abstractmethod
    def _states(self, rows: Sequence[Row]) -> tuple[Tensor, Tensor]:
        """The last states of the inputs `(rows, tokens, width)`, and which of the tokens are not padding."""

    @abstractmethod
    def _generated(self, rows: Sequence[Row]) -> Tensor:
        """New tokens `(rows, tokens)` alone, by the model's generation settings."""

    def _row(self, example: Example) -> Row:
        row = super()._row(example)
        self._check_positions(self._read_before(row), max(map(len, (row.answer, *row.candidates))))
        if self.task.ranking == "bytes":
            return replace(row, sizes=tuple(len(text.encode()) for text in self.task.options(example)))
        return replace(row, empty=self._empty(example)) if self.task.ranking == "pmi" else row

    def _empty(self, example: Example) -> tuple[int, ...]:
        """The tokens of the task's template with nothing in it; without any, one that a text may begin with."""
        blank = replace(example, input="", columns=dict.fromkeys(example.columns, ""), messages=())
        ids = self.example_tokens(blank)
        start = self.backbone.tokenizer.bos_token_id
        return ids or (self._end if start is None else start,)

    def _check_positions(self, read: int, answered: int) -> None:
        """Refuses an example that is longer than the model."""
        limit = self.backbone.stream(self.backbone.streams[-1]).limit
        if limit is None or read + answered <= limit:
            return
        counts = f"{read} tokens of input and {answered} of answer" if read else f"an answer of {answered} tokens"
        cure = f"; the input needs a limit of at most {limit - answered}" if read and answered < limit else ""
        raise BadInput(
            f"task {self.task.name!r} has {counts}, and {self.backbone.name} has positions for {limit}{cure}"
        )

    def _continuation(self, text: str) -> tuple[int, ...]:
        return continuation(self.backbone.tokenizer, text)

    def _before_end(self, ids: list[int]) -> list[int]:
        ends = set(self._ends)
        return ids[: next((at for at, token in enumerate(ids) if token in ends), len(ids))]

    @property
    def _ends(self) -> tuple[int, ...]:
        """Every token that ends an answer; the first one is that which answers are trained to end in."""
        end = self._named("eos_token_id")
        ends = tuple(end) if isinstance(end, list | tuple) else (end,)
        if not ends or None in ends:
            raise BadInput(f"{self.backbone.name} names no end-of-sequence token; set generation_config.eos_token_id")
        return tuple(map(int, ends))

    @property
    def _end(self) -> int:
        return self._ends[0]

    @property
    def _start(self) -> int | None:
        """Decoder inputs before the answer for an encoder-decoder; None for a decoder alone."""
        return None

    def _named(self, name: str) -> Any:
        """A special token's id by the generation settings, else by the configuration."""
        model = self.backbone.model
        value = getattr(model.generation_config, name, None) if model.can_generate() else None
        return getattr(model.config, name, None) if value is None else value


class DecoderReader(LikelihoodReader):
    """A decoder-only model: the input padded on the left, the answer behind it.

    Of a backbone that chats the input is the user's turn with the generation prompt, and the answer ends where the
    assistant's turn ends.
    """

    def __init__(self, backbone: Backbone, task: Task, limit: int = 128) -> None:
        super().__init__(backbone, task, limit)
        chat = backbone.chat
        self._conversation = None if chat is None else Conversation(backbone.tokenizer, chat, backbone.name)

    def example_tokens(self, example: Example) -> tuple[int, ...]:
        if self._conversation is None or not example.messages:
            return super().example_tokens(example)
        return tuple(self._conversation.ids(example.messages, self.limit))

    def answer_tokens(self, text: str) -> tuple[int, ...]:
        if self._conversation is None:
            return super().answer_tokens(text)
        ids = tuple(self._conversation.reply(text))
        return ids if self._conversation.end is not None else (*ids, self._end)

    @property
    def _ends(self) -> tuple[int, ...]:
        ends = super()._ends
        end = None if self._conversation is None else self._conversation.end
        return ends if end is None else (end, *(token for token in ends if token != end))

    def input_tokens(self, text: str) -> tuple[int, ...]:
        if self._conversation is not None:
            return tuple(self._conversation.ids((("user", text),), self.limit))
        ids = super().input_tokens(text)
        return ids[:-1] if len(ids) > 1 and ids[-1] in self._ends else ids

    def collate(self, rows: Sequence[Row], lengths: tuple[int, int]) -> Batch:
        left, left_mask = self._inputs(rows, lengths[0])
        answers = [row.answer for row in rows]
        right, right_mask = self._tensor(answers, lengths[1], self._pad), self._mask(answers, lengths[1])
        return {
            "ids": torch.cat([left, right], 1),
            "mask": torch.cat([left_mask, right_mask], 1),
            "answer": self._tensor(answers, lengths[1], IGNORED),
        }

    def _read_before(self, row: Row) -> int:
        return len(row.input)

    def _inputs(self, rows: Sequence[Row], length: int | None = None) -> tuple[Tensor, Tensor]:
        inputs = [row.input for row in rows]
        length = length or max(map(len, inputs))
        return self._tensor(inputs, length, self._pad, "left"), self._mask(inputs, length, "left")

    def logits(self, batch: Batch) -> Tensor:
        length = batch["answer"].shape[1]
        logits = self.backbone.model(
            input_ids=batch["ids"],
            attention_mask=batch["mask"],
            position_ids=_positions(batch["mask"]),
            use_cache=False,
            logits_to_keep=self._last(length + 1),
        ).logits
        return logits[:, -length - 1 : -1]  # type: ignore[no-any-return]

    def _last(self, count: int) -> Tensor:
        """The indices of the last positions: states chosen by them lie side by side, as a slice of them would not.

        A language head without a bias multiplies states that do not lie side by side row by row, each row with a copy
        of the head's weight (28 times the time of one multiplication in bfloat16, 4 times in float32).
        """
        return torch.arange(-count, 0, device=self.backbone.model.device)

    def begin(self, rows: Sequence[Row]) -> Start:
        ids, mask = self._inputs(rows)
        output = self.backbone.model(
            input_ids=ids,
            attention_mask=mask,
            position_ids=_positions(mask),
            use_cache=True,
            logits_to_keep=self._last(1),
        )
        return Start(output.logits[:, -1], mask, output.past_key_values)

    def go_on(self, start: Start, which: Tensor, answers: Tensor) -> Tensor:
        mask = start.mask[which]
        whole = torch.cat([mask, (answers != IGNORED).long()], 1)
        return self.backbone.model(  # type: ignore[no-any-return]
            input_ids=answers.clamp(min=0)[:, :-1],
            attention_mask=whole[:, :-1],
            position_ids=_positions(whole)[:, mask.shape[1] : -1],
            past_key_values=selected_rows(start.cache, which),
            use_cache=True,
        ).logits

    def _candidate_logits(self, rows: Sequence[Row], candidates: Tensor, count: int) -> Tensor:
        start = self.begin(rows)
        which = torch.arange(len(rows), device=candidates.device).repeat_interleave(count)
        return torch.cat([start.logits[which, None], self.go_on(start, which, candidates)], 1)

    def _states(self, rows: Sequence[Row]) -> tuple[Tensor, Tensor]:
        ids, mask = self._inputs(rows)
        stream = self.backbone.model.get_submodule(self.backbone.stream("decoder").module)
        output = stream(input_ids=ids, attention_mask=mask, position_ids=_positions(mask), use_cache=False)
        return output.last_hidden_state, mask

    def _generated(self, rows: Sequence[Row]) -> Tensor:
        ids, mask = self._inputs(rows)
        return self.backbone.model.generate(input_ids=ids, attention_mask=mask)[:, ids.shape[1] :]  # type: ignore[no-any-return]


@contextmanager
def _generating(model: Any, settings: GenerationConfig) -> Iterator[None]:
    """The model with these generation settings and none of its own, which are back on leaving.

    To hand them to `generate` is not enough: it fills every setting that is None from the model's own.
    """
    own = model.generation_config
    model.generation_config = settings
    try:
        yield
    finally:
        model.generation_config = own


def selected_rows(cache: Any, which: Tensor) -> Any:
    """A copy of a cache with the keys and values of some rows, any of them several times."""
    selected = deepcopy(cache)  # a model writes to the cache that it is given, and the original may be read again
    selected.batch_select_indices(which)
    return selected


def _positions(mask: Tensor) -> Tensor:
    """Positions that count real tokens alone."""
    return (mask.cumsum(1) - 1).clamp(min=0)
