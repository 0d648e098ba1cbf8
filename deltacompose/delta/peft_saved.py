"""Whole parameters in a folder of peft's: trained biases, `modules_to_save`, and copies of frozen embeddings."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor
from transformers.pytorch_utils import Conv1D

from deltacompose.backbone.backbone import Backbone, Place
from deltacompose.composition import configured
from deltacompose.delta.peft_modules import Methods, Parameter, Weighted
from deltacompose.delta.peft_tied import sharing, whole_matrices
from deltacompose.errors import BadInput


def saved_changes(
    saved: Mapping[Parameter, Tensor], backbone: Backbone, config: Mapping[str, Any], added: Mapping[str, Tensor]
) -> dict[Parameter, Tensor]:
    """Changes of the backbone's parameters by a folder's whole parameters, in their modules' layout, in fp32.

    Args:
        saved: parameters as peft saves them; a copy of a frozen one changes nothing.
        config: tells which of them peft has trained.
        added: what an initialisation adds to the matrix of a module, `(output, input)`.

    Raises:
        BadInput: a parameter is not the backbone's, and the configuration does not train it.
    """
    changes: dict[Parameter, Tensor] = {}
    for (module, name), tensor in saved.items():
        own = _own(backbone, module, name, tensor)
        start = added.get(module) if name == "weight" else None
        expected = own if start is None else own + (start.mT if _transposed(backbone, module) else start)
        if _close(tensor, expected, backbone):
            continue
        if not _trained(config, backbone, module, name):
            raise BadInput(
                f"cannot import the adapter because its {module}.{name} is not that of {backbone.name}, and its "
                "configuration does not train it; it belongs to another base model"
            )
        changes[module, name] = tensor.float() - own
    matrices = {module: x for (module, name), x in changes.items() if name == "weight"}
    whole = {(module, "weight"): x for module, x in whole_matrices(backbone, matrices, torch.equal).items()}
    return whole | {key: x for key, x in changes.items() if key[1] == "bias"}


def changed_parts(changes: Mapping[Parameter, Tensor], backbone: Backbone, methods: Methods) -> list[Weighted]:
    """Native parts with these changes: `bitfit` where a bias alone changes, `full` elsewhere.

    Raises:
        BadInput: a parameter is at no place of the backbone.
    """
    biases: dict[Place, dict[str, Tensor]] = {}
    whole: dict[Place, dict[str, Tensor]] = {}
    for (module, name), change in changes.items():
        rows_first = change.mT if name == "weight" and _transposed(backbone, module) else change
        alone = name == "bias" and (module, "weight") not in changes
        for place in _places(backbone, module, name):
            chosen = biases if alone and place.kind != "head" and backbone.takes_bias(place) else whole
            chosen.setdefault(place, {})[name] = backbone.part(place, rows_first).contiguous()
    parts: list[Weighted] = []
    for method, own in (("bitfit", biases), ("full", whole)):
        if own:
            part: Any = configured(methods[method], {"places": tuple(dict.fromkeys(place.kind for place in own))})
            untouched = part.init(backbone, torch.Generator())  # zeros, at each place of these kinds
            parts.append((part, untouched | {f"{p.name}.{name}": x for p, t in own.items() for name, x in t.items()}))
    return parts


def _own(backbone: Backbone, module: str, name: str, tensor: Tensor) -> Tensor:
    """The backbone's parameter of that name, in fp32."""
    holder = next((held for path, held in backbone.model.named_modules() if path == module), None)
    own = getattr(holder, name, None)
    if not isinstance(own, Tensor):
        raise BadInput(
            f"cannot import the adapter because {backbone.name} has no parameter {module}.{name}, which the folder "
            "holds; it belongs to a model with another head"
        )
    if own.shape != tensor.shape:
        raise BadInput(
            f"cannot import the adapter because its {module}.{name} is {tuple(tensor.shape)} and that of "
            f"{backbone.name} is {tuple(own.shape)}; if its vocabulary was extended, resize the backbone's embeddings"
        )
    return own.detach().float().cpu()


def _transposed(backbone: Backbone, module: str) -> bool:
    return isinstance(backbone.model.get_submodule(module), Conv1D)


def _close(tensor: Tensor, own: Tensor, backbone: Backbone) -> bool:
    """Whether a saved tensor is a parameter within the rounding of the less precise of the two."""
    dtypes = [dtype for dtype in (tensor.dtype, backbone.model.dtype) if dtype.is_floating_point]
    rounding = max(torch.finfo(dtype).eps for dtype in dtypes)
    return bool((tensor.float() - own).abs().max() <= 4 * rounding * own.abs().max())


def _trained(config: Mapping[str, Any], backbone: Backbone, module: str, name: str) -> bool:
    """Whether a configuration trains a parameter: a bias, or one inside a module to be saved."""
    if name == "bias" and config.get("bias", "none") in ("all", "lora_only"):
        return True
    endings = tuple(config.get("modules_to_save") or ())
    tied = config.get("ensure_weight_tying") and name == "weight"
    paths = [module, *(_sharing(backbone, module) if tied else ())]
    return bool(endings) and any(path.endswith(endings) for own in paths for path in _holders(own))


def _holders(module: str) -> list[str]:
    """A module's path and those of the modules that it is in."""
    words = module.split(".")
    return [".".join(words[:end]) for end in range(1, len(words) + 1)]


def _sharing(backbone: Backbone, module: str) -> tuple[str, ...]:
    place = next((place for place in backbone.places() if place.module == module), None)
    return () if place is None else sharing(backbone, place)


def _places(backbone: Backbone, module: str, name: str) -> list[Place]:
    """The places whose parameter this is: one, or the slices of a fused module; an absent bias can be added."""
    places = [
        place
        for place in backbone.places()
        if place.module == module
        and (name in backbone.parameter_names(place) or (name == "bias" and backbone.takes_bias(place)))
    ]
    if not places:
        raise BadInput(f"cannot import the change of {module}.{name} because it is at no place of {backbone.name}")
    return places
