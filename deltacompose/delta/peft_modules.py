"""The tensors of a peft folder by the module that they act on, and the places that these modules are."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from torch import Tensor

from deltacompose.backbone.backbone import Backbone, Place
from deltacompose.composition import Composition, Part
from deltacompose.delta.peft_folder import Adapter
from deltacompose.delta.prefix_positions import Prefixes
from deltacompose.errors import BadInput, unknown

Methods = Mapping[str, type[Part]]
Parameter = tuple[str, str]
"""The path of a module, and `weight` or `bias`."""

Weighted = tuple[Part, Mapping[str, Tensor]]
"""A native part and its weights by their names in it."""

_MODULE = r"base_model\.model\.(?P<module>[\w.]+?)"
_FACTOR = re.compile(
    rf"{_MODULE}\.(?P<name>lora_[AB]\.(?:weight|bias)|lora_embedding_[AB]|lora_magnitude_vector|ia3_l)(?:\.weight)?"
)
_COPIED = re.compile(r"\.modules_to_save\.(?:default\.)?")
_SAVED = re.compile(rf"{_MODULE}(?:\.base_layer)?\.(?P<name>weight|bias)")


@dataclass(frozen=True, eq=False)
class Imported:
    """An expression with its weights; of prefixes and a prompt, what peft's function is compared with.

    Attributes:
        prefixes: by place.
        prompt: its rows, `(length, width)`.
    """

    expression: Composition
    weights: Mapping[str, Tensor]
    prefixes: Prefixes = field(default_factory=dict)
    prompt: Tensor | None = None


@dataclass(frozen=True, eq=False)
class Tensors:
    """A folder's tensors.

    Attributes:
        factors: of the adapter, in fp32, by the path of their module and peft's name.
        saved: whole parameters of the model, as they are in the file.
    """

    factors: Mapping[str, Mapping[str, Tensor]]
    saved: Mapping[Parameter, Tensor]


def by_module(adapter: Adapter) -> Tensors:
    """An adapter's tensors by the path of their module.

    Raises:
        BadInput: a tensor is neither the adapter's nor a weight or bias of the model.
    """
    factors: dict[str, dict[str, Tensor]] = {}
    saved: dict[Parameter, Tensor] = {}
    for full_name, tensor in adapter.tensors.items():
        if ".original_module." in full_name:
            continue  # with trained biases peft also stores those of the module that a saved one replaces
        name = _COPIED.sub(".", full_name)
        if name != full_name and name in adapter.tensors:
            continue
        if match := _FACTOR.fullmatch(name):
            factors.setdefault(match["module"], {})[match["name"]] = tensor.float()
        elif match := _SAVED.fullmatch(name):
            saved[match["module"], match["name"]] = tensor
        else:
            raise BadInput(f"the adapter's tensor {name[:200]!r} is not one of peft's {adapter.type}")
    return Tensors(factors, saved)


def matrix_places(backbone: Backbone, module: str, port: str = "output") -> list[Place]:
    """The places that are the output (or input) of a module with a matrix: one, or the slices of a fused one.

    Raises:
        BadInput: there is none, or the slices leave out some rows of the matrix.
    """
    places = [
        place
        for place in backbone.places()
        if place.module == module and place.until is None and place.port == port and _has_matrix(backbone, place)
    ]
    if not places:
        near = {place.module for place in backbone.places() if place.port == port and _has_matrix(backbone, place)}
        raise unknown(f"place of {backbone.name} that is the {port} of module", module, near)
    slices = {place.part: backbone.width(place) for place in places if place.part is not None}
    rows = backbone.fused_width(places[0])
    if len(slices) == len(places) and sum(slices.values()) < rows:
        raise BadInput(
            f"cannot import a change of {module} because table {backbone.family!r} has places for "
            f"{sum(slices.values())} of its {rows} rows ({', '.join(place.kind for place in places)}); give the others "
            "places too"
        )
    return places


def _has_matrix(backbone: Backbone, place: Place) -> bool:
    weight = getattr(backbone.module(place), "weight", None)
    return isinstance(weight, Tensor) and weight.ndim == 2


def together(parts: Sequence[Weighted]) -> Imported:
    """One stage of these parts.

    Raises:
        BadInput: there are none.
    """
    if not parts:
        raise BadInput("the adapter changes nothing: it holds no tensor of its type and no trained parameter")
    weights = {f"0.{index}.{name}": x for index, (_, own) in enumerate(parts) for name, x in own.items()}
    return Imported(Composition((tuple(part for part, _ in parts),)), weights)
