"""The table of scores: compositions by tasks, with means over tasks, and the reference rows below."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from deltacompose.analysis.arrays import Floats
from deltacompose.analysis.matrix import TransferMatrix, mean_over_seeds
from deltacompose.analysis.transfer.findings import Findings
from deltacompose.analysis.units import deviation, ordered
from deltacompose.figures.style import counted, number


@dataclass(frozen=True)
class Column:
    """A column: `kind` is mean, category (the mean of one category) or task; `title` is what its head says."""

    kind: str
    name: str
    title: str
    category: str = ""


@dataclass(frozen=True)
class Cell:
    """A printed score, and the number to sort by; None where there is none."""

    text: str
    value: float | None


@dataclass(frozen=True)
class Row:
    """A composition or a reference with a cell for each column."""

    name: str
    cells: tuple[Cell, ...]


@dataclass(frozen=True)
class Scores:
    """The table; `categories` are those that the tasks have, `note` says how to read it."""

    columns: tuple[Column, ...]
    rows: tuple[Row, ...]
    references: tuple[Row, ...]
    categories: tuple[str, ...]
    note: str


def scores(findings: Findings) -> Scores | None:
    """Each composition on the tasks that it was trained on; None where nothing was evaluated.

    A mean over tasks is over those on which every composition has a score, so that means can be compared; its spread
    is the standard deviation over seeds of the mean over tasks.
    """
    matrices = findings.matrices
    if not matrices:
        return None
    kinds = {name: kind for matrix in matrices.values() for name, kind in matrix.categories.items()}
    tasks = ordered(dict.fromkeys(name for matrix in matrices.values() for name in matrix.targets), kinds)
    own = {text: _own(matrix, tasks) for text, matrix in matrices.items()}
    shared = [t for t in range(len(tasks)) if all((~np.isnan(each[:, t])).any() for each in own.values())]
    categories = tuple(sorted(set(kinds.values())))
    means = [("mean", "mean", "", shared)]
    means += [
        ("category", f"mean of {kind}", kind, [t for t in shared if kinds[tasks[t]] == kind]) for kind in categories
    ]
    metrics = {name: matrix.metric[t] for matrix in matrices.values() for t, name in enumerate(matrix.targets)}
    columns = [
        Column(kind, name, f"{name} ({counted(len(at), 'task')})", own_kind) for kind, name, own_kind, at in means
    ]
    columns += [Column("task", task, _title(task, metrics.get(task, "")), kinds.get(task, "")) for task in tasks]
    places = [at for _, _, _, at in means]
    rows = [
        Row(
            text,
            (*(_mean(each, at) for at in places), *(_score(matrices[text], each, tasks, t) for t in range(len(tasks)))),
        )
        for text, each in own.items()
    ]
    references = [_reference(name, levels, places) for name, levels in _levels(matrices, tasks).items()]
    return Scores(tuple(columns), tuple(rows), tuple(references), categories, _note(findings, len(shared), len(tasks)))


def _title(task: str, metric: str) -> str:
    return f"{task} ({metric})" if metric else task


def _own(matrix: TransferMatrix, tasks: Sequence[str]) -> Floats:
    """(seeds, tasks): the score of the delta that was trained on each task."""
    own = np.full((len(matrix.seeds), len(tasks)), np.nan)
    for t, task in enumerate(tasks):
        if task in matrix.targets:
            own[:, t] = matrix.own[:, matrix.targets.index(task)]
    return own


def _score(matrix: TransferMatrix, own: Floats, tasks: Sequence[str], t: int) -> Cell:
    known = own[~np.isnan(own[:, t]), t]
    if not len(known):
        task = tasks[t]
        here = task in matrix.sources and task in matrix.targets
        failed = here and matrix.failed[:, matrix.sources.index(task), matrix.targets.index(task)].any()
        return Cell("failed" if failed else "missing", None)
    lacking = f" ({len(known)} of {len(own)} seeds)" if len(known) < len(own) else ""
    return _printed(float(known.mean()), float(deviation(known[:, None])[0]), lacking)


def _mean(own: Floats, at: Sequence[int]) -> Cell:
    """Mean over tasks of the means over seeds, with the spread over the seeds that have every task."""
    if not len(at):
        return Cell("–", None)
    complete = own[~np.isnan(own[:, at]).any(axis=1)][:, at].mean(axis=1)
    spread = float(deviation(complete[:, None])[0]) if len(complete) else np.nan
    return _printed(float(mean_over_seeds(own[:, at]).mean()), spread)


def _printed(value: float, spread: float, note: str = "") -> Cell:
    text = number(value) + ("" if np.isnan(spread) else f" ± {number(spread)}")
    return Cell(text + note, round(value, 6))


def _levels(matrices: Mapping[str, TransferMatrix], tasks: Sequence[str]) -> dict[str, Floats]:
    """(tasks,) the untouched backbone and chance, from the first matrix that knows them."""
    levels = {name: np.full(len(tasks), np.nan) for name in ("untouched", "chance")}
    for matrix in matrices.values():
        for name, level in levels.items():
            for t, task in enumerate(tasks):
                if np.isnan(level[t]) and task in matrix.targets:
                    level[t] = getattr(matrix, name)[matrix.targets.index(task)]
    return {"untouched backbone": levels["untouched"], "chance": levels["chance"]}


def _reference(name: str, levels: Floats, places: Sequence[Sequence[int]]) -> Row:
    whole = [np.nan if not len(at) else float(levels[at].mean()) for at in map(list, places)]
    return Row(
        name,
        tuple(
            Cell("unknown", None) if np.isnan(v) else Cell(number(v), round(v, 6)) for v in (*whole, *levels.tolist())
        ),
    )


def _note(findings: Findings, shared: int, tasks: int) -> str:
    seeds = counted(len(findings.seeds), "seed")
    spread = (
        f"± is the standard deviation over {seeds}" if len(findings.seeds) > 1 else "one seed, so no spread is known"
    )
    over = (
        f"all {tasks} tasks"
        if shared == tasks
        else f"the {shared} of {tasks} tasks on which every composition has a score"
    )
    return (
        f"Score on the {findings.split} split of the task that each delta was trained on; {spread}. "
        f"The mean is over {over}. "
        "The last rows are the untouched backbone and chance, the best score without looking at the input."
    )
