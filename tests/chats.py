"""Pico chat models: random weights of Llama's shape, with the tokenizers and templates of `tests/data/chat`."""

from __future__ import annotations

from functools import cache
from pathlib import Path

import torch
import transformers
from deltacompose_plugins.backbones import tables

from deltacompose.backbone.backbone import Backbone
from deltacompose.backbone.loading import load_backbone

FAMILIES = ("llama3", "qwen", "gemma", "mistral", "chatml")
FOLDER = Path(__file__).parent / "data" / "chat"


def tokenizer(family: str):
    """The tokenizer of a family, read anew."""
    return transformers.AutoTokenizer.from_pretrained(FOLDER / family)


@cache
def model(family: str):
    config = transformers.LlamaConfig(
        hidden_size=16, intermediate_size=32, num_hidden_layers=2, num_attention_heads=2, vocab_size=288,
        max_position_embeddings=512, eos_token_id=tokenizer(family).eos_token_id,
    )  # fmt: skip
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return transformers.LlamaForCausalLM(config).requires_grad_(False).eval()


def conversing(family: str, system: str | None = None, **options) -> Backbone:
    """A pico chat model that reads inputs through its template."""
    options = {"chat": True, "system": system} | options
    return load_backbone(model(family), tokenizer(family), tables=tables(), **options)


def saved(family: str, folder: Path) -> Path:
    """The folder of a pico chat model, as `save_pretrained` writes it."""
    model(family).save_pretrained(folder)
    tokenizer(family).save_pretrained(folder)
    return folder
