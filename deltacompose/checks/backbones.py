"""Checks of a table of places: that each place is where its name says, on a model that the table serves.

Those that hooks alone can make are in `deltacompose.backbone.table_checks`; here are those that attach edits.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
import yaml
from torch import Tensor, nn

from deltacompose.attach import attach
from deltacompose.backbone import table_checks, trace
from deltacompose.backbone.backbone import Backbone, bind
from deltacompose.checks.gradients import distance
from deltacompose.checks.runner import Broken, Check
from deltacompose.errors import BadInput
from deltacompose.method.contract import Edit, KeyValueEdit, Method, TokenEdit
from deltacompose.places.table import Table, read_table

PROMPT = 2
"""Tokens of a prompt."""


class _Probe(Method):
    """Edits without weights, by which the checks touch a model."""

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
    inputs: Mapping[str, Tensor] | None = None

    def __str__(self) -> str:
        return f"table {self.table.name!r} on {type(self.model).__name__}"

    def broken(self, sentence: str) -> Broken:
        """The error that says what is wrong with the table."""
        return Broken(f"{self}: {sentence}")

    @cached_property
    def traced(self) -> trace.OnModel:
        """The model seen through the table."""
        try:
            return trace.OnModel(bind(self.model, self.table), self.inputs)
        except BadInput as error:
            raise self.broken(str(error)) from error

    @property
    def backbone(self) -> Backbone:
        """The model with its places bound by the table."""
        return self.traced.backbone

    def edited(self, edits: list[Edit], batch: Mapping[str, Tensor] | None = None) -> Tensor:
        """The model's output with edits attached."""
        attachment = attach(self.backbone, _Probe(edits), probe=False)
        try:
            attachment.put({})
            return trace.forward(self.backbone, self.traced.batch if batch is None else batch)
        finally:
            attachment.detach()


def reads_back(subject: OnModel) -> None:
    """The table's text is YAML that reads back as the same table."""
    table = subject.table
    if read_table(table.name, yaml.safe_load(str(table))[table.name]) != table:
        raise subject.broken("its text reads back as another table")


def serves_the_model(subject: OnModel) -> None:
    """The table names the model's type among those it serves, and says its kind."""
    if sentence := table_checks.mismatch(subject.table, subject.model):
        raise subject.broken(sentence)


def prefixed_attentions(subject: OnModel) -> None:
    """Every attention takes keys and values of the stated heads before its own, if it takes any.

    Those that do not call transformers' attention interface take none, and prefixes are refused there.
    """
    for place in subject.traced.attentions():
        try:
            heads, width = subject.backbone.heads(place)
        except BadInput:
            continue  # it says by name why it takes none
        if not _calls_the_interface(subject.backbone.module(place)):
            continue
        keys = torch.ones(heads, 2, width, dtype=subject.model.dtype)
        if torch.equal(subject.edited([KeyValueEdit(place, lambda t, x=keys: (x, x))]), subject.traced.untouched):  # type: ignore[misc]
            raise subject.broken(f"keys and values put before those of {place.name} do not change the output")


def prompted_streams(subject: OnModel) -> None:
    """Every stream takes tokens before its own, and the output stays at the input's positions."""
    prompt = torch.ones(2, subject.backbone.embedding_width, dtype=subject.model.dtype)
    for stream in subject.backbone.streams:
        output = subject.edited([TokenEdit(stream, lambda t: prompt)])
        if output.shape != subject.traced.untouched.shape:
            raise subject.broken(f"tokens before the {stream}'s make an output of shape {tuple(output.shape)}")
        if torch.equal(output, subject.traced.untouched):
            raise subject.broken(f"tokens put before the {stream}'s do not change the output")


def prompts_are_tokens(subject: OnModel) -> None:
    """A prompt of tokens' embeddings acts as those tokens in front of the input: scaled, and at the right positions."""
    backbone = subject.backbone
    for stream in backbone.streams:
        inner = backbone.kind == "encoder-decoder" and stream == backbone.streams[-1]
        name = "decoder_input_ids" if inner else "input_ids"
        whole = subject.traced.batch[name][:1]
        front = (whole + 1).roll(1, 1)[:, :PROMPT] % len(backbone.embeddings(stream))
        rows = backbone.embed(stream, front)[0].detach()
        states = subject.edited([TokenEdit(stream, lambda t, x=rows: x)], _unpadded(subject, {}))  # type: ignore[misc]
        expected = subject.edited([], _unpadded(subject, {name: torch.cat([front, whole], 1)}))
        if states.shape[1] < expected.shape[1]:
            expected = expected[:, PROMPT:]
        if (far := distance(states, expected)) > subject.traced.rounding:
            raise subject.broken(
                f"a prompt of the embeddings of {PROMPT} tokens before the {stream} gives another output than those "
                f"tokens, by {far:.1e} of its size; the model scales its embeddings or counts positions otherwise"
            )


def _unpadded(subject: OnModel, other: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The first row of the batch without padding, with some of its ids changed."""
    first = {name: x[:1] for name, x in subject.traced.batch.items() if name.endswith("input_ids")} | dict(other)
    ids = first["input_ids"]
    return first | {"attention_mask": torch.ones_like(ids)}


def _calls_the_interface(module: nn.Module) -> bool:
    return "ALL_ATTENTION_FUNCTIONS" in inspect.getsource(type(module).forward)


def _reads_tokens(subject: OnModel) -> bool:
    return subject.table.kind != "denoiser"


def _traced(function: Callable[[trace.OnModel], None]) -> Check:
    """A check by hooks, as one of the suite's."""

    @functools.wraps(function)
    def check(subject: OnModel) -> None:
        try:
            function(subject.traced)
        except trace.TableFault as fault:
            raise Broken(str(fault)) from fault

    return Check(check)


PLACE_CHECKS = (
    Check(reads_back),
    Check(serves_the_model),
    *map(_traced, table_checks.CHECKS[1:]),
    Check(prefixed_attentions, when=_reads_tokens),
    Check(prompted_streams, when=_reads_tokens),
    Check(prompts_are_tokens, when=_reads_tokens),
)
