"""Output and weight edits: one set of hooks on each module that something is attached to.

The order at a module is fixed. Its input is changed first; then its pretrained parameters are, all edits of weights
summed; last come the output edits, in the order in which they were attached. So `ia3 + lora` means the same function as
the model into which both were merged.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from deltacompose.attach.bound import Bound, BoundTensors
from deltacompose.backbone.slices import Slice
from deltacompose.method.contract import OutputEdit, WeightEdit

Arguments = tuple[tuple[Any, ...], dict[str, Any]]
See = Callable[[torch.Size], tuple[Tensor, ...]]


@dataclass(frozen=True, eq=False)
class Change:
    """An output edit at a module. A span that begins elsewhere has captured its input in `bound`.

    Attributes:
        see: gives the mask and positions of the tokens that a module's output is of, where the edit asks for them.
    """

    bound: Bound
    edit: OutputEdit
    slice: Slice
    see: See | None = None

    def __call__(self, x: Tensor, y: Tensor) -> Tensor:
        seen = x if self.bound.captured is None else self.bound.captured
        self.bound.captured = None
        if self.bound.bound_tensors.mixed and seen.is_floating_point():
            seen = seen.to(y.dtype)
        tokens = () if self.see is None else self.see(y.shape[:-1])
        return self.slice.put(y, self.bound.call(self.edit.change, self.bound.drop(seen), self.slice.take(y), *tokens))


@dataclass(frozen=True, eq=False)
class Added:
    """A weight edit that acts on the output of its module: a bias, of which it sees what `frozen` gives within a pass,
    or a matrix of low rank."""

    bound: Bound
    edit: WeightEdit
    slice: Slice
    frozen: Callable[[], Tensor] | None

    def __call__(self, x: Tensor, y: Tensor) -> Tensor:
        if self.edit.factors is None:
            return self.slice.put(y, self._with_bias(self.slice.take(y)))
        return self.slice.put(y, self._with_product(self.bound.drop(x), self.slice.take(y)))

    def _with_product(self, x: Tensor, y: Tensor) -> Tensor:
        """y + x Aᵀ Bᵀ, with each delta's own B and A on its rows."""
        up, down = (factor.to(x) for factor in self.bound.call(self.edit.factors))  # type: ignore[arg-type]
        changed: Tensor
        size = self.bound.bound_tensors.size
        if size is None:
            changed = y + x @ down.mT @ up.mT
            return changed
        # One product for all deltas takes a third of the operations of a mapped function.
        self.bound.bound_tensors.rows(x)  # refuses a batch whose rows the deltas cannot share equally
        low = torch.bmm(x.reshape(size, -1, x.shape[-1]), down.mT)
        changed = torch.baddbmm(y.reshape(size, -1, y.shape[-1]), low, up.mT)
        return changed.view(y.shape)

    def _with_bias(self, y: Tensor) -> Tensor:
        bias: Tensor = self.bound.call(self.edit.change, shared=() if self.frozen is None else (self.frozen(),))
        size = self.bound.bound_tensors.size
        if size is None:
            return y + bias
        rows = y.unflatten(0, (size, self.bound.bound_tensors.rows(y)))
        changed: Tensor = rows + bias.view(size, *(1 for _ in rows.shape[1:-1]), bias.shape[-1])
        return changed.flatten(0, 1)


@dataclass(frozen=True, eq=False)
class Dense:
    """A weight edit whose ΔW is formed, at one module that owns the parameter.

    Attributes:
        view: of the pretrained tensor, `(output, input)`, what the edit sees: the place's slice alone.
        transposed: whether the module holds its matrix as `(input, output)`.
    """

    bound: Bound
    edit: WeightEdit
    slice: Slice
    view: Callable[[Tensor], Tensor]
    parameter: str
    transposed: bool

    def delta(self, whole: Tensor) -> Tensor:
        """ΔW for the pretrained `whole`, of the shape in which the module holds it; a bank's has an axis of deltas."""
        frozen = whole.detach()
        own = self.view(frozen.mT if self.transposed else frozen)
        delta: Tensor = self.bound.call(self.edit.change, shared=(own,))
        if whole.ndim == 1:
            return self.slice.put(torch.zeros_like(whole), delta)
        output_last = self.slice.put(torch.zeros_like(whole if self.transposed else whole.mT), delta.mT)
        return output_last if self.transposed else output_last.mT


class Site:
    """All edits attached at one module. It has state because deltas come and go while the model stays."""

    def __init__(self, module: nn.Module) -> None:
        self.module = module
        self.inputs: list[Change] = []
        self.starts: list[Bound] = []
        self.dense: list[Dense] = []
        self.added: list[Added] = []
        self.outputs: list[Change] = []
        self._originals: dict[str, nn.Parameter] = {}
        self._handles = (
            module.register_forward_pre_hook(self._before, with_kwargs=True),
            module.register_forward_hook(self._after, with_kwargs=True),
            # Also after an exception: an interrupted pass must not leave changed parameters in the model.
            module.register_forward_hook(self._restore, always_call=True),
        )

    def remove(self, bound_tensors: BoundTensors) -> bool:
        """Takes out all edits that read `bound_tensors`; True when nothing is left here and the hooks are gone."""
        self._restore()
        self.starts[:] = [bound for bound in self.starts if bound.bound_tensors is not bound_tensors]
        kinds: tuple[list[Any], ...] = (self.inputs, self.dense, self.added, self.outputs)
        for edits in kinds:
            edits[:] = [edit for edit in edits if edit.bound.bound_tensors is not bound_tensors]
        if self.starts or any(kinds):
            return False
        for handle in self._handles:
            handle.remove()
        return True

    def _before(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Arguments | None:
        x = first_argument(args, kwargs)
        for change in self.inputs:
            x = change(x, x)
        for bound in self.starts:
            bound.captured = x
        for dense in self.dense:
            # A bank has no single changed parameter; its deltas act on the output, in `_after`.
            if dense.bound.bound_tensors.size is None:
                # Every edit sees the pretrained tensor, and their changes are summed: the order does not matter.
                delta = dense.delta(self._pretrained(dense.parameter))
                self._put(dense.parameter, self._parameter(dense.parameter) + delta)
        return _with_first(args, kwargs, x) if self.inputs else None

    def _after(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> Any:
        x, y = first_argument(args, kwargs), output[0] if isinstance(output, tuple | list) else output
        y = self._banked(x, y, [dense for dense in self.dense if dense.bound.bound_tensors.size is not None])
        changes: list[Added | Change] = [*self.added, *self.outputs]
        for change in changes:
            y = change(x, y)
        return type(output)([y, *output[1:]]) if isinstance(output, tuple | list) else y

    def _restore(self, *_: object) -> None:
        for name, original in self._originals.items():
            holder, own = self._holder(name)
            holder._parameters[own] = original
        self._originals.clear()

    def _pretrained(self, name: str) -> Tensor:
        return self._originals.get(name, self._parameter(name))

    def _parameter(self, name: str) -> Tensor:
        holder, own = self._holder(name)
        return holder._parameters[own]  # type: ignore[return-value]

    def _put(self, name: str, value: Tensor) -> None:
        holder, own = self._holder(name)
        # Past `setattr`, which takes an `nn.Parameter` alone: that is a leaf, and no gradient would reach the delta.
        self._originals.setdefault(name, holder._parameters[own])  # type: ignore[arg-type]
        holder._parameters[own] = value  # type: ignore[assignment]

    def _holder(self, name: str) -> tuple[nn.Module, str]:
        """The module that holds a parameter, and its name there: a module inside may never be called by itself."""
        path, _, own = name.rpartition(".")
        return self.module.get_submodule(path), own

    def _banked(self, x: Tensor, y: Tensor, banked: list[Dense]) -> Tensor:
        """The output with each delta's own parameters applied to its rows.

        A matrix acts on the output, so that nothing is computed twice. The others (norms, embeddings) are cheap and
        run again for each delta.
        """
        if not banked:
            return y
        bound_tensors, names = banked[0].bound.bound_tensors, [dense.parameter for dense in banked]
        rows = x.unflatten(0, (bound_tensors.size or 1, bound_tensors.rows(x)))
        wholes = {name: self._parameter(name) for name in names}
        deltas = [dense.delta(self._pretrained(dense.parameter)) for dense in banked]
        if isinstance(self.module, nn.Linear | Conv1D):
            matrices = torch.stack([d if isinstance(self.module, Conv1D) else d.mT for d in deltas]).sum(0)
            return y + torch.bmm(rows.flatten(1, -2), matrices).view_as(y)
        outputs = []
        for k, row in enumerate(rows):
            for name, whole in wholes.items():
                self._put(name, whole + sum(delta[k] for delta, n in zip(deltas, names, strict=True) if n == name))
            # `forward`, because calling the module would run these hooks again.
            outputs.append(self.module.forward(row))
        return torch.cat(outputs)


def first_argument(args: tuple[Any, ...], kwargs: dict[str, Any]) -> Tensor:
    """The tensor that a module works on: its first positional argument, or the first that is given by name."""
    return args[0] if args else next(value for value in kwargs.values() if isinstance(value, Tensor))


def _with_first(args: tuple[Any, ...], kwargs: dict[str, Any], x: Tensor) -> Arguments:
    if args:
        return (x, *args[1:]), kwargs
    name = next(name for name, value in kwargs.items() if isinstance(value, Tensor))
    return args, {**kwargs, name: x}
