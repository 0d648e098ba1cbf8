"""Pico backbones: two layers, width 16, random weights and a byte-level tokenizer, made in milliseconds and offline.

They are what every test of a method runs on, ours and a stranger's.
"""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from typing import Any

import torch
import transformers
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors
from torch import nn

from deltacompose.backbone.backbone import Backbone
from deltacompose.backbone.loading import load_backbone
from deltacompose.backbone.pico_hostile import HOSTILE
from deltacompose.backbone.pretrained import class_name, kind_of, without_dropout
from deltacompose.errors import unknown

SPECIAL = {"pad_token": "<pad>", "bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>", "mask_token": "<mask>"}
IDS = {f"{name}_id": index for index, name in enumerate(SPECIAL)}
VOCABULARY = len(SPECIAL) + 256
LIMIT = 512

_COMMON = {name: IDS[name] for name in ("pad_token_id", "bos_token_id", "eos_token_id")} | {"vocab_size": VOCABULARY}
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
}
"""Model type and settings of each pico model, by name."""

FAMILIES = tuple(CONFIGURATIONS)[:9]
"""One pico model for each family of architectures: what the conformance suite runs on."""

_WITHOUT_START = ("gpt2", "gpt_neox")
"""Decoders whose own tokenizers put nothing before the text."""


def pico(family: str, *, head: str | None = None, seed: int = 0) -> Any:
    """A transformers model of two layers and width 16, in evaluation mode and without dropout.

    All weights are random and of a size that matters: biases are not zero and norms are not one, as they would be in
    a fresh model, so that whatever is dropped on the way shows in the outputs.

    Args:
        family: one of `CONFIGURATIONS`, or of `HOSTILE`, whose models have dropout in their configuration.
        head: `mlm` for an encoder with its masked-language head.
    """
    config = _configuration(family)
    maker = getattr(transformers, class_name(kind_of(config), head))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = maker.from_config(config)
        for parameter in model.parameters():
            _randomise(parameter)
    for name, value in _generation(family).items():
        setattr(model.generation_config, name, value)
    return model.eval()


def pico_tokenizer(family: str) -> Any:
    """A tokenizer of bytes, without loss: the special tokens take the ids 0 to 4, the bytes come after them.

    It puts around a text what the family's own tokenizer does.
    """
    config = _configuration(family)
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {token: index for index, token in enumerate([*SPECIAL.values(), *alphabet])}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.decoder = decoders.ByteLevel()
    around = {"encoder": ("<s> $A </s>", "$B:1 </s>:1"), "encoder-decoder": ("$A </s>", "$B:1 </s>:1")}
    one, two = around.get(kind_of(config), ("<s> $A", "$B:1"))
    if config.model_type in _WITHOUT_START:
        one = "$A"
    marks = [(token, index) for index, token in enumerate(SPECIAL.values())]
    tokenizer.post_processor = processors.TemplateProcessing(single=one, pair=f"{one} {two}", special_tokens=marks)
    return transformers.PreTrainedTokenizerFast(tokenizer_object=tokenizer, **SPECIAL)  # type: ignore[no-untyped-call]


def pico_backbone(
    family: str, *, head: str | None = None, seed: int = 0, tables: Mapping[str, Any] | None = None
) -> Backbone:
    """The pico model of a family with its tokenizer, frozen, as a backbone.

    Args:
        tables: the tables to choose from; the built-in ones if None, whatever other plugins are installed.
    """
    if tables is None:
        tables = importlib.import_module("deltacompose_plugins.backbones").tables()
    model = pico(family, head=head, seed=seed).requires_grad_(False)
    return load_backbone(model, pico_tokenizer(family), tables=tables)


def _configuration(family: str) -> Any:
    if family in HOSTILE:
        model_type, settings, _ = HOSTILE[family]
        return transformers.AutoConfig.for_model(model_type, **_COMMON | dict(settings))
    if family not in CONFIGURATIONS:
        raise unknown("pico model", family, {**CONFIGURATIONS, **HOSTILE})
    model_type, settings = CONFIGURATIONS[family]
    return without_dropout(transformers.AutoConfig.for_model(model_type, **_COMMON | dict(settings)))


def _generation(family: str) -> Mapping[str, Any]:
    """The generation settings that a model ships, beside its family's own."""
    return HOSTILE[family][2] if family in HOSTILE else {}


def _randomise(parameter: nn.Parameter) -> None:
    """Matrices anew, so that a unit's output has about the size of its input; vectors around what they were."""
    if parameter.ndim > 1:
        parameter.data.normal_(std=0.25)
    else:
        parameter.data.add_(torch.randn_like(parameter), alpha=0.1)
