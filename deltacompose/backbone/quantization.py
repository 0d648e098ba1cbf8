"""Backbones whose frozen matrices are held in eight or four bits, by bitsandbytes, where that is installed."""

from __future__ import annotations

import importlib.util
from typing import Any

import torch
import transformers
from torch import Tensor

from deltacompose.errors import BadInput

QUANTISED = ("int8", "nf4")
"""Dettmers et al. 2022, arXiv 2208.07339 (eight bits); Dettmers et al. 2023, arXiv 2305.14314 (four)."""

_PASS = torch.bfloat16
"""Dtype of everything that is not quantized: norms, embeddings, heads, activations."""


def loading_options(dtype: str) -> dict[str, Any]:
    """Arguments of transformers' `from_pretrained` for a quantized backbone.

    Raises:
        BadInput: bitsandbytes is not installed.
    """
    if importlib.util.find_spec("bitsandbytes") is None:
        raise BadInput(
            f"dtype {dtype!r} needs bitsandbytes, which is not installed; `pip install bitsandbytes`, or take float32, "
            "bfloat16 or float16"
        )
    four = {"load_in_4bit": True, "bnb_4bit_quant_type": dtype, "bnb_4bit_compute_dtype": _PASS}
    config: Any = transformers.BitsAndBytesConfig
    few = config(load_in_8bit=True) if dtype == "int8" else config(**four)
    return {"quantization_config": few, "dtype": _PASS}


def differentiable(model: torch.nn.Module) -> None:
    """Keeps a model's matrices in a form that gradients pass.

    Once evaluated on a CPU with AVX-512, bitsandbytes packs a four-bit matrix anew for a kernel that has no backward
    pass, and gradients through it are silently wrong from then on.
    """
    for module in model.modules():
        if hasattr(module, "support_avx512bf16_for_cpu"):
            setattr(module, "support_avx512bf16_for_cpu", False)  # noqa: B010


def is_quantised(tensor: Tensor) -> bool:
    """Whether a parameter is held in few bits: its numbers are codes, not values."""
    return not tensor.is_floating_point()


def values(module: torch.nn.Module, name: str) -> Tensor:
    """A parameter's values in floating point: `(output, input)` of a matrix that is held in few bits, else as it is.

    Of one that lies in shards the whole, which all processes must ask for together.
    """
    tensor: Any = getattr(module, name)
    if hasattr(tensor, "full_tensor"):
        return tensor.detach().full_tensor()  # type: ignore[no-any-return]
    if not is_quantised(tensor):
        return tensor.detach()  # type: ignore[no-any-return]
    from transformers.integrations.bitsandbytes import dequantize_bnb_weight

    state = getattr(module, "state", None)
    with torch.no_grad():
        dequantized: Tensor = dequantize_bnb_weight(tensor, state=state)
    return dequantized.to(_PASS)
