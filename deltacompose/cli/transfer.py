"""What `deltacompose transfer` adds to the matrix: starts from other tasks, stacks, swaps; and its files."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from deltacompose.analysis.interaction.composition_text import stages
from deltacompose.analysis.matrix import Floats, TransferMatrix
from deltacompose.analysis.transfer import files as tables
from deltacompose.analysis.transfer.part_swaps import swap_effects, swap_matrices
from deltacompose.analysis.transfer.summaries import initialisation_transfer, stack_effect
from deltacompose.cli.inputs import Material
from deltacompose.errors import BadInput


def further(given: Material, text: str) -> dict[str, Any]:
    """`initialisation`: training from another task's weights; `stacks`: C under this composition minus C under a part;
    `swaps`: one part from another task.

    They are None or empty where the study did not ask for them.
    """
    swaps = swap_matrices(given.records, text, given.categories, given.split) if given.records else {}
    return {
        "initialisation": _initialisation(given, text),
        "stacks": list(_stacks(given.matrices, text)),
        "swaps": swap_effects(swaps, given.matrices, text),
    }


def write(matrices: Mapping[str, TransferMatrix], stems: Mapping[str, str], out: Path) -> None:
    """`transfer.csv`, the tidy table, `scores.csv`, the plain one, and the heatmaps as PDF and PNG."""
    from deltacompose.figures.style import save, styled
    from deltacompose.report import figures as pictures

    for text, matrix in matrices.items():
        tables.write(matrix, out / f"{stems[text]}transfer.csv")
        tables.write_scores(matrix, out / f"{stems[text]}scores.csv")
        for drawing in pictures.heatmaps(matrix):
            with styled():
                figure = drawing.draw()
                for kind in ("pdf", "png"):
                    save(figure, out / f"{stems[text]}{drawing.name}.{kind}")


def absent(matrix: TransferMatrix) -> list[str]:
    """Which heatmaps `write` leaves out, and why."""
    from deltacompose.report import figures as pictures

    return list(pictures.not_drawn(matrix))


def _initialisation(given: Material, text: str) -> dict[str, Any] | None:
    records = [record for record in given.records if record["kind"] in ("train", "evaluate")]
    if not any(record["spec"].get("start") for record in records if record["spec"].get("composition") == text):
        return None
    found = initialisation_transfer(records, text, given.split)
    values = {
        "lift": found.lift(),
        "lift_on_test": found.lift_on_test(),
        "steps": found.steps,
        "saved": found.saved(),
    }
    return {
        "sources": list(found.sources),
        "targets": list(found.targets),
        "seeds": list(found.seeds),
        **{f"mean_{name}": _mean(array) for name, array in values.items()},
        **{name: _listed(array) for name, array in values.items()},
        "reached": float(found.reached().mean()),
        "failed": int(found.failed.sum()),
    }


def _stacks(matrices: Mapping[str, TransferMatrix], text: str) -> Iterator[dict[str, Any]]:
    """Against every other composition with a matrix all of whose methods this one has too."""
    for other, alone in matrices.items():
        if other == text or not _methods(other) < _methods(text):
            continue
        try:
            effect = stack_effect(matrices[text], alone)
        except BadInput as reason:
            yield {"alone": other, "mean": None, "limitations": [str(reason)]}
            continue
        estimate = asdict(effect.mean) if effect.mean else None
        known = {n: None if isinstance(v, float) and np.isnan(v) else v for n, v in (estimate or {}).items()}
        yield {"alone": other, "mean": known or None, "limitations": list(effect.limitations)}


def _methods(text: str) -> set[str]:
    return {method for stage in stages(text) for method in stage}


def _mean(values: Floats) -> float | None:
    known = values[~np.isnan(values)]
    return float(known.mean()) if len(known) else None


def _listed(values: Floats) -> Any:
    """Nested lists, None for NaN."""
    listed = values.astype(object)
    listed[np.isnan(values)] = None
    return listed.tolist()
