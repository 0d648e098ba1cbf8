"""The first layer of each stack that the attached edits touch: everything below it computes what it did without them.

Read off the modules that the edits are attached to and not off their places, because a module may stand in several
layers (ALBERT) and a parameter may be held by several modules (tied embeddings).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from torch import nn

from deltacompose.backbone.backbone import Backbone, Place

AFTER = ("norm", "head")
"""Kinds of places, with all that their names continue, that run after the layers of a stack."""


def first_touched(backbone: Backbone, modules: Iterable[nn.Module], streams: Iterable[str]) -> dict[str, int]:
    """For each stack the number of its layers, from the first one, that nothing attached touches.

    Args:
        modules: those that edits are attached to.
        streams: those whose input is changed, by soft prompts or in their positions.

    Returns:
        By the name of the stack. A decoder that reads an encoder's states has no such layer where the encoder is
        touched; one of the number of its layers is not touched at all.
    """
    first = {stack: backbone.layers(stack) for stack in backbone.streams}
    touched = set(modules)
    paths = [path for path, module in backbone.model.named_modules(remove_duplicate=False) if module in touched]
    layers = {place.module: place for place in backbone.places("layer")}
    after = {place.module for place in backbone.places() if place.layer is None and _is_after(place)}
    for path in paths:
        place = _layer_of(path, layers)
        if place is not None and place.layer is not None:
            first[place.stack] = min(first[place.stack], place.layer)
        elif not any(path == own or path.startswith(f"{own}.") for own in after):
            first = dict.fromkeys(first, 0)
    first |= dict.fromkeys(streams, 0)
    below = backbone.streams[0]
    if len(first) > 1 and first[below] < backbone.layers(below):
        first |= dict.fromkeys(backbone.streams[1:], 0)
    return first


def _is_after(place: Place) -> bool:
    return any(place.kind == kind or place.kind.startswith(f"{kind}.") for kind in AFTER)


def _layer_of(path: str, layers: Mapping[str, Place]) -> Place | None:
    parts = path.split(".")
    prefixes = (".".join(parts[:count]) for count in range(len(parts), 0, -1))
    return next((layers[prefix] for prefix in prefixes if prefix in layers), None)
