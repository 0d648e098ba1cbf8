"""Checks of a table with adapters that peft makes: imported through the table, each is peft's function or refused.

peft names modules and a table names places, so an import is right only where the two agree: on which modules share a
matrix, on what an initialisation subtracts from it, and on where the tokens behind a prefix stand.
"""

from __future__ import annotations

import copy
import functools
import json
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from deltacompose.backbone.backbone import Backbone
from deltacompose.checks.backbones import OnModel
from deltacompose.checks.gradients import distance
from deltacompose.checks.runner import Check
from deltacompose.delta.exchange import import_peft
from deltacompose.delta.merge import answer, probe
from deltacompose.delta.peft_folder import CONFIG
from deltacompose.errors import BadInput
from deltacompose.method.weights import generator
from deltacompose.plugins import loader as plugins

STARTS = ("gaussian", "pissa", "olora")
"""Initialisations of a LoRA: one that leaves the pretrained matrix as it is, and two that subtract a part of it."""

TOLERANCE = 1e-3
"""The largest difference of two outputs, relative to their size, that is fp32's rounding of a decomposition."""

_RAISED = (RuntimeError, TypeError, ValueError, AttributeError, LookupError, AssertionError)
"""Exceptions that peft raises for models it does not support."""


def initialised_adapters(subject: OnModel) -> None:
    """A LoRA of peft's is imported as the same function whatever its initialisation, or refused by name."""
    for start in STARTS:
        modules = _linear(subject.backbone)
        if modules:
            _compare(subject, _lora(modules[:1], init_lora_weights=start), f"with init_lora_weights={start!r}")


def tied_adapters(subject: OnModel) -> None:
    """A LoRA of peft's on the embedding, or on the head, is imported as the same function, or refused by name."""
    places = {place.kind: place for place in subject.backbone.places() if place.kind in ("embedding", "head")}
    for kind, place in places.items():
        if place.port == "output" and place.part is None:
            _compare(subject, _lora([place.module]), f"on the {kind} alone")


def prefixed_adapters(subject: OnModel) -> None:
    """A prefix of peft's is imported as the same function, or refused by name."""
    import peft

    settings: dict[str, Any] = {"task_type": "CAUSAL_LM", "num_virtual_tokens": 2}
    _compare(subject, peft.PrefixTuningConfig(**settings), "that is a prefix")


def _linear(backbone: Backbone) -> list[str]:
    """Modules of linear places in the layers, those of attentions first, each by its path."""
    places = [place for place in backbone.places("*attention.*", "*ffn.*") if place.port == "output"]
    plain = [place for place in places if place.until is None]
    linear = [place.module for place in plain if isinstance(backbone.module(place), nn.Linear | Conv1D)]
    return list(dict.fromkeys(linear))


def _lora(modules: Sequence[str], **settings: Any) -> Any:
    import peft

    return peft.LoraConfig(r=2, lora_alpha=3, target_modules=list(modules), **settings)


def _compare(subject: OnModel, config: Any, how: str) -> None:
    """Compares what peft computes with an adapter of its own with what its import computes."""
    backbone = subject.backbone
    with _saved(backbone, config) as saved:
        if saved is None:
            return
        folder, expected = saved
        try:
            delta = import_peft(folder, backbone, _built_in(), any_base=True)
        except BadInput:
            return
        with torch.no_grad(), delta.attached(backbone):
            imported = answer(backbone.model, probe(backbone))
    if (far := distance(imported, expected)) > TOLERANCE:
        raise subject.broken(
            f"an adapter of peft's {how} is imported as another function: its output differs by {far:.1e} of its size"
        )


@functools.cache
def _built_in() -> Mapping[str, Any]:
    return plugins.load(disabled=True).methods


@contextmanager
def _saved(backbone: Backbone, config: Any) -> Iterator[tuple[Path, Tensor] | None]:
    """A folder with an adapter that peft has made, every trained tensor moved, and peft's output with it.

    None where peft itself does not take the model.
    """
    import peft

    with TemporaryDirectory() as name, warnings.catch_warnings(action="ignore"), torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        try:
            model = peft.get_peft_model(copy.deepcopy(backbone.model), config).eval()
            for name_, x in model.named_parameters():
                if x.requires_grad:
                    x.data += 0.1 * torch.randn(x.shape, generator=generator(0, name_))
            with torch.no_grad():
                output = model(**probe(backbone))
            model.create_or_update_model_card = lambda *_: None  # a page of text, which takes longer than all else
            model.save_pretrained(name)
        except _RAISED:
            yield None
            return
        states = output.logits if "logits" in output else output.last_hidden_state
        length = probe(backbone).get("decoder_input_ids", probe(backbone)["input_ids"]).shape[1]
        path = Path(name, CONFIG)  # the model in hand has no name
        path.write_text(json.dumps(json.loads(path.read_text()) | {"base_model_name_or_path": None}))
        yield Path(name), states[:, -length:].float()


def _of_text(subject: OnModel) -> bool:
    return subject.table.kind != "denoiser"


def _decodes(subject: OnModel) -> bool:
    return subject.table.kind == "decoder"


CHECKS = (
    Check(initialised_adapters, when=_of_text),
    Check(tied_adapters, when=_of_text),
    Check(prefixed_adapters, when=_decodes),
)
