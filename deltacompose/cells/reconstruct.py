"""Cells of kind `reconstruct`: the score of a task's delta after it was encoded and decoded by a subspace."""

from __future__ import annotations

from deltacompose.cells.context import Inputs, Result, each
from deltacompose.cells.evaluate_delta import EvaluateSpec
from deltacompose.cells.scored_answers import scored
from deltacompose.cells.subspace import read_subspace, reconstructed


def scored_reconstruction(inputs: Inputs) -> Result:
    """The score of the target's own delta, reconstructed."""
    spec = EvaluateSpec.of(inputs.cell.spec)
    delta = reconstructed(inputs.trained(spec.target), read_subspace(inputs))
    return scored(inputs.reader(spec.target), delta, spec.split, inputs.processes)


carry = each(scored_reconstruction)
