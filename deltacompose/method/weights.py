"""A delta's tensors through its life: drawn, joined by constants, prepared for a step, finalised.

Everywhere a delta's tensors are one flat mapping; the names of each part carry its prefix `<stage>.<part>.`.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
from torch import Generator, Tensor

from deltacompose.backbone.backbone import Backbone
from deltacompose.composition import Composition, Term, composition
from deltacompose.errors import BadInput
from deltacompose.method.allocation import Bounded
from deltacompose.method.contract import Carries, Finalizes, HasConstants, Method, Penalizes, Prepares, Tensors


def parts(term: Term) -> Iterator[tuple[str, Method]]:
    """Each method of an expression with its tensors' prefix."""
    for prefix, part in composition(term).parts():
        if not isinstance(part, Method):
            raise TypeError(f"{part} is a part of an expression but no deltacompose.method.Method")
        yield prefix, part


def part_of(t: Tensors, prefix: str) -> dict[str, Tensor]:
    """The tensors of one part, without their prefix.

    >>> part_of({"0.0.ffn.s": torch.ones(2), "0.1.b": torch.ones(1)}, "0.0.")
    {'ffn.s': tensor([1., 1.])}
    """
    return {name[len(prefix) :]: tensor for name, tensor in t.items() if name.startswith(prefix)}


def generator(seed: int, *of: object) -> Generator:
    """A generator of its own for everything that is drawn: equal arguments, equal numbers, in every process.

    >>> first, again = (torch.rand(3, generator=generator(0, "lora")) for _ in range(2))
    >>> torch.equal(first, again)
    True
    """
    digest = hashlib.sha256(repr((seed, *of)).encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:8], "little") >> 1)


def named(method: object, ability: str, returned: Any) -> dict[str, Tensor]:
    """Checks the tensors returned by an ability of a method, such as `init`.

    Raises:
        TypeError: it is something else than tensors by name.
    """
    if not isinstance(returned, Mapping):
        raise TypeError(
            f"{ability} of {type(method).__name__} gives a {type(returned).__name__}; expected tensors by name"
        )
    for name, x in returned.items():
        if not isinstance(name, str) or not isinstance(x, Tensor):
            raise TypeError(
                f"{ability} of {type(method).__name__} gives a {type(x).__name__} as {name!r}; expected tensors by name"
            )
    return dict(returned)


def init_weights(backbone: Backbone, expression: Term, seed: int = 0) -> dict[str, Tensor]:
    """New trainable tensors of every part: `<stage>.<part>.<place>.<tensor>`, fp32, on the CPU.

    The draws of a part depend on the seed, its stage and its own text, so `a + b` and `b + a` start alike, and a
    sequence starts as its beginning alone would.

    Raises:
        BadInput: a part makes more numbers than `limits` allows.
    """
    weights: dict[str, Tensor] = {}
    for prefix, part, source in _sources(composition(expression), seed):
        with Bounded(part, backbone):
            start = part.init(backbone, source)
        weights |= {prefix + name: tensor for name, tensor in named(part, "init", start).items()}
    return weights


def init_constants(
    backbone: Backbone, expression: Term, data: Any = None, stage: int | None = None
) -> dict[str, Tensor]:
    """The frozen tensors that parts ask for, of all stages or of one.

    `data` is what a part that reads training data is given.
    """
    constants: dict[str, Tensor] = {}
    for prefix, part in parts(expression):
        if isinstance(part, HasConstants) and (stage is None or prefix.startswith(f"{stage}.")):
            constants_of_part = named(part, "constants", part.constants(backbone, data))
            constants |= {prefix + name: tensor for name, tensor in constants_of_part.items()}
    return constants


def carried(backbone: Backbone, expression: Term, lower: Term, t: Tensors) -> dict[str, Tensor]:
    """Weights for an expression to begin with, from those of a lower one that has the same parts with fewer dimensions.

    Raises:
        BadInput: the two have not the same parts, or a part cannot begin with another's solution.
    """
    own, theirs = dict(parts(expression)), dict(parts(lower))
    weights: dict[str, Tensor] = {}
    for prefix, part in own.items():
        if own.keys() != theirs.keys() or not isinstance(part, Carries):
            raise BadInput(f"{composition(expression)} cannot begin with the solution of {composition(lower)}")
        carried_over = part.carried(backbone, theirs[prefix], part_of(t, prefix))
        weights |= {prefix + name: tensor for name, tensor in carried_over.items()}
    return weights


def prepared(expression: Term, t: Tensors, source: Generator, stage: int | None = None) -> dict[str, Tensor]:
    """The tensors that the edits see in one step; with `stage`, only that one is not finalised yet."""

    def change(part: Method, own: Tensors) -> Tensors:
        return named(part, "prepare", part.prepare(own, source)) if isinstance(part, Prepares) else own

    return _through(expression, t, stage, change)


def finalized(expression: Term, t: Tensors, stage: int | None = None) -> dict[str, Tensor]:
    """The tensors that are kept after training; with `stage`, the others are finalised already."""

    def change(part: Method, own: Tensors) -> Tensors:
        return named(part, "finalize", part.finalize(own)) if isinstance(part, Finalizes) else own

    return _through(expression, t, stage, change)


def penalty(expression: Term, t: Tensors, stage: int) -> Tensor | float:
    """The sum of the own terms of the loss of one stage's parts."""
    own = [(part, part_of(t, prefix)) for prefix, part in parts(expression) if prefix.startswith(f"{stage}.")]
    return sum((part.penalty(tensors) for part, tensors in own if isinstance(part, Penalizes)), 0.0)


def _through(
    expression: Term, t: Tensors, stage: int | None, change: Callable[[Method, Tensors], Mapping[str, Tensor]]
) -> dict[str, Tensor]:
    result: dict[str, Tensor] = {}
    for prefix, part in parts(expression):
        own: Mapping[str, Tensor] = part_of(t, prefix)
        if stage is None or prefix.startswith(f"{stage}."):
            own = change(part, own)
        result |= {prefix + name: tensor for name, tensor in own.items()}
    return result


def _sources(expression: Composition, seed: int) -> Iterator[tuple[str, Method, Generator]]:
    seen: dict[tuple[str, str], int] = {}
    for prefix, part in parts(expression):
        stage = prefix.partition(".")[0]
        occurrence = seen[stage, str(part)] = seen.get((stage, str(part)), -1) + 1
        yield prefix, part, generator(seed, "init", stage, str(part), occurrence)
