"""Low-dimensional subspaces of deltas, and intrinsic dimension."""

from deltacompose.analysis.arrays import Floats
from deltacompose.analysis.subspace.linear import (
    LEAST_FOR_TWO_NN,
    RANKS,
    UNEQUAL,
    Ints,
    Subspace,
    effective_rank,
    given_back_if_random,
    held,
    held_elsewhere,
    held_elsewhere_of,
    learn,
    participation_ratio,
    rank,
    singular_values,
    stable_rank,
    summary,
    two_nn,
)

__all__ = [
    "Floats",
    "Ints",
    "LEAST_FOR_TWO_NN",
    "RANKS",
    "Subspace",
    "UNEQUAL",
    "effective_rank",
    "given_back_if_random",
    "held",
    "held_elsewhere",
    "held_elsewhere_of",
    "learn",
    "participation_ratio",
    "rank",
    "singular_values",
    "stable_rank",
    "summary",
    "two_nn",
]
