"""Write `tests/data/adapters_reference.safetensors`: weights, inputs and outputs of the `adapters` library in float64.

The library pins transformers 4.57, so this runs in an environment of its own:

    python -m venv reference && reference/bin/pip install adapters==1.3.0
    reference/bin/python tests/adapters_reference.py

The file holds `<family>/base/<parameter>`, `<family>/<method>/<parameter>` and the outputs `<family>/<method>`; the
class, type and settings of each model and the versions of the libraries are in its metadata.
"""

from __future__ import annotations

import itertools
import json
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import adapters
import torch
import transformers
from adapters import (
    AdapterModelInterface,
    CompacterConfig,
    DoubleSeqBnConfig,
    IA3Config,
    LoRAConfig,
    ParBnConfig,
    PrefixTuningConfig,
    PromptTuningConfig,
    SeqBnConfig,
)
from adapters.methods.lora import LoRAMergedLinear
from safetensors.torch import save_file

OUT = Path(__file__).parent / "data" / "adapters_reference.safetensors"
PAD, PREFIX = 0, 3
COMMON = {"pad_token_id": PAD, "bos_token_id": 1, "eos_token_id": 2, "vocab_size": 24}
BERT = {
    "hidden_size": 8,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 12,
    "max_position_embeddings": 32,
}
LLAMA = BERT | {"num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 2}
FALCON = BERT | {"num_attention_heads": 4, "ffn_hidden_size": 12, "alibi": False, "bias": False}
BART = {
    "d_model": 8,
    **{f"{stack}_layers": 2 for stack in ("encoder", "decoder")},
    **{f"{stack}_attention_heads": 2 for stack in ("encoder", "decoder")},
    **{f"{stack}_ffn_dim": 12 for stack in ("encoder", "decoder")},
    "max_position_embeddings": 32,
    "decoder_start_token_id": 2,
    "forced_eos_token_id": None,
}
T5 = {"d_model": 8, "d_kv": 4, "num_heads": 2, "d_ff": 12, "num_layers": 2, "decoder_start_token_id": 0}
MODELS = {
    "t5": ("t5", T5),
    "bart": ("bart", BART),
    "bert": ("bert", BERT),
    "roberta": ("roberta", BERT),
    "distilbert": (
        "distilbert",
        {"dim": 8, "n_layers": 2, "n_heads": 2, "hidden_dim": 12, "max_position_embeddings": 32},
    ),
    "gpt2": ("gpt2", {"n_embd": 8, "n_layer": 2, "n_head": 2, "n_inner": 12, "n_positions": 32}),
    "llama": ("llama", LLAMA),
    "gpt-neox": ("gpt_neox", BERT),
    "opt": ("opt", BERT | {"ffn_dim": 12, "word_embed_proj_dim": 8, "do_layer_norm_before": True}),
    "gemma2": ("gemma2", LLAMA | {"query_pre_attn_scalar": 2, "sliding_window": 4}),
    "phi3": ("phi3", BERT | {"num_attention_heads": 4, "num_key_value_heads": 2}),
    "phi3-ungrouped": ("phi3", BERT | {"num_key_value_heads": 2}),
    "falcon": ("falcon", FALCON | {"new_decoder_architecture": True, "num_kv_heads": 2}),
    "falcon-mqa": ("falcon", FALCON | {"new_decoder_architecture": False, "multi_query": True, "parallel_attn": True}),
}
NEOX = {
    "model_embeddings": "embed_in",
    "model_layers": "layers",
    "layer_self_attn": "attention",
    "attn_o_proj": "dense",
    "attn_qkv_proj": "query_key_value",
    "layer_intermediate_proj": "mlp.dense_h_to_4h",
    "layer_output_proj": "mlp.dense_4h_to_h",
    "layer_pre_ffn": "mlp",
}
SEPARATE = {"attn_q_proj": "q_proj", "attn_k_proj": "k_proj", "attn_v_proj": "v_proj"}
FUSED = {
    "model_embeddings": "embed_tokens",
    "model_layers": "layers",
    "layer_self_attn": "self_attn",
    "attn_o_proj": "o_proj",
    "layer_intermediate_proj": "mlp.gate_up_proj",
    "layer_output_proj": "mlp.down_proj",
    "layer_pre_ffn": "mlp",
}
INTERFACES = {
    "gpt_neox": NEOX,
    "opt": SEPARATE
    | {
        "model_embeddings": "decoder.embed_tokens",
        "model_layers": "decoder.layers",
        "layer_self_attn": "self_attn",
        "attn_o_proj": "out_proj",
        "layer_intermediate_proj": "fc1",
        "layer_output_proj": "fc2",
        "layer_pre_ffn": "fc1",
    },
    "gemma2": FUSED | SEPARATE | {"layer_intermediate_proj": "mlp.up_proj"},
    "phi3": FUSED | {"attn_qkv_proj": "qkv_proj"},
    "falcon": NEOX | {"model_embeddings": "word_embeddings", "model_layers": "h", "layer_self_attn": "self_attention"},
}
"""Of the types that the library knows by an `AdapterModelInterface` alone, by which it has no prefixes."""
METHODS = {
    "houlsby": DoubleSeqBnConfig(reduction_factor=2, non_linearity="relu"),
    "pfeiffer": SeqBnConfig(reduction_factor=2, non_linearity="relu", original_ln_before=False),
    "parallel": ParBnConfig(reduction_factor=2, non_linearity="relu", scaling=4.0),
    "prefix": PrefixTuningConfig(flat=True, prefix_length=PREFIX),
    "lora": LoRAConfig(r=2, alpha=3),
    "lora of the ffn": LoRAConfig(r=2, alpha=3, selfattn_lora=False, intermediate_lora=True, output_lora=True),
    "ia3": IA3Config(),
    "prompt": PromptTuningConfig(prompt_length=3),
    "compacter": CompacterConfig(reduction_factor=2, phm_dim=2, phm_rank=1),
}
CLASSES = {
    "t5": "AutoModelForSeq2SeqLM",
    "bart": "AutoModelForSeq2SeqLM",
    "gpt2": "AutoModelForCausalLM",
    "llama": "AutoModelForCausalLM",
    **dict.fromkeys(
        ("gpt-neox", "opt", "gemma2", "phi3", "phi3-ungrouped", "falcon", "falcon-mqa"), "AutoModelForCausalLM"
    ),
}


def model_of(family: str, attention: str = "eager") -> torch.nn.Module:
    """A transformers model in float64 with random weights whose biases are not zero and whose norms are not one."""
    model_type, settings = MODELS[family]
    config = transformers.AutoConfig.for_model(model_type, **COMMON, **settings)
    torch.manual_seed(0)
    maker = getattr(transformers, CLASSES.get(family, "AutoModel"))
    model = maker.from_config(config, attn_implementation=attention).double().eval()
    with torch.no_grad():
        for x in model.parameters():
            x.normal_(std=0.4) if x.ndim > 1 else x.add_(torch.randn_like(x), alpha=0.2)
    return model


def with_adapter(model: torch.nn.Module, method: str) -> tuple[torch.nn.Module, dict[str, torch.Tensor]]:
    """The model with an adapter of random weights, and these weights by name."""
    base = set(model.state_dict())
    if own := INTERFACES.get(model.config.model_type):
        kind = {"ia3": "lora", "lora of the ffn": "lora", "prompt": "prompt_tuning", "lora": "lora"}
        adapters.init(
            model, interface=AdapterModelInterface([kind.get(method, "bottleneck")], layer_cross_attn=None, **own)
        )
        without_bias(model, base)
    else:
        adapters.init(model)
    known = set(model.state_dict())
    model.add_adapter(method, config=METHODS[method])
    model.set_active_adapters(method)
    model.double().eval()
    new = {name: x for name, x in model.named_parameters() if name not in known}
    torch.manual_seed(1)
    with torch.no_grad():
        for x in new.values():
            x.normal_(std=0.4)
    return model, new


def without_bias(model: torch.nn.Module, base: set[str]) -> None:
    """Take away the random biases that the library gives to fused matrices which have none."""
    for name, module in model.named_modules():
        if isinstance(module, LoRAMergedLinear) and f"{name}.bias" not in base:
            module.bias = None


def inputs_of(family: str) -> dict[str, torch.Tensor]:
    """Two inputs of different lengths, padded on the right."""
    ids = torch.tensor([[5, 6, 7, 8, 9, 2], [10, 11, 12, 2, PAD, PAD]])
    given = {"input_ids": ids, "attention_mask": (ids != PAD).long()}
    return given | ({"decoder_input_ids": torch.tensor([[0, 13, 14], [0, 15, 16]])} if family in ("t5", "bart") else {})


def states_of(model: torch.nn.Module, family: str) -> torch.Tensor:
    """The logits; of an encoder without a head, its last states."""
    with torch.no_grad():
        output = model(**inputs_of(family))
    return output.logits if "logits" in output else output.last_hidden_state


def without_prefix(compute_bias: Callable[..., torch.Tensor]) -> Callable[..., torch.Tensor]:
    """T5's relative position bias as without a prefix, with zeros for the prefix's keys in front.

    The library counts the prefix among the keys and not among the queries, so that the tokens' keys move on by its
    length.
    """

    def bias(queries: int, keys: int, **rest: Any) -> torch.Tensor:
        return torch.nn.functional.pad(compute_bias(queries, keys - PREFIX, **rest), (PREFIX, 0))

    return bias


def main() -> None:
    """Write the file; its metadata holds the library's error for each method that it does not have for a family."""
    tensors: dict[str, torch.Tensor] = {}
    refused: dict[str, str] = {}
    for family, method in itertools.product(MODELS, METHODS):
        base = model_of(family)
        tensors |= {f"{family}/base/{name}": x.detach() for name, x in base.named_parameters()}
        try:
            model, new = with_adapter(base, method)
            tensors[f"{family}/{method}"] = states_of(model, family)
        except (ValueError, IndexError, RuntimeError) as error:  # the library's own limits
            refused[f"{family}/{method}"] = f"{type(error).__name__}: {error}"
            continue
        tensors |= {f"{family}/{method}/{name}": x.detach() for name, x in new.items()}
    sdpa, _ = with_adapter(model_of("distilbert", attention="sdpa"), "prefix")
    tensors["distilbert/prefix with sdpa"] = states_of(sdpa, "distilbert")
    t5, _ = with_adapter(model_of("t5"), "prefix")
    for name, module in t5.named_modules():
        if name.endswith("Attention") and module.has_relative_attention_bias:
            module.compute_bias = without_prefix(module.compute_bias)
    tensors["t5/prefix outside the bias"] = states_of(t5, "t5")
    versions = {"adapters": adapters.__version__, "transformers": transformers.__version__, "torch": torch.__version__}
    OUT.parent.mkdir(exist_ok=True)
    models = {name: [CLASSES.get(name, "AutoModel"), MODELS[name][0], COMMON | MODELS[name][1]] for name in MODELS}
    metadata = {"versions": json.dumps(versions), "models": json.dumps(models), "refused": json.dumps(refused)}
    save_file({name: x.contiguous().clone() for name, x in tensors.items()}, OUT, metadata)


if __name__ == "__main__":
    logging.disable(logging.WARNING)
    main()
