"""Deltas to and from folders of peft's, and into plain transformers models.

A low-rank change of weights goes to peft as a LoRA, scales as an (IA)³, tokens as a prompt, and keys and values of a
decoder as a prefix under peft's own convention of positions (see `deltacompose.delta.prefix_positions`).
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

import torch

from deltacompose.backbone.backbone import Backbone
from deltacompose.delta import peft_folder as folders
from deltacompose.delta.delta import Delta
from deltacompose.delta.merge import Merged, merge
from deltacompose.delta.peft_export import adapter
from deltacompose.delta.peft_import import expressed
from deltacompose.delta.peft_modules import Methods
from deltacompose.delta.peft_prompt_check import check_prompt
from deltacompose.delta.prefix_positions import check
from deltacompose.errors import BadInput

__all__ = ["export_merged", "export_peft", "import_peft"]


def export_peft(delta: Delta, backbone: Backbone, folder: str | Path) -> str:
    """Writes a delta as a peft adapter's folder, and gives peft's name of its type.

    `PeftModel.from_pretrained` opens it, and `load_adapter` of transformers opens LORA and IA3, with equal logits.

    >>> backbone = pico_backbone("bert")
    >>> delta = dc.train(backbone, "lora", "sentiment_movie", steps=1, batch=4, limit=16)
    >>> export_peft(delta, backbone, folder / "adapter")
    'LORA'

    Raises:
        BadInput: the delta is of another backbone, is of no type of peft's or of several, or is another function
            under peft's convention of positions.
    """
    with torch.no_grad():
        exported = adapter(delta, backbone)
    folders.write(exported, Path(folder), backbone, str(delta.expression))
    return exported.type


def export_merged(delta: Delta, backbone: Backbone, folder: str | Path) -> Merged:
    """Writes a plain transformers model, with its tokenizer, into which a delta is merged.

    The folder is complete or absent: it is written under another name first and moved when it is complete.

    Raises:
        BadInput: a part of the delta is not a change of weights, or changes a bias that the model does not have; or
            transformers refuses to save the model, as with a generation configuration that is not valid.
    """
    merged = merge(delta, backbone)
    with _whole(Path(folder)) as partial:
        try:
            merged.model.save_pretrained(partial)
            if backbone.tokenizer is not None:
                backbone.tokenizer.save_pretrained(partial)
        except ValueError as error:
            raise BadInput(
                f"cannot save the merged model because transformers refuses it: {' '.join(str(error).split())[:200]}; "
                "set model.generation_config to valid settings and export again"
            ) from None
    return merged


@contextmanager
def _whole(folder: Path) -> Iterator[Path]:
    """A temporary folder that replaces the wanted one when the block ends without an error."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(dir=folder.parent, prefix=f".{folder.name}.") as temporary:
        partial = Path(temporary, "content")
        partial.mkdir()
        yield partial
        folder.mkdir(exist_ok=True)
        for path in sorted(partial.iterdir()):
            if (folder / path.name).is_dir():
                shutil.rmtree(folder / path.name)
            os.replace(path, folder / path.name)


def import_peft(folder: str | Path, backbone: Backbone, methods: Methods, *, any_base: bool = False) -> Delta:
    """The delta of native methods that does what a folder of peft's does.

    Args:
        methods: the installed methods by name.
        any_base: take an adapter whose configuration names another base model.

    Raises:
        BadInput: no adapter there, pickled weights, another base model, a type or an option that is not imported, a
            shape that does not fit, or a prefix that is another function without shifted positions.
    """
    imported = folders.read(Path(folder), backbone, any_base)
    with torch.no_grad():
        native = expressed(imported, backbone, methods)
    known = {"name": backbone.name, "family": backbone.family, "fingerprint": backbone.fingerprint}
    record = {"imported": imported.type, "peft": imported.config.get("peft_version")}
    delta = Delta(native.expression, native.weights, {}, known, {}, record)
    if native.prefixes:
        check(backbone, native.prefixes, delta)
    if native.prompt is not None:
        check_prompt(backbone, native.prompt, delta)
    return delta
