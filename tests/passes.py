"""Pico backbones shared by tests, and what passes their places in a forward pass."""

from __future__ import annotations

import functools
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch

from deltacompose.backbone import Backbone
from deltacompose.backbone.pico import pico_backbone
from deltacompose.places import Place

IDS = torch.arange(70, 79)[None]


@functools.cache
def backbone_of(family: str, head: str | None = None) -> Backbone:
    """One pico backbone for all tests that leave it as it is."""
    return pico_backbone(family, head=head)


def run(backbone: Backbone, ids: torch.Tensor = IDS) -> Any:
    both = {"decoder_input_ids": ids} if backbone.kind == "encoder-decoder" else {}
    with torch.no_grad():
        return backbone.model(ids, **both)


@contextmanager
def seen(backbone: Backbone, *places: Place) -> Iterator[tuple[dict[str, Any], dict[str, Any]]]:
    """Inputs and outputs of places during a forward pass, in the order in which they were known."""
    inputs: dict[str, Any] = {}
    outputs: dict[str, Any] = {}

    def before(name: str, port: str, args: Any, kwargs: Any) -> None:
        inputs[name] = args[0] if args else kwargs.get("hidden_states")
        if port == "input":
            outputs[name] = inputs[name]

    def after(name: str, output: Any) -> None:
        assert name not in outputs, f"{name} ran twice"
        outputs[name] = output[0] if isinstance(output, tuple) else output

    handles = []
    for place in places:
        handles.append(
            backbone.module(place).register_forward_pre_hook(
                lambda _, args, kwargs, place=place: before(place.name, place.port, args, kwargs), with_kwargs=True
            )
        )
        if place.port == "output":
            last = backbone.module_until(place)
            handles.append(last.register_forward_hook(lambda _, args, out, place=place: after(place.name, out)))
    try:
        yield inputs, outputs
    finally:
        for handle in handles:
            handle.remove()
