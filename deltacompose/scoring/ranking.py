"""Rules that rank candidates of unequal length by their log-likelihoods.

The formulas are those of lm-evaluation-harness (Gao et al. 2024, doi:10.5281/zenodo.12608602), where they are the
metrics `acc`, `acc_norm` and `acc_mutual_info`; `pmi` is domain conditional PMI (Holtzman et al. 2021, arXiv
2104.08315, equation 2).
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from deltacompose.errors import unknown
from deltacompose.task.description import RANKINGS


def ranked(
    rule: str, sums: Tensor, tokens: Tensor, sizes: Sequence[Sequence[int]] = (), empty: Tensor | None = None
) -> Tensor:
    """Scores `(rows, candidates)` by a rule; the highest is ranked first.

    Args:
        rule: `sum`, log p(candidate | input); `mean`, that over the number of tokens; `bytes`, that over the number
            of UTF-8 bytes of the candidate's text; `pmi`, log p(candidate | input) − log p(candidate | empty input).
        sums: log-likelihoods `(rows, candidates)`, each the sum over a candidate's tokens.
        tokens: numbers of tokens `(rows, candidates)`.
        sizes: numbers of bytes, for `bytes`.
        empty: log-likelihoods after an empty input, for `pmi`.

    >>> ranked("bytes", torch.tensor([[-6.0, -8.0]]), torch.tensor([[2, 4]]), [[3, 8]])
    tensor([[-2., -1.]])
    """
    if rule == "sum":
        return sums
    if rule == "mean":
        return sums / tokens
    if rule == "bytes":
        return sums / torch.tensor(sizes, device=sums.device, dtype=sums.dtype).clamp(min=1)
    if rule == "pmi" and empty is not None:
        return sums - empty
    raise unknown("ranking", rule, RANKINGS)
