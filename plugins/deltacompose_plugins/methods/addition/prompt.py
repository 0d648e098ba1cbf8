"""Prompt tuning: trained token embeddings before the input."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Annotated, Any, ClassVar, Literal

import torch
from annotated_types import Ge
from torch import Generator, Tensor

from deltacompose.backbone import Backbone
from deltacompose.errors import BadInput
from deltacompose.method import Category, Edit, Method, Tensors, TokenEdit


@dataclass(frozen=True)
class Prompt(Method):
    """[P; E(x)]: p trained rows P `(p, d)` before the embedded input.

    Lester et al. 2021, *The Power of Scale for Parameter-Efficient Prompt Tuning* (arXiv 2104.08691, section 2). p·d
    parameters:

    >>> from deltacompose.method.catalogue import count
    >>> from deltacompose.backbone.pico import pico_backbone
    >>> p, d = 5, 16
    >>> count(Prompt(length=p), pico_backbone("t5")) == p * d
    True

    Args:
        length: p.
        init_from: `vocabulary` copies embeddings of random tokens, `text` those of `text`'s tokens, over and over;
            `random` draws uniformly from [-0.5, 0.5].
        text: what `init_from="text"` starts from.
        stream: `encoder` or `decoder`; empty means the one that reads the input.
    """

    name: ClassVar[str] = "prompt"
    category: ClassVar[Category] = "addition"
    learning_rate: ClassVar[float] = 1e-2
    source: ClassVar[str] = "Lester et al. 2021, arXiv 2104.08691"
    linear: ClassVar[bool] = True
    formula: ClassVar[str] = "pd"
    neutral: ClassVar[bool] = False

    length: Annotated[int, Ge(1)] = 10
    init_from: Literal["vocabulary", "text", "random"] = "vocabulary"
    text: str = ""
    stream: Literal["", "encoder", "decoder"] = ""

    def init(self, backbone: Backbone, generator: Generator) -> dict[str, Tensor]:
        stream = stream_of(self, backbone)
        if self.init_from == "random":
            width = backbone.embedding_width
            return {f"{stream}.prompt": torch.rand(self.length, width, generator=generator) - 0.5}
        table = backbone.embeddings(stream)
        if self.init_from == "text":
            ids = self._text(backbone)
        else:
            ids = torch.randint(len(table), (self.length,), generator=generator)
        rows = backbone.embed(stream, ids[None].to(table.device))[0]
        return {f"{stream}.prompt": rows.detach().float().cpu().clone()}

    def edits(self, backbone: Backbone) -> list[Edit]:
        stream = stream_of(self, backbone)
        return [TokenEdit(stream, partial(prompt, stream))]

    def _text(self, backbone: Backbone) -> Tensor:
        ids = backbone.tokenizer(self.text, add_special_tokens=False)["input_ids"] if backbone.tokenizer else []
        if not ids:
            raise BadInput("prompt: init_from='text' needs a text and a backbone with a tokenizer")
        return torch.tensor([ids[k % len(ids)] for k in range(self.length)])


def stream_of(method: Any, backbone: Backbone) -> str:
    """The stream that a method's setting `stream` names; the one that reads the input if it is empty."""
    if method.stream and method.stream not in backbone.streams:
        streams = ", ".join(backbone.streams)
        raise BadInput(f"{method.name}: {backbone.family} has no stream {method.stream!r}; streams: {streams}")
    return str(method.stream or backbone.streams[0])


def prompt(stream: str, t: Tensors) -> Tensor:
    """The rows that an edit puts before a stream, `(length, width)`."""
    return t[f"{stream}.prompt"]
