"""Checks that a method runs in other precisions than fp32, and on another device than the CPU."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode

from deltacompose.attach.attachment import attached
from deltacompose.checks.batches import batch, forward
from deltacompose.checks.calls import calls, named_edit
from deltacompose.checks.gradients import distance
from deltacompose.checks.runner import Check
from deltacompose.checks.subject import Subject, lowered, shared
from deltacompose.method.contract import Prepares
from deltacompose.method.weights import generator, part_of

FARTHEST = {torch.bfloat16: 0.2, torch.float16: 0.05}
"""The largest difference from the output in fp32, relative to its size, that fewer digits make."""
_DEVICE = torch.device("cuda", 0)


def other_precision(subject: Subject) -> None:
    """On a backbone in bfloat16 or float16 it gives about the output that it gives in fp32."""
    for dtype, most in FARTHEST.items():
        _compare(
            subject, subject.given(subject.alone, subject.alone.weights, lowered(subject.family, dtype)), dtype, most
        )


def tensors_in_another_precision(subject: Subject) -> None:
    """Its tensors may be held in bfloat16 too, as a delta that was cast is: `prepare` and the edits run on them."""
    trained, dtype = subject.alone, torch.bfloat16
    backbone = lowered(subject.family, dtype)
    weights, constants = (
        {name: x.to(dtype) if x.is_floating_point() else x for name, x in t.items()}
        for t in (trained.weights, trained.constants)
    )
    with attached(backbone, trained.expression, weights, constants), torch.no_grad():
        output = forward(backbone, subject.batch)
    _compare(subject, output, dtype, 2 * FARTHEST[dtype])


def other_device(subject: Subject) -> None:
    """Every tensor that its functions make is on the device of what they are given.

    The functions run on tensors that have shapes and a device, a GPU's, and no numbers, so no GPU is needed.
    """
    mode = FakeTensorMode(allow_non_fake_inputs=True)
    if isinstance(subject.method, Prepares):
        t = part_of({**subject.alone.weights, **subject.alone.constants}, "0.0.")
        _on_device(subject, "prepare", mode, lambda fake: subject.method.prepare(fake, generator(0)), (t,))  # type: ignore[attr-defined]
    for call in calls(subject):
        _on_device(subject, f"its {named_edit(call.edit)}", mode, call.function, (call.tensors, *call.arguments))


def _compare(subject: Subject, output: Tensor, dtype: torch.dtype, most: float) -> None:
    if output.dtype != dtype:
        raise subject.broken(f"on a backbone in {dtype} its output is {output.dtype}")
    if not bool(torch.isfinite(output).all()):
        raise subject.broken(f"on a backbone in {dtype} its output is not finite; keep numbers within its range")
    if _apart(subject.family, dtype) > most:  # Falcon's ALiBi in float16: the model itself is another function
        return
    if (far := distance(output.float(), subject.output)) > most:
        raise subject.broken(f"on a backbone in {dtype} its output differs by {far:.2f} of its size from fp32")


@functools.cache
def _apart(family: str, dtype: torch.dtype) -> float:
    """How far a pico model's own output in another precision is from that in fp32, relative to its size."""
    backbone = shared(family)
    with torch.no_grad():
        low, exact = (forward(model, batch(backbone, seed=0)) for model in (lowered(family, dtype), backbone))
    return distance(low.float(), exact)


def _on_device(
    subject: Subject, what: str, mode: FakeTensorMode, function: Callable[..., Any], arguments: tuple[Any, ...]
) -> None:
    """Runs a function on tensors of a GPU that is not there. Only a mixture of devices says anything; a function may
    fail there in other ways, as one that looks at numbers does."""
    faked = [_faked(argument, mode) for argument in arguments]  # made outside of the mode, which would look at each
    with mode:
        try:
            result = function(*faked)
        except Exception as error:
            if "same device" in str(error):
                raise subject.broken(
                    f"{what} makes a tensor on the CPU and fails on a GPU; make it on the device of its input"
                ) from error
            return
    for x in _tensors(result):
        if x.device.type != _DEVICE.type:
            raise subject.broken(f"{what} gives a tensor on {x.device} where its tensors are on {_DEVICE}")


def _faked(argument: Any, mode: FakeTensorMode) -> Any:
    if isinstance(argument, dict):
        return {name: _faked(x, mode) for name, x in argument.items()}
    if not isinstance(argument, Tensor):
        return argument
    return FakeTensor(mode, torch.empty_like(argument.detach(), device="meta"), _DEVICE)


def _tensors(result: Any) -> list[Tensor]:
    values = result.values() if isinstance(result, dict) else result if isinstance(result, tuple) else (result,)
    return [x for x in values if isinstance(x, Tensor)]


def _chooses_nothing(subject: Subject) -> bool:
    """Whether the model is continuous: a router near a tie chooses other experts in another precision."""
    return not any(place.kind == "ffn.router" for place in subject.backbone.places())


CHECKS = (Check(other_precision, when=_chooses_nothing), Check(tensors_in_another_precision), Check(other_device))
