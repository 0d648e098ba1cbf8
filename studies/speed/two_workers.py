"""How much faster two workers are than one: a study carried out by the engine `pool` with each, by turns.

    OMP_NUM_THREADS=1 python studies/speed/two_workers.py studies/smoke.yaml --rounds 5

The workers are started, and have read backbone and tasks, before anything is timed; every turn has a new store and the
whole study to do. Who goes first changes from round to round. One JSON object: the seconds of every round, the ratio of
one worker's to two workers' in each, its median and its spread. On a machine that does anything else the ratio is worth
nothing.
"""

import argparse
import json
import os
import statistics
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import networkx as nx

import deltacompose as dc
from deltacompose.api import engine_of
from deltacompose.cells.grouping import by_expression
from deltacompose.cells.worker_sources import options_of
from deltacompose.engine import Work, run_plan
from deltacompose.store import open_store

ARMS = (1, 2)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("study", type=Path)
    parser.add_argument("--rounds", type=int, default=5)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="two-workers-") as folder:
        print(json.dumps(measured(dc.Study.read(given.study), given.rounds, Path(folder))))


def measured(study: dc.Study, rounds: int, folder: Path) -> dict[str, Any]:
    """The seconds of each arm in each round, and their ratio."""
    load = os.getloadavg()[0]
    plan, options = dc.plan(study), options_of(study) | {"bank": 1}
    pools = {workers: engine_of("pool")({"workers": workers}) for workers in ARMS}

    def seconds(workers: int, place: Path) -> float:
        store = open_store(place)
        began = time.perf_counter()
        outcome = run_plan(plan, store, pools[workers], Work(group=by_expression), options)
        if outcome.failed:
            raise RuntimeError(f"the study does not run: {next(iter(outcome.failed.values()))}")
        return time.perf_counter() - began

    try:
        for workers in ARMS:
            _warm(plan, options, pools[workers], workers, folder / f"warm{workers}")
        taken = {workers: [0.0] * rounds for workers in ARMS}
        for turn in range(rounds):
            for workers in ARMS if turn % 2 else reversed(ARMS):
                taken[workers][turn] = seconds(workers, folder / f"{turn}-{workers}")
    finally:
        for one in pools.values():
            one.close()
    ratios = [one / two for one, two in zip(taken[1], taken[2], strict=True)]
    spread = {"median": statistics.median(ratios), "least": min(ratios), "most": max(ratios)}
    machine = {"cores": len(os.sched_getaffinity(0)), "load_before": round(load, 2)}
    facts = {"study": study.name, "cells": len(plan), **machine, "rounds": rounds}
    rounded = {f"seconds_{workers}": [round(s, 2) for s in taken[workers]] for workers in ARMS}
    return facts | rounded | {"one_over_two": {name: round(value, 3) for name, value in spread.items()}}


def _warm(plan: nx.DiGraph, options: Mapping[str, Any], executor: Any, workers: int, place: Path) -> None:
    """Let each worker evaluate the untouched backbone on every task, in a store of its own, all at once."""
    first = [cell for _, cell in plan.nodes(data="cell") if cell.kind == "evaluate" and not cell.parents]
    cells = [{"kind": c.kind, "spec": dict(c.spec), "parents": []} for c in first]
    stores = [open_store(place / str(number)) for number in range(workers)]
    specs = [{"store": str(store.root), "cells": cells, "options": dict(options)} for store in stores]
    for future in [executor.submit("deltacompose.cells.carry_out:carry_out", spec) for spec in specs]:
        future.result()


if __name__ == "__main__":
    main()
