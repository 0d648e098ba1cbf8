"""peft's LoRA as native `lora` parts, with what its initialisation and its trained parameters change besides."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from deltacompose.backbone.backbone import Backbone, Place
from deltacompose.composition import configured
from deltacompose.delta.merge import slice_of
from deltacompose.delta.peft_folder import Adapter
from deltacompose.delta.peft_initial import Start, check_initialisation, residual
from deltacompose.delta.peft_modules import Imported, Methods, Weighted, by_module, matrix_places, together
from deltacompose.delta.peft_saved import changed_parts, saved_changes
from deltacompose.delta.peft_tied import sharing, whole_matrices
from deltacompose.errors import BadInput
from deltacompose.formats.patterns import matches


@dataclass(frozen=True, eq=False)
class Factors:
    """A matrix's ΔW = up · down, with DoRA's magnitudes if it has them."""

    up: Tensor
    down: Tensor
    magnitude: Tensor | None = None


def imported_lora(adapter: Adapter, backbone: Backbone, methods: Methods) -> Imported:
    """A LoRA as native parts with equal outputs.

    Raises:
        BadInput: an initialisation that the folder does not tell, a module that is at no place, modules of one matrix
            that are not changed alike, or tensors that are missing or of another shape.
    """
    config = adapter.config
    check_initialisation(config.get("init_lora_weights", True))
    tensors = by_module(adapter)
    starts = {module: _start(config, backbone, module, own) for module, own in tensors.factors.items()}
    factors = {module: _factors(config, module, own, starts[module]) for module, own in tensors.factors.items()}
    of_place = {
        place: _of_place(backbone, place, change)
        for module, change in whole_matrices(backbone, factors, _equal).items()
        for place in matrix_places(backbone, module)
    }
    added = {module: start[0] @ start[1] for module, start in starts.items() if start is not None}
    changes = saved_changes(tensors.saved, backbone, config, added)
    for module, own in tensors.factors.items():
        if "lora_B.bias" in own:
            bias = _scale(config, module, own) * own["lora_B.bias"]
            changes[module, "bias"] = changes[module, "bias"] + bias if (module, "bias") in changes else bias
    parts = _parts(of_place, backbone, methods, bool(config.get("use_dora")))
    return together(parts + changed_parts(changes, backbone, methods))


def _start(config: Mapping[str, Any], backbone: Backbone, module: str, own: Mapping[str, Tensor]) -> Start | None:
    """Factors of what the initialisation adds to a module's matrix; None where nothing."""
    place = matrix_places(backbone, module)[0]
    start = residual(backbone.module(place), config, _rank(module, own), _alpha(config, module))
    if start is not None and len(sharing(backbone, place)) > 1:
        raise BadInput(
            f"cannot import init_lora_weights={config['init_lora_weights']!r} at {module} because other modules of "
            f"{backbone.name} share its matrix, which peft's initialisation changes for them too"
        )
    return start


def _factors(config: Mapping[str, Any], module: str, own: Mapping[str, Tensor], start: Start | None) -> Factors:
    """One module's factors, the scale in `up`, with those of its initialisation."""
    _rank(module, own)  # refuses a module with one factor alone
    if "lora_embedding_A" in own:
        up, down = own["lora_embedding_A"].mT, own["lora_embedding_B"].mT
    else:
        up, down = own["lora_B.weight"], own["lora_A.weight"]
    magnitude = own.get("lora_magnitude_vector")
    if magnitude is not None and "lora_embedding_A" in own:
        raise BadInput(
            f"cannot import DoRA at {module} because peft scales the columns of an embedding matrix, and "
            "lora(dora=True) its rows; train that module without use_dora"
        )
    up = up * _scale(config, module, own)
    if start is not None:
        up, down = torch.cat([up, start[0]], 1), torch.cat([down, start[1]])
    return Factors(up, down, magnitude)


def _rank(module: str, own: Mapping[str, Tensor]) -> int:
    pairs = (("lora_A.weight", "lora_B.weight"), ("lora_embedding_A", "lora_embedding_B"))
    for pair in pairs:
        if all(name in own for name in pair):
            return len(own[pair[0]])
    raise BadInput(f"the adapter has not both factors A and B for {module}; it has {', '.join(sorted(own))}")


def _scale(config: Mapping[str, Any], module: str, own: Mapping[str, Tensor]) -> float:
    """α / r, or α / √r with rsLoRA."""
    rank = _rank(module, own)
    return _alpha(config, module) / (math.sqrt(rank) if config.get("use_rslora") else rank)


def _alpha(config: Mapping[str, Any], module: str) -> float:
    """α of a module: that of the first pattern that matches the end of its path, as peft takes it."""
    for pattern, alpha in (config.get("alpha_pattern") or {}).items():
        if matches(rf"(.*\.)?({pattern})", module, "alpha_pattern"):
            return float(alpha)
    return float(config["lora_alpha"])


def _equal(factors: Factors, other: Factors) -> bool:
    return (
        factors.up.shape == other.up.shape
        and torch.equal(factors.up, other.up)
        and torch.equal(factors.down, other.down)
    )


def _of_place(backbone: Backbone, place: Place, factors: Factors) -> Factors:
    """The rows of a fused module's factors that are the place's; refuses other shapes."""
    where = slice_of(backbone, place)
    up = where.take(factors.up.mT).mT
    magnitude = None if factors.magnitude is None else where.take(factors.magnitude.flatten())
    shape, expected = (up.shape[0], factors.down.shape[1]), tuple(backbone.parameter(place, "weight").shape)
    if shape != expected:
        raise BadInput(f"the adapter's change at {place.module} is {shape}, and {backbone.name} has {expected} there")
    return Factors(up, factors.down, magnitude)


def _parts(of_place: Mapping[Place, Factors], backbone: Backbone, methods: Methods, dora: bool) -> list[Weighted]:
    """A `lora` for each rank, at the kinds of places whose largest rank it is."""
    ranks: dict[str, int] = {}
    for place, factors in of_place.items():
        ranks[place.kind] = max(ranks.get(place.kind, 0), len(factors.down))
    parts: list[Weighted] = []
    for rank in sorted(set(ranks.values()), reverse=True):
        kinds = tuple(kind for kind, own in ranks.items() if own == rank)
        settings: dict[str, Any] = {"rank": rank, "alpha": float(rank), "places": kinds}
        part = configured(methods["lora"], settings | ({"dora": True} if dora else {}))
        weights: dict[str, Tensor] = {}
        for place in backbone.places(*kinds):
            named = _padded(backbone, place, of_place.get(place), rank, dora)
            weights |= {f"{place.name}.{name}": x for name, x in named.items()}
        parts.append((part, weights))
    return parts


def _padded(backbone: Backbone, place: Place, factors: Factors | None, rank: int, dora: bool) -> dict[str, Tensor]:
    """The native tensors of a place; zeros where the adapter leaves it as it is, or is of a lower rank."""
    frozen = backbone.parameter(place, "weight").detach().float().cpu()
    up, down = torch.zeros(frozen.shape[0], rank), torch.zeros(rank, frozen.shape[1])
    magnitude = torch.zeros(frozen.shape[0])
    if factors is not None:
        up[:, : len(factors.down)], down[: len(factors.down)] = factors.up, factors.down
        if factors.magnitude is not None:
            magnitude = factors.magnitude - frozen.norm(dim=1)
    return {"down": down, "up": up} | ({"magnitude": magnitude} if dora else {})
