"""Cells of kind `swap`: the score of a task's delta with one of its parts taken from another task's delta."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Self

from torch import Tensor

from deltacompose.cells.context import Inputs, Result, each
from deltacompose.cells.scored_answers import scored
from deltacompose.delta.delta import Delta
from deltacompose.errors import BadInput


@dataclass(frozen=True)
class SwapSpec:
    """Spec of a swap cell: which part of the target's delta comes from the source's."""

    part: str
    source: str
    target: str
    split: str

    @classmethod
    def of(cls, spec: Mapping[str, Any]) -> Self:
        """The spec of a cell, from plain data."""
        return cls(spec["part"], spec["source"], spec["target"], spec["split"])


def scored_swap(inputs: Inputs) -> Result:
    """The score of the target's delta with the source's part."""
    spec = SwapSpec.of(inputs.cell.spec)
    delta = swapped(inputs.trained(spec.target), inputs.trained(spec.source), spec.part)
    return scored(inputs.reader(spec.target), delta, spec.split, inputs.processes)


carry = each(scored_swap)


def swapped(delta: Delta, other: Delta, part: str) -> Delta:
    """A delta whose tensors under the prefix of a part (`0.1.`) are those of another one of the same composition.

    Raises:
        BadInput: the compositions differ, or have no such part.
    """
    if delta.expression != other.expression:
        raise BadInput(f"a part of {other.expression} cannot stand in {delta.expression}")
    own = {name for name, _ in delta.expression.parts()}
    if part not in own:
        raise BadInput(f"{delta.expression} has no part {part!r}; parts: {', '.join(sorted(own))}")

    def joined(mine: Mapping[str, Tensor], theirs: Mapping[str, Tensor]) -> dict[str, Tensor]:
        return {n: x for n, x in mine.items() if not n.startswith(part)} | {
            n: x for n, x in theirs.items() if n.startswith(part)
        }

    weights = joined(delta.weights, other.weights)
    return replace(delta, weights=weights, constants=joined(delta.constants, other.constants))
