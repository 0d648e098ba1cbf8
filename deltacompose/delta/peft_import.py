"""peft's adapters as deltas of the native methods, for the places that their modules are."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from deltacompose.backbone.backbone import Backbone, Place
from deltacompose.composition import Composition, configured
from deltacompose.delta.merge import slice_of
from deltacompose.delta.peft_folder import Adapter
from deltacompose.delta.peft_lora import imported_lora
from deltacompose.delta.peft_modules import Imported, Methods, Weighted, by_module, matrix_places, together
from deltacompose.delta.peft_options import check_options
from deltacompose.delta.peft_saved import changed_parts, saved_changes
from deltacompose.delta.prefix_positions import Prefixes, attentions, check_window, turned
from deltacompose.errors import BadInput, quoted, unknown
from deltacompose.formats.patterns import matches


def expressed(adapter: Adapter, backbone: Backbone, methods: Methods) -> Imported:
    """The adapter as native methods with its weights.

    Raises:
        BadInput: a type that is not imported, an option beyond the native methods, a module that is not a place of the
            backbone, or a tensor of another shape than the backbone's.
    """
    if adapter.type not in _READERS:
        raise unknown("importable peft type", adapter.type, _READERS)
    check_options(adapter.config)
    return _READERS[adapter.type](adapter, backbone, methods)


# (IA)³


def _ia3(adapter: Adapter, backbone: Backbone, methods: Methods) -> Imported:
    inputs = adapter.config.get("feedforward_modules") or []
    tensors = by_module(adapter)
    scales: dict[Place, Tensor] = {}
    for module, own in tensors.factors.items():
        if "ia3_l" not in own:
            raise BadInput(f"the adapter has tensors of another type for {module}: {', '.join(sorted(own))}")
        for place in _scaled(backbone, module, _targeted(module, inputs)):
            scale = slice_of(backbone, place).take(own["ia3_l"].flatten())
            if len(scale) != backbone.width(place):
                raise BadInput(
                    f"the adapter scales {len(scale)} features at {module}, and {backbone.name} has "
                    f"{backbone.width(place)} there"
                )
            scales[place] = scales.get(place, torch.ones(())) * scale
    kinds = tuple(dict.fromkeys(place.kind for place in scales))
    weights = {
        f"{place.name}.scale": scales.get(place, torch.ones(backbone.width(place))) - 1
        for place in (backbone.places(*kinds) if kinds else ())
    }
    parts: list[Weighted] = [(configured(methods["ia3"], {"places": kinds}), weights)] if kinds else []
    changes = saved_changes(tensors.saved, backbone, adapter.config, {})
    return together(parts + changed_parts(changes, backbone, methods))


def _scaled(backbone: Backbone, module: str, of_input: bool) -> list[Place]:
    """The places that a scale of a module's output, or of its input, is a scale of.

    The input of an attention's output projection is a mean of values, feature by feature, so where every head has
    values of its own, scaling the one is scaling the other.
    """
    outputs = [place for place in matrix_places(backbone, module) if place.kind.endswith("attention.output")]
    if of_input and outputs:
        values = backbone.place(outputs[0].name.removesuffix("output") + "value")
        if backbone.width(values) == backbone.parameter(outputs[0], "weight").shape[1]:
            return [values]
    return matrix_places(backbone, module, "input" if of_input else "output")


def _targeted(module: str, targets: Any) -> bool:
    """peft's rule: a text is a pattern, a list is of names or their ends."""
    if isinstance(targets, str):
        return matches(targets, module, "feedforward_modules")
    return any(module.endswith(target) for target in targets)


# Prompts and prefixes


def _prompt(adapter: Adapter, backbone: Backbone, methods: Methods) -> Imported:
    rows = _embeddings(adapter)[: int(adapter.config["num_virtual_tokens"])].float()
    if adapter.type == "MULTITASK_PROMPT_TUNING":
        cols, tasks = adapter.tensors["prefix_task_cols"], adapter.tensors["prefix_task_rows"]
        if len(cols) != 1:
            raise BadInput(f"the adapter is of {len(cols)} tasks; a delta is of one")
        rows = rows * (cols[0, : len(rows)] @ tasks[0])
    if rows.shape[1] != backbone.embedding_width:
        raise BadInput(
            f"the adapter's prompt is {rows.shape[1]} wide, and {backbone.name}'s embeddings are "
            f"{backbone.embedding_width}"
        )
    part = configured(methods["prompt"], {"length": len(rows)})
    return Imported(Composition(((part,),)), {f"0.0.{backbone.streams[0]}.prompt": rows.clone()}, {}, rows)


def _prefix(adapter: Adapter, backbone: Backbone, methods: Methods) -> Imported:
    if backbone.kind != "decoder":
        raise BadInput(f"prefixes are imported for decoders alone; {backbone.name} is an {backbone.kind}")
    check_window(backbone)
    rows, places = _embeddings(adapter).float(), attentions(backbone)
    heads, width = backbone.heads(places[0])
    if rows.shape[1] != len(places) * 2 * heads * width:
        raise BadInput(
            f"the adapter's prefix is {rows.shape[1]} wide, and {backbone.name} has {len(places)} attentions of "
            f"{heads} heads of width {width}, which makes {len(places) * 2 * heads * width}"
        )
    pieces = rows.unflatten(1, (-1, heads, width)).permute(1, 2, 0, 3)
    theirs: Prefixes = {place.name: (pieces[2 * i], pieces[2 * i + 1]) for i, place in enumerate(places)}
    ours = {name: (keys.cpu(), values) for name, (keys, values) in turned(backbone, theirs, -1).items()}
    weights: dict[str, Tensor] = {}
    for name, (keys, values) in ours.items():
        weights |= {f"0.0.{name}.keys": keys.clone(), f"0.0.{name}.values": values.clone()}
    part = configured(methods["prefix"], {"length": len(rows), "places": ("attention",)})
    return Imported(Composition(((part,),)), weights, ours)


_PROMPTED = ("prompt_embeddings", "prefix_task_cols", "prefix_task_rows")
"""The tensors of prompts and prefixes."""


def _embeddings(adapter: Adapter) -> Tensor:
    saved = adapter.config.get("modules_to_save") or ()
    further = sorted(name for name in adapter.tensors if name not in _PROMPTED)
    if saved or further:
        held = f"modules_to_save={saved!r}" if saved else f"the tensor {quoted(further[0])}"
        raise BadInput(
            f"cannot import an adapter of the type {adapter.type} with {held} because it trains more than what stands "
            "before the input; train it without, or train a LoRA, whose saved modules are imported"
        )
    if "prompt_embeddings" not in adapter.tensors:
        raise BadInput(f"the adapter has no prompt_embeddings; it has {', '.join(sorted(adapter.tensors))}")
    return adapter.tensors["prompt_embeddings"]


_READERS: Mapping[str, Callable[[Adapter, Backbone, Methods], Imported]] = {
    "LORA": imported_lora,
    "IA3": _ia3,
    "PROMPT_TUNING": _prompt,
    "P_TUNING": _prompt,
    "MULTITASK_PROMPT_TUNING": _prompt,
    "PREFIX_TUNING": _prefix,
}
