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
from deltacompose.backbone.pico_families import (
    COMMON,
    CONFIGURATIONS,
    FAMILIES,
    IDS,
    LIMIT,
    SETTINGS,
    SPECIAL,
    VOCABULARY,
    WITHOUT_TABLE,
)
from deltacompose.backbone.pico_hostile import HOSTILE, MERGED, merges
from deltacompose.backbone.pretrained import class_name, kind_of, without_dropout
from deltacompose.errors import unknown

__all__ = [
    "COMMON",
    "CONFIGURATIONS",
    "FAMILIES",
    "IDS",
    "LIMIT",
    "SPECIAL",
    "VOCABULARY",
    "WITHOUT_TABLE",
    "pico",
    "pico_backbone",
    "pico_tokenizer",
]

_COMMON = SETTINGS
"""The name that the settings had before the families stood in a file of their own; older scripts import it."""

_WITHOUT_START = ("gpt2", "gpt_neox")
"""Decoders whose own tokenizers put nothing before the text."""


def pico(family: str, *, head: str | None = None, seed: int = 0) -> Any:
    """A transformers model of two layers and width 16, in evaluation mode and without dropout.

    All weights are random and of a size that matters: biases are not zero and norms are not one, as they would be in
    a fresh model, so that whatever is dropped on the way shows in the outputs.

    >>> model = pico("gpt2")
    >>> type(model).__name__, model.config.n_layer
    ('GPT2LMHeadModel', 2)

    Args:
        family: one of `CONFIGURATIONS`, of `WITHOUT_TABLE`, or of `HOSTILE`, whose models have dropout in their
            configuration.
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

    It puts around a text what the family's own tokenizer does. Behind the bytes a hostile model's has tokens of two.

    >>> tokenizer = pico_tokenizer("gpt2")
    >>> tokenizer.decode(tokenizer("deltas")["input_ids"], skip_special_tokens=True)
    'deltas'
    """
    config = _configuration(family)
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    bytes_alone = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    pairs = merges(lambda text: bytes_alone.pre_tokenize_str(text)[0][0]) if family in HOSTILE else []
    tokens = [*SPECIAL.values(), *alphabet, *map("".join, pairs)]
    vocabulary = {token: index for index, token in enumerate(tokens)}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=pairs))
    tokenizer.pre_tokenizer = bytes_alone
    tokenizer.decoder = decoders.ByteLevel()
    around = {"encoder": ("<s> $A </s>", "$B:1 </s>:1"), "encoder-decoder": ("$A </s>", "$B:1 </s>:1")}
    single, two = around.get(kind_of(config), ("<s> $A", "$B:1"))
    if config.model_type in _WITHOUT_START:
        single = "$A"
    marks = [(token, index) for index, token in enumerate(SPECIAL.values())]
    tokenizer.post_processor = processors.TemplateProcessing(
        single=single, pair=f"{single} {two}", special_tokens=marks
    )
    return transformers.PreTrainedTokenizerFast(tokenizer_object=tokenizer, **SPECIAL)  # type: ignore[no-untyped-call]


def pico_backbone(
    family: str, *, head: str | None = None, seed: int = 0, tables: Mapping[str, Any] | None = None
) -> Backbone:
    """The pico model of a family with its tokenizer, frozen, as a backbone.

    >>> backbone = pico_backbone("t5")
    >>> backbone.kind, backbone.streams
    ('encoder-decoder', ('encoder', 'decoder'))

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
        return transformers.AutoConfig.for_model(
            model_type, **SETTINGS | {"vocab_size": VOCABULARY + MERGED} | dict(settings)
        )
    known = {**CONFIGURATIONS, **WITHOUT_TABLE}
    if family not in known:
        raise unknown("pico model", family, {**known, **HOSTILE})
    model_type, settings = known[family]
    return without_dropout(transformers.AutoConfig.for_model(model_type, **SETTINGS | dict(settings)))


def _generation(family: str) -> Mapping[str, Any]:
    """The generation settings that a model ships, in addition to its family's own."""
    return HOSTILE[family][2] if family in HOSTILE else {}


def _randomise(parameter: nn.Parameter) -> None:
    """Matrices anew, so that a unit's output has about the size of its input; vectors around what they were."""
    if parameter.ndim > 1:
        parameter.data.normal_(std=0.25)
    else:
        parameter.data.add_(torch.randn_like(parameter), alpha=0.1)
