"""What the cost model predicts of a finished store's cells, against the seconds and bytes that they took.

    deltacompose run studies/speed/cost.yaml --engine inprocess
    python studies/speed/cost_against_measured.py studies/speed/cost.yaml [--store results/cost] [--json]

Two predictions are compared, both as `deltacompose plan` makes them: seconds from the cells' operations and passes that
are timed now, on this machine, which a plan uses before anything is stored; and, of each cell, from the operations and
the seconds of the other cells of its kind, which it uses from then on. Where the study measures `efficiency`, the bytes
that a training takes beside the weights are compared too. A busy machine is no clock: run it where the cells ran.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from statistics import median
from typing import Any

from scipy.stats import spearmanr

from deltacompose import api
from deltacompose.cells.step_memory import step_bytes
from deltacompose.cells.study_facts import facts, sample, speed_of
from deltacompose.cli import output
from deltacompose.cli.study import store_of
from deltacompose.errors import BadInput
from deltacompose.planning import flops
from deltacompose.planning.facts import Facts
from deltacompose.planning.flops import WEIGHT_BYTES, Memory, delta_bytes
from deltacompose.store import Store, open_store
from deltacompose.study import Cell, Study

Timed = tuple[Cell, float]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("study", type=Path)
    parser.add_argument("--store", type=Path, help="folder of the results; results/<study> if not given")
    parser.add_argument("--json", action="store_true", help="one JSON object instead of tables")
    given = parser.parse_args()
    try:
        found = compared(Study.read(given.study), open_store(store_of(given.study, given.store), create=False))
    except BadInput as error:
        parser.error(str(error))
    if given.json:
        return output.write_json(found)
    for rows in (found["seconds"], found["memory"]):
        if rows:
            output.print_table(rows, tuple(rows[0]))
    return None


def compared(study: Study, store: Store) -> dict[str, list[dict[str, Any]]]:
    """Rows of `seconds` by kind and composition, and of `memory` by composition."""
    cells: Mapping[str, Cell] = dict(api.plan(study).nodes(data="cell"))
    speeds = speed_of(study, facts(study), bank=8)
    kinds: dict[str, list[Timed]] = {}
    for key, cell in cells.items():
        if cell.cost and store.has(key):
            kinds.setdefault(cell.kind, []).append((cell, store.record(key)["seconds"]))
    rows = []
    for kind, own in sorted(kinds.items()):
        rate = speeds.get(kind, speeds["train"])
        rows.append(_row(kind, "all", own, own, rate))
        for text in dict.fromkeys(str(cell.spec["composition"] or "untouched") for cell, _ in own):
            part = [one for one in own if str(one[0].spec["composition"] or "untouched") == text]
            rows.append(_row(kind, text, part, own, rate))
    return {"seconds": rows, "memory": list(_memory(study, facts(study), cells, store))}


def _row(kind: str, text: str, part: Sequence[Timed], own: Sequence[Timed], rate: float) -> dict[str, Any]:
    """Of some cells of a kind.

    `ratio` is predicted by the calibration over measured; `error` the median over cells of how far a cell is from what
    the other cells of its kind say of it, as a fraction; `rank` Spearman's correlation of operations with seconds.
    """
    seconds = [took for _, took in part]
    predicted = sum(cell.cost for cell, _ in part) / rate
    costs = [cell.cost for cell, _ in part]
    varied = len(set(costs)) > 1 and len(set(seconds)) > 1
    return {
        "kind": kind,
        "composition": text,
        "cells": len(part),
        "measured s": sum(seconds),
        "predicted s": predicted,
        "ratio": predicted / sum(seconds),
        "error": _error(part, own),
        "rank": float(spearmanr(costs, seconds).statistic) if varied else None,
    }


def _error(part: Sequence[Timed], own: Sequence[Timed]) -> float | None:
    work_done, spent = sum(cell.cost for cell, _ in own), sum(took for _, took in own)
    if len(own) < 2:
        return None
    said = [cell.cost * (spent - took) / (work_done - cell.cost) for cell, took in part]
    return median(abs(one / took - 1) for one, (_, took) in zip(said, part, strict=True))


def _memory(study: Study, facts: Facts, cells: Mapping[str, Cell], store: Store) -> Iterator[dict[str, Any]]:
    """Megabytes that one delta's training takes beside the backbone: estimated, and measured in a process of its own.

    On a CPU what is measured is the growth of the process's peak, which what loading the backbone took may hide.
    """
    weights = WEIGHT_BYTES[study.backbone.dtype]
    for key, cell in cells.items():
        if cell.kind != "efficiency" or not store.has(key):
            continue
        task, recipe = facts.tasks[cell.spec["task"]], study.recipe(0)
        delta = facts.deltas[str(api.parse(cell.spec["composition"]))]
        how = Memory(weights, max(weights, 2.0), 1, recipe.checkpointing)
        whole = flops.memory(facts.shape, task.lengths, delta, min(recipe.batch, task.rows["train"]), how)
        found = store.record(key)["result"]
        measured = (found["peak_memory"] - found["backbone_memory"]) / 1e6
        predicted = (whole - weights * facts.shape.total) / 1e6
        names = {"composition": cell.spec["composition"], "task": cell.spec["task"]}
        rows = min(recipe.batch, task.rows["train"])
        step = step_bytes(sample(study, cell.spec["task"]), api.parse(cell.spec["composition"]), rows)
        of_step = None if step is None else (step.peak + delta_bytes(delta)) / 1e6
        yield {**names, "measured MB": measured, "by the step MB": of_step, "by the formula MB": predicted}


if __name__ == "__main__":
    main()
