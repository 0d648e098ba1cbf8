"""From a prediction to a start: weights with which to mix the deltas of several sources (SPoT; Vu et al. 2022)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from deltacompose.analysis.arrays import Floats
from deltacompose.errors import BadInput, unknown


def top_k(similarities: Mapping[str, float], k: int) -> dict[str, float]:
    """Equal weights for the k most similar sources (SPoT's top-k mixture; Vu et al. 2022, section 3.3).

    >>> top_k({"a": 0.1, "b": 0.9, "c": 0.5}, 2)
    {'b': 0.5, 'c': 0.5}
    """
    return dict.fromkeys(_nearest(similarities, k), 1 / k)


def weighted_top_k(similarities: Mapping[str, float], k: int) -> dict[str, float]:
    """Weights in proportion to similarity, sim_i / Σ sim, over the k most similar sources (Vu et al. 2022).

    >>> weighted_top_k({"rte": 0.5, "mrpc": 0.5, "cola": 0.1}, k=2)
    {'rte': 0.5, 'mrpc': 0.5}

    Raises:
        BadInput: one of them has a similarity that is not above zero: proportions have no meaning then.
    """
    chosen = {name: similarities[name] for name in _nearest(similarities, k)}
    if min(chosen.values()) <= 0:
        raise BadInput("weights in proportion to similarity need similarities above zero; use the softmax mixture")
    return {name: value / sum(chosen.values()) for name, value in chosen.items()}


def softmax_mixture(
    similarities: Mapping[str, float], temperature: float = 0.1, k: int | None = None
) -> dict[str, float]:
    """Weights exp(sim_i / temperature) / Σ, over the k most similar sources or all.

    >>> mixture = softmax_mixture({"rte": 0.6, "mrpc": 0.5}, temperature=0.1)
    >>> {name: round(weight, 3) for name, weight in mixture.items()}
    {'rte': 0.731, 'mrpc': 0.269}
    """
    if not temperature > 0:
        raise BadInput(f"a softmax needs a temperature above zero, found {temperature}")
    names = _nearest(similarities, len(similarities) if k is None else k)
    powers = np.exp((np.array([similarities[name] for name in names]) - similarities[names[0]]) / temperature)
    return dict(zip(names, (powers / powers.sum()).tolist(), strict=True))


def _nearest(similarities: Mapping[str, float], k: int) -> list[str]:
    """The k most similar sources, the first named first where they tie."""
    if not 1 <= k <= len(similarities):
        raise BadInput(f"k={k}: between 1 and {len(similarities)} sources can be mixed")
    unfit = [name for name, value in similarities.items() if not np.isfinite(value)]
    if unfit:
        raise BadInput(f"the similarity of {', '.join(unfit)} is not a finite number")
    return sorted(similarities, key=lambda name: -similarities[name])[:k]


def similarities_to(target: str, measure: Floats, tasks: Sequence[str]) -> dict[str, float]:
    """The measure's column of one target by source, the target itself left out: what the mixtures take.

    >>> measure = np.array([[1.0, 0.3], [0.3, 1.0]])
    >>> similarities_to("rte", measure, ["rte", "mrpc"])
    {'mrpc': 0.3}
    """
    if target not in tasks:
        raise unknown("task", target, tasks)
    t = list(tasks).index(target)
    return {source: float(measure[s, t]) for s, source in enumerate(tasks) if source != target}
