"""Token edits: soft prompts before a stream's input embeddings, by hooks on the module that runs the stream.

The module is given input embeddings in place of ids, with the prompt in front; mask, positions and token types grow
with it. Where the stream's states are read position by position (an encoder alone, any decoder) the prompt's states are
dropped from the output, so labels, `logits_to_keep` and `generate` stay as they are. The encoder of a sequence-to-
sequence model keeps them, and the decoder's view of its mask grows.
"""

from __future__ import annotations

import inspect
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from deltacompose.attach.bound import Bound, Held
from deltacompose.errors import BadInput

Arguments = tuple[tuple[Any, ...], dict[str, Any]]


class Stream:
    """The prompts in force before one stream. It has state because deltas come and go while the model stays.

    Args:
        module: runs the stream: a base model, or one stack of a sequence-to-sequence model.
        reader: the decoder that attends to this stream's states, which then keep the prompt's; None if nothing does.
        pooler: reads the first state of an encoder, which must not be the prompt's.
        limit: the longest input that the module's table of positions takes, in tokens.
    """

    def __init__(
        self, module: nn.Module, reader: nn.Module | None, pooler: nn.Module | None, limit: int | None
    ) -> None:
        self.module = module
        self.prompts: list[Bound] = []
        self._limit = limit
        self._keeps = reader is not None
        self._inserted = 0
        self._handles = [
            module.register_forward_pre_hook(self._before, with_kwargs=True),
            module.register_forward_hook(self._after),
        ]
        if reader is not None:
            self._handles.append(reader.register_forward_pre_hook(self._before_reader, with_kwargs=True))
        if pooler is not None:
            self._handles.append(pooler.register_forward_pre_hook(self._before_pooler))

    def remove(self, held: Held) -> bool:
        """Takes out the prompts that read `held`; True when none is left and the hooks are gone."""
        self.prompts[:] = [prompt for prompt in self.prompts if prompt.held is not held]
        if self.prompts:
            return False
        for handle in self._handles:
            handle.remove()
        return True

    def _prompt(self, batch: int) -> Tensor:
        """All prompts one after another, `(batch, length, width)`."""
        pieces = []
        for bound in self.prompts:
            prompt: Tensor = bound.call(bound.edit.change)
            each = prompt[None] if bound.held.size is None else prompt
            pieces.append(each.repeat_interleave(batch // each.shape[0], 0))
        return torch.cat(pieces, 1)

    def _before(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Arguments:
        kwargs = _by_name(module, args, kwargs)
        past = kwargs.get("past_key_values")
        started = past is not None and past.get_seq_length() > 0
        given = kwargs["inputs_embeds"] if kwargs.get("input_ids") is None else kwargs["input_ids"]
        prompt = self._prompt(given.shape[0])
        length = prompt.shape[1]
        self._inserted = 0 if started else length
        for name in ("attention_mask", "token_type_ids", "position_ids", "cache_position"):
            if kwargs.get(name) is not None:
                kwargs[name] = _GROWN[name](kwargs[name], length, started)
        if past is not None and started:
            positions, seen = kwargs.get("position_ids"), past.get_seq_length() + given.shape[1]
            self._check_length(length, (seen if positions is None else int(positions.max()) + 1) - length)
            return (), kwargs
        embedded = kwargs.get("inputs_embeds")
        if embedded is None:
            embedded = module.get_input_embeddings()(kwargs["input_ids"])  # type: ignore[operator]
        self._check_length(length, embedded.shape[1])
        return (), kwargs | {"input_ids": None, "inputs_embeds": torch.cat([prompt.to(embedded), embedded], 1)}

    def _after(self, module: nn.Module, args: tuple[Any, ...], output: Any) -> Any:
        length, self._inserted = self._inserted, 0
        if self._keeps or not length:
            return output
        if isinstance(output, tuple):
            return (output[0][:, length:], *output[1:])
        output.last_hidden_state = output.last_hidden_state[:, length:]
        if output.get("hidden_states") is not None:
            output.hidden_states = tuple(states[:, length:] for states in output.hidden_states)
        return output

    def _before_reader(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Arguments:
        kwargs = _by_name(module, args, kwargs)
        mask, states = kwargs.get("encoder_attention_mask"), kwargs.get("encoder_hidden_states")
        if mask is not None and states is not None and mask.shape[-1] < states.shape[1]:
            kwargs["encoder_attention_mask"] = F.pad(mask, (states.shape[1] - mask.shape[-1], 0), value=1)
        return (), kwargs

    def _before_pooler(self, module: nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...]:
        return (args[0][:, self._inserted :], *args[1:])

    def _check_length(self, prompt: int, tokens: int) -> None:
        if self._limit is not None and prompt + tokens > self._limit:
            raise BadInput(
                f"a prompt of {prompt} and an input of {tokens} tokens make {prompt + tokens}, "
                f"more than the {self._limit} positions of {type(self.module).__name__}; shorten one of them"
            )


def _by_name(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> dict[str, Any]:
    if not args:
        return dict(kwargs)
    return dict(zip(inspect.signature(module.forward).parameters, args)) | kwargs


def _mask(mask: Tensor, length: int, started: bool) -> Tensor:
    if mask.ndim != 2:
        raise BadInput(f"soft prompts need an attention mask of shape (batch, tokens), not one of {mask.ndim} axes")
    return F.pad(mask, (length, 0), value=1)


def _types(types: Tensor, length: int, started: bool) -> Tensor:
    return types if started else F.pad(types, (length, 0), value=0)


def _positions(positions: Tensor, length: int, started: bool) -> Tensor:
    """Positions of tokens move on by the prompt's length, whose own come first: 0, 1, ..."""
    moved = positions + length
    if started:
        return moved
    own = torch.arange(length, device=positions.device).expand(*positions.shape[:-1], length)
    return torch.cat([own, moved], -1)


_GROWN = {"attention_mask": _mask, "token_type_ids": _types, "position_ids": _positions, "cache_position": _positions}
