"""AdaLoRA's own terms: the penalty that keeps its factors orthogonal, and the schedule that takes ranks away.

Zhang et al. 2023, *Adaptive Budget Allocation for Parameter-Efficient Fine-Tuning* (arXiv 2303.10512). ΔW = P Λ Q; the
triplets (a column of P, a singular value, a row of Q) of least importance have their singular value set to zero.
A schedule writes no weights, so a constant `lora_E_zero` holds the value from which each singular value counts: setting
it to the present one is setting the singular value to zero, and what the optimiser does to it afterwards stays.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from deltacompose.errors import BadInput
from deltacompose.method import Tensors
from deltacompose_plugins.peft.layers import Layer

FACTORS = ("lora_A", "lora_B", "lora_E")
MEMORY = ("importance", "uncertainty")


def initial(t: Tensors) -> dict[str, Tensor]:
    """The schedule's constants before the first step, for the weights `t` of every place."""
    constants = {}
    for place in places(t):
        constants[f"{place}.lora_E_zero"] = torch.zeros_like(t[f"{place}.lora_E"])
        constants[f"{place}.lora_E_kept"] = torch.ones_like(t[f"{place}.lora_E"], dtype=torch.bool)
        for factor in FACTORS:
            for memory in MEMORY:
                constants[f"{place}.{factor}_{memory}"] = torch.zeros_like(t[f"{place}.{factor}"])
    return constants


def places(t: Tensors) -> list[str]:
    """The places that have singular values."""
    return [name.removesuffix(".lora_E") for name in t if name.endswith(".lora_E")]


def penalty(t: Tensors, weight: float) -> Tensor:
    """γ · mean of ‖PᵀP − I‖ and ‖QQᵀ − I‖ (equation 4)."""
    squares = [_square(name, x) for name, x in t.items() if name.endswith((".lora_A", ".lora_B"))]
    norms = [torch.linalg.norm(x - torch.eye(len(x), dtype=x.dtype, device=x.device)) for x in squares]
    return weight * torch.stack(norms).mean()


def _square(name: str, x: Tensor) -> Tensor:
    return x @ x.mT if name.endswith(".lora_A") else x.mT @ x


def update(t: Tensors, gradients: Tensors, step: int, steps: int, settings: Mapping[str, Any]) -> dict[str, Tensor]:
    """The schedule's constants after a step (algorithm 1).

    Args:
        t: weights after the step, and constants.
        gradients: those that the step was made with.
        settings: target_r, init_r, tinit, tfinal, deltaT, beta1, beta2 as in peft's configuration.
    """
    last = steps - settings["tfinal"]
    if last <= settings["tinit"]:
        raise BadInput(
            f"peft: adalora's tinit={settings['tinit']} and tfinal={settings['tfinal']} leave none of {steps} steps "
            "to take ranks away in"
        )
    new = _smoothed(t, gradients, settings["beta1"], settings["beta2"]) if step < last else {}
    if step == last or (settings["tinit"] < step < last and step % settings["deltaT"] == 0):
        new |= _allocated({**t, **new}, _budget(step, last, len(places(t)), settings))
    if step > last:
        new |= _kept_at_zero(t)
    if step == steps - 1:
        new |= {name: torch.zeros(0) for name in t if name.endswith(MEMORY)}
    return new


def _budget(step: int, last: int, matrices: int, settings: Mapping[str, Any]) -> int:
    """The number of triplets to keep over all matrices, falling by the third power (equation 8)."""
    begin, end = settings["init_r"] * matrices, settings["target_r"] * matrices
    if step >= last:
        return int(end)
    left = 1 - (step - settings["tinit"]) / (last - settings["tinit"])
    return int((begin - end) * left**3 + end)


def _smoothed(t: Tensors, gradients: Tensors, beta1: float, beta2: float) -> dict[str, Tensor]:
    """Sensitivity |w ∂L/∂w| and its uncertainty, averaged over steps (equations 9 and 10)."""
    new = {}
    for place in places(t):
        for factor in FACTORS:
            name = f"{place}.{factor}"
            if name not in gradients:
                continue
            value = t[name] - t[f"{name}_zero"] if factor == "lora_E" else t[name]
            sensitivity = (value * gradients[name]).detach().abs()
            mean = beta1 * t[f"{name}_importance"] + (1 - beta1) * sensitivity
            spread = beta2 * t[f"{name}_uncertainty"] + (1 - beta2) * (sensitivity - mean).abs()
            new |= {f"{name}_importance": mean, f"{name}_uncertainty": spread}
    return new


def _allocated(t: Tensors, budget: int) -> dict[str, Tensor]:
    """Singular values count from where they are now, in all but the most important triplets."""
    scores = {place: _score(t, place) for place in places(t)}
    together = torch.cat(list(scores.values()))
    if budget >= len(together):
        return {}
    threshold = together.kthvalue(len(together) - budget).values
    kept = {f"{place}.lora_E_kept": (score > threshold)[:, None] for place, score in scores.items()}
    return kept | _kept_at_zero({**t, **kept})


def _score(t: Tensors, place: str) -> Tensor:
    """The importance of each triplet, `(rank,)` (equation 7)."""
    a, b, e = (t[f"{place}.{f}_importance"] * t[f"{place}.{f}_uncertainty"] for f in FACTORS)
    return e.flatten() + a.mean(1) + b.mean(0)


def _kept_at_zero(t: Tensors) -> dict[str, Tensor]:
    """The singular values that are not kept count from where they are now."""
    return {
        f"{place}.lora_E_zero": torch.where(
            t[f"{place}.lora_E_kept"], t[f"{place}.lora_E_zero"], t[f"{place}.lora_E"].detach()
        )
        for place in places(t)
    }


def seen(layer: Layer, t: Tensors) -> dict[str, Tensor]:
    """A layer's tensors, with singular values counted from where they were set to zero."""
    own = layer.own(t)
    return {**own, "lora_E.default": own["lora_E.default"] - t[f"{layer.place.name}.lora_E_zero"]}
