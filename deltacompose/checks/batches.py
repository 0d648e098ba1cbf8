"""Small batches with ragged masks, the same forward pass and loss for every kind of backbone, and a tiny task."""

from __future__ import annotations

import functools
import inspect
import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial

import torch
from torch import Tensor
from torch.nn import functional as F
from transformers.utils import logging as advice

from deltacompose.backbone.backbone import Backbone
from deltacompose.backbone.pico_families import VOCABULARY
from deltacompose.backbone.pico_hostile import WORDS
from deltacompose.task.task import Example, Task

ROWS, TOKENS, ANSWER = 3, 6, 4
"""Rows of a batch, tokens of its input and, behind a sequence-to-sequence model's decoder, of its answer.

A bank of three deltas divides the number of tokens, so that an axis of tokens taken for the axis of rows does not show
as an error, but as a difference."""

LENGTHS = (24, 3, 17, 24, 9, 21, 5, 12, 2, 23)
"""Tokens of each row of a long batch: more than eight rows, some of more than twenty tokens."""

_FIRST_BYTE = 5


def batch(backbone: Backbone, seed: int, side: str = "") -> dict[str, Tensor]:
    """Random tokens with a ragged mask: the rows have 6, 4 and 3 tokens.

    Args:
        side: where the padding is; by default on the left before a decoder that has no encoder, else on the right.
    """
    source = torch.Generator().manual_seed(seed)
    mask = (torch.arange(TOKENS) < torch.tensor([TOKENS, TOKENS - 2, TOKENS - 3])[:, None]).long()
    if (side or _SIDES[backbone.kind]) == "left":
        mask = mask.flip(1)
    inputs = {"input_ids": _ids(TOKENS, source), "attention_mask": mask}
    if backbone.kind == "decoder":
        inputs["position_ids"] = (mask.cumsum(1) - 1).clamp(min=0)
    if backbone.kind == "encoder-decoder":
        inputs["decoder_input_ids"] = _ids(ANSWER, source)
    return inputs


def default_side(backbone: Backbone) -> str:
    """Where inputs are padded unless told otherwise."""
    return _SIDES[backbone.kind]


def random_rows(backbone: Backbone, lengths: Sequence[int], seed: int = 0) -> list[Tensor]:
    """Random tokens, a tensor for each row."""
    source = torch.Generator().manual_seed(seed)
    return [torch.randint(_FIRST_BYTE, _FIRST_BYTE + 256, (length,), generator=source) for length in lengths]


def long_batch(backbone: Backbone) -> dict[str, Tensor]:
    """More than eight rows, some of more than twenty tokens."""
    rows = random_rows(backbone, LENGTHS)
    inputs = padded(backbone, rows, max(LENGTHS), default_side(backbone))
    if backbone.kind == "encoder-decoder":
        inputs["decoder_input_ids"] = torch.stack([rows[LENGTHS.index(max(LENGTHS))]] * len(rows))
    return inputs


def padded(
    backbone: Backbone, rows: Sequence[Tensor], width: int, side: str, filler: int | None = None
) -> dict[str, Tensor]:
    """Rows of tokens as one batch, `(rows, width)` each: ids, mask, and positions where the model takes them.

    Args:
        side: where the padding is.
        filler: the token at padded positions; None is the padding token.
    """
    pad = backbone.model.config.pad_token_id if filler is None else filler
    ids = torch.full((len(rows), width), 0 if pad is None else pad)
    mask = torch.zeros(len(rows), width, dtype=torch.long)
    for k, row in enumerate(rows):
        where = slice(width - len(row), width) if side == "left" else slice(0, len(row))
        ids[k, where], mask[k, where] = row, 1
    batch = {"input_ids": ids, "attention_mask": mask}
    if "position_ids" in inspect.signature(backbone.model.forward).parameters:
        batch["position_ids"] = (mask.cumsum(1) - 1).clamp(min=0)
    return batch


_SIDES = {"encoder": "right", "decoder": "left", "encoder-decoder": "right"}


def joined(batches: Sequence[Mapping[str, Tensor]]) -> dict[str, Tensor]:
    """The batches of a bank, one after another."""
    return {name: torch.cat([batch[name] for batch in batches]) for name in batches[0]}


def forward(backbone: Backbone, inputs: Mapping[str, Tensor]) -> Tensor:
    """The logits, or the last states of an encoder, `(rows, tokens, width)`, or what a denoiser makes of noise."""
    how = {"use_cache": False} if "decoder" in backbone.kind else {}
    output = backbone.model(**inputs, **how)
    states: Tensor = next(output[name] for name in ("last_hidden_state", "logits", "sample") if name in output)
    return states


def losses(states: Tensor, inputs: Mapping[str, Tensor], deltas: int) -> Tensor:
    """The mean loss of each delta's rows, `(deltas,)`: every real position has to tell a class that its token gives."""
    ids = inputs.get("decoder_input_ids", inputs["input_ids"])
    mask = torch.ones_like(ids) if "decoder_input_ids" in inputs else inputs["attention_mask"]
    targets = ids * 7 % states.shape[-1]
    states = states if states.dtype == torch.float64 else states.float()
    each = F.cross_entropy(states.flatten(0, 1), targets.flatten(), reduction="none") * mask.flatten()
    return each.view(deltas, -1).sum(1) / mask.view(deltas, -1).sum(1)


@contextmanager
def quiet() -> Iterator[None]:
    """Without transformers' advice, as that one should pad on the left."""
    level = advice.get_verbosity()
    advice.set_verbosity(logging.ERROR)
    try:
        yield
    finally:
        advice.set_verbosity(level)


@functools.cache
def tiny(number: int = 0, scripts: bool = False) -> Task:
    """Eight short examples of two classes; of another task for each of two numbers.

    Args:
        scripts: in words of many scripts.
    """
    read, name = (_examples, _others)[number], ("tiny", "tiny2")[number]
    if scripts:
        words = {"no": "темно", "yes": "明るい"}
        return Task(f"{name}-scripts", "checks", "choice", "accuracy", partial(_in_scripts, number), verbalizer=words)
    return Task(name, "checks", "choice", "accuracy", read, verbalizer={"no": "dark", "yes": "light"})


def _in_scripts(number: int, split: str) -> tuple[Example, ...]:
    words = WORDS[number : number + 8]
    return tuple(Example(f"{split}-{k}", f"{split} {word}", ("no", "yes")[k % 2]) for k, word in enumerate(words))


def reads_scripts(backbone: Backbone) -> bool:
    """Whether a tokenizer holds more than bytes: tokens of several, as those of scripts beyond the Latin one."""
    return len(backbone.tokenizer) > VOCABULARY


def _others(split: str) -> tuple[Example, ...]:
    words = ("an inn", "a fjord", "the dunes", "an oak", "a heath", "the moor", "a bay", "one ridge")
    return tuple(Example(f"{split}-{k}", f"{word} of {split}", ("yes", "no")[k % 2]) for k, word in enumerate(words))


def _examples(split: str) -> tuple[Example, ...]:
    words = ("night", "noon", "coal", "snow", "cellar", "window", "soot", "flame")
    return tuple(Example(f"{split}-{k}", f"{split} {word}", ("no", "yes")[k % 2]) for k, word in enumerate(words))


def _ids(tokens: int, source: torch.Generator) -> Tensor:
    return torch.randint(_FIRST_BYTE, _FIRST_BYTE + 256, (ROWS, tokens), generator=source)
