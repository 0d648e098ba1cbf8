"""The transfer matrix: how a delta that was trained on one task does on another, and the values derived from it.

Axes are `(seeds, sources, targets)` throughout. Every value is matched by name, never by position, and what is not
known is NaN, never filled in. Sources: Ding et al. 2023 (arXiv 2203.06904) for the relative performance; Su et al. 2022
(arXiv 2111.06719) for the matrices of soft prompts.
"""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np

from deltacompose.analysis.arrays import Bools, Floats
from deltacompose.analysis.example_scores import usable
from deltacompose.analysis.limitations import limitations_of
from deltacompose.analysis.matrix_tables import frame, to_xarray
from deltacompose.errors import BadInput, unknown
from deltacompose.notebook import table
from deltacompose.study.config import RESERVED

if TYPE_CHECKING:
    import pandas as pd
    import xarray

REFERENCES = ("untouched", "random")
"""Names of the rows of scores that are not of a task: the backbone alone, and random deltas of the trained norms."""

MARGIN = 0.05
"""By how much a target's own score must exceed chance for the chance-corrected value to be defined."""


@dataclass(frozen=True, eq=False)
class TransferMatrix:
    """Scores of deltas trained on sources, read on targets, for one composition on one backbone.

    >>> matrix.sources
    ('cola', 'mnli', 'mrpc', 'rte')
    >>> matrix.values.shape
    (2, 4, 4)
    >>> matrix.relative().mean(axis=0).round(2)
    array([[1.  , 0.66, 0.69, 0.74],
           [0.7 , 1.  , 0.71, 0.97],
           [0.76, 0.73, 1.  , 0.86],
           [0.69, 0.85, 0.69, 1.  ]])

    Args:
        sources: tasks the deltas were trained on.
        targets: tasks they were evaluated on.
        seeds: seeds of the training runs.
        values: (seeds, sources, targets), raw scores, higher is better; NaN is missing or failed.
        chance: (targets,), score of the best guess that has not seen the input; NaN if unknown.
        untouched: (targets,), score of the backbone without a delta; NaN if unknown.
        random: (seeds, targets), score of random deltas with the trained deltas' norms; NaN if unknown.
        trivial: (seeds, sources, targets), whether the score is that of a constant answer.
        failed: (seeds, sources, targets), whether the cell was tried and failed, as opposed to missing.
        metric: name of each target's metric.
        categories: category of each task; empty if none were given.
        composition: the expression of the deltas.
        backbone: fingerprint or name of the backbone.
        examples: (examples,) scores by (seed, source, target) where known, in the same order for every source of a
            target; the sources `untouched` and `random` may stand there too.
        chance_of: `random` where the score of the random deltas is taken for chance; else empty, the best guess.
        averaged_over: where only means over training runs were published, the number of runs behind each score, 0 if
            the number is unknown; None where each seed is one run. Where the numbers differ, the least.
        spread: (sources, targets), where it was published with such means, the standard deviation over the runs behind
            each; NaN where unknown.

    Raises:
        BadInput: names that repeat, arrays of another shape, infinite scores, categories that miss a task, or chance
            taken from another row than `random`.
    """

    sources: tuple[str, ...]
    targets: tuple[str, ...]
    seeds: tuple[int, ...]
    values: Floats
    chance: Floats
    untouched: Floats
    random: Floats
    trivial: Bools
    failed: Bools
    metric: tuple[str, ...]
    categories: Mapping[str, str] = field(default_factory=dict)
    composition: str = ""
    backbone: str = ""
    examples: Mapping[tuple[int, str, str], Floats] = field(default_factory=dict)
    chance_of: str = ""
    averaged_over: int | None = None
    spread: Floats | None = None

    def __post_init__(self) -> None:
        for kind, names in (("source", self.sources), ("target", self.targets), ("seed", tuple(map(str, self.seeds)))):
            if not names:
                raise BadInput(f"a transfer matrix needs at least one {kind}, found none")
            repeated = [str(name) for name, count in Counter(names).items() if count > 1]
            if repeated:
                raise BadInput(f"{kind} {', '.join(repeated)} stands twice in the transfer matrix; names must differ")
        reserved = [name for name in RESERVED if name in self.sources or name in self.targets]
        if reserved:
            raise BadInput(
                f"a task cannot have the name {reserved[0]!r}, which names a row of reference scores; reserved names: "
                f"{', '.join(RESERVED)}"
            )
        if self.averaged_over is not None and len(self.seeds) != 1:
            raise BadInput(f"scores that are already means over runs have one seed, found {len(self.seeds)}")
        if self.spread is not None and self.averaged_over is None:
            raise BadInput("a published spread belongs to published means; give `averaged_over`, 0 if it is unknown")
        if self.chance_of not in ("", "random"):
            raise BadInput(f"chance is that of the best guess or of the row random, not of {self.chance_of!r}")
        self._check_arrays()
        if len(self.metric) != len(self.targets):
            raise BadInput(f"{len(self.metric)} metrics for {len(self.targets)} targets")
        object.__setattr__(self, "categories", _categories_of(self.names, self.categories))

    def _check_arrays(self) -> None:
        whole, per_target = (len(self.seeds), len(self.sources), len(self.targets)), (len(self.targets),)
        shapes = {
            **dict.fromkeys(("values", "trivial", "failed"), whole),
            **dict.fromkeys(("chance", "untouched"), per_target),
            "random": (len(self.seeds), len(self.targets)),
        }
        if self.spread is not None:
            shapes["spread"] = whole[1:]
        for name, shape in shapes.items():
            array = np.asarray(getattr(self, name), dtype=bool if name in ("trivial", "failed") else float)
            if array.shape != shape:
                raise BadInput(f"{name} of the transfer matrix has shape {array.shape}, expected {shape}")
            if np.isinf(array).any():
                raise BadInput(f"{name} of the transfer matrix holds an infinite score; a score that is missing is NaN")
            object.__setattr__(self, name, array)

    @property
    def names(self) -> tuple[str, ...]:
        """Every task of the matrix once: the targets in their order, then the sources that are not targets."""
        return tuple(dict.fromkeys((*self.targets, *self.sources)))

    @property
    def tasks(self) -> tuple[str, ...]:
        """The tasks that are both source and target, in the targets' order."""
        return tuple(name for name in self.targets if name in self.sources)

    @cached_property
    def own(self) -> Floats:
        """(seeds, targets): each target's score with the delta trained on it, A(t → t); NaN where there is none.

        >>> matrix.own.mean(axis=0).round(2)
        array([0.74, 0.79, 0.84, 0.69])
        """
        own = np.full((len(self.seeds), len(self.targets)), np.nan)
        for t, name in enumerate(self.targets):
            if name in self.sources:
                own[:, t] = self.values[:, self.sources.index(name), t]
        return own

    @cached_property
    def example_scores(self) -> Mapping[tuple[str, str], Floats]:
        """(seeds, examples) scores by source and target where intervals can use them (`example_scores.usable`).

        The source `untouched` has the same row for every seed.
        """
        if not self.examples:
            return {}
        own = dict(zip(self.sources, np.moveaxis(self.values, 0, 2), strict=True))
        own["untouched"] = np.repeat(self.untouched[:, None], len(self.seeds), axis=1)
        cells = {
            (name, target): row for name, rows in own.items() for target, row in zip(self.targets, rows, strict=True)
        }
        return usable(self.examples, self.seeds, cells)

    @property
    def off_diagonal(self) -> Bools:
        """(sources, targets): whether source and target are different tasks."""
        different: Bools = np.array(self.sources, dtype=object)[:, None] != np.array(self.targets, dtype=object)
        return different

    @property
    def same_category(self) -> Bools:
        """(sources, targets): whether two different tasks share their category.

        >>> int(matrix.same_category.sum())
        2

        Raises:
            BadInput: the matrix has no categories.
        """
        if not self.categories:
            raise BadInput("this transfer matrix has no categories; give one per task")
        kinds = self.categories
        same = np.array([[kinds[source] == kinds[target] for target in self.targets] for source in self.sources])
        return same & self.off_diagonal

    def relative(self) -> Floats:
        """(seeds, sources, targets): R(s → t) = A(s → t) / A(t → t); NaN where the own score is not above zero."""
        own = np.where(self.own > 0, self.own, np.nan)
        return self.values / own[:, None, :]

    @cached_property
    def _gain(self) -> Floats:
        """(seeds, targets): A(t → t) − chance where it exceeds the margin, else NaN."""
        gain = self.own - self.chance
        return np.where(gain > MARGIN, gain, np.nan)

    def corrected(self) -> Floats:
        """(seeds, sources, targets): C(s → t) = (A(s → t) − chance) / (A(t → t) − chance), NaN where `left_out`.

        >>> matrix.corrected().mean(axis=0).round(2)
        array([[1.  , 0.07, 0.24, 0.06],
               [0.06, 1.  , 0.28, 0.89],
               [0.25, 0.27, 1.  , 0.48],
               [0.04, 0.59, 0.24, 1.  ]])
        """
        return (self.values - self.chance) / self._gain[:, None, :]

    @property
    def left_out(self) -> tuple[str, ...]:
        """Targets whose own score in no seed exceeds chance by more than the margin: C is undefined for them."""
        return tuple(name for t, name in enumerate(self.targets) if np.isnan(self._gain[:, t]).all())

    def lift(self) -> Floats:
        """(seeds, sources, targets): A(s → t) minus the score of the untouched backbone.

        >>> matrix.lift().mean(axis=0).round(2)
        array([[ 0.19, -0.03,  0.03, -0.04],
               [-0.04,  0.24,  0.04,  0.12],
               [ 0.01,  0.03,  0.29,  0.04],
               [-0.04,  0.12,  0.03,  0.14]])
        """
        return self.values - self.untouched

    def __repr__(self) -> str:
        known, whole = int((~np.isnan(self.values)).sum()), self.values.size
        sizes = f"{len(self.sources)} sources × {len(self.targets)} targets × {len(self.seeds)} seeds"
        return f"TransferMatrix({self.composition!r}: {sizes}, {known} of {whole} scores known)"

    def to_pandas(self) -> pd.DataFrame:
        """The tidy table: one row per seed, source and target, with its scores of reference."""
        return frame(self)

    def to_xarray(self) -> xarray.Dataset:
        """A dataset with `score` (seed, source, target) and the scores of reference (`matrix_tables.to_xarray`).

        Raises:
            BadInput: xarray is not installed.
        """
        return to_xarray(self)

    def _repr_html_(self) -> str:
        rows = [
            {"source": name} | dict(zip(self.targets, map(float, row))) for name, row in zip(self.sources, self.mean())
        ]
        for name, level in (("chance", self.chance), ("untouched", self.untouched)):
            rows.append({"source": name} | dict(zip(self.targets, map(float, level))))
        shown = [{key: None if value != value else value for key, value in row.items()} for row in rows]  # NaN
        return table(repr(self), shown, ("source", *self.targets))

    def mean(self) -> Floats:
        """(sources, targets): raw score averaged over the seeds that have one; NaN where none has."""
        return mean_over_seeds(self.values)

    def selected(
        self, sources: Sequence[str], targets: Sequence[str], seeds: Sequence[int] | None = None
    ) -> TransferMatrix:
        """The part of the matrix with these sources, targets and seeds, in the order given.

        Raises:
            BadInput: a name that the matrix does not have.
        """
        seeds = self.seeds if seeds is None else tuple(seeds)
        k = _positions("seed", [str(seed) for seed in seeds], [str(seed) for seed in self.seeds])
        s, t = _positions("source", sources, self.sources), _positions("target", targets, self.targets)
        kept = {*sources, *REFERENCES}
        return dataclasses.replace(
            self,
            sources=tuple(sources),
            targets=tuple(targets),
            seeds=seeds,
            values=self.values[np.ix_(k, s, t)],
            trivial=self.trivial[np.ix_(k, s, t)],
            failed=self.failed[np.ix_(k, s, t)],
            chance=self.chance[t],
            untouched=self.untouched[t],
            random=self.random[np.ix_(k, t)],
            metric=tuple(self.metric[i] for i in t),
            spread=None if self.spread is None else self.spread[np.ix_(s, t)],
            examples={key: scores for key, scores in self.examples.items() if key[1] in kept and key[2] in targets},
        )

    def square(self) -> TransferMatrix:
        """The part with the tasks that are both source and target, in the targets' order on both sides.

        Raises:
            BadInput: no task is both.
        """
        if not self.tasks:
            raise BadInput(
                f"no task is both source and target; sources: {', '.join(self.sources)}; "
                f"targets: {', '.join(self.targets)}"
            )
        return self.selected(self.tasks, self.tasks)

    def limitations(self) -> list[str]:
        """Warnings about the values, one sentence each."""
        return [sentence for sentence in limitations_of(self, MARGIN) if sentence]


def mean_over_seeds(values: Floats) -> Floats:
    """(...) from (seeds, ...): the average over the seeds that have a value; NaN where none has.

    >>> mean_over_seeds(np.array([[1.0, np.nan], [3.0, np.nan]]))
    array([ 2., nan])
    """
    known = ~np.isnan(values)
    count = known.sum(axis=0)
    total = np.where(known, values, 0.0).sum(axis=0)
    return np.where(count > 0, total / np.maximum(count, 1), np.nan)


def _categories_of(names: tuple[str, ...], categories: Mapping[str, str]) -> dict[str, str]:
    """The categories of these tasks alone; none at all is allowed, some but not all is not."""
    missing = [name for name in names if name not in categories]
    if categories and missing:
        raise BadInput(
            f"the categories miss {', '.join(missing)}; every task of the matrix needs one, "
            f"found them for {', '.join(sorted(categories))}"
        )
    return {name: str(categories[name]) for name in names} if categories else {}


def _positions(kind: str, names: Sequence[str], existing: Sequence[str]) -> list[int]:
    """Where each name stands; unknown names are refused."""
    for name in names:
        if name not in existing:
            raise unknown(kind, name, existing)
    return [existing.index(name) for name in names]
