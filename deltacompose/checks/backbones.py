"""Checks of a table of places: that each place is where its name says, on a model that the table serves."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
import yaml
from torch import Tensor, nn

from deltacompose.attach.attachment import attach
from deltacompose.backbone.backbone import Backbone, Place, bind
from deltacompose.backbone.diffusion import kind_of_model, model_type
from deltacompose.checks.batches import batch, forward
from deltacompose.checks.gradients import distance
from deltacompose.checks.runner import Broken, Check
from deltacompose.errors import BadInput
from deltacompose.method.contract import Edit, KeyValueEdit, Method, OutputEdit, TokenEdit
from deltacompose.places.table import Table, read_table

Seen = Mapping[str, tuple[Tensor, Tensor]]
"""What goes into and what comes out of each place that was passed, in the order of passing."""
ROUNDING = 1e-4
TOKEN, PROMPT = 2, 2
"""One that has others before and behind it, which is never padding."""


class _Probe(Method):
    """Edits without weights, by which the checks look at a model and touch it."""

    name = "probe"

    def __init__(self, edits: list[Edit]) -> None:
        self._edits = edits

    def init(self, backbone: Backbone, generator: torch.Generator) -> dict[str, Tensor]:
        return {}

    def edits(self, backbone: Backbone) -> list[Edit]:
        return self._edits


@dataclass(eq=False)
class OnModel:
    """A table and a model that it should serve, and what to call it with where that is not tokens."""

    table: Table
    model: Any
    given: Mapping[str, Tensor] | None = None

    def __str__(self) -> str:
        return f"table {self.table.name!r} on {type(self.model).__name__}"

    def broken(self, sentence: str) -> Broken:
        """The error that says what is wrong with the table."""
        return Broken(f"{self}: {sentence}")

    @cached_property
    def backbone(self) -> Backbone:
        """The model seen through the table."""
        try:
            return bind(self.model, self.table)
        except BadInput as error:
            raise self.broken(str(error)) from error

    @cached_property
    def batch(self) -> Mapping[str, Tensor]:
        """What was given, else tokens that the model embeds, with a ragged mask."""
        if self.given is not None:
            return self.given
        given = batch(self.backbone, seed=0)
        rows = len(self.backbone.parameter(self.backbone.places("embedding")[0], "weight"))
        return {name: x % rows if "input_ids" in name else x for name, x in given.items()}

    @cached_property
    def untouched(self) -> Tensor:
        """The model's output with nothing attached."""
        return self.edited([])

    @cached_property
    def passed(self) -> Seen:
        """What passes each place with nothing changed."""
        return self.seen({})

    def edited(self, edits: list[Edit], batch: Mapping[str, Tensor] | None = None) -> Tensor:
        """The model's output with edits in force."""
        attachment = attach(self.backbone, _Probe(edits), probe=False)
        try:
            attachment.put({})
            with torch.no_grad():
                return forward(self.backbone, self.batch if batch is None else batch)
        finally:
            attachment.detach()

    def seen(self, changes: Mapping[str, Callable[[Tensor], Tensor]]) -> Seen:
        """What passes each place while the outputs of some, by name, are changed; twice where one is passed twice."""
        seen: dict[str, tuple[Tensor, Tensor]] = {}

        def noting(place: Place) -> OutputEdit:
            def change(t: Any, input: Tensor, output: Tensor) -> Tensor:
                name = place.name if place.name not in seen else f"{place.name} again"
                changed = changes[place.name](output) if place.name in changes else output
                seen[name] = (input, changed)
                return changed

            return OutputEdit(place, change)

        self.edited([noting(place) for place in self.backbone.places()])
        return seen

    def attentions(self) -> list[Place]:
        """The places that are whole attentions."""
        return [place for place in self.backbone.places() if place.kind in ("attention", "cross_attention")]


def reads_back(subject: OnModel) -> None:
    """The table's text is YAML that reads back as the same table."""
    table = subject.table
    if read_table(table.name, yaml.safe_load(str(table))[table.name]) != table:
        raise subject.broken("its text reads back as another table")


def serves_the_model(subject: OnModel) -> None:
    """The table names the model's type among those it serves, and says its kind."""
    served, kind = model_type(subject.model), kind_of_model(subject.model)
    if served not in subject.table.serves:
        raise subject.broken(f"it does not serve {served!r}; it serves {', '.join(subject.table.serves)}")
    if subject.table.kind != kind:
        raise subject.broken(f"it says kind {subject.table.kind!r}; the configuration is of kind {kind!r}")


def every_place_is_passed(subject: OnModel) -> None:
    """A forward pass passes every place once, in the order in which they are listed."""
    expected = [place.name for place in subject.backbone.places()]
    found = list(subject.passed)
    if missing := [name for name in expected if name not in found]:
        raise subject.broken(f"{missing[0]} is at a module that the forward pass does not run")
    if twice := [name for name in found if name.endswith(" again")]:
        raise subject.broken(f"{twice[0].removesuffix(' again')} is passed twice in one forward pass")
    for name, listed in zip(found, expected, strict=True):
        if name != listed:
            raise subject.broken(f"{name} is passed where {listed} is listed; list the places in forward order")


def true_widths(subject: OnModel) -> None:
    """The stated width of a place is that of what passes it."""
    for place in subject.backbone.places():
        found, stated = subject.passed[place.name][1].shape[-1], subject.backbone.width(place)
        if found != stated:
            raise subject.broken(f"{place.name} has width {found} and the table gives {stated}")


def every_place_matters(subject: OnModel) -> None:
    """What is changed at a place changes the model's output."""
    for place in subject.backbone.places():
        if torch.equal(subject.edited([OutputEdit(place, lambda t, x, y: 1.5 * y)]), subject.untouched):
            raise subject.broken(f"a change at {place.name} does not change the output")


def true_matrices(subject: OnModel) -> None:
    """A linear place computes its input by its weight, and adds its bias."""
    backbone = subject.backbone
    for place in backbone.places():
        if "weight" not in backbone.parameter_names(place) or isinstance(backbone.module(place), nn.Embedding):
            continue
        weight = backbone.parameter(place, "weight")
        if weight.ndim == 2:
            given, found = subject.passed[place.name]
            far = distance(found, given @ weight.mT + backbone.parameter(place, "bias"))
            if far > ROUNDING:
                raise subject.broken(f"{place.name} does not compute input · weightᵀ + bias, by {far:.1e} of its size")


def true_parts_of_attention(subject: OnModel) -> None:
    """A token's query reaches that token alone, its key reaches others, and twice the values are twice the result."""
    for place in subject.attentions():
        parts = {part: f"{place.name}.{part}" for part in ("query", "key", "value", "output")}
        if not all(name in subject.passed for name in parts.values()):
            continue
        before = subject.passed[parts["output"]][0]
        query = _moved(subject.seen({parts["query"]: _one_token})[parts["output"]][0], before)
        if query != {TOKEN}:
            raise subject.broken(f"a change of token {TOKEN}'s {parts['query']} reaches the tokens {sorted(query)}")
        key = _moved(subject.seen({parts["key"]: _one_token})[parts["output"]][0], before)
        if key <= {TOKEN}:
            raise subject.broken(f"a change of token {TOKEN}'s {parts['key']} reaches the tokens {sorted(key)} alone")
        values = (parts["value"], f"{place.name.removesuffix(place.kind)}text_attention.value")
        if distance(subject.seen(dict.fromkeys(values, _twice))[parts["output"]][0], 2 * before) > ROUNDING:
            raise subject.broken(f"twice the {parts['value']} do not give twice the attention")


def prefixed_attentions(subject: OnModel) -> None:
    """Every attention takes keys and values of the stated heads before its own."""
    for place in subject.attentions():
        heads, width = subject.backbone.heads(place)
        keys = torch.ones(heads, 2, width, dtype=subject.model.dtype)
        if torch.equal(subject.edited([KeyValueEdit(place, lambda t, x=keys: (x, x))]), subject.untouched):  # type: ignore[misc]
            raise subject.broken(f"keys and values put before those of {place.name} do not change the output")


def prompted_streams(subject: OnModel) -> None:
    """Every stream takes tokens before its own, and the output stays at the input's positions."""
    prompt = torch.ones(2, subject.backbone.embedding_width, dtype=subject.model.dtype)
    for stream in subject.backbone.streams:
        found = subject.edited([TokenEdit(stream, lambda t: prompt)])
        if found.shape != subject.untouched.shape:
            raise subject.broken(f"tokens before the {stream}'s make an output of shape {tuple(found.shape)}")
        if torch.equal(found, subject.untouched):
            raise subject.broken(f"tokens put before the {stream}'s do not change the output")


def prompts_are_tokens(subject: OnModel) -> None:
    """A prompt of tokens' embeddings acts as those tokens in front of the input: scaled, and at the right positions."""
    backbone = subject.backbone
    for stream in backbone.streams:
        inner = backbone.kind == "encoder-decoder" and stream == backbone.streams[-1]
        name = "decoder_input_ids" if inner else "input_ids"
        whole = subject.batch[name][:1]
        front = (whole + 1).roll(1, 1)[:, :PROMPT] % len(backbone.embeddings(stream))
        rows = backbone.embed(stream, front)[0].detach()
        found = subject.edited([TokenEdit(stream, lambda t, x=rows: x)], _unpadded(subject, {}))  # type: ignore[misc]
        expected = subject.edited([], _unpadded(subject, {name: torch.cat([front, whole], 1)}))
        if found.shape[1] < expected.shape[1]:
            expected = expected[:, PROMPT:]
        if (far := distance(found, expected)) > ROUNDING:
            raise subject.broken(
                f"a prompt of the embeddings of {PROMPT} tokens before the {stream} gives another output than those "
                f"tokens, by {far:.1e} of its size; the model scales its embeddings or counts positions otherwise"
            )


def _unpadded(subject: OnModel, other: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The first row of the batch without padding, with some of its ids changed."""
    first = {name: x[:1] for name, x in subject.batch.items() if name.endswith("input_ids")} | dict(other)
    ids = first["input_ids"]
    return first | {"attention_mask": torch.ones_like(ids)}


def _one_token(x: Tensor) -> Tensor:
    """`(rows, tokens, width)` with one token's numbers reversed and grown."""
    return torch.cat([x[:, :TOKEN], 2 * x[:, TOKEN : TOKEN + 1].flip(-1) + 1, x[:, TOKEN + 1 :]], 1)


def _twice(x: Tensor) -> Tensor:
    return 2 * x


def _reads_tokens(subject: OnModel) -> bool:
    return subject.table.kind != "denoiser"


def _moved(after: Tensor, before: Tensor) -> set[int]:
    """The positions at which two tensors `(rows, tokens, width)` differ."""
    far = (after - before).abs().amax((0, 2))
    return set((far > ROUNDING * before.abs().max()).nonzero().flatten().tolist())


TABLE_CHECKS = (
    Check(reads_back),
    Check(serves_the_model),
    Check(every_place_is_passed),
    Check(true_widths),
    Check(every_place_matters),
    Check(true_matrices),
    Check(true_parts_of_attention),
    Check(prefixed_attentions, when=_reads_tokens),
    Check(prompted_streams, when=_reads_tokens),
    Check(prompts_are_tokens, when=_reads_tokens),
)
