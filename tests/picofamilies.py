"""Pico models of more families than the conformance suite has: scaled embeddings, sliding windows, ALiBi, experts."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from typing import Any

import torch
import transformers
from torch import nn

from deltacompose import plugins
from deltacompose.backbone.backbone import Backbone
from deltacompose.backbone.loading import load_backbone
from deltacompose.backbone.pico import IDS, LIMIT, pico_tokenizer
from deltacompose.backbone.pico_families import VOCABULARY
from deltacompose.composition import Term, parse
from deltacompose.errors import BadInput

METHODS = plugins.load(disabled=True).methods
TABLES = plugins.load(disabled=True).backbones

_COMMON = {name: IDS[name] for name in ("pad_token_id", "bos_token_id", "eos_token_id")} | {"vocab_size": VOCABULARY}
_WIDE = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 32}
_BERT = {**_WIDE, "max_position_embeddings": LIMIT}
_LLAMA = {**_BERT, "num_key_value_heads": 2, "head_dim": 4}
_WINDOWS = {"sliding_window": 5, "layer_types": ["sliding_attention", "full_attention"]}
_STACKS = {
    f"{stack}_{name}": value
    for stack in ("encoder", "decoder")
    for name, value in {"layers": 2, "attention_heads": 4, "ffn_dim": 32}.items()
}
_START = {"decoder_start_token_id": IDS["eos_token_id"], "forced_eos_token_id": None}
_BART = {"d_model": 16, **_STACKS, **_START, "max_position_embeddings": LIMIT, "scale_embedding": True}
_LED = {name: value for name, value in _BART.items() if name not in ("max_position_embeddings", "scale_embedding")}
_PER_LAYER = {"hidden_size_per_layer_input": 8, "vocab_size_per_layer_input": VOCABULARY, "num_kv_shared_layers": 0}
_T5 = {"d_model": 16, "d_kv": 4, "num_heads": 4, "d_ff": 32, "num_layers": 2, "decoder_start_token_id": 0}

CAUSAL, SEQUENCE, BARE = "AutoModelForCausalLM", "AutoModelForSeq2SeqLM", "AutoModel"
MODELS: Mapping[str, tuple[str, str, Mapping[str, Any]]] = {
    "electra": ("electra", BARE, {**_BERT, "embedding_size": 8}),
    "albert": ("albert", BARE, {**_BERT, "embedding_size": 8}),
    "roberta": ("roberta", BARE, _BERT),
    "modernbert": ("modernbert", BARE, {**_BERT, "local_attention": 8}),
    "deberta-v2": ("deberta-v2", BARE, {**_BERT, "relative_attention": True, "pos_att_type": ["p2c", "c2p"]}),
    "big_bird": ("big_bird", BARE, {**_BERT, "block_size": 4, "num_random_blocks": 1}),
    "longformer": ("longformer", BARE, {**_BERT, "attention_window": [8, 8]}),
    "gemma": ("gemma", CAUSAL, _LLAMA),
    "gemma2": ("gemma2", CAUSAL, {**_LLAMA, "sliding_window": 5}),
    "gemma3": ("gemma3_text", CAUSAL, {**_LLAMA, **_WINDOWS}),
    "gemma3n": (
        "gemma3n_text",
        CAUSAL,
        {**_LLAMA, **_WINDOWS, **_PER_LAYER, "laurel_rank": 4, "activation_sparsity_pattern": [0.0, 0.0]},
    ),
    "mistral": ("mistral", CAUSAL, {**_LLAMA, "sliding_window": 5}),
    "gpt2": ("gpt2", CAUSAL, {"n_embd": 16, "n_layer": 2, "n_head": 4, "n_inner": 32, "n_positions": LIMIT}),
    "opt": ("opt", CAUSAL, {**_BERT, "ffn_dim": 32, "word_embed_proj_dim": 8}),
    "bloom": ("bloom", CAUSAL, {"hidden_size": 16, "n_layer": 2, "n_head": 4}),
    "mpt": ("mpt", CAUSAL, {"d_model": 16, "n_heads": 4, "n_layers": 2, "max_seq_len": LIMIT}),
    "falcon": ("falcon", CAUSAL, {**_BERT, "alibi": True, "multi_query": False, "new_decoder_architecture": False}),
    "xglm": (
        "xglm",
        CAUSAL,
        {"d_model": 16, "num_layers": 2, "attention_heads": 4, "ffn_dim": 32, "max_position_embeddings": LIMIT},
    ),
    "biogpt": ("biogpt", CAUSAL, {**_BERT, "scale_embedding": True}),
    "mixtral": ("mixtral", CAUSAL, {**_LLAMA, "num_local_experts": 4}),
    "bart": ("bart", SEQUENCE, _BART),
    "marian": ("marian", SEQUENCE, _BART),
    "pegasus": ("pegasus", SEQUENCE, _BART),
    "blenderbot": ("blenderbot", SEQUENCE, _BART),
    "m2m_100": ("m2m_100", SEQUENCE, _BART),
    "led": (
        "led",
        SEQUENCE,
        {
            **_LED,
            **{f"max_{stack}_position_embeddings": LIMIT for stack in ("encoder", "decoder")},
            "attention_window": [8, 8],
        },
    ),
    "t5": ("t5", SEQUENCE, _T5),
}
"""Model type, class and settings, by name."""


def model(name: str) -> Any:
    """A model with random weights of a size that matters, in evaluation mode and without dropout."""
    kind, maker, settings = MODELS[name]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        made = getattr(transformers, maker).from_config(transformers.AutoConfig.for_model(kind, **_COMMON, **settings))
        for parameter in made.parameters():
            if parameter.ndim > 1:
                nn.init.normal_(parameter, std=0.25)
            else:
                parameter.data.add_(torch.randn_like(parameter), alpha=0.1)
    return made.eval().requires_grad_(False)


def backbone_of(made: Any) -> Backbone:
    """The model seen through the table that serves it, or through a derived one."""
    tokenizer = pico_tokenizer("t5" if made.config.is_encoder_decoder else "llama")
    try:
        return load_backbone(made, tokenizer, tables=TABLES)
    except BadInput:
        return load_backbone(made, tokenizer, tables=TABLES, table="derived")


@functools.cache
def backbone(name: str) -> Backbone:
    """A backbone that tests share."""
    return backbone_of(model(name))


def read(text: str) -> Term:
    return parse(text, METHODS)
