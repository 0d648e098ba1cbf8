"""Checks of a method in training: gradients reach its weights and nothing else, alone, in a bank and recomputed."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
from torch import Tensor

from deltacompose.attach.attachment import attach
from deltacompose.backbone.backbone import Backbone
from deltacompose.checks.batches import batch, default_side, forward, losses, quiet
from deltacompose.checks.gradients import ROUNDING, Pass, apart, distance, farthest, together
from deltacompose.checks.runner import Check
from deltacompose.checks.subject import Subject, doubled, with_edits
from deltacompose.checks.tensors import unlike
from deltacompose.composition import Composition, composition
from deltacompose.method.contract import Edit, HasConstants, OutputEdit, Penalizes, Prepares, Updates, WeightEdit
from deltacompose.method.weights import generator, penalty, prepared
from deltacompose.plugins.isolation import error_text
from deltacompose.training.learner import Learner
from deltacompose.training.loop import recomputing

DELTAS = 3
STEPS = 2
RESUMED_AT, END = 2, 4
NUDGES = (1e-5, 1e-3, 1e-2)
"""How far weights are moved for finite differences, by the norm of the step. One of them is enough: small ones drown
where a norm computes in fp32 whatever the model's precision, large ones where the function bends."""
WRONG = 0.03
"""The largest relative difference of a derivative and a finite difference; more is another function."""
SMALL = 1e-3
"""A derivative that says nothing, relative to the gradient's norm."""


def every_weight_learns(subject: Subject) -> None:
    """After two steps of training every weight has a gradient that is not zero; some start with none by design."""
    for name, gradient in _few_steps(subject).gradients.items():
        if gradient is None:
            raise subject.broken(f"the loss does not depend on {name!r}; nothing reads it")
        if not bool(torch.isfinite(gradient).all()):
            raise subject.broken(f"after {STEPS} steps the gradient of {name!r} is not finite")
        if not bool(gradient.any()):
            side = default_side(subject.backbone)
            raise subject.broken(
                f"after {STEPS} steps the gradient of {name!r} is still zero; it can never learn, or the edits that "
                f"read it act at padding alone (inputs are padded on the {side}; an edit may ask for the mask)"
            )


def untouched_backbone(subject: Subject) -> None:
    """No parameter of the backbone gets a gradient or another value."""
    if fault := _few_steps(subject).fault:
        raise subject.broken(fault)


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
    _compare(subject, partial(_recomputed, subject), "with gradient checkpointing", deltas=1)


def equal_deltas_in_a_bank(subject: Subject) -> None:
    """Equal deltas on equal rows of one bank have equal losses and gradients, wherever in the bank they stand."""
    bank = _three(subject)
    _separate(subject)  # a method that fails by itself is reported as that
    same = Bank([bank.weights[0]] * DELTAS, bank.constants, [bank.batches[0]] * DELTAS)
    certain = with_edits(subject.method, _without_dropout)  # each delta of a bank draws its own
    passed = _bank(subject, composition(certain), "say banked = False", subject.backbone, same)
    for k in range(1, DELTAS):
        far = distance(passed.losses[k], passed.losses[0])
        first, other = passed.gradients[0], passed.gradients[k]
        floor = 0.1 * max(float(x.norm()) for x in first.values())
        far = max(far, *(distance(other[name], x, floor) for name, x in first.items()))
        if far > 100 * ROUNDING:
            raise subject.broken(
                f"of {DELTAS} equal deltas in a bank, number {k} differs from the first by {far:.1e} of its size; "
                "a function must not count its calls"
            )


def _without_dropout(edit: Edit) -> Edit:
    changed: Edit = replace(edit, dropout=0.0) if isinstance(edit, OutputEdit | WeightEdit) else edit
    return changed


def true_gradients(subject: Subject) -> None:
    """The gradient is that of the function: in double precision it equals finite differences along a direction."""
    exact = _exact(subject)
    names = tuple(exact.weights)
    leaves = {name: x.clone().requires_grad_() for name, x in exact.weights.items()}
    values = torch.autograd.grad(exact.loss(leaves), list(leaves.values()), materialize_grads=True)
    gradients = dict(zip(leaves, values, strict=True))
    if not (wrong := exact.differs(gradients, names)):
        return
    wrong = next(filter(None, (exact.differs(gradients, (name,)) for name in names)), wrong)
    raise subject.broken(f"{wrong}; the gradient is not that of the function")


@dataclass(frozen=True)
class Exact:
    """A delta's loss on a batch in double precision, as a function of its weights."""

    backbone: Backbone
    expression: Composition
    weights: Mapping[str, Tensor]
    constants: Mapping[str, Tensor]
    batch: Mapping[str, Tensor]

    def loss(self, weights: Mapping[str, Tensor]) -> Tensor:
        """The loss with the method's own term; what is drawn is the same each time."""
        t = prepared(self.expression, {**weights, **self.constants}, generator(0, "prepare"))
        attachment = attach(self.backbone, self.expression)
        try:
            attachment.put(t)
            return losses(forward(self.backbone, self.batch), self.batch, 1).sum() + penalty(self.expression, t, 0)
        finally:
            attachment.detach()

    def differs(self, gradients: Mapping[str, Tensor], names: Sequence[str]) -> str:
        """How the derivative along a direction of some tensors differs from the finite difference, or nothing."""
        direction = _direction({name: gradients[name] for name in names})
        stated = sum(float((gradients[name] * direction[name]).sum()) for name in names)
        least = SMALL * sum(float(x.square().sum()) for x in gradients.values()) ** 0.5
        for nudge in NUDGES:
            with torch.no_grad():
                up, down = (float(self.loss(self._moved(direction, sign * nudge))) for sign in (1, -1))
            finite = (up - down) / (2 * nudge)
            if abs(finite - stated) <= WRONG * max(abs(finite), abs(stated)) + least:
                return ""
        what = repr(names[0]) if len(names) == 1 else "all its tensors together"
        return f"along a direction the gradient of {what} is {stated:.6g}, and its loss changes by {finite:.6g}"

    def _moved(self, direction: Mapping[str, Tensor], by: float) -> dict[str, Tensor]:
        return {n: x + by * direction[n] if n in direction else x for n, x in self.weights.items()}


def _direction(gradients: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """A direction in which the loss changes much, and in which a part of the gradient that is missing shows."""
    steep = sum(float(x.square().sum()) for x in gradients.values()) ** 0.5 or 1.0
    wide = sum(x.numel() for x in gradients.values()) ** 0.5
    return {
        name: x / steep + torch.arange(1.0, 1 + x.numel()).to(x).sin().view(x.shape) / wide
        for name, x in gradients.items()
    }


def _exact(subject: Subject) -> Exact:
    bank = _three(subject).double()
    return Exact(doubled(subject.family), subject.alone.expression, bank.weights[0], bank.constants, bank.batches[0])


def resumed_training(subject: Subject) -> None:
    """Interrupted in the middle and resumed, a training ends with the weights and constants of one that was not."""
    whole = _learned(subject, END, None)
    half = _learned(subject, RESUMED_AT, None)
    resumed = _learned(subject, END, half.state())
    for kind in ("weights", "constants"):
        if fault := unlike(getattr(resumed, kind), getattr(whole, kind)):
            raise subject.broken(
                f"interrupted after {RESUMED_AT} steps and resumed, a training ends with other {fault} than one "
                "that was not; keep what training needs in constants"
            )


def _learned(subject: Subject, until: int, state: Any) -> Learner:
    """A learner of a method of its own at a step, from the beginning or from a state on."""
    method = subject.method
    expression = composition(type(method)(**method.settings))
    learner = Learner(subject.backbone, subject.job(expression))
    if state is not None:
        learner.restore(*state)
    attachment = attach(subject.backbone, expression)
    try:
        while learner.step < until and not learner.failure:
            t = learner.tensors()
            attachment.put(t, [learner.step])
            loss = learner.job.reader.loss(learner.batch(), 1) + penalty(expression, t, 0)
            gradients = torch.autograd.grad(loss.sum(), list(learner.weights.values()), allow_unused=True)
            learner.learn(loss.detach()[0], gradients)
    finally:
        attachment.detach()
    return learner


def _compare(subject: Subject, way: Callable[[Backbone, Bank], Pass], how: str, deltas: int = DELTAS) -> None:
    """Compares a way of making the gradients of three deltas, or of the first of them, with a run for each.

    The runs come first, so that a run that fails alone is reported as such. Where fp32 differs by more than rounding
    should, double precision tells: what is rounding is nothing there, but for models that compute their norms in fp32
    whatever they are given (T5).
    """
    bank, separate = _three(subject).first(deltas), _separate(subject).first(deltas)
    far, what = farthest(way(subject.backbone, bank), separate)
    if far > ROUNDING:
        exactly, _ = farthest(way(doubled(subject.family), bank.double()), _exactly_separate(subject).first(deltas))
        if far > 100 * ROUNDING or exactly > ROUNDING / 10:
            raise subject.broken(
                f"{how} {what} differs by {far:.1e} of its size, and by {exactly:.1e} in double precision; "
                f"at most {ROUNDING:.0e} is rounding"
            )


def _separate(subject: Subject) -> Pass:
    """Three deltas in a run for each, which all checks that compare with them share."""
    return subject.once("separate runs", lambda: _one_by_one(subject, subject.backbone, _three(subject)))


def _exactly_separate(subject: Subject) -> Pass:
    """The same in double precision."""
    exact = doubled(subject.family)
    return subject.once("separate runs in double", lambda: _one_by_one(subject, exact, _three(subject).double()))


def _one_by_one(subject: Subject, backbone: Backbone, bank: Bank) -> Pass:
    return apart(backbone, subject.alone.expression, bank.weights, bank.constants, bank.batches)


def _recomputed(subject: Subject, backbone: Backbone, bank: Bank) -> Pass:
    with quiet(), recomputing(backbone.model):
        return _one_by_one(subject, backbone, bank)


def _bank(subject: Subject, expression: Composition, advice: str, backbone: Backbone, bank: Bank) -> Pass:
    try:
        return together(backbone, expression, bank.weights, bank.constants, bank.batches)
    except Exception as error:  # vmap refuses a function in many ways
        raise subject.broken(f"it cannot be run in a bank ({error_text(error)}); {advice}") from error


@dataclass(frozen=True)
class Bank:
    """The weights of some deltas, their constants, and a batch for each."""

    weights: Sequence[Mapping[str, Tensor]]
    constants: Mapping[str, Tensor]
    batches: Sequence[Mapping[str, Tensor]]

    def first(self, deltas: int) -> Bank:
        """Some of the deltas."""
        return replace(self, weights=self.weights[:deltas], batches=self.batches[:deltas])

    def double(self) -> Bank:
        """The same numbers in double precision."""
        return Bank([_doubled(own) for own in self.weights], _doubled(self.constants), self.batches)


def _doubled(t: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name: x.double() if x.is_floating_point() else x for name, x in t.items()}


def _three(subject: Subject) -> Bank:
    weights = [subject.trained(subject.method, seed).weights for seed in range(DELTAS)]
    return Bank(weights, subject.alone.constants, [batch(subject.backbone, seed) for seed in range(DELTAS)])


@dataclass(frozen=True, eq=False)
class Steps:
    """A few steps of training.

    Attributes:
        gradients: those that the next step would take.
        fault: what they have done to the backbone, or "".
    """

    gradients: Mapping[str, Tensor | None]
    fault: str


def _few_steps(subject: Subject) -> Steps:
    return subject.once("steps", lambda: _taken(subject))


def _taken(subject: Subject) -> Steps:
    before = {name: x.clone() for name, x in subject.backbone.model.state_dict().items()}
    gradients = _trained_gradients(subject)
    return Steps(gradients, _fault(subject.backbone.model, before))


def _fault(model: Any, before: Mapping[str, Tensor]) -> str:
    for name, x in model.named_parameters():
        if x.grad is not None or x.requires_grad:
            return f"the backbone's {name} takes a gradient; a method trains its own tensors only"
    changed = [name for name, x in model.state_dict().items() if not torch.equal(x, before[name])]
    return f"training it changes the backbone's own {changed[0]}" if changed else ""


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
    return subject.once("acts at every row", lambda: _acts_by_rows(subject))


def _acts_by_rows(subject: Subject) -> bool:
    attachment = attach(subject.backbone, subject.method)
    attachment.detach()
    return attachment.once is None


def _may_keep_state(subject: Subject) -> bool:
    """Whether it has abilities that training calls; what its edits keep between calls shows in one pass."""
    return isinstance(subject.method, HasConstants | Prepares | Penalizes | Updates)


CHECKS = (
    Check(every_weight_learns),
    Check(untouched_backbone),
    Check(bank_equals_separate, when=_banked),
    Check(loop_equals_vmap, when=_banked),
    Check(gradient_checkpointing),
    Check(equal_deltas_in_a_bank, when=_banked),
    Check(true_gradients),
    Check(resumed_training, when=_may_keep_state, once=True),
)
