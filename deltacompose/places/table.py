"""Tables: how the places of one family of models map to its module paths, as data.

A table is written as one YAML mapping:

    serves: [llama, mistral]               # the `model_type` of the configurations that it fits
    kind: decoder                          # encoder | decoder | encoder-decoder | denoiser
    stacks:
      decoder:
        module: .                          # takes the embedded tokens; `.` is the base model
        layers: num_hidden_layers          # numbers are attributes of the configuration,
        width: hidden_size                 # joined by + - * / from left to right; `1 if multi_query` is a number
        heads: num_key_value_heads         # where multi_query is true; of a list the first that exists is taken
        head_width: [head_dim, hidden_size / num_attention_heads]
        value_width: v_head_dim            # of a head's values, where it is not that of its keys (optional)
        limit: n_positions                 # longest input, where a position table sets one (optional)
        pooler: pooler                     # a module that reads the stack's output (optional)
    without: ["pooler.*"]                  # parameters that have no place (optional)
    repeated: [attention.query]            # kinds whose modules one forward pass runs more than once (optional)
    unbatched: [attention.query]           # kinds whose modules see tensors without an axis of rows (optional)
    places:                                # in forward order; the notation is that of `places.read_spot`
      embedding: embed_tokens
      decoder.{layer}.attention.query: layers.{layer}.self_attn.q_proj
      decoder.{layer}.ffn.gate: [layers.{layer}.mlp.gate_proj, layers.{layer}.mlp.w1?]

Module paths start at the base model (`model.base_model` of transformers), with a leading `/` at the whole model.

A denoiser is a model of diffusers, which its class names. It reads no tokens, and its layers may lie anywhere:

    serves: [UNet2DConditionModel]
    kind: denoiser
    stacks:
      denoiser:
        blocks:                            # in forward order; each `*` is a number
        - down.*.blocks.*
        - mid.blocks.*?                    # which need not exist
        width: heads * head_width          # of what has no weight to tell its width (optional)
    places:
      denoiser.{layer}.attention.query: '{layer}.attn1.to_q'     # `{layer}` is the path of the block
"""

from __future__ import annotations

import difflib
import itertools
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import yaml

from deltacompose.errors import BadInput, quoted, unknown
from deltacompose.formats.yaml_files import read_yaml
from deltacompose.places.notation import KINDS, OTHER, Cut, FusedPart, Place, Spot, read_spot, split_name
from deltacompose.places.numbers import Number, is_formula, plain, read_number

BACKBONE_KINDS = {
    "encoder": ("encoder",),
    "decoder": ("decoder",),
    "encoder-decoder": ("encoder", "decoder"),
    "denoiser": ("denoiser",),
}
"""The kinds of backbone, and the stacks of each."""


@dataclass(frozen=True)
class Stack:
    """One stack of layers, as a table describes it: a module path, and numbers to be read from the configuration.

    `blocks`, patterns of paths, may stand for the number of layers. A denoiser's stack has them, and perhaps a width.
    """

    module: str | None = None
    layers: Number = ()
    width: Number = ()
    heads: Number = ()
    head_width: Number = ()
    value_width: Number = ()
    limit: Number | None = None
    pooler: str | None = None
    blocks: tuple[str, ...] = ()


@dataclass(frozen=True, eq=False)
class Table:
    """A family's places as module paths. Equal when it says the same; `str` gives it as YAML to paste into a study.

    Attributes:
        without: patterns of the names of parameters that have no place, as `pooler.*`.
        repeated: kinds of places that one forward pass runs more than once, as shared layers.
        unbatched: kinds of places that see tensors whose first axis is not that of the rows of a batch, as projections
            of relative positions: a bank of deltas cannot act there.
    """

    name: str
    serves: tuple[str, ...]
    kind: str
    stacks: Mapping[str, Stack]
    places: Mapping[str, tuple[str, ...]]
    without: tuple[str, ...] = ()
    repeated: tuple[str, ...] = ()
    unbatched: tuple[str, ...] = ()

    @property
    def data(self) -> dict[str, Any]:
        """The table as plain data: what `read_table` takes."""
        stacks = {
            name: {key: plain(value) for key, value in vars(stack).items() if value not in (None, ())}
            for name, stack in self.stacks.items()
        }
        places = {name: plain(spots) for name, spots in self.places.items()}
        lists = {key: list(getattr(self, key)) for key in _LISTS if getattr(self, key)}
        return {"serves": list(self.serves), "kind": self.kind, "stacks": stacks, **lists, "places": places}

    def __str__(self) -> str:
        return yaml.safe_dump({self.name: self.data}, sort_keys=False, width=1000)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Table) and (self.name, self.data) == (other.name, other.data)

    def __hash__(self) -> int:
        return hash(str(self))


def read_table_file(path: Path) -> Table:
    """The table in a YAML file, which is named as the file is."""
    return read_table(path.stem, read_yaml(path))


def read_table(name: str, data: Any) -> Table:
    """A table from plain data; unknown keys, kinds and spellings are refused, naming the table.

    >>> places = {"embedding": "wte", "decoder.{layer}.attention": "h.{layer}.attn"}
    >>> stack = {"module": ".", "layers": "n_layer", "width": "n_embd", "heads": "n_head", "head_width": 64}
    >>> data = {"serves": ["mine"], "kind": "decoder", "stacks": {"decoder": stack}, "places": places}
    >>> read_table("mine", data).data == data
    True
    """
    try:
        return _table(name, data)
    except BadInput as error:
        raise BadInput(f"table {name!r}: {error}") from None


def locate(table: Table, config: Any, base: str, modules: frozenset[str]) -> tuple[Place, ...]:
    """The places of one model, in forward order.

    Args:
        config: the model's configuration.
        base: path of the base model in the whole model, "" where they are one.
        modules: the paths of all modules of the whole model, and of all parameters as `path:name`.

    Raises:
        BadInput: a place lies at no module of the model, or a number of the table is not in the configuration.
    """
    layers = {name: _layers(table, stack, config, base, modules) for name, stack in table.stacks.items()}
    located = []
    for pattern, layer in _in_forward_order(table.places, {name: len(paths) for name, paths in layers.items()}):
        stack, _, kind = split_name(pattern)
        path = "" if layer is None else layers[stack][layer]
        spots = [_filled(read_spot(text), path, base) for text in table.places[pattern]]
        spot = next((spot for spot in spots if modules.issuperset(spot.needs)), None)
        name = pattern.replace("{layer}", str(layer))
        if spot is not None:
            part = None if spot.part is None else _part(spot.part, table.stacks[stack], config)
            where = (spot.module, spot.until, part, spot.port, spot.parameter)
            located.append(Place(name, kind, stack, layer, *where))
        elif not spots[-1].optional:
            missing = next(path for path in spots[-1].needs if path not in modules)
            near = difflib.get_close_matches(missing, sorted(modules), n=4, cutoff=0.4)
            raise BadInput(f"table {table.name!r} puts {name} at {missing!r}, which is not a module; near it: {near}")
    return tuple(located)


def _part(cut: Cut, stack: Stack, config: Any) -> FusedPart:
    """The part of a fused output with its numbers, in which `heads` is the stack's number of key-value heads."""
    formulas = (*cut.sizes, *([cut.per] if cut.per else []))
    heads = read_number(stack.heads, config) if any({"head", "heads"} & set(text.split()) for text in formulas) else 0
    sizes = tuple(read_number(size, config, {"heads": heads}) for size in cut.sizes)
    blocks = heads if cut.per == "head" else read_number(cut.per, config, {"heads": heads}) if cut.per else 1
    return FusedPart(cut.index, sizes, blocks)


def _layers(table: Table, stack: Stack, config: Any, base: str, modules: frozenset[str]) -> tuple[str, ...]:
    """Values of `{layer}` in a stack: the numbers of its layers, or the paths of its blocks."""
    if not stack.blocks:
        return tuple(map(str, range(read_number(stack.layers, config))))
    layers: list[str] = []
    for pattern in stack.blocks:
        whole = join(base, pattern.removesuffix("?"))
        matches = filter(None, map(re.compile(re.escape(whole).replace(r"\*", r"(\d+)")).fullmatch, modules))
        ordered = sorted(matches, key=lambda match: [int(number) for number in match.groups()])
        if not ordered and not pattern.endswith("?"):
            raise BadInput(f"table {table.name!r} has blocks at {quoted(pattern)}, where the model has none")
        layers += [match.string.removeprefix(f"{base}.") for match in ordered]
    return tuple(layers)


def _in_forward_order(patterns: Mapping[str, Any], layers: Mapping[str, int]) -> Iterator[tuple[str, int | None]]:
    """Each name with each of its layers: neighbouring names of one stack's layers are taken layer by layer."""
    for (stack, layer, *_), group in itertools.groupby(patterns, lambda name: split_name(name)[:2]):
        names = list(group)
        yield from (
            itertools.product(names, [None])
            if layer is None
            else ((name, index) for index in range(layers[stack]) for name in names)
        )


def _filled(spot: Spot, layer: str, base: str) -> Spot:
    """The spot with its layer filled in and its paths from the whole model."""

    def path(text: str) -> str:
        text = text.replace("{layer}", layer)
        return text[1:] if text.startswith("/") else join(base, text)

    until = None if spot.until is None else path(spot.until)
    return replace(spot, module=path(spot.module), until=until)


def join(base: str, path: str) -> str:
    """A path from the whole model, of one from the base model; `.` is the base model itself.

    >>> join("bert", "encoder.layer.0"), join("", "wte")
    ('bert.encoder.layer.0', 'wte')
    """
    return base if path == "." else f"{base}.{path}" if base else path


_TOKENS = (
    {"module", "width", "heads", "head_width"},
    frozenset({"layers", "blocks", "value_width", "limit", "pooler"}),
)
_STACK_KEYS = {"encoder": _TOKENS, "decoder": _TOKENS, "denoiser": ({"blocks"}, frozenset({"width"}))}
"""Required and optional entries of each stack."""


def _table(name: str, data: Any) -> Table:
    entries = _mapping("a table", data, {"serves", "kind", "stacks", "places"}, frozenset(_LISTS))
    kind = entries["kind"]
    if kind not in BACKBONE_KINDS:
        raise unknown("kind of backbone", str(kind), BACKBONE_KINDS)
    stacks = _mapping("stacks", entries["stacks"], set(BACKBONE_KINDS[kind]))
    places = {pattern: _spots(pattern, spots, stacks) for pattern, spots in _named(entries["places"]).items()}
    serves = entries["serves"]
    if not isinstance(serves, list) or not all(isinstance(model_type, str) for model_type in serves):
        raise BadInput(f"serves is {quoted(serves)}; expected a list of model types, as in [llama, mistral]")
    read = {stack: _stack(stack, stacks[stack]) for stack in BACKBONE_KINDS[kind]}
    return Table(
        name, tuple(serves), kind, read, places, **{key: _patterns(key, entries.get(key, [])) for key in _LISTS}
    )


_LISTS = ("without", "repeated", "unbatched")
"""Optional entries of a table, each a list of patterns."""


def _patterns(key: str, data: Any) -> tuple[str, ...]:
    if not isinstance(data, list) or not all(isinstance(pattern, str) for pattern in data):
        raise BadInput(f"{key} is {quoted(data)}; expected a list of patterns, `*` standing for anything")
    return tuple(data)


def _mapping(what: str, data: Any, keys: set[str], optional: frozenset[str] = frozenset()) -> dict[str, Any]:
    """The data, if it is a mapping with all of the keys, perhaps the optional ones, and no others."""
    if not isinstance(data, Mapping):
        raise BadInput(f"{what} is {quoted(data)}; expected a mapping with the keys {', '.join(sorted(keys))}")
    for key in data:
        if key not in keys | optional:
            raise unknown(f"key of {what}", str(key), keys | optional)
    if missing := sorted(keys - data.keys()):
        raise BadInput(f"{what} lacks the key{'s' if len(missing) > 1 else ''} {', '.join(missing)}")
    return dict(data)


def _named(places: Any) -> Mapping[str, Any]:
    if not isinstance(places, Mapping) or not places or not all(isinstance(name, str) for name in places):
        raise BadInput("places is not a mapping of names to module paths, as in {embedding: embed_tokens}")
    return places


def _stack(name: str, data: Any) -> Stack:
    entries = _mapping(f"stack {name}", data, *_STACK_KEYS[name])
    numbers = {key: _number(key, entries[key]) for key in entries.keys() - {"module", "pooler", "blocks"}}
    for key in ("module", "pooler"):
        if key in entries and not isinstance(entries[key], str):
            raise BadInput(f"{key} of stack {name} is {entries[key]!r}; expected a module path")
    if ("layers" in entries) == ("blocks" in entries):
        raise BadInput(f"stack {name} needs either layers, a number, or blocks, the module paths of the layers")
    return Stack(**(entries | numbers | ({"blocks": _blocks(entries["blocks"])} if "blocks" in entries else {})))


def _blocks(data: Any) -> tuple[str, ...]:
    patterns = data if isinstance(data, list) else [data]
    for pattern in patterns:
        if (
            not isinstance(pattern, str)
            or re.fullmatch(r"\w+(?:\.(?:\w+|\*))*\??", pattern) is None
            or "*" not in pattern
        ):
            raise BadInput(
                f"blocks are at {quoted(pattern)}; expected a module path with a '*' for each number, as blocks.*"
            )
    return tuple(patterns)


def _number(key: str, data: Any) -> Number:
    for candidate in data or [data] if isinstance(data, list) else [data]:
        if isinstance(candidate, bool) or not (isinstance(candidate, int) or is_formula(candidate)):
            raise BadInput(
                f"{key} is {quoted(candidate)}; expected a number, an attribute of the configuration, "
                "or 'attribute / attribute'"
            )
    return tuple(data) if isinstance(data, list) else data


def _spots(pattern: str, data: Any, stacks: Mapping[str, Any]) -> tuple[str, ...]:
    """One place's alternatives, checked: its name, its stack, and the notation of each."""
    stack, layer, kind = split_name(pattern)
    if kind not in KINDS and not kind.startswith(OTHER):
        raise unknown("kind of place", kind, [*KINDS, f"{OTHER}*"])
    if stack and stack not in stacks:
        raise unknown("stack", stack, stacks)
    if layer not in (None, "{layer}"):
        raise BadInput(
            f"{quoted(pattern)} names one layer; write {{layer}}, and a '?' where not every layer has the module"
        )
    alternatives = tuple(data) if isinstance(data, list) else (data,)
    for text in alternatives:
        if not isinstance(text, str):
            raise BadInput(f"{pattern} is {quoted(text)}; expected a module path")
        spot = read_spot(text)
        if spot.part:
            _check_cut(text, spot.part, stack)
        open_layers = ["{layer}" in path for path in spot.paths]
        if set(open_layers) != {layer is not None}:
            raise BadInput(f"{pattern}: {text}: {{layer}} stands in the name or in the path, but not in both")
    return alternatives


def _check_cut(text: str, cut: Cut, stack: str) -> None:
    """Refuses sizes that are not formulas, and a part outside the stacks, which have the heads."""
    formulas = (*cut.sizes, *([cut.per] if cut.per else []))
    if not stack or not all(map(is_formula, formulas)):
        raise BadInput(
            f"{text!r} is not a valid part (expected numbers or attributes of the configuration, in a stack)"
        )
