"""Transfer by initialisation: train on the target from the source's weights (Vu et al. 2022, arXiv 2110.07904)."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from deltacompose.analysis.arrays import Bools, Floats
from deltacompose.analysis.labelled import dataset, tidy
from deltacompose.errors import BadInput, unknown
from deltacompose.study.new_tasks import MERGE
from deltacompose.study.queries import Record, is_done

if TYPE_CHECKING:
    import pandas as pd
    import xarray

Key = tuple[int, str, str]


@dataclass(frozen=True, eq=False)
class InitTransfer:
    """Scores of deltas that started from a source's weights, and the steps they took.

    Args:
        scores: (seeds, sources, targets), best development score of the run that started from the source; NaN is
            missing or failed.
        own: (seeds, targets), best development score of the run that started afresh.
        steps: (seeds, sources, targets), first evaluated step whose score is at least `own`; NaN if it never was.
        own_steps: (seeds, targets), first evaluated step at which the fresh run had its best score.
        test: (seeds, sources, targets), score on the evaluated split of the run that started from the source.
        own_test: (seeds, targets), score on the evaluated split of the run that started afresh.
        failed: (seeds, sources, targets), whether the run was tried and failed, as opposed to missing.
    """

    sources: tuple[str, ...]
    targets: tuple[str, ...]
    seeds: tuple[int, ...]
    scores: Floats
    own: Floats
    steps: Floats
    own_steps: Floats
    test: Floats
    own_test: Floats
    failed: Bools
    composition: str

    def to_pandas(self) -> pd.DataFrame:
        """One row per seed, source and target: scores, steps, and those of the fresh start."""
        return tidy(self._arrays(), self._names())

    def to_xarray(self) -> xarray.Dataset:
        """The arrays with names along their axes.

        Raises:
            BadInput: xarray is not installed.
        """
        return dataset(self._arrays(), self._names())

    def _names(self) -> dict[str, tuple[Any, ...]]:
        return {"seed": self.seeds, "source": self.sources, "target": self.targets}

    def _arrays(self) -> dict[str, tuple[tuple[str, ...], Any]]:
        whole, fresh = ("seed", "source", "target"), ("seed", "target")
        return {
            "score": (whole, self.scores),
            "own": (fresh, self.own),
            "steps": (whole, self.steps),
            "own_steps": (fresh, self.own_steps),
            "test": (whole, self.test),
            "own_test": (fresh, self.own_test),
            "failed": (whole, self.failed),
        }

    def lift(self) -> Floats:
        """(seeds, sources, targets): development score from the source's weights minus that from a fresh start."""
        return self.scores - self.own[:, None, :]

    def lift_on_test(self) -> Floats:
        """(seeds, sources, targets): the same on the evaluated split."""
        return self.test - self.own_test[:, None, :]

    def reached(self) -> Bools:
        """(seeds, sources, targets): whether the run reached the target's own score at all."""
        return ~np.isnan(self.steps)

    def saved(self) -> Floats:
        """(seeds, sources, targets): share of the fresh run's steps that the start saved; NaN where never reached.

        Averages of this alone leave out the runs that never got there: read it together with `reached`.
        """
        with_steps = np.where(self.own_steps > 0, self.own_steps, np.nan)
        return 1 - self.steps / with_steps[:, None, :]


def initialisation_transfer(records: Iterable[Record], composition: str, split: str = "test") -> InitTransfer:
    """From records of training cells, and of the evaluation cells of the same runs where there are any.

    A training cell started from another task if its spec's `start` says so, by task name or by the key of the cell
    whose weights were the start, or if the earlier stage that it continues did. It is compared with the fresh run of
    the same task, seed and learning-rate factor (`grid`).

    Raises:
        BadInput: no such run, two runs for one cell, or a start that is neither a task nor a cell.
    """
    records = list(records)
    trained = [r for r in records if r.get("kind", "train") == "train" and not r["spec"].get("carried")]
    training = [r for r in trained if not r["spec"].get("reuse")]  # of few examples of a held-out task
    compositions = {str(record["spec"]["composition"]) for record in training}
    if composition not in compositions:
        raise unknown("composition", composition, compositions)
    by_key = {str(record["key"]): record for record in training if "key" in record}
    own_training = [record for record in training if record["spec"]["composition"] == composition]
    runs, fresh = _by_cell(own_training, by_key)
    if not runs:
        raise BadInput(f"no training of {composition!r} started from another task's weights")
    seeds = tuple(sorted({seed for seed, _, _ in runs}))
    sources, targets = tuple(sorted({key[1] for key in runs})), tuple(sorted({key[2] for key in runs}))
    scores, steps, test = np.full((3, len(seeds), len(sources), len(targets)), np.nan)
    own, own_steps, own_test = np.full((3, len(seeds), len(targets)), np.nan)
    grids = {record["spec"].get("grid") for record in own_training}
    evaluated = _evaluated(records, composition, split, grids.pop() if len(grids) == 1 else None)
    failed = np.zeros(scores.shape, dtype=bool)
    for (seed, source, target), run in runs.items():
        k, s, t = seeds.index(seed), sources.index(source), targets.index(target)
        grid = run["spec"].get("grid")
        alone = fresh.get((seed, target, grid))
        best = float(alone["result"]["dev"]) if alone is not None else np.nan
        failed[k, s, t] = not is_done(run)
        test[k, s, t] = evaluated.get((seed, source, target, grid), np.nan)
        own[k, t], own_test[k, t] = best, evaluated.get((seed, "", target, grid), np.nan)
        own_steps[k, t] = _first_step(alone, best) if alone is not None else np.nan
        if is_done(run):
            scores[k, s, t], steps[k, s, t] = float(run["result"]["dev"]), _first_step(run, best)
    return InitTransfer(sources, targets, seeds, scores, own, steps, own_steps, test, own_test, failed, composition)


def _by_cell(
    records: list[Record], by_key: Mapping[str, Record]
) -> tuple[dict[Key, Record], dict[tuple[int, str, Any], Record]]:
    """Started runs by (seed, source, target), and finished fresh runs by (seed, target, grid)."""
    runs: dict[Key, Record] = {}
    fresh: dict[tuple[int, str, Any], Record] = {}
    for record in records:
        spec, source = record["spec"], _source(record, by_key)
        seed, target = int(spec["seed"]), str(spec["task"])
        if source:
            _place(runs, (seed, source, target), record)
        elif is_done(record):
            _place(fresh, (seed, target, spec.get("grid")), record)
    return runs, fresh


def _place(cells: dict[Any, Record], key: Any, record: Record) -> None:
    """One run per cell; a finished one stands before a failed one, two finished ones are refused."""
    if key in cells and is_done(cells[key]) and is_done(record):
        cell = ", ".join(map(str, key))
        raise BadInput(f"two trainings of {record['spec']['composition']!r} for one cell ({cell}): choose one")
    if key not in cells or is_done(record):
        cells[key] = record


def _source(record: Record, by_key: Mapping[str, Record]) -> str:
    """The task whose weights were the start of a run or of its earlier stages; the empty name for a fresh one."""
    start, parents = record["spec"].get("start"), record.get("parents") or ()
    if start is None:
        earlier = by_key.get(str(parents[0])) if parents else None
        return _source(earlier, by_key) if earlier is not None else ""
    if str(start).startswith(MERGE):
        return str(start)
    tasks = {str(record["spec"]["task"]) for record in by_key.values()}
    if str(start) not in by_key and str(start) not in tasks:
        raise unknown("start", str(start), tasks)
    return str(by_key[str(start)]["spec"]["task"]) if str(start) in by_key else str(start)


def _evaluated(
    records: Iterable[Record], composition: str, split: str, only: Any
) -> dict[tuple[int, str, str, Any], float]:
    """Scores on the split by (seed, start, target, grid) of deltas read on their own task; a fresh start is ''.

    An evaluation names no value of a grid that has but one: it is of the `only` one.
    """
    cells = {}
    for record in records:
        spec = record["spec"]
        own = record.get("kind") == "evaluate" and spec["source"] == spec["target"] and is_done(record)
        if own and spec["composition"] == composition and spec["split"] == split:
            grid = only if spec.get("grid") is None else spec["grid"]
            key = (int(spec["seed"]), str(spec.get("start") or ""), str(spec["target"]), grid)
            cells[key] = float(record["result"]["score"])
    return cells


def _first_step(record: Record, score: float) -> float:
    """The first evaluated step with at least this score; NaN if there is none, or the score is unknown."""
    reached = [int(row["step"]) for row in record["result"]["history"] if float(row["score"]) >= score]
    return float(min(reached, default=np.nan))
