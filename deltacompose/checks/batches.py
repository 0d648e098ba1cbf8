"""Small batches with ragged masks, the same forward pass and loss for every kind of backbone, and a tiny task."""

from __future__ import annotations

import functools
import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor
from torch.nn import functional as F
from transformers.utils import logging as advice

from deltacompose.backbone.backbone import Backbone
from deltacompose.task.task import Example, Task

ROWS, TOKENS, ANSWER = 3, 6, 4
"""Rows of a batch, tokens of its input and, behind a sequence-to-sequence model's decoder, of its answer.

A bank of three deltas divides the number of tokens, so that an axis of tokens taken for the axis of rows does not show
as an error, but as a difference."""

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
    made = {"input_ids": _ids(TOKENS, source), "attention_mask": mask}
    if backbone.kind == "decoder":
        made["position_ids"] = (mask.cumsum(1) - 1).clamp(min=0)
    if backbone.kind == "encoder-decoder":
        made["decoder_input_ids"] = _ids(ANSWER, source)
    return made


_SIDES = {"encoder": "right", "decoder": "left", "encoder-decoder": "right"}


def joined(batches: Sequence[Mapping[str, Tensor]]) -> dict[str, Tensor]:
    """The batches of a bank, one after another."""
    return {name: torch.cat([one[name] for one in batches]) for name in batches[0]}


def forward(backbone: Backbone, given: Mapping[str, Tensor]) -> Tensor:
    """The logits, or the last states of an encoder, `(rows, tokens, width)`, or what a denoiser makes of noise."""
    how = {"use_cache": False} if "decoder" in backbone.kind else {}
    output = backbone.model(**given, **how)
    states: Tensor = next(output[name] for name in ("last_hidden_state", "logits", "sample") if name in output)
    return states


def losses(states: Tensor, given: Mapping[str, Tensor], deltas: int) -> Tensor:
    """The mean loss of each delta's rows, `(deltas,)`: every real position has to tell a class that its token gives."""
    ids = given.get("decoder_input_ids", given["input_ids"])
    mask = torch.ones_like(ids) if "decoder_input_ids" in given else given["attention_mask"]
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
def tiny() -> Task:
    """Eight short examples of two classes."""
    return Task("tiny", "checks", "choice", "accuracy", _examples, verbalizer={"no": "dark", "yes": "light"})


def _examples(split: str) -> tuple[Example, ...]:
    words = ("night", "noon", "coal", "snow", "cellar", "window", "soot", "flame")
    return tuple(Example(f"{split}-{k}", f"{split} {word}", ("no", "yes")[k % 2]) for k, word in enumerate(words))


def _ids(tokens: int, source: torch.Generator) -> Tensor:
    return torch.randint(_FIRST_BYTE, _FIRST_BYTE + 256, (ROWS, tokens), generator=source)
