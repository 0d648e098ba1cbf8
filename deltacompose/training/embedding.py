"""The embedding of a task: the mean of its inputs' states in the untouched backbone."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray

from deltacompose.backbone.backbone import evaluating
from deltacompose.scoring import Reader

EXAMPLES = 64
"""Training examples whose inputs an embedding is the mean of."""
_ROWS = 16


def task_embedding(reader: Reader, split: str = "train", examples: int = EXAMPLES) -> NDArray[np.float32]:
    """The mean of the last states of a task's inputs in the untouched backbone, `(width,)`.

    Vu et al. 2020, *Exploring and Predicting Transferability across NLP Tasks* (arXiv 2005.00770), TextEmb.

    Args:
        examples: at most so many of the split's first ones.
    """
    rows = reader.rows(split)[:examples]
    with torch.no_grad(), evaluating(reader.backbone.model):
        states = [reader.features(rows[k : k + _ROWS]).float().cpu() for k in range(0, len(rows), _ROWS)]
    mean: NDArray[np.float32] = torch.cat(states).mean(0).numpy()
    return mean
