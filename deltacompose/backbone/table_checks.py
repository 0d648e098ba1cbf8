"""Checks of a table on a model: that each place is where its name says. They need hooks and nothing else.

A derived table is put through them before it is used; `deltacompose.checks` runs them for everyone's tables.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from deltacompose.backbone.backbone import Backbone
from deltacompose.backbone.diffusion import kind_of_model, model_type
from deltacompose.backbone.quantization import is_quantised
from deltacompose.backbone.trace import ROWS, TOKEN, Change, OnModel, begins_with_rows
from deltacompose.places.notation import Place, lists
from deltacompose.places.table import Table


def serves_the_model(subject: OnModel) -> None:
    """The table names the model's type among those it serves, and says its kind."""
    if sentence := mismatch(subject.table, subject.model):
        raise subject.fault(sentence)


def mismatch(table: Table, model: Any) -> str:
    """Why a table is not of a model's type or kind; "" where it is."""
    served, kind = model_type(model), kind_of_model(model)
    if served not in table.serves:
        return f"it does not serve {served!r}; it serves {', '.join(table.serves)}"
    return "" if table.kind == kind else f"it says kind {table.kind!r}; the configuration is of kind {kind!r}"


def every_place_is_passed(subject: OnModel) -> None:
    """A forward pass passes every place, once unless it is stated as repeated, in the order in which they are listed.

    The norm of a sublayer may be passed at another time: before or after it, or before a network in parallel.
    """
    expected = [place.name for place in subject.passing()]
    once = {place.name for place in subject.passing() if not lists(subject.table.repeated, place)}
    passed = list(subject.passed)
    if missing := [name for name in expected if name not in passed]:
        raise subject.fault(f"{missing[0]} is at a module that the forward pass does not run")
    again = [name.removesuffix(" again") for name in passed if name.endswith(" again")]
    if twice := [name for name in again if name in once]:
        raise subject.fault(f"{twice[0]} is passed twice in one forward pass; list its kind as repeated")
    ordered = [name for name in expected if not name.endswith(("attention.norm", "ffn.norm"))]
    for name, listed in zip([name for name in passed if name in ordered], ordered, strict=True):
        if name != listed:
            raise subject.fault(f"{name} is passed where {listed} is listed; list the places in forward order")


def true_widths(subject: OnModel) -> None:
    """The stated width of a place is that of what passes it."""
    for place in subject.passing():
        width, stated = subject.passed[place.name][1].shape[-1], subject.backbone.width(place)
        if width != stated:
            raise subject.fault(f"{place.name} has width {width} and the table gives {stated}")


def every_row_is_passed(subject: OnModel) -> None:
    """The tensor at a place begins with the rows of the batch, `(rows, tokens, width)`, or the table says unbatched.

    A bank of deltas gives each its own rows.
    """
    if subject.inputs is not None:
        return
    for place in subject.passing():
        shape = tuple(subject.passed[place.name][1].shape)
        batched = begins_with_rows(shape)
        if (
            not batched
            and not lists(subject.table.unbatched, place)
            and place.kind not in ("positions", "attention.positions")
        ):
            raise subject.fault(
                f"{place.name} sees tensors of shape {shape}, which do not begin with the {ROWS} rows of the batch; "
                "list its kind as unbatched"
            )


def every_place_matters(subject: OnModel) -> None:
    """A change at a place changes the model's output."""
    for place in subject.backbone.places():
        if torch.equal(subject.changed(place, stirred), subject.untouched):
            raise subject.fault(f"a change at {place.name} does not change the output")


def every_parameter_has_a_place(subject: OnModel) -> None:
    """Every parameter lies at a place, or the table says that it leaves it out."""
    if subject.table.kind != "denoiser" and (names := subject.backbone.forgotten):
        total = sum(subject.model.get_parameter(name).numel() for name in names)
        raise subject.fault(
            f"{len(names)} parameters lie at no place ({total} numbers: {', '.join(names[:4])}"
            f"{', …' if len(names) > 4 else ''}); give them places, of the kind other.<name> where no kind fits, or "
            "list them under without"
        )


def true_matrices(subject: OnModel) -> None:
    """A linear place computes its input by its weight, and adds its bias."""
    backbone = subject.backbone
    for place in subject.passing():
        if "weight" not in backbone.parameter_names(place) or isinstance(backbone.module(place), nn.Embedding):
            continue
        weight = backbone.module(place).weight
        if weight.ndim == 2 and not is_quantised(weight):  # type: ignore[arg-type]
            x, y = subject.passed[place.name]
            far = _distance(y, x @ backbone.parameter(place, "weight").mT + backbone.parameter(place, "bias"))
            if far > subject.rounding:
                raise subject.fault(f"{place.name} does not compute input · weightᵀ + bias, by {far:.1e} of its size")


def before_the_residual(subject: OnModel) -> None:
    """The output of a whole attention or feed-forward network is that of its last projection, without the residual.

    With zeros out of the last projection, nothing but zeros comes out of the whole.
    """
    for place, last in whole_networks(subject.backbone):
        if has_the_residual(subject, place, last):
            raise subject.fault(
                f"{place.name} is more than its last projection {last.name}; where its module adds the residual, end "
                "the place at that projection: 'module .. module.projection'"
            )


def whole_networks(backbone: Backbone) -> list[tuple[Place, Place]]:
    """The attentions and feed-forward networks, each with its last projection."""
    lasts = {"attention": "attention.output", "cross_attention": "cross_attention.output", "ffn": "ffn.down"}
    named = {place.name: place for place in backbone.places()}
    pairs = [
        (place, named.get(f"{place.name.removesuffix(place.kind)}{lasts[place.kind]}"))
        for place in backbone.places()
        if place.kind in lasts
    ]
    return [(place, last) for place, last in pairs if last is not None]


def has_the_residual(subject: OnModel, place: Place, last: Place) -> bool:
    """Whether something comes out of a network whose last projection gives zeros."""
    out = subject.seen({last.name: torch.zeros_like})[place.name][1]
    return bool(out.abs().max() > subject.rounding * subject.passed[place.name][1].abs().max())


def true_parts_of_attention(subject: OnModel, layers: int | None = None) -> None:
    """A token's query reaches that token alone, its key reaches others, and twice the values are twice the result.

    Args:
        layers: of how many layers, from the first; all if None.
    """
    for place in subject.attentions():
        parts = {part: f"{place.name}.{part}" for part in ("query", "key", "value", "output")}
        if not all(name in subject.passed for name in parts.values()) or (place.layer or 0) >= (layers or 1 << 30):
            continue
        before = subject.passed[parts["output"]][0]

        query, key = (_reached(subject, parts[part], parts["output"]) for part in ("query", "key"))
        if query != {TOKEN}:
            raise subject.fault(f"a change of token {TOKEN}'s {parts['query']} reaches the tokens {sorted(query)}")
        if key <= {TOKEN}:
            raise subject.fault(f"a change of token {TOKEN}'s {parts['key']} reaches the tokens {sorted(key)} alone")
        values: tuple[str, ...] = (parts["value"], f"{place.name.removesuffix(place.kind)}text_attention.value")
        norm = f"{parts['value']}_norm"
        values = (norm,) if norm in subject.passed else values
        doubled, without = (
            subject.seen(dict.fromkeys(values, change))[parts["output"]][0] for change in (_twice, torch.zeros_like)
        )  # what comes without values is that of a bias that is added to them
        if _distance(doubled - before, before - without) > subject.rounding:
            raise subject.fault(f"twice the {parts['value']} do not give twice the attention")


def wholes_hold_their_parts(subject: OnModel) -> None:
    """Changes at the parts of an attention or a feed-forward network pass through the whole, and no other way.

    With the output of the whole held at zero, the parts change nothing. A shared expert given as the whole network of
    a mixture leaves the routed ones outside.
    """
    places = subject.backbone.places()
    for whole in places:
        if whole.kind not in ("attention", "cross_attention", "ffn") or whole.port != "output":
            continue
        if whole.stack == "denoiser":  # joint attention has two outputs, one a stream, and the place is one of them
            continue
        inner = [place for place in places if _is_part(place, whole)]
        held: dict[Place, Change] = {whole: torch.zeros_like}
        still = subject.changed_together(held)
        if torch.equal(subject.changed_together(held | dict.fromkeys(inner, stirred)), still):
            continue
        outside = [
            place.name for place in inner if not torch.equal(subject.changed_together(held | {place: stirred}), still)
        ]
        raise subject.fault(
            f"{(outside or [inner[0].name])[0]} acts around {whole.name}: with the output of the whole held at zero, a "
            "change there still changes the model's output"
        )


def _is_part(place: Place, whole: Place) -> bool:
    """Whether a place lies within a whole by its name; norms of the sublayer and position biases lie outside it."""
    outside = ("norm", "post_norm", "positions", "positions_norm")
    return place.name.startswith(f"{whole.name}.") and place.kind.removeprefix(f"{whole.kind}.") not in outside


CHECKS = (
    serves_the_model,
    every_place_is_passed,
    true_widths,
    every_row_is_passed,
    every_parameter_has_a_place,
    true_matrices,
    true_parts_of_attention,
    before_the_residual,
    wholes_hold_their_parts,
    every_place_matters,
)
"""All of them, the simplest first."""

SMALL = 5_000_000
"""How many parameters a model may have for the checks that take a forward pass for each place."""


def vet(backbone: Backbone) -> None:
    """Puts a backbone's table through the checks, on the model itself.

    A model of more than `SMALL` parameters is passed a few times alone: the checks of each place's shape, matrix and
    parameters, and of the first layer's attention.

    Raises:
        TableFault: a place is not where its name says.
    """
    subject = OnModel(backbone)
    small = sum(parameter.numel() for parameter in backbone.model.parameters()) <= SMALL
    for check in CHECKS[:6]:
        check(subject)
    true_parts_of_attention(subject, None if small else 1)
    if small:
        for check in CHECKS[7:]:
            check(subject)


def stirred(x: Tensor) -> Tensor:
    """Another tensor of the same shape, which no norm, scale or shift makes the same again."""
    return 1.5 * x + 0.25 * x.flip(-1)


def _reached(subject: OnModel, name: str, output: str) -> set[int]:
    """The tokens at which the input of an attention's output projection moves with one token at a place."""
    axis = -2 if subject.passed[name][1].shape[0] == ROWS else 0
    after = subject.seen({name: lambda x: _one_token(x, axis)})[output][0]
    return _moved(after, subject.passed[output][0], subject.rounding)


def _one_token(x: Tensor, axis: int) -> Tensor:
    """`(rows, tokens, width)`, or with the tokens on another axis, with one token's numbers reversed and grown."""
    changed = x.clone()
    changed.select(axis, TOKEN).copy_(2 * x.select(axis, TOKEN).flip(-1) + 1)
    return changed


def _twice(x: Tensor) -> Tensor:
    return 2 * x


def _moved(after: Tensor, before: Tensor, rounding: float) -> set[int]:
    """The positions at which two tensors `(rows, tokens, width)` differ."""
    far = (after - before).abs().amax((0, 2))
    return set((far > rounding * before.abs().max()).nonzero().flatten().tolist())


def _distance(actual: Tensor, other: Tensor) -> float:
    """The largest difference, relative to the size of the numbers."""
    return float((actual - other).abs().max() / other.abs().max().clamp(min=1e-30))
