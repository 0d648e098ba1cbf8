"""Places: the named spots of a backbone where something can attach, and the notation that a table writes them in."""

from __future__ import annotations

import re
from dataclasses import dataclass
from fnmatch import fnmatchcase

from deltacompose.errors import BadInput

KINDS = {
    "embedding": "the token embedding",
    "positions": "the learned or tabled position embedding",
    "segments": "the segment (token type) embedding",
    "embedding.norm": "the norm of the embeddings",
    "embedding.projection": "the projection of the embeddings to the width of the layers",
    "attention": "the whole self-attention, before residual",
    "attention.norm": "the norm of the self-attention sublayer",
    "attention.query": "the projection to queries",
    "attention.key": "the projection to keys",
    "attention.value": "the projection to values",
    "attention.query_norm": "the norm of the queries of each head",
    "attention.key_norm": "the norm of the keys of each head",
    "attention.value_norm": "the norm of the values of each head",
    "attention.positions": "the relative position bias",
    "attention.positions_norm": "the norm of the relative positions",
    "attention.positions_query": "the projection of the relative positions to queries",
    "attention.positions_key": "the projection of the relative positions to keys",
    "attention.query_down": "the projection to the latent states that queries are made of",
    "attention.query_down_norm": "the norm of the latent states of the queries",
    "attention.latent": "the projection to the latent states that keys and values are made of",
    "attention.latent_norm": "the norm of the latent states of keys and values",
    "attention.sinks": "the score of each head for attending to nothing",
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
    "ffn.router": "the weight of the router of a mixture of experts, (experts, width)",
    "ffn.experts.gate_up": "gates and up projections of the routed experts, (experts, 2 · inner width, width)",
    "ffn.experts.down": "the down projections of the routed experts, (experts, width, inner width)",
    "ffn.shared": "the shared expert of a mixture, which every token passes",
    "ffn.shared.gate": "the gate of the shared expert",
    "ffn.shared.up": "the shared expert's projection to its inner width",
    "ffn.shared.activation": "the inner activation of the shared expert: the input of ffn.shared.down",
    "ffn.shared.down": "the shared expert's projection back to the backbone's width",
    "ffn.shared.router": "the projection to the weight of the shared expert",
    "ffn.post_norm": "a second norm, after the feed-forward network and before the residual",
    "text_ffn": "the feed-forward network of a text's own tokens, before residual",
    "text_ffn.up": "its projection to the inner width",
    "text_ffn.activation": "its inner activation: the input of text_ffn.down",
    "text_ffn.down": "its projection back to the backbone's width",
    "layer": "the whole block",
    "norm": "the final norm of a stack",
    "head.transform": "the layer before a masked-language head",
    "head.norm": "the norm before a masked-language head",
    "head.projection": "the projection of the last states to the width of the embeddings",
    "head": "the output head over the vocabulary",
}
"""The kinds of places, and what each means. A family has those that it has."""

OTHER = "other."
"""Prefix of the kinds of a family's own modules, as in `other.altup.router_norm`; the rest of the name is free."""


@dataclass(frozen=True)
class FusedPart:
    """A piece of a fused output, which consists of equal blocks, each of pieces of the same relative sizes.

    >>> grouped = FusedPart(index=1, sizes=(2, 1, 1), blocks=2)  # two groups, each of two queries, a key and a value
    >>> grouped.width(32), grouped.bounds(32)
    (8, (8, 12))

    Attributes:
        index: which piece of each block.
        sizes: the relative sizes of a block's pieces.
        blocks: how many blocks there are, one after another.
    """

    index: int
    sizes: tuple[int, ...]
    blocks: int = 1

    def width(self, whole: int) -> int:
        """How many of `whole` features are the part's, in all blocks together."""
        start, stop = self.bounds(whole)
        return self.blocks * (stop - start)

    def bounds(self, whole: int) -> tuple[int, int]:
        """Where the piece begins and ends in each block of an output of `whole` features.

        Raises:
            BadInput: the features cannot be divided so.
        """
        unit, rest = divmod(whole, self.blocks * sum(self.sizes))
        if rest:
            raise BadInput(f"{whole} features cannot be divided as {self}; expected a multiple of their sum")
        start = unit * sum(self.sizes[: self.index])
        return start, start + unit * self.sizes[self.index]

    def __str__(self) -> str:
        equal = set(self.sizes) == {1}
        pieces = f"/{len(self.sizes)}" if equal else f" of {', '.join(map(str, self.sizes))}"
        return f"[{self.index}{pieces}{f' per {self.blocks}' if self.blocks > 1 else ''}]"


@dataclass(frozen=True)
class Cut:
    """How a table writes a part: relative sizes and a number of blocks that may be formulas of the configuration.

    `per` is `head` for a block for each key-value head, "" where the whole output is one block.
    """

    index: int
    sizes: tuple[str, ...]
    per: str = ""

    def __str__(self) -> str:
        equal = set(self.sizes) == {"1"}
        pieces = f"/{len(self.sizes)}" if equal else f" of {', '.join(self.sizes)}"
        return f"[{self.index}{pieces}{f' per {self.per}' if self.per else ''}]"


@dataclass(frozen=True)
class Place:
    """A named spot of a backbone: a module's output, its input, a slice of it, a span of modules, or a bare parameter.

    `kind` is the name without stack and layer. A span goes from the input of `module` to the output of `until`.
    `stack` is empty outside the stacks, as for the token embedding of a decoder-only model and for the head. `port` is
    `output`, `input` or, of a bare parameter, `parameter`; the parameter is then `parameter` in the module, and may be
    that of a module inside which is never called by itself, as `conv1d.weight`.
    """

    name: str
    kind: str
    stack: str
    layer: int | None
    module: str
    until: str | None = None
    part: FusedPart | None = None
    port: str = "output"
    parameter: str = ""

    @property
    def held(self) -> tuple[str, dict[str, str]]:
        """The path of the module that holds the place's weight and bias, and what they are called there."""
        if not self.parameter:
            return self.module, {"weight": "weight", "bias": "bias"}
        inner, _, name = self.parameter.rpartition(".")
        names = {"weight": name, "bias": "bias" if name == "weight" else f"{name}_bias"}
        return f"{self.module}.{inner}" if inner else self.module, names


@dataclass(frozen=True)
class Spot:
    """Where a table says that a place lies: module paths with `{layer}` still open.

    Paths start at the base model; with a leading `/`, at the whole model. A path that starts with `{layer}` is one
    in a block of a stack that lists its blocks.
    """

    module: str
    until: str | None = None
    part: Cut | None = None
    port: str = "output"
    optional: bool = False
    parameter: str = ""

    @property
    def paths(self) -> tuple[str, ...]:
        """The path of the module, and of the last module of a span."""
        return (self.module,) if self.until is None else (self.module, self.until)

    @property
    def needs(self) -> tuple[str, ...]:
        """Modules (by path) and parameters (`path:name`) that a model must have for the place to exist."""
        if not self.parameter:
            return self.paths
        inner, _, name = self.parameter.rpartition(".")
        return (self.module, f"{self.module}.{inner}:{name}" if inner else f"{self.module}:{name}")


_KIND = rf"(?:{re.escape(OTHER)}\w+(?:\.\w+)*|[a-z_.]+)"
_NAME = re.compile(rf"(?:(?P<stack>encoder|decoder|denoiser)\.)?(?:(?P<layer>\{{layer\}}|\d+)\.)?(?P<kind>{_KIND})")
_PATH = r"/?[A-Za-z_{][\w{}]*(?:\.[\w{}]+)*"
_SPOT = re.compile(
    rf"(?P<module>{_PATH})"
    rf"(?: \.\. (?P<until>{_PATH})"
    r"|\[(?P<index>\d+)(?:/(?P<of>\d+)| of (?P<sizes>[^\[\],]+?(?:, [^\[\],]+?)*))(?: per (?P<per>[^\[\],]+))?\]"
    r"|(?P<input>@input)"
    r"|:(?P<parameter>[A-Za-z_]\w*(?:\.\w+)*))?"
    r"(?P<optional>\?)?"
)


def split_name(name: str) -> tuple[str, str | None, str]:
    """Stack (or ""), layer (digits, `{layer}` or None) and kind of a place's name.

    >>> split_name("encoder.3.attention.query")
    ('encoder', '3', 'attention.query')
    """
    match = _NAME.fullmatch(name)
    if match is None:
        raise BadInput(f"{name!r} is not a place name; expected 'kind', 'stack.kind' or 'stack.layer.kind'")
    if match["layer"] and not match["stack"]:
        raise BadInput(f"{name!r} has a layer but no stack; write encoder.{name} or decoder.{name}")
    return match["stack"] or "", match["layer"], match["kind"]


def read_spot(text: str) -> Spot:
    """One place of a table.

    `path` is a module's output, `path@input` its input, `path .. path` a span, `path:name` a bare parameter. A piece of
    a fused output is `path[0/3]`, the first of three equal ones, or `path[0 of 4, 1, 1]`, whose relative sizes are
    numbers of the configuration; `per head` repeats the pieces for each key-value head, `per 4` four times. A `?` at
    the end says that the modules need not exist.

    >>> str(read_spot("h.{layer}.attn.c_attn[1/3]").part)
    '[1/3]'
    >>> read_spot("attn.qkv[0 of n_head / heads, 1, 1 per head]").part.sizes
    ('n_head / heads', '1', '1')
    """
    match = _SPOT.fullmatch(text)
    if match is None:
        raise BadInput(
            f"{text!r} is not a valid place of a table; expected 'path', 'path .. path', 'path@input', "
            "'path:parameter', 'path[0/3]', 'path[0/3 per head]' or 'path[0 of 4, 1, 1 per head]', each with a '?' at "
            "the end where it need not exist"
        )
    part = None
    if match["index"]:
        sizes = ("1",) * int(match["of"]) if match["of"] else tuple(match["sizes"].split(", "))
        part = Cut(int(match["index"]), sizes, match["per"] or "")
        if part.index >= len(sizes):
            raise BadInput(f"{text!r}: part {part.index} of {len(sizes)} does not exist; parts count from 0")
    port = "input" if match["input"] else "parameter" if match["parameter"] else "output"
    optional, parameter = match["optional"] is not None, match["parameter"] or ""
    return Spot(match["module"], match["until"], part, port, optional, parameter)


def matches(name: str, patterns: tuple[str, ...]) -> bool:
    """Whether a name fits one of the patterns.

    >>> matches("encoder.0.attention.query", ("encoder.*",))
    True
    """
    return any(fnmatchcase(name, pattern) for pattern in patterns)


def lists(kinds: tuple[str, ...], place: Place) -> bool:
    """Whether a table's list of kinds names a place, by its kind or by its stack and kind."""
    return matches(place.kind, kinds) or matches(f"{place.stack}.{place.kind}", kinds)
