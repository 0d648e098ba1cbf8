"""Checks of a similarity measure, on random arrays of the kind that it needs."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from deltacompose.analysis.similarity.measure import NEEDS, Array, Measure, Responses, compare
from deltacompose.checks.runner import Broken, Check
from deltacompose.errors import unknown

TASKS = 4
ROUNDING = 1e-6


@dataclass(eq=False)
class OfMeasure:
    """A measure with the random arrays of a few tasks."""

    measure: Measure

    def __str__(self) -> str:
        return f"measure {self.measure.name!r}"

    def broken(self, sentence: str) -> Broken:
        """The error that says what is wrong with the measure."""
        return Broken(f"{self}: {sentence}")

    def check_needs(self) -> None:
        """Refuses a need that does not exist."""
        if self.measure.needs not in NEEDS:
            raise self.broken(str(unknown("need", self.measure.needs, NEEDS)))

    def arrays(self, seed: int) -> dict[str, Any]:
        """The arrays of every task that the measure needs."""
        self.check_needs()
        return arrays(self.measure, np.random.default_rng(seed))


def stated(subject: OfMeasure) -> None:
    """The measure states what it needs, its range, its invariances and its source."""
    measure = subject.measure
    subject.check_needs()
    for name in ("name", "invariances", "source"):
        if not str(getattr(measure, name)).strip():
            raise subject.broken(f"it states no {name}")
    if not callable(measure.function):
        raise subject.broken(f"its function is a {type(measure.function).__name__}, which cannot be called")
    if not measure.range[0] < measure.range[1]:
        raise subject.broken(f"its range {measure.range} is empty")


def within_its_range(subject: OfMeasure) -> None:
    """A number for every two tasks, within the stated range."""
    for seed in range(3):
        matrix = np.asarray(compare(subject.measure, subject.arrays(seed)))
        low, high = subject.measure.range
        if matrix.shape != (TASKS, TASKS):
            raise subject.broken(f"of {TASKS} tasks it makes a matrix of shape {matrix.shape}")
        if matrix.min() < low - ROUNDING or matrix.max() > high + ROUNDING:
            raise subject.broken(
                f"it gives {matrix.min():g} to {matrix.max():g}; its stated range is {low:g} to {high:g}"
            )


def symmetric_unless_directed(subject: OfMeasure) -> None:
    """The matrix is symmetric, unless the measure says that it is directed."""
    matrix = compare(subject.measure, subject.arrays(1))
    symmetric = bool(np.allclose(matrix, matrix.T, atol=ROUNDING))
    if symmetric is subject.measure.directed:
        raise subject.broken(f"it says directed = {subject.measure.directed} and its matrix is {_said(symmetric)}")


def equal_in_any_order(subject: OfMeasure) -> None:
    """The order in which tasks are given changes no value."""
    arrays_of_tasks = subject.arrays(2)
    order = [2, 0, 3, 1]
    matrix = compare(subject.measure, arrays_of_tasks)
    reordered = compare(subject.measure, _reordered(arrays_of_tasks, order))
    if not np.allclose(reordered, matrix[np.ix_(order, order)], atol=ROUNDING):
        raise subject.broken("the same tasks in another order have other values")


def pure(subject: OfMeasure) -> None:
    """The same arrays give the same matrix, and are not changed."""
    arrays_of_tasks = subject.arrays(3)
    before = copy.deepcopy(arrays_of_tasks)
    first, again = (compare(subject.measure, arrays_of_tasks) for _ in range(2))
    if not np.array_equal(first, again):
        raise subject.broken("the same arrays give another matrix the second time")
    if not all(_equal(arrays_of_tasks[name], before[name]) for name in arrays_of_tasks):
        raise subject.broken("it changes the arrays that it is given")


def nearest_to_itself(subject: OfMeasure) -> None:
    """Of two tasks with the same arrays, neither is farther from the other than from a third."""
    arrays_of_tasks = subject.arrays(4)
    names = list(arrays_of_tasks)
    near = subject.measure.nearness(compare(subject.measure, arrays_of_tasks | {names[1]: arrays_of_tasks[names[0]]}))
    if near[0, 1] < near[0, 2:].max() - ROUNDING:
        raise subject.broken(
            f"two tasks with the same arrays are less near ({near[0, 1]:g}) than one of them and another "
            f"({near[0, 2:].max():g}); say distance = {not subject.measure.distance}, or turn the values round"
        )


def arrays(measure: Measure, source: np.random.Generator) -> dict[str, Any]:
    """Random arrays of a few tasks, by what the measure needs."""
    names = [f"task{k}" for k in range(TASKS)]

    def answers(of_one: Callable[[], Any]) -> list[Any]:
        return [Responses(source.integers(0, 3, 40), [of_one() for _ in names]) for _ in names]

    def factors() -> Mapping[str, tuple[Array, Array]]:
        return {place: (source.normal(size=(7, 2)), source.normal(size=(2, 9))) for place in ("a", "b")}

    makers: dict[str, Callable[[], list[Any]]] = {
        "weights": lambda: [source.normal(size=30) for _ in names],
        "prompts": lambda: [source.normal(size=(12, 16)) for _ in names],
        "low_rank": lambda: [factors() for _ in names],
        "activations": lambda: [source.normal(size=(6, 20)) for _ in names],
        "gradients": lambda: [source.normal(size=(5, 30)) for _ in names],
        "drawn_gradients": lambda: [source.normal(size=(5, 30)) for _ in names],
        "predictions": lambda: answers(lambda: source.integers(0, 3, 40)),
        "probabilities": lambda: answers(lambda: source.dirichlet(np.ones(3), 40)),
        "features": lambda: answers(lambda: source.normal(size=(40, 5))),
    }
    return dict(zip(names, makers[measure.needs](), strict=True))


def _reordered(arrays_of_tasks: Mapping[str, Any], order: list[int]) -> dict[str, Any]:
    names = list(arrays_of_tasks)
    return {names[k]: _sources_reordered(arrays_of_tasks[names[k]], order) for k in order}


def _sources_reordered(responses: Any, order: list[int]) -> Any:
    if not isinstance(responses, Responses):
        return responses
    return Responses(responses.labels, [responses.by_source[k] for k in order])


def _equal(a: Any, b: Any) -> bool:
    if isinstance(a, Mapping):
        return all(np.array_equal(x, y) for name in a for x, y in zip(a[name], b[name], strict=True))
    if isinstance(a, Responses):
        pairs = zip(a.by_source, b.by_source, strict=True)
        return np.array_equal(a.labels, b.labels) and all(np.array_equal(x, y) for x, y in pairs)
    return bool(np.array_equal(a, b))


def _said(symmetric: bool) -> str:
    return "symmetric" if symmetric else "not symmetric"


def _of_arrays(subject: OfMeasure) -> bool:
    """Answers and features are given for each target, where `the same arrays` says nothing."""
    return subject.measure.needs not in ("predictions", "probabilities", "features")


MEASURE_CHECKS = (
    Check(stated),
    Check(within_its_range),
    Check(symmetric_unless_directed),
    Check(equal_in_any_order),
    Check(pure),
    Check(nearest_to_itself, when=_of_arrays),
)
