"""Parts of an expression that train the same pretrained parameters: reported because it is seldom meant."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import combinations

from deltacompose.backbone.backbone import Backbone
from deltacompose.composition import Term
from deltacompose.method.contract import Method, WeightEdit, edits_of
from deltacompose.method.weights import parts

Trained = tuple[str, str, object]
"""A pretrained parameter, or a slice of a fused one: the module that owns it, its name there, and which slice."""


def overlaps(backbone: Backbone, expression: Term) -> list[str]:
    """A sentence for each pair of parts that change the same parameters, with one of them as an example.

    >>> from deltacompose.backbone.pico import pico_backbone
    >>> from deltacompose_plugins import BitFit, Full
    >>> overlaps(pico_backbone("t5"), BitFit() + Full())
    []
    >>> [sentence] = overlaps(pico_backbone("bert"), BitFit() + Full())
    >>> sentence
    'bitfit and full both train embedding.norm.bias and 16 other parameters'
    """
    sentences = []
    trained = [(prefix, part, dict(_trained(backbone, part))) for prefix, part in parts(expression)]
    for (first, part, own), (second, other, others) in combinations(trained, 2):
        common = [name for where, name in own.items() if where in others]
        if common:
            names = (str(part), str(other)) if str(part) != str(other) else (f"{first}{part}", f"{second}{other}")
            more = f" and {len(common) - 1} other parameters" if len(common) > 1 else ""
            sentences.append(f"{names[0]} and {names[1]} both train {common[0]}{more}")
    return sentences


def _trained(backbone: Backbone, part: Method) -> Iterator[tuple[Trained, str]]:
    """Pretrained parameters that a part trains; a tied parameter counts by its first owner."""
    for edit in edits_of(part, backbone):
        if isinstance(edit, WeightEdit):
            path, parameter, _, which = backbone.parameter_location(edit.place, edit.parameter)
            owners = backbone.owners(edit.place, edit.parameter)
            yield (owners[0] if owners else path, parameter, which), f"{edit.place.name}.{edit.parameter}"
