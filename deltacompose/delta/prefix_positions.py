"""Prefixes under two conventions: ours leaves the positions of the tokens as they are, peft's shifts them.

peft hands a prefix over as a cache, so the first token stands at the position after it. Where positions are relative by
rotation (RoPE, Su et al. 2021, arXiv 2104.09864) the two differ by a rotation of the prefix's keys alone: a query at
position n + P meets a key k as a query at n meets R(P)⁻¹ k. So the keys can be turned, and the function stays. Where
positions are embedded with the tokens (GPT-2, OPT), shifting them changes the tokens themselves, and no prefix of the
one kind equals one of the other. Whether it came out equal is not assumed but measured.
"""

from __future__ import annotations

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


def turned(backbone: Backbone, prefixes: Prefixes, sign: int) -> Prefixes:
    """The prefixes with their keys rotated by their own length, forward to get peft's, backward to get ours."""
    return {
        name: (_rotated(backbone, backbone.place(name), keys, sign), values)
        for name, (keys, values) in prefixes.items()
    }


def check(backbone: Backbone, ours: Prefixes, delta: Delta) -> None:
    """Refuses a delta of prefixes that peft's convention makes another function of.

    Args:
        ours: the prefixes that the delta puts in force.
    """
    with torch.no_grad(), delta.attached(backbone):
        live = answer(backbone.model, probe(backbone))
    if "sliding_attention" in (getattr(backbone.model.config, "layer_types", None) or ()):
        raise BadInput(f"a prefix in peft's cache slides out of {backbone.name}'s attention window, and ours does not")
    difference = float((live - as_cache(backbone, turned(backbone, ours, 1))).abs().max() / live.abs().max())
    if not difference < TOLERANCE:
        raise BadInput(
            f"peft shifts the positions of the tokens by the length of a prefix, and on {backbone.name} that is "
            f"another function (logits differ by {difference:.2g} of their size): its positions are not rotations"
        )


def as_cache(backbone: Backbone, prefixes: Prefixes) -> Tensor:
    """The logits on `probe(backbone)` with the prefixes handed over as a cache, as peft does."""
    given = probe(backbone)
    rows, device, dtype = len(given["input_ids"]), backbone.model.device, backbone.model.dtype
    cache = DynamicCache(config=backbone.model.config)
    for layer, place in enumerate(attentions(backbone)):
        keys, values = (x.to(device, dtype)[None].expand(rows, -1, -1, -1) for x in prefixes[place.name])
        cache.update(keys.contiguous(), values.contiguous(), layer)
    length = next(iter(prefixes.values()))[0].shape[1]
    mask = torch.cat([given["attention_mask"].new_ones(rows, length), given["attention_mask"]], 1)
    with torch.no_grad():
        return answer(backbone.model, {**given, "attention_mask": mask, "past_key_values": cache, "use_cache": True})


def attentions(backbone: Backbone) -> tuple[Place, ...]:
    """The attentions of a decoder, layer after layer."""
    return backbone.places("attention")


def _rotated(backbone: Backbone, place: Place, keys: Tensor, sign: int) -> Tensor:
    """R(P) k, or R(P)⁻¹ k, for keys `(heads, P, head width)`."""
    module, rotary = backbone.module(place), _rotary(backbone.model)
    if rotary is None or not getattr(module, "use_rope", True):
        return keys
    given = keys.to(backbone.model.device, torch.float32)[None]
    cos, sin = rotary(given, torch.full((1, keys.shape[1]), keys.shape[1], device=given.device))
    scale = getattr(rotary, "attention_scaling", 1.0)
    apply = sys.modules[type(module).__module__].apply_rotary_pos_emb
    rotated: Tensor = apply(given, given, cos / scale, sign * sin / scale)[1][0]
    return rotated


def _rotary(model: Any) -> Any:
    return next((module for name, module in model.named_modules() if name.endswith("rotary_emb")), None)
