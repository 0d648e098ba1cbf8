"""How near two tasks are, from their deltas and from what these do: formulas on arrays.

Every function takes the arrays of N tasks, the first axis being the task, and gives an (N, N) matrix.
Subspaces and angles are in `alignment`, LogME, LEEP and NCE in `transferability`, many thousands of deltas in `large`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.spatial.distance import cdist, pdist, squareform

from deltacompose.analysis.similarity.measure import Array, Factors, Responses, Undefined
from deltacompose.errors import BadInput

_TASKS_AT_ONCE = 64


def flatten(weights: Mapping[str, npt.NDArray[Any]]) -> Array:
    """A delta's tensors as one vector (parameters,), joined in the order of their names.

    >>> flatten({"b": np.array([3.0]), "a": np.array([[1.0, 2.0]])})
    array([1., 2., 3.])
    """
    if not weights:
        raise BadInput("a delta without tensors cannot be flattened")
    return np.concatenate([np.asarray(weights[name], dtype=np.float64).ravel() for name in sorted(weights)])


def low_rank(weights: Mapping[str, npt.NDArray[Any]]) -> Factors:
    """The low-rank factors in a delta's flat tensors: `<place>.up` and `<place>.down` where a place has just these two.

    A place with more tensors (an adapter's biases, DoRA's magnitudes) is not a product of two factors and not part of
    it. A scale that multiplies ΔW at every place alike (LoRA's α/r) does not matter to the measures here; one that
    differs between places must be multiplied into `up` first.

    >>> factors = low_rank({"ffn.up": np.ones((4, 2)), "ffn.down": np.ones((2, 4))})
    >>> list(factors)
    ['ffn']

    Raises:
        BadInput: no such place.
    """
    tensors: dict[str, set[str]] = {}
    for name in sorted(weights):
        place, _, tensor = name.rpartition(".")
        tensors.setdefault(place, set()).add(tensor)
    places = [place for place, factors in tensors.items() if factors == {"up", "down"}]
    if not places:
        raise BadInput(f"no place has just the tensors 'up' and 'down'; tensors: {', '.join(sorted(weights))}")
    return {place: (weights[f"{place}.up"], weights[f"{place}.down"]) for place in places}


def cosine(vectors: Array) -> Array:
    """Cosines of (tasks, parameters).

    >>> cosine(np.array([[1.0, 0.0], [1.0, 1.0]])).round(3)
    array([[1.   , 0.707],
           [0.707, 1.   ]])
    """
    unit = _unit(np.asarray(vectors, dtype=np.float64))
    return _symmetric(unit @ unit.T)


def euclidean(vectors: Array) -> Array:
    """Distances ‖u − v‖ of (tasks, parameters).

    >>> euclidean(np.array([[0.0, 0.0], [3.0, 4.0]]))
    array([[0., 5.],
           [5., 0.]])
    """
    return np.asarray(squareform(pdist(np.asarray(vectors, dtype=np.float64))))


def prompt_cosine(prompts: Array) -> Array:
    """Cosine of the flattened prompts (tasks, tokens, width): C_concat of Su et al. 2022.

    >>> prompts = np.array([[[1.0, 0.0], [0.0, 1.0]], [[0.0, 1.0], [1.0, 0.0]]])
    >>> prompt_cosine(prompts).round(3)
    array([[1., 0.],
           [0., 1.]])
    """
    return cosine(prompts.reshape(len(prompts), -1))


def mean_token_cosine(prompts: Array) -> Array:
    """Cosine of the mean tokens of prompts (tasks, tokens, width): SPoT's "cosine similarity of average tokens".

    Vu et al. 2022 (arXiv 2110.07904), the first of their two. A long token counts for more in the mean than a short
    one, which it does not in `token_cosine`.

    >>> prompts = np.array([[[1.0, 0.0], [0.0, 1.0]], [[0.0, 1.0], [1.0, 0.0]]])
    >>> mean_token_cosine(prompts).round(3)
    array([[1., 1.],
           [1., 1.]])
    """
    return cosine(np.asarray(prompts, dtype=np.float64).mean(axis=1))


def token_cosine(prompts: Array) -> Array:
    """Mean cosine over all token pairs of two prompts (tasks, tokens, width).

    SPoT's "per-token average cosine similarity" (Vu et al. 2022, arXiv 2110.07904) and C_average of Su et al. 2022.
    Tokens of one prompt differ, so a prompt's similarity with itself is not 1. The mean of l² cosines is the inner
    product of two mean unit tokens, which is how it is computed.

    >>> prompts = np.array([[[1.0, 0.0], [0.0, 1.0]], [[0.0, 1.0], [1.0, 0.0]]])
    >>> token_cosine(prompts).round(3)
    array([[0.5, 0.5],
           [0.5, 0.5]])
    """
    mean = _unit(np.asarray(prompts, dtype=np.float64)).mean(axis=1)
    return _symmetric(mean @ mean.T)


def prompt_closeness(prompts: Array) -> Array:
    """1 / (1 + ‖P − Q‖) of the flattened prompts (tasks, tokens, width): E_concat of Su et al. 2022.

    >>> prompt_closeness(np.array([[[0.0, 0.0]], [[3.0, 4.0]]])).round(3)
    array([[1.   , 0.167],
           [0.167, 1.   ]])
    """
    return 1 / (1 + euclidean(prompts.reshape(len(prompts), -1)))


def token_closeness(prompts: Array) -> Array:
    """1 / (1 + mean ‖p − q‖ over all token pairs) of prompts (tasks, tokens, width): E_average of Su et al. 2022.

    >>> token_closeness(np.array([[[0.0, 0.0]], [[3.0, 4.0]]])).round(3)
    array([[1.   , 0.167],
           [0.167, 1.   ]])
    """
    tasks = len(prompts)
    mean = np.zeros((tasks, tasks))
    for i in range(tasks):
        for j in range(i, tasks):
            mean[i, j] = mean[j, i] = cdist(prompts[i], prompts[j]).mean()
    return 1 / (1 + mean)


def delta_cosine(tasks: Sequence[Factors]) -> Array:
    """Cosine of the weight changes ΔW = BA of N tasks, over all places, without forming any ΔW."""
    inner = delta_inner_products(tasks)
    norms = np.sqrt(np.diag(inner))
    if (norms == 0).any():
        raise Undefined("a weight change that is all zeros has no cosine", np.flatnonzero(norms == 0))
    return _symmetric(inner / np.outer(norms, norms))


def delta_inner_products(tasks: Sequence[Factors]) -> Array:
    """⟨ΔW_i, ΔW_j⟩ summed over places, (N, N): the sum of (A_i A_jᵀ) ∘ (B_iᵀ B_j) over both ranks.

    A alone or B alone says nothing: A → GA with B → BG⁻¹ leaves ΔW as it is.
    """
    total = np.zeros((len(tasks), len(tasks)))
    for place in tasks[0]:
        ups = [np.asarray(task[place][0], dtype=np.float64) for task in tasks]
        downs = [np.asarray(task[place][1], dtype=np.float64) for task in tasks]
        for i in range(0, len(tasks), _TASKS_AT_ONCE):
            for j in range(i, len(tasks), _TASKS_AT_ONCE):
                a, b = slice(i, i + _TASKS_AT_ONCE), slice(j, j + _TASKS_AT_ONCE)
                total[a, b] += _block_of_inner_products(ups[a], downs[a], ups[b], downs[b])
    return np.asarray(np.triu(total) + np.triu(total, 1).T)


def neuron_overlap(activations: Array) -> Array:
    """Overlap of activated neurons, (tasks, layers, neurons): cosine of the binary vectors [activation > 0].

    Su et al. 2022: the activations between the two feed-forward layers.

    >>> neuron_overlap(np.array([[[1.0, 0.0, 1.0]], [[1.0, 1.0, 0.0]]])).round(3)
    array([[1. , 0.5],
           [0.5, 1. ]])
    """
    return cosine(np.asarray(activations > 0, dtype=np.float64).reshape(len(activations), -1))


def neuron_overlap_windows(activations: Array, window: int = 3) -> Array:
    """`neuron_overlap` in every window of layers, lowest first: (windows, tasks, tasks). A last short window counts.

    A window in which a task activates no neuron is NaN throughout: the cosine is undefined there.
    """
    layers = activations.shape[1]
    if not 1 <= window <= layers:
        raise BadInput(f"a window of {window} layers does not fit in {layers} layers")
    parts = [activations[:, i : i + window] for i in range(0, layers, window)]
    nothing = np.full((len(activations), len(activations)), np.nan)
    return np.stack([neuron_overlap(part) if (part > 0).any(axis=(1, 2)).all() else nothing for part in parts])


def fisher_diagonal(drawn_gradients: Array) -> Array:
    """F_ii = E_x E_{y∼p(y|x)} (∂_i log p(y|x))², (parameters,), from per-example gradients (examples, parameters).

    The answers must be drawn from the model's own p(y|x): with true answers it is the empirical Fisher, another thing,
    and with the gradient of a batch's mean it is nearly nothing.

    >>> fisher_diagonal(np.array([[1.0, 0.0], [3.0, 2.0]]))
    array([5., 2.])
    """
    return np.asarray(np.square(drawn_gradients, dtype=np.float64).mean(axis=0))


def task2vec(drawn_gradients: Sequence[Array]) -> Array:
    """Task2Vec distance (Achille et al. 2019, arXiv 1902.03545) from each task's gradients (examples, parameters)."""
    return task2vec_distance(np.stack([fisher_diagonal(gradients) for gradients in drawn_gradients]))


def task2vec_distance(fisher: Array) -> Array:
    """1 − cos(h₀/(h₀+h₁), h₁/(h₀+h₁)) of the Fisher diagonals (tasks, parameters).

    0 for identical tasks, 1 for disjoint supports. A coordinate that neither task uses (0/0) counts as nothing.

    >>> task2vec_distance(np.array([[1.0, 1.0], [1.0, 3.0]])).round(3)
    array([[0.   , 0.132],
           [0.132, 0.   ]])
    """
    if not fisher.any(axis=1).all():
        raise Undefined("its gradients vanish", np.flatnonzero(~fisher.any(axis=1)))
    distance = np.zeros((len(fisher), len(fisher)))
    for i in range(len(fisher) - 1):
        h = fisher[i]
        others = fisher[i + 1 :]
        whole = np.where(h + others > 0, h + others, 1)
        u, v = h / whole, others / whole
        cosines = (u * v).sum(axis=1) / np.sqrt((u**2).sum(axis=1) * (v**2).sum(axis=1))
        distance[i, i + 1 :] = distance[i + 1 :, i] = 1 - np.minimum(cosines, 1)
    return distance


def gradient_cosine(gradients: Sequence[Array]) -> Array:
    """Cosine of the tasks' mean loss gradients, each from (examples, parameters).

    >>> gradient_cosine([np.array([[1.0, 0.0]]), np.array([[0.0, 2.0]])]).round(3)
    array([[1., 0.],
           [0., 1.]])
    """
    return cosine(np.stack([np.asarray(task).mean(axis=0) for task in gradients]))


def prediction_agreement(targets: Sequence[Responses]) -> Array:
    """The share of examples, averaged over targets, on which two sources give the same answer: (sources, sources)."""
    agreement = np.zeros((len(targets), len(targets)))
    for target in targets:
        answers = np.stack([np.asarray(answer) for answer in target.by_source])
        agreement += (answers[:, None] == answers[None]).mean(axis=2)
    return agreement / len(targets)


def _unit(vectors: Array) -> Array:
    """Vectors (tasks, ..., width) divided by their lengths."""
    norms = np.linalg.norm(vectors, axis=-1, keepdims=True)
    zero = (norms == 0).reshape(len(vectors), -1).any(axis=1)
    if zero.any():
        raise Undefined("what is all zeros has no cosine", np.flatnonzero(zero))
    return np.asarray(vectors / norms)


def _symmetric(cosines: Array) -> Array:
    """Cosines with rounding taken off: symmetric to the bit, within −1 and 1."""
    return np.asarray(np.clip((cosines + cosines.T) / 2, -1, 1))


def _block_of_inner_products(ups: list[Array], downs: list[Array], ups2: list[Array], downs2: list[Array]) -> Array:
    """Two products of the joined factors, summed over each pair's ranks: (tasks, other tasks)."""
    rows = np.cumsum([0] + [down.shape[0] for down in downs[:-1]])
    columns = np.cumsum([0] + [down.shape[0] for down in downs2[:-1]])
    product = (np.vstack(downs) @ np.vstack(downs2).T) * (np.hstack(ups).T @ np.hstack(ups2))
    return np.asarray(np.add.reduceat(np.add.reduceat(product, rows, axis=0), columns, axis=1))
