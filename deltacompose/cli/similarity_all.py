"""`deltacompose similarity --all`: pairwise comparison of all deltas of a composition, over all tasks and seeds.

The deltas are written to one matrix in a file. Memory holds a block of it and the cosines, or only count-sketches: ten
thousand deltas of some hundred thousand parameters fit in a few GiB.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import typer
from numpy.typing import NDArray

from deltacompose.analysis.delta_tensors import FILE
from deltacompose.analysis.graph import construction as graphs
from deltacompose.analysis.similarity import large_scale as large
from deltacompose.analysis.similarity.stored_arrays import StoredDeltas
from deltacompose.cli import output
from deltacompose.cli.output import Answer
from deltacompose.errors import BadInput

SINGLES = 2**31
"""Bytes up to which the stacked deltas are kept in float32; larger stacks are float16."""


def compare(text: str, deltas: StoredDeltas, settings: tuple[int, int | None], out: Path | None, stem: str) -> Answer:
    """The nearest deltas of each by cosine, how often they are of its own task, and the spectrum of all.

    Args:
        settings: the number of neighbours, and the width of the count-sketches; None compares exactly.
        out: the folder for `<stem>neighbours.graphml`.
    """
    k, width = settings
    names = {f"{task}, seed {seed}": deltas.folder(key) for (task, seed), key in sorted(deltas.trained.items())}
    kind = _kind(names)
    with tempfile.TemporaryDirectory(prefix="deltas-") as folder:
        stack = large.collect(names, Path(folder) / "stack", kind)
        if width is None:
            inner = large.inner_products(stack)
            spectrum = large.spectrum(inner, min(10, len(names) - 1))
            near, weights = _nearest(large.cosines(inner), k)
        else:
            spectrum = None
            near, weights = large.neighbours(large.sketch(stack, min(width, stack.parameters)), k)
    if out is not None:
        out.mkdir(parents=True, exist_ok=True)
        graphs.write(large.neighbour_graph(stack.names, near, weights), out / f"{stem}neighbours.graphml")
    tasks = [task for task, _ in sorted(deltas.trained)]
    return {
        "composition": text,
        "deltas": len(names),
        "parameters": stack.parameters,
        "sketch": width,
        "dtype": kind,
        "spectrum": spectrum,
        "nearest_of_own_task": _of_own_task(tasks, near),
        "neighbours": _listed(stack.names, near, weights),
        "limitations": [
            "tensors are compared as they are stored: if different tensors give the same function, as low-rank "
            "factors can, the cosine depends on which of them training reached",
            *([] if kind == "float32" else [f"the deltas were compared in {kind}, which halves the size of the file"]),
        ],
    }


def _kind(names: Mapping[str, Path]) -> large.Kind:
    """The data type of the stacked deltas: float16 if float32 takes more than `SINGLES` bytes.

    Raises:
        BadInput: the folder for temporary files has too little free space.
    """
    size = sum((folder / FILE).stat().st_size for folder in names.values())  # in single precision
    kind: large.Kind = "float16" if size > SINGLES else "float32"
    needed, place = (size // 2 if kind == "float16" else size), tempfile.gettempdir()
    free = shutil.disk_usage(place).free
    if needed > free:
        raise BadInput(
            f"{len(names)} deltas take {needed / 2**30:.1f} GiB in {place}, which has {free / 2**30:.1f} GiB free; "
            "set TMPDIR to a folder with more room"
        )
    return kind


def _nearest(cosines: NDArray[np.float32], k: int) -> tuple[NDArray[np.intp], NDArray[np.float32]]:
    """The same as `large.neighbours`, from exact cosines, one row at a time."""
    if not 1 <= k < len(cosines):
        raise BadInput(
            f"k = {k} is not a valid number of neighbours (expected 1 to {len(cosines) - 1} for {len(cosines)} deltas)"
        )
    np.fill_diagonal(cosines, -np.inf)
    near = np.stack([_greatest(row, k) for row in cosines])
    return near, np.take_along_axis(cosines, near, axis=1)


def _greatest(row: NDArray[np.float32], k: int) -> NDArray[np.intp]:
    nearest = np.argpartition(-row, k - 1)[:k]
    return nearest[np.argsort(-row[nearest], kind="stable")]


def _of_own_task(tasks: list[str], near: NDArray[np.intp]) -> float | None:
    """The share of deltas whose nearest delta is of the same task; None if no task has two deltas."""
    if len(set(tasks)) == len(tasks):
        return None
    return float(np.mean([tasks[i] == tasks[row[0]] for i, row in enumerate(near)]))


def _listed(
    names: tuple[str, ...], near: NDArray[np.intp], weights: NDArray[np.float32]
) -> dict[str, dict[str, float]]:
    return {
        name: {names[j]: float(value) for j, value in zip(row, values, strict=True)}
        for name, row, values in zip(names, near, weights, strict=True)
    }


def print_answer(text: str, answer: Mapping[str, Any]) -> None:
    """Prints the sizes, the spectrum, and the first 20 deltas with their nearest neighbour."""
    typer.echo(f"{answer['deltas']} deltas of {answer['parameters']} parameters")
    if answer["spectrum"]:
        ratio, stable = answer["spectrum"]["participation_ratio"], answer["spectrum"]["stable_rank"]
        typer.echo(f"spectrum about the mean: participation ratio {ratio:.2f}, stable rank {stable:.2f}")
    if answer["nearest_of_own_task"] is not None:
        typer.echo(f"the nearest delta is of the same task for {answer['nearest_of_own_task']:.0%}")
    rows = []
    for name, near in list(answer["neighbours"].items())[:20]:
        other, value = next(iter(near.items()))
        rows.append({"delta": name, "nearest": other, "cosine": value})
    output.print_table(rows, ("delta", "nearest", "cosine"))
