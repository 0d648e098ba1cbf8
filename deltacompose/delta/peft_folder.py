"""A peft adapter's folder: `adapter_config.json` beside `adapter_model.safetensors`, and a note of ours."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from deltacompose.backbone.backbone import Backbone
from deltacompose.errors import BadInput

CONFIG, WEIGHTS, NOTE = "adapter_config.json", "adapter_model.safetensors", "deltacompose.json"
TASKS = {"decoder": "CAUSAL_LM", "encoder-decoder": "SEQ_2_SEQ_LM", "encoder": "FEATURE_EXTRACTION"}


@dataclass(frozen=True, eq=False)
class Adapter:
    """What a peft folder holds.

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
    """Writes the folder, and beside peft's two files a note of the backbone and the expression that it came from."""
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
    config = _read_json(folder / CONFIG)
    if not isinstance(config, dict) or not isinstance(config.get("peft_type"), str):
        raise BadInput(f"{folder / CONFIG} is no configuration of peft's: it has no peft_type")
    if not any_base:
        _check_base(folder, config, backbone)
    return Adapter(config, _tensors(folder))


def _check_base(folder: Path, config: Mapping[str, Any], backbone: Backbone) -> None:
    if (folder / NOTE).exists():
        fingerprint = _read_json(folder / NOTE).get("fingerprint", "")
        if fingerprint != backbone.fingerprint:
            raise BadInput(
                f"{folder} was exported from a backbone of fingerprint {fingerprint[:12]}, not from {backbone.name} "
                f"({backbone.fingerprint[:12]})"
            )
        return
    base = config.get("base_model_name_or_path") or ""
    if base and Path(base).name.lower() != Path(backbone.name).name.lower():
        raise BadInput(
            f"{folder} is for the base model {base!r}, not for {backbone.name!r}; "
            "if they are one model by two names, say so by any_base=True (--any-base)"
        )


def _tensors(folder: Path) -> dict[str, Tensor]:
    path = folder / WEIGHTS
    if not path.exists():
        pickled = [one.name for one in sorted(folder.glob("adapter_model.*"))]
        if pickled:
            raise BadInput(
                f"{folder} holds {', '.join(pickled)}, and a pickled file may run anything when it is read; "
                f"save the adapter again with safe_serialization=True, which makes {WEIGHTS}"
            )
        raise BadInput(f"{folder} holds no weights: there is no {WEIGHTS}")
    try:
        return {name: x.clone() for name, x in load_file(path).items()}
    except (SafetensorError, OSError) as error:
        raise BadInput(f"{path} is cut off or no safetensors file ({error})") from None


def _read_json(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise BadInput(f"{path.parent} is no peft adapter's folder: there is no {path.name}") from None
    except (OSError, ValueError) as error:
        raise BadInput(f"{path} cannot be read ({error})") from None


def _json(path: Path, data: Mapping[str, Any]) -> None:
    path.write_text(json.dumps(data, indent=2, sort_keys=True) + "\n", encoding="utf-8")
