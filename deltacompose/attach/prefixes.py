"""Key-value edits: keys and values before an attention's own, through transformers' attention interface.

A model is switched to an attention function of ours only while a key-value edit is attached somewhere in it, and back
to what it was when the last one leaves. The mask function of the same name keeps masks explicit, so that they can be
padded; a model whose mask function is not registered would silently lose its mask.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import PreTrainedModel
from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS, eager_mask
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from deltacompose.attach.bound import Bound, BoundTensors
from deltacompose.errors import BadInput


@dataclass
class Switched:
    """A configuration, what its attention was before, and how many models need it switched."""

    config: Any
    implementation: str
    models: int = 0


_NAME = "deltacompose"
_PREFIXES: WeakKeyDictionary[nn.Module, list[Bound]] = WeakKeyDictionary()
"""The attached prefixes per attention module: the registered function is one for the whole process."""

_SWITCHED: dict[int, Switched] = {}
"""The configurations that are switched, by identity; models built from one configuration share it."""


class Prefixes:
    """The key-value edits attached to one model. It has state because deltas come and go while the model stays."""

    def __init__(self, model: PreTrainedModel) -> None:
        self.model = model
        self.modules: set[nn.Module] = set()
        self._switched = _switch(model)

    def add(self, module: nn.Module, bound: Bound) -> None:
        """Puts one more prefix behind those that stand before this attention already."""
        _PREFIXES.setdefault(module, []).append(bound)
        self.modules.add(module)

    def remove(self, bound_tensors: BoundTensors) -> bool:
        """Takes out the prefixes that read `bound_tensors`; True when none is left and the model is switched back."""
        for module in list(self.modules):
            _PREFIXES[module] = [bound for bound in _PREFIXES[module] if bound.bound_tensors is not bound_tensors]
            if not _PREFIXES[module]:
                del _PREFIXES[module]
                self.modules.discard(module)
        if self.modules:
            return False
        for key in self._switched:
            switched = _SWITCHED[key]
            switched.models -= 1
            if not switched.models:
                switched.config._attn_implementation_internal = switched.implementation
                del _SWITCHED[key]
        return True


@contextmanager
def without_prefixes(model: nn.Module) -> Iterator[None]:
    """None of the prefixes that are attached to a model is read, until the end."""
    known = {module: _PREFIXES.pop(module) for module in model.modules() if module in _PREFIXES}
    try:
        yield
    finally:
        _PREFIXES.update(known)


def _switch(model: PreTrainedModel) -> list[int]:
    """Switches every configuration of a model, and gives their identities."""
    nested: list[Any] = [module.config for module in model.modules() if hasattr(module, "config")]
    configs = {id(config): config for config in nested}
    for key, config in configs.items():
        if key not in _SWITCHED and config._attn_implementation not in ("eager", "sdpa"):
            raise BadInput(
                f"prefixes need the attention 'eager' or 'sdpa', and {type(model).__name__} uses "
                f"{config._attn_implementation!r}; load it with attn_implementation='sdpa'"
            )
    if _NAME not in ALL_ATTENTION_FUNCTIONS:
        ALL_ATTENTION_FUNCTIONS.register(_NAME, _attention)
        ALL_MASK_ATTENTION_FUNCTIONS.register(_NAME, eager_mask)
    for key, config in configs.items():
        _SWITCHED.setdefault(key, Switched(config, config._attn_implementation)).models += 1
        config._attn_implementation_internal = _NAME
    return list(configs)


def _attention(
    module: nn.Module, query: Tensor, key: Tensor, value: Tensor, attention_mask: Tensor | None, **rest: Any
) -> tuple[Tensor, Tensor | None]:
    """Attention `(batch, heads, tokens, head width)` with the module's prefixes, if any, before keys and values."""
    for bound in reversed(_PREFIXES.get(module, [])):
        keys, values = _over_rows(bound, key)
        key, value = torch.cat([keys, key], 2), torch.cat([values, value], 2)
        attention_mask = _padded(attention_mask, keys.shape[2])
        if rest.get("position_bias") is not None:
            rest["position_bias"] = F.pad(rest["position_bias"], (keys.shape[2], 0))
    return _own(module)(module, query, key, value, attention_mask, **rest)  # type: ignore[no-any-return]


def _over_rows(bound: Bound, key: Tensor) -> tuple[Tensor, Tensor]:
    """A prefix for every row of the batch, `(batch, key-value heads, length, head width)` each."""
    keys, values = bound.call(bound.edit.change)
    if bound.bound_tensors.size is None:
        return tuple(x.to(key).expand(key.shape[0], -1, -1, -1) for x in (keys, values))
    rows = bound.bound_tensors.rows(key)
    return tuple(x.to(key).repeat_interleave(rows, 0) for x in (keys, values))


def _padded(mask: Tensor | None, length: int) -> Tensor | None:
    """The mask with a prefix that all tokens may attend to; masks are additive unless they are boolean."""
    return None if mask is None else F.pad(mask, (length, 0), value=mask.dtype == torch.bool)


def _own(module: nn.Module) -> Callable[..., Any]:
    """The attention function that a module would have used."""
    implementation = _SWITCHED[id(module.config)].implementation
    eager = sys.modules[type(module).__module__].eager_attention_forward
    return ALL_ATTENTION_FUNCTIONS.get_interface(implementation, eager)
