"""Methods for one precision or one device alone."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from broken import Good
from torch import Generator, Tensor

from deltacompose.method import Tensors


@dataclass(frozen=True)
class Orthonormal(Good):
    """Prepares by a QR decomposition, which bfloat16 does not have."""

    def prepare(self, t: Tensors, generator: Generator) -> dict[str, Tensor]:
        return {name: torch.linalg.qr(x[:, None])[1].flatten()[0] * x for name, x in t.items()}


@dataclass(frozen=True)
class Overflowing(Good):
    """Goes beyond what float16 holds on its way."""

    def change(self, place: str, t: Tensors, input: Tensor, output: Tensor) -> Tensor:
        return output + (output * 1e5) * t[f"{place}.scale"] * 1e-5


@dataclass(frozen=True)
class OnTheCpu(Good):
    """Makes a tensor of its own on the CPU."""

    def change(self, place: str, t: Tensors, input: Tensor, output: Tensor) -> Tensor:
        return output * (1 + torch.ones(output.shape[-1], dtype=output.dtype) * t[f"{place}.scale"])


@dataclass(frozen=True)
class PreparedOnTheCpu(Good):
    """Makes a tensor of its own on the CPU in `prepare`."""

    def prepare(self, t: Tensors, generator: Generator) -> dict[str, Tensor]:
        return {name: x * torch.ones(x.shape, dtype=x.dtype) for name, x in t.items()}
