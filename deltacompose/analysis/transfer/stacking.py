"""Composition-aware transfer: what stacking a delta with others does to how it transfers."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from deltacompose.analysis.arrays import Bools, Floats
from deltacompose.analysis.labelled import dataset, tidy
from deltacompose.analysis.matrix import TransferMatrix
from deltacompose.analysis.statistics import Estimate, estimate
from deltacompose.analysis.transfer.uncertainty import influence
from deltacompose.errors import BadInput

if TYPE_CHECKING:
    import pandas as pd
    import xarray


@dataclass(frozen=True, eq=False)
class StackEffect:
    """Effect of a stack on transfer: C under the stack minus C under the method alone.

    `values` is (seeds, sources, targets) over the tasks and seeds that both matrices have, in the order of `alone`;
    `mean` is the difference averaged over the off-diagonal cells known in both, with its interval over the seeds and,
    where those of every target are known on both sides, over the test examples, which the two share.
    """

    stack: str
    alone: str
    sources: tuple[str, ...]
    targets: tuple[str, ...]
    seeds: tuple[int, ...]
    values: Floats
    mean: Estimate | None
    limitations: tuple[str, ...]

    def to_pandas(self) -> pd.DataFrame:
        """One row per seed, source and target, with the effect of the stack."""
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
        return {"effect": (("seed", "source", "target"), self.values)}


def stack_effect(stack: TransferMatrix, alone: TransferMatrix) -> StackEffect:
    """Composition-aware transfer: C(s → t) under a stack minus under the method alone, paired by seed.

    Raises:
        BadInput: two backbones, or no task or seed in common.
    """
    if stack.backbone != alone.backbone:
        raise BadInput(f"the two matrices are of two backbones, {stack.backbone!r} and {alone.backbone!r}")
    sources = [name for name in alone.sources if name in stack.sources]
    targets = [name for name in alone.targets if name in stack.targets]
    seeds = [seed for seed in alone.seeds if seed in stack.seeds]
    if not (sources and targets and seeds):
        raise BadInput(f"{stack.composition!r} and {alone.composition!r} have no sources, targets or seeds in common")
    with_stack, without = (matrix.selected(sources, targets, seeds) for matrix in (stack, alone))
    values = _corrected_within(stack, with_stack) - _corrected_within(alone, without)
    used = ~np.isnan(values).any(axis=0) & without.off_diagonal
    mean = estimate(values[:, used].mean(axis=1), _examples(stack, alone, without, used)) if used.any() else None
    return StackEffect(
        stack=stack.composition,
        alone=alone.composition,
        sources=tuple(sources),
        targets=tuple(targets),
        seeds=tuple(seeds),
        values=values,
        mean=mean,
        limitations=(*_about_common(stack, alone, used, without.off_diagonal), *_about_interval(mean)),
    )


def _corrected_within(whole: TransferMatrix, part: TransferMatrix) -> Floats:
    """C of the part, whose own scores may lie in a source that the part has not."""
    s = [whole.sources.index(name) for name in part.sources]
    t = [whole.targets.index(name) for name in part.targets]
    k = [whole.seeds.index(seed) for seed in part.seeds]
    chosen: Floats = whole.corrected()[np.ix_(k, s, t)]
    return chosen


def _examples(stack: TransferMatrix, alone: TransferMatrix, of: TransferMatrix, used: Bools) -> list[Floats]:
    """For each target (seeds, examples): the derivative of the mean difference by its examples; none unless all have.

    Both compositions are read on the same examples in the same order, so these are paired. The own scores may lie in a
    source that `of`, the common part, has not.
    """
    groups = []
    of_seeds = [matrix.selected(matrix.sources, matrix.targets, of.seeds) for matrix in (stack, alone)]
    for t in np.flatnonzero(used.any(axis=0)):
        stacked, other = (_derivative(matrix, of, used[:, t] / used.sum(), int(t)) for matrix in of_seeds)
        if stacked is None or other is None or stacked.shape != other.shape:
            return []
        groups.append(stacked - other)
    return groups


def _derivative(whole: TransferMatrix, part: TransferMatrix, weights: Floats, t: int) -> Floats | None:
    """(seeds, examples) of the part's t-th target, the weights being of the part's sources; seeds are the same."""
    every = np.zeros(len(whole.sources))
    every[[whole.sources.index(name) for name in part.sources]] = weights
    return influence(whole, "corrected", every, whole.targets.index(part.targets[t]))


def _about_common(stack: TransferMatrix, alone: TransferMatrix, used: Bools, off_diagonal: Bools) -> Iterator[str]:
    for kind in ("sources", "targets", "seeds"):
        stacked, other = set(map(str, getattr(stack, kind))), set(map(str, getattr(alone, kind)))
        if stacked != other:
            yield f"{kind} in one of the two only are not compared: {', '.join(sorted(stacked ^ other))}"
    if rest := int((off_diagonal & ~used).sum()):
        yield f"{rest} off-diagonal cells lack a corrected value on one side and are not in the mean"


def _about_interval(mean: Estimate | None) -> Iterator[str]:
    if mean is not None and mean.covers == "nothing":
        yield "no interval: there is no spread between seeds or examples to know it from"
    elif mean is not None and mean.covers != "seeds and examples":
        yield f"the interval accounts for {mean.covers} only"
