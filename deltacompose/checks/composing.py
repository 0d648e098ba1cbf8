"""Checks that a method composes with each kind of built-in method, on either side of `+` and of `>>`."""

from __future__ import annotations

import torch

from deltacompose.backbone.backbone import Backbone
from deltacompose.checks.batches import batch
from deltacompose.checks.gradients import apart, distance
from deltacompose.checks.runner import Check
from deltacompose.checks.subject import Subject
from deltacompose.composition import Composition, parse
from deltacompose.method.contract import Edit, Method, OutputEdit, TokenEdit, edits_of
from deltacompose.method.weights import part_of


def composes_at_once(subject: Subject) -> None:
    """Joined by `+` to each built-in, on either side, both act and both learn."""
    for other in subject.neighbours:
        _both_active(subject, subject.method + other)
        if _meet(subject.backbone, subject.method, other):  # else `same_in_either_order` shows that it is one function
            _both_active(subject, other + subject.method)


def composes_in_sequence(subject: Subject) -> None:
    """Joined by `>>` to each built-in, on either side, both act and both can be trained."""
    for other in subject.neighbours:
        for expression in (subject.method >> other, other >> subject.method):
            _both_active(subject, expression)


def same_in_either_order(subject: Subject) -> None:
    """Where the order of `+` cannot matter, the two orders give the same function."""
    for other in subject.neighbours:
        if _meet(subject.backbone, subject.method, other):
            continue
        composed, two = (subject.trained(term) for term in (subject.method + other, other + subject.method))
        far = distance(subject.given(composed, composed.weights), subject.given(two, two.weights))
        if far > 1e-5:
            raise subject.broken(
                f"{composed.expression} and {two.expression} differ by {far:.1e} of their output's size"
            )


def composed_text(subject: Subject) -> None:
    """A composition that it stands in reads back from its text."""
    for other in subject.neighbours:
        known = {type(member).name: type(member) for member in (subject.method, other)}
        for expression in (subject.method + other, other >> subject.method):
            if parse(str(expression), known) != expression:
                raise subject.broken(f"{str(expression)!r} does not read back as the composition that it says")


def _both_active(subject: Subject, expression: Composition) -> None:
    """Every part's gradients are finite, and those of each part are not all zero."""
    trained = subject.trained(expression)
    data = [batch(subject.backbone, seed=3)]
    passed = apart(subject.backbone, expression, [trained.weights], trained.constants, data)
    for prefix, part in expression.parts():
        gradients = part_of(passed.gradients[0], prefix)
        if not all(bool(torch.isfinite(x).all()) for x in gradients.values()):
            raise subject.broken(f"in {str(expression)!r} the gradients of {part} are not finite")
        if not any(bool(x.any()) for x in gradients.values()):
            raise subject.broken(f"in {str(expression)!r} the gradients of {part} are all zero; it has no effect")


def _meet(backbone: Backbone, mine: Method, other: Method) -> bool:
    """Whether edits that do not commute meet: outputs at one spot, prompts before one stream."""
    spots = [{_spot(edit) for edit in edits_of(method, backbone)} - {None} for method in (mine, other)]
    return bool(spots[0] & spots[1])


def _spot(edit: Edit) -> tuple[str, str] | None:
    """Where an edit acts if it matters what has acted there before: spans meet where they end."""
    if isinstance(edit, OutputEdit):
        return edit.place.until or edit.place.module, edit.place.port
    return (edit.stream, "tokens") if isinstance(edit, TokenEdit) else None


CHECKS = (
    Check(composes_at_once),
    Check(composes_in_sequence),
    Check(same_in_either_order),
    Check(composed_text, once=True),
)
