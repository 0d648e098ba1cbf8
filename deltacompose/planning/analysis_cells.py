"""The cells that analyses need from the model in addition to training and evaluation: probes, subspaces, swapped parts.

Each reads trained deltas and is planned only where a study asks for it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import asdict
from typing import Any, Protocol

from deltacompose.analysis.similarity.stored_arrays import ANSWERED, PROBED
from deltacompose.composition import Composition
from deltacompose.study.config import Cell, Study, SubspaceChoice

EXAMPLES = 32
"""Training examples whose gradients a probe takes."""
BATCH = 8
"""Rows of each task per step of an autoencoder."""

SUBSPACE_METHOD = "intrinsic_prompt"
"""The method whose coordinates are trained within a subspace of prompts."""

Trained = Mapping[tuple[Composition, str, int], tuple[Cell, ...]]
"""For each composition, task and seed what gives the trained delta: its cell, or a selection and its choices."""


class Planner(Protocol):
    """Facts of the plan, and how it writes a task's data into a spec."""

    @property
    def study(self) -> Study:
        """The study that is planned."""
        ...

    @property
    def needs(self) -> tuple[str, ...]:
        """The arrays that the study's measures need."""
        ...

    @property
    def version(self) -> int:
        """The version of the cells' keys."""
        ...

    @property
    def width(self) -> int:
        """The width of the backbone's states."""
        ...

    def cell(self, kind: str, spec: Mapping[str, Any], parents: tuple[str, ...] = (), cost: float = 0.0) -> Cell: ...

    def data(self, role: str, task: str) -> dict[str, Any]: ...

    def methods(self, expression: Composition) -> dict[str, Any]: ...

    def code_of(self, *names: str) -> dict[str, Any]: ...

    def choice(self, task: str) -> bool: ...

    def evaluation_cost(self, composition: str | None, task: str, split: str) -> float: ...

    def training_cost(self, composition: str, task: str, recipe: Mapping[str, Any]) -> float: ...

    def step_cost(self, composition: str, task: str, batch: int) -> float: ...

    def rows(self, task: str, split: str) -> int: ...

    def trained(self, composition: str) -> int: ...

    def train(self, expression: Composition, task: str, seed: int, factor: float) -> list[Cell]: ...

    def evaluate(self, source: str, target: str, seed: int, trained: Cell | None) -> Cell: ...


def further(planner: Planner, trained: Trained) -> Iterator[Cell]:
    """All such cells of a study."""
    study = planner.study
    for expression in dict.fromkeys(expression for expression, _, _ in trained):
        text = str(expression)
        for seed in study.seeds:
            own = {task: trained[expression, task, seed] for task in study.tasks}
            yield from _probes(planner, expression, seed, own)
            if study.swap:
                yield from _swaps(planner, (text, expression), seed, own)
            if study.subspace is not None and study.subspace.composition == text:
                yield from _subspaces(planner, expression, seed, own)


def _probes(
    planner: Planner, expression: Composition, seed: int, own: Mapping[str, tuple[Cell, ...]]
) -> Iterator[Cell]:
    text = str(expression)
    for source, cells in own.items():
        about = {"composition": text, "source": source, "seed": seed, "limit": planner.study.training.limit}
        for need in PROBED:
            if need in planner.needs:
                examples = {} if need == "activations" else {"examples": EXAMPLES}
                spec = {**about, "array": need, **examples, **planner.data("source", source)}
                parents = () if need == "gradients" else _keys(cells)
                if not parents and planner.version > 1:  # no parent names the methods
                    spec |= {"settings": expression.describe(), **planner.methods(expression)}
                rows = min(EXAMPLES, planner.rows(source, "train"))
                cost = rows * planner.step_cost(text, source, 1) if examples else 0.0
                yield planner.cell("probe", spec, parents, cost)
        for need in ANSWERED:
            for target in own if need in planner.needs else ():
                if need == "predictions" or (planner.choice(source) and planner.choice(target)):
                    spec = {**about, "array": need, "target": target, "split": "val"}
                    spec |= planner.data("target", target)
                    if need == "probabilities":
                        spec["source_data"] = planner.data("source", source)["data"]
                    yield planner.cell("probe", spec, _keys(cells), planner.evaluation_cost(text, target, "val"))


def _swaps(
    planner: Planner, composition: tuple[str, Composition], seed: int, own: Mapping[str, tuple[Cell, ...]]
) -> Iterator[Cell]:
    """Each part of each target's delta taken from each other source: where there is more than one part."""
    text, expression = composition
    parts = list(expression.parts())
    for prefix, part in parts if len(parts) > 1 else ():
        for target in own:
            for source in own:
                if source != target:
                    spec = {
                        "composition": text,
                        "part": prefix,
                        "method": str(part),
                        "source": source,
                        "seed": seed,
                        "split": planner.study.split,
                        "limit": planner.study.training.limit,
                        **planner.data("target", target),
                    }
                    cost = planner.evaluation_cost(text, target, planner.study.split)
                    yield planner.cell("swap", spec, _keys(own[target]) + _keys(own[source]), cost)


def _subspaces(
    planner: Planner, expression: Composition, seed: int, own: Mapping[str, tuple[Cell, ...]]
) -> Iterator[Cell]:
    """The subspace of the seen tasks' deltas, and the readouts of every task."""
    study, chosen = planner.study, planner.study.subspace
    if chosen is None:
        return
    seen = list(chosen.seen or study.tasks)
    space = _space(planner, seed, seen, own)
    yield space
    prompt = [part.name for _, part in expression.parts()] == ["prompt"]
    for task in study.tasks:
        about = {"composition": chosen.composition, "source": task, "seed": seed, "split": study.split}
        about |= {"limit": study.training.limit, **planner.data("target", task)}
        cost = planner.evaluation_cost(chosen.composition, task, study.split)
        yield planner.cell("reconstruct", about | {"examples": "same"}, (space.key, *_keys(own[task])), cost)
        for examples in _rows(study, task, seen) if prompt and chosen.tune else ():
            recipe = asdict(study.training)
            tuned = planner.training_cost(chosen.composition, task, recipe) + cost
            several = {"processes": study.processes} if study.processes > 1 else {}
            spec = about | {"examples": examples, "recipe": recipe} | several | planner.code_of(SUBSPACE_METHOD)
            yield planner.cell("tune", spec, (space.key,), tuned)


def _rows(study: Study, task: str, seen: list[str]) -> tuple[str, ...]:
    """A seen task is tuned on the rows that its delta knows and, where a study leaves rows unread, on others."""
    if task in seen and (study.shots is not None or study.rows.train is not None):
        return ("same", "new")
    return ("same",)


def _space(planner: Planner, seed: int, seen: list[str], own: Mapping[str, tuple[Cell, ...]]) -> Cell:
    study, chosen = planner.study, planner.study.subspace
    if chosen is None:
        raise ValueError("a study without a subspace has no cell that learns one")
    first = planner.data("task", seen[0])
    spec = {
        "composition": chosen.composition,
        "seen": seen,
        "data": {task: planner.data("task", task)["data"] for task in seen},
        "seed": seed,
        "way": chosen.way,
        "dimensions": chosen.dimensions,
        "settings": {
            "dimensions": chosen.dimensions,
            "hidden": chosen.hidden,
            "steps": chosen.steps if chosen.way == "autoencoder" else 1,
            "alpha": chosen.alpha,
        },
        "batch": BATCH,
        "limit": study.training.limit,
        **{name: value for name, value in first.items() if name not in ("task", "data")},
    }
    cost = _space_cost(planner, chosen, seen)
    return planner.cell("subspace", spec, tuple(key for task in seen for key in _keys(own[task])), cost)


def _space_cost(planner: Planner, chosen: SubspaceChoice, seen: list[str]) -> float:
    """Operations of learning a subspace of n deltas of p parameters.

    Principal components are those of the n × n matrix of products. A step of the autoencoder is a batch of each task,
    forward and backward, and, of its own w weights, 6 · n · w operations and 20 · w of Adam.
    """
    parameters = planner.trained(chosen.composition)
    if chosen.way == "pca":
        return 2.0 * len(seen) ** 2 * parameters
    hidden = chosen.hidden or planner.width
    own = parameters * (chosen.dimensions + hidden) + chosen.dimensions * hidden
    passes = sum(planner.step_cost(chosen.composition, task, min(BATCH, planner.rows(task, "train"))) for task in seen)
    return chosen.steps * (passes + (6 * len(seen) + 20) * own)


def _keys(cells: tuple[Cell, ...]) -> tuple[str, ...]:
    return tuple(cell.key for cell in cells)
