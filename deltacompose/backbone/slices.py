"""Where a place lies in its module's output."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from deltacompose.places.notation import FusedPart


@dataclass(frozen=True)
class Slice:
    """Where a place lies in its module's output: all of it, or a part of it."""

    part: FusedPart | None = None

    def take(self, x: Tensor) -> Tensor:
        """`(..., fused)` -> `(..., width)`."""
        if self.part is None:
            return x
        start, stop = self.part.bounds(x.shape[-1])
        taken: Tensor = x.unflatten(-1, (self.part.blocks, -1))[..., start:stop].flatten(-2)
        return taken

    def put(self, x: Tensor, value: Tensor) -> Tensor:
        """The fused `x` with `value`, `(..., width)`, at this place."""
        if self.part is None:
            return value
        start, stop = self.part.bounds(x.shape[-1])
        leading = torch.broadcast_shapes(x.shape[:-1], value.shape[:-1])
        blocks = x.expand(*leading, -1).unflatten(-1, (self.part.blocks, -1))
        own = value.expand(*leading, -1).unflatten(-1, (self.part.blocks, -1))
        fused: Tensor = torch.cat([blocks[..., :start], own, blocks[..., stop:]], -1).flatten(-2)
        return fused
