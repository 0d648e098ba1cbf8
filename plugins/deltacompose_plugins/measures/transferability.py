"""Measures of how a source's features or answers fit a target's labels: rows sources, columns targets."""

from math import inf

from deltacompose.analysis.similarity import transferability
from deltacompose.analysis.similarity.measure import Measure

LOGME = Measure(
    name="logme",
    needs="features",
    function=transferability.log_me,
    range=(-inf, inf),
    invariances="a rotation and a scale of the features; the names of the labels",
    source="You et al. 2021, LogME (arXiv 2102.11005)",
    directed=True,
)

LEEP = Measure(
    name="leep",
    needs="probabilities",
    function=transferability.leep,
    range=(-inf, 0.0),
    invariances="the names and the order of both sets of labels",
    source="Nguyen et al. 2020, LEEP (arXiv 2002.12462)",
    directed=True,
)

NCE = Measure(
    name="nce",
    needs="predictions",
    function=transferability.nce,
    range=(-inf, 0.0),
    invariances="the names of both sets of labels: a source that is always wrong in the same way scores 0",
    source="Tran et al. 2019, Transferability and hardness (arXiv 1908.08142), −H(Y|Z) in nats",
    directed=True,
)
