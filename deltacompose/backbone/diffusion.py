"""Denoisers, the models of diffusers (the extra `diffusers`): which class lies in a folder, and its model read."""

from __future__ import annotations

import importlib
import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from deltacompose.backbone.pretrained import Manner, clearly, kind_of, still
from deltacompose.backbone.quantization import QUANTISED
from deltacompose.errors import BadInput


def model_type(model: Any) -> str:
    """Entry of `serves` that matches a model: the type in the configuration, else the name of the class."""
    return str(getattr(getattr(model, "config", None), "model_type", type(model).__name__))


def kind_of_model(model: Any) -> str:
    """The kind of backbone that a model makes."""
    return kind_of(model.config) if hasattr(model.config, "model_type") else "denoiser"


def denoiser_in(folder: Path) -> str:
    """The class of diffusers whose model lies in a folder; "" where another library's does."""
    with clearly(folder, "configuration"):
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    return str(config.get("_class_name", "")) if isinstance(config, dict) else ""


def read_denoiser(folder: Path, name: str, head: str | None, manner: Manner) -> Any:
    """The model of a class of diffusers in a folder: frozen, in evaluation mode, its dropout zero.

    Raises:
        BadInput: diffusers is not installed or has no such class, the files cannot be read or lack weights, or the
            head or manner is one of transformers' own.
    """
    if head is not None or manner.attention is not None or manner.dtype in QUANTISED:
        own = "no head, no attention, and as dtype float32, bfloat16 or float16"
        raise BadInput(f"{name} is read by diffusers, where a backbone takes {own}")
    diffusers, told = library(), manner.options()
    with clearly(folder, "model"):
        maker: Any = getattr(diffusers, name, None)  # which diffusers imports only now
    if not hasattr(maker, "load_state_dict"):
        raise BadInput(f"{folder} holds a {name}, which is not a model of diffusers {diffusers.__version__}")
    told["torch_dtype"] = told.pop("dtype")
    with clearly(folder, "model"), _quietly(diffusers):
        model, report = maker.from_pretrained(folder, use_safetensors=True, output_loading_info=True, **told)
    if missing := sorted(report["missing_keys"]):
        raise BadInput(f"{folder} has no weights for {len(missing)} tensors of {name}, among them {missing[0]}")
    return still(model if manner.place is None else model.to(manner.place))


def library() -> Any:
    """The library diffusers.

    Raises:
        BadInput: it is not installed.
    """
    try:
        return importlib.import_module("diffusers")
    except ImportError:
        raise BadInput("denoisers need the `diffusers` library: pip install 'deltacompose[diffusers]'") from None


@contextmanager
def _quietly(diffusers: Any) -> Iterator[None]:
    """Without diffusers' reports: what matters in them is checked here."""
    reports = diffusers.utils.logging
    level = reports.get_verbosity()
    reports.set_verbosity_error()
    try:
        yield
    finally:
        reports.set_verbosity(level)
