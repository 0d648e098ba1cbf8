"""Model types and settings of the pico models: one for each family of architectures, and for its variants."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

SPECIAL = {"pad_token": "<pad>", "bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>", "mask_token": "<mask>"}
IDS = {f"{name}_id": index for index, name in enumerate(SPECIAL)}
VOCABULARY = len(SPECIAL) + 256
LIMIT = 512

SETTINGS = {name: IDS[name] for name in ("pad_token_id", "bos_token_id", "eos_token_id")} | {"vocab_size": VOCABULARY}
_BERT = {
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 32,
    "max_position_embeddings": LIMIT,
}
_BART = {
    "d_model": 16,
    **{
        f"{stack}_{name}": value
        for stack in ("encoder", "decoder")
        for name, value in {"layers": 2, "attention_heads": 4, "ffn_dim": 32}.items()
    },
    "max_position_embeddings": LIMIT,
    "decoder_start_token_id": IDS["eos_token_id"],
    "forced_eos_token_id": None,
}
_T5 = {
    "d_model": 16,
    "d_kv": 4,
    "num_heads": 4,
    "d_ff": 32,
    "num_layers": 2,
    "decoder_start_token_id": IDS["pad_token_id"],
}
_LLAMA = {**_BERT, "num_key_value_heads": 2, "head_dim": 4}
_OPT = {**_BERT, "ffn_dim": 32, "word_embed_proj_dim": 16}
_GPT2 = {"n_embd": 16, "n_layer": 2, "n_head": 4, "n_inner": 32, "n_positions": LIMIT}

_RELATIVE = {
    "relative_attention": True,
    "pos_att_type": ["p2c", "c2p"],
    "position_buckets": 8,
    "norm_rel_ebd": "layer_norm",
    "position_biased_input": False,
}
_MIXTURE = {"num_experts_per_tok": 2, "moe_intermediate_size": 8}
_GRANITE = {"embedding_multiplier": 2.0, "residual_multiplier": 0.5, "attention_multiplier": 0.3, "logits_scaling": 2.0}
_LATENT = {
    **_BERT,
    "num_key_value_heads": 4,
    "q_lora_rank": 8,
    "kv_lora_rank": 8,
    "qk_nope_head_dim": 4,
    "qk_rope_head_dim": 2,
    "v_head_dim": 4,
}

CONFIGURATIONS: Mapping[str, tuple[str, Mapping[str, Any]]] = {
    "t5": ("t5", _T5),
    "bart": ("bart", _BART),
    "bert": ("bert", _BERT),
    "roberta": ("roberta", _BERT),
    "distilbert": ("distilbert", {"dim": 16, "n_layers": 2, "n_heads": 4, "hidden_dim": 32}),
    "gpt2": ("gpt2", _GPT2),
    "llama": ("llama", _LLAMA),
    "gpt-neox": ("gpt_neox", _BERT),
    "opt": ("opt", _OPT),
    "t5-gated": ("t5", {**_T5, "feed_forward_proj": "gated-gelu", "tie_word_embeddings": False}),
    "mt5": ("mt5", _T5),
    "umt5": ("umt5", _T5),
    "mbart": ("mbart", _BART),
    "marian": ("marian", _BART),
    "pegasus": ("pegasus", _BART),
    "xlm-roberta": ("xlm-roberta", _BERT),
    "camembert": ("camembert", _BERT),
    "mistral": ("mistral", _LLAMA),
    "ministral": ("ministral", _LLAMA),
    "smollm3": ("smollm3", _LLAMA),
    "qwen2": ("qwen2", _LLAMA),
    "qwen3": ("qwen3", _LLAMA),
    "gemma": ("gemma", _LLAMA),
    "gemma2": ("gemma2", _LLAMA),
    "gemma3": ("gemma3_text", _LLAMA),
    "electra": ("electra", {**_BERT, "embedding_size": 8}),
    "modernbert": (
        "modernbert",
        {**_BERT, "global_attn_every_n_layers": 2, "local_attention": 4, "deterministic_flash_attn": False},
    ),
    "deberta-v2": ("deberta-v2", {**_BERT, **_RELATIVE, "share_att_key": True}),
    "deberta": (
        "deberta",
        {**_BERT, "relative_attention": True, "pos_att_type": ["p2c", "c2p"], "position_biased_input": False},
    ),
    "albert": ("albert", {**_BERT, "embedding_size": 8}),
    "longformer": ("longformer", {**_BERT, "attention_window": 4}),
    "mpnet": ("mpnet", {**_BERT, "relative_attention_num_buckets": 32}),
    "roformer": ("roformer", {**_BERT, "embedding_size": 8}),
    "ernie": ("ernie", {**_BERT, "use_task_id": True}),
    "nomic-bert": ("nomic_bert", {**_BERT}),
    "big-bird": ("big_bird", {**_BERT, "attention_type": "original_full"}),
    "fnet": ("fnet", {**_BERT}),
    "eurobert": ("eurobert", {**_LLAMA}),
    "xlm": ("xlm", {"emb_dim": 16, "n_layers": 2, "n_heads": 4, "max_position_embeddings": LIMIT}),
    "phi3": ("phi3", {**_LLAMA}),
    "phi": ("phi", {**_LLAMA, "partial_rotary_factor": 0.5}),
    "falcon-mqa": (
        "falcon",
        {**_BERT, "multi_query": True, "alibi": False, "bias": False, "parallel_attn": True, "ffn_hidden_size": 32},
    ),
    "falcon-gqa": (
        "falcon",
        {
            **_BERT,
            "new_decoder_architecture": True,
            "num_kv_heads": 2,
            "alibi": False,
            "bias": False,
            "ffn_hidden_size": 32,
        },
    ),
    "falcon-alibi": (
        "falcon",
        {**_BERT, "multi_query": False, "alibi": True, "bias": True, "parallel_attn": False, "ffn_hidden_size": 32},
    ),
    "mixtral": ("mixtral", {**_LLAMA, "num_local_experts": 4, "num_experts_per_tok": 2}),
    "qwen2-moe": ("qwen2_moe", {**_LLAMA, "num_experts": 4, **_MIXTURE, "shared_expert_intermediate_size": 24}),
    "qwen3-moe": ("qwen3_moe", {**_LLAMA, "num_experts": 4, **_MIXTURE, "mlp_only_layers": [0]}),
    "bloom": ("bloom", {"hidden_size": 16, "n_layer": 2, "n_head": 4}),
    "gptj": ("gptj", {"n_embd": 16, "n_layer": 2, "n_head": 4, "rotary_dim": 2, "n_inner": 32}),
    "codegen": ("codegen", {"n_embd": 16, "n_layer": 2, "n_head": 4, "rotary_dim": 2, "n_inner": 32}),
    "mpt": ("mpt", {"d_model": 16, "n_layers": 2, "n_heads": 4, "expansion_ratio": 2}),
    "gpt-neo": (
        "gpt_neo",
        {
            "hidden_size": 16,
            "num_layers": 2,
            "num_heads": 4,
            "attention_types": [[["global", "local"], 1]],
            "window_size": 4,
            "intermediate_size": 32,
            "max_position_embeddings": LIMIT,
        },
    ),
    "gpt-bigcode": ("gpt_bigcode", {**_GPT2, "multi_query": True}),
    "starcoder2": ("starcoder2", {**_LLAMA}),
    "stablelm": ("stablelm", {**_LLAMA, "partial_rotary_factor": 0.5, "qk_layernorm": False}),
    "olmo2": ("olmo2", {**_LLAMA}),
    "cohere": ("cohere", {**_LLAMA}),
    "granite": ("granite", {**_LLAMA, **_GRANITE}),
    "glm": ("glm", {**_LLAMA, "partial_rotary_factor": 0.5}),
    "deepseek-v3": (
        "deepseek_v3",
        {
            **_LATENT,
            "n_routed_experts": 4,
            **_MIXTURE,
            "n_group": 2,
            "topk_group": 1,
            "first_k_dense_replace": 1,
            "n_shared_experts": 1,
        },
    ),
    "xglm": (
        "xglm",
        {"d_model": 16, "num_layers": 2, "attention_heads": 4, "ffn_dim": 32, "max_position_embeddings": LIMIT},
    ),
    "biogpt": ("biogpt", {**_BERT}),
    "ministral3": ("ministral3", {**_LLAMA}),
    "bart-scaled": ("bart", {**_BART, "scale_embedding": True}),
    "led": (
        "led",
        {
            **_BART,
            "max_encoder_position_embeddings": LIMIT,
            "max_decoder_position_embeddings": LIMIT,
            "attention_window": 4,
        },
    ),
    "longt5": ("longt5", {**_T5, "local_radius": 3}),
    "switch": (
        "switch_transformers",
        {
            **_T5,
            "num_experts": 4,
            "expert_capacity": 64,
            "num_decoder_layers": 2,
            "num_sparse_encoder_layers": 1,
            "num_sparse_decoder_layers": 1,
        },
    ),
    "m2m-100": ("m2m_100", {**_BART, "scale_embedding": True}),
    "blenderbot": ("blenderbot", {**_BART, "scale_embedding": True}),
    "gpt-oss": ("gpt_oss", {**_LLAMA, "num_local_experts": 4, "num_experts_per_tok": 2, "sliding_window": 4}),
    "cohere2": ("cohere2", {**_LLAMA, "sliding_window": 4}),
    "glm4": ("glm4", {**_LLAMA, "partial_rotary_factor": 0.5}),
    "qwen3-next": (
        "qwen3_next",
        {
            **_LLAMA,
            "num_experts": 4,
            **_MIXTURE,
            "shared_expert_intermediate_size": 24,
            "linear_num_key_heads": 2,
            "linear_num_value_heads": 4,
            "linear_key_head_dim": 4,
            "linear_value_head_dim": 4,
            "layer_types": ["linear_attention", "full_attention"],
        },
    ),
    "nemotron": ("nemotron", {**_LLAMA, "partial_rotary_factor": 0.5}),
    "olmoe": ("olmoe", {**_LLAMA, "num_experts": 4, "num_experts_per_tok": 2}),
    "granitemoe": ("granitemoe", {**_LLAMA, "num_local_experts": 4, "num_experts_per_tok": 2, **_GRANITE}),
    "opt-projected": ("opt", {**_OPT, "word_embed_proj_dim": 8, "do_layer_norm_before": False}),
    "mistral-window": ("mistral", {**_LLAMA, "sliding_window": 4}),
    "lfm2": ("lfm2", {**_LLAMA, "layer_types": ["conv", "full_attention"]}),
    "openai-gpt": ("openai-gpt", {"n_embd": 16, "n_layer": 2, "n_head": 4, "n_positions": LIMIT}),
    "ctrl": ("ctrl", {"n_embd": 16, "n_layer": 2, "n_head": 4, "dff": 32, "n_positions": LIMIT}),
    "gemma3n": (
        "gemma3n_text",
        {
            **_LLAMA,
            "sliding_window": 4,
            "vocab_size_per_layer_input": 261,
            "hidden_size_per_layer_input": 4,
            "num_kv_shared_layers": 0,
            "laurel_rank": 4,
            "altup_num_inputs": 2,
            "layer_types": ["sliding_attention", "full_attention"],
            "activation_sparsity_pattern": [0.0, 0.0],
        },
    ),
    "gemma2-window": ("gemma2", {**_LLAMA, "sliding_window": 4}),
    "gemma3-window": ("gemma3_text", {**_LLAMA, "sliding_window": 4}),
    "pegasus-scaled": ("pegasus", {**_BART, "scale_embedding": True}),
    "marian-scaled": ("marian", {**_BART, "scale_embedding": True}),
    "deberta-v2-separate": ("deberta-v2", {**_BERT, **_RELATIVE, "share_att_key": False}),
    "longt5-global": ("longt5", {**_T5, "encoder_attention_type": "transient-global", "global_block_size": 2}),
    "gpt-bigcode-heads": ("gpt_bigcode", {**_GPT2, "multi_query": False}),
    "olmo3": ("olmo3", {**_LLAMA, "sliding_window": 4}),
    "arcee": ("arcee", _LLAMA),
    "glm4-moe": (
        "glm4_moe",
        {
            **_LLAMA,
            **_MIXTURE,
            "n_routed_experts": 4,
            "n_group": 1,
            "topk_group": 1,
            "first_k_dense_replace": 1,
            "n_shared_experts": 1,
        },
    ),
    "deepseek-v2": (
        "deepseek_v2",
        {
            **_LATENT,
            **_MIXTURE,
            "n_routed_experts": 4,
            "n_group": 1,
            "topk_group": 1,
            "first_k_dense_replace": 1,
            "n_shared_experts": 1,
            "q_lora_rank": None,
        },
    ),
    "blenderbot-small": ("blenderbot-small", {**_BART, "scale_embedding": True}),
}
"""Model type and settings of each pico model, by name.

Those after the first are hostile on purpose: windows of four tokens, a few experts, half of a head rotary, scaled
embeddings, groups of heads.
"""

WITHOUT_TABLE: Mapping[str, tuple[str, Mapping[str, Any]]] = {
    "xlnet": ("xlnet", {"d_model": 16, "n_layer": 2, "n_head": 4, "d_inner": 32}),
    "funnel": (
        "funnel",
        {
            "architectures": ["FunnelModel"],
            "d_model": 16,
            "n_head": 4,
            "d_head": 4,
            "d_inner": 32,
            "block_sizes": [1, 1],
            "block_repeats": [1, 1],
            "num_decoder_layers": 1,
        },
    ),
    "mamba": ("mamba", {"hidden_size": 16, "num_hidden_layers": 2, "state_size": 4}),
    "prophetnet": (
        "prophetnet",
        {
            "hidden_size": 16,
            "num_encoder_layers": 2,
            "num_decoder_layers": 2,
            "num_encoder_attention_heads": 4,
            "num_decoder_attention_heads": 4,
            "encoder_ffn_dim": 32,
            "decoder_ffn_dim": 32,
            "max_position_embeddings": LIMIT,
            "decoder_start_token_id": IDS["eos_token_id"],
        },
    ),
    "mamba2": (
        "mamba2",
        {
            "hidden_size": 16,
            "num_hidden_layers": 2,
            "state_size": 4,
            "num_heads": 4,
            "head_dim": 8,
            "n_groups": 1,
            "chunk_size": 4,
        },
    ),
}
"""Pico models of types that no table serves and none can be derived for."""

COMMON = tuple(CONFIGURATIONS)[:25]
"""The pico models of families whose layers are made of the usual parts, each called once."""

FAMILIES = tuple(CONFIGURATIONS)[:9]
"""One pico model for each of the most common families: what the conformance suite runs on."""
