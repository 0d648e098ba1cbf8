"""From few numbers to a long vector: random projections, and decoders that were learned from other tasks' deltas.

`apply(constants, theta)` is a pure function, linear in θ for the random projections, written with plain autograd
operations and fit for `torch.func.vmap` over θ, over the constants, or over both.

    dense     columns of a Gaussian matrix, each of norm 1; d · D numbers (Li et al. 2018, arXiv 1804.08838)
    fastfood  HGΠHB in blocks; columns of norm 1 ± .003 (d ≤ 1024, D ≥ 20000); D log d operations (Le et al. 2013)
    sketch    each of the D entries is ± one of the d numbers; columns orthonormal; D operations (Charikar et al. 2002)
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from deltacompose.errors import BadInput, unknown

LEAST_BLOCK = 1024
"""Least width of a Fastfood block: up to so many dimensions a smaller projection is the larger one's first columns."""
DENSE_AT_MOST = 2**30
"""Greatest number of entries of a dense projection, 4 GiB in single precision."""
_COLUMN_SEEDS = 1_000_003


def project(kind: str, seed: int, d: int, D: int) -> dict[str, Tensor]:
    """The constants of a random projection from d to D numbers, the same for the same arguments.

    Args:
        kind: `dense`, `fastfood` or `sketch`.
        seed: of the draw.
        d: dimensions of the subspace.
        D: parameters of the whole space.

    Raises:
        BadInput: an unknown kind, d not within 1 and D, or a dense matrix of more than 4 GiB.
    """
    if kind not in _PROJECTIONS:
        raise unknown("projection", kind, _PROJECTIONS)
    if not 1 <= d <= D:
        raise BadInput(f"a projection from {d} to {D} numbers; d must be at least 1 and at most D")
    return _PROJECTIONS[kind](seed, d, D)


def apply(constants: Mapping[str, Tensor], theta: Tensor) -> Tensor:
    """P θ: (d,) to (D,), linear in θ; the constants determine the kind.

    Raises:
        BadInput: constants of no projection.
    """
    for mark, function in (("matrix", _dense), ("order", _fastfood), ("bucket", _sketch)):
        if mark in constants:
            return function(constants, theta)
    raise BadInput(f"constants {', '.join(sorted(constants)) or 'of no name'} do not describe a projection")


def decode(constants: Mapping[str, Tensor], theta: Tensor) -> Tensor:
    """A learned decoder's delta: (d,) to (D,).

    Either of principal components (`mean` (D,), `basis` (d, D)) or of an autoencoder (`hidden_weight` (h, d),
    `hidden_bias`, `output_weight` (D, h), `output_bias`; Qin et al. 2021, arXiv 2110.07867).
    """
    if "basis" in constants:
        return constants["mean"] + theta @ constants["basis"]
    if "hidden_weight" not in constants:
        raise BadInput(f"constants {', '.join(sorted(constants)) or 'of no name'} do not describe a learned decoder")
    hidden = torch.tanh(constants["hidden_weight"] @ theta + constants["hidden_bias"])
    return constants["output_weight"] @ hidden + constants["output_bias"]


def nested(kind: str, smaller: int, larger: int, D: int) -> bool:
    """Whether the projection from fewer dimensions onto D numbers is the larger one's first columns."""
    return kind == "dense" or (kind == "fastfood" and _block(smaller, D) == _block(larger, D))


def transposed(constants: Mapping[str, Tensor], whole: Tensor, d: int) -> Tensor:
    """Pᵀ v: (D,) to (d,)."""
    zero = torch.zeros(d, dtype=whole.dtype)
    back: Tensor = torch.func.vjp(lambda theta: apply(constants, theta), zero)[1](whole)[0]
    return back


def hadamard(x: Tensor) -> Tensor:
    """The Walsh–Hadamard transform of the last axis, not scaled; its length is a power of two.

    H of length n is the Kronecker product of two of about √n, so it is two matrix products instead of log n passes.
    """
    left = 2 ** (int(math.log2(x.shape[-1])) // 2)
    square = x.reshape(*x.shape[:-1], left, x.shape[-1] // left)
    half = (square @ _small_hadamard(square.shape[-1], x)).transpose(-1, -2)
    return (half @ _small_hadamard(left, x)).transpose(-1, -2).reshape(x.shape)


def _small_hadamard(n: int, like: Tensor) -> Tensor:
    matrix = torch.ones(1, 1, dtype=like.dtype, device=like.device)
    while len(matrix) < n:
        matrix = torch.cat([torch.cat([matrix, matrix], 1), torch.cat([matrix, -matrix], 1)])
    return matrix


def _draw_dense(seed: int, d: int, D: int) -> dict[str, Tensor]:
    """Each column from a seed of its own, so that fewer columns are the first of more."""
    if d * D > DENSE_AT_MOST:
        raise BadInput(
            f"a dense projection from {d} to {D} numbers takes {d * D / 2**28:.0f} GiB; take fastfood or sketch"
        )
    matrix = torch.empty(d, D)
    for column in range(d):
        matrix[column].normal_(generator=_generator(seed * _COLUMN_SEEDS + column))
    return {"matrix": (matrix / matrix.norm(dim=1, keepdim=True)).T.contiguous()}


def _dense(constants: Mapping[str, Tensor], theta: Tensor) -> Tensor:
    return constants["matrix"].to(theta.dtype) @ theta


def _draw_fastfood(seed: int, d: int, D: int) -> dict[str, Tensor]:
    """Blocks of H G Π H B under each other, cut to D rows; a whole block's columns have the norm √(b ΣG²) exactly.

    `rows` holds nothing: its first axis says D.
    """
    block = _block(d, D)
    blocks = math.ceil(D / block)
    generator = _generator(seed)
    gauss = torch.randn(blocks, block, generator=generator)
    rows = torch.full((blocks,), block)
    rows[-1] = D - block * (blocks - 1)
    norm = (rows * gauss.square().sum(1)).sum().sqrt()
    return {
        "signs": torch.randint(0, 2, (blocks, block), generator=generator) * 2.0 - 1,
        "order": torch.rand(blocks, block, generator=generator).argsort(1),
        "gauss": gauss / norm,
        "rows": torch.empty(D, 0),
    }


def _fastfood(constants: Mapping[str, Tensor], theta: Tensor) -> Tensor:
    signs, order, gauss, rows = (constants[name] for name in ("signs", "order", "gauss", "rows"))
    x = torch.nn.functional.pad(theta, (0, signs.shape[-1] - theta.shape[-1]))
    x = hadamard(signs.to(theta.dtype) * x)
    x = hadamard(gauss.to(theta.dtype) * torch.gather(x, -1, order))
    return x.reshape(-1)[: rows.shape[0]]


def _block(d: int, D: int) -> int:
    """Width of a block: a power of two that holds d, at least `LEAST_BLOCK` where D has as many rows."""
    return int(2 ** math.ceil(math.log2(max(d, min(LEAST_BLOCK, D)))))


def _draw_sketch(seed: int, d: int, D: int) -> dict[str, Tensor]:
    """Every bucket holds ⌊D/d⌋ or ⌈D/d⌉ entries, so none is empty; a doubled d splits each bucket in two."""
    generator = _generator(seed)
    rank = torch.randperm(D, generator=generator)
    signs = torch.randint(0, 2, (D,), generator=generator) * 2.0 - 1
    bucket = rank * d // D
    return {"bucket": bucket, "signs": signs / torch.bincount(bucket, minlength=d).sqrt()[bucket]}


def _sketch(constants: Mapping[str, Tensor], theta: Tensor) -> Tensor:
    return theta[constants["bucket"]] * constants["signs"].to(theta.dtype)


def _generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed % 2**63)


_PROJECTIONS: Mapping[str, Callable[[int, int, int], dict[str, Tensor]]] = {
    "dense": _draw_dense,
    "fastfood": _draw_fastfood,
    "sketch": _draw_sketch,
}
