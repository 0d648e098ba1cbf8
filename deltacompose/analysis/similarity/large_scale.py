"""Many thousands of deltas as one file: inner products in blocks, count-sketches, nearest neighbours.

The matrix (deltas, parameters) lies in a `.npy` file and is read in slices, so what is held in memory is a block and a
result, never the matrix.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

import networkx as nx
import numpy as np
from numpy.typing import NDArray
from scipy.linalg.blas import ssyrk
from scipy.sparse import csr_array
from scipy.sparse.linalg import eigsh
from sklearn.neighbors import NearestNeighbors

from deltacompose.analysis import delta_tensors as tensors
from deltacompose.errors import BadInput, unknown

Singles = NDArray[np.float32]
Kind = Literal["float32", "float16"]

FORMAT = 1
_INDEX, _MATRIX = "index.json", "matrix.npy"
_COLUMNS = 16384
_ROWS = 64


@dataclass(frozen=True)
class Stack:
    """N deltas of one shape in one file.

    Attributes:
        folder: where it lies.
        names: of the deltas, in the order of the rows.
        parameters: the number of columns.
        dtype: `float32` or `float16`.
        tensors: shape of each tensor, in the order in which they are joined in a row.
    """

    folder: Path
    names: tuple[str, ...]
    parameters: int
    dtype: str
    tensors: Mapping[str, tuple[int, ...]]

    def matrix(self) -> NDArray[Any]:
        """The file mapped into memory, (deltas, parameters), not to be written to."""
        mapped: NDArray[Any] = np.load(self.folder / _MATRIX, mmap_mode="r", allow_pickle=False)
        return mapped

    def rows(self, first: int, count: int) -> Singles:
        """Some deltas, (count, parameters)."""
        return np.array(self.matrix()[first : first + count], dtype=np.float32)

    def columns(self, first: int, count: int) -> Singles:
        """Some parameters of all deltas, (deltas, count). Mapped anew each time, so that pages read are given back."""
        return np.array(self.matrix()[:, first : first + count], dtype=np.float32)


def collect(folders: Mapping[str, Path], out: Path, dtype: str = "float32") -> Stack:
    """Joins the deltas in folders (or safetensors files) into one matrix in the new folder `out`.

    It is complete or absent: it is written under another name and renamed at the end.

    Args:
        folders: where each delta lies, by the name that its row shall have.
        out: a folder that does not exist yet.
        dtype: `float16` halves the file; values too great for it are refused.

    Raises:
        BadInput: `out` exists, fewer than two deltas, deltas of other tensors or shapes, or values that are not finite.
    """
    if dtype not in get_args(Kind):
        raise unknown("dtype", dtype, get_args(Kind))
    if out.exists():
        raise BadInput(f"{out} exists already; a stack of deltas is written into a new folder")
    if len(folders) < 2:
        raise BadInput(f"a stack needs at least 2 deltas; found {len(folders)}")
    partial = out.with_name(f".{out.name}.{os.getpid()}")
    partial.mkdir(parents=True)
    try:
        _write(folders, partial, dtype)
        partial.rename(out)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return opened(out)


def opened(folder: Path) -> Stack:
    """The stack in a folder that `collect` wrote.

    Raises:
        BadInput: there is none, or it is of another format or size than its index says.
    """
    try:
        index = json.loads((folder / _INDEX).read_text())
        shape, dtype = _shape_of(folder / _MATRIX)
    except (OSError, ValueError) as error:
        raise BadInput(f"{folder} holds no stack of deltas ({error})") from None
    if index.get("format") != FORMAT or shape != (len(index["names"]), index["parameters"]) or dtype != index["dtype"]:
        raise BadInput(
            f"{folder} has an index of format {index.get('format')} that does not fit its matrix {shape} of {dtype}"
        )
    layout = {name: tuple(shape) for name, shape in index["tensors"]}
    return Stack(folder, tuple(index["names"]), index["parameters"], index["dtype"], layout)


def inner_products(stack: Stack, columns: int = _COLUMNS) -> Singles:
    """⟨δ_i, δ_j⟩ of all pairs, (deltas, deltas), in single precision, a block of parameters at a time."""
    n = len(stack.names)
    total = np.zeros((n, n), dtype=np.float32, order="F")
    for first in range(0, stack.parameters, columns):
        block = stack.columns(first, columns)
        total = ssyrk(1.0, block.T, beta=1.0, c=total, trans=1, lower=1, overwrite_c=1)
    for i in range(n):
        total[i, i + 1 :] = total[i + 1 :, i]
    return np.asarray(total)


def cosines(inner: Singles) -> Singles:
    """Cosines from inner products, written over them, (deltas, deltas).

    Raises:
        BadInput: a delta that is all zeros.
    """
    norms = np.sqrt(np.diag(inner))
    if (norms == 0).any():
        raise BadInput(f"delta number {int(np.argmin(norms))} is all zeros: it has no cosine")
    inner /= norms
    inner /= norms[:, None]
    return np.clip(inner, -1, 1, out=inner)


def spectrum(inner: Singles, values: int = 10) -> dict[str, Any]:
    """Leading singular values of the deltas about their mean, participation ratio and stable rank, from inner products.

    None of it needs the other eigenvalues: Σσ² is the trace and Σσ⁴ the square norm of the centred inner products.
    """
    n = len(inner)
    if not 1 <= values < n:
        raise BadInput(f"{n} deltas have at most {n - 1} singular values about their mean; {values} wanted")
    means = inner.mean(axis=0, dtype=np.float64).astype(np.float32)
    centred = inner - means[None]
    centred += np.float32(means.mean(dtype=np.float64)) - means[:, None]
    trace = float(np.trace(centred, dtype=np.float64))
    if trace <= 0:
        raise BadInput("deltas that are all alike span nothing")
    fourth = sum(float(np.square(row, dtype=np.float64).sum()) for row in centred)
    start = np.random.default_rng(0).normal(size=n).astype(np.float32)
    leading = np.maximum(np.sort(eigsh(centred, values, v0=start, return_eigenvectors=False))[::-1], 0)
    return {
        "singular_values": np.sqrt(leading, dtype=np.float64).tolist(),
        "participation_ratio": trace**2 / fourth,
        "stable_rank": trace / float(leading[0]),
    }


def sketch(stack: Stack, width: int, seed: int = 0) -> Singles:
    """Count-sketches of the deltas, (deltas, width): every parameter is added, with a random sign, to one column.

    Inner products are kept on average, with a standard error of about ‖u‖‖v‖/√width (Charikar et al. 2002).
    """
    if not 1 <= width <= stack.parameters:
        raise BadInput(f"a sketch of {stack.parameters} parameters has a width from 1 to that; found {width}")
    generator = np.random.default_rng(seed)
    signs = generator.choice(np.array([-1, 1], np.float32), stack.parameters)
    buckets = generator.integers(0, width, stack.parameters, dtype=np.int32)
    starts = np.arange(stack.parameters + 1, dtype=np.int32)
    projection = csr_array((signs, buckets, starts), shape=(stack.parameters, width))
    return np.concatenate([np.asarray(block @ projection) for block in _row_blocks(stack)])


def neighbours(vectors: Singles, k: int) -> tuple[NDArray[np.intp], Singles]:
    """The k nearest of each vector by cosine, itself left out, and their cosines, (vectors, k) each, nearest first."""
    if not 1 <= k < len(vectors):
        raise BadInput(f"{len(vectors)} deltas have at most {len(vectors) - 1} neighbours each; k = {k} was asked for")
    far, near = NearestNeighbors(n_neighbors=k, metric="cosine", algorithm="brute").fit(vectors).kneighbors()
    return near, np.asarray(1 - far, dtype=np.float32)


def neighbour_graph(names: Sequence[str], near: NDArray[np.intp], weights: Singles) -> nx.Graph:
    """The graph that joins each delta with its neighbours, an edge where either is among the other's.

    Args:
        names: of the deltas.
        near: numbers of the neighbours of each, (deltas, k), as `neighbours` gives them.
        weights: their cosines, (deltas, k).
    """
    graph = nx.Graph(kind="knn", k=near.shape[1])
    graph.add_nodes_from(names)
    for name, row, values in zip(names, near, weights):
        graph.add_weighted_edges_from((name, names[j], float(value)) for j, value in zip(row, values))
    return graph


def _write(folders: Mapping[str, Path], partial: Path, dtype: str) -> None:
    """Writes matrix and index; rows go through the file, not through mapped memory."""
    first = next(iter(folders))
    layout = {name: array.shape for name, array in tensors.read(folders[first]).items()}
    parameters = sum(int(np.prod(shape)) for shape in layout.values())
    with (partial / _MATRIX).open("wb") as file:
        header = {"descr": np.lib.format.dtype_to_descr(np.dtype(dtype)), "fortran_order": False}
        np.lib.format.write_array_header_1_0(file, {**header, "shape": (len(folders), parameters)})
        for name, folder in folders.items():
            file.write(_row(name, tensors.read(folder), layout, dtype).tobytes())
        file.flush()
        os.fsync(file.fileno())
    index = {"format": FORMAT, "names": list(folders), "parameters": parameters, "dtype": dtype}
    (partial / _INDEX).write_text(json.dumps({**index, "tensors": list(layout.items())}) + "\n")


def _row(
    name: str, delta: Mapping[str, NDArray[Any]], layout: Mapping[str, tuple[int, ...]], dtype: str
) -> NDArray[Any]:
    """One delta as a row, its tensors joined in the order of the layout."""
    shapes = {tensor: array.shape for tensor, array in delta.items()}
    if shapes != layout:
        differing = sorted(t for t in {*shapes, *layout} if shapes.get(t) != layout.get(t))
        raise BadInput(
            f"delta {name!r} differs from the first in {differing[0]}: {shapes.get(differing[0], 'none')} where "
            f"{layout.get(differing[0], 'none')} is expected; all rows of a stack need the same tensors"
        )
    whole = np.concatenate([delta[tensor].ravel() for tensor in layout])
    if not np.isfinite(whole).all():
        raise BadInput(f"delta {name!r} has {int((~np.isfinite(whole)).sum())} values that are not finite")
    if (np.abs(whole) > np.finfo(dtype).max).any():
        raise BadInput(
            f"delta {name!r} has values up to {np.abs(whole).max():.3g}, too great for {dtype}; take float32"
        )
    return whole.astype(dtype)


def _shape_of(path: Path) -> tuple[tuple[int, ...], str]:
    mapped = np.load(path, mmap_mode="r", allow_pickle=False)
    return mapped.shape, str(mapped.dtype)


def _row_blocks(stack: Stack) -> Iterator[Singles]:
    return (stack.rows(first, _ROWS) for first in range(0, len(stack.names), _ROWS))
