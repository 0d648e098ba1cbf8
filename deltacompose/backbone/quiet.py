"""A look at a model by a pass of a few tokens that leaves no trace: no hook runs, nothing is drawn, nothing stays."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensor

_HOOKS = (
    "_forward_hooks",
    "_forward_hooks_with_kwargs",
    "_forward_hooks_always_called",
    "_forward_pre_hooks",
    "_forward_pre_hooks_with_kwargs",
)
_HELD = ("_modules", "_parameters", "_buffers")


@contextmanager
def quiet(module: nn.Module) -> Iterator[None]:
    """A module and all inside it in evaluation mode and without the hooks on them; then all is what it was.

    Attributes too, for some models change themselves in a pass: BigBird replaces its attention modules on short inputs.
    Deltas that are attached, and a caller's own hooks, see nothing of the passes in between.
    """
    inner = list(module.modules())
    states = [(module, dict(vars(module)), [dict(vars(module)[name]) for name in _HELD]) for module in inner]
    for inner_module in inner:
        vars(inner_module).update({name: OrderedDict() for name in _HOOKS}, training=False)
    try:
        with torch.random.fork_rng(devices=[]) if has_values(module) else nullcontext():
            yield
    finally:
        for inner_module, attributes, held in states:
            vars(inner_module).clear()
            vars(inner_module).update(attributes)
            for name, content in zip(_HELD, held, strict=True):
                if vars(inner_module)[name] != content:
                    vars(inner_module)[name].clear()
                    vars(inner_module)[name].update(content)


@contextmanager
def evaluating(model: Any) -> Iterator[None]:
    """Puts a model in evaluation mode, without its own dropout; on leaving, each module is in the mode that it was in.

    A model in hand may be in training mode, in all of its modules or in some: its scores would be random.
    """
    training = [module for module in model.modules() if module.training]
    for module in training:
        module.training = False
    try:
        yield
    finally:
        for module in training:
            module.training = True


def has_values(module: nn.Module) -> bool:
    """Whether a module's parameters are numbers, and not shapes alone, as where a study is planned."""
    return all(map(is_a_value, module.parameters()))


def is_a_value(x: Tensor) -> bool:
    """Whether a tensor is numbers, and not a shape alone."""
    return not (x.is_meta or isinstance(x, FakeTensor))


def few_ids(config: Any, vocabulary: int, rows: int, tokens: int, device: torch.device) -> Tensor:
    """Ids of ordinary tokens, `(rows, tokens)`: none that the configuration gives a meaning, such as padding."""
    special: set[int] = set()
    for name in (
        "pad_token_id",
        "bos_token_id",
        "eos_token_id",
        "sep_token_id",
        "cls_token_id",
        "decoder_start_token_id",
    ):
        value = getattr(config, name, None)
        special.update(value if isinstance(value, list) else [value] if isinstance(value, int) else [])
    ordinary = [i for i in range(min(vocabulary, 4 * rows * tokens)) if i not in special] or [0]
    ids = [ordinary[7 * k % len(ordinary)] for k in range(rows * tokens)]
    return torch.tensor(ids, device=device).view(rows, tokens)
