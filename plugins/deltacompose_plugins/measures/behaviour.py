"""Measures of what the deltas do: neurons, gradients, answers."""

from deltacompose.analysis import similarity
from deltacompose.analysis.similarity.measure import Measure

NEURON_OVERLAP = Measure(
    name="neuron_overlap",
    needs="activations",
    function=similarity.neuron_overlap,
    range=(0.0, 1.0),
    invariances="a positive scale of each activation; one order of all tasks' neurons",
    source="Su et al. 2022 (arXiv 2111.06719), all layers; by window in `deltacompose similarity --json`",
)

NEURON_OVERLAP_TOP = Measure(
    name="neuron_overlap_top",
    needs="activations",
    function=lambda activations: similarity.neuron_overlap(activations[:, -3:]),
    range=(0.0, 1.0),
    invariances="a positive scale of each activation; one order of all tasks' neurons",
    source="Su et al. 2022 (arXiv 2111.06719), the uppermost window of three layers",
)

GRADIENT_COSINE = Measure(
    name="gradient_cosine",
    needs="gradients",
    function=similarity.gradient_cosine,
    range=(-1.0, 1.0),
    invariances="a positive scale of each task's loss; the order of examples",
    source="cosine of the mean loss gradients (Du et al. 2018, arXiv 1812.02224)",
)

TASK2VEC = Measure(
    name="task2vec",
    needs="drawn_gradients",
    function=similarity.task2vec,
    range=(0.0, 1.0),
    invariances="the order of examples and of parameters; one scale of a parameter for all tasks; not the scale of one "
    "task's gradients, nor the gauge of its low-rank factors (A → GA with B → BG⁻¹), which changes each ∂log p",
    source="Achille et al. 2019, Task2Vec (arXiv 1902.03545), symmetric distance",
    distance=True,
)

PREDICTION_AGREEMENT = Measure(
    name="prediction_agreement",
    needs="predictions",
    function=similarity.prediction_agreement,
    range=(0.0, 1.0),
    invariances="the order of examples; the true answers, which it does not read",
    source="share of examples answered alike, mean over targets",
)
