"""An encoder-decoder ranks candidate answers by their likelihood, and generates, in the language that is set."""

from __future__ import annotations

from collections.abc import Sequence
from copy import copy

import torch
from torch import Tensor

from deltacompose.backbone.backbone import Backbone
from deltacompose.backbone.languages import multilingual, target_language, unset
from deltacompose.errors import BadInput
from deltacompose.scoring.best_first import Start
from deltacompose.scoring.likelihood import LikelihoodReader, selected_rows
from deltacompose.scoring.rows import IGNORED, Batch, Row
from deltacompose.task.task import Task


class EncoderDecoderReader(LikelihoodReader):
    """A sequence-to-sequence model: the encoder reads the input once, the decoder gives the answer.

    The decoder reads its start token first, and behind it the token of the target language where the model has one. The
    language is part of the backbone's content.
    """

    def __init__(self, backbone: Backbone, task: Task, limit: int = 128) -> None:
        super().__init__(backbone, task, limit)
        self._language = target_language(backbone.tokenizer, self._named("forced_bos_token_id"))
        if self._language is None and multilingual(backbone.tokenizer):
            raise unset(backbone.tokenizer, backbone.name)

    def _read_before(self, row: Row) -> int:
        return 0

    def _continuation(self, text: str) -> tuple[int, ...]:
        return tuple(self.backbone.tokenizer(text_target=text, add_special_tokens=False)["input_ids"])

    def collate(self, rows: Sequence[Row], lengths: tuple[int, int]) -> Batch:
        inputs = [row.input for row in rows]
        return {
            "ids": self._tensor(inputs, lengths[0], self._pad),
            "mask": self._mask(inputs, lengths[0]),
            "answer": self._tensor([row.answer for row in rows], lengths[1], IGNORED),
        }

    def logits(self, batch: Batch) -> Tensor:
        return self.backbone.model(  # type: ignore[no-any-return]
            input_ids=batch["ids"],
            attention_mask=batch["mask"],
            decoder_input_ids=self._shifted(batch["answer"]),
            use_cache=False,
        ).logits[:, len(self._before) - 1 :]

    def _candidate_logits(self, rows: Sequence[Row], candidates: Tensor, count: int) -> Tensor:
        batch = self.collate(rows, (max(len(row.input) for row in rows), 1 + max(len(row.answer) for row in rows)))
        encoded = self.backbone.model.get_encoder()(input_ids=batch["ids"], attention_mask=batch["mask"])
        encoded.last_hidden_state = encoded.last_hidden_state.repeat_interleave(count, 0)
        return self.backbone.model(  # type: ignore[no-any-return]
            encoder_outputs=encoded,
            attention_mask=batch["mask"].repeat_interleave(count, 0),
            decoder_input_ids=self._shifted(candidates),
            use_cache=False,
        ).logits[:, len(self._before) - 1 :]

    def begin(self, rows: Sequence[Row]) -> Start:
        batch = self.collate(rows, (max(len(row.input) for row in rows), 1 + max(len(row.answer) for row in rows)))
        encoded = self.backbone.model.get_encoder()(input_ids=batch["ids"], attention_mask=batch["mask"])
        output = self.backbone.model(
            encoder_outputs=encoded,
            attention_mask=batch["mask"],
            decoder_input_ids=self._starting(batch["ids"]),
            use_cache=True,
        )
        return Start(output.logits[:, -1], batch["mask"], output.past_key_values, encoded)

    def go_on(self, start: Start, which: Tensor, answers: Tensor) -> Tensor:
        encoded = copy(start.encoded)
        encoded.last_hidden_state = encoded.last_hidden_state[which]
        return self.backbone.model(  # type: ignore[no-any-return]
            encoder_outputs=encoded,
            attention_mask=start.mask[which],
            decoder_input_ids=answers[:, :-1].masked_fill(answers[:, :-1] == IGNORED, self._pad),
            past_key_values=selected_rows(start.cache, which),
            use_cache=True,
        ).logits

    def _states(self, rows: Sequence[Row]) -> tuple[Tensor, Tensor]:
        batch = self.collate(rows, (max(len(row.input) for row in rows), max(len(row.answer) for row in rows)))
        encoded = self.backbone.model.get_encoder()(input_ids=batch["ids"], attention_mask=batch["mask"])
        return encoded.last_hidden_state, batch["mask"]

    def _generated(self, rows: Sequence[Row]) -> Tensor:
        batch = self.collate(rows, (max(len(row.input) for row in rows), 1 + max(len(row.answer) for row in rows)))
        told = {"decoder_input_ids": self._starting(batch["ids"])} if len(self._before) > 1 else {}
        new = self.backbone.model.generate(input_ids=batch["ids"], attention_mask=batch["mask"], **told)
        return new[:, len(self._before) :]  # type: ignore[no-any-return]

    def _shifted(self, answers: Tensor) -> Tensor:
        """Decoder inputs at each answer token."""
        read = answers[:, :-1].masked_fill(answers[:, :-1] == IGNORED, self._pad)
        return torch.cat([self._starting(answers), read], 1)

    def _starting(self, like: Tensor) -> Tensor:
        """The tokens before an answer, `(rows, tokens)`, for as many rows as another tensor has."""
        return torch.tensor([self._before], device=like.device, dtype=like.dtype).expand(len(like), -1)

    @property
    def _before(self) -> tuple[int, ...]:
        """The tokens that the decoder reads before an answer."""
        language = self._language
        return (self._start,) if language is None or language.starts else (self._start, language.token)

    @property
    def _start(self) -> int:
        if self._language is not None and self._language.starts:
            return self._language.token
        start = self._named("decoder_start_token_id")
        if start is None:
            raise BadInput(
                f"{self.backbone.name} names no token that its decoder starts from; set "
                "generation_config.decoder_start_token_id"
            )
        return int(start)
