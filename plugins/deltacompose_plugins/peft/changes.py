"""Edits made from peft's layers: a layer is asked for the matrix that it makes of a place's own.

A layer that is affine in its input is known by what it makes of the unit vectors and of zero: the changed matrix and
the changed bias. So every such type is a weight edit, sums with others, and merges.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial

import torch
from torch import Tensor, nn

from deltacompose.backbone import Backbone
from deltacompose.method import Edit, Tensors, WeightEdit
from deltacompose_plugins.peft.layers import Layer
from deltacompose_plugins.peft.tuners import Tuner

ADALORA = {"lora_A.default", "lora_B.default", "lora_E.default", "ranknum.default"}
View = Callable[[Layer, Tensors], dict[str, Tensor]]
"""The tensors of a delta that belong to a layer, by the layer's names."""


def edits(backbone: Backbone, layers: tuple[Layer, ...], tuner: Tuner, view: View) -> list[Edit]:
    """The edits of a type's layers."""
    edits_of_layers: list[Edit] = []
    for layer in layers:
        edits_of_layers += _EDITS[tuner.acts](backbone, layer, tuner, view)
    return edits_of_layers


def _of_copy(backbone: Backbone, layer: Layer, tuner: Tuner, view: View) -> list[Edit]:
    names = {name.rpartition(".")[2]: full for name, full in layer.names.items()}
    return [WeightEdit(layer.place, parameter, partial(_instead, full)) for parameter, full in names.items()]


def _of_matrix(backbone: Backbone, layer: Layer, tuner: Tuner, view: View) -> list[Edit]:
    place = layer.place
    if isinstance(backbone.module(place), nn.Embedding):
        return [WeightEdit(place, "weight", partial(_rows, layer, view), vmap=tuner.vmap)]
    change, factors = partial(_matrix, layer, view), _low_rank(layer, view)
    edits_of_layer: list[Edit] = [WeightEdit(place, "weight", change, factors, vmap=tuner.vmap)]
    if layer.moves_bias:
        weight = backbone.parameter(place, "weight")
        edits_of_layer.append(WeightEdit(place, "bias", partial(_bias, layer, view, weight), vmap=tuner.vmap))
    return edits_of_layer


_EDITS: Mapping[str, Callable[[Backbone, Layer, Tuner, View], list[Edit]]] = {
    "matrix": _of_matrix,
    "copy": _of_copy,
}


def _low_rank(layer: Layer, view: View) -> Callable[[Tensors], tuple[Tensor, Tensor]] | None:
    """The factors of the two types that are but those: they then act on the output, and W + ΔW is never formed."""
    names = {name.removesuffix(".weight") for name in layer.names}
    if layer.additive and names in ({"lora_A.default", "lora_B.default"}, ADALORA):
        return partial(_factors, layer, view)
    return None


def _factors(layer: Layer, view: View, t: Tensors) -> tuple[Tensor, Tensor]:
    own = {name.removesuffix(".weight"): x for name, x in view(layer, t).items()}
    up, down, scale = own["lora_B.default"], own["lora_A.default"], layer.module.scaling["default"]  # type: ignore[index]
    if "lora_E.default" not in own:
        return up * scale, down
    return up * (scale / (own["ranknum.default"] + 1e-5)), down * own["lora_E.default"]


def _instead(full: str, t: Tensors, frozen: Tensor) -> Tensor:
    return t[full] - frozen


def _rows(layer: Layer, view: View, t: Tensors, frozen: Tensor) -> Tensor:
    everything = torch.arange(frozen.shape[0], device=frozen.device)
    output = layer(view(layer, t), _blank(frozen) if layer.additive else frozen, None, everything)
    return output if layer.additive else output - frozen


def _matrix(layer: Layer, view: View, t: Tensors, frozen: Tensor) -> Tensor:
    own, inputs = view(layer, t), frozen.shape[1]
    units = torch.eye(inputs + layer.moves_bias, inputs, dtype=frozen.dtype, device=frozen.device)
    pretrained, bias = _blank(frozen) if layer.additive else frozen, frozen.new_zeros(frozen.shape[0])
    output = layer(own, pretrained, bias, _each(units, own))
    output = (output[:-1] - output[-1:] if layer.moves_bias else output).mT
    return output if layer.additive else output - frozen


def _bias(layer: Layer, view: View, weight: Tensor, t: Tensors, frozen: Tensor) -> Tensor:
    own, zero = view(layer, t), weight.new_zeros(1, weight.shape[1])
    if layer.additive:
        return layer(own, _blank(weight), torch.zeros_like(frozen), _each(zero, own))[0]
    return layer(own, weight, frozen, _each(zero, own))[0] - frozen


def _blank(like: Tensor) -> Tensor:
    return like.new_zeros(()).expand_as(like)


def _each(x: Tensor, own: Tensors) -> Tensor:
    """x for each delta of a bank: some layers add in place into their input's product, which must have the axis."""
    return x + next(torch.zeros_like(tensor).sum().to(x.dtype) for tensor in own.values() if tensor.is_floating_point())
