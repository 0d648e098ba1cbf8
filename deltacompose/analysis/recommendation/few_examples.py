"""Scores on a few examples of a target and on the others, from the score of every example.

So every task of a library is seen as a new task with few labelled examples would be, without another pass.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from deltacompose.analysis.arrays import Floats
from deltacompose.analysis.matrix import TransferMatrix
from deltacompose.analysis.recommendation.evidence import Evidence

Examples = Mapping[tuple[int, str, str], Floats]
"""The score of each example by seed, source and target; those of the source `untouched` too."""

_ROUNDING = 1e-3


@dataclass(frozen=True, eq=False)
class _Draw:
    few: NDArray[np.int64]
    others: NDArray[np.int64]


def with_few_examples(evidence: Evidence, examples: Examples, count: int) -> Evidence:
    """The evidence with scores on `count` examples of each target, its scores being those on the others.

    The same examples are drawn for every source of a target and seed; at most half of them. A target takes part where
    the examples of at least two sources are known and their mean is the score, as in accuracy; the others keep their
    scores and have none on a few examples. Where no target takes part the evidence is returned as it is.
    """
    tried, scores = np.full_like(evidence.scores, np.nan), evidence.scores.copy()
    bare, untouched = np.full_like(evidence.untouched, np.nan), evidence.untouched.copy()
    for k, seed in enumerate(evidence.seeds):
        for t, target in enumerate(evidence.targets):
            each = {s: x for s in evidence.sources if (x := examples.get((seed, s, target))) is not None}
            drawn = _draw({**each}, {s: scores[k, evidence.sources.index(s), t] for s in each}, count, (seed, t))
            if drawn is None:
                continue
            for s, x in each.items():
                at = k, evidence.sources.index(s), t
                tried[at], scores[at] = x[drawn.few].mean(), x[drawn.others].mean()
            plain = examples.get((seed, "untouched", target))
            if plain is not None and len(plain) == len(drawn.few) + len(drawn.others):
                bare[k, t], untouched[k, t] = plain[drawn.few].mean(), plain[drawn.others].mean()
    if np.isnan(tried).all():
        return evidence
    return replace(evidence, scores=scores, untouched=untouched, tried=tried, tried_untouched=bare)


def of_matrix(matrix: TransferMatrix, measures: Mapping[str, Floats], examples: int = 32) -> Evidence:
    """The evidence of a transfer matrix.

    Scores are those of the matrix; where neither chance nor the untouched backbone is known, as in published tables,
    relative performances, whose orders are the same for each target.

    Args:
        measures: by name (seeds, tasks, tasks), greater is nearer, in the order of `matrix.square().tasks`.
        examples: how many are drawn where the score of every example is known.
    """
    square = matrix.square()
    bare = np.isnan(square.untouched).all() and (np.isnan(square.chance).all() or bool(square.chance_of))
    unknown = np.full(len(square.targets), np.nan)
    scores = square.relative() if bare else square.values
    untouched = np.broadcast_to(unknown if bare else square.untouched, (len(square.seeds), len(square.targets)))
    evidence = Evidence(
        square.sources,
        square.targets,
        square.seeds,
        scores,
        untouched.copy(),
        unknown if bare else square.chance,
        measures,
    )
    if bare:
        return evidence
    known = dict(square.examples)
    plain = {target: x for (_, source, target), x in known.items() if source == "untouched"}
    known |= {(seed, "untouched", target): x for seed in square.seeds for target, x in plain.items()}
    return with_few_examples(evidence, known, examples)


def _draw(each: Mapping[str, Floats], scores: Mapping[str, float], count: int, seed: tuple[int, int]) -> _Draw | None:
    """Which examples are the few ones; None where a target does not take part."""
    sizes = {len(x) for x in each.values()}
    if len(each) < 2 or len(sizes) > 1:
        return None
    if any(abs(float(x.mean()) - scores[s]) > _ROUNDING for s, x in each.items() if not np.isnan(scores[s])):
        return None
    [size] = sizes
    few = min(count, size // 2)
    order = np.random.default_rng(seed).permutation(size)
    return _Draw(order[:few], order[few:]) if few else None
