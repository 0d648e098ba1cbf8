"""peft's prompt encoders: they make tokens, or keys and values, of their tensors once per step.

An encoder's network runs in `prepare` and is folded away by `finalize`, so the edits see its result alone: the rows
`(length, width)`, where width is the embedding's or, for keys and values, that of all places together.
"""

from __future__ import annotations

from functools import partial
from inspect import signature
from typing import Any

import torch
from torch import Generator, Tensor, nn
from torch.func import functional_call

from deltacompose.backbone import Backbone, Place
from deltacompose.errors import BadInput
from deltacompose.method import Edit, KeyValueEdit, Tensors, TokenEdit
from deltacompose_plugins.peft.layers import drawn_from, flat

ROWS = "shared.rows"
_OWN = "shared.encoder_"


def tensors(backbone: Backbone, places: tuple[Place, ...], config: Any, source: Generator) -> dict[str, Tensor]:
    """New tensors of an encoder, `shared.encoder_<name>`; those that are frozen do not ask for gradients.

    Args:
        places: the attentions that get keys and values; none for tokens.
    """
    if places:
        heads, width = _alike(backbone, places)
        dims = {"token_dim": heads * width, "num_layers": len(places)}
    else:
        dims = {"token_dim": backbone.embedding_width, "num_layers": 1}
    with drawn_from(source):
        encoder = _encoder(config, dims)
    return {_OWN + flat(name): x.detach().requires_grad_(x.requires_grad) for name, x in encoder.named_parameters()}


def rows(t: Tensors, config: Any) -> dict[str, Tensor]:
    """The encoder's output `shared.rows` in place of its tensors."""
    own = {name.removeprefix(_OWN): x for name, x in t.items() if name.startswith(_OWN)}
    if not own:
        return dict(t)
    with torch.device("meta"):
        encoder = _encoder(config, _dims(own, config))
    names = {name: own[flat(name)] for name, _ in encoder.named_parameters()}
    length = torch.arange(config.num_virtual_tokens, device=next(iter(own.values())).device)[None]
    tasks = (torch.zeros(1, dtype=torch.long, device=length.device),) if "prefix_task_rows" in own else ()
    encoded: Tensor = functional_call(encoder, names, (length, *tasks))
    return {name: x for name, x in t.items() if not name.startswith(_OWN)} | {ROWS: encoded[0]}


def edits(backbone: Backbone, places: tuple[Place, ...]) -> list[Edit]:
    """The rows before the input of the first stream, or before the keys and values of each place."""
    if not places:
        return [TokenEdit(backbone.streams[0], _prompt)]
    heads, width = _alike(backbone, places)
    return [KeyValueEdit(place, partial(_key_values, 2 * i, heads, width)) for i, place in enumerate(places)]


def _prompt(t: Tensors) -> Tensor:
    return t[ROWS]


def _key_values(index: int, heads: int, width: int, t: Tensors) -> tuple[Tensor, Tensor]:
    """The index-th and the next of the pieces of the rows, each `(heads, length, head width)`."""
    pieces = t[ROWS].unflatten(-1, (-1, heads, width))
    return pieces[:, index].transpose(0, 1), pieces[:, index + 1].transpose(0, 1)


def _alike(backbone: Backbone, places: tuple[Place, ...]) -> tuple[int, int]:
    """The number and width of the key-value heads, which must be those of every place."""
    heads = {backbone.heads(place) for place in places}
    if len(heads) > 1:
        raise BadInput(f"peft's prefixes need attentions with equal heads, and {backbone.name} has {sorted(heads)}")
    return heads.pop()


def _encoder(config: Any, dims: dict[str, int]) -> nn.Module:
    from peft.mapping import PEFT_TYPE_TO_TUNER_MAPPING

    for name, value in (dims | {"num_transformer_submodules": 1, "num_attention_heads": 1}).items():
        setattr(config, name, value)
    if getattr(config, "encoder_hidden_size", 0) is None:
        config.encoder_hidden_size = config.token_dim
    kind: Any = PEFT_TYPE_TO_TUNER_MAPPING[config.peft_type]
    takes = signature(kind).parameters
    encoder: nn.Module = kind(config, **({"word_embeddings": None} if "word_embeddings" in takes else {}))
    return encoder.eval()


def _dims(own: Tensors, config: Any) -> dict[str, int]:
    """The numbers that only a backbone says, read from the shapes of the tensors."""
    table = own.get("embedding_weight", own.get("trainable_embedding"))
    if table is None:
        raise BadInput(f"no tensors of peft's {config.peft_type.value}: found {', '.join(own)}")
    if "transform_2_weight" in own:
        return {"token_dim": table.shape[1], "num_layers": own["transform_2_weight"].shape[0] // (2 * table.shape[1])}
    if config.peft_type.value in ("PREFIX_TUNING", "CARTRIDGE"):
        return {"token_dim": table.shape[1] // 2, "num_layers": 1}
    return {"token_dim": table.shape[1], "num_layers": 1}
