"""Do the deltas of many tasks lie in one low-dimensional subspace? Spectra, linear subspaces, what they hold elsewhere.

A stack of deltas is an array (tasks, parameters). The autoencoder is in `autoencoder`, the search for the intrinsic
dimension of one task in `intrinsic`, the six readouts of a learned subspace in `readouts`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from deltacompose.analysis.arrays import Floats
from deltacompose.analysis.similarity.measure import stack
from deltacompose.analysis.subspace import random_baseline as directions
from deltacompose.errors import BadInput

if TYPE_CHECKING:
    import pandas as pd

Ints = NDArray[np.intp]

LEAST_FOR_TWO_NN = 100
UNEQUAL = 3
"""From this ratio of the largest norm to the smallest on, the norms of a stack are reported as unequal."""
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

    def to_pandas(self) -> pd.DataFrame:
        """One row per direction of the stack: singular value, share of the variance, whether it is in the subspace."""
        import pandas as pd

        squares = np.square(self.singular_values)
        kept = np.arange(len(squares)) < len(self.basis)
        shares = squares / squares.sum() if squares.any() else squares
        return pd.DataFrame({"singular_value": self.singular_values, "share": shares, "kept": kept})

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

    >>> deltas = np.array([[1.0, 0.0, 0.0], [0.0, 1.0, 0.0], [1.0, 1.0, 0.0]])
    >>> plane = learn(deltas, 2)
    >>> plane.share(deltas).round(6)
    array([1., 1., 1.])

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
    """How many dimensions the stack (tasks, parameters) spans, about its mean if it is centred.

    >>> rank(np.array([[1.0, 0.0], [2.0, 0.0]]), centred=False)
    1
    """
    return _above_nothing(singular_values(deltas, centred))


def _above_nothing(values: Floats) -> int:
    return int((values > _NOTHING * max(values[0], 1e-300)).sum())


def singular_values(deltas: Floats, centred: bool = True) -> Floats:
    """Singular values of the stack (tasks, parameters), descending, (min(tasks, parameters),); rounding becomes 0.

    >>> singular_values(np.array([[3.0, 0.0], [0.0, 4.0]]), centred=False)
    array([4., 3.])
    """
    deltas = np.asarray(deltas, dtype=np.float64)
    values = np.asarray(np.linalg.svd(deltas - deltas.mean(axis=0) if centred else deltas, compute_uv=False))
    return values if values[0] > 1e-13 * np.linalg.norm(deltas) else np.zeros_like(values)


def participation_ratio(values: Floats) -> float:
    """(Σσ²)² / Σσ⁴ of singular values: k for k equal ones.

    >>> participation_ratio(np.array([2.0, 2.0, 2.0]))
    3.0
    """
    squares = np.square(_scaled(values))
    return float(squares.sum() ** 2 / np.square(squares).sum())


def effective_rank(values: Floats) -> float:
    """exp H(σ/Σσ) of singular values (Roy & Vetterli 2007): k for k equal ones.

    >>> round(effective_rank(np.array([2.0, 2.0, 2.0])), 6)
    3.0
    """
    shares = _scaled(values) / _scaled(values).sum()
    return float(np.exp(-(shares * np.log(np.where(shares > 0, shares, 1))).sum()))


def stable_rank(values: Floats) -> float:
    """‖·‖²_F / σ₁² of singular values (Rudelson & Vershynin 2007): k for k equal ones.

    >>> stable_rank(np.array([2.0, 2.0, 1.0]))
    2.25
    """
    return float(np.square(_scaled(values)).sum())


def two_nn(points: Floats, least: int = LEAST_FOR_TWO_NN) -> float:
    """The intrinsic dimension of points (points, width) by TwoNN, (N − 1)/Σ ln μ (Facco et al. 2017), μ = r₂/r₁.

    Raises:
        BadInput: fewer than `least` points, where the estimate is not to be trusted, or points that coincide.
    """
    if len(points) < max(least, 3):
        raise BadInput(f"TwoNN is not to be trusted with {len(points)} points; it needs at least {max(least, 3)}")
    # Imported here because every worker imports this module; scikit-learn imports pandas too.
    from sklearn.neighbors import NearestNeighbors

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
    mean. Random directions hold the more of each other the more unequal their norms are: `summary` has that null.
    """
    deltas = np.asarray(deltas, dtype=np.float64)
    if not 1 <= dimensions <= len(deltas) - 2:
        raise BadInput(
            f"with one of {len(deltas)} tasks left out, the others span at most {len(deltas) - 2} dimensions; "
            f"a subspace of {dimensions} is wanted"
        )
    return held_elsewhere_of(deltas @ deltas.T, dimensions)


def held_elsewhere_of(inner: Floats, dimensions: int) -> Floats:
    """`held_elsewhere` from the inner products of the deltas alone, (tasks, tasks) to (tasks,)."""
    every = np.arange(len(inner))
    return np.array([held(inner, np.delete(every, i), every[i : i + 1], dimensions)[0] for i in every])


def held(inner: Floats, learned: Ints, of: Ints, dimensions: int) -> Floats:
    """The share of deltas `of` that the subspace learned from deltas `learned` holds, (of,), as `Subspace.share`.

    From the inner products (tasks, tasks) alone, so that it costs the cube of the tasks and not their parameters.
    """
    among, across = inner[np.ix_(learned, learned)], inner[np.ix_(of, learned)]
    rows, whole = among.mean(axis=0), among.mean()
    centred = among - rows[:, None] - rows[None] + whole
    cross = across - across.mean(axis=1, keepdims=True) - rows + whole
    square = inner[of, of] - 2 * across.mean(axis=1) + whole
    values, vectors = np.linalg.eigh(centred)
    values, vectors = values[::-1][:dimensions], vectors[:, ::-1][:, :dimensions]
    real = values > _NOTHING * max(values[0], 1e-300)
    along = (np.square(cross @ vectors)[:, real] / values[real]).sum(axis=1)
    return np.asarray(np.where(square > 0, np.minimum(along / np.where(square > 0, square, 1), 1.0), 1.0))


def given_back_if_random(
    deltas: Floats, learned: Ints, dimensions: int, seed: int = 0
) -> dict[str, dict[str, float] | None]:
    """Share reconstructed by principal components of random directions with the deltas' norms: mean and quantiles.

    Args:
        deltas: (tasks, parameters); of `learned` the subspace is made, the others are unseen.

    Returns:
        `seen` and `unseen`, None where there is no such task.
    """
    unseen = np.setdiff1d(np.arange(len(deltas)), learned)
    statistics: dict[str, directions.Statistic] = {
        name: partial(_mean_held, learned=learned, of=of, dimensions=dimensions)
        for name, of in (("seen", learned), ("unseen", unseen))
        if len(of)
    }
    expected = directions.null(statistics, np.linalg.norm(deltas, axis=1), deltas.shape[1], seed)
    return {name: expected.get(name) for name in ("seen", "unseen")}


def summary(tasks: Mapping[str, Floats], dimensions: int | None = None) -> dict[str, Any]:
    """Summarises the common subspace of a stack of deltas for JSON.

    `if_random` has the mean and the 5 % and 95 % quantiles of `held_elsewhere` (averaged over tasks) and of every rank
    for random directions that have the deltas' norms; `unit_norm` the ranks of the deltas scaled to norm 1.

    Args:
        tasks: a flat delta (parameters,) for each task.
        dimensions: of the subspace that `held_elsewhere` is read for; half the tasks, rounded down, if not given.

    Raises:
        BadInput: fewer than 4 tasks, unequal sizes, values that are not finite, or deltas that are all alike.
    """
    if len(tasks) < 4:
        raise BadInput(f"a common subspace needs at least 4 tasks; found {len(tasks)}")
    deltas = stack(tasks, ("parameters",))
    values, ranks, norms = singular_values(deltas), _ranks(deltas), np.linalg.norm(deltas, axis=1)
    chosen = min(len(tasks) // 2, len(tasks) - 2) if dimensions is None else dimensions
    dimension, limitations = _two_nn_or_why_not(deltas)
    most = min(len(tasks) - 1, deltas.shape[1])
    if deltas.shape[1] > len(tasks):
        limitations.append(f"{len(tasks)} tasks span at most {most} dimensions about their mean, whatever they are")
    if chosen >= deltas.shape[1]:
        limitations.append(f"{chosen} dimensions are all that {deltas.shape[1]} parameters have: they hold any delta")
    held_by_others = held_elsewhere(deltas, chosen)
    random = _if_random(deltas, chosen)
    limitations += _about_norms(norms)
    return {
        "tasks": list(tasks),
        "parameters": deltas.shape[1],
        "most_dimensions": most,
        "singular_values": values[:most].tolist(),
        "explained": _explained(values)[:most].tolist(),
        **ranks,
        "norms": dict(zip(tasks, norms.tolist())),
        "unit_norm": _ranks(deltas / np.where(norms > 0, norms, 1)[:, None]),
        "two_nn": dimension,
        "held_elsewhere_dimensions": chosen,
        "held_elsewhere": dict(zip(tasks, held_by_others.tolist())),
        "held_elsewhere_if_random": random["held_elsewhere"]["mean"],
        "if_random": {"draws": directions.draws(len(tasks)), **random},
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


def explained_if_random(norms: Sequence[float], parameters: int, seed: int = 0) -> list[dict[str, float]]:
    """For every k the mean and quantiles of the share that k components hold of random directions with these norms."""
    most = min(len(norms) - 1, parameters)
    statistics: dict[str, directions.Statistic] = {str(k): partial(_explained_by, k=k) for k in range(1, most + 1)}
    return list(directions.null(statistics, np.asarray(norms, dtype=np.float64), parameters, seed).values())


def _explained_by(inner: Floats, k: int) -> float:
    """The share of the square distance from the mean that k components hold, from inner products (tasks, tasks)."""
    rows = inner.mean(axis=0)
    values = np.maximum(np.linalg.eigvalsh(inner - rows[:, None] - rows[None] + inner.mean())[::-1], 0)
    return float(values[:k].sum() / values.sum()) if values.sum() > 0 else 1.0


def _two_nn_or_why_not(deltas: Floats) -> tuple[float | None, list[str]]:
    try:
        return two_nn(deltas), []
    except BadInput as error:
        return None, [str(error)]


def _mean_held(inner: Floats, learned: Ints, of: Ints, dimensions: int) -> float:
    return float(held(inner, learned, of, dimensions).mean())


RANKS = {"participation_ratio": participation_ratio, "effective_rank": effective_rank, "stable_rank": stable_rank}
_ABOUT = {"": True, "_not_centred": False}


def _ranks(deltas: Floats) -> dict[str, float]:
    """Every rank about the mean, and about zero under the name with `_not_centred`."""
    values = {end: singular_values(deltas, centred) for end, centred in _ABOUT.items()}
    return {f"{name}{end}": rank(of) for end, of in values.items() for name, rank in RANKS.items()}


def _rank_of(inner: Floats, rank: Callable[[Floats], float], centred: bool) -> float:
    """A measure of rank from inner products (tasks, tasks)."""
    rows = inner.mean(axis=0)
    about = inner - rows[:, None] - rows[None] + inner.mean() if centred else inner
    return rank(np.sqrt(np.maximum(np.linalg.eigvalsh(about), 0)))


def _if_random(deltas: Floats, dimensions: int) -> dict[str, dict[str, float]]:
    """`held_elsewhere` and every rank of random directions that have the deltas' norms."""
    statistics: dict[str, directions.Statistic] = {
        f"{name}{end}": partial(_rank_of, rank=rank, centred=centred)
        for name, rank in RANKS.items()
        for end, centred in _ABOUT.items()
    }
    statistics["held_elsewhere"] = lambda inner: float(held_elsewhere_of(inner, dimensions).mean())
    return directions.null(statistics, np.linalg.norm(deltas, axis=1), deltas.shape[1])


def _about_norms(norms: Floats) -> Iterator[str]:
    if norms.max() > UNEQUAL * norms.min():
        yield (
            f"the norms of the deltas run from {norms.min():.3g} to {norms.max():.3g}: "
            "large ones rule means and spectra"
        )
