"""Measures of whole deltas, flattened.

They compare tensors as they are stored. Where two sets of tensors stand for one function (low-rank factors do), use the
measures of `low_rank`.
"""

from math import inf

from deltacompose.analysis import similarity
from deltacompose.analysis.similarity.measure import Measure

WEIGHT_COSINE = Measure(
    name="weight_cosine",
    needs="weights",
    function=similarity.cosine,
    range=(-1.0, 1.0),
    invariances="a positive scale of each delta; not the gauge of low-rank factors, nor an adapter's order of neurons",
    source="cosine of the flattened tensors (on prompts C_concat of Su et al. 2022, arXiv 2111.06719)",
)

WEIGHT_DISTANCE = Measure(
    name="weight_distance",
    needs="weights",
    function=similarity.euclidean,
    range=(0.0, inf),
    invariances="one shift and one rotation of all deltas; not the scale, not the gauge of low-rank factors",
    source="Euclidean distance of the flattened tensors",
    distance=True,
)
