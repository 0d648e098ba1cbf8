"""Measures of low-rank weight changes ΔW = BA: functions of ΔW, never of A or B alone."""

from math import inf

from deltacompose.analysis import similarity
from deltacompose.analysis.similarity import subspaces as alignment
from deltacompose.analysis.similarity.measure import Measure

_GAUGE = "A → GA with B → BG⁻¹ for any invertible G, at each place and task"
_HU = "Hu et al. 2021, LoRA (arXiv 2106.09685), eq. 4"

DELTA_COSINE = Measure(
    name="delta_cosine",
    needs="low_rank",
    function=similarity.delta_cosine,
    range=(-1.0, 1.0),
    invariances=f"{_GAUGE}; a positive scale of each delta",
    source="⟨ΔW, ΔW'⟩ = Σ (AA'ᵀ)∘(BᵀB') over the ranks, without forming ΔW",
)

DELTA_OVERLAP = Measure(
    name="delta_overlap",
    needs="low_rank",
    function=alignment.delta_overlap,
    range=(-inf, 1.0),
    invariances=f"{_GAUGE}; a scale of each delta; any change of ΔW that keeps its row space",
    source=f"{_HU}, on the right-singular vectors of ΔW, (φ − Eφ)/(1 − Eφ), mean over places",
)

DELTA_OVERLAP_Z = Measure(
    name="delta_overlap_z",
    needs="low_rank",
    function=alignment.delta_overlap_z,
    range=(-inf, inf),
    invariances=f"{_GAUGE}; a scale of each delta; any change of ΔW that keeps its row space",
    source=f"{_HU}, standardised by the mean and variance for uniformly random subspaces, joined over places",
)

DELTA_GEODESIC = Measure(
    name="delta_geodesic",
    needs="low_rank",
    function=alignment.delta_geodesic,
    range=(0.0, inf),
    invariances=f"{_GAUGE}; a scale of each delta; any change of ΔW that keeps its row space",
    source="Björck & Golub 1973, angles between linear subspaces; root of Σθ² over places",
    distance=True,
)
