"""peft's adapters as deltas of the native methods, for the places that their modules are."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from deltacompose.backbone.backbone import Backbone, Place
from deltacompose.composition import Composition, Part, configured
from deltacompose.delta.merge import slice_of
from deltacompose.delta.peft_folder import Adapter
from deltacompose.delta.prefix_positions import Prefixes, attentions, turned
from deltacompose.errors import BadInput, unknown

Methods = Mapping[str, type[Part]]
_KEY = re.compile(r"base_model\.model\.(?P<module>.+?)\.(?P<name>lora_[A-Za-z_]+|ia3_l)(?P<rest>\.weight)?")
BEYOND = (
    *("modules_to_save", "lora_bias", "layer_replication", "trainable_token_indices", "target_parameters"),
    *("alora_invocation_tokens", "use_qalora", "use_bdlora", "arrow_config", "kasa_config", "monteclora_config"),
)
"""What peft's LoRA and IA3 may do beside, and the native methods do not."""


@dataclass(frozen=True, eq=False)
class Imported:
    """An expression with its weights, and the prefixes among them by place."""

    expression: Composition
    weights: Mapping[str, Tensor]
    prefixes: Prefixes = field(default_factory=dict)


def expressed(adapter: Adapter, backbone: Backbone, methods: Methods) -> Imported:
    """The adapter as native methods with its weights.

    Raises:
        BadInput: a type that is not imported, an option beyond the native methods, a module that is no place of the
            backbone, or a tensor of another shape than the backbone's.
    """
    if adapter.type not in _READERS:
        raise unknown("importable peft type", adapter.type, _READERS)
    for option in BEYOND:
        if adapter.config.get(option):
            raise BadInput(f"peft's option {option}={adapter.config[option]!r} goes beyond the native methods")
    if adapter.config.get("bias", "none") != "none":
        raise BadInput(f"peft's option bias={adapter.config['bias']!r} trains biases of the model; none are imported")
    return _READERS[adapter.type](adapter, backbone, methods)


# LoRA


@dataclass(frozen=True, eq=False)
class Factors:
    """A place's ΔW = up · down, with DoRA's magnitudes if it has them."""

    up: Tensor
    down: Tensor
    magnitude: Tensor | None = None


def _lora(adapter: Adapter, backbone: Backbone, methods: Methods) -> Imported:
    found: dict[Place, Factors] = {}
    for module, own in _by_module(adapter).items():
        factors = _factors(adapter.config, module, own)
        for place in _places(backbone, module):
            found[place] = _of_place(backbone, place, factors)
    ranks: dict[str, int] = {}
    for place, factors in found.items():
        ranks[place.kind] = max(ranks.get(place.kind, 0), len(factors.down))
    parts: list[Part] = []
    weights: dict[str, Tensor] = {}
    for index, rank in enumerate(sorted(set(ranks.values()), reverse=True)):
        kinds = tuple(kind for kind, own in ranks.items() if own == rank)
        dora = bool(adapter.config.get("use_dora"))
        settings: dict[str, Any] = {"rank": rank, "alpha": float(rank), "places": kinds}
        parts.append(configured(methods["lora"], settings | ({"dora": True} if dora else {})))
        for place in backbone.places(*kinds):
            named = _padded(backbone, place, found.get(place), rank, dora)
            weights |= {f"0.{index}.{place.name}.{name}": x for name, x in named.items()}
    return Imported(Composition((tuple(parts),)), weights)


def _factors(config: Mapping[str, Any], module: str, own: Mapping[str, Tensor]) -> Factors:
    """One module's factors, the scale in `up`."""
    if "lora_embedding_A" in own:
        up, down = own["lora_embedding_A"].mT, own["lora_embedding_B"].mT
    else:
        up, down = own["lora_B"], own["lora_A"]
    rank = len(down)
    alpha = next(
        (x for key, x in (config.get("alpha_pattern") or {}).items() if re.fullmatch(rf"(.*\.)?({key})", module)),
        config["lora_alpha"],
    )
    scale = alpha / (math.sqrt(rank) if config.get("use_rslora") else rank)
    return Factors(up * scale, down, own.get("lora_magnitude_vector"))


def _of_place(backbone: Backbone, place: Place, factors: Factors) -> Factors:
    """The rows of a fused module's factors that are the place's; refuses other shapes."""
    where = slice_of(backbone, place)
    up = where.take(factors.up.mT).mT
    magnitude = None if factors.magnitude is None else where.take(factors.magnitude.flatten())
    found, wanted = (up.shape[0], factors.down.shape[1]), tuple(backbone.parameter(place, "weight").shape)
    if found != wanted:
        raise BadInput(f"the adapter's change at {place.module} is {found}, and {backbone.name} has {wanted} there")
    return Factors(up, factors.down, magnitude)


def _padded(backbone: Backbone, place: Place, factors: Factors | None, rank: int, dora: bool) -> dict[str, Tensor]:
    """The native tensors of a place; zeros where the adapter leaves it as it is, or is of a lower rank."""
    frozen = backbone.parameter(place, "weight").detach().float().cpu()
    up, down = torch.zeros(frozen.shape[0], rank), torch.zeros(rank, frozen.shape[1])
    magnitude = torch.zeros(frozen.shape[0])
    if factors is not None:
        up[:, : len(factors.down)], down[: len(factors.down)] = factors.up, factors.down
        if factors.magnitude is not None:
            magnitude = factors.magnitude - frozen.norm(dim=1)
    return {"down": down, "up": up} | ({"magnitude": magnitude} if dora else {})


# (IA)³


def _ia3(adapter: Adapter, backbone: Backbone, methods: Methods) -> Imported:
    inputs = adapter.config.get("feedforward_modules") or []
    found: dict[Place, Tensor] = {}
    for module, own in _by_module(adapter).items():
        for place in _scaled(backbone, module, _targeted(module, inputs)):
            scale = slice_of(backbone, place).take(own["ia3_l"].flatten())
            if len(scale) != backbone.width(place):
                raise BadInput(
                    f"the adapter scales {len(scale)} features at {module}, and {backbone.name} has "
                    f"{backbone.width(place)} there"
                )
            found[place] = found.get(place, torch.ones(())) * scale
    kinds = tuple(dict.fromkeys(place.kind for place in found))
    weights = {
        f"0.0.{place.name}.scale": found.get(place, torch.ones(backbone.width(place))) - 1
        for place in backbone.places(*kinds)
    }
    return Imported(Composition(((configured(methods["ia3"], {"places": kinds}),),)), weights)


def _scaled(backbone: Backbone, module: str, of_input: bool) -> list[Place]:
    """The places that a scale of a module's output, or of its input, is a scale of.

    What goes into an attention's output projection is a mean of values, feature by feature, so where every head has
    values of its own, scaling the one is scaling the other.
    """
    outputs = [place for place in _places(backbone, module) if place.kind.endswith("attention.output")]
    if of_input and outputs:
        values = backbone.place(outputs[0].name.removesuffix("output") + "value")
        if backbone.width(values) == backbone.parameter(outputs[0], "weight").shape[1]:
            return [values]
    return _places(backbone, module, "input" if of_input else "output")


def _targeted(module: str, targets: Any) -> bool:
    """peft's rule: a text is a pattern, a list is of names or their ends."""
    if isinstance(targets, str):
        return re.fullmatch(targets, module) is not None
    return any(module == one or module.endswith(f".{one}") for one in targets)


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
    return Imported(Composition(((part,),)), {f"0.0.{backbone.streams[0]}.prompt": rows.clone()})


def _prefix(adapter: Adapter, backbone: Backbone, methods: Methods) -> Imported:
    if backbone.kind != "decoder":
        raise BadInput(f"prefixes are imported for decoders alone; {backbone.name} is an {backbone.kind}")
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


def _embeddings(adapter: Adapter) -> Tensor:
    if "prompt_embeddings" not in adapter.tensors:
        raise BadInput(f"the adapter has no prompt_embeddings; it has {', '.join(sorted(adapter.tensors))}")
    return adapter.tensors["prompt_embeddings"]


# Modules and places


def _by_module(adapter: Adapter) -> dict[str, dict[str, Tensor]]:
    """An adapter's tensors by the path of their module."""
    found: dict[str, dict[str, Tensor]] = {}
    for name, tensor in adapter.tensors.items():
        match = _KEY.fullmatch(name)
        if match is None:
            raise BadInput(f"the adapter has a tensor {name!r}, which is none of peft's {adapter.type}")
        found.setdefault(match["module"], {})[match["name"]] = tensor.float()
    return found


def _places(backbone: Backbone, module: str, port: str = "output") -> list[Place]:
    """The places that are a module: one, or the slices of a fused one."""
    found = [
        place
        for place in backbone.places()
        if place.module == module and place.until is None and place.port == port and _linear(backbone, place)
    ]
    if not found:
        near = {place.module for place in backbone.places() if place.port == port and _linear(backbone, place)}
        raise unknown(f"place of {backbone.name} that is the {port} of module", module, near)
    return found


def _linear(backbone: Backbone, place: Place) -> bool:
    weight = getattr(backbone.module(place), "weight", None)
    return isinstance(weight, Tensor) and weight.ndim == 2


_READERS: Mapping[str, Callable[[Adapter, Backbone, Methods], Imported]] = {
    "LORA": _lora,
    "IA3": _ia3,
    "PROMPT_TUNING": _prompt,
    "P_TUNING": _prompt,
    "MULTITASK_PROMPT_TUNING": _prompt,
    "PREFIX_TUNING": _prefix,
}
