"""The memory of a training step, from the step itself: carried out on tensors that have shapes and no values.

Autograd says what it keeps for the backward pass, whatever the family, the attention and the methods are, so nothing
about a model has to be known here. A step of an 8 B model takes about a second of one core and no memory.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensor

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
    """

    kept: int
    largest: int


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
        with torch.autograd.graph.saved_tensors_hooks(keep, lambda x: x):
            reader.loss(reader.batch("train", rows, lengths), 1)
    finally:
        attachment.detach()
    return StepBytes(sum(sizes.values()), max(sizes.values(), default=0))
