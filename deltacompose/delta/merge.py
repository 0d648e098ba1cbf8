"""A delta folded into the weights of a plain transformers model, where it is a change of weights."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

import torch
from torch import Tensor, nn

from deltacompose.backbone.backbone import Backbone, Place, evaluating
from deltacompose.backbone.quantization import is_quantised
from deltacompose.backbone.slices import Slice
from deltacompose.delta.delta import Delta
from deltacompose.errors import BadInput
from deltacompose.method.contract import (
    Edit,
    KeyValueEdit,
    Method,
    OutputEdit,
    Tensors,
    TokenEdit,
    WeightEdit,
    edits_of,
)
from deltacompose.method.weights import generator, part_of, parts

WHY: dict[type[Edit], str] = {
    OutputEdit: "it acts on the activations at {where}, and merging changes weights alone",
    TokenEdit: "it puts tokens before the input of the {where}, and merging changes weights alone",
    KeyValueEdit: "it puts keys and values before those of {where}, and merging changes weights alone",
}
"""Reasons why edits of other kinds cannot be merged."""


@dataclass(frozen=True, eq=False)
class Merged:
    """A plain transformers model, and how far it is from the attached delta.

    Attributes:
        difference: the largest absolute difference of logits (of an encoder without a head, of its last states) between
            the merged model and the backbone with the delta attached, on random tokens.
        size: the largest absolute logit there.
    """

    model: Any
    difference: float
    size: float


E = TypeVar("E", bound=Edit, covariant=True)


@dataclass(frozen=True, eq=False)
class Active(Generic[E]):
    """One edit of a trained delta with the tensors that it reads."""

    part: Method
    edit: E
    tensors: Tensors


def active_edits(delta: Delta, backbone: Backbone) -> list[Active[Edit]]:
    """All edits of a trained delta, in the order written.

    >>> backbone = pico_backbone("bert")
    >>> delta = dc.train(backbone, "bitfit", "sentiment_movie", steps=1, batch=4, limit=16)
    >>> len(active_edits(delta, backbone))
    17

    Raises:
        BadInput: the delta was trained on another backbone, or on a denoiser, which has no logits to compare.
    """
    delta.check(backbone)
    if backbone.kind == "denoiser":
        raise BadInput(f"{backbone.name} is a denoiser; only deltas of backbones that read text are merged or exported")
    t = {**delta.weights, **delta.constants}
    return [
        Active(part, edit, part_of(t, prefix))
        for prefix, part in parts(delta.expression)
        for edit in edits_of(part, backbone)
    ]


def slice_of(backbone: Backbone, place: Place) -> Slice:
    """Where a place lies in its module's output."""
    return Slice(place.part)


def merge(delta: Delta, backbone: Backbone) -> Merged:
    """A copy of the backbone's model with the delta's changes added to its parameters; the backbone is left as it is.

    >>> delta = dc.train(pico_backbone("bert"), "lora", "sentiment_movie", steps=1, batch=4, limit=16)
    >>> merge(delta, pico_backbone("bert")).difference < 1e-4
    True

    Raises:
        BadInput: a part of the delta is not a change of weights, or changes a bias that the model does not have.
    """
    changes = [_mergeable(active, backbone) for active in active_edits(delta, backbone)]
    model = copy.deepcopy(backbone.model)
    with torch.no_grad():
        for change in changes:
            _add(model, backbone, change)
    difference, size = compared(delta, backbone, model)
    return Merged(model, difference, size)


def _mergeable(active: Active[Edit], backbone: Backbone) -> Active[WeightEdit]:
    edit = active.edit
    if not isinstance(edit, WeightEdit):
        where = edit.stream if isinstance(edit, TokenEdit) else edit.place.name
        raise BadInput(f"{active.part} cannot be merged: {WHY[type(edit)].format(where=where)}")
    if edit.parameter not in backbone.parameter_names(edit.place):
        raise BadInput(
            f"{active.part} cannot be merged: {backbone.name} has no {edit.parameter} at {edit.place.name} to change"
        )
    path, own, _, _ = backbone.parameter_location(edit.place, edit.parameter)
    if is_quantised(getattr(backbone.model.get_submodule(path), own)):
        raise BadInput(
            f"{active.part} cannot be merged: {edit.place.name} of {backbone.name} is quantised; load the backbone "
            "with dtype='bfloat16' or 'float32' and merge there"
        )
    return Active(active.part, edit, active.tensors)


def change_of(change: Active[WeightEdit], backbone: Backbone) -> Tensor:
    """ΔW as the place sees its parameter, in fp32 where the backbone is of less."""
    frozen = backbone.parameter(change.edit.place, change.edit.parameter)
    precise = torch.promote_types(frozen.dtype, torch.float32)
    t = {name: x.to(frozen.device, precise if x.is_floating_point() else None) for name, x in change.tensors.items()}
    return change.edit.change(t, frozen.to(precise))


def _add(model: nn.Module, backbone: Backbone, active: Active[WeightEdit]) -> None:
    path, name, transposed, _ = backbone.parameter_location(active.edit.place, active.edit.parameter)
    parameter, change = model.get_submodule(path).get_parameter(name), change_of(active, backbone)
    # ΔW is (output, input) of the place alone. It is put into zeros of the whole parameter with the output axis last,
    # where a place of a fused matrix is a slice, and turned to the way in which the module holds it.
    where = slice_of(backbone, active.edit.place)
    whole = torch.zeros_like(parameter, dtype=change.dtype)
    if parameter.ndim == 1:
        whole = where.put(whole, change)
    else:
        whole = where.put(whole if transposed else whole.mT, change.mT)
        whole = whole if transposed else whole.mT
    # Summed in the higher precision, so that a small change is rounded once and not lost.
    parameter.copy_(parameter.to(whole.dtype) + whole)


def compared(delta: Delta, backbone: Backbone, model: Any, rows: int = 2, length: int = 16) -> tuple[float, float]:
    """The largest difference between a model and the backbone with a delta attached, and the largest logit."""
    inputs = probe(backbone, rows, length)
    with torch.no_grad(), delta.attached(backbone):
        live = answer(backbone.model, inputs)
    with torch.no_grad():
        other = answer(model, inputs)
    return float((live - other).abs().max()), float(live.abs().max())


def probe(backbone: Backbone, rows: int = 2, length: int = 16) -> dict[str, Tensor]:
    """Random tokens for a model to be tried on, the same every time."""
    device, source = backbone.model.device, generator(0, "probe")
    vocabulary = len(backbone.embeddings(backbone.streams[0]))
    limits = (backbone.stream(name).limit for name in backbone.streams)
    limit = min([length, *(positions for positions in limits if positions)])
    ids = torch.randint(vocabulary, (rows, limit), generator=source).to(device)
    inputs = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    return inputs | ({"decoder_input_ids": ids[:, : limit // 2]} if backbone.kind == "encoder-decoder" else {})


def answer(model: Any, inputs: Mapping[str, Any]) -> Tensor:
    """A model's logits in fp32, or the last states of one without a head."""
    with evaluating(model):
        output = model(**{**_plain(model), **inputs})
    states: Tensor = output.logits if "logits" in output else output.last_hidden_state
    return states.float()


def _plain(model: Any) -> dict[str, bool]:
    return {"use_cache": False} if hasattr(model.config, "use_cache") else {}
