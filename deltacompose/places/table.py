"""Tables: how the places of one family of models map to its module paths, as data.

A table is written as one YAML mapping:

    serves: [llama, mistral]               # the `model_type` of the configurations that it fits
    kind: decoder                          # encoder | decoder | encoder-decoder | denoiser
    stacks:
      decoder:
        module: .                          # takes the embedded tokens; `.` is the base model
        layers: num_hidden_layers          # numbers are attributes of the configuration,
        width: hidden_size                 # joined by + - * / from left to right,
        heads: num_key_value_heads         # or a list, of which the first that exists is taken
        head_width: [head_dim, hidden_size / num_attention_heads]
        limit: n_positions                 # longest input, where a position table sets one (optional)
        pooler: pooler                     # a module that reads the stack's output (optional)
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
import operator
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import reduce
from pathlib import Path
from typing import Any

import yaml

from deltacompose.errors import BadInput, quoted, unknown
from deltacompose.formats.yaml_files import read_yaml
from deltacompose.places.notation import KINDS, Place, Spot, read_spot, split_name

Number = int | str | tuple[int | str, ...]
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

    A denoiser's has patterns of paths instead, `blocks`, and perhaps a width.
    """

    module: str | None = None
    layers: Number = ()
    width: Number = ()
    heads: Number = ()
    head_width: Number = ()
    limit: Number | None = None
    pooler: str | None = None
    blocks: tuple[str, ...] = ()


@dataclass(frozen=True, eq=False)
class Table:
    """A family's places as module paths. Equal when it says the same; `str` gives it as YAML to paste into a study."""

    name: str
    serves: tuple[str, ...]
    kind: str
    stacks: Mapping[str, Stack]
    places: Mapping[str, tuple[str, ...]]

    @property
    def data(self) -> dict[str, Any]:
        """The table as plain data: what `read_table` takes."""
        stacks = {
            name: {key: _plain(value) for key, value in vars(stack).items() if value not in (None, ())}
            for name, stack in self.stacks.items()
        }
        places = {name: _plain(spots) for name, spots in self.places.items()}
        return {"serves": list(self.serves), "kind": self.kind, "stacks": stacks, "places": places}

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
        modules: the paths of all modules of the whole model.

    Raises:
        BadInput: a place lies at no module of the model, or a number of the table is not in the configuration.
    """
    layers = {name: _layers(table, stack, config, base, modules) for name, stack in table.stacks.items()}
    found = []
    for pattern, layer in _in_forward_order(table.places, {name: len(paths) for name, paths in layers.items()}):
        stack, _, kind = split_name(pattern)
        path = "" if layer is None else layers[stack][layer]
        spots = [_filled(read_spot(text), path, base) for text in table.places[pattern]]
        spot = next((spot for spot in spots if modules.issuperset(spot.paths)), None)
        name = pattern.replace("{layer}", str(layer))
        if spot is not None:
            found.append(Place(name, kind, stack, layer, spot.module, spot.until, spot.part, spot.port))
        elif not spots[-1].optional:
            missing = next(path for path in spots[-1].paths if path not in modules)
            near = difflib.get_close_matches(missing, sorted(modules), n=4, cutoff=0.4)
            raise BadInput(f"table {table.name!r} puts {name} at {missing!r}, which is no module; near it: {near}")
    return tuple(found)


def _layers(table: Table, stack: Stack, config: Any, base: str, modules: frozenset[str]) -> tuple[str, ...]:
    """What `{layer}` stands for in each layer of a stack: its number, or the path of the block."""
    if not stack.blocks:
        return tuple(map(str, range(read_number(stack.layers, config))))
    found: list[str] = []
    for pattern in stack.blocks:
        whole = join(base, pattern.removesuffix("?"))
        matches = filter(None, map(re.compile(re.escape(whole).replace(r"\*", r"(\d+)")).fullmatch, modules))
        ordered = sorted(matches, key=lambda match: [int(number) for number in match.groups()])
        if not ordered and not pattern.endswith("?"):
            raise BadInput(f"table {table.name!r} has blocks at {quoted(pattern)}, where the model has none")
        found += [match.string.removeprefix(f"{base}.") for match in ordered]
    return tuple(found)


def read_number(number: Number, config: Any) -> int:
    """A number of a table, read from a configuration: `n_head`, `hidden_size / n_head`, 64, or a list of such.

    >>> from types import SimpleNamespace
    >>> read_number(("head_dim", "hidden_size / heads"), SimpleNamespace(hidden_size=64, heads=4))
    16
    """
    for alternative in number if isinstance(number, tuple) else (number,):
        if isinstance(alternative, int):
            return alternative
        words = alternative.split()
        given = [int(word) if word.isdigit() else getattr(config, word, None) for word in words[::2]]
        operands = [one for one in given if isinstance(one, int)]
        if len(operands) == len(given):
            steps = zip(words[1::2], operands[1:])
            return reduce(lambda left, step: _OPERATORS[step[0]](left, step[1]), steps, operands[0])
    raise BadInput(f"{type(config).__name__} has no number {_plain(number)!r}")


_OPERATORS: Mapping[str, Callable[[int, int], int]] = {
    "+": operator.add,
    "-": operator.sub,
    "*": operator.mul,
    "/": operator.floordiv,
}


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
    return Spot(path(spot.module), until, spot.part, spot.port, spot.optional)


def join(base: str, path: str) -> str:
    """A path from the whole model, of one from the base model; `.` is the base model itself."""
    return base if path == "." else f"{base}.{path}" if base else path


_TOKENS = ({"module", "layers", "width", "heads", "head_width"}, frozenset({"limit", "pooler"}))
_STACK_KEYS = {"encoder": _TOKENS, "decoder": _TOKENS, "denoiser": ({"blocks"}, frozenset({"width"}))}
"""What each stack must say, and what it may say besides."""


def _table(name: str, data: Any) -> Table:
    given = _mapping("a table", data, {"serves", "kind", "stacks", "places"})
    kind = given["kind"]
    if kind not in BACKBONE_KINDS:
        raise unknown("kind of backbone", str(kind), BACKBONE_KINDS)
    stacks = _mapping("stacks", given["stacks"], set(BACKBONE_KINDS[kind]))
    places = {pattern: _spots(pattern, spots, stacks) for pattern, spots in _named(given["places"]).items()}
    serves = given["serves"]
    if not isinstance(serves, list) or not all(isinstance(one, str) for one in serves):
        raise BadInput(f"serves is {quoted(serves)}; expected a list of model types, as in [llama, mistral]")
    return Table(name, tuple(serves), kind, {one: _stack(one, stacks[one]) for one in BACKBONE_KINDS[kind]}, places)


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
        raise BadInput("places is no mapping of names to module paths, as in {embedding: embed_tokens}")
    return places


def _stack(name: str, data: Any) -> Stack:
    given = _mapping(f"stack {name}", data, *_STACK_KEYS[name])
    numbers = {key: _number(key, given[key]) for key in given.keys() - {"module", "pooler", "blocks"}}
    for key in ("module", "pooler"):
        if key in given and not isinstance(given[key], str):
            raise BadInput(f"{key} of stack {name} is {given[key]!r}; expected a module path")
    return Stack(**(given | numbers | ({"blocks": _blocks(given["blocks"])} if "blocks" in given else {})))


def _blocks(data: Any) -> tuple[str, ...]:
    patterns = data if isinstance(data, list) else [data]
    for one in patterns:
        if not isinstance(one, str) or re.fullmatch(r"\w+(?:\.(?:\w+|\*))*\??", one) is None or "*" not in one:
            raise BadInput(
                f"blocks are at {quoted(one)}; expected a module path with a '*' for each number, as blocks.*"
            )
    return tuple(patterns)


def _number(key: str, data: Any) -> Number:
    for one in data or [data] if isinstance(data, list) else [data]:
        if isinstance(one, bool) or not (isinstance(one, int) or _is_formula(one)):
            raise BadInput(
                f"{key} is {quoted(one)}; expected a number, a configuration's attribute, or 'attribute / attribute'"
            )
    return tuple(data) if isinstance(data, list) else data


def _is_formula(text: Any) -> bool:
    words = text.split() if isinstance(text, str) else []
    return (
        len(words) % 2 == 1
        and set(words[1::2]) <= _OPERATORS.keys()
        and all(w.isidentifier() or w.isdigit() for w in words[::2])
    )


def _spots(pattern: str, data: Any, stacks: Mapping[str, Any]) -> tuple[str, ...]:
    """One place's alternatives, checked: its name, its stack, and the notation of each."""
    stack, layer, kind = split_name(pattern)
    if kind not in KINDS:
        raise unknown("kind of place", kind, KINDS)
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
        open_layers = ["{layer}" in path for path in read_spot(text).paths]
        if set(open_layers) != {layer is not None}:
            raise BadInput(f"{pattern}: {text}: {{layer}} stands in the name or in the path, but not in both")
    return alternatives


def _plain(value: Any) -> Any:
    """A tuple as a list, of one as its only element: what YAML shows."""
    if not isinstance(value, tuple):
        return value
    return value[0] if len(value) == 1 else list(value)
