"""A model watched through a table: what passes each place in a forward pass, unchanged or with changes."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn

from deltacompose.backbone.backbone import Backbone, evaluating
from deltacompose.backbone.slices import Slice
from deltacompose.errors import BadInput
from deltacompose.places.notation import Place
from deltacompose.places.table import Table

ROWS, TOKENS, TOKEN = 3, 6, 2
"""Rows and tokens of the batch; the token that has others before and behind it and is never padding."""

_FIRST_BYTE = 5
ROUNDING = {torch.float64: 1e-4, torch.float32: 1e-4, torch.float16: 1e-2, torch.bfloat16: 5e-2}
"""How far from each other two numbers may be that should be equal, relative to the largest."""

Seen = dict[str, tuple[Tensor, Tensor]]
"""The input and the output of each place, in the order of passing; a second pass is named `<place> again`."""

Change = Callable[[Tensor], Tensor]


class TableFault(BadInput):
    """A place of a table is not where its name says."""


@dataclass(eq=False)
class OnModel:
    """A table, a model that it should serve, and the batch that the model is called with, tokens if None."""

    backbone: Backbone
    inputs: Mapping[str, Tensor] | None = None

    def __str__(self) -> str:
        return f"table {self.table.name!r} on {type(self.model).__name__}"

    @property
    def table(self) -> Table:
        """The backbone's table."""
        return self.backbone.table

    @property
    def model(self) -> Any:
        """The backbone's model."""
        return self.backbone.model

    @property
    def rounding(self) -> float:
        """The relative difference that rounding in the model's data type explains."""
        return ROUNDING.get(self.model.dtype, 1e-4)

    def fault(self, sentence: str) -> TableFault:
        """The error that says what is wrong with the table."""
        return TableFault(f"{self}: {sentence}")

    @cached_property
    def batch(self) -> Mapping[str, Tensor]:
        """The inputs of a forward pass: `inputs`, or random tokens with a ragged mask."""
        return tokens(self.backbone) if self.inputs is None else self.inputs

    @cached_property
    def untouched(self) -> Tensor:
        """The model's output with nothing changed."""
        return forward(self.backbone, self.batch)

    @cached_property
    def passed(self) -> Seen:
        """Inputs and outputs at each place with nothing changed."""
        return self.seen({})

    def seen(self, changes: Mapping[str, Change]) -> Seen:
        """Inputs and outputs at each place while the outputs of some are changed, by name, at their first pass."""
        trace = _Trace(changes)
        with trace.hooked(self.backbone):
            forward(self.backbone, self.batch)
        return trace.seen

    def changed(self, place: Place, change: Change) -> Tensor:
        """The model's output while a place is changed at every pass."""
        if place.port == "parameter":
            with _replaced(self.backbone, place, change):
                return forward(self.backbone, self.batch)
        trace = _Trace({place.name: change}, every=True)
        with trace.hooked(self.backbone, place):
            return forward(self.backbone, self.batch)

    def changed_together(self, changes: Mapping[Place, Change]) -> Tensor:
        """The model's output while several places are changed at every pass."""
        bare = [place for place in changes if place.port == "parameter"]
        trace = _Trace({place.name: change for place, change in changes.items()}, every=True)
        with ExitStack() as stack:
            for place in bare:
                stack.enter_context(_replaced(self.backbone, place, changes[place]))
            stack.enter_context(trace.hooked(self.backbone, *(place for place in changes if place not in bare)))
            return forward(self.backbone, self.batch)

    def passing(self) -> list[Place]:
        """The places that a forward pass should pass: all but bare parameters."""
        return [place for place in self.backbone.places() if place.port != "parameter"]

    def attentions(self) -> list[Place]:
        """The places that are whole attentions."""
        return [place for place in self.backbone.places() if place.kind in ("attention", "cross_attention")]


@dataclass(eq=False)
class _Trace:
    """Hooks that note what passes each place, and change some of it. It has state because a pass comes and goes."""

    changes: Mapping[str, Change]
    every: bool = False
    seen: Seen = field(default_factory=dict)
    inputs: dict[str, Tensor] = field(default_factory=dict)

    @contextmanager
    def hooked(self, backbone: Backbone, *places: Place) -> Iterator[None]:
        with ExitStack() as handles:
            for place in places or backbone.places():
                if place.port != "parameter":
                    for handle in self._hooks(backbone, place):
                        handles.callback(handle.remove)
            yield

    def _hooks(self, backbone: Backbone, place: Place) -> list[Any]:
        module, last = backbone.module(place), backbone.module_until(place)

        def before(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
            x = _first(args, kwargs)
            self.inputs[place.name] = x.clone() if isinstance(x, Tensor) else x  # Pegasus' positions see a shape
            if place.port != "input":
                return None
            y = self._note(place, x, x)
            return _with_first(args, kwargs, y)

        def after(_: nn.Module, args: tuple[Any, ...], output: Any) -> Any:
            y = output[0] if isinstance(output, tuple | list) else output
            y = self._note(place, self.inputs[place.name], y)
            return type(output)([y, *output[1:]]) if isinstance(output, tuple | list) else y

        handles = [module.register_forward_pre_hook(before, with_kwargs=True)]
        return handles if place.port == "input" else [*handles, last.register_forward_hook(after)]

    def _note(self, place: Place, x: Tensor, y: Tensor) -> Tensor:
        """Notes a pass, and gives the output as it goes on; what is noted is not changed by modules in place."""
        again = place.name in self.seen
        piece, change = Slice(place.part), self.changes.get(place.name)
        own = piece.take(y)
        if change is not None and (self.every or not again):
            own = change(own)
            y = piece.put(y, own)
        self.seen[f"{place.name} again" if again else place.name] = (x, own.clone())
        return y


@contextmanager
def _replaced(backbone: Backbone, place: Place, change: Change) -> Iterator[None]:
    """A bare parameter changed while its module runs."""
    path, own, _, _ = backbone.parameter_location(place, "weight")
    holder, module = backbone.model.get_submodule(path), backbone.module(place)
    held: Any = holder._parameters[own]

    def put(*_: object) -> None:
        holder._parameters[own] = nn.Parameter(change(held.detach()), requires_grad=False)

    def back(*_: object) -> None:
        holder._parameters[own] = held

    handles = [module.register_forward_pre_hook(put), module.register_forward_hook(back, always_call=True)]
    try:
        yield
    finally:
        back()
        for handle in handles:
            handle.remove()


def tokens(backbone: Backbone) -> dict[str, Tensor]:
    """Random tokens that a backbone embeds, in rows of 6, 4 and 3, with a mask; padded left before a decoder alone."""
    source = torch.Generator().manual_seed(0)
    embedding = backbone.parameter(backbone.places("embedding")[0], "weight")
    ids = torch.randint(_FIRST_BYTE, _FIRST_BYTE + 256, (ROWS, TOKENS), generator=source) % len(embedding)
    mask = (torch.arange(TOKENS) < torch.tensor([TOKENS, TOKENS - 2, TOKENS - 3])[:, None]).long()
    if backbone.kind == "decoder":
        mask = mask.flip(1)
    batch = {"input_ids": ids, "attention_mask": mask}
    if backbone.kind == "decoder":
        batch["position_ids"] = (mask.cumsum(1) - 1).clamp(min=0)
    if backbone.kind == "encoder-decoder":
        batch["decoder_input_ids"] = ids.flip(1)[:, : TOKENS - 2]
    return {name: x.to(embedding.device) for name, x in batch.items()}


def begins_with_rows(shape: tuple[int, ...]) -> bool:
    """Whether a tensor that passed a place begins with the rows of the batch, `(rows, tokens, width)` or flattened."""
    return shape[0] % ROWS == 0 and (len(shape) < 3 or shape[0] == ROWS)


def forward(backbone: Backbone, batch: Mapping[str, Tensor]) -> Tensor:
    """The logits, or the last states of an encoder, `(rows, tokens, width)`, or what a denoiser makes of noise."""
    how = {"use_cache": False} if "decoder" in backbone.kind else {}
    with torch.no_grad(), evaluating(backbone.model):
        output = backbone.model(**batch, **how)
    states: Tensor = next(output[name] for name in ("last_hidden_state", "logits", "sample") if name in output)
    return states


def _first(args: tuple[Any, ...], kwargs: dict[str, Any]) -> Tensor:
    """The tensor that a module works on: its first positional argument, or the first that is given by name."""
    x: Tensor = args[0] if args else next(value for value in kwargs.values() if isinstance(value, Tensor))
    return x


def _with_first(args: tuple[Any, ...], kwargs: dict[str, Any], x: Tensor) -> Any:
    if args:
        return (x, *args[1:]), kwargs
    name = next(name for name, value in kwargs.items() if isinstance(value, Tensor))
    return args, {**kwargs, name: x}
