"""Token edits: soft prompts before a stream's input embeddings, by hooks on the module that runs the stream.

The module is given input embeddings in place of ids, with the prompt directly before each row's first token that is not
padding; mask, positions, token types and per-layer inputs grow with it. So padding never stands between a prompt and
its tokens, on whichever side it is. Where the stream's states are read position by position (an encoder alone, any
decoder) the prompt's states are dropped from the output, so labels, `logits_to_keep` and `generate` stay as they are.
The encoder of a sequence-to-sequence model keeps them in front, and the decoder's view of its mask grows.

The unit of a prompt is that of the stream's `inputs_embeds`: what the model makes of input ids itself.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensor
from torch.nn import functional as F

from deltacompose.attach.bound import Bound, BoundTensors
from deltacompose.attach.token_view import Tokens, TokenView, counted
from deltacompose.backbone.input_embeddings import per_layer_inputs
from deltacompose.errors import BadInput

Arguments = tuple[tuple[Any, ...], dict[str, Any]]


@dataclass(frozen=True)
class Layout:
    """Where a prompt stands in each row of a batch: before the row's first token that is not padding.

    Attributes:
        length: of the prompt, in tokens.
        starts: how much padding each row has on the left, `(batch,)`; None where no row has any.
    """

    length: int
    starts: Tensor | None = None

    def insert(self, prompt: Tensor, tokens: Tensor) -> Tensor:
        """`(batch, length, ...)` and `(batch, tokens, ...)` as one sequence, `(batch, length + tokens, ...)`."""
        joined = torch.cat([prompt, tokens], 1)
        if self.starts is None:
            return joined
        slots = torch.arange(joined.shape[1], device=joined.device)[None]
        starts = self.starts[:, None]
        after = torch.where(slots < starts + self.length, slots - starts, slots)
        order = torch.where(slots < starts, slots + self.length, after)
        return _picked(joined, order)

    def tokens(self, x: Tensor) -> Tensor:
        """The states of the tokens alone, in the caller's order."""
        if self.starts is None:
            return x[:, self.length :]
        slots = torch.arange(x.shape[1] - self.length, device=x.device)[None]
        return _picked(x, torch.where(slots < self.starts[:, None], slots, slots + self.length))

    def front(self, x: Tensor) -> Tensor:
        """The prompt's states before all of the caller's positions."""
        if self.starts is None:
            return x
        slots = torch.arange(self.length, device=x.device)[None] + self.starts[:, None]
        return torch.cat([_picked(x, slots), self.tokens(x)], 1)


def _picked(x: Tensor, order: Tensor) -> Tensor:
    """`(batch, slots, ...)` in another order of slots for each row."""
    index = order.view(*order.shape, *(1 for _ in x.shape[2:])).expand(*order.shape, *x.shape[2:])
    return x.gather(1, index)


def left_padding(mask: Any) -> Tensor | None:
    """How many positions stand before each row's first token, `(batch,)`; None where no row has any.

    A row of nothing but padding counts as padded on the left, so that a prompt stands where its tokens will follow. A
    mask without values, as where a step is planned, counts as one without padding.
    """
    if not isinstance(mask, Tensor) or mask.ndim != 2 or isinstance(mask, FakeTensor) or bool((mask[:, 0] != 0).all()):
        return None
    return (mask.long().cumsum(1) == 0).sum(1)


class Stream:
    """All that is attached to one stream as a whole: prompts, and what depends on its mask.

    It has state because deltas come and go while the model stays.

    Args:
        module: runs the stream: a base model, or one stack of a sequence-to-sequence model.
        embed: `(batch, tokens)` ids -> `(batch, tokens, width)`, as the model embeds them itself.
        reader: the decoder that attends to this stream's states, which then keep the prompt's; None if nothing does.
        pooler: reads the first state of an encoder, which must not be the prompt's.
        limit: the longest input that the module's table of positions takes, in tokens.
        first_position: the position of the first token where positions are to be counted from the mask; None where
            the model's own way of counting is kept.
        counter: the module that gives positions, which may count them by the ids (M2M100's encoder).
    """

    def __init__(
        self,
        module: nn.Module,
        embed: Callable[[Tensor], Tensor],
        reader: nn.Module | None,
        pooler: nn.Module | None,
        limit: int | None,
        first_position: int | None,
        counter: nn.Module | None = None,
    ) -> None:
        self.module = module
        self.prompts: list[Bound] = []
        self.positioned: list[Bound] = []
        self.view = TokenView(type(module).__name__)
        self._embed = embed
        self._limit = limit
        self._first_position = first_position
        self._keeps = reader is not None
        self._layout: Layout | None = None
        self._length = 0
        self._padded: Tensor | None = None
        self._sequence: Tensor | None = None
        self._handles = [
            module.register_forward_pre_hook(self._before, with_kwargs=True),
            module.register_forward_hook(self._after),
        ]
        if counter is not None and {"input_ids", "inputs_embeds"} <= set(_parameters(type(counter).forward)):
            self._handles.append(counter.register_forward_pre_hook(self._before_counter, with_kwargs=True))
        if reader is not None:
            self._handles.append(reader.register_forward_pre_hook(self._before_reader, with_kwargs=True))
        if pooler is not None:
            inner = [child for child in module.children() if child is not pooler]
            self._handles += [child.register_forward_hook(self._note_sequence) for child in inner]
            self._handles.append(pooler.register_forward_pre_hook(self._before_pooler))

    def remove(self, bound_tensors: BoundTensors) -> bool:
        """Takes out what reads `bound_tensors`; True when nothing is left and the hooks are gone."""
        lists = (self.prompts, self.positioned, self.view.readers)
        for bounds in lists:
            bounds[:] = [bound for bound in bounds if bound.bound_tensors is not bound_tensors]
        if any(lists):
            return False
        for handle in self._handles:
            handle.remove()
        return True

    def _prompt(self, batch: int) -> Tensor:
        """All prompts one after another, `(batch, length, width)`."""
        pieces = []
        for bound in self.prompts:
            prompt: Tensor = bound.call(bound.edit.change)
            each = prompt[None] if bound.bound_tensors.size is None else prompt
            pieces.append(each.repeat_interleave(batch // each.shape[0], 0))
        return torch.cat(pieces, 1)

    def _before(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Arguments:
        kwargs = by_name(module, args, kwargs)
        self._layout, self._padded = None, None
        mask = kwargs.get("attention_mask")
        if self.prompts or self.view.readers:
            _check_mask(mask)
        counts = self._first_position is not None and kwargs.get("position_ids") is None
        starts = left_padding(mask) if self.prompts or (counts and self.positioned) else None
        if starts is not None and counts:
            self._count_positions(kwargs, counted(kwargs["attention_mask"], _given(kwargs).shape[1]).positions)
        if not self.prompts:
            self._note_tokens(kwargs, mask, None)
            return (), kwargs
        embedded, past = _given(kwargs), kwargs.get("past_key_values")
        prompt = self._prompt(embedded.shape[0])
        length, cached = prompt.shape[1], 0 if past is None else int(past.get_seq_length())
        _check_room(past, cached + embedded.shape[1] + (0 if cached else length))
        layout = Layout(length, starts)
        self._note_tokens(kwargs, mask, layout)
        if mask is not None:
            mask = kwargs["attention_mask"] = layout.insert(mask.new_ones(mask.shape[0], length), mask)
        self._padded = None if starts is None or cached else mask
        if cached:
            self._continue(kwargs, length, cached + embedded.shape[1])
            return (), kwargs
        self._check_length(length, embedded.shape[1])
        self._layout, self._length = layout, length
        return (), kwargs | self._grown(kwargs, layout, prompt)

    def _grown(self, kwargs: dict[str, Any], layout: Layout, prompt: Tensor) -> dict[str, Any]:
        """Replacements of ids, positions, token types and per-layer inputs."""
        ids, embedded = kwargs.get("input_ids"), kwargs.get("inputs_embeds")
        grown: dict[str, Any] = {"input_ids": None}
        if embedded is None:
            embedded = self._embed(ids)  # type: ignore[arg-type]
        grown["inputs_embeds"] = layout.insert(prompt.to(embedded), embedded)
        if kwargs.get("token_type_ids") is not None:
            types = kwargs["token_type_ids"]
            grown["token_type_ids"] = layout.insert(types.new_zeros(types.shape[0], layout.length), types)
        for name in ("position_ids", "cache_position"):
            if kwargs.get(name) is not None:
                grown[name] = _positions(kwargs[name], layout, len(prompt))
        return grown | self._per_layer(kwargs, layout, len(prompt))

    def _per_layer(self, kwargs: dict[str, Any], layout: Layout, batch: int) -> dict[str, Any]:
        """Per-layer inputs, as Gemma 3n and 4 look them up by the tokens' ids.

        A prompt takes those of id 0, as the states of images and sounds do in the same models.
        """
        ids, own = kwargs.get("input_ids"), kwargs.get("per_layer_inputs")
        zeros = torch.zeros(batch, layout.length, dtype=torch.long, device=_given(kwargs).device)
        prompt = per_layer_inputs(self.module, zeros)
        if prompt is None:
            return {}
        if own is None and ids is not None:
            own = per_layer_inputs(self.module, ids)
        if own is None:
            raise BadInput(
                f"a prompt before {type(self.module).__name__} needs input ids, by which it looks up per-layer inputs "
                "(found inputs_embeds alone); give input_ids or per_layer_inputs"
            )
        return {"per_layer_inputs": layout.insert(prompt, own)}

    def _continue(self, kwargs: dict[str, Any], length: int, seen: int) -> None:
        """A pass over a cache that holds the prompt already: positions move on by its length."""
        for name in ("position_ids", "cache_position"):
            if kwargs.get(name) is not None:
                kwargs[name] = kwargs[name] + length
        positions = kwargs.get("position_ids")
        if self._limit is not None:
            self._check_length(length, (seen if positions is None else int(positions.max()) + 1) - length)

    def _count_positions(self, kwargs: dict[str, Any], positions: Tensor) -> None:
        """Positions from the mask, as `generate` gives them, where a caller leaves them out and pads on the left."""
        kwargs["position_ids"] = positions + (self._first_position or 0)

    def _note_tokens(self, kwargs: dict[str, Any], mask: Tensor | None, layout: Layout | None) -> None:
        """Tells the edits that ask for it of this pass's tokens, with and without the prompt."""
        if not self.view.readers:
            return
        embedded, past = _given(kwargs), kwargs.get("past_key_values")
        batch, tokens = embedded.shape[:2]
        cached = 0 if past is None else int(past.get_seq_length())
        if mask is None:
            mask = torch.ones(batch, cached + tokens, dtype=torch.bool, device=embedded.device)
        own = counted(mask != 0, tokens)
        if layout is None or cached:
            self.view.note(own)
            return
        ahead = torch.arange(-layout.length, 0, device=embedded.device).expand(batch, -1)
        inserted = layout.insert(torch.ones_like(ahead, dtype=torch.bool), own.mask)
        self.view.note(Tokens(inserted, layout.insert(ahead, own.positions)), own)

    def _after(self, module: nn.Module, args: tuple[Any, ...], output: Any) -> Any:
        layout, self._layout, self._sequence = self._layout, None, None
        if layout is None or (self._keeps and layout.starts is None):
            return output
        back = layout.front if self._keeps else layout.tokens
        if isinstance(output, tuple):
            return (back(output[0]), *output[1:])
        output.last_hidden_state = back(output.last_hidden_state)
        if output.get("hidden_states") is not None:
            output.hidden_states = tuple(map(back, output.hidden_states))
        return output

    def _before_reader(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Arguments:
        kwargs = by_name(module, args, kwargs)
        mask, states = kwargs.get("encoder_attention_mask"), kwargs.get("encoder_hidden_states")
        if mask is not None and states is not None and mask.shape[-1] < states.shape[1]:
            kwargs["encoder_attention_mask"] = F.pad(mask, (states.shape[1] - mask.shape[-1], 0), value=1)
        if self.view.readers and states is not None:
            known = kwargs.get("encoder_attention_mask")
            known = torch.ones(states.shape[:2], device=states.device) if known is None else known
            front = self._length if mask is None else states.shape[1] - mask.shape[-1]
            positions = counted(known[:, front:] != 0, known.shape[1] - front).positions
            ahead = torch.arange(-front, 0, device=states.device).expand(len(states), -1)
            self.view.note_read(Tokens(known != 0, torch.cat([ahead, positions], 1)))
        return (), kwargs

    def _note_sequence(self, module: nn.Module, args: tuple[Any, ...], output: Any) -> None:
        states = output if isinstance(output, Tensor) else output[0]
        self._sequence = states if self._layout is not None else None

    def _before_pooler(self, module: nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...]:
        """The pooler reads the first of the caller's positions, from all states or, as in ALBERT, from one."""
        if self._layout is None:
            return args
        if args[0].ndim == 3:
            return (self._layout.tokens(args[0]), *args[1:])
        states = self._sequence
        if states is None or not torch.equal(states[:, 0], args[0]):
            raise BadInput(
                f"a prompt cannot stand before {type(self.module).__name__}, whose pooler reads something else than "
                "its first state; use a model without the pooler"
            )
        return (self._layout.tokens(states)[:, 0], *args[1:])

    def _before_counter(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Arguments:
        """Ids that tell padding from tokens, for a module that counts by them and is given embeddings."""
        kwargs = by_name(module, args, kwargs)
        if self._padded is not None and kwargs.get("input_ids") is None:
            padding: Any = module.padding_idx
            kwargs["input_ids"] = padding + (self._padded != 0).long()
        return (), kwargs

    def _check_length(self, prompt: int, tokens: int) -> None:
        if self._limit is not None and prompt + tokens > self._limit:
            raise BadInput(
                f"a prompt of {prompt} and an input of {tokens} tokens make {prompt + tokens}, "
                f"more than the {self._limit} positions of {type(self.module).__name__}; shorten one of them"
            )


@cache
def _parameters(forward: Callable[..., Any]) -> tuple[str, ...]:
    return tuple(inspect.signature(forward).parameters)[1:]


def by_name(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> dict[str, Any]:
    return dict(zip(_parameters(type(module).forward), args)) | kwargs if args else dict(kwargs)


def takes_positions(module: nn.Module) -> bool:
    """Whether the module that runs a stream takes `position_ids`."""
    return "position_ids" in _parameters(type(module).forward)


def _check_mask(mask: Any) -> None:
    if mask is None or (isinstance(mask, Tensor) and mask.ndim == 2):
        return
    mask_kind = f"one of {mask.ndim} axes" if isinstance(mask, Tensor) else f"a {type(mask).__name__} of masks"
    raise BadInput(
        f"soft prompts, and edits that see the mask, need an attention mask of shape (batch, tokens), not {mask_kind}; "
        "a static cache makes such masks: generate with the default cache"
    )


def _check_room(past: Any, positions: int) -> None:
    """Refuses a cache of a fixed size that the tokens and the prompt overflow, which writes over what it holds."""
    if past is None or not getattr(past, "is_compileable", False):
        return
    layers = getattr(past, "self_attention_cache", past).layers
    size = min((int(x.max_cache_len) for x in layers if not x.is_sliding), default=positions)  # a window forgets
    if positions > size:
        raise BadInput(
            f"a static cache of {size} positions is too short for the prompt and its tokens ({positions} positions); "
            "make it longer by the prompt's length, or use the default cache"
        )


def _given(kwargs: dict[str, Any]) -> Tensor:
    """The input of a stream: ids `(batch, tokens)` or embeddings `(batch, tokens, width)`."""
    embedded: Tensor = kwargs["inputs_embeds"] if kwargs.get("input_ids") is None else kwargs["input_ids"]
    return embedded


def _positions(positions: Tensor, layout: Layout, batch: int) -> Tensor:
    """Positions of tokens move on by the prompt's length, whose own come first: those that the row began with."""
    own = torch.arange(layout.length, device=positions.device)
    if layout.starts is None:
        return torch.cat([positions[..., :1] + own, positions + layout.length], -1)
    rows = positions.expand(*positions.shape[:-2], batch, positions.shape[-1]).reshape(-1, positions.shape[-1])
    starts = layout.starts.repeat(len(rows) // batch)
    first = rows.gather(1, starts.clamp(max=rows.shape[1] - 1)[:, None])
    grown = Layout(layout.length, starts).insert(first + own, rows + layout.length)
    return grown.view(*positions.shape[:-2], batch, -1)
