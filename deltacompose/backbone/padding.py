"""Whether padding behind a text changes the states of an encoder's tokens, though the mask leaves it out."""

from __future__ import annotations

from typing import Any, Protocol

import torch
from torch import Tensor

from deltacompose.backbone.quiet import evaluating, has_values


class ReadsText(Protocol):
    """The parts of a backbone that reading a text needs."""

    @property
    def model(self) -> Any:
        """The transformers model."""
        ...

    @property
    def tokenizer(self) -> Any:
        """Its tokenizer; None where it has none."""
        ...

    @property
    def kind(self) -> str:
        """`encoder`, `decoder`, `encoder-decoder` or `denoiser`."""
        ...

    @property
    def streams(self) -> tuple[str, ...]:
        """The stacks that read tokens, that of the input first."""
        ...

    def embeddings(self, stream: str) -> Tensor: ...


def mixes_padding(backbone: ReadsText) -> bool:
    """Whether the states of a short text differ from those of the same text padded.

    Convolutions over neighbouring tokens (ConvBERT) and embeddings joined with their neighbours' (MobileBERT) do this.
    Not known, and False, of a skeleton.
    """
    model = backbone.model
    if backbone.kind != "encoder" or backbone.tokenizer is None or not has_values(model):
        return False
    ids = torch.arange(8, device=model.device)[None] % len(backbone.embeddings(backbone.streams[0]))
    padding = torch.full_like(ids, backbone.tokenizer.pad_token_id or 0)
    mask = torch.cat([torch.ones_like(ids), torch.zeros_like(ids)], 1)
    with torch.no_grad(), evaluating(model):
        alone = model.base_model(input_ids=ids, attention_mask=torch.ones_like(ids)).last_hidden_state
        padded = model.base_model(input_ids=torch.cat([ids, padding], 1), attention_mask=mask).last_hidden_state
    apart = (alone - padded[:, : ids.shape[1]]).abs().max()
    return bool(apart > torch.finfo(alone.dtype).eps ** 0.5 * alone.abs().max())
