"""A subspace learned from a stack of deltas, as a file: by principal components, or by an autoencoder.

The file is what the method `intrinsic_prompt` reads, so a prompt can be tuned within it.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, get_args

import numpy as np
from safetensors.numpy import save

from deltacompose.analysis import delta_tensors as tensors
from deltacompose.analysis.arrays import Floats
from deltacompose.analysis.subspace import autoencoder
from deltacompose.analysis.subspace import linear as subspace
from deltacompose.analysis.subspace.autoencoder import Settings, TaskLoss
from deltacompose.errors import BadInput, unknown

if TYPE_CHECKING:
    import pandas as pd

Way = Literal["pca", "autoencoder"]
_NETWORK = tuple(autoencoder.Network.__dataclass_fields__)


@dataclass(frozen=True, eq=False)
class Learned:
    """A subspace of flat deltas (tasks, parameters).

    Attributes:
        way: `pca` or `autoencoder`.
        arrays: by name, as they stand in the file: `mean` and `basis`, or the network's weights.
        loss: of the last step; 0 for principal components.
    """

    way: Way
    arrays: Mapping[str, Floats]
    loss: float = 0.0

    def to_pandas(self) -> pd.DataFrame:
        """One row per array of the file: way, name, shape and norm."""
        import pandas as pd

        return pd.DataFrame(
            [
                {"way": self.way, "array": name, "shape": str(array.shape), "norm": float(np.linalg.norm(array))}
                for name, array in self.arrays.items()
            ]
        )

    def reconstructed(self, deltas: Floats) -> Floats:
        """Each delta encoded and decoded, (tasks, parameters)."""
        if self.way == "pca":
            mean, basis = self.arrays["mean"], self.arrays["basis"]
            return np.asarray((deltas - mean) @ basis.T @ basis + mean)
        network = autoencoder.Network(**{name: self.arrays[name] for name in _NETWORK})
        return network.decode(network.encode(deltas))

    def kept(self, deltas: Floats, mean: Floats) -> Floats:
        """The share of each delta's square distance from `mean` that is given back, (tasks,); it may be negative."""
        lost = np.square(deltas - self.reconstructed(deltas)).sum(axis=1)
        whole = np.square(deltas - mean).sum(axis=1)
        return np.asarray(1 - lost / np.where(whole > 0, whole, 1))

    def content(self) -> bytes:
        """The file: safetensors in single precision, the same bytes for the same numbers."""
        return save({name: np.ascontiguousarray(array, dtype=np.float32) for name, array in self.arrays.items()})

    def sha256(self) -> str:
        """SHA-256 of the file, as `intrinsic_prompt` expects it."""
        return hashlib.sha256(self.content()).hexdigest()


def learn(deltas: Floats, way: str, settings: Settings, seed: int = 0, task_loss: TaskLoss | None = None) -> Learned:
    """The subspace of `settings.dimensions` dimensions of a stack (tasks, parameters).

    Args:
        way: `pca`, which reads the dimensions alone, or `autoencoder` (Qin et al. 2021).
        seed: of the autoencoder's initial weights.
        task_loss: of the reconstructed deltas on their tasks, for the autoencoder.
    """
    if way not in get_args(Way):
        raise unknown("way of learning a subspace", way, get_args(Way))
    if way == "pca":
        pca = subspace.learn(deltas, settings.dimensions)
        return Learned("pca", {"mean": pca.mean, "basis": pca.basis})
    network, losses = autoencoder.learn(deltas, settings, seed, task_loss)
    return Learned("autoencoder", {name: getattr(network, name) for name in _NETWORK}, float(losses[-1]))


def read(path: Path) -> Learned:
    """The subspace in a file that holds `Learned.content`.

    Raises:
        BadInput: it holds something else.
    """
    arrays: dict[str, Any] = {name: np.asarray(x, dtype=np.float64) for name, x in tensors.read(path).items()}
    for way, names in (("pca", ("mean", "basis")), ("autoencoder", _NETWORK)):
        if set(names) == set(arrays):
            return Learned(way, arrays)  # type: ignore[arg-type]
    raise BadInput(f"{path} holds {', '.join(arrays)}, which is not a learned subspace")
