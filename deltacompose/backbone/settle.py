"""A derived table settled by a forward pass: places in order, idle ones left out, the layout of fused matrices."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from typing import Any

import torch

from deltacompose.backbone.backbone import Backbone, bind
from deltacompose.backbone.table_checks import has_the_residual, stirred, true_parts_of_attention, whole_networks
from deltacompose.backbone.trace import OnModel, begins_with_rows
from deltacompose.errors import BadInput
from deltacompose.places.notation import OTHER, Place
from deltacompose.places.numbers import read_number
from deltacompose.places.table import Table, read_table

LAST = 1 << 20
"""Where bare parameters stand, which no pass orders."""


def settled(model: Any, table: Table, fused: tuple[str, ...]) -> Table:
    """The table with its places in the order in which one pass runs them, without idle ones.

    Args:
        fused: ends of the names of modules that may hold queries, keys and values.

    Raises:
        BadInput: the model cannot be run on tokens.
    """
    backbone = bind(model, table)
    try:
        if read := _read_from_outside(backbone):
            table = read_table(table.name, table.data | {"places": table.data["places"] | read})
            backbone = bind(model, table)
        passed = OnModel(backbone).passed
    except (RuntimeError, TypeError, ValueError, AttributeError, LookupError) as error:
        reason = " ".join(str(error).split())[:160]
        raise BadInput(
            f"no table can be derived for {type(model).__name__} because it cannot be run on tokens ({reason}); "
            "write a table for it"
        ) from error
    index = {name: number for number, name in enumerate(passed)}
    order = _order(backbone, index)
    ran = [place for place in backbone.places() if place.name in index]
    idle = [place for place in backbone.places() if _pattern(place) not in order]
    data = table.data | {
        "places": {pattern: table.data["places"][pattern] for pattern in sorted(order, key=order.__getitem__)},
        "without": [*table.without, *_parameters(backbone, idle)],
        "repeated": list(dict.fromkeys(place.kind for place in ran if f"{place.name} again" in index)),
        "unbatched": list(
            dict.fromkeys(
                place.kind
                for place in ran
                if not begins_with_rows(tuple(passed[place.name][1].shape)) and not place.kind.endswith("positions")
            )
        ),
    }
    return _with_parts(model, _before_residuals(model, read_table(table.name, data)), fused)


def _read_from_outside(backbone: Backbone) -> dict[str, str]:
    """New spots, by pattern, of places whose weight is read although their module is never called.

    MobileBERT multiplies by the weight of its head, joined with another: each becomes a bare parameter of the module
    around them that is called. An idle place whose weight does not change the output is not among them.
    """
    subject = OnModel(backbone)
    called = _called(subject)
    read: dict[str, str] = {}
    for place in backbone.places():
        pattern = _pattern(place)
        spot = backbone.table.data["places"][pattern]
        plain = isinstance(spot, str) and place.port == "output" and place.until is None and place.part is None
        if not plain or place.module in called or pattern in read or not backbone.parameter_names(place):
            continue
        outer = place.module.rpartition(".")[0]
        while outer and outer not in called:
            outer = outer.rpartition(".")[0]
        inner = place.module.removeprefix(f"{outer}.")
        start = spot.removesuffix("?").removesuffix(f".{inner}")
        bare = replace(place, module=outer, port="parameter", parameter=f"{inner}.weight")
        if outer and start != spot and not torch.equal(subject.changed(bare, stirred), subject.untouched):
            read[pattern] = f"{start}:{inner}.weight" + "?" * spot.endswith("?")
    return read


def _called(subject: OnModel) -> set[str]:
    """The paths of the modules that one pass calls."""
    called: set[str] = set()

    def note(path: str, *_: Any) -> None:
        called.add(path)

    handles = [module.register_forward_pre_hook(partial(note, path)) for path, module in subject.model.named_modules()]
    try:
        _ = subject.untouched
    finally:
        for handle in handles:
            handle.remove()
    return called


def _before_residuals(model: Any, table: Table) -> Table:
    """The table with whole networks that add the residual themselves ending at their last projection."""
    places = dict(table.data["places"])
    for place, last in whole_networks(bind(model, table)):
        whole, end = places[_pattern(place)], places[_pattern(last)]
        if (
            isinstance(whole, str)
            and " .. " not in whole
            and has_the_residual(OnModel(bind(model, table)), place, last)
        ):
            places[_pattern(place)] = f"{whole.removesuffix('?')} .. {end}"
    return read_table(table.name, table.data | {"places": places})


def _order(backbone: Backbone, index: Mapping[str, int]) -> dict[str, tuple[int, int]]:
    """For each name in the table that a pass runs, where: of a layer's places that of the first layer, then within."""
    starts: dict[tuple[str, int | None], int] = {}
    for place in backbone.places():
        key = (place.stack, place.layer)
        starts[key] = min(starts.get(key, LAST), index.get(place.name, LAST))
    first = {
        stack: min(start for (own, layer), start in starts.items() if own == stack and layer is not None)
        for stack, layer in starts
        if layer is not None
    }
    order: dict[str, tuple[int, int]] = {}
    for place in backbone.places():
        at = LAST if place.port == "parameter" else index.get(place.name)
        if at is not None and place.layer is None:
            order.setdefault(_pattern(place), (at, 0))
        elif at is not None:
            within = at if at == LAST else at - starts[place.stack, place.layer]
            order.setdefault(_pattern(place), (first[place.stack], within))
    return order


def _pattern(place: Place) -> str:
    """How a table names a place."""
    stack = f"{place.stack}." if place.stack else ""
    return f"{stack}{'' if place.layer is None else '{layer}.'}{place.kind}"


def _parameters(backbone: Backbone, places: list[Place]) -> list[str]:
    """The names of the parameters of places that are left out."""
    paths = {place.module for place in places if backbone.parameter_names(place)}
    return sorted(
        f"{path}.{name}" for path in paths for name, _ in backbone.model.get_submodule(path).named_parameters()
    )


def _with_parts(model: Any, table: Table, fused: tuple[str, ...]) -> Table:
    """The table with queries, keys and values at the slices of a fused matrix, in the first layout that is one."""
    for pattern, spots in table.places.items():
        path = spots[0].removesuffix("?")
        if f".{OTHER}" in pattern and path.rpartition(".")[2] in fused:
            stack = pattern.partition(".")[0]
            for layout in _layouts(model.config, table, stack):
                tried = _replaced(table, pattern, stack, [path + layout.format(index) for index in range(3)])
                if _is_attention(model, tried):
                    return tried
    return table


def _layouts(config: Any, table: Table, stack: str) -> list[str]:
    """Queries, keys and values one after another, or those of each key-value head together."""
    heads, queries = read_number(table.stacks[stack].heads, config), read_number("num_attention_heads", config)
    whole = "[{}/3]" if heads == queries else f"[{{}} of {queries}, {heads}, {heads}]"
    return [whole, "[{}/3 per head]" if heads == queries else f"[{{}} of {queries // heads}, 1, 1 per head]"]


def _replaced(table: Table, pattern: str, stack: str, spots: list[str]) -> Table:
    """The table with three parts in place of a module of its own kind."""
    names = [f"{stack}.{{layer}}.attention.{part}" for part in ("query", "key", "value")]
    places: dict[str, Any] = {}
    for own, held in table.data["places"].items():
        places |= dict(zip(names, spots, strict=True)) if own == pattern else {own: held}
    return read_table(table.name, table.data | {"places": places})


def _is_attention(model: Any, table: Table) -> bool:
    try:
        subject = OnModel(bind(model, table))
        true_parts_of_attention(subject, 1)
    except (BadInput, RuntimeError):
        return False
    return True
