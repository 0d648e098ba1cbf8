"""Pico models that are as models are found, where the others are kind: odd sizes, and settings that interfere.

Three layers and a width of 24, so that what was written for two layers or for a width of 16 does not fit; matrices that
are not square; dropout in the configuration; several end tokens, and generation settings that change what is generated.
Their tokenizers hold tokens of two bytes, so that a letter of many scripts is a token and a half.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

WORDS = ("ночь", "полдень", "ليلة", "ظهيرة", "रात", "दोपहर", "夜", "正午", "밤", "정오", "νύχτα", "לילה", "กลางคืน")
"""Words of many scripts, whose pairs of bytes are tokens of the hostile tokenizers."""

MERGED = 44
"""The number of these pairs."""


def merges(encode: Callable[[str], str]) -> list[tuple[str, str]]:
    """Pairs of bytes that one token holds: those of the words, wherever a letter begins or ends.

    Args:
        encode: writes a text as a byte-level tokenizer does, one character a byte.
    """
    pairs = [(text[at], text[at + 1]) for text in map(encode, WORDS) for at in range(0, len(text) - 1, 2)]
    return list(dict.fromkeys(pairs))[:MERGED]


_ENDS = [2, 60, 61]
"""Several tokens end a generation, as in Llama 3 and Gemma."""

_INTERFERING: Mapping[str, Any] = {
    "forced_bos_token_id": 70,
    "min_length": 9,
    "no_repeat_ngram_size": 1,
    "repetition_penalty": 1.7,
    "eos_token_id": _ENDS,
    "do_sample": True,
    "temperature": 3.0,
    "num_beams": 2,
    "length_penalty": 2.0,
}
"""Generation settings that a checkpoint may ship, and that an evaluation must not obey."""

HOSTILE: Mapping[str, tuple[str, Mapping[str, Any], Mapping[str, Any]]] = {
    # Matrices of 20 x 24, gated, its head untied, more layers in the encoder than in the decoder.
    "hostile-t5": (
        "t5",
        {
            "d_model": 24,
            "d_kv": 5,
            "num_heads": 4,
            "d_ff": 40,
            "num_layers": 3,
            "num_decoder_layers": 2,
            "feed_forward_proj": "gated-gelu",
            "tie_word_embeddings": False,
            "decoder_start_token_id": 0,
            "dropout_rate": 0.1,
        },
        {"eos_token_id": _ENDS, "repetition_penalty": 1.7},
    ),
    "hostile-bert": (
        "bert",
        {
            "hidden_size": 24,
            "num_hidden_layers": 3,
            "num_attention_heads": 4,
            "intermediate_size": 40,
            "max_position_embeddings": 512,
            "hidden_dropout_prob": 0.1,
            "attention_probs_dropout_prob": 0.1,
        },
        {},
    ),
    # Rotary positions on a part of each head, one fused matrix that alternates within each head.
    "hostile-gpt-neox": (
        "gpt_neox",
        {
            "hidden_size": 24,
            "num_hidden_layers": 3,
            "num_attention_heads": 3,
            "intermediate_size": 40,
            "max_position_embeddings": 512,
            "rotary_pct": 0.25,
            "tie_word_embeddings": False,
            "attention_dropout": 0.1,
            "hidden_dropout": 0.1,
        },
        {"eos_token_id": _ENDS, "no_repeat_ngram_size": 1},
    ),
    # Scaled and tied embeddings, grouped heads wider than the model, sliding windows, norms on both sides.
    "hostile-gemma3": (
        "gemma3_text",
        {
            "hidden_size": 24,
            "num_hidden_layers": 3,
            "num_attention_heads": 4,
            "num_key_value_heads": 2,
            "head_dim": 8,
            "intermediate_size": 40,
            "max_position_embeddings": 512,
            "sliding_window": 32,
            "layer_types": ["sliding_attention", "full_attention", "sliding_attention"],
            "attention_dropout": 0.1,
        },
        {"eos_token_id": _ENDS, "do_sample": True, "temperature": 3.0},
    ),
    # Scaled and tied embeddings, tabled positions, and a first token that the checkpoint forces.
    "hostile-marian": (
        "marian",
        {
            "d_model": 24,
            "encoder_layers": 3,
            "decoder_layers": 2,
            "encoder_attention_heads": 4,
            "decoder_attention_heads": 4,
            "encoder_ffn_dim": 40,
            "decoder_ffn_dim": 40,
            "max_position_embeddings": 512,
            "decoder_start_token_id": 0,
            "forced_eos_token_id": None,
            "scale_embedding": True,
            "dropout": 0.1,
        },
        _INTERFERING,
    ),
    # ALiBi: positions are distances alone, one fused matrix that alternates within each head, tied embeddings.
    "hostile-falcon": (
        "falcon",
        {
            "hidden_size": 24,
            "num_hidden_layers": 3,
            "num_attention_heads": 3,
            "ffn_hidden_size": 40,
            "alibi": True,
            "multi_query": False,
            "parallel_attn": False,
            "bias": True,
            "attention_dropout": 0.1,
            "hidden_dropout": 0.1,
        },
        {"eos_token_id": _ENDS, "repetition_penalty": 1.7, "min_length": 9},
    ),
    # Routed experts with a shared one, and a layer with a plain network; grouped heads.
    "hostile-mixture": (
        "qwen2_moe",
        {
            "hidden_size": 24,
            "num_hidden_layers": 3,
            "num_attention_heads": 4,
            "num_key_value_heads": 2,
            "intermediate_size": 40,
            "moe_intermediate_size": 16,
            "shared_expert_intermediate_size": 20,
            "num_experts": 4,
            "num_experts_per_tok": 2,
            "mlp_only_layers": [1],
            "max_position_embeddings": 512,
            "attention_dropout": 0.1,
        },
        _INTERFERING,
    ),
}
"""Model type, settings and generation settings of each, by name."""
