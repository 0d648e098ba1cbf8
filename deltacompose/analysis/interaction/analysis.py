"""Interaction of methods: the statistics of a full factorial, from runs to one record per group."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from statistics import fmean
from typing import Any

from deltacompose.analysis.interaction import factorial
from deltacompose.analysis.interaction.bootstrap import resample
from deltacompose.analysis.interaction.caveats import notes, trivial
from deltacompose.analysis.interaction.convergence import Training, efficiency, gap, speed
from deltacompose.analysis.interaction.factorial import NONE, Contrast, applied
from deltacompose.analysis.interaction.order import order_effects
from deltacompose.analysis.interaction.runs import Run
from deltacompose.analysis.interaction.selection import Chosen, Select, choose, optimism
from deltacompose.errors import BadInput

Record = dict[str, Any]
LEVEL = 0.95
DRAWS = 2000


@dataclass(frozen=True)
class Group:
    """The runs of one group, and what was chosen among them, by (combination, unit); sequences of stages among them."""

    runs: tuple[Run, ...]
    chosen: Mapping[tuple[str, str], Chosen]
    factors: tuple[str, ...]

    @cached_property
    def combinations(self) -> list[str]:
        """Every combination of the factors, run or not."""
        return list(factorial.combinations(self.factors))

    @cached_property
    def units(self) -> list[str]:
        """The units that any combination of the factorial was run on."""
        return sorted({unit for name, unit in self.chosen if name in self.combinations})

    @cached_property
    def cells(self) -> list[Chosen]:
        """The cells of the factorial that were run, combination by combination."""
        wanted = [(name, unit) for name in self.combinations for unit in self.units]
        return [self.chosen[cell] for cell in wanted if cell in self.chosen]

    def of(self, combination: str) -> list[Chosen]:
        """The cells of one combination, by unit."""
        return [cell for cell in self.cells if cell.combination == combination]


def analyse(
    runs: Sequence[Run],
    factors: Sequence[str],
    by: Sequence[str] = (),
    select: Select = "dev",
    trainings: Mapping[str, Training] | None = None,
    percent: float = 90.0,
) -> list[Record]:
    """One record per group: what each combination scores, what each method and set of methods adds, what is missing.

    The grid value (learning rate) is chosen per combination and unit by the mean over seeds of the dev score, or of
    the test score; its test score is averaged over seeds, then over units. Scores that all lie within -1 and 1 are
    reported times 100, and `scale` says so. A mean that lacks a unit is None, and so is every statistic that weighs it.

    Args:
        runs: of every group.
        factors: the methods of the factorial.
        by: the names of the values in each run's group.
        select: the split whose score chooses; choosing on test flatters, by `optimism`.
        trainings: how the training of a run went, by the run's `cell`.
        percent: of the final score, for the speed of convergence.

    Raises:
        BadInput: no run is of the factorial, a choice lacks dev scores, or a `by` column is named as a record's field.
    """
    combinations = factorial.combinations(factors)
    if not any(run.combination in combinations for run in runs):
        existing = sorted({run.combination for run in runs})
        raise BadInput(f"no run is a combination of {', '.join(factors)}; combinations found: {', '.join(existing)}")
    scale = 100.0 if max(abs(run.score) for run in runs) <= 1 else 1.0
    runs = [_scaled(run, scale) for run in runs]
    records = []
    for values in sorted({run.group for run in runs}):
        members = tuple(run for run in runs if run.group == values)
        group = Group(members, choose(members, select), tuple(factors))
        record = {"select": select, "scale": scale, **_record(group)}
        record["trivial"] = [dataclasses.asdict(each) for each in trivial(members, group.cells, runs)]
        record["notes"] = notes(group.cells, group.combinations, scale)
        if trainings:
            record |= _measured(group, trainings, percent, scale)
        records.append(_labelled(record, by, values))
    return records


def histories(runs: Sequence[Run], trainings: Mapping[str, Training], select: Select = "dev") -> list[Record]:
    """Every evaluation during the training of the chosen runs, in rows: what a figure of convergence is drawn from.

    Scores are as recorded, not times 100.
    """
    rows = []
    for values in sorted({run.group for run in runs}):
        cells = choose([run for run in runs if run.group == values], select).values()
        for run in (run for cell in cells for run in cell.runs if run.cell in trainings):
            about = {"group": values, "composition": run.combination, "unit": run.unit, "seed": run.seed}
            rows += [{**about, **dataclasses.asdict(point)} for point in trainings[run.cell].history]
    return rows


def _record(group: Group) -> Record:
    means = _means(group)
    drawn = resample({(cell.combination, cell.unit): cell.scores for cell in group.cells}, DRAWS)
    statistics = _statistics(group.factors)
    intervals = {name: drawn.interval(contrast, means, LEVEL) for name, contrast in statistics.items()}
    return {
        "factors": list(group.factors),
        "units": [unit for unit in group.units if unit],
        "seeds": sorted({run.seed for cell in group.cells for run in cell.runs} - {""}),
        **_nested({name: applied(contrast, means) for name, contrast in statistics.items()}),
        "intervals": {"level": LEVEL, "resampled": drawn.resampled, "draws": DRAWS, **_nested(intervals)},
        "spread": {name: _mean([cell.spread for cell in group.of(name)]) for name in group.combinations},
        "optimism": optimism([cell for cell in group.cells if cell.combination != NONE]),
        "missing": _missing(group),
        "gap": {name: _gap(group.of(name)) for name in group.combinations},
        "cells": [_cell(cell) for cell in group.cells],
        "orders": order_effects({cell: chosen.scores for cell, chosen in group.chosen.items()}),
    }


def _statistics(factors: Sequence[str]) -> dict[tuple[str, ...], Contrast]:
    """Every statistic of the record, under its path in the record."""
    conditional = factorial.marginals(factors)
    return {
        **{("means", name): {name: 1.0} for name in factorial.combinations(factors)},
        **{("effects", name): contrast for name, contrast in factorial.effects(factors).items()},
        **{("mobius", name): contrast for name, contrast in factorial.mobius(factors).items()},
        **{("shapley", name): contrast for name, contrast in factorial.shapley(factors).items()},
        **{("marginals", name, on): contrast for name in factors for on, contrast in conditional[name].items()},
    }


def _nested(values: Mapping[tuple[str, ...], Any]) -> Record:
    result: Record = {}
    for path, value in values.items():
        place = result
        for step in path[:-1]:
            place = place.setdefault(step, {})
        place[path[-1]] = value
    return result


def _means(group: Group) -> dict[str, float]:
    """The means of the combinations that were run on every unit."""
    cells = {name: group.of(name) for name in group.combinations}
    return {
        name: fmean(cell.mean for cell in with_runs)
        for name, with_runs in cells.items()
        if len(with_runs) == len(group.units)
    }


def _missing(group: Group) -> Record:
    """Combinations without any run, cells without a run, and means over the units that an incomplete one has."""
    cells = {name: group.of(name) for name in group.combinations}
    some = {name: with_runs for name, with_runs in cells.items() if 0 < len(with_runs) < len(group.units)}
    units = {name: [cell.unit for cell in with_runs] for name, with_runs in some.items()}
    return {
        "combinations": [name for name, with_runs in cells.items() if not with_runs],
        "cells": [
            {"combination": name, "unit": unit} for name in some for unit in group.units if unit not in units[name]
        ],
        "partial": {
            name: {"mean": fmean(cell.mean for cell in with_runs), "units": units[name]}
            for name, with_runs in some.items()
        },
    }


def _cell(cell: Chosen) -> Record:
    return {
        "combination": cell.combination,
        "unit": cell.unit,
        "grid": cell.grid,
        "score": cell.mean,
        "spread": cell.spread,
        "seeds": len(cell.runs),
        "tied": cell.tied,
        "optimism": cell.optimism,
    }


def _gap(cells: Sequence[Chosen]) -> float | None:
    """The mean over units of the generalisation gap of the chosen runs."""
    return _mean([gap([run.dev for run in cell.runs], [run.train for run in cell.runs]) for cell in cells])


def _measured(group: Group, trainings: Mapping[str, Training], percent: float, scale: float) -> Record:
    """Convergence per combination and unit, efficiency per combination, over the chosen runs that were trained."""
    convergence: Record = {}
    by_combination: dict[str, list[Training]] = {}
    for (name, unit), cell in group.chosen.items():
        trained = [trainings[run.cell] for run in cell.runs if run.cell in trainings]
        floors = {run.chance / scale for run in cell.runs if run.chance is not None}
        if trained:
            by_combination.setdefault(name, []).extend(trained)
            floor = floors.pop() if len(floors) == 1 else 0.0
            convergence.setdefault(name, {})[unit] = speed(trained, percent, floor)
    return {"convergence": convergence, "efficiency": {name: efficiency(each) for name, each in by_combination.items()}}


def _labelled(record: Record, by: Sequence[str], values: Sequence[str]) -> Record:
    taken = sorted({*by} & record.keys())
    if taken:
        raise BadInput(f"column {taken[0]!r} cannot group: the record has a field of that name; rename the column")
    return {**dict(zip(by, values, strict=True)), **record}


def _scaled(run: Run, scale: float) -> Run:
    dev, train, chance = (None if value is None else value * scale for value in (run.dev, run.train, run.chance))
    return dataclasses.replace(run, score=run.score * scale, dev=dev, train=train, chance=chance)


def _mean(values: Sequence[float | None]) -> float | None:
    """The mean, or None where any value is unknown."""
    known = [value for value in values if value is not None]
    return fmean(known) if known and len(known) == len(values) else None
