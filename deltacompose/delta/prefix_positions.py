"""Prefixes under two conventions: ours leaves the positions of the tokens as they are, peft's shifts them.

peft hands a prefix over as a cache, so the first token stands at the position after it. Where positions are relative by
rotation (RoPE, Su et al. 2021, arXiv 2104.09864) the two differ by a rotation of the prefix's keys alone: a query at
position n + P meets a key k as a query at n meets R(P)⁻¹ k. So the keys can be turned, and the function stays. Where
positions are embedded with the tokens (GPT-2, OPT), shifting them changes the tokens themselves, and no prefix of the
one kind equals one of the other. Whether it came out equal is not assumed but measured.
"""

from __future__ import annotations

import inspect
import sys
from typing import Any

import torch
from torch import Tensor
from transformers import DynamicCache

from deltacompose.backbone.backbone import Backbone, Place
from deltacompose.delta.delta import Delta
from deltacompose.delta.merge import answer, probe
from deltacompose.errors import BadInput

Prefixes = dict[str, tuple[Tensor, Tensor]]
"""Keys and values, each `(heads, length, head width)`, by the place of their attention."""
TOLERANCE = 1e-3
"""How far two outputs with a delta may differ, relative to what the delta changes."""

ROUNDING = 1e-5
"""And relative to the outputs themselves."""


def turned(backbone: Backbone, prefixes: Prefixes, sign: int) -> Prefixes:
    """The prefixes with their keys rotated by their own length, forward to get peft's, backward to get ours."""
    return {
        name: (_rotated(backbone, backbone.place(name), keys, sign), values)
        for name, (keys, values) in prefixes.items()
    }


def check(backbone: Backbone, ours: Prefixes, delta: Delta) -> None:
    """Check that peft's convention makes the same function of a delta of prefixes.

    Args:
        ours: the prefixes of the attached delta.

    Raises:
        BadInput: it makes another function, or peft's cache cannot be tried on this model.
    """
    check_window(backbone)
    with torch.no_grad():
        plain = answer(backbone.model, probe(backbone))
        with delta.attached(backbone):
            live = answer(backbone.model, probe(backbone))
    try:
        theirs = as_cache(backbone, turned(backbone, ours, 1))
    except (TypeError, ValueError, RuntimeError, AttributeError, IndexError) as error:  # of the model's own code
        if isinstance(error, BadInput):
            raise
        raise BadInput(
            f"cannot compare a prefix with peft's because {backbone.name} takes no prefix as a cache "
            f"({type(error).__name__}: {str(error)[:120]})"
        ) from None
    if not same(live, theirs, plain):
        difference = float((live - theirs).abs().max() / live.abs().max())
        raise BadInput(
            f"peft shifts the positions of the tokens by the length of a prefix, and on {backbone.name} that is "
            f"another function (logits differ by {difference:.2g} of their size): its positions are not rotations"
        )


def same(live: Tensor, theirs: Tensor, plain: Tensor) -> bool:
    """Whether two outputs with a delta are one function: they differ by far less than the delta changes."""
    effect, size = float((live - plain).abs().max()), float(live.abs().max())
    return float((live - theirs).abs().max()) <= TOLERANCE * effect + ROUNDING * size


def check_window(backbone: Backbone) -> None:
    """Check that no attention drops the oldest keys, which in peft's cache are the prefix.

    Raises:
        BadInput: an attention has a window shorter than the longest input.
    """
    config = backbone.model.config
    window = getattr(config, "sliding_window", None)
    layers = getattr(config, "layer_types", None) or ()
    slides = any("sliding" in name or "chunked" in name for name in layers) or (not layers and window is not None)
    if slides and (window is None or window < getattr(config, "max_position_embeddings", window + 1)):
        raise BadInput(
            f"a prefix in peft's cache slides out of {backbone.name}'s attention window"
            f"{'' if window is None else f' of {window} tokens'}, and ours does not"
        )


def as_cache(backbone: Backbone, prefixes: Prefixes) -> Tensor:
    """The logits on `probe(backbone)` with the prefixes handed over as a cache, as peft does."""
    inputs = probe(backbone)
    rows, device, dtype = len(inputs["input_ids"]), backbone.model.device, backbone.model.dtype
    cache = DynamicCache(config=backbone.model.config)
    for layer, place in enumerate(attentions(backbone)):
        keys, values = (x.to(device, dtype)[None].expand(rows, -1, -1, -1) for x in prefixes[place.name])
        cache.update(keys.contiguous(), values.contiguous(), layer)
    length = next(iter(prefixes.values()))[0].shape[1]
    mask = torch.cat([inputs["attention_mask"].new_ones(rows, length), inputs["attention_mask"]], 1)
    with torch.no_grad():
        return answer(backbone.model, {**inputs, "attention_mask": mask, "past_key_values": cache, "use_cache": True})


def attentions(backbone: Backbone) -> tuple[Place, ...]:
    """The attentions of a decoder, layer after layer."""
    return backbone.places("attention")


def _rotated(backbone: Backbone, place: Place, keys: Tensor, sign: int) -> Tensor:
    """R(P) k, or R(P)⁻¹ k, for keys `(heads, P, head width)`, as the attention's own module rotates its keys."""
    module = backbone.module(place)
    rotary = getattr(module, "rotary_emb", None) or _rotary(backbone.model)
    if rotary is None or not getattr(module, "use_rope", True):
        return keys
    rotate = getattr(sys.modules[type(module).__module__], "apply_rotary_pos_emb", None)
    if rotate is None or [*inspect.signature(rotate).parameters][:4] != ["q", "k", "cos", "sin"]:
        raise BadInput(
            f"cannot turn a prefix at {place.name} to peft's positions because {type(module).__name__} rotates its "
            "keys in a way of its own"
        )
    whole = keys.to(backbone.model.device, torch.promote_types(backbone.model.dtype, torch.float32))[None]
    positions = torch.full((1, keys.shape[1]), keys.shape[1], device=whole.device)
    kind = {"layer_type": _layer_type(backbone, place)} if _takes_layer_type(rotary) else {}
    cos, sin = rotary(whole, positions, **kind)
    scale = getattr(rotary, "attention_scaling", 1.0)
    cos, sin = cos / scale, sign * sin / scale
    # Phi, StableLM and Persimmon rotate the first features of a head alone, and slice them off before the function
    width = cos.shape[-1] if cos.shape[-1] < whole.shape[-1] and _slices(rotate, whole, cos, sin) else whole.shape[-1]
    rotated = rotate(whole[..., :width], whole[..., :width], cos, sin)[1]
    turned_keys: Tensor = torch.cat([rotated, whole[..., width:]], -1)[0]
    return turned_keys


def _slices(rotate: Any, keys: Tensor, cos: Tensor, sin: Tensor) -> bool:
    """Whether a rotation takes the rotated features alone; GLM's and gpt-oss's take whole keys with narrower angles."""
    try:
        return bool(rotate(keys, keys, cos, sin)[1].shape != keys.shape)
    except RuntimeError:  # shapes that do not fit
        return True


def _takes_layer_type(rotary: Any) -> bool:
    return "layer_type" in inspect.signature(rotary.forward).parameters


def _layer_type(backbone: Backbone, place: Place) -> str | None:
    """Gemma 3 has a rotation for each type of layer."""
    kinds = getattr(backbone.model.config, "layer_types", None)
    return None if kinds is None or place.layer is None else str(kinds[place.layer])


def _rotary(model: Any) -> Any:
    return next((module for name, module in model.named_modules() if name.endswith("rotary_emb")), None)
