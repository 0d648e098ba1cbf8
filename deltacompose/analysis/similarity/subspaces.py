"""How far subspaces agree: overlap with its null, principal angles, Procrustes.

A basis is an array (dimension, k) with orthonormal columns; a stack of them (tasks, dimension, k).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from deltacompose.analysis.similarity.measure import Array, Factors, Undefined
from deltacompose.errors import BadInput

_NUMBERS_AT_ONCE = 2**24


def overlap(bases: Array, others: Array) -> Array:
    """φ(U, V) = ‖UᵀV‖²_F / min(i, j) of each pair, (tasks, other tasks): 0 orthogonal, 1 one holds the other.

    Hu et al. 2021 (arXiv 2106.09685), eq. 4.

    >>> axes = np.eye(4)[None]
    >>> overlap(axes[:, :, :2], axes[:, :, 1:3])
    array([[0.5]])

    Args:
        bases: (tasks, dimension, i).
        others: (other tasks, dimension, j).
    """
    k = min(bases.shape[2], others.shape[2])
    return np.asarray(np.minimum(_squared_products(bases, others) / k, 1))


def overlap_null(dimension: int, i: int, j: int) -> tuple[float, float]:
    """Mean of φ and variance of ‖UᵀV‖²_F for independent uniform subspaces of R^dimension of i and j dimensions.

    E φ = max(i, j)/d and Var‖UᵀV‖²_F = 2ij(d−i)(d−j) / (d²(d−1)(d+2)); the variance of φ is that over min(i, j)².

    >>> overlap_null(100, 10, 10)[0]
    0.1
    """
    d = dimension
    if not 1 <= min(i, j) <= max(i, j) <= d or d < 2:
        raise BadInput(f"no subspaces of {i} and {j} dimensions in R^{d} to compare")
    return max(i, j) / d, 2 * i * j * (d - i) * (d - j) / (d**2 * (d - 1) * (d + 2))


def overlap_z(bases: Array, others: Array) -> Array:
    """By how many standard deviations the overlap exceeds that of random subspaces, (tasks, other tasks)."""
    _, dimension, i = bases.shape
    j = others.shape[2]
    _, variance = overlap_null(dimension, i, j)
    if not variance:
        raise BadInput(f"subspaces of {i} and {j} dimensions in R^{dimension} always overlap alike: z is undefined")
    return np.asarray((_squared_products(bases, others) - i * j / dimension) / np.sqrt(variance))


def overlap_above_chance(bases: Array, others: Array) -> Array:
    """(φ − Eφ) / (1 − Eφ), (tasks, other tasks): 0 on average for random subspaces, 1 where one holds the other.

    >>> axes = np.eye(4)[None]
    >>> overlap_above_chance(axes[:, :, :2], axes[:, :, :2])
    array([[1.]])
    """
    expected, _ = overlap_null(bases.shape[1], bases.shape[2], others.shape[2])
    if expected == 1:
        raise BadInput(
            f"a subspace that fills R^{bases.shape[1]} overlaps wholly with every other: nothing is above chance"
        )
    return np.asarray((overlap(bases, others) - expected) / (1 - expected))


def principal_angles(bases: Array, others: Array) -> Array:
    """arccos σ(UᵀV), smallest first, (tasks, other tasks, min(i, j)), in radians.

    A cosine near 1 cannot tell small angles apart, so those are taken from the sines, σ(V − UUᵀV)
    (Björck & Golub 1973).

    >>> axes = np.eye(3)[None]
    >>> principal_angles(axes[:, :, :1], axes[:, :, 1:2]).round(3)
    array([[[1.571]]])
    """
    if bases.shape[2] < others.shape[2]:
        return np.swapaxes(principal_angles(others, bases), 0, 1)
    angles = np.empty((len(bases), len(others), others.shape[2]))
    at_once = max(1, _NUMBERS_AT_ONCE // others[0].size)
    for i, basis in enumerate(bases):
        for j in range(0, len(others), at_once):
            angles[i, j : j + at_once] = _angles(basis, others[j : j + at_once])
    return angles


def orthonormal(columns: Array) -> Array:
    """An orthonormal basis of each matrix's columns, (tasks, dimension, k) in and out; refuses dependent columns.

    >>> basis = orthonormal(np.array([[[2.0], [0.0]]]))
    >>> abs(basis)
    array([[[1.],
            [0.]]])
    """
    if columns.shape[-2] < columns.shape[-1]:
        raise BadInput(
            f"{columns.shape[-1]} columns in R^{columns.shape[-2]} are dependent and have no basis of that size"
        )
    q, r = np.linalg.qr(np.asarray(columns, dtype=np.float64))
    diagonal = np.abs(np.diagonal(r, axis1=-2, axis2=-1))
    if (diagonal.min(axis=-1) <= 1e-12 * diagonal.max(axis=-1)).any():
        raise BadInput("dependent columns span fewer dimensions than there are columns; give fewer of them")
    return np.asarray(q)


def right_singular(matrices: Array, k: int) -> Array:
    """The k leading right-singular vectors, not centred, of (tasks, rows, dimension): (tasks, dimension, k)."""
    rows, dimension = matrices.shape[-2:]
    if not 1 <= k <= min(rows, dimension):
        raise BadInput(f"no {k} right-singular vectors in matrices of shape ({rows}, {dimension})")
    vectors = np.linalg.svd(np.asarray(matrices, dtype=np.float64), full_matrices=False)[2]
    return np.asarray(np.swapaxes(vectors[..., :k, :], -1, -2))


def prompt_overlap(prompts: Array, k: int = 10) -> Array:
    """‖V_k V′_kᵀ‖²_F / k of the k leading right-singular vectors of the prompts (tasks, tokens, width), not centred.

    Of prompts with fewer than k tokens, all their right-singular vectors.
    """
    bases = right_singular(prompts, min(k, *prompts.shape[1:]))
    return overlap(bases, bases)


def prompt_geodesic(prompts: Array, k: int = 10) -> Array:
    """√Σθ² over the principal angles of the subspaces of `prompt_overlap`, in radians."""
    bases = right_singular(prompts, min(k, *prompts.shape[1:]))
    return np.asarray(np.sqrt((principal_angles(bases, bases) ** 2).sum(axis=2)))


def delta_overlap(tasks: Sequence[Factors]) -> Array:
    """Overlap above chance of the input subspaces of ΔW (its right-singular vectors), averaged over places.

    Each task's subspace at a place has as many dimensions as its ΔW has rank there.
    """
    return np.asarray(np.mean([_pairs(bases, overlap_above_chance) for bases in _input_bases(tasks)], axis=0))


def delta_overlap_z(tasks: Sequence[Factors]) -> Array:
    """z of the overlap of the input subspaces of ΔW, summed over places as for independent places."""
    places = [_pairs(bases, overlap_z) for bases in _input_bases(tasks)]
    return np.asarray(np.sum(places, axis=0) / np.sqrt(len(places)))


def delta_geodesic(tasks: Sequence[Factors]) -> Array:
    """√Σθ² over the principal angles of the input subspaces of ΔW and over places, in radians."""

    def squares(left: Array, right: Array) -> Array:
        return np.asarray((principal_angles(left, right) ** 2).sum(axis=2))

    return np.asarray(np.sqrt(sum(_pairs(bases, squares) for bases in _input_bases(tasks))))


def input_basis(up: Array, down: Array) -> Array:
    """The right-singular vectors of ΔW = up · down that have a singular value, (in, rank of ΔW).

    From the factors, by two thin QR decompositions and a small SVD; what they span depends on ΔW only.
    """
    r_up = np.linalg.qr(np.asarray(up, dtype=np.float64))[1]
    q_down, r_down = np.linalg.qr(np.asarray(down, dtype=np.float64).T)
    _, values, right = np.linalg.svd(r_up @ r_down.T)
    rank = int((values > 1e-6 * values[0]).sum()) if values[0] > 0 else 0
    if not rank:
        raise BadInput("a weight change that is all zeros spans no subspace")
    return np.asarray(q_down @ right[:rank].T)


def procrustes(prompts: Array) -> Array:
    """min_R ‖A R − B‖_F over rotations R of the width, ‖A‖ = ‖B‖ = 1: (tasks, tokens, width) to (N, N), 0 to √2.

    R = UVᵀ from the SVD of AᵀB, so the distance is √(2 − 2 Σσ(AᵀB)) (Schönemann 1966). AᵀB is (width, width) of rank
    at most the number of tokens; its singular values are those of a smaller product of triangular factors.

    >>> turned = np.array([[[1.0, 0.0], [0.0, 1.0]], [[0.0, 1.0], [-1.0, 0.0]]])
    >>> abs(procrustes(turned).round(6))
    array([[0., 0.],
           [0., 0.]])
    """
    norms = np.linalg.norm(prompts, axis=(1, 2), keepdims=True)
    if (norms == 0).any():
        raise Undefined("a prompt that is all zeros has no direction to rotate", np.flatnonzero(norms == 0))
    factors = np.linalg.qr(np.swapaxes(np.asarray(prompts / norms, dtype=np.float64), 1, 2), mode="r")
    nuclear = np.stack(
        [np.linalg.svd(factor @ np.swapaxes(factors, 1, 2), compute_uv=False).sum(axis=1) for factor in factors]
    )
    distance = np.sqrt(np.maximum(2 - nuclear - nuclear.T, 0))
    np.fill_diagonal(distance, 0)
    return np.asarray(distance)


def rotation(a: Array, b: Array) -> Array:
    """The rotation or reflection R = UVᵀ (width, width) that brings A nearest to B, both (tokens, width): svd(AᵀB)."""
    if a.shape != b.shape:
        raise BadInput(f"Procrustes needs two matrices of one shape; found {a.shape} and {b.shape}")
    left, _, right = np.linalg.svd(a.T @ b)
    return np.asarray(left @ right)


def _squared_products(bases: Array, others: Array) -> Array:
    """‖UᵀV‖²_F of every pair, by one matrix product for as many tasks as fit."""
    tasks, dimension, i = bases.shape
    if others.shape[1] != dimension:
        raise BadInput(f"subspaces of R^{dimension} and of R^{others.shape[1]} cannot be compared")
    columns = np.swapaxes(others, 0, 1).reshape(dimension, -1)
    result = np.empty((tasks, len(others)))
    at_once = max(1, _NUMBERS_AT_ONCE // (i * columns.shape[1]))
    for first in range(0, tasks, at_once):
        block = np.swapaxes(bases[first : first + at_once], 1, 2).reshape(-1, dimension)
        squares = np.square(block @ columns).reshape(-1, i, len(others), others.shape[2])
        result[first : first + at_once] = squares.sum(axis=(1, 3))
    return result


def _angles(basis: Array, others: Array) -> Array:
    """Angles of one basis (dimension, i) with a stack (tasks, dimension, j), j ≤ i: (tasks, j)."""
    products = basis.T @ others
    cosines = np.linalg.svd(products, compute_uv=False)
    sines = np.linalg.svd(others - basis @ products, compute_uv=False)[:, ::-1]
    small = cosines**2 > 0.5
    return np.asarray(np.where(small, np.arcsin(np.clip(sines, 0, 1)), np.arccos(np.clip(cosines, 0, 1))))


def _input_bases(tasks: Sequence[Factors]) -> list[list[Array]]:
    """For each place the tasks' input subspaces of ΔW."""
    still = [i for i, task in enumerate(tasks) if any(not np.any(up) or not np.any(down) for up, down in task.values())]
    if still:
        raise Undefined("a weight change that is all zeros spans no subspace", still)
    return [[input_basis(*task[place]) for task in tasks] for place in tasks[0]]


def _pairs(bases: Sequence[Array], function: Callable[[Array, Array], Array]) -> Array:
    """A function of two stacks of bases on all pairs; at once where all have as many columns, else pair by pair."""
    if len({basis.shape[1] for basis in bases}) == 1:
        stacked = np.stack(bases)
        return np.asarray(function(stacked, stacked))
    return np.array([[function(u[None], v[None])[0, 0] for v in bases] for u in bases])
