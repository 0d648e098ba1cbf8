"""All that a method does on one backbone, as named results, to be compared when something about it is changed."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from deltacompose.attach.attachment import attached
from deltacompose.checks.batches import forward
from deltacompose.checks.subject import Subject, moved
from deltacompose.composition import composition
from deltacompose.errors import BadInput
from deltacompose.method.contract import Edit, Finalizes, Method, Penalizes, TokenEdit, Updates, WeightEdit, edits_of
from deltacompose.method.weights import finalized, init_constants, init_weights, part_of, penalty

STEPS = 8


def signature(subject: Subject, method: Method) -> Iterator[tuple[str, Any]]:
    """Results of a method, the cheapest first: weights, edits, constants, its output, and its abilities' results.

    A refusal is a result too.
    """
    backbone, expression = subject.backbone, composition(method)
    try:
        start = init_weights(backbone, expression)
        yield "init", start
        yield "edits", [_described(edit) for edit in edits_of(method, backbone)]
        constants = init_constants(backbone, expression, subject.job(expression))
        yield "constants", constants
        weights = {name: moved(name, x) for name, x in start.items()}
        with attached(backbone, expression, weights, constants):
            yield "its output", forward(backbone, subject.batch).detach()
        t = {**weights, **constants}
        if isinstance(method, Finalizes):
            yield "finalize", finalized(expression, t)
        if isinstance(method, Penalizes):
            yield "penalty", penalty(expression, t, 0)
        if isinstance(method, Updates):
            own = part_of(t, "0.0.")
            gradients = {name: x.sin() for name, x in own.items() if x.is_floating_point()}
            yield "update", [method.update(own, gradients, step, STEPS) for step in range(STEPS)]
    except BadInput as error:
        yield "refusal", str(error)


def _described(edit: Edit) -> tuple[Any, ...]:
    """An edit without its function."""
    where = edit.stream if isinstance(edit, TokenEdit) else edit.place.name
    parameter = edit.parameter if isinstance(edit, WeightEdit) else ""
    return type(edit).__name__, where, parameter, getattr(edit, "dropout", 0.0)
