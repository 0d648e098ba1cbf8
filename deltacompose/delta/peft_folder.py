"""A peft adapter's folder: `adapter_config.json`, `adapter_model.safetensors` and a note of ours."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Required

from annotated_types import Ge, Le
from pydantic import AllowInfNan
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor
from typing_extensions import TypedDict

from deltacompose.backbone.backbone import Backbone
from deltacompose.delta.delta import check_finite
from deltacompose.errors import BadInput, quoted
from deltacompose.formats.files import Missing
from deltacompose.formats.json_files import read_json
from deltacompose.formats.patterns import check_pattern
from deltacompose.formats.tensor_files import read_header
from deltacompose.limits import COUNT

CONFIG, WEIGHTS, NOTE = "adapter_config.json", "adapter_model.safetensors", "deltacompose.json"
TASKS = {"decoder": "CAUSAL_LM", "encoder-decoder": "SEQ_2_SEQ_LM", "encoder": "FEATURE_EXTRACTION"}


@dataclass(frozen=True, eq=False)
class Adapter:
    """Content of a peft folder.

    Attributes:
        config: peft's configuration, ready for JSON.
        tensors: by peft's names.
    """

    config: Mapping[str, Any]
    tensors: Mapping[str, Tensor]

    @property
    def type(self) -> str:
        """peft's name of the method, as `LORA`."""
        return str(self.config["peft_type"])


def write(adapter: Adapter, folder: Path, backbone: Backbone, expression: str) -> None:
    """Writes the folder: peft's two files and a note of the backbone and the expression that it came from."""
    folder.mkdir(parents=True, exist_ok=True)
    config = {
        "task_type": TASKS[backbone.kind],
        "base_model_name_or_path": backbone.name,
        "revision": backbone.revision or None,
        "inference_mode": True,
        **adapter.config,
    }
    save_file({n: x.detach().float().cpu().contiguous() for n, x in adapter.tensors.items()}, folder / WEIGHTS)
    _json(folder / CONFIG, config)
    _json(folder / NOTE, {"format": 1, "expression": expression, "fingerprint": backbone.fingerprint})


def read(folder: Path, backbone: Backbone, any_base: bool = False) -> Adapter:
    """The adapter in a folder.

    Args:
        any_base: take an adapter whose configuration names another base model.

    Raises:
        BadInput: no adapter there, pickled weights, a file that is cut off, or an adapter for another base model.
    """
    config = _config(folder / CONFIG)
    if not any_base:
        _check_base(folder, config, backbone)
    adapter = Adapter(config, _tensors(folder))
    _check_tensors(folder / WEIGHTS, adapter)
    return adapter


Finite = Annotated[float, AllowInfNan(False)]
Rank = Annotated[int, Ge(1), Le(COUNT)]
Names = str | list[str] | None


class _Config(TypedDict, total=False):
    """Entries of peft's configurations that are read; they have others."""

    peft_type: Required[str]
    base_model_name_or_path: str | None
    bias: str
    r: Rank
    lora_alpha: Finite
    use_rslora: bool
    use_dora: bool
    rank_pattern: dict[str, Rank] | None
    alpha_pattern: dict[str, Finite] | None
    target_modules: Names
    feedforward_modules: Names
    num_virtual_tokens: Rank


_NEEDED = {
    "LORA": ("lora_alpha",),
    **dict.fromkeys(("PROMPT_TUNING", "P_TUNING", "MULTITASK_PROMPT_TUNING"), ("num_virtual_tokens",)),
}
"""Entries without which a type of adapter is not defined."""


class _Note(TypedDict, total=False):
    fingerprint: Required[str]


def _config(path: Path) -> dict[str, Any]:
    """peft's configuration, its types and its regular expressions checked."""
    config = _read_json(path, _Config)
    for name in _NEEDED.get(config["peft_type"], ()):
        if name not in config:
            raise BadInput(f"{path}: {name} is missing, which a {config['peft_type']} adapter needs")
    for name in ("rank_pattern", "alpha_pattern"):
        for pattern in config.get(name) or ():
            check_pattern(pattern, f"{name} of {path}")
    for name in ("target_modules", "feedforward_modules"):
        if isinstance(config.get(name), str):
            check_pattern(config[name], f"{name} of {path}")
    return config


def _check_base(folder: Path, config: Mapping[str, Any], backbone: Backbone) -> None:
    if os.path.lexists(folder / NOTE):
        fingerprint = _read_json(folder / NOTE, _Note)["fingerprint"]
        if fingerprint != backbone.fingerprint:
            raise BadInput(
                f"{folder} was exported from a backbone of fingerprint {quoted(fingerprint[:12])}, not from "
                f"{backbone.name} ({backbone.fingerprint[:12]})"
            )
        return
    base = config.get("base_model_name_or_path") or ""
    if base and Path(base).name.lower() != Path(backbone.name).name.lower():
        raise BadInput(
            f"{folder} is for the base model {quoted(base)}, not for {backbone.name!r}; "
            "if they are one model by two names, say so by any_base=True (--any-base)"
        )


def _tensors(folder: Path) -> dict[str, Tensor]:
    path = folder / WEIGHTS
    if not path.exists():
        pickled = [path.name for path in sorted(folder.glob("adapter_model.*"))]
        if pickled:
            raise BadInput(
                f"{folder} holds {', '.join(pickled)}, and a pickled file may run anything when it is read; "
                f"save the adapter again with safe_serialization=True, which makes {WEIGHTS}"
            )
        raise BadInput(f"{folder} holds no weights: there is no {WEIGHTS}")
    read_header(path)
    try:
        tensors = {name: x.clone() for name, x in load_file(path).items()}
    except (SafetensorError, OSError) as error:
        raise BadInput(f"{path} is truncated or not a safetensors file ({error})") from None
    check_finite(str(path), tensors)
    return tensors


def _check_tensors(path: Path, adapter: Adapter) -> None:
    """Refuses tensors that no adapter has: a factor without the other, of other axes, or of rank 0.

    Whether they fit the backbone is checked where they are imported.
    """
    tensors = adapter.tensors
    if not tensors:
        raise BadInput(f"{path} holds no tensors")
    for name, tensor in tensors.items():
        if not tensor.numel():
            raise BadInput(f"{path}: the tensor {quoted(name)} is empty; its shape is {tuple(tensor.shape)}")
        part = _part(name)
        if part in _FACTORS:
            _check_factor(path, tensors, name, part)
        rows = tensors.get(name.replace("lora_magnitude_vector", "lora_B").removesuffix(".weight") + ".weight")
        if part == "lora_magnitude_vector" and rows is not None and tensor.numel() != len(rows):
            raise BadInput(f"{path}: {quoted(name)} has {tensor.numel()} numbers; expected {len(rows)}, one a row")
        if part == "ia3_l" and tensor.numel() != max(tensor.shape, default=0):
            raise BadInput(f"{path}: {quoted(name)} has the shape {tuple(tensor.shape)}; expected one scale a feature")
        if name == "prompt_embeddings" and tensor.ndim != 2:
            raise BadInput(f"{path}: {name} has the shape {tuple(tensor.shape)}; expected (tokens, width)")


_FACTORS = {
    "lora_A": ("lora_B", 0),
    "lora_B": ("lora_A", 1),
    "lora_embedding_A": ("lora_embedding_B", 0),
    "lora_embedding_B": ("lora_embedding_A", 1),
}
"""For each low-rank factor the other one, and its own axis of the rank."""


def _part(name: str) -> str:
    """`lora_A`, of `base_model.model.layers.0.q_proj.lora_A.weight`."""
    return name.removesuffix(".weight").rpartition(".")[2]


def _check_factor(path: Path, tensors: Mapping[str, Tensor], name: str, part: str) -> None:
    partner, axis = _FACTORS[part]
    stem, _, end = name.rpartition(part)
    other = f"{stem}{partner}{end}"
    if other not in tensors:
        raise BadInput(f"{path} has the tensor {quoted(name)} and not {quoted(other)}")
    own, its = tensors[name], tensors[other]
    if own.ndim != 2 or its.ndim != 2 or own.shape[axis] != its.shape[1 - axis]:
        raise BadInput(
            f"{path}: {quoted(name)} has the shape {tuple(own.shape)} and {partner} {tuple(its.shape)}; expected two "
            "matrices of one rank"
        )


def _read_json(path: Path, kind: Any) -> dict[str, Any]:
    try:
        data: dict[str, Any] = read_json(path, kind)
    except Missing:
        raise BadInput(f"{path.parent} is not a peft adapter's folder: there is no {path.name}") from None
    return data


def _json(path: Path, data: Mapping[str, Any]) -> None:
    path.write_text(json.dumps(data, indent=2, sort_keys=True) + "\n", encoding="utf-8")
