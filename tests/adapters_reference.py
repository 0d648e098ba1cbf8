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
    CompacterConfig,
    DoubleSeqBnConfig,
    IA3Config,
    LoRAConfig,
    ParBnConfig,
    PrefixTuningConfig,
    PromptTuningConfig,
    SeqBnConfig,
)
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
}
METHODS = {
    "houlsby": DoubleSeqBnConfig(reduction_factor=2, non_linearity="relu"),
    "pfeiffer": SeqBnConfig(reduction_factor=2, non_linearity="relu", original_ln_before=False),
    "parallel": ParBnConfig(reduction_factor=2, non_linearity="relu", scaling=4.0),
    "prefix": PrefixTuningConfig(flat=True, prefix_length=PREFIX),
    "lora": LoRAConfig(r=2, alpha=3),
    "ia3": IA3Config(),
    "prompt": PromptTuningConfig(prompt_length=3),
    "compacter": CompacterConfig(reduction_factor=2, phm_dim=2, phm_rank=1),
}
CLASSES = {
    "t5": "AutoModelForSeq2SeqLM",
    "bart": "AutoModelForSeq2SeqLM",
    "gpt2": "AutoModelForCausalLM",
    "llama": "AutoModelForCausalLM",
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
    """Write the file; a method that the library does not have for a family is left out and printed."""
    tensors: dict[str, torch.Tensor] = {}
    for family, method in itertools.product(MODELS, METHODS):
        base = model_of(family)
        tensors |= {f"{family}/base/{name}": x.detach() for name, x in base.named_parameters()}
        try:
            model, new = with_adapter(base, method)
            tensors[f"{family}/{method}"] = states_of(model, family)
        except (ValueError, IndexError) as error:  # the library's own limits
            print(f"{family}, {method}: {type(error).__name__}: {str(error)[:60]}")
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
    metadata = {"versions": json.dumps(versions), "models": json.dumps(models)}
    save_file({name: x.clone() for name, x in tensors.items()}, OUT, metadata)


if __name__ == "__main__":
    logging.disable(logging.WARNING)
    main()
