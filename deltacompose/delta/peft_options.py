"""The fields of peft's configurations: which ones an import honours, and which ones it refuses by name.

Every field of a type that is imported stands in one of three lists. The test of this module walks the dataclasses of
the installed peft, so that a field of a new version is noticed; until then an unknown field with a value that is not
empty is refused.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from deltacompose.errors import BadInput

_ALL = ("peft_type", "task_type", "peft_version", "base_model_name_or_path", "modules_to_save", "auto_mapping")
_WHERE = ("target_modules", "exclude_modules", "layers_to_transform", "layers_pattern", "fan_in_fan_out")
_SIZES = ("num_virtual_tokens", "token_dim", "num_transformer_submodules", "num_attention_heads", "num_layers")

HONOURED: Mapping[str, tuple[str, ...]] = {
    "LORA": (
        *(_ALL + _WHERE),
        *("r", "lora_alpha", "rank_pattern", "alpha_pattern", "use_rslora", "use_dora", "bias", "lora_bias"),
        *("init_lora_weights", "ensure_weight_tying"),
    ),
    "IA3": (*_ALL, *_WHERE, "feedforward_modules"),
    "PROMPT_TUNING": (*_ALL, *_SIZES),
    "P_TUNING": (*_ALL, *_SIZES),
    "MULTITASK_PROMPT_TUNING": (*_ALL, *_SIZES, "num_tasks", "num_ranks"),
    "PREFIX_TUNING": (*_ALL, *_SIZES),
}
"""Read by the import, or said a second time by the names and shapes of the tensors, from which the import takes it."""

_TEXT = ("prompt_tuning_init", "prompt_tuning_init_text", "tokenizer_name_or_path", "tokenizer_kwargs")
_STILL = ("revision", "inference_mode")
WITHOUT_EFFECT: Mapping[str, tuple[str, ...]] = {
    "LORA": (
        *(*_STILL, "lora_dropout", "runtime_config", "megatron_core", "qalora_group_size", "velora_config"),
        *("loftq_config", "eva_config", "corda_config", "lora_ga_config"),
    ),
    "IA3": (*_STILL, "init_ia3_weights"),
    "PROMPT_TUNING": (*_STILL, *_TEXT),
    "P_TUNING": (
        *(*_STILL, "encoder_reparameterization_type", "encoder_hidden_size", "encoder_num_layers", "encoder_dropout"),
    ),
    "MULTITASK_PROMPT_TUNING": (
        *(*_STILL, *_TEXT),
        *("prompt_tuning_init_state_dict_path", "prompt_tuning_init_task"),
    ),
    "PREFIX_TUNING": (*_STILL, "prefix_projection", "encoder_hidden_size", "init_weights"),
}
"""Of training or of the way in which peft runs: a trained adapter computes the same function whatever they are.

The settings of an initialisation, as `loftq_config`, matter with `init_lora_weights` alone, which is read or refused.
"""

REFUSED: Mapping[str, Mapping[str, str]] = {
    "LORA": {
        "megatron_config": "its layers are those of Megatron",
        "trainable_token_indices": "it trains single rows of the embedding matrix",
        "layer_replication": "it repeats layers of the model",
        "target_parameters": "it changes parameters that are not the weight of a linear layer",
        "alora_invocation_tokens": "it acts from a certain token of the input on",
        "use_qalora": "it pools the inputs of quantised layers",
        "use_bdlora": "its factors are block-diagonal",
        "arrow_config": "it routes tokens between several adapters",
        "monteclora_config": "it samples its weights",
        "kasa_config": "it trains singular values and truncates the pretrained matrix",
    },
}
"""Changes the function in a way that no native method has; the reason follows the name in the message."""

QUOTED = 200


def check_options(config: Mapping[str, Any]) -> None:
    """Check that an import honours every field of a configuration whose type is imported.

    Raises:
        BadInput: a field that is set changes the function and is not honoured, or is not known.
    """
    peft_type = str(config["peft_type"])
    refused = REFUSED.get(peft_type, {})
    known = {*HONOURED[peft_type], *WITHOUT_EFFECT[peft_type]}
    for name, value in config.items():
        if name in known or value in (None, False, [], {}, ""):
            continue
        setting = f"{name}={value!r}"[:QUOTED]
        if name in refused:
            raise BadInput(f"cannot import peft's option {setting} because {refused[name]}")
        raise BadInput(f"cannot import peft's option {setting} because it is not a known field of {peft_type}")
