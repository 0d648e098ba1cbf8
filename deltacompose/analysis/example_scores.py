"""Per-example scores of a transfer matrix that can be used for intervals: collected once for each matrix."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import numpy as np

from deltacompose.analysis.arrays import Floats

UNTOUCHED = "untouched"
Key = tuple[int, str, str]


def usable(
    examples: Mapping[Key, Floats], seeds: Sequence[int], expected: Mapping[tuple[str, str], Floats]
) -> dict[tuple[str, str], Floats]:
    """(seeds, examples) scores by source and target of the cells that have them in every seed, two at least.

    Cells are left out whose scores differ in number between seeds, or do not average to the cell's score: that of a
    metric like macro-F1 is not a mean over examples, and its examples say nothing of its variance.

    Args:
        examples: (examples,) scores by seed, source and target. The untouched backbone has one row for all seeds.
        expected: (seeds,) score of each cell by source and target.
    """
    stacks = {cell: scores for cell, scores in _stacked(examples, seeds, expected) if scores.shape[1] >= 2}
    by_size: dict[int, list[tuple[str, str]]] = {}
    for cell, scores in stacks.items():
        by_size.setdefault(scores.shape[1], []).append(cell)
    kept = {}
    for cells in by_size.values():
        means = np.stack([stacks[cell].mean(axis=1) for cell in cells])
        close = np.isclose(means, np.stack([expected[cell] for cell in cells]), atol=1e-6).all(axis=1)
        kept.update({cell: stacks[cell] for cell, fits in zip(cells, close.tolist(), strict=True) if fits})
    return kept


def _stacked(
    examples: Mapping[Key, Floats], seeds: Sequence[int], expected: Mapping[tuple[str, str], Floats]
) -> Iterator[tuple[tuple[str, str], Floats]]:
    """The cells that have equally many scores in every seed."""
    untouched: dict[str, Floats] = {}
    for (_, source, target), scores in examples.items():
        if source == UNTOUCHED:
            untouched.setdefault(target, scores)
    for source, target in expected:
        if source == UNTOUCHED:
            if target in untouched:
                scores = untouched[target]
                yield (source, target), np.broadcast_to(scores, (len(seeds), len(scores)))
            continue
        by_seed = [examples.get((seed, source, target)) for seed in seeds]
        known = [scores for scores in by_seed if scores is not None]
        if len(known) == len(seeds) and len({len(scores) for scores in known}) == 1:
            yield (source, target), np.stack(known)
