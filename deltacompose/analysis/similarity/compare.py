"""Every measure that some tasks allow, with its matrix for each seed, and what the other measures lack."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import pandas as pd

from deltacompose.analysis.labelled import labelled
from deltacompose.analysis.matrix import TransferMatrix
from deltacompose.analysis.similarity.formulas import neuron_overlap_windows
from deltacompose.analysis.similarity.measure import Array, Measure, Needs, Undefined, compare, named
from deltacompose.errors import BadInput, quoted
from deltacompose.formats.array_files import read_arrays

if TYPE_CHECKING:
    import xarray

ROUNDING = 1e-12
"""Values all of which are as near to each other, absolutely or as a share of them, differ by rounding alone."""


class Deltas(Protocol):
    """Where the arrays of tasks come from: a store's deltas, or a file of prompts."""

    @property
    def seeds(self) -> tuple[int, ...]:
        """The seeds of the deltas."""
        ...

    @property
    def tasks(self) -> tuple[str, ...]:
        """The tasks, in the order of the rows of a matrix."""
        ...

    def read(self, need: Needs, seed: int) -> Mapping[str, Any]:
        """The arrays described by `NEEDS[need]`, by task. Raises BadInput if one is missing."""
        ...


@dataclass(frozen=True, eq=False)
class Comparison:
    """One measure's values.

    Attributes:
        measure: how they are to be read.
        tasks: rows (sources) and columns (targets).
        seeds: those whose deltas had what the measure needs.
        values: (seeds, tasks, tasks).
        left_out: tasks that have deltas and no values.
        limitations: what a reader must know, one sentence each.
    """

    measure: Measure
    tasks: tuple[str, ...]
    seeds: tuple[int, ...]
    values: Array
    left_out: tuple[str, ...] = ()
    limitations: tuple[str, ...] = ()

    @cached_property
    def mean(self) -> Array:
        """(tasks, tasks), averaged over seeds."""
        return np.asarray(self.values.mean(axis=0))

    def nearness(self) -> pd.DataFrame:
        """The mean with names on both axes, turned so that greater is nearer."""
        return self._named(self.measure.nearness(self.mean))

    def frame(self) -> pd.DataFrame:
        """The mean with names on both axes, as the measure gives it."""
        return self._named(self.mean)

    def to_pandas(self) -> pd.DataFrame:
        """The tidy table: one row per seed, source and target, with the value of the measure."""
        rows = [
            {
                "measure": self.measure.name,
                "seed": seed,
                "source": source,
                "target": target,
                "value": self.values[k, s, t],
            }
            for k, seed in enumerate(self.seeds)
            for s, source in enumerate(self.tasks)
            for t, target in enumerate(self.tasks)
        ]
        return pd.DataFrame(rows)

    def to_xarray(self) -> xarray.DataArray:
        """The values (seed, source, target) as an array with names, called as the measure is.

        Raises:
            BadInput: xarray is not installed.
        """
        names: dict[str, list[Any]] = {"seed": list(self.seeds), "source": list(self.tasks), "target": list(self.tasks)}
        return labelled(self.values, names, self.measure.name)

    @property
    def weighs(self) -> str:
        """Description of the values of `as_matrix` where they differ from the measure itself."""
        name = self.measure.name
        return f"greatest {name} minus {name}" if self.measure.distance else ""

    def as_matrix(self, composition: str = "", categories: Mapping[str, str] | None = None) -> TransferMatrix:
        """Nearness as the values of a square matrix, for graphs; distances become the greatest one minus each."""
        near = self.measure.nearness(self.values)
        near = near - near.min() if self.measure.distance else near
        whole, unknown_row = np.zeros(near.shape, dtype=bool), np.full(len(self.tasks), np.nan)
        return TransferMatrix(
            sources=self.tasks,
            targets=self.tasks,
            seeds=self.seeds,
            values=near,
            chance=unknown_row,
            untouched=unknown_row,
            random=np.tile(unknown_row, (len(self.seeds), 1)),
            trivial=whole,
            failed=whole,
            metric=(self.measure.name,) * len(self.tasks),
            categories=categories or {},
            composition=composition,
        )

    def described(self) -> dict[str, Any]:
        """All there is to say of it, ready for JSON."""
        of_tasks = self.measure
        facts = {name: getattr(of_tasks, name) for name in ("needs", "distance", "directed", "invariances", "source")}
        return {
            **facts,
            "range": [None if np.isinf(end) else end for end in of_tasks.range],
            "tasks": list(self.tasks),
            "seeds": list(self.seeds),
            "matrix": self.mean.tolist(),
            "spread": self.values.std(axis=0, ddof=1).tolist() if len(self.seeds) > 1 else None,
            "nearest": self._nearest(),
            "left_out": list(self.left_out),
            "limitations": [*self.limitations, *_of_few(self.tasks)],
        }

    def _named(self, matrix: Array) -> pd.DataFrame:
        return pd.DataFrame(matrix, index=list(self.tasks), columns=list(self.tasks))

    def _nearest(self) -> dict[str, str]:
        """For each target the nearest other task."""
        near = np.array(self.measure.nearness(self.mean))
        np.fill_diagonal(near, -np.inf)
        return {target: self.tasks[int(near[:, t].argmax())] for t, target in enumerate(self.tasks)}


def _of_few(tasks: Sequence[str]) -> list[str]:
    """Limitation of three tasks or fewer: all orders of three are six, so no test of two maps gives p below 1/6."""
    if len(tasks) > 3:
        return []
    return [f"{len(tasks)} tasks are too few to tell whether this map agrees with another one"]


def compare_all(
    measures: Mapping[str, Measure], deltas: Deltas, chosen: Sequence[str] = ()
) -> tuple[dict[str, Comparison], dict[str, str]]:
    """Every measure for which the deltas have what it needs, and for each other one the reason why not.

    Args:
        measures: the known ones by name.
        chosen: those that are wanted, all if none is named.

    Raises:
        BadInput: an unknown measure.
    """
    read = _remembering(deltas.read)
    compared: dict[str, Comparison] = {}
    lacking: dict[str, str] = {}
    for name in chosen or sorted(measures):
        try:
            compared[name] = _compared(named(name, measures), deltas, read)
        except BadInput as reason:
            if name not in measures:
                raise
            lacking[name] = str(reason)
    return compared, lacking


def windows(comparison: Comparison, deltas: Deltas, window: int = 3) -> list[dict[str, Any]]:
    """Overlap of activated neurons in every window of three layers, lowest first, over the tasks and seeds of `one`.

    Su et al. 2022 (arXiv 2111.06719) look at each such window, for the uppermost says most of transfer. How many there
    are depends on the backbone, so they accompany the measure of all layers and are not measures themselves. `layers`
    count from 0, an encoder's before its decoder's; `matrix` is the mean over seeds, None where a task activates no
    neuron in these layers.
    """
    of_seeds = []
    for seed in comparison.seeds:
        activations = deltas.read("activations", seed)
        stacked = np.stack([np.asarray(activations[task]) for task in comparison.tasks])
        layers = stacked.shape[1]
        window = min(window, layers)
        of_seeds.append(neuron_overlap_windows(stacked, window))
    means = np.mean(of_seeds, axis=0)
    return [
        {
            "layers": list(range(k * window, min((k + 1) * window, layers))),
            "matrix": None if np.isnan(mean).any() else mean.tolist(),
        }
        for k, mean in enumerate(means)
    ]


def _compared(measure: Measure, deltas: Deltas, read: Callable[[Needs, int], Mapping[str, Any]]) -> Comparison:
    """Over the seeds that have the arrays, which must be of the same tasks; the reason of the first if none has.

    Tasks of which the measure says nothing in some seed, such as a delta that stayed at its start, are left out.
    """
    arrays: dict[int, Mapping[str, Any]] = {}
    reasons: list[str] = []
    for seed in deltas.seeds:
        try:
            arrays[seed] = read(measure.needs, seed)
        except BadInput as reason:
            reasons.append(str(reason))
    if not arrays:
        raise BadInput(reasons[0] if reasons else f"there are no deltas that {measure.name} could compare")
    tasks = tuple(task for task in deltas.tasks if all(task in by_task for by_task in arrays.values()))
    tasks, values = _valued(measure, arrays, tasks, reasons)
    values = np.stack([_settled(matrix) for matrix in values])
    if all(_is_constant(matrix) for matrix in values):
        reasons.append(f"{measure.name} is the same between all tasks, up to rounding: it tells none of them apart")
    left_out = tuple(task for task in deltas.tasks if task not in tasks)
    return Comparison(measure, tasks, tuple(arrays), values, left_out, tuple(dict.fromkeys(reasons)))


def _settled(values: Array) -> Array:
    """(tasks, tasks): values that differ by rounding alone become one, so that nothing is ranked by it."""
    off = ~np.eye(len(values), dtype=bool)
    alike = np.ptp(values[off]) <= ROUNDING * max(1.0, float(np.abs(values[off]).max()))
    return np.where(off & alike, values[off].mean(), values)


def _is_constant(values: Array) -> bool:
    """Whether all off-diagonal values of at least three tasks are equal."""
    return len(values) > 2 and bool(np.ptp(values[~np.eye(len(values), dtype=bool)]) == 0)


def _valued(
    measure: Measure, arrays: Mapping[int, Mapping[str, Any]], tasks: tuple[str, ...], reasons: list[str]
) -> tuple[tuple[str, ...], Array]:
    """The tasks that have values in every seed, and the values; why the others have none is added to the reasons."""
    values = []
    for seed, of_seed in arrays.items():
        try:
            values.append(compare(measure, _only(of_seed, tasks, measure.needs)))
        except Undefined as undefined:
            reasons.append(f"{undefined.of(measure.name, tasks)} (seed {seed})")
            others = tuple(task for i, task in enumerate(tasks) if i not in undefined.which)
            if len(others) < 2:
                raise BadInput(reasons[-1]) from undefined
            return _valued(measure, arrays, others, reasons)
    return tasks, np.stack(values)


def _only(by_task: Mapping[str, Any], tasks: Sequence[str], need: Needs) -> dict[str, Any]:
    if tuple(by_task) != tuple(tasks) and need in ("predictions", "probabilities", "features"):
        raise BadInput(f"seeds differ in the tasks that have {need}: {', '.join(by_task)} against {', '.join(tasks)}")
    return {task: by_task[task] for task in tasks}


def _remembering(read: Callable[[Needs, int], Mapping[str, Any]]) -> Callable[[Needs, int], Mapping[str, Any]]:
    """Reads each need of each seed once, however many measures ask for it; a refusal is remembered too."""
    known: dict[tuple[Needs, int], Mapping[str, Any] | BadInput] = {}

    def remembered(need: Needs, seed: int) -> Mapping[str, Any]:
        if (need, seed) not in known:
            try:
                known[need, seed] = read(need, seed)
            except BadInput as reason:
                known[need, seed] = reason
        arrays = known[need, seed]
        if isinstance(arrays, BadInput):
            raise BadInput(str(arrays))
        return arrays

    return remembered


@dataclass(frozen=True, eq=False)
class Prompts:
    """Soft prompts by task, from a file: (tokens, width) each."""

    arrays: Mapping[str, Array]
    file: str

    @property
    def seeds(self) -> tuple[int, ...]:
        """One, called 0."""
        return (0,)

    @property
    def tasks(self) -> tuple[str, ...]:
        """In the order of the file."""
        return tuple(self.arrays)

    def read(self, need: Needs, seed: int) -> Mapping[str, Any]:
        """The prompts; nothing else is in such a file."""
        if need != "prompts":
            raise BadInput(f"{self.file} has soft prompts alone, no {need.replace('_', ' ')}")
        return self.arrays

    def only(self, tasks: Iterable[str]) -> Prompts:
        """Those of these tasks, in that order.

        Raises:
            BadInput: one of them has no prompt.
        """
        wanted = list(tasks)
        missing = [task for task in wanted if task not in self.arrays]
        if missing:
            raise BadInput(f"{self.file} has no prompt of {', '.join(missing)}; prompts: {', '.join(self.arrays)}")
        return Prompts({task: self.arrays[task] for task in wanted}, self.file)


def read_prompts(path: str | Path) -> Prompts:
    """The prompts of a `.npz` file: one array (tokens, width) for each task, by its name; nothing is unpickled.

    Raises:
        BadInput: no such file, something else than rows of finite numbers, unequal shapes, or a name twice.
    """
    shapes: dict[str, tuple[int, ...]] = {}

    def check(name: str, shape: tuple[int, ...], dtype: np.dtype[Any]) -> None:
        if len(shape) != 2 or not np.prod(shape) or not np.issubdtype(dtype, np.floating):
            raise BadInput(
                f"{path}: {quoted(name)} is of shape {shape} and type {dtype}; a prompt is (tokens, width), as float"
            )
        first, expected = next(iter(shapes.items()), (name, shape))
        if shape != expected:
            raise BadInput(
                f"{path}: {quoted(name)} has shape {shape} and {quoted(first)} {expected}; "
                "all prompts need the same (tokens, width)"
            )
        shapes[name] = shape

    arrays = read_arrays(Path(path), check)
    if not arrays:
        raise BadInput(f"{path} holds no prompts; expected a .npz file with an array (tokens, width) for each task")
    for name, array in arrays.items():
        if not np.isfinite(array).all():
            count = int((~np.isfinite(array)).sum())
            raise BadInput(f"{path}: the prompt of {quoted(name)} has {count} values that are not finite")
    return Prompts(arrays, str(path))
