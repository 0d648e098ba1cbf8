"""Do the deltas of many tasks lie in one low-dimensional subspace? Spectra, linear subspaces, what they hold elsewhere.

A stack of deltas is an array (tasks, parameters). The autoencoder is in `autoencoder`, the search for the intrinsic
dimension of one task in `intrinsic`, the six readouts of a learned subspace in `readouts`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.neighbors import NearestNeighbors

from deltacompose.analysis.measure import stack
from deltacompose.errors import BadInput

Floats = NDArray[np.float64]

LEAST_FOR_TWO_NN = 100
_NOTHING = 1e-10


@dataclass(frozen=True, eq=False)
class Subspace:
    """A linear subspace learned from a stack of deltas by principal components.

    Attributes:
        mean: (parameters,), zeros if it was not centred.
        basis: (dimensions, parameters), orthonormal rows, the strongest first.
        singular_values: all of the stack's, (tasks,), of which the first `dimensions` are kept.
    """

    mean: Floats
    basis: Floats
    singular_values: Floats

    def encode(self, deltas: Floats) -> Floats:
        """Coordinates in the subspace, (tasks, parameters) to (tasks, dimensions)."""
        return np.asarray((deltas - self.mean) @ self.basis.T)

    def decode(self, codes: Floats) -> Floats:
        """Deltas with those coordinates, (tasks, dimensions) to (tasks, parameters)."""
        return np.asarray(codes @ self.basis + self.mean)

    def share(self, deltas: Floats) -> Floats:
        """The share of each delta's square distance from the mean that the subspace holds, (tasks,)."""
        centred = deltas - self.mean
        whole = np.square(centred).sum(axis=1)
        held = np.square(centred @ self.basis.T).sum(axis=1)
        return np.asarray(np.where(whole > 0, held / np.where(whole > 0, whole, 1), 1.0))


def learn(deltas: Floats, dimensions: int, centred: bool = True) -> Subspace:
    """The subspace of the leading principal components of (tasks, parameters).

    Raises:
        BadInput: more dimensions than the stack has.
    """
    deltas = np.asarray(deltas, dtype=np.float64)
    mean = deltas.mean(axis=0) if centred else np.zeros(deltas.shape[1])
    _, values, basis = np.linalg.svd(deltas - mean, full_matrices=False)
    spanned = _above_nothing(values)
    if not 1 <= dimensions <= spanned:
        raise BadInput(
            f"the {len(deltas)} deltas span {spanned} dimensions{' about their mean' if centred else ''}; "
            f"a subspace of {dimensions} is wanted"
        )
    return Subspace(mean, basis[:dimensions], values)


def rank(deltas: Floats, centred: bool = True) -> int:
    """How many dimensions the stack (tasks, parameters) spans, about its mean if it is centred."""
    return _above_nothing(singular_values(deltas, centred))


def _above_nothing(values: Floats) -> int:
    return int((values > _NOTHING * max(values[0], 1e-300)).sum())


def singular_values(deltas: Floats, centred: bool = True) -> Floats:
    """Of the stack (tasks, parameters), descending, (min(tasks, parameters),)."""
    deltas = np.asarray(deltas, dtype=np.float64)
    return np.asarray(np.linalg.svd(deltas - deltas.mean(axis=0) if centred else deltas, compute_uv=False))


def participation_ratio(values: Floats) -> float:
    """(Σσ²)² / Σσ⁴ of singular values: k for k equal ones."""
    squares = np.square(_scaled(values))
    return float(squares.sum() ** 2 / np.square(squares).sum())


def effective_rank(values: Floats) -> float:
    """exp H(σ/Σσ) of singular values (Roy & Vetterli 2007): k for k equal ones."""
    shares = _scaled(values) / _scaled(values).sum()
    return float(np.exp(-(shares * np.log(np.where(shares > 0, shares, 1))).sum()))


def stable_rank(values: Floats) -> float:
    """‖·‖²_F / σ₁² of singular values (Rudelson & Vershynin 2007): k for k equal ones."""
    return float(np.square(_scaled(values)).sum())


def two_nn(points: Floats, least: int = LEAST_FOR_TWO_NN) -> float:
    """The intrinsic dimension of points (points, width) by TwoNN, (N − 1)/Σ ln μ (Facco et al. 2017), μ = r₂/r₁.

    Raises:
        BadInput: fewer than `least` points, where the estimate is not to be trusted, or points that coincide.
    """
    if len(points) < max(least, 3):
        raise BadInput(f"TwoNN is not to be trusted with {len(points)} points; it needs at least {max(least, 3)}")
    near, _ = NearestNeighbors(n_neighbors=2).fit(points).kneighbors()
    if (near[:, 0] == 0).any():
        raise BadInput(f"{int((near[:, 0] == 0).sum())} points coincide with another; TwoNN needs distinct points")
    logarithms = float(np.log(near[:, 1] / near[:, 0]).sum())
    if logarithms == 0:
        raise BadInput("every point has two nearest neighbours at one distance; TwoNN is undefined there")
    return (len(points) - 1) / logarithms


def held_elsewhere(deltas: Floats, dimensions: int) -> Floats:
    """For each task the share of its delta that the subspace of the *other* tasks' deltas holds, (tasks,).

    The subspace is that of the others' leading principal components, the share that of the square distance from their
    mean. A subspace of random directions would hold dimensions/parameters.
    """
    deltas = np.asarray(deltas, dtype=np.float64)
    if not 1 <= dimensions <= len(deltas) - 2:
        raise BadInput(
            f"with one of {len(deltas)} tasks left out, the others span at most {len(deltas) - 2} dimensions; "
            f"a subspace of {dimensions} is wanted"
        )
    inner = deltas @ deltas.T
    return np.array([_held(inner, left_out, dimensions) for left_out in range(len(deltas))])


def summary(tasks: Mapping[str, Floats], dimensions: int | None = None) -> dict[str, Any]:
    """What a stack of deltas says about a common subspace, ready for JSON.

    Args:
        tasks: a flat delta (parameters,) for each task.
        dimensions: of the subspace that `held_elsewhere` is read for; half the tasks, rounded down, if not given.

    Raises:
        BadInput: fewer than 4 tasks, unequal sizes, values that are not finite, or deltas that are all alike.
    """
    if len(tasks) < 4:
        raise BadInput(f"a common subspace needs at least 4 tasks; found {len(tasks)}")
    deltas = stack(tasks, ("parameters",))
    values, plain = singular_values(deltas), singular_values(deltas, centred=False)
    chosen = min(len(tasks) // 2, len(tasks) - 2) if dimensions is None else dimensions
    dimension, limitations = _two_nn_or_why_not(deltas)
    most = min(len(tasks) - 1, deltas.shape[1])
    if deltas.shape[1] > len(tasks):
        limitations.append(f"{len(tasks)} tasks span at most {most} dimensions about their mean, whatever they are")
    return {
        "tasks": list(tasks),
        "parameters": deltas.shape[1],
        "most_dimensions": most,
        "singular_values": values[:most].tolist(),
        "explained": _explained(values)[:most].tolist(),
        "participation_ratio": participation_ratio(values),
        "effective_rank": effective_rank(values),
        "stable_rank": stable_rank(values),
        "participation_ratio_not_centred": participation_ratio(plain),
        "effective_rank_not_centred": effective_rank(plain),
        "stable_rank_not_centred": stable_rank(plain),
        "two_nn": dimension,
        "held_elsewhere_dimensions": chosen,
        "held_elsewhere": dict(zip(tasks, held_elsewhere(deltas, chosen).tolist())),
        "held_elsewhere_if_random": chosen / deltas.shape[1],
        "limitations": limitations,
    }


def _scaled(values: Floats) -> Floats:
    """Singular values over the greatest of them."""
    values = np.asarray(values, dtype=np.float64)
    if values.ndim != 1 or not values.size or not np.isfinite(values).all() or (values < 0).any():
        raise BadInput(f"singular values are a row of numbers of at least 0; found shape {values.shape}")
    if not values.any():
        raise BadInput("all singular values are 0: deltas that are all alike span nothing")
    return np.asarray(values / values.max())


def _explained(values: Floats) -> Floats:
    """The share of the square distance from the mean that the first k components hold, for every k."""
    squares = np.square(_scaled(values))
    return np.asarray(np.cumsum(squares) / squares.sum())


def _two_nn_or_why_not(deltas: Floats) -> tuple[float | None, list[str]]:
    try:
        return two_nn(deltas), []
    except BadInput as error:
        return None, [str(error)]


def _held(inner: Floats, left_out: int, dimensions: int) -> float:
    """From the inner products of all deltas alone, so that it costs the cube of the tasks and not their parameters."""
    others = np.delete(np.arange(len(inner)), left_out)
    among, across = inner[np.ix_(others, others)], inner[left_out, others]
    rows, whole = among.mean(axis=0), among.mean()
    centred = among - rows[:, None] - rows[None] + whole
    cross = across - across.mean() - rows + whole
    square = inner[left_out, left_out] - 2 * across.mean() + whole
    values, vectors = np.linalg.eigh(centred)
    values, vectors = values[::-1][:dimensions], vectors[:, ::-1][:, :dimensions]
    real = values > _NOTHING * max(values[0], 1e-300)
    along = np.square(vectors.T @ cross)[real] / values[real]
    return float(min(along.sum() / square, 1.0)) if square > 0 else 1.0
