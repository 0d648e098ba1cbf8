"""A bound on the tensors that a method makes, which are refused before memory is taken for them."""

from __future__ import annotations

import math
from functools import cache
from typing import Any

from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from deltacompose.backbone.backbone import Backbone
from deltacompose.errors import BadInput, quoted
from deltacompose.limits import LEAST_NUMBERS, TIMES_BACKBONE

_SIZES = ("size", "n", "end", "steps")
"""Names of the arguments of PyTorch's factories that determine the number of elements."""


class Bounded(TorchDispatchMode):
    """Within, making more numbers than the limit raises BadInput; everything else is as without.

    Counted are the numbers of all tensors that factories (`torch.zeros`, `torch.randn`, `x.new_empty`, ...) make.
    A setting that is far too large, as `lora(rank=10**12)`, would otherwise fill the memory or end in PyTorch's error.
    """

    def __init__(self, part: object, backbone: Backbone) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.part, self.backbone, self.count = part, backbone, 0
        parameters = sum(x.numel() for x in backbone.model.parameters())
        self.limit = max(LEAST_NUMBERS, TIMES_BACKBONE * parameters)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.count += _made(func, args, kwargs or {})
        if self.count > self.limit:
            raise BadInput(
                f"{quoted(str(self.part))} makes tensors of {self.count} numbers on {self.backbone.name}; the limit is "
                f"{self.limit}; choose smaller settings"
            )
        return func(*args, **(kwargs or {}))


@cache
def _arguments(func: Any) -> tuple[str, ...]:
    """The names of an operator's arguments; torch builds the list of its schema anew each time."""
    return tuple(argument.name for argument in func._schema.arguments)


def _made(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> int:
    """The number of elements that a factory makes; 0 of what is not a factory."""
    named = dict(zip(_arguments(func), args, strict=False)) | kwargs
    if isinstance(named.get("self"), Tensor) and ".new_" not in str(func):
        return 0
    for name in _SIZES:
        value = named.get(name)
        if isinstance(value, list | tuple) and all(isinstance(axis, int) for axis in value):
            return math.prod(value)
        if isinstance(value, int | float) and not isinstance(value, bool):
            return int(value)
    return 0
