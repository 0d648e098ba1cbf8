"""Checks of a method's optional abilities: each depends on what it is given alone, and they belong together."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import Any

import torch
from torch import Tensor

from deltacompose.attach.attachment import attached
from deltacompose.checks.batches import forward
from deltacompose.checks.gradients import distance
from deltacompose.checks.other_process import Failed, backbone_there, worker
from deltacompose.checks.runner import Check, Unchecked
from deltacompose.checks.subject import Subject, Trained, job_of
from deltacompose.checks.tensors import unlike
from deltacompose.errors import BadInput
from deltacompose.method.contract import Carries, Finalizes, HasConstants, Method, Penalizes, Prepares, Updates
from deltacompose.method.weights import finalized, generator, named, part_of, prepared

STEPS = 6
ROUNDING = 1e-5
"""The largest relative difference of outputs that is rounding."""


def pure_abilities(subject: Subject) -> None:
    """`prepare`, `finalize`, `penalty` and `update` depend on their arguments alone, and change none of them."""
    for name, call in _calls(subject.method):
        arguments, other = (_own(subject, seed) for seed in (0, 1))
        first = call(_copied(arguments))
        call(_copied(other))
        passed = _copied(arguments)
        again = call(passed)
        if fault := unlike(first, again):
            raise subject.broken(
                f"{name} gives other {fault} after a call for another delta; it keeps state between calls"
            )
        if fault := unlike(passed, arguments):
            raise subject.broken(f"{name} changes {fault} in place; deltas of a bank may share them: give a new tensor")


def kept_equals_evaluated(subject: Subject) -> None:
    """Where `prepare` draws nothing, what is kept after training acts as what was trained does."""
    trained = subject.alone
    t = {**trained.weights, **trained.constants}
    draws = [prepared(trained.expression, t, generator(seed, "prepare")) for seed in (0, 1)]
    if unlike(*draws):
        return  # noise while training: what is kept is the function without it, or with it at its median
    far = distance(_kept_output(subject, trained), subject.output)
    if far > ROUNDING:
        raise subject.broken(
            f"what finalize keeps gives another output than the weights that it was made from, by {far:.1e} of its "
            "size; the score of a trained delta would be that of another function"
        )


def carried_function(subject: Subject) -> None:
    """Begun from a solution of its own it is that solution, and from one of fewer dimensions it comes nearer to it."""
    method, own = subject.method, subject.alone
    for lower in (method, *_lower(method)):
        trained = own if lower is method else subject.trained(lower)
        try:
            weights = method.carried(subject.backbone, lower, part_of(trained.weights, "0.0."))  # type: ignore[attr-defined]
        except BadInput:
            continue
        goal = subject.given(trained, trained.weights)
        begun = subject.given(own, {f"0.0.{name}": x for name, x in weights.items()})
        far, least = distance(begun, goal), distance(subject.given(own, own.start), goal)
        if far > (ROUNDING if lower is method else 0.9 * least):
            raise subject.broken(
                f"begun from a solution of {lower} its output differs from that solution's by {far:.1e} of its size; "
                f"a fresh start by {least:.1e}"
            )


def constants_of_each_task(subject: Subject) -> None:
    """The constants of a task are its own, whichever task the process has read before."""
    method, family = subject.method, subject.family
    here = _constants(method, family, (0, 1))
    there = worker().ask(_constants_there, type(method), dict(method.settings), family)
    if isinstance(there, Failed):
        raise Unchecked(f"{subject}: its constants cannot be made in another process: {there.reason}", there.reason)
    for task in (0, 1):
        for name, x in here[task].items():
            other = there[task].get(name)
            if other is None or not _alike(x, torch.from_numpy(other)):
                raise subject.broken(
                    f"the constant {name!r} of a task depends on which task was read before; keep nothing between "
                    "tasks, or keep it by the data"
                )


def _calls(method: Method) -> Iterator[tuple[str, Callable[[dict[str, Tensor]], Mapping[str, Tensor]]]]:
    """Each ability as a function of the tensors alone."""
    if isinstance(method, Prepares):
        yield "prepare", lambda t: named(method, "prepare", method.prepare(t, generator(0, "prepare")))
    if isinstance(method, Finalizes):
        yield "finalize", lambda t: named(method, "finalize", method.finalize(t))
    if isinstance(method, Penalizes):
        yield "penalty", lambda t: {"penalty": method.penalty(t)}
    if isinstance(method, Updates):
        for step in range(STEPS):
            yield "update", partial(_updated, method, step)


def _updated(method: Updates, step: int, t: dict[str, Tensor]) -> dict[str, Tensor]:
    gradients = {name: torch.sin(7 * x) for name, x in t.items() if x.is_floating_point()}
    return {name: x.clone() for name, x in named(method, "update", method.update(t, gradients, step, STEPS)).items()}


def _own(subject: Subject, seed: int) -> dict[str, Tensor]:
    """The method's tensors as if trained, without their prefix."""
    trained = subject.trained(subject.method, seed)
    return part_of({**trained.weights, **subject.alone.constants}, "0.0.")


def _copied(t: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name: x.clone() for name, x in t.items()}


def _kept_output(subject: Subject, trained: Trained) -> Tensor:
    kept = finalized(trained.expression, {**trained.weights, **trained.constants})
    with attached(subject.backbone, trained.expression, kept, trained.constants, finalized=True), torch.no_grad():
        return forward(subject.backbone, subject.batch)


def _lower(method: Method) -> Iterator[Method]:
    """The same method with one of its whole numbers halved, where it accepts that."""
    for name, value in method.settings.items():
        if type(value) is int and value > 1:
            try:
                yield type(method)(**{**method.settings, name: value // 2})
            except BadInput:
                continue


def _constants(method: Method, family: str, order: tuple[int, ...]) -> dict[int, dict[str, Tensor]]:
    """The constants of each of two tasks, asked for in an order, by a method of its own."""
    fresh: Any = type(method)(**method.settings)
    backbone = backbone_there(family)
    return {
        task: named(fresh, "constants", fresh.constants(backbone, job_of(backbone, fresh, task=task))) for task in order
    }


def _constants_there(kind: type[Method], settings: dict[str, Any], family: str) -> dict[int, dict[str, Any]]:
    constants = _constants(kind(**settings), family, (1, 0))
    return {task: {name: x.detach().numpy() for name, x in own.items()} for task, own in constants.items()}


def _alike(x: Tensor, y: Tensor) -> bool:
    if x.shape != y.shape:
        return False
    return distance(x, y) <= ROUNDING if x.is_floating_point() else torch.equal(x, y)


def _has_any(subject: Subject) -> bool:
    return isinstance(subject.method, Prepares | Finalizes | Penalizes | Updates)


CHECKS = (
    Check(pure_abilities, when=_has_any),
    Check(kept_equals_evaluated, when=lambda subject: isinstance(subject.method, Prepares | Finalizes)),
    Check(carried_function, when=lambda subject: isinstance(subject.method, Carries)),
    Check(constants_of_each_task, when=lambda subject: isinstance(subject.method, HasConstants)),
)
