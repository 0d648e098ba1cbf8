"""The built-in members of deltacompose, which enter by the same door as anyone's: a name and where it is.

Listing them imports none of them. `from deltacompose_plugins import LoRA` works for every method's class.
"""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from typing import Any

deltacompose_api = 1

METHODS = {
    "adapter": "deltacompose_plugins.methods.addition.adapter:Adapter",
    "parallel_adapter": "deltacompose_plugins.methods.addition.parallel_adapter:ParallelAdapter",
    "compacter": "deltacompose_plugins.methods.addition.compacter:Compacter",
    "prompt": "deltacompose_plugins.methods.addition.prompt:Prompt",
    "p_tuning": "deltacompose_plugins.methods.addition.p_tuning:PTuning",
    "prefix": "deltacompose_plugins.methods.addition.prefix:Prefix",
    "ia3": "deltacompose_plugins.methods.addition.ia3:IA3",
    "bitfit": "deltacompose_plugins.methods.specification.bitfit:BitFit",
    "norm": "deltacompose_plugins.methods.specification.norm:Norm",
    "last_layers": "deltacompose_plugins.methods.specification.last_layers:LastLayers",
    "selective": "deltacompose_plugins.methods.specification.selective:Selective",
    "diff_pruning": "deltacompose_plugins.methods.specification.diff_pruning:DiffPruning",
    "masked": "deltacompose_plugins.methods.specification.masked:Masked",
    "lora": "deltacompose_plugins.methods.reparameterization.lora:LoRA",
    "arrow": "deltacompose_plugins.methods.reparameterization.arrow:Arrow",
    "vera": "deltacompose_plugins.methods.reparameterization.vera:VeRA",
    "intrinsic": "deltacompose_plugins.methods.reparameterization.intrinsic:Intrinsic",
    "intrinsic_prompt": "deltacompose_plugins.methods.reparameterization.intrinsic_prompt:IntrinsicPrompt",
    "full": "deltacompose_plugins.methods.reparameterization.full:Full",
    "peft": "deltacompose_plugins.peft:Peft",
}

EXPRESSIONS = {
    # MAM adapter: He et al. 2021, arXiv 2110.04366, section 4.6.
    "mam": "prefix(length=30) + parallel_adapter(bottleneck=512, scale=4.0)",
}


def deltacompose_methods() -> Mapping[str, Any]:
    return METHODS


def deltacompose_expressions() -> Mapping[str, str]:
    return EXPRESSIONS


def deltacompose_tasks() -> Mapping[str, Any]:
    from deltacompose_plugins.tasks import members

    return members()


def deltacompose_backbones() -> Mapping[str, Any]:
    from deltacompose_plugins.backbones import members

    return members()


def deltacompose_measures() -> Mapping[str, Any]:
    from deltacompose_plugins.measures import MEASURES

    return MEASURES


def deltacompose_engines() -> Mapping[str, Any]:
    from deltacompose_plugins.engines import ENGINES

    return ENGINES


def deltacompose_loggers() -> Mapping[str, Any]:
    from deltacompose_plugins.loggers import LOGGERS

    return LOGGERS


_CLASSES = {target.partition(":")[2]: target for target in METHODS.values()}


def __getattr__(name: str) -> Any:
    """A method's class, imported now."""
    if name not in _CLASSES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    module, _, attribute = _CLASSES[name].partition(":")
    return getattr(importlib.import_module(module), attribute)


def __dir__() -> list[str]:
    return [*globals(), *_CLASSES]
