"""Checks of a method in training: gradients reach its weights and nothing else, alone, in a bank and recomputed."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial

import torch
from torch import Tensor

from deltacompose.attach.attachment import attach
from deltacompose.backbone.backbone import Backbone
from deltacompose.checks.batches import batch, quiet
from deltacompose.checks.gradients import ROUNDING, Pass, apart, farthest, together
from deltacompose.checks.runner import Check
from deltacompose.checks.subject import Subject, doubled, with_edits
from deltacompose.composition import Composition, composition
from deltacompose.method.weights import penalty
from deltacompose.plugins.members import said
from deltacompose.training.learner import Learner
from deltacompose.training.loop import recomputing

DELTAS = 3
STEPS = 2


def every_weight_learns(subject: Subject) -> None:
    """After two steps of training every weight has a gradient that is not zero; some start with none by design."""
    gradients = _trained_gradients(subject)
    for name, gradient in gradients.items():
        if gradient is None:
            raise subject.broken(f"the loss does not depend on {name!r}; nothing reads it")
        if not bool(torch.isfinite(gradient).all()):
            raise subject.broken(f"after {STEPS} steps the gradient of {name!r} is not finite")
        if not bool(gradient.any()):
            raise subject.broken(f"after {STEPS} steps the gradient of {name!r} is still zero; it can never learn")


def untouched_backbone(subject: Subject) -> None:
    """No parameter of the backbone gets a gradient or another value."""
    model = subject.backbone.model
    before = {name: x.clone() for name, x in model.state_dict().items()}
    _trained_gradients(subject)
    for name, x in model.named_parameters():
        if x.grad is not None or x.requires_grad:
            raise subject.broken(f"the backbone's {name} takes a gradient; a method trains its own tensors only")
    for name, x in model.state_dict().items():
        if not torch.equal(x, before[name]):
            raise subject.broken(f"training it changes the backbone's own {name}")


def bank_equals_separate(subject: Subject) -> None:
    """Three deltas with data of their own in one pass have the losses and gradients of three separate runs."""
    advice = "say vmap=False on the edit whose function torch.func.vmap refuses, or banked = False"
    _compare(subject, partial(_bank, subject, subject.alone.expression, advice), "in a bank of 3")


def loop_equals_vmap(subject: Subject) -> None:
    """A bank that loops over its deltas gives what one by vmap gives."""
    looped = with_edits(subject.method, lambda edit: replace(edit, vmap=False))
    way = partial(_bank, subject, composition(looped), "say banked = False")
    _compare(subject, way, "in a bank that loops over its 3 deltas")


def gradient_checkpointing(subject: Subject) -> None:
    """With activations recomputed in the backward pass the losses and gradients are the same."""
    _compare(subject, partial(_recomputed, subject), "with gradient checkpointing")


def _compare(subject: Subject, way: Callable[[Backbone, Bank], Pass], how: str) -> None:
    """Compares a way of making three deltas' gradients with a run for each.

    The runs come first, so that what fails by itself is told as itself. Where fp32 differs by more than rounding
    should, double precision tells: what is rounding is nothing there.
    """
    bank = _three(subject)
    separate = _separate(subject, subject.backbone, bank)
    far, what = farthest(way(subject.backbone, bank), separate)
    if far > ROUNDING:
        exact, double = doubled(subject.family), bank.double()
        exactly, _ = farthest(way(exact, double), _separate(subject, exact, double))
        if far > 100 * ROUNDING or exactly > ROUNDING**1.5:
            raise subject.broken(
                f"{how} {what} differs by {far:.1e} of its size, and by {exactly:.1e} in double precision; "
                f"at most {ROUNDING:.0e} is rounding"
            )


def _separate(subject: Subject, backbone: Backbone, bank: Bank) -> Pass:
    return apart(backbone, subject.alone.expression, bank.weights, bank.constants, bank.batches)


def _recomputed(subject: Subject, backbone: Backbone, bank: Bank) -> Pass:
    with quiet(), recomputing(backbone.model):
        return _separate(subject, backbone, bank)


def _bank(subject: Subject, expression: Composition, advice: str, backbone: Backbone, bank: Bank) -> Pass:
    try:
        return together(backbone, expression, bank.weights, bank.constants, bank.batches)
    except Exception as error:  # vmap refuses a function in many ways
        raise subject.broken(f"it cannot be run in a bank ({said(error)}); {advice}") from error


@dataclass(frozen=True)
class Bank:
    """The weights of some deltas, their constants, and a batch for each."""

    weights: Sequence[Mapping[str, Tensor]]
    constants: Mapping[str, Tensor]
    batches: Sequence[Mapping[str, Tensor]]

    def double(self) -> Bank:
        """The same numbers in double precision."""
        return Bank([_doubled(own) for own in self.weights], _doubled(self.constants), self.batches)


def _doubled(t: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name: x.double() if x.is_floating_point() else x for name, x in t.items()}


def _three(subject: Subject) -> Bank:
    weights = [subject.trained(subject.method, seed).weights for seed in range(DELTAS)]
    return Bank(weights, subject.alone.constants, [batch(subject.backbone, seed) for seed in range(DELTAS)])


def _trained_gradients(subject: Subject) -> dict[str, Tensor | None]:
    """The gradients that the third step of training would take."""
    learner = Learner(subject.backbone, subject.job(subject.alone.expression))
    attachment = attach(subject.backbone, subject.alone.expression)
    try:
        for step in range(STEPS + 1):
            t = learner.tensors()
            attachment.put(t, [step])
            loss = learner.job.reader.loss(learner.batch(), 1) + penalty(learner.job.expression, t, 0)
            gradients = torch.autograd.grad(loss.sum(), list(learner.weights.values()), allow_unused=True)
            if step < STEPS:
                learner.learn(loss.detach()[0], gradients)
    finally:
        attachment.detach()
    if learner.failure:
        raise subject.broken(f"it diverges within {STEPS} steps at its own learning rate: {learner.failure}")
    return dict(zip(learner.weights, gradients, strict=True))


def _banked(subject: Subject) -> bool:
    """Whether deltas of it can be trained in one pass, and act nowhere that is passed once for all of them."""
    if not subject.method.banked:
        return False
    attachment = attach(subject.backbone, subject.method)
    attachment.detach()
    return attachment.once is None


CHECKS = (
    Check(every_weight_learns),
    Check(untouched_backbone),
    Check(bank_equals_separate, when=_banked),
    Check(loop_equals_vmap, when=_banked),
    Check(gradient_checkpointing),
)
