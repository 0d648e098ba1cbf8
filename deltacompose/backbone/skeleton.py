"""A backbone without its weights: places, widths, parameters and content from the other files.

A plan needs the shapes of a backbone and the digest of its content, and neither needs the weights in memory. The model
is built from its configuration with tensors that have a shape and no storage (PyTorch's `FakeTensorMode`), so that a
skeleton of 70 B parameters takes a few megabytes. The digest of the weights is that of their files, which is
remembered; the rest of the content is read from the configuration, the tokenizer and the table, as of a loaded model.
"""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
import transformers
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode
from transformers.initialization import no_init_weights

from deltacompose.backbone.backbone import Backbone, bind
from deltacompose.backbone.derived_tables import recall
from deltacompose.backbone.diffusion import denoiser_in
from deltacompose.backbone.loading import DERIVED, chat_of, check_sizes, checkpoint_of, commit_of, load_backbone, served
from deltacompose.backbone.pretrained import (
    Manner,
    class_name,
    clearly,
    find,
    quietly,
    read_config,
    read_tokenizer,
    still,
)
from deltacompose.cache.file_digests import files_of, missing_weights, tensor_names
from deltacompose.errors import BadInput


def load_skeleton(
    model: str,
    *,
    head: str | None = None,
    dtype: str = "float32",
    device: str | None = None,
    tables: Mapping[str, Any] | None = None,
    table: Any = None,
    attention: str | None = None,
    chat: bool = False,
    system: str | None = None,
) -> Backbone:
    """The backbone of a name, a folder or a name on the hub, whose parameters have shapes and no values.

    Its places, widths, tokenizer and content are those of `load_backbone` with the same arguments; a pass through it
    is impossible. Where the weights are not on this machine, they are not fetched: the skeleton then has no content.

    A table that is derived from the model's own passes is known only when it was loaded once; it is remembered then.
    Denoisers are always loaded. A model in few bits has the shapes of its matrices in full.

    Raises:
        BadInput: as `load_backbone`; or the weights would have to be loaded and are not here.
    """
    tables, asked = tables or {}, chat_of(chat, system)
    folder = find(checkpoint_of(model, tables), weights=False)
    absent = missing_weights(folder)
    files = None if absent else files_of(folder)

    def with_weights(why: str) -> Backbone:
        if absent:
            raise BadInput(f"{why}, and its weights are not on this machine ({absent[0]} is missing in {folder})")
        options: dict[str, Any] = {"head": head, "dtype": dtype, "device": device, "table": table}
        options |= {"chat": chat, "system": system}
        return load_backbone(model, tables=tables, attention=attention, **options)

    if denoiser_in(folder):
        return with_weights(f"{model} is a denoiser, whose places are known only of the loaded model")
    config = read_config(folder)
    chosen = served(config.model_type, table, tables)
    if chosen is None:
        remembered = None if files is None else recall(files, head, table != DERIVED)
        if remembered is None:
            return with_weights(
                f"no table serves models of the type {config.model_type!r}, so one is derived from passes"
            )
        chosen = remembered
    outline = _outline(folder, config, class_name(chosen.kind, head), Manner(dtype, "cpu", attention))
    if files is not None and not any("pooler" in name.split(".") for name in tensor_names(folder)):
        _without_pooler(outline)
    tokenizer = read_tokenizer(folder)
    bound = bind(outline, chosen, tokenizer, name=model, revision=commit_of(folder), files=files)
    backbone = check_sizes(bound, asked)
    return replace(backbone, derived=served(config.model_type, table, tables) is None)


@contextlib.contextmanager
def shapes_only(backbone: Backbone) -> Iterator[None]:
    """Within, new tensors have no values either, where those of the backbone have none: a method's `init` takes no
    memory."""
    mode = next((x.fake_mode for x in backbone.model.parameters() if isinstance(x, FakeTensor)), None)
    with contextlib.nullcontext() if mode is None else mode:
        yield


def _outline(folder: Path, config: Any, maker: str, manner: Manner) -> Any:
    """The model of a configuration as `read_model` gives it, without values: its class, modules and configurations."""
    options = manner.options()
    few = options.pop("quantization_config", None)
    options.pop("device_map", None)
    with clearly(folder, "model"), quietly(), torch.random.fork_rng(devices=[]):
        with FakeTensorMode(allow_non_fake_inputs=True), no_init_weights():
            model = getattr(transformers, maker).from_config(copy.deepcopy(config), **options)
            model.tie_weights()  # which is part of what was left out above
        if model.can_generate() and hasattr(model, "adjust_generation_fn"):  # as `from_pretrained` does
            where = dict.fromkeys(("cache_dir", "proxies", "token", "revision"))
            model.adjust_generation_fn(
                None, True, None, folder, force_download=False, local_files_only=True, subfolder="",
                trust_remote_code=False, **where,
            )  # fmt: skip
    if few is not None:
        model.config.quantization_config = few
    return still(model)


def _without_pooler(model: Any) -> None:
    """Drops BERT's pooler where the checkpoint has none, as loading does."""
    if getattr(model, "pooler", None) is not None:
        model.pooler = None
