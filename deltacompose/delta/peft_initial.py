"""The change that some of peft's initialisations make to the pretrained matrix before training.

PiSSA (Meng et al. 2024, arXiv 2404.02948) and OLoRA (Büyükakyüz 2024, arXiv 2406.01775) start from factors B₀ A₀ of
the pretrained matrix W and subtract them from it, so a trained adapter acts on W − s B₀ A₀. A folder holds B and A
alone, and peft computes B₀ and A₀ again when it opens the folder. The same code of peft does it here, on a copy of each
matrix.
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from deltacompose.errors import BadInput

PLAIN = (True, False, None, "gaussian", "eva", "orthogonal", "mica")
"""Initialisations that leave the pretrained matrix as it is; training overwrites what they draw."""

REBUILT = re.compile(r"olora|pissa(?P<random>_niter_\d{1,4})?")
"""Initialisations whose change of the pretrained matrix follows from that matrix alone."""

LOST: Mapping[str, str] = {
    "corda": "subtracts factors from the pretrained matrices that depend on data",
    "lora_ga": "subtracts factors from the pretrained matrices that depend on gradients",
    "loftq": "replaces the pretrained matrices by quantised ones",
}
"""Initialisations whose change of the pretrained matrix a folder does not tell, with what they do."""

Start = tuple[Tensor, Tensor]
"""Factors `(output, r)` and `(r, input)` of what an initialisation adds to a pretrained matrix."""

TOLERANCE = 1e-5
"""How far two random singular value decompositions may differ, relative to the largest entry of the matrix."""


def check_initialisation(name: object) -> None:
    """Check that the function of an adapter with this `init_lora_weights` follows from its folder.

    Raises:
        BadInput: it does not, or the initialisation is not known.
    """
    if name in PLAIN or (isinstance(name, str) and REBUILT.fullmatch(name.lower())):
        return
    if str(name).lower() in LOST:
        raise BadInput(
            f"cannot import an adapter with init_lora_weights={name!r} because it {LOST[str(name).lower()]}, which the "
            "folder does not hold; save it with peft's save_pretrained(path_initial_model_for_weight_conversion=...), "
            "or merge it with peft's merge_and_unload and load the result as a backbone"
        )
    known = ", ".join(map(str, (*PLAIN, "olora", "pissa", "pissa_niter_N")))
    raise BadInput(f"init_lora_weights={str(name)[:200]!r} is not a known initialisation of peft (expected {known})")


def residual(module: nn.Module, config: Mapping[str, Any], rank: int, alpha: float) -> Start | None:
    """Change of a pretrained matrix by the initialisation, as factors, or None.

    Args:
        module: holds the pretrained matrix: `nn.Linear`, `nn.Embedding` or `Conv1D`.
        config: peft's configuration of the adapter.

    Raises:
        BadInput: peft cannot initialise this matrix, or its random decomposition is not reproducible.
    """
    name = config.get("init_lora_weights", True)
    match = REBUILT.fullmatch(name.lower()) if isinstance(name, str) else None
    if match is None or not isinstance(module, nn.Linear | Conv1D):  # peft leaves embeddings as they are
        return None
    drawn = [_rebuilt(module, config, rank, alpha, seed) for seed in range(2 if match["random"] else 1)]
    up, down = drawn[0]
    size = float(module.weight.detach().abs().max())
    if match["random"] and float((up @ down - drawn[1][0] @ drawn[1][1]).abs().max()) > TOLERANCE * size:
        raise BadInput(
            f"cannot import an adapter with init_lora_weights={name!r} because two random decompositions of a "
            "pretrained matrix differ, so that peft opens the folder as another function each time; save it with "
            "peft's save_pretrained(path_initial_model_for_weight_conversion=...)"
        )
    return up, down


def _rebuilt(module: Any, config: Mapping[str, Any], rank: int, alpha: float, seed: int) -> Start:
    """Change that peft's initialisation makes to a copy of the matrix, in fp32."""
    import peft  # takes seconds, and few adapters need it

    transposed = isinstance(module, Conv1D)
    before = module.weight.detach().float().cpu()
    kind: Any = Conv1D if transposed else nn.Linear
    layer = kind(before.shape[1], before.shape[0])
    layer.weight.data = before.clone()
    holder: Any = nn.ModuleDict({"layer": layer})
    settings: dict[str, Any] = {
        "r": rank,
        "lora_alpha": alpha,
        "use_rslora": bool(config.get("use_rslora")),
        "init_lora_weights": config["init_lora_weights"],
        "fan_in_fan_out": transposed,
        "target_modules": ["layer"],
    }
    with warnings.catch_warnings(action="ignore"), torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        try:
            peft.inject_adapter_in_model(peft.LoraConfig(**settings), holder)
        except (RuntimeError, ValueError, TypeError) as error:
            reason = str(error)[:200]
            raise BadInput(f"cannot import the adapter because peft cannot initialise it ({reason})") from None
    change = holder["layer"].base_layer.weight.detach() - before
    change = change.mT if transposed else change
    scale = holder["layer"].scaling["default"]
    up, down = -scale * holder["layer"].lora_B["default"].weight, holder["layer"].lora_A["default"].weight
    rounding = TOLERANCE * float(before.abs().max())
    if up.shape[0] == change.shape[0] and torch.allclose(up @ down, change, atol=rounding):
        return up.detach(), down.detach()
    # OLoRA on GPT-2's matrices: peft subtracts the product without transposing it
    u, s, v = torch.linalg.svd(change, full_matrices=False)
    return u[:, :rank] * s[:rank], v[:rank]
