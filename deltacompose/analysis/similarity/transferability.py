"""How well a source's features or answers fit a target's labels: LogME, LEEP and NCE.

Each reads, for every target, the `Responses` of all sources on its examples, and gives a (sources, targets) matrix.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from deltacompose.analysis.similarity.measure import Array, Responses
from deltacompose.errors import BadInput

_ROUNDS = 200
_PRECISION = 1e-8


def log_me(targets: Sequence[Responses]) -> Array:
    """`log_maximum_evidence` of each source's features on each target's labels, (sources, targets)."""
    return _by_pair(targets, log_maximum_evidence)


def leep(targets: Sequence[Responses]) -> Array:
    """`log_expected_empirical_prediction` of each source on each target, (sources, targets)."""
    return _by_pair(targets, log_expected_empirical_prediction)


def nce(targets: Sequence[Responses]) -> Array:
    """`negative_conditional_entropy` of each target's answers given each source's, (sources, targets)."""
    return _by_pair(targets, negative_conditional_entropy)


def log_maximum_evidence(features: Array, labels: npt.NDArray[Any]) -> float:
    """LogME (You et al. 2021, arXiv 2102.11005): evidence per example of linear models on features (examples, width).

    One model for each label's indicator, p(y) = N(0, FFᵀ/α + I/β), with α and β at their maximum; the mean over labels.
    Numbers as labels (floating point) are taken as one regression target.

    >>> features = np.array([[0.0, 1.0], [0.1, 0.9], [1.0, 0.0], [0.9, 0.2]])
    >>> right = log_maximum_evidence(features, np.array([0, 0, 1, 1]))
    >>> wrong = log_maximum_evidence(features, np.array([0, 1, 0, 1]))
    >>> right > wrong
    True
    """
    features = np.asarray(features, dtype=np.float64)
    if len(features) != len(labels):
        raise BadInput(f"{len(features)} rows of features for {len(labels)} labels")
    left, values, _ = np.linalg.svd(features, full_matrices=False)
    columns = _indicators(labels)
    return float(np.mean([_evidence(left.T @ y, values**2, y, features.shape[1]) for y in columns]))


def log_expected_empirical_prediction(probabilities: Array, labels: npt.NDArray[Any]) -> float:
    """LEEP (Nguyen et al. 2020, arXiv 2002.12462): mean log Σ_z P̂(y|z) θ(x)_z, at most 0.

    >>> probabilities = np.array([[0.9, 0.1], [0.8, 0.2], [0.2, 0.8]])
    >>> round(log_expected_empirical_prediction(probabilities, np.array([0, 0, 1])), 3)
    -0.317

    Args:
        probabilities: θ, what the source gives its own labels, (examples, source labels), rows summing to 1.
        labels: the target's true answers, (examples,).
    """
    theta = np.asarray(probabilities, dtype=np.float64)
    if (theta < 0).any() or not np.allclose(theta.sum(axis=1), 1, atol=1e-4):
        raise BadInput("LEEP needs probabilities: every row at least 0 and of sum 1")
    known, answers = np.unique(labels, return_inverse=True)
    joint = np.zeros((len(known), theta.shape[1]))
    np.add.at(joint, answers, theta)
    total = joint.sum(axis=0)
    conditional = joint / np.where(total > 0, total, 1)
    return float(np.log((conditional[answers] * theta).sum(axis=1)).mean())


def negative_conditional_entropy(predictions: npt.NDArray[Any], labels: npt.NDArray[Any]) -> float:
    """NCE (Tran et al. 2019, arXiv 1908.08142): −H(Y|Z) in nats, of true answers Y given the source's answers Z.

    Both are (examples,). 0 where Z decides Y, −ln 2 where two balanced answers are independent of Z.

    >>> predictions, labels = np.array(["a", "a", "b", "b"]), np.array([0, 0, 1, 0])
    >>> round(negative_conditional_entropy(predictions, labels), 3)
    -0.347
    """
    if not len(labels):
        raise BadInput("no conditional entropy of no examples")
    known, y = np.unique(labels, return_inverse=True)
    predicted, z = np.unique(predictions, return_inverse=True)
    joint = np.zeros((len(known), len(predicted)))
    np.add.at(joint, (y, z), 1 / len(y))
    conditional = joint / joint.sum(axis=0)
    return float((joint[joint > 0] * np.log(conditional[joint > 0])).sum())


def _by_pair(targets: Sequence[Responses], score: Callable[[Any, npt.NDArray[Any]], float]) -> Array:
    return np.array([[score(answers, target.labels) for answers in target.by_source] for target in targets]).T


def _indicators(labels: npt.NDArray[Any]) -> Array:
    """(labels, examples) of 0 and 1; for numbers the one row of them."""
    labels = np.asarray(labels)
    if np.issubdtype(labels.dtype, np.floating):
        return labels[None].astype(np.float64)
    return np.asarray(np.unique(labels)[:, None] == labels[None], dtype=np.float64)


def _evidence(projected: Array, squares: Array, y: Array, width: int) -> float:
    """The greatest log evidence per example, by the fixed point of α and β (You et al. 2021).

    Args:
        projected: y in the features' left-singular vectors, (rank,).
        squares: squared singular values, (rank,).
        y: the target, (examples,).
        width: number of features.
    """
    n = len(y)
    outside = max(float(y @ y - projected @ projected), 0.0)
    alpha, beta, last = 1.0, 1.0, -np.inf
    for _ in range(_ROUNDS):
        gain = beta * squares / (alpha + beta * squares)
        gamma = float(gain.sum())
        mean_square = float((projected**2 * squares * (beta / (alpha + beta * squares)) ** 2).sum())
        residual = float((projected**2 * (1 - gain) ** 2).sum()) + outside
        evidence = _log_evidence(alpha, beta, squares, (mean_square, residual), (n, width))
        if abs(evidence - last) <= _PRECISION * max(1.0, abs(evidence)):
            break
        last = evidence
        alpha = min(gamma / max(mean_square, 1e-12), 1e12)
        beta = min((n - gamma) / max(residual, 1e-12), 1e12)
    return evidence / n


def _log_evidence(alpha: float, beta: float, squares: Array, fit: tuple[float, float], sizes: tuple[int, int]) -> float:
    """log p(y | α, β) of the linear model, `fit` being ‖m‖² and ‖y − Fm‖², `sizes` the examples and the width."""
    mean_square, residual = fit
    n, width = sizes
    log_determinant = float(np.log(alpha + beta * squares).sum()) + (width - len(squares)) * np.log(alpha)
    return float(
        n / 2 * np.log(beta / (2 * np.pi))
        + width / 2 * np.log(alpha)
        - beta / 2 * residual
        - alpha / 2 * mean_square
        - log_determinant / 2
    )
