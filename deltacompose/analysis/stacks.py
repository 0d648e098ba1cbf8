"""Composition-aware transfer: what stacking a delta with others does to how it transfers."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from deltacompose.analysis.matrix import Bools, Floats, TransferMatrix
from deltacompose.analysis.statistics import Estimate, estimate
from deltacompose.errors import BadInput


@dataclass(frozen=True, eq=False)
class StackEffect:
    """What a stack does to transfer: C under the stack minus C under the method alone.

    `values` is (seeds, sources, targets) over the tasks and seeds that both matrices have, in the order of `alone`;
    `mean` is the difference averaged over the off-diagonal cells known in both, with its interval over the seeds.
    """

    stack: str
    alone: str
    sources: tuple[str, ...]
    targets: tuple[str, ...]
    seeds: tuple[int, ...]
    values: Floats
    mean: Estimate | None
    limitations: tuple[str, ...]


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
    with_stack, without = (one.selected(sources, targets, seeds) for one in (stack, alone))
    values = _corrected_within(stack, with_stack) - _corrected_within(alone, without)
    used = ~np.isnan(values).any(axis=0) & without.off_diagonal
    return StackEffect(
        stack=stack.composition,
        alone=alone.composition,
        sources=tuple(sources),
        targets=tuple(targets),
        seeds=tuple(seeds),
        values=values,
        mean=estimate(values[:, used].mean(axis=1)) if used.any() else None,
        limitations=tuple(_about_common(stack, alone, used, without.off_diagonal)),
    )


def _corrected_within(whole: TransferMatrix, part: TransferMatrix) -> Floats:
    """C of the part, whose own scores may lie in a source that the part has not."""
    s = [whole.sources.index(name) for name in part.sources]
    t = [whole.targets.index(name) for name in part.targets]
    k = [whole.seeds.index(seed) for seed in part.seeds]
    chosen: Floats = whole.corrected()[np.ix_(k, s, t)]
    return chosen


def _about_common(stack: TransferMatrix, alone: TransferMatrix, used: Bools, off_diagonal: Bools) -> Iterator[str]:
    for kind in ("sources", "targets", "seeds"):
        one, other = set(map(str, getattr(stack, kind))), set(map(str, getattr(alone, kind)))
        if one != other:
            yield f"{kind} in one of the two only are not compared: {', '.join(sorted(one ^ other))}"
    if rest := int((off_diagonal & ~used).sum()):
        yield f"{rest} off-diagonal cells lack a corrected value on one side and are not in the mean"
    yield "the interval accounts for seeds only"
