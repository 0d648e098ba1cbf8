"""Each edit is shown to act, once per model and place, or refused by name: no method may do nothing in silence.

One pass of a few tokens adds a leaf of zeros wherever the edits would act. One backward pass from the output of the
first row shows which leaves reach it, and whether they do so from that row's own slice. A place that the pass does not
run, or whose change is lost on the way, is dead. A place whose leading axis is not that of the batch can be changed by
one delta, but not by a bank of several. The passes leave no trace: no hooks, no gradients, no random numbers drawn.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

from deltacompose.backbone.backbone import Backbone
from deltacompose.backbone.quiet import few_ids, is_a_value, quiet
from deltacompose.errors import BadInput
from deltacompose.method.contract import Edit, KeyValueEdit, OutputEdit, TokenEdit, WeightEdit

ROWS = 3
LENGTHS = (7, 61)
"""Tokens of a first pass, and of a second for what the first has not reached, such as a rarely chosen expert.
Neither is a multiple of the rows, so that an axis of tokens is not taken for that of the batch."""

_RAISED = (RuntimeError, TypeError, ValueError, AttributeError, LookupError, AssertionError)
"""Exceptions that transformers' modules raise at arguments they do not accept."""

Key = tuple[str, str]
Install = Callable[[Sequence[Edit]], AbstractContextManager[None]]


@dataclass(frozen=True)
class Reach:
    """Result of a pass for one place.

    Attributes:
        alive: a change there changes the output.
        by_rows: its leading axis is the batch, row by row.
        run: the pass has run it at all.
        error: what the model raised at an edit there.
        shown: False where the model does not take the tokens of the pass, whatever is attached.
    """

    alive: bool
    by_rows: bool = True
    run: bool = True
    error: str = ""
    shown: bool = True


_REACHES: WeakKeyDictionary[nn.Module, dict[Key, Reach]] = WeakKeyDictionary()
"""Liveness results by model and by name of place."""


def key(edit: Edit) -> Key:
    """Key under which results are shared: edits of one kind at one place behave alike."""
    if isinstance(edit, TokenEdit):
        return ("tokens", edit.stream)
    return ("keys" if isinstance(edit, KeyValueEdit) else "output", edit.place.name)


def can_be_shown(backbone: Backbone) -> bool:
    """Whether a pass can be made: the model reads tokens, and its weights are here, whole and ordinary."""
    if backbone.kind == "denoiser":
        return False
    return all(
        is_a_value(x) and not isinstance(x, DTensor) and not x.is_inference() for x in backbone.model.parameters()
    )


def reaches(backbone: Backbone, edits: Iterable[Edit], install: Install) -> dict[Key, Reach]:
    """Reach of the places of edits; places that are new are tried in a pass.

    Args:
        install: attaches edits that read no tensors.
    """
    known = _REACHES.setdefault(backbone.model, {})
    new = {key(edit): edit for edit in edits if key(edit) not in known}
    for tokens in LENGTHS:
        if new:
            limits = [limit for name in backbone.streams if (limit := backbone.stream(name).limit) is not None]
            known |= _tried(backbone, new, install, min([tokens, *(limit - ROWS for limit in limits)]))
            new = {k: edit for k, edit in new.items() if not known[k].alive and not known[k].error}
    return known


def refusal(method: str, backbone: Backbone, edits: Sequence[Edit], known: dict[Key, Reach]) -> BadInput | None:
    """The sentence for edits of one method that do nothing; None where all of them act."""
    dead = [edit for edit in edits if not known[key(edit)].alive]
    if not dead:
        return None
    reach, where = known[key(dead[0])], key(dead[0])[1]
    more = f" and {len(dead) - 1} more place{'s' if len(dead) > 2 else ''}" if len(dead) > 1 else ""
    base, kind = type(backbone.model).__name__, type(dead[0])
    if reach.error:
        why = f"the model raises {reach.error!r}"
    elif kind is TokenEdit:
        why = "what stands before the tokens does not change the output"
    elif kind is KeyValueEdit:
        module = type(backbone.module(dead[0].place)).__name__  # type: ignore[union-attr]
        why = f"{module} does not call transformers' attention interface, which takes keys and values before its own"
    else:
        why = "a change there is lost on the way to the output" if reach.run else "a pass does not run the module there"
    return BadInput(f"{method} cannot act at {where}{more} of {base} because {why}; use another method or other places")


@dataclass
class _Probe:
    """An edit at one place that adds a leaf of zeros, and the leaves that a pass has added."""

    edit: Edit
    leaves: list[Tensor] = field(default_factory=list)

    def of(self, backbone: Backbone) -> Edit:
        """The edit that adds them."""
        if isinstance(self.edit, TokenEdit):
            row = torch.zeros(1, backbone.embedding_width)
            return TokenEdit(self.edit.stream, lambda t: self._leaf(row.to(backbone.model.device)))
        if isinstance(self.edit, KeyValueEdit):
            heads, width = backbone.heads(self.edit.place)
            rows = torch.zeros(heads, 1, width, device=backbone.model.device)
            return KeyValueEdit(self.edit.place, lambda t: (self._leaf(rows), self._leaf(rows)))
        if _bare(self.edit):
            return WeightEdit(self.edit.place, "weight", lambda t, frozen: self._leaf(frozen))
        return OutputEdit(self.edit.place, lambda t, x, y: y + self._leaf(y))

    def _leaf(self, like: Tensor) -> Tensor:
        leaf = torch.zeros_like(like, requires_grad=True)
        self.leaves.append(leaf)
        return leaf

    def reach(self, gradients: Sequence[Tensor | None]) -> Reach:
        """Reach according to the gradients of its leaves."""
        run, arrived = bool(self.leaves), [x for x in gradients if x is not None]
        alive = any(bool((x != 0).any()) for x in arrived)
        if isinstance(self.edit, TokenEdit | KeyValueEdit):
            # In float16 a weight of attention may round to zero: that the model has taken the keys must do.
            return Reach(alive or (run and self.leaves[0].dtype == torch.float16), True, run)
        if _bare(self.edit):
            return Reach(alive, False, run)
        own = all(len(x) % ROWS == 0 and not bool((x[len(x) // ROWS :] != 0).any()) for x in arrived)
        return Reach(alive, own, run)


def _bare(edit: OutputEdit | WeightEdit) -> bool:
    """Whether an edit is of a parameter and not of an output: a module of positions may see a shape and no tensor."""
    return edit.place.port == "parameter" or (isinstance(edit, WeightEdit) and edit.place.kind == "positions")


def _tried(backbone: Backbone, edits: dict[Key, Edit], install: Install, tokens: int) -> dict[Key, Reach]:
    """A pass for all of them; one for each where they cannot all be made together."""
    with quiet(backbone.model), torch.inference_mode(False), torch.enable_grad():
        try:
            return _pass(backbone, edits, install, tokens)
        except _RAISED as error:
            # A refusal is of the edits and not of the model; a pass to see which may compile for half a minute.
            refused = isinstance(error, BadInput)
            if not refused and not _takes_tokens(backbone, edits, tokens):
                return {k: Reach(alive=True, shown=False) for k in edits}
            if len(edits) == 1 and refused:
                raise
            if len(edits) == 1:
                return {k: Reach(alive=False, error=" ".join(str(error).split())[:120]) for k in edits}
    return {k: reach for edit in edits.items() for k, reach in _tried(backbone, dict([edit]), install, tokens).items()}


def _takes_tokens(backbone: Backbone, edits: dict[Key, Edit], tokens: int) -> bool:
    try:
        _loss(backbone, edits, tokens)
    except _RAISED:
        return False
    return True


def _pass(backbone: Backbone, edits: dict[Key, Edit], install: Install, tokens: int) -> dict[Key, Reach]:
    probes = {k: _Probe(edit) for k, edit in edits.items()}
    with install([probe.of(backbone) for probe in probes.values()]):
        loss = _loss(backbone, edits, tokens)
        leaves = [leaf for probe in probes.values() for leaf in probe.leaves]
        reached = torch.autograd.grad(loss, leaves, allow_unused=True) if loss.requires_grad else [None] * len(leaves)
    gradients = iter(reached)
    return {k: probe.reach([next(gradients) for _ in probe.leaves]) for k, probe in probes.items()}


def _loss(backbone: Backbone, edits: dict[Key, Edit], tokens: int) -> Tensor:
    """A number that every part of the output of the first row moves."""
    inside = f"{backbone.base}." if backbone.base else ""
    places = [edit.place for edit in edits.values() if not isinstance(edit, TokenEdit)]
    whole = any(not (place.until or place.module).startswith(inside) for place in places)
    output = _output(backbone, backbone.model if whole else backbone.model.base_model, tokens)
    parts = [x[0].float().flatten() for x in output if x.is_floating_point() and len(x) == ROWS]
    return sum(((x * torch.cos(torch.arange(len(x), device=x.device))).sum() for x in parts), torch.zeros(()))


def _output(backbone: Backbone, model: Any, tokens: int) -> list[Tensor]:
    embedding = backbone.stream(backbone.streams[0]).embedding
    vocabulary, device = len(backbone.parameter(embedding, "weight")), backbone.model.device
    ids = few_ids(backbone.model.config, vocabulary, ROWS, tokens, device)
    inputs: dict[str, Any] = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    if backbone.kind == "encoder-decoder":
        inputs["decoder_input_ids"] = ids.flip(1)
    if backbone.kind != "encoder":
        inputs["use_cache"] = False
    output = model(**inputs)
    return [x for x in output.values() if isinstance(x, Tensor)]
