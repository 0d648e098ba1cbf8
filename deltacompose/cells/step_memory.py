"""The memory of a training step, from the step itself: carried out on tensors that have shapes and no values.

Autograd says what it keeps for the backward pass, and the dispatcher which tensors are alive at each moment of forward
and backward pass, whatever the family, the attention and the methods are, so nothing about a model has to be known
here. A step of an 8 B model takes some seconds of one core and no memory.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Mapping, Sequence, Set
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from deltacompose.attach.attachment import attach
from deltacompose.backbone.skeleton import shapes_only
from deltacompose.composition import Composition
from deltacompose.method.weights import generator, init_constants, init_weights, prepared
from deltacompose.scoring import Reader


@dataclass(frozen=True)
class StepBytes:
    """Bytes that one delta's training step takes in addition to the backbone.

    Attributes:
        kept: what the backward pass reads.
        largest: of the tensors that are kept, such as the logits: its gradient is held with it for a moment.
        peak: the most that is alive at one moment of the forward and the backward pass, the gradients of what is
            trained among it.
    """

    kept: int
    largest: int
    peak: int


def step_bytes(reader: Reader, expression: Composition, batch: int) -> StepBytes | None:
    """Memory of a step on a task's longest examples; None if a pass reads values, as a mixture of experts may.

    Args:
        reader: of a skeleton.
        batch: rows of the step.
    """
    rows = sorted(range(len(reader.rows("train"))), key=lambda i: -sum(reader.lengths(reader.rows("train")[i])))[:batch]
    needed = [reader.lengths(reader.rows("train")[i]) for i in rows]
    lengths = (-(-max(a for a, _ in needed) // 16) * 16, max(b for _, b in needed))
    try:
        with shapes_only(reader.backbone):
            return _kept(reader, expression, rows, lengths)
    except Exception:  # whatever a model or a method does with values that are not there
        return None


def _kept(reader: Reader, expression: Composition, rows: list[int], lengths: tuple[int, int]) -> StepBytes:
    backbone = reader.backbone
    own = {x.untyped_storage()._cdata for x in (*backbone.model.parameters(), *backbone.model.buffers())}
    weights = {name: x.requires_grad_() for name, x in init_weights(backbone, expression).items()}
    constants = init_constants(backbone, expression)
    sizes: dict[int, int] = {}
    alive: list[Tensor] = []

    def keep(x: Tensor) -> Tensor:
        storage = x.untyped_storage()
        if storage._cdata not in own and isinstance(x, FakeTensor):
            sizes[storage._cdata] = storage.nbytes()
            alive.append(x)  # or its address would be given to another
        return x

    attachment = attach(backbone, expression)
    try:
        attachment.put(prepared(expression, {**weights, **constants}, generator(0, "prepare")))
        with _Living(own) as living:
            with torch.autograd.graph.saved_tensors_hooks(keep, lambda x: x):
                loss = reader.loss(reader.batch("train", rows, lengths), 1).sum()
            kept = StepBytes(sum(sizes.values()), max(sizes.values(), default=0), 0)
            alive.clear()
            gradients = torch.autograd.grad(loss, list(weights.values()), allow_unused=True)
            del gradients
    finally:
        attachment.detach()
    return replace(kept, peak=living.peak)


class _Living(TorchDispatchMode):
    """Counts the bytes of the tensors that are made within and alive; `peak` is the most at one moment.

    Args:
        apart: storages that do not count.
    """

    def __init__(self, apart: Set[int]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.apart, self.bytes, self.peak = apart, 0, 0
        self._known: set[int] = set()

    def __torch_dispatch__(
        self,
        function: Callable[..., Any],
        types: Sequence[type],
        args: Any = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        result = function(*args, **(kwargs or {}))
        for x in tree_leaves(result):
            if isinstance(x, Tensor):
                self._count(x.untyped_storage())
        return result

    def _count(self, storage: torch.UntypedStorage) -> None:
        address, size = storage._cdata, storage.nbytes()
        if address in self.apart or address in self._known:
            return
        self._known.add(address)
        self.bytes += size
        self.peak = max(self.peak, self.bytes)
        weakref.finalize(storage, self._freed, address, size)

    def _freed(self, address: int, size: int) -> None:
        self._known.discard(address)
        self.bytes -= size
