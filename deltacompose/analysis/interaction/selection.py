"""Choosing a combination's learning rate (or other grid value) on a unit, and how far choosing on test flatters."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean, stdev
from typing import Literal

from deltacompose.analysis.interaction.row_filter import number
from deltacompose.analysis.interaction.runs import Run, grouped
from deltacompose.errors import BadInput

Select = Literal["dev", "test"]
TIE = 1e-10


@dataclass(frozen=True)
class Chosen:
    """One combination on one unit, at the grid value that was chosen for it.

    Attributes:
        runs: the runs at that grid value, one per seed.
        values: how many grid values there were to choose from.
        tied: how many others were exactly as good; of those the smallest is taken.
        optimism: mean score if chosen on test minus mean score if chosen on dev; None without dev scores.
    """

    combination: str
    unit: str
    grid: str
    runs: tuple[Run, ...]
    values: int = 1
    tied: int = 0
    optimism: float | None = 0.0

    @property
    def scores(self) -> dict[str, float]:
        """The score of each seed."""
        return {run.seed: run.score for run in self.runs}

    @property
    def mean(self) -> float:
        """The mean score over seeds."""
        return fmean(run.score for run in self.runs)

    @property
    def spread(self) -> float | None:
        """The standard deviation over seeds, with n - 1 in its denominator; None for one seed."""
        return stdev(run.score for run in self.runs) if len(self.runs) > 1 else None


def choose(runs: Sequence[Run], select: Select) -> dict[tuple[str, str], Chosen]:
    """The chosen grid value of every (combination, unit) among the runs of one group.

    Chosen is the value whose dev score (or test score), averaged over its seeds, is highest.

    Raises:
        BadInput: there is something to choose and a dev score is missing.
    """
    cells: dict[tuple[str, str], list[Run]] = {}
    for run in runs:
        cells.setdefault((run.combination, run.unit), []).append(run)
    return {cell: _choose(chosen_from, select) for cell, chosen_from in cells.items()}


def optimism(cells: Sequence[Chosen]) -> float | None:
    """The mean optimism of choosing on test over these cells; None where nothing was chosen or a dev score lacks."""
    known = [cell.optimism for cell in cells if cell.optimism is not None]
    chose = any(cell.values > 1 for cell in cells)
    return fmean(known) if chose and len(known) == len(cells) else None


def _choose(runs: Sequence[Run], select: Select) -> Chosen:
    first, grid = runs[0], grouped(runs, lambda run: run.grid)
    if len(grid) == 1:
        return Chosen(first.combination, first.unit, first.grid, tuple(runs))
    undeveloped = [run for run in runs if run.dev is None]
    if undeveloped and select == "dev":
        raise BadInput(
            f"{undeveloped[0]} has no dev score, and {len(grid)} grid values are to choose from; name the column of "
            "dev scores by --dev, or choose on the score itself by --select test (which flatters)"
        )
    test = _best({value: [run.score for run in each] for value, each in grid.items()})
    dev = _best({value: [run.dev or 0.0 for run in each] for value, each in grid.items()})
    best = dev if select == "dev" else test
    flattery = fmean(run.score for run in grid[test[0]]) - fmean(run.score for run in grid[dev[0]])
    return Chosen(
        combination=first.combination,
        unit=first.unit,
        grid=best[0],
        runs=tuple(grid[best[0]]),
        values=len(grid),
        tied=len(best) - 1,
        optimism=None if undeveloped else flattery,
    )


def _best(grid: Mapping[str, Sequence[float]]) -> list[str]:
    """The grid values with the highest mean, the smallest first."""
    means = {value: fmean(scores) for value, scores in grid.items()}
    highest = max(means.values())
    return sorted((value for value, mean in means.items() if mean >= highest - TIE), key=_size)


def _size(value: str) -> tuple[float, str]:
    size = number(value)
    return (float("inf") if size is None else size, value)
