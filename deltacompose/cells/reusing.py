"""Cells of kind `reuse`: a merged delta, or one that was trained from it, scored on a held-out task."""

from __future__ import annotations

from deltacompose.cells.context import Inputs, Result, each
from deltacompose.cells.loaded import stored_delta
from deltacompose.cells.scored_answers import scored


def reuse(inputs: Inputs) -> Result:
    """Scores the delta of its one parent on the held-out task."""
    spec = inputs.cell.spec
    [record] = inputs.parents
    delta = stored_delta(inputs.folder(record["key"]))
    return scored(inputs.reader(spec["target"]), delta, spec["split"], inputs.processes)


carry = each(reuse)
