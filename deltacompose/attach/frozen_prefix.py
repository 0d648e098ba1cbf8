"""The layers below the first one that is touched, computed once for each text.

Deltas of the last layers, of a decoder or of a head leave the layers below them alone, and these give the same states
for a text in every step, for every delta. Before the first pass over a text they are run by themselves, and the states
that come out of them are kept; in every pass, stand-ins take the place of these layers, and the last of them gives the
states that were kept. A bank's deltas that read one text so have it read once.

Kept states are looked up by the tokens of the text (and, for a decoder that reads an encoder, by the encoder's text),
for one set of weights. The first pass with stand-ins is compared with a full one: on a model whose upper layers read
more of the lower ones than their states, nothing is kept from then on.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from deltacompose.attach.soft_prompts import by_name
from deltacompose.backbone.backbone import Backbone

STATE_BYTES = 1 << 28
"""Bytes of states that are kept for one backbone."""

TOLERANCE = 1e-4
"""How far a pass with stand-ins may be from a full one, relative to its largest state: rounding, no more."""

_OF_ROWS = ("input_ids", "attention_mask", "position_ids", "encoder_hidden_states", "encoder_attention_mask")
"""Arguments of a stack that have an entry for each row."""

Text = tuple[object, ...]
"""The tokens and positions of a text; of a decoder's also the encoder's text."""


class States:
    """The states that were kept for a backbone, the oldest dropped first. Changes with every pass over a new text.

    Attributes:
        refused: stacks with the first touched layer for which passes with stand-ins were not equal to full ones.
        checked: stacks with the first touched layer for which a pass with stand-ins was equal to a full one.
        served: how many passes had stand-ins; for tests and reports.
        extras: what the layers below give besides their states, by stack, first touched layer and lengths.
    """

    def __init__(self) -> None:
        self.refused: set[tuple[str, int]] = set()
        self.checked: set[tuple[str, int]] = set()
        self.served = 0
        self.extras: dict[tuple[str, int, tuple[int, ...]], list[tuple[Any, ...] | None]] = {}
        self._kept: OrderedDict[tuple[str, int, Text], Tensor] = OrderedDict()
        self._bytes = 0
        self._weights: object = None

    def renew(self, model: nn.Module) -> None:
        """Drops everything if the model's weights are others than before."""
        # A tensor counts the changes in place, so this notices an edit without reading the weights.
        weights = tuple((id(x), x._version) for x in model.parameters())
        if weights != self._weights:
            self._kept.clear()
            self.refused.clear()
            self.checked.clear()
            self.extras.clear()
            self._bytes, self._weights = 0, weights

    def keep(self, stack: str, layer: int, text: Text, states: Tensor) -> None:
        """Keeps the states `(tokens, width)` that enter a layer."""
        key = (stack, layer, text)
        if key not in self._kept:
            self._kept[key] = states.detach().clone()
            self._bytes += states.nbytes
        while self._bytes > STATE_BYTES:
            _, dropped = self._kept.popitem(last=False)
            self._bytes -= dropped.nbytes

    def of(self, stack: str, layer: int, texts: Sequence[Text]) -> list[Tensor] | None:
        """The states of all the texts; None if those of one are not kept."""
        keys = [(stack, layer, text) for text in texts]
        if not all(key in self._kept for key in keys):
            return None
        for key in keys:
            self._kept.move_to_end(key)
        return [self._kept[key] for key in keys]


_STATES: WeakKeyDictionary[PreTrainedModel, States] = WeakKeyDictionary()


def states_of(backbone: Backbone) -> States:
    """States kept for a backbone in this process."""
    return _STATES.setdefault(backbone.model, States())


@contextmanager
def frozen_prefix(backbone: Backbone, first: Mapping[str, int]) -> Iterator[States]:
    """Within, passes over known texts leave out the layers below the first touched one of each stack.

    Args:
        first: for each stack the number of layers that nothing attached touches, from `first_touched`.
    """
    states = states_of(backbone)
    states.renew(backbone.model)
    apart = backbone.mixes_padding  # a state of these depends on the padding of its batch
    stacks: list[_Stack] = []
    for name in () if apart else backbone.streams:
        if first.get(name, 0):
            stacks.append(_Stack(backbone, name, first[name], states, stacks[0] if stacks else None))
    try:
        yield states
    finally:
        for stack in stacks:
            stack.remove()


class _Stack:
    """One stack within `frozen_prefix`. Its state is that of the pass that is under way.

    Args:
        below: the encoder that this decoder reads.
    """

    def __init__(self, backbone: Backbone, name: str, layer: int, states: States, below: _Stack | None) -> None:
        self.name, self.layer, self.states, self.below = name, layer, states, below
        self.module = backbone.model.get_submodule(backbone.stream(name).module)
        paths = {place.layer: place.module for place in backbone.places("layer") if place.stack == name}
        self.layers = [backbone.model.get_submodule(paths[index]) for index in range(len(paths))]
        self.holder = backbone.model.get_submodule(paths[0].rpartition(".")[0])
        self.texts: list[Text] | None = None
        self.output: Tensor | None = None
        self._mask: Tensor | None = None
        self._seen: list[tuple[Any, ...] | None] = []
        self._lengths: tuple[int, ...] = ()
        self._replaced = False
        self._within = self._reading = False
        if any(self.holder._modules.get(str(index)) is not own for index, own in enumerate(self.layers)):
            states.refused.add((name, layer))  # layers that share a module, as ALBERT's, or stand elsewhere
        self._handles = [
            self.module.register_forward_pre_hook(self._before, with_kwargs=True),
            self.module.register_forward_hook(self._after),
            self.module.register_forward_hook(self._end, always_call=True),
        ]
        self._handles += [module.register_forward_hook(self._note) for module in dict.fromkeys(self.layers[:layer])]

    def remove(self) -> None:
        """Takes out all hooks."""
        self._restore()
        self.output = None
        for handle in self._handles:
            handle.remove()

    def _before(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        if self._within:
            return
        self.output, self.texts = None, None
        if (self.name, self.layer) in self.states.refused:
            return
        kwargs = by_name(module, args, kwargs)
        self.texts = self._texts(kwargs)
        if self.texts is None or self._mask is None:
            return
        new = list({text: row for row, text in enumerate(self.texts) if not self._knows(text)}.values())
        if new or self._key not in self.states.extras:
            self._read(kwargs, new or [0])
        extras = self.states.extras.get(self._key)
        kept = None if extras is None else self.states.of(self.name, self.layer, self.texts)
        if kept is None or extras is None:
            return
        whole = kept[0].new_zeros((*self._mask.shape, kept[0].shape[-1]))
        whole[self._mask] = torch.cat(kept)
        stand_ins = [_StandIn(layer, whole, own) for layer, own in zip(self.layers, extras, strict=False)]
        if (self.name, self.layer) not in self.states.checked and not self._agrees(kwargs, stand_ins):
            self.states.refused.add((self.name, self.layer))
            return
        self.states.checked.add((self.name, self.layer))
        self.states.served += 1
        self._replace(stand_ins)

    def _agrees(self, kwargs: Mapping[str, Any], stand_ins: Sequence[nn.Module]) -> bool:
        """Whether a pass with stand-ins gives what a full one gives."""
        self._within = True
        try:
            with torch.no_grad():
                full = _last(self.module(**kwargs))
                self._replace(stand_ins)
                ours = _last(self.module(**kwargs))
        except Exception:  # an upper layer may look for what the lower ones would have left for it, in any way
            return False
        finally:
            self._within = False
            self._restore()
        return self._is_equal(ours, full)

    def _replace(self, stand_ins: Sequence[nn.Module]) -> None:
        self._replaced = True
        for index, stand_in in enumerate(stand_ins):
            self.holder._modules[str(index)] = stand_in

    def _knows(self, text: Text) -> bool:
        return self.states.of(self.name, self.layer, [text]) is not None

    def _read(self, kwargs: Mapping[str, Any], rows: list[int]) -> None:
        """Runs the layers below over some rows, each text once, and keeps what comes out of them.

        The pass ends where the first touched layer would begin, so a bank's edits see no rows that are not theirs.
        """
        # One row alone does not show whether a bias is the same for all rows, so that one is read twice.
        chosen = rows if len(rows) > 1 else rows * 2
        batch = len(self.texts or ())
        own = {
            name: x[chosen] if name in _OF_ROWS and isinstance(x, Tensor) and len(x) == batch else x
            for name, x in kwargs.items()
        }
        self._within, self._reading, self._seen = True, True, []
        try:
            with torch.no_grad():
                self.module(**own)
        except _Reached as reached:
            self._keep(chosen, reached.states)
        finally:
            self._within = self._reading = False

    def _keep(self, rows: list[int], states: Tensor) -> None:
        if self._mask is None or self.texts is None:
            return
        mask = self._mask[rows]
        shared = all(_is_shared(extra) for extras in self._seen for extra in extras or ())
        if not shared or not isinstance(states, Tensor) or states.shape[:2] != mask.shape:
            self.states.refused.add((self.name, self.layer))
            return
        self.states.extras[self._key] = list(self._seen)
        for row, own in zip(rows, states[mask].split(mask.sum(1).tolist()), strict=True):
            self.states.keep(self.name, self.layer, self.texts[row], own)

    @property
    def _key(self) -> tuple[str, int, tuple[int, ...]]:
        return self.name, self.layer, self._lengths

    def _texts(self, kwargs: Mapping[str, Any]) -> list[Text] | None:
        """Inputs that each row's states depend on; None unless the pass is over whole texts in tokens."""
        ids, mask = kwargs.get("input_ids"), kwargs.get("attention_mask")
        read = kwargs.get("encoder_hidden_states")
        if not isinstance(ids, Tensor) or kwargs.get("past_key_values") is not None or kwargs.get("use_cache"):
            return None
        if kwargs.get("token_type_ids") is not None or kwargs.get("inputs_embeds") is not None:
            return None
        if mask is not None and (mask.ndim != 2 or mask.shape != ids.shape):
            return None
        self._mask = torch.ones_like(ids, dtype=torch.bool) if mask is None else mask.bool()
        positions = kwargs.get("position_ids")
        columns = [ids] if positions is None else [ids, positions.expand_as(ids)]
        rows = [self._real(column) for column in columns]
        texts: list[Text] = list(zip(*rows, strict=True))
        self._lengths = (ids.shape[1],)
        if read is not None:
            below = None if self.below is None or self.below.output is not read else self.below.texts
            if below is None or len(below) != len(texts):
                return None
            texts = [(*text, *own) for text, own in zip(texts, below, strict=True)]
            self._lengths = (ids.shape[1], read.shape[1])
        return texts

    def _real(self, column: Tensor) -> list[tuple[int, ...]]:
        mask = self._mask.tolist() if self._mask is not None else []
        return [
            tuple(value for value, real in zip(values, own, strict=True) if real)
            for values, own in zip(column.tolist(), mask, strict=True)
        ]

    def _note(self, module: nn.Module, args: tuple[Any, ...], output: Any) -> None:
        """Notes what a layer gives besides its states (a bias of positions), and ends the reading at the last one."""
        if not self._reading:
            return
        states, extras = (output[0], tuple(output[1:])) if isinstance(output, tuple) else (output, None)
        self._seen.append(extras)
        if len(self._seen) == self.layer:
            raise _Reached(states)

    def _after(self, module: nn.Module, args: tuple[Any, ...], output: Any) -> None:
        if not self._within:
            self._restore()
            self.output = _last(output)

    def _is_equal(self, ours: Tensor | None, full: Tensor | None) -> bool:
        """Whether the states of all tokens but padding are equal to rounding."""
        if ours is None or full is None or self._mask is None or ours.shape[:2] != self._mask.shape:
            return False
        ours, full = ours[self._mask].detach().float(), full[self._mask].detach().float()
        return float((ours - full).abs().max()) <= TOLERANCE * max(1.0, float(full.abs().max()))

    def _end(self, *_: object) -> None:
        if not self._within:  # also after a pass that failed
            self._restore()

    def _restore(self) -> None:
        if self._replaced:
            for index, layer in enumerate(self.layers[: self.layer]):
                self.holder._modules[str(index)] = layer
        self._replaced = False


class _Reached(Exception):
    """Ends a pass where the first touched layer would begin."""

    def __init__(self, states: Tensor) -> None:
        super().__init__("the first touched layer is reached")
        self.states = states


class _StandIn(nn.Module):
    """Takes the place of a layer during one pass: gives the states that enter the first touched layer."""

    def __init__(self, layer: nn.Module, states: Tensor, extras: tuple[Any, ...] | None) -> None:
        super().__init__()
        self._own = (layer, states, extras)  # in a tuple, which torch does not register

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        _, states, extras = self._own
        return states if extras is None else (states, *extras)

    def __getattr__(self, name: str) -> Any:
        """Attention types that a model requests of its layers."""
        try:
            return super().__getattr__(name)
        except AttributeError:
            return getattr(super().__getattribute__("_own")[0], name)


def _is_shared(extra: Any) -> bool:
    """Whether what a layer gives besides its states is the same for every row, of which there were two or more."""
    return extra is None or (isinstance(extra, Tensor) and extra.shape[0] == 1)


def _last(output: Any) -> Tensor | None:
    states = output[0] if isinstance(output, tuple) else getattr(output, "last_hidden_state", None)
    return states if isinstance(states, Tensor) else None
