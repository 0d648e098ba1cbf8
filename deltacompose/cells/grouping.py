"""Which ready cells of a study go to a worker together, and how many processes carry them out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from deltacompose.engine import by_bank
from deltacompose.planning.facts import TaskFacts, facts_of
from deltacompose.study.config import SHARDED, Cell

_READING = ("probe", "subspace", "reconstruct", "tune", "swap", "merge", "reuse")
"""Kinds of cells that read the backbone, other than trainings and evaluations."""

_TOGETHER = 64


def processes_of(cell: Cell, options: Mapping[str, Any]) -> int:
    """How many processes carry a cell out, by the options of a study.

    Those of the study share the batches of trainings and evaluations. With a backbone in shards all that reads it needs
    them. No result but that of a training (`tune` is one) depends on their number, so it is in no other key.
    """
    if cell.kind in ("train", "tune"):
        return int(cell.spec.get("processes", 1))
    together = cell.kind == "evaluate" or (cell.kind in _READING and _sharded(options))
    return int(options.get("processes", 1)) if together else 1


def by_expression(
    ready: Sequence[Cell], options: Mapping[str, Any], known: Mapping[str, TaskFacts] | None = None
) -> list[list[Cell]]:
    """The grouping of a study: a bank is training cells of one expression, within the budget of tokens if any.

    Evaluations of one composition on one task go together, whose deltas share passes.

    Where the backbone lies in shards, which takes long to read and to deal out, other cells that read it go together
    too, up to 64 of one kind.

    Args:
        known: the study's tasks, by which a batch's tokens are estimated; without them there is no budget.
    """
    kinds = _READING if _sharded(options) else ()
    alike = [[cell for cell in ready if cell.kind == kind] for kind in kinds]
    together = [own[k : k + _TOGETHER] for own in alike for k in range(0, len(own), _TOGETHER)]

    def tokens(cell: Cell) -> float:
        if known is None:
            return 0.0
        task, batch = facts_of(known, cell.spec["task"]), int(cell.spec["recipe"]["batch"])
        return min(batch, task.rows["train"]) * (task.lengths.padded + task.lengths.answer)

    others = [cell for cell in ready if cell.kind not in kinds]
    return together + by_bank(others, options, lambda cell: str(cell.spec["composition"]), tokens, _evaluated)


def _evaluated(cell: Cell) -> object:
    """Key of evaluations in shared passes: the composition, and the examples as they are read.

    The untouched backbone has one evaluation for each task, and these go together.
    """
    spec = cell.spec
    if spec["composition"] is None:
        return spec["backbone"]
    few = (spec["shots"], spec["seed"]) if spec["shots"] is not None else None
    examples = (spec["target"], spec["data"], tuple(spec["rows"].items()), few, spec["template"], spec["split"])
    return spec["backbone"], spec["composition"], examples, spec["limit"]


def _sharded(options: Mapping[str, Any]) -> bool:
    return bool(options["backbone"]["device"] == SHARDED)
