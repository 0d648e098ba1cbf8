"""Pico denoisers: models of diffusers with a few narrow blocks and random weights, and what they are called with."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from deltacompose.backbone.diffusion import library
from deltacompose.errors import unknown

_HEADS = {"num_attention_heads": 2, "attention_head_dim": 8, "num_layers": 2}
_IMAGE = {"in_channels": 4, "sample_size": 4, "patch_size": 1, **_HEADS}
_TEXT = {"timestep": (), "encoder_hidden_states": (6, 16)}
_JOINT = {"joint_attention_dim": 16, "pooled_projection_dim": 8}

DENOISERS: Mapping[str, tuple[Mapping[str, Any], Mapping[str, tuple[int, ...]]]] = {
    "UNet2DConditionModel": (
        {
            "sample_size": 4,
            "block_out_channels": (8, 16),
            "down_block_types": ("CrossAttnDownBlock2D", "DownBlock2D"),
            "up_block_types": ("UpBlock2D", "CrossAttnUpBlock2D"),
            "layers_per_block": 1,
            "norm_num_groups": 4,
            "cross_attention_dim": 16,
            "attention_head_dim": 2,
        },
        {"sample": (4, 4, 4), **_TEXT},
    ),
    "DiTTransformer2DModel": (
        {**_IMAGE, "norm_num_groups": 4, "num_embeds_ada_norm": 10},
        {"hidden_states": (4, 4, 4), "timestep": (), "class_labels": ()},
    ),
    "PixArtTransformer2DModel": (
        {**_IMAGE, "norm_num_groups": 4, "cross_attention_dim": 16, "caption_channels": 16},
        {"hidden_states": (4, 4, 4), **_TEXT},
    ),
    "SD3Transformer2DModel": (
        {**_IMAGE, **_JOINT, "caption_projection_dim": 16, "pos_embed_max_size": 4, "qk_norm": "rms_norm"},
        {"hidden_states": (4, 4, 4), "pooled_projections": (8,), **_TEXT},
    ),
    "FluxTransformer2DModel": (
        {**_HEADS, **_JOINT, "in_channels": 4, "num_single_layers": 2, "axes_dims_rope": (2, 2, 4)},
        {"hidden_states": (6, 4), "pooled_projections": (8,), **_TEXT},
    ),
}
"""Settings of each pico denoiser, and the shapes of one row of what it is called with, by the name of its class."""

_POSITIONS = {"FluxTransformer2DModel": ("img_ids", "txt_ids")}
"""Positions of six tokens, the same in every row, that a class is called with besides."""

_NUMBERED = ("timestep", "class_labels")


def pico_denoiser(name: str, seed: int = 0) -> Any:
    """A model of diffusers in evaluation mode, its weights random and of a size that matters, as those of `pico`."""
    if name not in DENOISERS:
        raise unknown("pico denoiser", name, DENOISERS)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = getattr(library(), name)(**DENOISERS[name][0])
        for parameter in model.parameters():
            if parameter.ndim > 1:
                parameter.data.normal_(std=1 / math.sqrt(parameter[0].numel()))
            else:
                parameter.data.add_(torch.randn_like(parameter), alpha=0.1)
    return model.eval()


def denoiser_batch(name: str, rows: int = 3, seed: int = 0) -> dict[str, Tensor]:
    """Random noise, times and text or classes, as a pico denoiser is called with."""
    source = torch.Generator().manual_seed(seed)
    shapes = {key: (rows, *shape) for key, shape in DENOISERS[name][1].items()}
    drawn = {
        key: torch.randint(10, shape, generator=source) if key in _NUMBERED else torch.randn(shape, generator=source)
        for key, shape in shapes.items()
    }
    return drawn | {key: torch.arange(6.0)[:, None].expand(6, 3) for key in _POSITIONS.get(name, ())}
