"""Places: the named spots of a backbone where something can attach, and the notation that a table writes them in."""

from __future__ import annotations

import re
from dataclasses import dataclass

from deltacompose.errors import BadInput

KINDS = {
    "embedding": "the token embedding",
    "positions": "the learned or tabled position embedding",
    "segments": "the segment (token type) embedding",
    "embedding.norm": "the norm of the embeddings",
    "attention": "the whole self-attention, before residual",
    "attention.norm": "the norm of the self-attention sublayer",
    "attention.query": "the projection to queries",
    "attention.key": "the projection to keys",
    "attention.value": "the projection to values",
    "attention.query_norm": "the norm of the queries of each head",
    "attention.key_norm": "the norm of the keys of each head",
    "attention.positions": "the relative position bias",
    "attention.output": "the projection of the joined heads",
    "attention.post_norm": "a second norm, after the self-attention and before the residual",
    "cross_attention": "the whole cross attention, before residual",
    "cross_attention.norm": "the norm of the cross-attention sublayer",
    "cross_attention.query": "the cross attention's projection to queries",
    "cross_attention.key": "the cross attention's projection to keys",
    "cross_attention.value": "the cross attention's projection to values",
    "cross_attention.output": "the cross attention's projection of the joined heads",
    "text_attention.query": "the projection of a text's own tokens to queries, where image and text attend jointly",
    "text_attention.key": "the projection of a text's own tokens to keys",
    "text_attention.value": "the projection of a text's own tokens to values",
    "text_attention.output": "the projection of the joined heads at a text's own tokens",
    "ffn": "the whole feed-forward network, before residual",
    "ffn.norm": "the norm of the feed-forward sublayer",
    "ffn.gate": "the gate of a gated feed-forward network",
    "ffn.up": "the projection to the inner width",
    "ffn.activation": "the inner activation: the input of ffn.down",
    "ffn.down": "the projection back to the backbone's width",
    "ffn.post_norm": "a second norm, after the feed-forward network and before the residual",
    "text_ffn": "the feed-forward network of a text's own tokens, before residual",
    "text_ffn.up": "its projection to the inner width",
    "text_ffn.activation": "its inner activation: the input of text_ffn.down",
    "text_ffn.down": "its projection back to the backbone's width",
    "layer": "the whole block",
    "norm": "the final norm of a stack",
    "head.transform": "the layer before a masked-language head",
    "head.norm": "the norm before a masked-language head",
    "head": "the output head over the vocabulary",
}
"""What a place may be called in every family, and what it means. A family has those that it has."""


@dataclass(frozen=True)
class Part:
    """A slice of a fused output: the `index`-th of `of` equal pieces, of the whole or of each head."""

    index: int
    of: int
    per_head: bool = False

    def __str__(self) -> str:
        return f"[{self.index}/{self.of}{' per head' if self.per_head else ''}]"


@dataclass(frozen=True)
class Place:
    """A named spot of a backbone: a module's output, its input, a slice of it, or a span of modules.

    `kind` is the name without stack and layer. A span goes from the input of `module` to the output of `until`.
    `stack` is empty outside the stacks, as for the token embedding of a decoder-only model and for the head.
    """

    name: str
    kind: str
    stack: str
    layer: int | None
    module: str
    until: str | None = None
    part: Part | None = None
    port: str = "output"


@dataclass(frozen=True)
class Spot:
    """Where a table says that a place lies: module paths with `{layer}` still open.

    Paths start at the base model; with a leading `/`, at the whole model. A path that starts with `{layer}` is one
    in a block of a stack that lists its blocks.
    """

    module: str
    until: str | None = None
    part: Part | None = None
    port: str = "output"
    optional: bool = False

    @property
    def paths(self) -> tuple[str, ...]:
        return (self.module,) if self.until is None else (self.module, self.until)


_NAME = re.compile(r"(?:(?P<stack>encoder|decoder|denoiser)\.)?(?:(?P<layer>\{layer\}|\d+)\.)?(?P<kind>[a-z_.]+)")
_PATH = r"/?[A-Za-z_{][\w{}]*(?:\.[\w{}]+)*"
_SPOT = re.compile(
    rf"(?P<module>{_PATH})"
    rf"(?: \.\. (?P<until>{_PATH})"
    r"|\[(?P<index>\d+)/(?P<of>\d+)(?P<per_head> per head)?\]"
    r"|(?P<input>@input))?"
    r"(?P<optional>\?)?"
)


def split_name(name: str) -> tuple[str, str | None, str]:
    """Stack (or ""), layer (digits, `{layer}` or None) and kind of a place's name.

    >>> split_name("encoder.3.attention.query")
    ('encoder', '3', 'attention.query')
    """
    found = _NAME.fullmatch(name)
    if found is None:
        raise BadInput(f"{name!r} is no place name; expected 'kind', 'stack.kind' or 'stack.layer.kind'")
    if found["layer"] and not found["stack"]:
        raise BadInput(f"{name!r} has a layer but no stack; write encoder.{name} or decoder.{name}")
    return found["stack"] or "", found["layer"], found["kind"]


def read_spot(text: str) -> Spot:
    """One place of a table: `path`, `path .. path` (a span), `path@input`, `path[0/3]`, `path[0/3 per head]`.

    A `?` at the end says that the modules need not exist.

    >>> str(read_spot("h.{layer}.attn.c_attn[1/3]").part)
    '[1/3]'
    """
    found = _SPOT.fullmatch(text)
    if found is None:
        raise BadInput(
            f"{text!r} says no place of a table; expected 'path', 'path .. path', 'path@input', 'path[0/3]' "
            "or 'path[0/3 per head]', each with a '?' at the end where it need not exist"
        )
    part = None
    if found["of"]:
        part = Part(int(found["index"]), int(found["of"]), found["per_head"] is not None)
        if part.index >= part.of:
            raise BadInput(f"{text!r}: part {part.index} of {part.of} does not exist; parts count from 0")
    port = "input" if found["input"] else "output"
    return Spot(found["module"], found["until"], part, port, found["optional"] is not None)
