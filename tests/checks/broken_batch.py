"""Methods whose rows, tokens or padding reach where they must not."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from broken import Good
from torch import Tensor

from deltacompose.method import Tensors


@dataclass(frozen=True)
class MixingManyRows(Good):
    """Centres over the rows of a batch, where there are more than eight of them."""

    def change(self, place: str, t: Tensors, input: Tensor, output: Tensor) -> Tensor:
        seen = output - output.mean(0, keepdim=True) if len(output) > 8 else output
        return output + seen * t[f"{place}.scale"]


@dataclass(frozen=True)
class MaximumOfTheBatch(Good):
    """Scales by the largest number of the whole batch."""

    def change(self, place: str, t: Tensors, input: Tensor, output: Tensor) -> Tensor:
        return output * (1 + t[f"{place}.scale"] * output.amax())


@dataclass(frozen=True)
class MeanWithPadding(Good):
    """Adds a mean over the tokens, padding among them."""

    def change(self, place: str, t: Tensors, input: Tensor, output: Tensor) -> Tensor:
        return output + output.mean(-2, keepdim=True) * t[f"{place}.scale"]


@dataclass(frozen=True)
class FromThePaddedEdge(Good):
    """Counts positions from the end of the padded input."""

    def change(self, place: str, t: Tensors, input: Tensor, output: Tensor) -> Tensor:
        place_of = torch.arange(output.shape[-2], device=output.device).flip(0)[:, None].to(output)
        return output * (1 + place_of * t[f"{place}.scale"])


@dataclass(frozen=True)
class PoolingPadding(Good):
    """Gates each token by the last one of its row, which is padding in the shorter rows."""

    def change(self, place: str, t: Tensors, input: Tensor, output: Tensor) -> Tensor:
        return output * (1 + torch.sigmoid(output[..., -1:, :]) * t[f"{place}.scale"])
