"""The options of peft's configurations, as text in an expression: `peft(type='oft', options='oft_block_size=4')`."""

from __future__ import annotations

import ast
import dataclasses
import typing
from collections.abc import Mapping
from enum import Enum
from functools import cache
from typing import Any

from pydantic import TypeAdapter, ValidationError

from deltacompose.errors import BadInput, unknown
from deltacompose_plugins.peft.layers import heeding

WHERE = "where it acts is set by places, in the names that all families share"
REFUSED: Mapping[str, str] = {
    **dict.fromkeys(
        ("target_modules", "exclude_modules", "layers_to_transform", "layers_pattern", "feedforward_modules"), WHERE
    ),
    **dict.fromkeys(("target_parameters", "trainable_token_indices", "layer_replication"), WHERE),
    **dict.fromkeys(
        ("rank_pattern", "alpha_pattern", "lambda_pattern", "n_frequency_pattern", "block_size_pattern"),
        "write one part for each group of places, each with its own settings",
    ),
    "modules_to_save": "compose with full, norm or last_layers",
    "bias": "compose with bitfit",
    "total_step": "the steps are the recipe's",
    "fan_in_fan_out": "matrices are (output, input) in every family",
    **dict.fromkeys(("use_asa", "use_qalora", "use_bdlora", "alora_invocation_tokens"), "it acts outside of the layer"),
    **dict.fromkeys(
        ("num_transformer_submodules", "token_dim", "num_attention_heads", "num_layers"), "the backbone says it"
    ),
    **dict.fromkeys(("prompt_tuning_init", "prompt_tuning_init_text"), "take the method prompt"),
    **dict.fromkeys(("prompt_tuning_init_task", "prompt_tuning_init_state_dict_path"), "give the weights"),
    **dict.fromkeys(("tokenizer_name_or_path", "tokenizer_kwargs"), "the backbone has its tokenizer"),
    "num_tasks": "a delta is of one task",
}
"""Options that the bridge decides itself or cannot honour, and why."""
STARTS: Mapping[str, str] = {
    "niter": "it takes a random part out of the pretrained matrix; take 'pissa'",
    **dict.fromkeys(("eva", "corda", "lora_ga", "loftq"), "it is computed from data or for a quantised model"),
}
"""Initialisations that are not supported."""

OUTSIDE = (
    *("peft_type", "task_type", "auto_mapping", "base_model_name_or_path", "revision", "inference_mode"),
    *("peft_version", "megatron_config", "megatron_core", "progressbar", "ensure_weight_tying"),
    *("save_projection", "save_indices", "save_only_topk_weights", "save_precomputed_indices"),
    *("runtime_offload_base_weight", "asa_target_subspaces", "init_warmup", "final_warmup", "mask_interval"),
    *("asa_importance_beta", "asa_uncertainty_beta", "asa_schedule_exponent"),
)
"""Options about peft's own files, processes and schedules, which have no meaning here."""

DECIDED: Mapping[str, Mapping[str, Any]] = {
    "adalora": {"total_step": 1 << 30},
    "frod": {"progressbar": False},
}
"""Options that the bridge sets itself: AdaLoRA's schedule takes the steps from the recipe."""


def read(text: str) -> dict[str, Any]:
    """The options that a text says: names and literal values, joined by commas.

    >>> read("r=4, use_rslora=True")
    {'r': 4, 'use_rslora': True}
    """
    try:
        call = ast.parse(f"options({text})", mode="eval").body
        if not isinstance(call, ast.Call) or call.args or not all(keyword.arg for keyword in call.keywords):
            raise ValueError("names are missing")
        options = {str(keyword.arg): ast.literal_eval(keyword.value) for keyword in call.keywords}
    except (SyntaxError, ValueError, TypeError) as error:
        raise BadInput(
            f"peft: options={text!r} cannot be read ({error}); write for example 'r=8, lora_alpha=16'"
        ) from None
    return options


def write(options: Mapping[str, Any]) -> str:
    """Options as text, sorted by name: equal options have equal text, and so one cell."""
    return ", ".join(f"{name}={options[name]!r}" for name in sorted(options))


def check(type: str, options: Mapping[str, Any]) -> dict[str, Any]:
    """The options, if each is one of the configuration's, may be set here, and has a value of its type."""
    config_class = _class(type)
    names = [field.name for field in dataclasses.fields(config_class)]
    free = [name for name in names if name not in OUTSIDE and name not in REFUSED and not name.endswith("_config")]
    for name, value in options.items():
        if name in names and (name in REFUSED or (_dropout(name) and value)):
            reason = REFUSED.get(name, "dropout is drawn from each delta's own generator; take a native method")
            raise BadInput(f"peft: {name}={value!r} cannot be set for type={type!r}: {reason}")
        if name not in free:
            raise unknown(f"peft {type} option", name, [option for option in free if not _dropout(option)])
        if reason := next((why for start, why in STARTS.items() if start in str(value)), ""):
            raise BadInput(f"peft: {name}={value!r} cannot be set for type={type!r}: {reason}")
    return {name: _checked(type, config_class, name, value) for name, value in options.items()}


def config(type: str, options: Mapping[str, Any]) -> Any:
    """A new configuration of peft's with these options.

    Raises:
        BadInput: peft refuses a value.
    """
    decided = {name: value for name, value in DECIDED.get(type, {}).items() if name not in options}
    try:
        with heeding():
            return _class(type)(**options, **decided)
    except (ValueError, TypeError, ImportError) as error:
        raise BadInput(f"peft: options={write(options)!r} of type={type!r}: {error}") from error


def _class(type: str) -> Any:
    from peft.mapping import PEFT_TYPE_TO_CONFIG_MAPPING

    if type.upper() not in PEFT_TYPE_TO_CONFIG_MAPPING:
        raise BadInput(f"peft: the installed peft has no type {type!r}; a newer one may")
    return PEFT_TYPE_TO_CONFIG_MAPPING[type.upper()]  # type: ignore[index]


def _dropout(name: str) -> bool:
    return name.endswith(("_dropout", "_dropout_p"))


def _checked(type: str, config: Any, name: str, value: Any) -> Any:
    try:
        checked = _kind(config, name).validate_python(value, strict=not isinstance(value, str))
    except ValidationError as error:
        reason = error.errors()[0]["msg"].removeprefix("Input ")
        raise BadInput(f"peft: {name}={value!r} of type={type!r}: {reason[:1].lower()}{reason[1:]}") from None
    if isinstance(value, str) and not isinstance(checked, str | Enum):
        raise BadInput(f"peft: {name}={value!r} of type={type!r} is text; write {name}={checked!r}")
    return value


@cache
def _kind(config: Any, name: str) -> TypeAdapter[Any]:
    """How an option is checked: by its annotation in peft's configuration."""
    return TypeAdapter(typing.get_type_hints(config)[name])
