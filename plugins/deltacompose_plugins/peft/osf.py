"""OSF's own rule: gradients stay orthogonal to the directions that are to be kept.

Nayak et al. 2025, *Sculpting Subspaces: Constrained Full Fine-Tuning in LLMs for Continual Learning* (arXiv
2504.07097). peft sets it by hooks on its parameters, which see nothing here; so the factors pass through a function
that is the identity and whose gradient is the projection.
"""

from __future__ import annotations

from torch import Tensor

from deltacompose.method import Tensors
from deltacompose_plugins.peft.layers import ADAPTER, Layer

_FACTOR = f"osf_svd_params.{ADAPTER}"


def seen(layer: Layer, t: Tensors) -> dict[str, Tensor]:
    """A layer's tensors, with U `(output, r)` and V `(r, input)` as functions that project their gradients."""
    own = layer.own(t)
    high = own.get(f"_osf_U_high.{ADAPTER}")
    left = _projected(own[f"{_FACTOR}.U_low"], high, own[f"_osf_U_low_init.{ADAPTER}"])
    high, low = own.get(f"_osf_V_high.{ADAPTER}"), own[f"_osf_V_low_init.{ADAPTER}"]
    right = _projected(own[f"{_FACTOR}.V_low"].mT, None if high is None else high.mT, low.mT).mT
    return {**own, f"{_FACTOR}.U_low": left, f"{_FACTOR}.V_low": right}


def _projected(x: Tensor, kept: Tensor | None, free: Tensor) -> Tensor:
    """x `(width, r)`, with gradients in the columns' complement of `kept`, which is the span of `free` if not given."""
    inside = free @ (free.mT @ x) if kept is None else x - kept @ (kept.mT @ x)
    return x.detach() + inside - inside.detach()
