"""The contract of a delta-tuning method: settings, new weights, and pure edits that say which function acts where.

A method is a frozen dataclass of at most six settings with two pure functions, `init` and `edits`. Everything else
(training, banks, stacks, saving, merging, the analyses) follows from them. There are four kinds of edit, one for each
way in which delta tuning changes a transformer (Ding et al. 2023, arXiv 2203.06904, section 3); the abilities at the
end of this file are optional.
"""

from __future__ import annotations

import typing
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, Protocol, runtime_checkable

from torch import Generator, Tensor

from deltacompose.backbone.backbone import Backbone, Place
from deltacompose.composition import Part

Category = Literal["addition", "specification", "reparameterization"]
Tensors = Mapping[str, Tensor]
"""A delta's weights and constants in one flat mapping, named `<place>.<tensor>` or `shared.<tensor>`."""


@dataclass(frozen=True)
class OutputEdit:
    """Changes what comes out of a place: `change(t, input, output) -> output`, each `(batch, tokens, width)`.

    At a place that is a module's input, `input` and `output` are both that input.

    Attributes:
        change: reads the tensors of its place and the shared ones, and nothing else.
        dropout: probability with which `input` is dropped in training, drawn from each delta's own generator.
        vmap: whether `torch.func.vmap` can take `change`; if not, a bank loops over its deltas.
        needs: what `change` is given behind `output`, in this order, of the leading axes of `output`: `mask`, False at
            padding, and `positions`, 0 at each row's first token that is not padding, and so on over a cache. The rows
            of a prompt of p have the positions -p to -1; at padding a position means nothing.
    """

    place: Place
    change: Callable[..., Tensor]
    dropout: float = 0.0
    vmap: bool = True
    needs: tuple[Literal["mask", "positions"], ...] = ()


@dataclass(frozen=True)
class WeightEdit:
    """Adds to a pretrained parameter: `change(t, frozen) -> ΔW`, both of the parameter's shape.

    Matrices are `(output, input)` in every family, a fused query-key-value matrix shows the place's slice alone, and an
    absent bias reads as zero.

    Attributes:
        factors: where ΔW = B @ A is of low rank, gives `(B, A)`, `(output, rank)` and `(rank, input)`: the edit
            then acts on the module's output and the matrix ΔW is never formed.
        dropout: as in `OutputEdit`, on the input of the low-rank path; needs `factors`.
        vmap: as in `OutputEdit`.
    """

    place: Place
    parameter: str
    change: Callable[[Tensors, Tensor], Tensor]
    factors: Callable[[Tensors], tuple[Tensor, Tensor]] | None = None
    dropout: float = 0.0
    vmap: bool = True


@dataclass(frozen=True)
class TokenEdit:
    """Puts `change(t) -> (length, width)` before the input embeddings of a stream, `encoder` or `decoder`."""

    stream: str
    change: Callable[[Tensors], Tensor]
    vmap: bool = True


@dataclass(frozen=True)
class KeyValueEdit:
    """Puts `change(t) -> keys, values`, each `(heads, length, head width)`, before an attention's own.

    `heads` counts key-value heads. The positions of the tokens are not shifted by it.
    """

    place: Place
    change: Callable[[Tensors], tuple[Tensor, Tensor]]
    vmap: bool = True


Edit = OutputEdit | WeightEdit | TokenEdit | KeyValueEdit


class Method(Part, ABC):
    """A way of delta tuning. Subclasses are final frozen dataclasses of settings.

    Class attributes:
        name: how the method is written in expressions.
        category: addition, specification or reparameterization.
        learning_rate: the default peak learning rate of AdamW.
        source: the paper, with its arXiv number.
        formula: the number of trainable parameters in closed form, in the letters of the docstring.
        neutral: whether the method changes nothing before its first step.
        banked: whether K deltas of it can train in one pass; False where they would each need a whole model.
        linear: whether what its edits do is linear in its weights as they are kept, so that weighted sums of deltas are
            weighted sums of their tensors. False also where that is not known. See `Combines`.
        version: raised when the same settings and weights come to mean something else.
    """

    category: ClassVar[Category]
    learning_rate: ClassVar[float]
    source: ClassVar[str]
    formula: ClassVar[str] = ""
    neutral: ClassVar[bool] = True
    banked: ClassVar[bool] = True
    linear: ClassVar[bool] = False
    version: ClassVar[int] = 1

    @abstractmethod
    def init(self, backbone: Backbone, generator: Generator) -> dict[str, Tensor]:
        """New trainable tensors in fp32 on the CPU, drawn from `generator` alone."""

    @abstractmethod
    def edits(self, backbone: Backbone) -> list[Edit]:
        """Which pure function acts where."""


def edits_of(method: Method, backbone: Backbone) -> list[Edit]:
    """A method's edits on a backbone.

    Raises:
        TypeError: `edits` returned values that are not edits, or edits at unknown places.
    """
    returned: Any = method.edits(backbone)
    if not isinstance(returned, Iterable):
        raise TypeError(f"edits of {type(method).__name__} gives a {type(returned).__name__}; expected a list of edits")
    edits = list(returned)
    for edit in edits:
        if not isinstance(edit, Edit):
            raise TypeError(
                f"edits of {type(method).__name__} gives a {type(edit).__name__}; expected {', '.join(_KINDS)}"
            )
        if not isinstance(edit, TokenEdit) and not isinstance(edit.place, Place):
            raise TypeError(
                f"edits of {type(method).__name__} acts at {edit.place!r}; expected a place, as backbone.places gives"
            )
    return edits


_KINDS = tuple(kind.__name__ for kind in typing.get_args(Edit))


@runtime_checkable
class HasConstants(Protocol):
    """Frozen tensors that the edits read: seeded projections, a file's content, masks found from training data."""

    def constants(self, backbone: Backbone, data: Any = None) -> dict[str, Tensor]: ...


@runtime_checkable
class Prepares(Protocol):
    """Work done once per step and delta, outside the bank's `vmap`; the edits see its result."""

    def prepare(self, t: Tensors, generator: Generator) -> dict[str, Tensor]: ...


@runtime_checkable
class Finalizes(Protocol):
    """Tensors kept after training; a finalised delta is not prepared again."""

    def finalize(self, t: Tensors) -> dict[str, Tensor]: ...


@runtime_checkable
class Penalizes(Protocol):
    """A term of the loss, a scalar."""

    def penalty(self, t: Tensors) -> Tensor: ...


@runtime_checkable
class Updates(Protocol):
    """Schedules: new constants after a step, from the weights and their gradients."""

    def update(self, t: Tensors, gradients: Tensors, step: int, steps: int) -> dict[str, Tensor]: ...


@runtime_checkable
class Carries(Protocol):
    """Weights to begin with that change what those of a `lower` member of the same family change, as nearly as can be.

    `t` are the weights of `lower`; what is given has the names and shapes of `init`.
    """

    def carried(self, backbone: Backbone, lower: Method, t: Tensors) -> dict[str, Tensor]: ...


@runtime_checkable
class Combines(Protocol):
    """Weighted sums of what deltas do, for a method whose tensors cannot be summed: products, as LoRA's B A."""

    def combined(self, weights: Sequence[Tensors], coefficients: Sequence[float]) -> tuple[Method, dict[str, Tensor]]:
        """The settings and weights whose edits do Σ cₖ times what those of `weights` do, exactly.

        Raises:
            BadInput: no settings of the method do.
        """
        ...
