"""Whether peft computes the same function of a soft prompt as an attached token edit does."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from deltacompose.backbone.backbone import Backbone
from deltacompose.delta.delta import Delta
from deltacompose.delta.merge import answer, probe
from deltacompose.delta.prefix_positions import same
from deltacompose.errors import BadInput


def check_prompt(backbone: Backbone, rows: Tensor, delta: Delta) -> None:
    """Check that a prompt in peft gives the outputs of an attached delta.

    peft embeds the tokens by a module that it looks up by the size of the vocabulary, and hands prompt and tokens over
    as input embeddings. Where a model scales what its embedding gives (Marian, Pegasus), or adds something for each
    token (Gemma 3n), the tokens lose it there.

    Args:
        rows: the prompt `(length, width)` as peft gets it.

    Raises:
        BadInput: peft computes another function, or finds no embedding.
    """
    with torch.no_grad():
        plain = answer(backbone.model, probe(backbone))
        with delta.attached(backbone):
            live = answer(backbone.model, probe(backbone))
        theirs = as_embeddings(backbone, rows)
    if not same(live, theirs, plain):
        difference = float((live - theirs).abs().max() / live.abs().max())
        raise BadInput(
            f"a prompt in peft is another function on {backbone.name} (outputs differ by {difference:.2g} of their "
            "size) because peft hands tokens over as embeddings, which this model treats otherwise than tokens"
        )


def as_embeddings(backbone: Backbone, rows: Tensor) -> Tensor:
    """The outputs on `probe(backbone)` with prompt and tokens handed over as input embeddings, as peft does."""
    batch = probe(backbone)
    tokens = _embedding(backbone.model)(batch.pop("input_ids"))
    prompt = rows.to(tokens).expand(len(tokens), -1, -1)
    mask = torch.cat([batch["attention_mask"].new_ones(prompt.shape[:2]), batch["attention_mask"]], 1)
    states = answer(backbone.model, {**batch, "inputs_embeds": torch.cat([prompt, tokens], 1), "attention_mask": mask})
    return states if backbone.kind == "encoder-decoder" else states[:, len(rows) :]


def _embedding(model: Any) -> nn.Module:
    """The module by which peft embeds tokens: at BERT's path, else of the first parameter of the vocabulary's size."""
    for name, module in model.named_modules():
        if name == "embeddings.word_embeddings" and isinstance(module, nn.Module):
            return module
    base = next((child for child in model.children() if isinstance(child, PreTrainedModel)), model)
    vocabulary = model.config.get_text_config().vocab_size
    for name, parameter in base.named_parameters():
        if parameter.shape[0] == vocabulary:
            embedding: nn.Module = base.get_submodule(name.removesuffix(".weight"))
            return embedding
    raise BadInput(f"cannot compare a prompt with peft's because peft finds no embedding in {type(model).__name__}")
