"""The contract of a similarity measure: what it needs of every task, and the matrix that it makes of them.

A measure is a record with one pure function. It enters by the hook `deltacompose_measures`, which returns a mapping of
names to measures; `compare` checks what it is given and names the task that does not fit.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

import numpy as np
import numpy.typing as npt

from deltacompose.errors import BadInput, unknown

Array = npt.NDArray[np.float64]
Factors = Mapping[str, tuple[npt.NDArray[Any], npt.NDArray[Any]]]
"""Low-rank weight deltas of one task: place -> (up `(out, rank)`, down `(rank, in)`), ΔW = up · down."""

Needs = Literal[
    "weights",
    "prompts",
    "low_rank",
    "activations",
    "gradients",
    "drawn_gradients",
    "predictions",
    "probabilities",
    "features",
]

NEEDS: Mapping[str, str] = {
    "weights": "one array (parameters,) per task: its delta's tensors, flattened and joined in the order of names",
    "prompts": "one array (tokens, width) per task: its trained soft prompt",
    "low_rank": "per task a mapping place -> (up (out, rank), down (rank, in)); ranks may differ between tasks",
    "activations": "one array (layers, neurons) per task: what is between the two feed-forward layers",
    "gradients": "one array (examples, parameters) per task: the loss gradient of each example at its true answer",
    "drawn_gradients": "one array (examples, parameters) per task: the gradient of log p(y|x) of each example, y drawn "
    "from the model's own p(y|x)",
    "predictions": "for each target its true answers (examples,), and of each source the predicted answers (examples,)",
    "probabilities": "for each target its true answers (examples,), and of each source the probabilities "
    "of its own labels, (examples, source labels)",
    "features": "for each target its true answers (examples,), and of each source the features (examples, width)",
}
"""Arrays that each need stands for, with named axes."""


@dataclass(frozen=True, eq=False)
class Responses:
    """Answers of every source's delta on the examples of one target task.

    Attributes:
        labels: the true answers, (examples,).
        by_source: one array per source, in the order of the tasks; its first axis is that of `labels`.
    """

    labels: npt.NDArray[Any]
    by_source: Sequence[npt.NDArray[Any]]


@dataclass(frozen=True)
class Measure:
    """A way of saying how near two tasks are.

    Attributes:
        name: what it is called in tables and on the command line.
        needs: which arrays it reads; `NEEDS` states their axes.
        function: from those arrays of N tasks, in order, to an (N, N) matrix; `[i, j]` is source i against target j.
        range: least and greatest value.
        invariances: what may be done to the arrays without changing the value.
        source: the paper, with the equation where it has a number.
        distance: small means near.
        directed: `[i, j]` and `[j, i]` differ.
    """

    name: str
    needs: Needs
    function: Callable[[Any], Array]
    range: tuple[float, float]
    invariances: str
    source: str
    distance: bool = False
    directed: bool = False

    def nearness(self, matrix: Array) -> Array:
        """The matrix turned so that greater is nearer: what a predictor of transfer ranks by."""
        return -matrix if self.distance else matrix


class Undefined(BadInput):
    """Tasks of which a measure says nothing, by their place in the order given, and why.

    >>> print(Undefined("its prompt is all zeros", [1]).of("cosine", ["qa", "nli"]))
    cosine has no value for nli: its prompt is all zeros
    """

    def __init__(self, reason: str, which: Iterable[int]) -> None:
        self.reason, self.which = reason, tuple(int(i) for i in which)
        super().__init__(f"{reason} (task number {', '.join(map(str, self.which))})")

    def of(self, measure: str, names: Sequence[str]) -> str:
        """The sentence with the tasks' names."""
        return f"{measure} has no value for {', '.join(names[i] for i in self.which)}: {self.reason}"


def named(name: str, measures: Mapping[str, Measure]) -> Measure:
    """The measure of that name; an unknown one is an error with the nearest spelling."""
    if name not in measures:
        raise unknown("measure", name, measures)
    return measures[name]


def compare(measure: Measure, tasks: Mapping[str, Any]) -> Array:
    """The (N, N) matrix of a measure over tasks, in the order of the mapping.

    Args:
        measure: the measure.
        tasks: for each task what `NEEDS[measure.needs]` asks for.

    Raises:
        BadInput: fewer than two tasks, unequal shapes, values that are not finite, or an undefined result, which is
            `Undefined` where it is known of which tasks.
    """
    if len(tasks) < 2:
        raise BadInput(f"{measure.name} compares tasks with each other: at least 2 are needed, {len(tasks)} given")
    if measure.needs not in get_args(Needs):
        raise unknown("need", measure.needs, get_args(Needs))
    matrix = measure.function(_CHECKS[measure.needs](tasks))
    if not np.isfinite(matrix).all():
        i, j = np.argwhere(~np.isfinite(matrix))[0]
        names = list(tasks)
        raise BadInput(f"{measure.name} is undefined between {names[i]!r} and {names[j]!r} (it gives {matrix[i, j]})")
    return matrix


def stack(tasks: Mapping[str, Any], axes: tuple[str, ...]) -> Array:
    """Equal arrays of N tasks as one (N, *axes) array; the task that differs is named."""
    arrays = {name: _finite(name, value, axes) for name, value in tasks.items()}
    first, *others = arrays
    for name in others:
        if arrays[name].shape != arrays[first].shape:
            raise BadInput(
                f"{name!r} has shape {arrays[name].shape} and {first!r} {arrays[first].shape}; "
                f"all tasks need the same ({', '.join(axes)})"
            )
    return np.stack(list(arrays.values()))


def _finite(name: str, value: Any, axes: tuple[str, ...]) -> Array:
    array = np.asarray(value, dtype=np.float64)
    if array.ndim != len(axes) or not array.size:
        raise BadInput(
            f"{name!r} has an array of shape {array.shape}; expected ({', '.join(axes)}), none of them empty"
        )
    if not np.isfinite(array).all():
        raise BadInput(f"{name!r} has {int((~np.isfinite(array)).sum())} values that are not finite")
    return array


def _gradients(tasks: Mapping[str, Any]) -> list[Array]:
    """Per-example gradients: the tasks share their parameters, not their number of examples."""
    arrays = {name: _finite(name, value, ("examples", "parameters")) for name, value in tasks.items()}
    widths = {name: array.shape[1] for name, array in arrays.items()}
    if len(set(widths.values())) > 1:
        raise BadInput(f"the tasks need gradients of the same parameters; their numbers are {widths}")
    return list(arrays.values())


def _low_rank(tasks: Mapping[str, Factors]) -> list[Factors]:
    first = next(iter(tasks))
    expected = _shapes(first, tasks[first])
    for name, factors in tasks.items():
        if _shapes(name, factors) != expected:
            raise BadInput(
                f"{name!r} changes {_shapes(name, factors)} and {first!r} {expected}; all need the same places"
            )
    return list(tasks.values())


def _shapes(name: str, factors: Factors) -> dict[str, tuple[int, int]]:
    """place -> (out, in) of the weights that the factors change."""
    if not factors:
        raise BadInput(f"{name!r} has no low-rank factors")
    shapes = {}
    for place, (up, down) in factors.items():
        _finite(f"{name}: {place}", up, ("out", "rank"))
        _finite(f"{name}: {place}", down, ("rank", "in"))
        if up.shape[1] != down.shape[0]:
            raise BadInput(f"{name!r} has up {up.shape} and down {down.shape} at {place!r}; their ranks must agree")
        shapes[place] = (up.shape[0], down.shape[1])
    return shapes


def _responses(tasks: Mapping[str, Responses]) -> list[Responses]:
    for name, target in tasks.items():
        if len(target.by_source) != len(tasks):
            raise BadInput(f"target {name!r} has answers of {len(target.by_source)} sources; {len(tasks)} are compared")
        for source, answers in zip(tasks, target.by_source):
            if len(answers) != len(target.labels):
                raise BadInput(
                    f"{source!r} has {len(answers)} answers on target {name!r}, which has {len(target.labels)} examples"
                )
    return list(tasks.values())


def _numeric_responses(tasks: Mapping[str, Responses]) -> list[Responses]:
    checked = _responses(tasks)
    for name, target in tasks.items():
        for source, answers in zip(tasks, target.by_source):
            _finite(f"{source} on {name}", answers, ("examples", "width"))
    return checked


_CHECKS: Mapping[str, Callable[[Mapping[str, Any]], Any]] = {
    "weights": lambda tasks: stack(tasks, ("parameters",)),
    "prompts": lambda tasks: stack(tasks, ("tokens", "width")),
    "low_rank": _low_rank,
    "activations": lambda tasks: stack(tasks, ("layers", "neurons")),
    "gradients": _gradients,
    "drawn_gradients": _gradients,
    "predictions": _responses,
    "probabilities": _numeric_responses,
    "features": _numeric_responses,
}
