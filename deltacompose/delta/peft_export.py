"""Exports a delta as an adapter of peft: low-rank changes as LoRA, scales as (IA)³, tokens as a prompt.

A delta is known by what its edits do, not by the name of its method; so whatever is a low-rank change of weights is a
LoRA to peft, sums and stages included.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from deltacompose.backbone.backbone import Backbone, Place
from deltacompose.delta.delta import Delta
from deltacompose.delta.merge import Active, active_edits, slice_of
from deltacompose.delta.peft_folder import Adapter
from deltacompose.delta.peft_prompt_check import check_prompt
from deltacompose.delta.peft_tied import sharing
from deltacompose.delta.prefix_positions import Prefixes, attentions, check, check_window, turned
from deltacompose.errors import BadInput
from deltacompose.method.contract import Edit, KeyValueEdit, OutputEdit, TokenEdit, WeightEdit

KEY = "base_model.model."


def adapter(delta: Delta, backbone: Backbone) -> Adapter:
    """The delta as peft's adapter.

    Raises:
        BadInput: peft has no such type, or one folder of peft's cannot hold all of the delta.
    """
    edits = active_edits(delta, backbone)
    makers = dict.fromkeys(_maker(active) for active in edits)
    if len(makers) > 1:
        named = " and ".join(_TYPES[maker] for maker in makers)
        raise BadInput(
            f"{delta.expression} is {named} to peft, and a folder of peft's holds one type; "
            "export deltas of one kind each, or merge the changes of weights"
        )
    return next(iter(makers))(delta, backbone, edits)


def _maker(active: Active[Edit]) -> Callable[..., Adapter]:
    match active.edit:
        case WeightEdit(factors=factors) if factors is not None:
            return _lora
        case WeightEdit():
            raise BadInput(
                f"{active.part} is not a low-rank change of weights and has no type in peft; merge it instead"
            )
        case OutputEdit():
            return _ia3
        case TokenEdit():
            return _prompt
        case KeyValueEdit():
            return _prefix


# LoRA


def _lora(delta: Delta, backbone: Backbone, edits: Sequence[Active[WeightEdit]]) -> Adapter:
    factors: dict[tuple[str, ...], list[tuple[Tensor, Tensor]]] = {}
    for active in edits:
        place = active.edit.place
        if active.edit.factors is not None:
            pair = _fused(backbone, place, *active.edit.factors(active.tensors))
            factors.setdefault(sharing(backbone, place), []).append(pair)
    tensors: dict[str, Tensor] = {}
    ranks: dict[str, int] = {}
    for modules, pairs in factors.items():
        up, down = torch.cat([up for up, _ in pairs], 1), torch.cat([down for _, down in pairs])
        for module in modules:  # each that shares the matrix, as peft changes what it wraps and no more
            ranks[module] = len(down)
            tensors |= _named(backbone.model.get_submodule(module), module, up, down)
    usual = Counter(ranks.values()).most_common(1)[0][0]
    others = {module: rank for module, rank in ranks.items() if rank != usual}
    config = {
        "peft_type": "LORA",
        "r": usual,
        "lora_alpha": usual,  # the scale is in B
        "rank_pattern": others,
        "alpha_pattern": others,
        "target_modules": list(ranks),
        "lora_dropout": 0.0,
        "bias": "none",
        "fan_in_fan_out": any(isinstance(backbone.model.get_submodule(module), Conv1D) for module in ranks),
    }
    return Adapter(config, tensors)


def _fused(backbone: Backbone, place: Place, up: Tensor, down: Tensor) -> tuple[Tensor, Tensor]:
    """B with zeros for the rows of a fused matrix that are not the place's, and A."""
    if place.part is None:
        return up, down
    whole = up.new_zeros(up.shape[1], _outputs(backbone, place))
    return slice_of(backbone, place).put(whole, up.mT).mT, down


def _outputs(backbone: Backbone, place: Place) -> int:
    """The width of all that a place's module puts out, of which a fused one's place is a slice."""
    weight = backbone.module(place).get_parameter("weight")
    return weight.shape[1 if isinstance(backbone.module(place), Conv1D) else 0]


def _named(module: nn.Module, path: str, up: Tensor, down: Tensor) -> dict[str, Tensor]:
    if isinstance(module, nn.Embedding):
        return {f"{KEY}{path}.lora_embedding_A": up.mT, f"{KEY}{path}.lora_embedding_B": down.mT}
    return {f"{KEY}{path}.lora_A.weight": down, f"{KEY}{path}.lora_B.weight": up}


# (IA)³


def _ia3(delta: Delta, backbone: Backbone, edits: Sequence[Active[OutputEdit]]) -> Adapter:
    scales: dict[tuple[str, str], Tensor] = {}
    for active in edits:
        place, scale = active.edit.place, _scale(active, backbone)
        key = (place.module, place.port)
        whole = scale.new_ones(_outputs(backbone, place) if place.part else len(scale))
        whole = slice_of(backbone, place).put(whole, scale)
        scales[key] = scales.get(key, 1) * whole
    modules = [module for module, _ in scales]
    for module in modules:
        if modules.count(module) > 1:
            raise BadInput(f"{delta.expression} scales both input and output of {module}; peft's IA3 scales one")
    tensors = {
        f"{KEY}{module}.ia3_l": scale[None] if port == "input" else scale[:, None]
        for (module, port), scale in scales.items()
    }
    config = {
        "peft_type": "IA3",
        "target_modules": modules,
        "feedforward_modules": [module for module, port in scales if port == "input"],
        "fan_in_fan_out": any(isinstance(backbone.model.get_submodule(module), Conv1D) for module in modules),
    }
    return Adapter(config, tensors)


def _scale(active: Active[OutputEdit], backbone: Backbone) -> Tensor:
    """l of an output edit that is y ↦ l ⊙ y at a linear module; tried, as any function may stand in an edit."""
    edit = active.edit
    place = edit.place
    module = backbone.module(place)
    if place.until is None and isinstance(module, nn.Linear | Conv1D):
        width = backbone.width(place)
        inputs = width if place.port == "input" else backbone.parameter(place, "weight").shape[1]
        t = {name: x.cpu() for name, x in active.tensors.items()}
        source = torch.Generator().manual_seed(0)
        x, y = (torch.randn(2, 3, size, generator=source) for size in (inputs, width))
        scale: Tensor = edit.change(t, torch.zeros(1, 1, inputs), torch.ones(1, 1, width))[0, 0]
        edited = edit.change(t, y if place.port == "input" else x, y)
        if torch.allclose(edited, y * scale, rtol=1e-5, atol=1e-6):
            return scale
    raise BadInput(f"{active.part} at {place.name} is more than a scale of a linear layer and has no type in peft")


# Prompts and prefixes


def _prompt(delta: Delta, backbone: Backbone, edits: Sequence[Active[TokenEdit]]) -> Adapter:
    for active in edits:
        if active.edit.stream != backbone.streams[0]:
            raise BadInput(
                f"{active.part} is before the {active.edit.stream}; peft puts prompts before the input alone"
            )
    rows = torch.cat([active.edit.change(active.tensors) for active in edits])
    check_prompt(backbone, rows, delta)
    config = {"peft_type": "PROMPT_TUNING", "prompt_tuning_init": "RANDOM", **_dimensions(backbone, len(rows))}
    return Adapter(config, {"prompt_embeddings": rows})


def _prefix(delta: Delta, backbone: Backbone, edits: Sequence[Active[KeyValueEdit]]) -> Adapter:
    if backbone.kind != "decoder":
        raise BadInput(f"peft puts prefixes before decoders alone; {backbone.name} is an {backbone.kind}")
    check_window(backbone)
    ours = joined(edits)
    wanted = [place.name for place in attentions(backbone)]
    lengths = {keys.shape[1] for keys, _ in ours.values()}
    if sorted(ours) != sorted(wanted) or len(lengths) > 1:
        raise BadInput(f"{delta.expression}: peft's prefix has one length and is before every attention")
    check(backbone, ours, delta)
    theirs = turned(backbone, ours, 1)
    pieces = [x.transpose(0, 1) for name in wanted for x in theirs[name]]
    rows = torch.stack(pieces, 1).flatten(1)
    heads, width = backbone.heads(backbone.place(wanted[0]))
    sizes = _dimensions(backbone, len(rows)) | {"token_dim": heads * width, "num_attention_heads": heads}
    config = {"peft_type": "PREFIX_TUNING", "prefix_projection": False, "encoder_hidden_size": heads * width, **sizes}
    return Adapter(config, {"prompt_embeddings": rows})


def joined(edits: Sequence[Active[KeyValueEdit]]) -> Prefixes:
    """The prefix of each attention; several stand in the order written."""
    prefixes: Prefixes = {}
    for active in edits:
        keys, values = active.edit.change(active.tensors)
        before = prefixes.get(active.edit.place.name)
        prefixes[active.edit.place.name] = (
            (keys, values) if before is None else (torch.cat([before[0], keys], 1), torch.cat([before[1], values], 1))
        )
    return prefixes


def _dimensions(backbone: Backbone, length: int) -> dict[str, int]:
    """Numbers that peft would otherwise read from the model's configuration."""
    stream = backbone.streams[0]
    attention = next(place for place in backbone.places("attention") if place.stack == stream)
    return {
        "num_virtual_tokens": length,
        "token_dim": backbone.embedding_width,
        "num_transformer_submodules": 1,
        "num_attention_heads": backbone.heads(attention)[0],
        "num_layers": backbone.layers(stream),
    }


_TYPES: Mapping[Callable[..., Adapter], str] = {
    _lora: "LORA",
    _ia3: "IA3",
    _prompt: "PROMPT_TUNING",
    _prefix: "PREFIX_TUNING",
}
