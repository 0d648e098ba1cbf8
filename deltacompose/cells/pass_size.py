"""How many tokens a pass of a bank may hold on this machine, so that the bank is never slower than its deltas in turn.

Deltas that pass together share the overhead of the pass. On a CPU a pass that is too large takes longer for each token
all the same, because what the backward pass keeps leaves the caches. Where that begins differs between machines, widths
and sizes of batches. So steps of LoRA in banks of 1, 2, 4, ... deltas are timed on a small random model of about the
backbone's width, once per machine, data type, device, width and tokens of one delta, and remembered.

The size changes how rows are joined, and so a training's numbers by rounding at most. A training that goes on from a
checkpoint keeps the size that it had.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from importlib.metadata import version
from typing import TYPE_CHECKING, Annotated, Any

from annotated_types import Gt

from deltacompose import registry
from deltacompose.attach.attachment import Attachment, attach
from deltacompose.attach.bound import Stacked
from deltacompose.backbone.backbone import Backbone
from deltacompose.cache.remembered import remembered
from deltacompose.cells import calibration
from deltacompose.method.weights import init_weights
from deltacompose.study import machine
from deltacompose.study.recipe import PASS_TOKENS
from deltacompose.training.flat import Matrices, Row, clip, step
from deltacompose.training.learner import Job

if TYPE_CHECKING:
    from torch import Tensor

LEAST = 256
"""Tokens of the smallest step of one delta that is timed; where a whole bank has no more, nothing is."""

ROW = 32
"""Tokens of a row of these steps."""

TOLERANCE = 0.05
"""Share of the time by which steps of equal speed are measured apart."""

ROUNDS = 3

STEPS = 200
"""Steps of a bank's trainings, all together, below which the measurement would take longer than what it saves."""

Seconds = Callable[[int], float]
"""Seconds of one step of a bank of so many deltas."""


def tokens_of_pass(backbone: Backbone, jobs: Sequence[Job]) -> int | None:
    """The most tokens in one pass of a bank of these jobs; None where any choice will do, for few tokens or steps.

    On a CPU the first call for a width, a data type and a size of batches takes some seconds; later ones recall it.
    """
    alone, device = [_tokens(job) for job in jobs], backbone.model.device.type
    few = sum(alone) <= LEAST or sum(job.recipe.steps for job in jobs) < STEPS
    if len(jobs) < 2 or device not in PASS_TOKENS or few:
        return None
    dtype, width = str(backbone.model.dtype).removeprefix("torch."), _power(backbone.embedding_width, 64, 512)
    own = _power(max(alone), LEAST, PASS_TOKENS[device])
    together = largest(steps(dtype, device, width, own))
    return math.ceil(together * max(own, *alone)) if together > 1 else math.ceil(max(alone))


def largest(seconds: Mapping[int, float]) -> int:
    """The greatest number of deltas whose step together takes no longer than their steps in turn.

    Args:
        seconds: of one step of a bank, by its deltas; that of one delta is among them.

    >>> largest({1: 2.0, 2: 3.0, 4: 9.0})
    2
    """
    limit = seconds[1] * (1 + TOLERANCE)
    return max(deltas for deltas, time in seconds.items() if time / deltas <= limit)


def steps(dtype: str, device: str, width: int, tokens: int, seconds: Seconds | None = None) -> dict[int, float]:
    """Seconds of one step by the deltas of the bank, measured now if they were not before.

    Args:
        width: of the model that is trained on, a multiple of 64.
        tokens: of each delta's step, a multiple of `ROW`.
        seconds: what measures; None times steps on the device.
    """
    banks = [1]
    while banks[-1] < 16 and 2 * banks[-1] * tokens <= PASS_TOKENS[device]:
        banks.append(2 * banks[-1])
    name, layers = machine.processor(gpu=device == "cuda"), calibration.LAYERS
    inputs = [name, dtype, device, width, tokens, version("torch"), [layers, ROW, banks]]
    find = partial(_measured, dtype, device, width, tokens, banks, seconds)
    known = remembered("banks", inputs, find, dict[str, Annotated[float, Gt(0)]])
    return {int(deltas): float(value) for deltas, value in known.items()}


def _measured(
    dtype: str, device: str, width: int, tokens: int, banks: Sequence[int], seconds: Seconds | None
) -> dict[str, float]:
    if seconds is not None:
        return {str(deltas): seconds(deltas) for deltas in banks}
    least = dict.fromkeys(map(str, banks), math.inf)
    with calibration.timing(device):
        backbone = registry.load_backbone(calibration.random_model(width, dtype, device))
        attachment = attach(backbone, registry.parse("lora"), probe=False)
        acts = {deltas: partial(_learn, attachment, _bank(backbone, deltas), tokens // ROW) for deltas in banks}
        acts[1]()
        for _ in range(ROUNDS):  # in turn, so that a busy moment does not decide for one size
            for deltas, act in acts.items():
                least[str(deltas)] = min(least[str(deltas)], calibration.timed(act, device, calls=1, warm=0))
    return least


def _bank(backbone: Backbone, deltas: int) -> Matrices:
    """LoRA's weights for so many deltas."""
    weights = init_weights(backbone, registry.parse("lora"), 0)
    return Matrices.of([weights] * deltas, backbone.model.device)


def _learn(attachment: Attachment, matrices: Matrices, rows: int) -> None:
    """A step of training of a bank, each of whose deltas has so many rows."""
    import torch

    model: Any = attachment.backbone.model
    leaves, deltas = matrices.leaves(), len(matrices.weights)
    own = [Row.of(matrices, k, {"": 1e-3}, 0.0, 0) for k in range(deltas)]
    attachment.put(Stacked(deltas, leaves) if deltas > 1 else {name: x[0] for name, x in leaves.items()})
    ids = torch.ones(deltas * rows, ROW, dtype=torch.int64, device=model.device)
    states: Tensor = model(input_ids=ids, use_cache=False).last_hidden_state
    losses = states.float().square().mean((1, 2)).view(deltas, -1).mean(1)
    matrices.take_gradients(torch.autograd.grad(losses.sum(), list(leaves.values())))
    clip(own, [1.0] * deltas, losses.detach())
    step(own, [1.0] * deltas)


def _tokens(job: Job) -> float:
    """About as many tokens as a step of a job alone has."""
    lengths = [sum(job.reader.lengths(row)) for row in job.reader.rows("train")]
    return min(job.recipe.batch, len(lengths)) * sum(lengths) / len(lengths)


def _power(value: float, least: int, most: int) -> int:
    """The nearest power of two within bounds, so that few sizes are measured."""
    return int(min(most, max(least, 2 ** round(math.log2(value)))))
