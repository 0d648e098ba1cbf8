"""Low-dimensional subspaces of deltas, and intrinsic dimension.

`linear` has spectra and linear subspaces, `random_baseline` their null distribution; `autoencoder` and `learned` have
learned subspaces, `readouts` and `tuned` their six readouts; `intrinsic_dimension` reads trained dimensions from a
store, `dimension_search` decides which one to train next.
"""

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
