"""The shapes that a plan's costs are counted from, read off a backbone, a task in its tokens, and a composition."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import lru_cache

from torch import Tensor

from deltacompose.backbone.backbone import Backbone
from deltacompose.backbone.quiet import has_values
from deltacompose.backbone.skeleton import shapes_only
from deltacompose.composition import Composition
from deltacompose.errors import BadInput
from deltacompose.method.contract import HasConstants, Method, TokenEdit, WeightEdit, edits_of
from deltacompose.method.weights import generator, init_weights, part_of, parts, prepared
from deltacompose.places.notation import Place
from deltacompose.planning.flops import DeltaShape, Lengths, Shape, StackShape
from deltacompose.scoring import Reader

ROUTED = ("num_experts_per_tok", "num_experts_per_token", "moe_topk")
"""Names in configurations of how many experts each token is sent to."""


class NeedsValues(BadInput):
    """A method's tensors depend on the values of the weights, which a skeleton does not have."""


def shape_of(backbone: Backbone) -> Shape:
    """A backbone as far as the costs of its passes go."""
    stacks = {name: _stack(backbone, name) for name in backbone.streams}
    head = next((place for place in backbone.places() if place.kind == "head"), None)
    vocabulary = backbone.width(head) if head else 0
    parameters = vocabulary * backbone.embedding_width
    total = sum(x.numel() for x in backbone.model.parameters())
    return Shape(total, backbone.kind, stacks, parameters, vocabulary)


def lengths_of(reader: Reader, batch: int) -> Lengths:
    """A task's examples in tokens, from the first rows of its training data, batched as training batches them."""
    rows = reader.rows("train")[: 8 * batch]
    needed = sorted(reader.lengths(row)[0] for row in rows)
    batches = [needed[k : k + batch] for k in range(0, len(needed), batch)]
    padded = sum(-(-lengths[-1] // 16) * 16 * len(lengths) for lengths in batches) / len(rows)
    candidates = [candidate for row in rows for candidate in row.candidates]
    return Lengths(
        input=sum(needed) / len(needed),
        padded=padded,
        answer=sum(len(row.answer) for row in rows) / len(rows),
        candidates=len(candidates) / len(rows),
        candidate=sum(map(len, candidates)) / max(1, len(candidates)),
        shared=all(row.candidates == rows[0].candidates for row in rows),
        longest=float(max(len(row.answer) for row in rows)),
    )


@lru_cache(maxsize=256)
def delta_shape(backbone: Backbone, expression: Composition) -> DeltaShape:
    """A composition as far as its costs go: what its last stage trains, its soft tokens, its changes formed in full.

    Raises:
        NeedsValues: a method reads values of the weights, and the backbone is a skeleton.
    """
    try:
        with shapes_only(backbone):
            weights = init_weights(backbone, expression)
            prompts: dict[str, int] = {}
            for stream, length in _prompts(backbone, expression, weights):
                prompts[stream] = prompts.get(stream, 0) + length
            dense = {place.name: place for place in _dense(backbone, expression)}
    except BadInput:
        raise
    except Exception as error:
        if has_values(backbone.model):
            raise
        reason = f"{type(error).__name__}: {' '.join(str(error).split())[:100]}"
        raise NeedsValues(
            f"{expression} cannot be counted without the weights of {backbone.name} ({reason})"
        ) from error
    last = f"{len(expression.stages) - 1}."
    formed = sum(backbone.parameter(place, "weight").numel() for place in dense.values())
    return DeltaShape(sum(x.numel() for n, x in weights.items() if n.startswith(last)), prompts, formed)


def _stack(backbone: Backbone, name: str) -> StackShape:
    places = [place for place in backbone.places() if place.stack == name]
    first = {place.kind: place for place in places if place.layer == 0}
    attentions = [place for place in places if place.kind in ("attention.query", "cross_attention.query")]
    inner = backbone.width(first["ffn.up"]) if "ffn.up" in first else 0
    idle, own = _experts(backbone, places)
    width = backbone.width(first["layer"])
    of_heads = attentions and backbone.width(attentions[0]) // backbone.heads(attentions[0])[1]
    return StackShape(
        parameters=sum(_size(backbone, place) for place in places if place.kind == "layer"),
        layers=backbone.layers(name),
        width=width,
        inner=(inner * (2 if "ffn.gate" in first else 1)) or own,
        heads=of_heads or 1,
        attention=sum(backbone.width(place) for place in attentions),
        crossed=sum(
            backbone.parameter(place, "weight").numel()
            for place in places
            if place.kind in ("cross_attention.key", "cross_attention.value")
        ),
        idle=idle,
    )


def _experts(backbone: Backbone, places: Sequence[Place]) -> tuple[int, int]:
    """For a mixture of experts, the parameters that a token does not meet and the inner width of those it meets.

    The experts' matrices are tensors with the experts on the first axis.
    """
    chosen = next((n for name in ROUTED if isinstance(n := getattr(backbone.model.config, name, None), int)), 0)
    idle = inner = 0
    for place in places:
        if ".experts." in f".{place.kind}." and chosen:
            matrices = backbone.parameter(place, "weight")
            idle += round(matrices.numel() * max(0.0, 1 - chosen / len(matrices)))
            if place.kind.endswith(".gate_up") and place.layer == places[0].layer:
                inner = chosen * (matrices.numel() // len(matrices) // backbone.width(_layer(places)))
    return idle, inner


def _layer(places: Sequence[Place]) -> Place:
    return next(place for place in places if place.kind == "layer")


def _size(backbone: Backbone, place: Place) -> int:
    return sum(x.numel() for x in backbone.module(place).parameters())


def _prompts(backbone: Backbone, expression: Composition, weights: Mapping[str, Tensor]) -> Iterator[tuple[str, int]]:
    """Each soft prompt's stream and length."""
    for prefix, part in parts(expression):
        edits = [edit for edit in edits_of(part, backbone) if isinstance(edit, TokenEdit)]
        if edits:
            own = {n: x for n, x in weights.items() if n.startswith(prefix)}
            constants = _constants(backbone, part)
            t = part_of(prepared(expression, own | {prefix + n: x for n, x in constants.items()}, generator(0)), prefix)
            yield from ((edit.stream, len(edit.change(_of(t, edit.stream)))) for edit in edits)


def _constants(backbone: Backbone, part: Method) -> dict[str, Tensor]:
    return part.constants(backbone) if isinstance(part, HasConstants) else {}


def _of(t: Mapping[str, Tensor], stream: str) -> dict[str, Tensor]:
    return {n: x for n, x in t.items() if n.startswith((f"{stream}.", "shared."))}


def _dense(backbone: Backbone, expression: Composition) -> Iterator[Place]:
    """The places whose matrix has a change that is formed."""
    for _, part in parts(expression):
        for edit in edits_of(part, backbone):
            if isinstance(edit, WeightEdit) and edit.parameter == "weight" and edit.factors is None:
                yield edit.place
