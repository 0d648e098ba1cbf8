"""Checks of a delta under arithmetic: a scaled delta does so many times what the delta does, or is refused."""

from __future__ import annotations

from functools import partial

import torch
from torch import Tensor

from deltacompose.checks.calls import calls
from deltacompose.checks.gradients import distance
from deltacompose.checks.runner import Check
from deltacompose.checks.subject import Subject
from deltacompose.delta.arithmetic import combined, task_arithmetic
from deltacompose.delta.delta import Delta
from deltacompose.delta.merge import Active, active_edits, change_of
from deltacompose.errors import BadInput
from deltacompose.method.contract import KeyValueEdit, TokenEdit, WeightEdit

COEFFICIENTS = (-1.0, 0.5)
"""A product of factors that are scaled one by one takes -1 for 1 and a half for a quarter."""

Effects = dict[tuple[str, str], Tensor]


def scaled_by_arithmetic(subject: Subject) -> None:
    """A delta scaled by task arithmetic does so many times what it did, or is refused by name."""
    delta = subject.delta(subject.alone)
    whole = effects(subject, delta)
    for coefficient in COEFFICIENTS:
        try:
            scaled = combined([delta], partial(task_arithmetic, coefficients=coefficient))
        except BadInput:
            continue
        for key, effect in effects(subject, scaled).items():
            if (far := distance(effect, coefficient * whole[key])) > 1e-4:
                raise subject.broken(
                    f"scaled by {coefficient:g} its change of {' at '.join(reversed(key))} differs by {far:.1e} of its "
                    "size from that many times the change; say linear = False, or implement combined"
                )


def effects(subject: Subject, delta: Delta) -> Effects:
    """Effect of a delta at each place: ΔW, rows, keys and values, or the change of what came out in one pass.

    Edits of one kind at one place are summed; an output edit that the pass has not called is left out.
    """
    seen = {call.number: call.arguments for call in calls(subject)}
    summed: Effects = {}
    with torch.no_grad():
        for number, active in enumerate(active_edits(delta, subject.backbone)):
            edit = active.edit
            if isinstance(edit, WeightEdit):
                change = Active(active.part, edit, active.tensors)
                key, effect = (edit.place.name, edit.parameter), change_of(change, subject.backbone)
            elif isinstance(edit, TokenEdit):
                key, effect = (edit.stream, "tokens"), edit.change(active.tensors)
            elif isinstance(edit, KeyValueEdit):
                key, effect = (edit.place.name, "keys and values"), torch.stack(edit.change(active.tensors))
            elif number in seen:
                key, effect = (
                    (edit.place.name, "output"),
                    edit.change(active.tensors, *seen[number]) - seen[number][1],
                )
            else:
                continue
            summed[key] = summed.get(key, torch.zeros(())) + effect
    return summed


CHECKS = (Check(scaled_by_arithmetic),)
