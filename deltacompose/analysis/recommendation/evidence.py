"""Evidence of a library on every pair of a source and a target: scores, similarities, scores on a few examples."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from deltacompose.analysis.arrays import Floats
from deltacompose.errors import BadInput

LEAST_TASKS = 4
"""With fewer tasks nothing can be left out and learned from the rest."""

POPULARITY, TRIED = "popularity", "few examples"
"""Predictors that are not measure: a source's mean gain on the other targets, and its score on the few examples."""


@dataclass(frozen=True, eq=False)
class Evidence:
    """Sources and targets of one composition, over several seeds. Unknown values are NaN.

    Args:
        sources: names of the tasks that deltas were trained on.
        targets: names of the tasks that they were evaluated on.
        seeds: of the deltas, or of the draws of few examples.
        scores: (seeds, sources, targets), what a source gives on a target; higher is better. The score of a target's
            own delta takes no part.
        untouched: (seeds, targets), what the backbone gives without a delta; NaN if unknown.
        chance: (targets,), the best score that does not use the input; NaN if unknown.
        measures: by name (seeds, sources, targets), similarities, higher is nearer.
        tried: (seeds, sources, targets), scores on a few examples that `scores` are not of.
        tried_untouched: (seeds, targets), that of the untouched backbone.
        parts: the tasks of a source that is a mixture, by its name; it is not a source of these tasks.

    Raises:
        BadInput: fewer than four targets, fewer than two sources, or arrays of other shapes.
    """

    sources: tuple[str, ...]
    targets: tuple[str, ...]
    seeds: tuple[int, ...]
    scores: Floats
    untouched: Floats
    chance: Floats
    measures: Mapping[str, Floats] = field(default_factory=dict)
    tried: Floats | None = None
    tried_untouched: Floats | None = None
    parts: Mapping[str, tuple[str, ...]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if len(self.targets) < LEAST_TASKS:
            raise BadInput(
                f"recommending needs at least {LEAST_TASKS} tasks on which deltas were evaluated, found "
                f"{len(self.targets)}: {', '.join(self.targets) or 'none'}"
            )
        if len(self.sources) < 2:
            raise BadInput(f"recommending needs at least 2 sources to choose from, found {len(self.sources)}")
        whole, rows = (len(self.seeds), len(self.sources), len(self.targets)), (len(self.seeds), len(self.targets))
        arrays = {"scores": (self.scores, whole), "untouched": (self.untouched, rows), "tried": (self.tried, whole)}
        arrays |= {"chance": (self.chance, rows[1:]), "tried_untouched": (self.tried_untouched, rows)}
        arrays |= {f"measure {name!r}": (values, whole) for name, values in self.measures.items()}
        for name, (array, shape) in arrays.items():
            if array is not None and np.shape(array) != shape:
                raise BadInput(f"{name} of the evidence has shape {np.shape(array)}, expected {shape}")

    def table(self, seed: int) -> Table:
        """The evidence of one seed, by its index in `seeds`."""
        names = np.array([[t in (s, *self.parts.get(s, ())) for t in self.targets] for s in self.sources])
        reference = np.where(np.isnan(self.untouched[seed]), self.chance, self.untouched[seed])
        reference = np.nan_to_num(reference)
        gains = np.where(names, np.nan, self.scores[seed] - reference)
        tried = None
        if self.tried is not None:
            few = reference if self.tried_untouched is None else self.tried_untouched[seed]
            tried = np.where(names, np.nan, self.tried[seed] - np.where(np.isnan(few), reference, few))
        measures = {name: values[seed] for name, values in self.measures.items()}
        return Table(self.sources, self.targets, gains, reference, measures, tried, self.parts)


@dataclass(frozen=True, eq=False)
class Table:
    """The evidence of one seed, relative to no source.

    Attributes:
        gains: (sources, targets), scores minus `reference`; NaN for a target's own delta.
        reference: (targets,), the score without a source: of the untouched backbone, else chance, else 0.
        measures: by name (sources, targets).
        tried: (sources, targets), the gains on the few examples; None if there are none.
    """

    sources: tuple[str, ...]
    targets: tuple[str, ...]
    gains: Floats
    reference: Floats
    measures: Mapping[str, Floats]
    tried: Floats | None
    parts: Mapping[str, tuple[str, ...]] = field(default_factory=dict)

    def without(self, task: str) -> Table:
        """The table of a library that has never met a task: neither as a target nor as a source, or part of one."""
        s = [k for k, name in enumerate(self.sources) if task not in (name, *self.parts.get(name, ()))]
        t = [k for k, name in enumerate(self.targets) if name != task]
        part = np.ix_(s, t)
        return Table(
            tuple(self.sources[k] for k in s),
            tuple(self.targets[k] for k in t),
            self.gains[part],
            self.reference[t],
            {name: values[part] for name, values in self.measures.items()},
            None if self.tried is None else self.tried[part],
            self.parts,
        )

    @property
    def predictors(self) -> tuple[str, ...]:
        """Predictors that a model may use, in a fixed order."""
        return (POPULARITY, *((TRIED,) if self.tried is not None else ()), *sorted(self.measures))

    def predictors_of(self, target: str, known: Table) -> Floats:
        """(sources, predictors) of the sources of `known` on a target, the target itself being none of them.

        Args:
            known: the table from which popularity is read; it lacks the target.
        """
        rows, t = [self.sources.index(name) for name in known.sources], self.targets.index(target)
        columns = {POPULARITY: mean_known(known.gains)}
        if self.tried is not None:
            columns[TRIED] = self.tried[rows, t]
        columns |= {name: values[rows, t] for name, values in self.measures.items()}
        return np.stack([columns[name] for name in self.predictors], axis=1)


def mean_known(values: Floats, axis: int = 1) -> Floats:
    """The mean along an axis of the values that are not NaN; NaN where none is."""
    known = ~np.isnan(values)
    count = known.sum(axis=axis)
    return np.where(count > 0, np.where(known, values, 0.0).sum(axis=axis) / np.maximum(count, 1), np.nan)


def check_shots(shots: int, labels: int) -> int:
    """How many examples `shots` per class are.

    Raises:
        BadInput: fewer than one per class.
    """
    if shots < 1:
        raise BadInput(f"{shots} shots; at least one example per class is needed")
    return shots * max(1, labels)


def aligned(measure: Mapping[tuple[str, str], float], sources: Sequence[str], targets: Sequence[str]) -> Floats:
    """(sources, targets) of values by pair; NaN where there is none."""
    return np.array([[measure.get((s, t), np.nan) for t in targets] for s in sources], dtype=float)
