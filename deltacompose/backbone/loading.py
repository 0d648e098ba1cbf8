"""Loading a backbone: the checkpoint found and read, its table chosen, its places bound."""

from __future__ import annotations

import functools
import logging
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from deltacompose.backbone import derived_tables
from deltacompose.backbone.backbone import Backbone, bind
from deltacompose.backbone.chat import Chat, Conversation
from deltacompose.backbone.diffusion import denoiser_in, model_type, read_denoiser
from deltacompose.backbone.gguf_files import dequantised, is_gguf
from deltacompose.backbone.infer_table import derive
from deltacompose.backbone.pretrained import (
    Checkpoint,
    Manner,
    class_name,
    find,
    kind_of,
    read_config,
    read_model,
    read_tokenizer,
)
from deltacompose.backbone.sharding import shard
from deltacompose.backbone.table_checks import vet
from deltacompose.cache.file_digests import files_of
from deltacompose.errors import BadInput, unknown
from deltacompose.places.table import Table, read_table
from deltacompose.study.config import SHARDED

DERIVED = "derived"
"""Value of `table` that accepts a table derived from the model's module names."""


def load_backbone(
    model: Any,
    tokenizer: Any = None,
    *,
    head: str | None = None,
    dtype: str | torch.dtype = "float32",
    device: str | torch.device | None = None,
    tables: Mapping[str, Any] | None = None,
    table: Any = None,
    attention: str | None = None,
    chat: bool = False,
    system: str | None = None,
) -> Backbone:
    """Loads a backbone from a name, a folder, a GGUF file, the hub, or a loaded model of transformers or diffusers.

    A model read from files is frozen, in evaluation mode and without dropout; a model in hand is taken as it is, on
    its own device and in its own precision.

    Args:
        tokenizer: in hand, or a folder; the checkpoint's own if None, and none for a model in hand.
        head: `mlm` for an encoder with its masked-language head.
        dtype: `auto` (bfloat16 where the device has instructions for it, else float32), `float32`, `bfloat16`,
            `float16`, or `int8`, `nf4` by bitsandbytes; applies to models read from files.
        device: where to, `cpu` or `cuda:1`; `auto` and its like spread the layers over all GPUs by accelerate;
            `sharded` deals them out over the processes that torchrun started, and is the CPU where there are none.
        tables: what the plugins give by name: tables, and loaders that give a `loading.Checkpoint`.
        table: the table to use: a name, a mapping, a `Table`, or "derived"; if None, the one that serves the model's
            type, else one that is derived from its module names and passes the checks. "derived" takes it unchecked.
        attention: `eager`, `sdpa` or `flash_attention_2`; transformers' own choice if None.
        chat: whether inputs are read through the tokenizer's chat template.
        system: the system prompt of a chat; None leaves it to the template.

    Raises:
        BadInput: nothing of that name is available, its files cannot be used, no table serves it and none can be
            derived, or its tokenizer has no chat template or refuses the system prompt.
    """
    asked = chat_of(chat, system)
    tables = tables or {}
    if not isinstance(model, str | Path):
        own = served(model_type(model), table, tables)
        return check_sizes(_bound(model, own, _tokenizer(tokenizer), vetted=table != DERIVED), asked)
    folder = find(checkpoint_of(str(model), tables))
    files = files_of(folder)
    denoiser, manner = denoiser_in(folder), Manner(dtype, device, attention)
    config: Any = None if denoiser else read_config(folder)
    chosen = served(denoiser or config.model_type, table, tables)
    if denoiser and chosen is None:
        raise BadInput(
            f"no table serves models of the type {denoiser!r}, and no table can be derived for {denoiser}, a model of "
            "diffusers; write one for it"
        )
    if denoiser:
        read = read_denoiser(folder, denoiser, head, manner)
    else:
        read = read_model(folder, config, class_name(chosen.kind if chosen else kind_of(config), head), manner)
        tokenizer = read_tokenizer(folder) if tokenizer is None else tokenizer
    named = {"name": str(model), "revision": commit_of(folder), "files": files}
    backbone = check_sizes(_bound(read, chosen, _tokenizer(tokenizer), vetted=table != DERIVED, **named), asked)
    if not files.unchanged:
        raise BadInput(f"the files of the model in {folder} changed while they were read; load it again")
    if backbone.derived:
        derived_tables.remember(files, head, table != DERIVED, backbone.table)
    if device == SHARDED:
        shard(backbone)
    return backbone


def fetch(model: str, tables: Mapping[str, Any] | None = None) -> Path:
    """The folder with a backbone's files, fetched from the hub if need be, and nothing of it read into memory.

    Raises:
        BadInput: nothing of that name is available.
    """
    return find(checkpoint_of(model, tables or {}))


def tables_of(tables: Mapping[str, Any]) -> Iterator[Table]:
    """The tables among what the plugins give by name; loaders are passed over, and so is what cannot be read.

    Unreadable tables are reported by the plugins themselves and must not keep other backbones from loading.
    """
    for name in tables:
        try:
            member = tables[name]
        except BadInput:
            continue
        if isinstance(member, Table):
            yield member
        elif isinstance(member, Mapping):
            yield read_table(name, member)


def choose_table(model_type: str, table: Any, tables: Mapping[str, Any]) -> Table:
    """The table that is asked for, else the one that serves the model's type.

    Raises:
        BadInput: no table serves it, or two do.
    """
    chosen = served(model_type, table, tables)
    if chosen is None:
        raise BadInput(f"no table serves models of the type {model_type!r}")
    return chosen


def served(model_type: str, table: Any, tables: Mapping[str, Any]) -> Table | None:
    """The table that is asked for, else the one that serves the model's type; None where one has to be derived.

    Raises:
        BadInput: a table that does not exist is asked for, or two serve the type.
    """
    if isinstance(table, str) and table == DERIVED:
        return None
    if isinstance(table, Table):
        return table
    if isinstance(table, Mapping):
        return read_table(model_type, table)
    known = {candidate.name: candidate for candidate in tables_of(tables)}
    if table is not None:
        if table not in known:
            raise unknown("table", str(table), [*known, DERIVED])
        return known[table]
    serving = [candidate for candidate in known.values() if model_type in candidate.serves]
    if len(serving) > 1:
        names = " and ".join(candidate.name for candidate in serving)
        raise BadInput(f"the tables {names} both serve {model_type!r}; say which by table=")
    return serving[0] if serving else None


def _bound(model: Any, table: Table | None, tokenizer: Any, *, vetted: bool, **named: Any) -> Backbone:
    """The backbone by a table; without one, by a table derived from the module names that has passed the checks.

    Raises:
        BadInput: no table can be derived, or a place of the derived one is not where its name says.
    """
    if table is not None:
        return bind(model, table, tokenizer, **named)
    served = model_type(model)
    backbone = bind(model, derive(model), tokenizer, **named)
    if vetted:
        try:
            vet(backbone)
        except BadInput as error:
            raise BadInput(
                f"no table serves models of the type {served!r}, and the one derived from the module names fails a "
                f"check ({error}); correct that place in what `deltacompose backbones --derive MODEL` prints, and "
                "give it as table=, as docs/backbones.md shows"
            ) from error
    _tell(served, len(backbone.places()), backbone.unplaced)
    return replace(backbone, derived=True)


@functools.cache
def _tell(served: str, places: int, unplaced: tuple[str, ...]) -> None:
    """Logs once for each type that a derived table is used."""
    left = f", without {len(unplaced)} parameters, among them {unplaced[0]}" if unplaced else ""
    logging.getLogger(__name__).warning(
        "no table serves models of the type %r: using one derived from the module names, with %d places%s; "
        "`deltacompose backbones --derive MODEL` prints it",
        *(served, places, left),
    )


def checkpoint_of(name: str, tables: Mapping[str, Any]) -> Checkpoint:
    """A plugin's own checkpoint of that name, else a GGUF file, a folder or a name on the hub."""
    if name not in tables:
        return dequantised(name) if is_gguf(name) else Checkpoint(name)
    member = tables[name]
    if isinstance(member, Table | Mapping):
        raise BadInput(f"{name!r} is a table, which serves models, and no model; give a folder or a name on the hub")
    checkpoint = member() if callable(member) else member
    if not isinstance(checkpoint, Checkpoint):
        raise BadInput(f"the loader of {name!r} gave a {type(checkpoint).__name__}; expected a Checkpoint")
    return checkpoint


def _tokenizer(tokenizer: Any) -> Any:
    return read_tokenizer(Path(tokenizer)) if isinstance(tokenizer, str | Path) else tokenizer


def commit_of(folder: Path) -> str:
    """The commit of a snapshot of the hub that a folder is, or lies in; "" elsewhere."""
    return next((path.name for path in (folder, folder.parent) if path.parent.name == "snapshots"), "")


def chat_of(chat: bool, system: str | None) -> Chat | None:
    """How inputs become turns of a conversation, by two settings; None where they are read as they are.

    Raises:
        BadInput: a system prompt without a chat.
    """
    if system is not None and not chat:
        raise BadInput("a system prompt is part of a chat; set `chat` too, or leave out `system`")
    return Chat(system) if chat else None


def check_sizes(backbone: Backbone, chat: Chat | None = None) -> Backbone:
    """The backbone, if it has layers, its tokenizer's ids all have an embedding, and it can hold a conversation."""
    for stream in backbone.streams:
        if backbone.layers(stream) < 1:
            raise BadInput(f"{backbone.name} has {backbone.layers(stream)} layers in its {stream}; expected at least 1")
    if backbone.tokenizer is None and chat is None:
        return backbone
    if backbone.tokenizer is None:
        raise BadInput(f"{backbone.name} has no tokenizer, whose template a chat needs; give one to load_backbone")
    embedding = backbone.embeddings(backbone.streams[0])
    if len(backbone.tokenizer) > len(embedding):
        raise BadInput(
            f"the tokenizer has {len(backbone.tokenizer)} tokens and {backbone.name} embeds {len(embedding)}: "
            "it belongs to another model"
        )
    return backbone if chat is None else _conversing(backbone, chat)


def _conversing(backbone: Backbone, chat: Chat) -> Backbone:
    """The backbone that reads inputs through its chat template, if it can."""
    if backbone.kind != "decoder":
        raise BadInput(f"{backbone.name} is an {backbone.kind}, and a chat needs a decoder; leave out `chat`")
    Conversation(backbone.tokenizer, chat, backbone.name)
    return replace(backbone, chat=chat)
