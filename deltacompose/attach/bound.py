"""The bound tensors of one attached delta or bank, and how an edit's function is applied to them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from deltacompose.method.contract import Edit
from deltacompose.method.weights import generator


@dataclass(frozen=True)
class Stacked:
    """The tensors of a bank of K deltas, each with a leading axis of K."""

    size: int
    tensors: Mapping[str, Tensor]

    @classmethod
    def of(cls, each: Sequence[Mapping[str, Tensor]]) -> Stacked:
        """K mappings of equal names and shapes as one; a tensor that all of them share is not copied."""
        return cls(len(each), {name: _together([t[name] for t in each]) for name in each[0]})


class BoundTensors:
    """The tensors that the hooks of one attachment read. It has changing state: every training step puts new ones.

    Attributes:
        size: None for a single delta; K for a bank, whose tensors have a leading axis of K and whose batches hold K
            groups of rows, one after another.
        mixed: whether the backbone's modules differ in precision, so that each edit casts what it reads to its own's.
        dropout: per delta the seed from which the step's dropout masks are drawn; None outside training.
    """

    def __init__(self, mixed: bool = False) -> None:
        self.mixed = mixed
        self.size: int | None = None
        self.tensors: dict[str, Tensor] = {}
        self.dropout: Sequence[int] | None = None
        self._names: dict[tuple[str, str], list[tuple[str, str]]] = {}

    def put(self, t: Mapping[str, Tensor] | Stacked, dropout: Sequence[int] | None = None) -> None:
        """Replaces the tensors by those of one delta, or of a bank."""
        size, tensors = (t.size, dict(t.tensors)) if isinstance(t, Stacked) else (None, dict(t))
        # The names that an edit reads are kept from step to step; only other names make them stale.
        if tensors.keys() != self.tensors.keys():
            self._names.clear()
        self.size, self.tensors, self.dropout = size, tensors, dropout

    def of(self, prefix: str, place: str) -> dict[str, Tensor]:
        """The tensors that an edit at `place` of the part with `prefix` may read: its place's and the shared ones."""
        if (prefix, place) not in self._names:
            kept = (f"{prefix}{place}", f"{prefix}shared")
            # By the whole place: those inside it, as `attention.query` in `attention`, begin with its name.
            names = [name for name in self.tensors if name.rpartition(".")[0] in kept]
            self._names[prefix, place] = [(name, name[len(prefix) :]) for name in names]
        return {own: self.tensors[name] for name, own in self._names[prefix, place]}

    def rows(self, x: Tensor) -> int:
        """How many rows of a batch belong to each delta."""
        size = self.size or 1
        if x.shape[0] % size:
            raise ValueError(f"a bank of {size} deltas needs batches of a multiple of {size} rows, not {x.shape[0]}")
        return x.shape[0] // size


@dataclass(eq=False)
class Bound:
    """One edit together with the tensors it reads.

    Attributes:
        captured: a span's input between its two hooks.
        run: whether a pass has called it.
    """

    edit: Edit
    bound_tensors: BoundTensors
    prefix: str
    index: int
    captured: Tensor | None = field(default=None, repr=False)
    run: bool = False

    def tensors(self) -> dict[str, Tensor]:
        place = getattr(self.edit, "place", None)
        return self.bound_tensors.of(self.prefix, place.name if place is not None else getattr(self.edit, "stream", ""))

    def call(self, function: Callable[..., Any], *rows: Tensor, shared: tuple[Tensor, ...] = ()) -> Any:
        """`function(t, *rows, *shared)` for each delta on its own rows.

        Args:
            rows: `(deltas · batch, ...)` each; handed over, and given back, without the axis of deltas.
            shared: tensors that every delta sees alike.

        Returns:
            The function's result; for a bank joined along the leading axis if there were rows, else stacked.
        """
        self.run = True
        t, size = self._placed(*rows, *shared), self.bound_tensors.size
        if size is None:
            return function(t, *rows, *shared)
        grouped = [x.unflatten(0, (size, self.bound_tensors.rows(x))) for x in rows]
        if self.edit.vmap:
            # `different`: vmap refuses functions that draw random numbers unless it knows how deltas differ.
            dims = (0, *(0 for _ in grouped), *(None for _ in shared))
            result = torch.vmap(function, in_dims=dims, randomness="different")(t, *grouped, *shared)
        else:
            each = [function({n: x[k] for n, x in t.items()}, *(g[k] for g in grouped), *shared) for k in range(size)]
            result = tuple(map(torch.stack, zip(*each))) if isinstance(each[0], tuple) else torch.stack(each)
        return result.flatten(0, 1) if rows else result

    def _placed(self, *seen: Tensor) -> dict[str, Tensor]:
        """The tensors on the device of what they act on, and in its precision where the modules' differ.

        The layers of a large model may lie on several devices.
        """
        t = self.tensors()
        if not seen:
            return t
        device = seen[0].device
        if not self.bound_tensors.mixed:
            return {name: x.to(device) for name, x in t.items()}
        dtype = [x.dtype for x in seen if x.is_floating_point()][-1]
        return {name: x.to(device, dtype if x.is_floating_point() else None) for name, x in t.items()}

    def drop(self, x: Tensor) -> Tensor:
        """Dropout on an edit's input. A recomputed forward (gradient checkpointing) draws the same mask again."""
        rate = getattr(self.edit, "dropout", 0.0)
        if not rate or self.bound_tensors.dropout is None:
            return x
        rows = self.bound_tensors.rows(x)
        masks = [
            torch.rand((rows, *x.shape[1:]), generator=generator(seed, "dropout", self.index)) >= rate
            for seed in self.bound_tensors.dropout
        ]
        return x * torch.cat(masks).to(x.device) / (1 - rate)


def _together(tensors: Sequence[Tensor]) -> Tensor:
    """A bank's tensors with an axis of deltas in front; one that all of them share is not copied."""
    first = tensors[0]
    return first.expand(len(tensors), *first.shape) if all(x is first for x in tensors) else torch.stack(list(tensors))
