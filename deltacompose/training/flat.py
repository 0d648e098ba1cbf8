"""Flat storage of what is trained: each delta's weights, gradients and Adam moments are rows of matrices.

A bank of K deltas with P trainable numbers each holds four `(K, P)` matrices in fp32. The edits see views of the
weights, shaped `(K, *shape)`; clipping and AdamW see rows. So a step costs a handful of operations whatever the number
of tensors and deltas, and every row keeps its own learning rates and its own count of steps.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.optim.adamw import adamw

BETAS = (0.9, 0.999)
EPSILON = 1e-8


@dataclass(frozen=True)
class Layout:
    """Where each tensor of a delta lies in its row.

    Attributes:
        shapes: the shape of each tensor by name, in the order of the row.
    """

    shapes: Mapping[str, torch.Size]

    @property
    def size(self) -> int:
        """The length P of a row."""
        return sum(shape.numel() for shape in self.shapes.values())

    def views(self, rows: Tensor) -> dict[str, Tensor]:
        """Views of `(..., P)`, one for each tensor: `(..., *shape)`."""
        pieces = rows.split([shape.numel() for shape in self.shapes.values()], -1)
        return {
            name: piece.view((*rows.shape[:-1], *shape))
            for (name, shape), piece in zip(self.shapes.items(), pieces, strict=True)
        }

    def span(self, prefix: str) -> slice:
        """The columns of the tensors whose names begin with a prefix, which lie together."""
        own = [(start, stop) for name, start, stop in self._spans() if name.startswith(prefix)]
        return slice(own[0][0], own[-1][1])

    def _spans(self) -> list[tuple[str, int, int]]:
        spans, start = [], 0
        for name, shape in self.shapes.items():
            spans.append((name, start, start + shape.numel()))
            start += shape.numel()
        return spans


class Matrices:
    """The matrices `(K, P)` of a bank, fp32 on the backbone's device. They change with every step.

    Attributes:
        weights, gradients: of all deltas; `gradients` holds those of the last step, clipped.
        first, second: Adam's moments.
    """

    def __init__(self, layout: Layout, weights: Tensor) -> None:
        self.layout = layout
        self.weights = weights
        self.gradients, self.first, self.second = (torch.zeros_like(weights) for _ in range(3))
        self._gradient_views: list[Tensor] = []
        self._leaves: dict[str, Tensor] = {}
        self._stacks: dict[str, tuple[tuple[Tensor, ...], Tensor]] = {}

    @classmethod
    def of(cls, tensors: Sequence[Mapping[str, Tensor]], device: torch.device) -> Matrices:
        """Copies of K deltas' tensors of equal names and shapes."""
        layout = Layout({name: x.shape for name, x in tensors[0].items()})
        rows = [torch.cat([x.detach().to(device, torch.float32).flatten() for x in each.values()]) for each in tensors]
        return cls(layout, torch.stack(rows))

    @classmethod
    def joined(cls, parts: Sequence[Matrices]) -> Matrices:
        """The rows of several banks of one layout as those of one."""
        whole = cls(parts[0].layout, torch.cat([part.weights for part in parts]))
        for name in ("gradients", "first", "second"):
            setattr(whole, name, torch.cat([getattr(part, name) for part in parts]))
        return whole

    def leaves(self, rows: Sequence[int] | None = None) -> dict[str, Tensor]:
        """The weights as leaves of a graph, `(len(rows), *shape)`; all rows if None.

        All rows share their memory with the matrix. A choice of rows is a copy, which is read in one pass only.
        """
        if rows is None and self._leaves:
            return self._leaves
        chosen = self.weights if rows is None else self.weights[list(rows)]
        leaves = {name: x.detach().requires_grad_() for name, x in self.layout.views(chosen).items()}
        self._leaves = leaves if rows is None else self._leaves
        return leaves

    def stack(self, name: str, tensors: Sequence[Tensor]) -> Tensor:
        """Frozen tensors of several deltas along a new first axis; kept while they stay the same tensors.

        One that all share is expanded, not copied.
        """
        own, kept = tuple(tensors), self._stacks.get(name)
        if kept is None or len(kept[0]) != len(own) or any(a is not b for a, b in zip(kept[0], own, strict=True)):
            shared = all(x is own[0] for x in own)
            kept = own, own[0].expand(len(own), *own[0].shape) if shared else torch.stack(own)
            self._stacks[name] = kept
        return kept[1]

    def take_gradients(self, gradients: Sequence[Tensor | None], rows: Sequence[int] | None = None) -> None:
        """Stores the gradients of `leaves(rows)`, in their order; None is zero."""
        if rows is None:
            self._gradient_views = self._gradient_views or list(self.layout.views(self.gradients).values())
            copy(self._gradient_views, gradients)
            return
        # Indexing by a list copies, so the rows are filled apart and written back.
        chosen = torch.empty_like(self.gradients[: len(rows)])
        copy(list(self.layout.views(chosen).values()), gradients)
        self.gradients[list(rows)] = chosen


@dataclass(frozen=True, eq=False)
class Row:
    """One delta's row of the matrices, and how AdamW moves it. All tensors are views, made once.

    Attributes:
        matrices: whose row it is.
        index: of the row.
        gradient: the whole row of gradients, `(P,)`.
        spans: columns that share a peak learning rate, with that rate.
        decay: the weight decay.
    """

    matrices: Matrices
    index: int
    gradient: Tensor
    spans: tuple[Span, ...]
    decay: float

    @classmethod
    def of(cls, matrices: Matrices, index: int, peaks: Mapping[str, float], decay: float, taken: int) -> Row:
        """A row whose tensors with the prefixes of `peaks` have these peak rates, after some steps."""
        device = matrices.weights.device if matrices.weights.is_cuda else None
        spans = []
        for prefix, peak in peaks.items():
            columns = matrices.layout.span(prefix)
            own = (matrices.weights, matrices.gradients, matrices.first, matrices.second)
            weights, gradient, first, second = (x[index, columns] for x in own)
            # Each delta counts its own steps: one that joins a bank later has its own bias correction.
            count = torch.tensor(float(taken), device=device)
            spans.append(Span(peak, weights, gradient, first, second, count))
        return cls(matrices, index, matrices.gradients[index], tuple(spans), decay)


@dataclass(frozen=True, eq=False)
class Span:
    """Columns of one row that share a peak learning rate.

    Attributes:
        count: the number of steps taken, a scalar tensor as the fused kernel wants it.
    """

    peak: float
    weights: Tensor
    gradient: Tensor
    first: Tensor
    second: Tensor
    count: Tensor


def copy(targets: Sequence[Tensor], sources: Sequence[Tensor | None]) -> None:
    """Copies each source into its target, all in one call; None is zero."""
    known = [(target, source) for target, source in zip(targets, sources, strict=True) if source is not None]
    absent = [target for target, source in zip(targets, sources, strict=True) if source is None]
    if absent:
        torch._foreach_zero_(absent)
    if known:
        torch._foreach_copy_([target for target, _ in known], [source for _, source in known])


def clip(rows: Sequence[Row], largest: Sequence[float], also: Tensor) -> tuple[list[float], list[float]]:
    """Scales each row's gradient so that its norm is at most the row's largest; rows that are not finite stay.

    Args:
        also: numbers `(len(rows),)` that are read in the same transfer, the losses.

    Returns:
        The norms before, and `also`, as numbers of Python.
    """
    gradients = [row.gradient for row in rows]
    # One transfer of norms and losses together: on a GPU each transfer waits for the whole step.
    norms = torch.stack(torch._foreach_norm(gradients))
    read: list[list[float]] = torch.stack([norms, also.to(norms)]).tolist()
    # The margin of 1e-6 is that of torch.nn.utils.clip_grad_norm_.
    scales = [min(1.0, most / (norm + 1e-6)) for norm, most in zip(read[0], largest, strict=True)]
    if any(scale < 1 for scale in scales):
        torch._foreach_mul_(gradients, scales)
    return read[0], read[1]


def step(rows: Sequence[Row], factors: Sequence[float]) -> None:
    """One step of AdamW (Loshchilov and Hutter 2019, arXiv 1711.05101, algorithm 2) for each row at its own rates.

    Rows and spans of one learning rate and decay go through one fused call.

    Args:
        factors: of each row, by which its peak rates are multiplied.
    """
    # A fused call takes one rate; a bank with one recipe needs one call, however many deltas it has.
    alike: dict[tuple[float, float], list[Span]] = {}
    for row, factor in zip(rows, factors, strict=True):
        for span in row.spans:
            alike.setdefault((span.peak * factor, row.decay), []).append(span)
    for (rate, decay), spans in alike.items():
        adamw(
            [span.weights for span in spans],
            [span.gradient for span in spans],
            [span.first for span in spans],
            [span.second for span in spans],
            [],
            [span.count for span in spans],
            fused=True,
            amsgrad=False,
            beta1=BETAS[0],
            beta2=BETAS[1],
            lr=rate,
            weight_decay=decay,
            eps=EPSILON,
            maximize=False,
        )
