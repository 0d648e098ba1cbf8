"""Cells of kind `tune`: training of nothing but the coordinates of a soft prompt within a subspace, and its score."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Self

from deltacompose.cells.context import Inputs, Result, each
from deltacompose.cells.scored_answers import scored
from deltacompose.cells.subspace import subspace_file
from deltacompose.composition import composition
from deltacompose.errors import BadInput
from deltacompose.planning.analysis_cells import SUBSPACE_METHOD
from deltacompose.scoring import Reader, reader
from deltacompose.study.recipe import Recipe
from deltacompose.task.examples import Example
from deltacompose.task.task import Task
from deltacompose.training.learner import Job
from deltacompose.training.loop import train

KEPT = ("dev", "history", "parameters", "seconds", "tokens")
"""Entries of the record of training that the result keeps."""


@dataclass(frozen=True)
class TuneSpec:
    """Spec of a tuning cell.

    Attributes:
        new_examples: whether it trains on other rows than the study's.
        limit: the longest input in tokens.
    """

    target: str
    seed: int
    split: str
    recipe: Recipe
    new_examples: bool
    limit: int

    @classmethod
    def of(cls, spec: Mapping[str, Any]) -> Self:
        """The spec of a cell, from plain data."""
        recipe, new = Recipe(**spec["recipe"]), spec["examples"] == "new"
        return cls(spec["target"], spec["seed"], spec["split"], recipe, new, spec["limit"])


def tuned(inputs: Inputs) -> Result:
    """Trains the coordinates on the target's rows and scores them.

    Raises:
        Diverged: a loss or gradient was not finite.
    """
    spec = TuneSpec.of(inputs.cell.spec)
    method: Any = inputs.methods[SUBSPACE_METHOD]
    scorer = _reader(inputs, spec)
    expression = composition(method.of(subspace_file(inputs)))
    outcome = train(inputs.backbone, [Job(expression, scorer, spec.seed, spec.recipe, processes=inputs.processes)])[0]
    if isinstance(outcome, Exception):
        raise outcome
    result, write = scored(scorer, outcome, spec.split, inputs.processes)
    return result | {name: outcome.record[name] for name in KEPT}, write


carry = each(tuned)


def _reader(inputs: Inputs, spec: TuneSpec) -> Reader:
    own = inputs.reader(spec.target)
    if not spec.new_examples:
        return own
    return reader(inputs.backbone, with_other_rows(inputs.whole(spec.target), own.task), spec.limit)


def with_other_rows(whole: Task, used: Task) -> Task:
    """A task whose training examples are as many others as there are, at most as many as are in use.

    Raises:
        BadInput: all of its training examples are in use.
    """
    taken = {example.id for example in used.examples("train")}
    rest = tuple(example for example in whole.examples("train") if example.id not in taken)
    if not rest:
        raise BadInput(f"task {whole.name!r} has no training examples other than the {len(taken)} in use")

    def read(split: str) -> tuple[Example, ...]:
        return rest if split == "train" else used.examples(split)

    return replace(used, read=read).limited(train=min(len(taken), len(rest)))
