"""Checks that detaching leaves the backbone exactly as it was, in whatever order deltas leave."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import permutations
from typing import Any

import torch
from torch import Tensor, nn

from deltacompose.attach.attachment import Attachment, attach
from deltacompose.checks.batches import forward
from deltacompose.checks.runner import Check
from deltacompose.checks.subject import Subject, Trained

_HOOKS = (
    "_forward_hooks",
    "_forward_pre_hooks",
    "_forward_hooks_with_kwargs",
    "_forward_hooks_always_called",
    "_forward_pre_hooks_with_kwargs",
    "_backward_hooks",
    "_backward_pre_hooks",
    "_state_dict_hooks",
    "_load_state_dict_pre_hooks",
)


@dataclass(frozen=True, eq=False)
class Snapshot:
    """All of a model that must be the same after detaching, each thing by its name and where it is."""

    facts: Mapping[str, Mapping[str, Any]]
    values: Mapping[str, Tensor]

    def difference(self, later: Snapshot) -> str:
        """Description of what changed; empty if nothing did."""
        for what, before in self.facts.items():
            after = later.facts[what]
            for where in {**before, **after}:
                if before.get(where) != after.get(where):
                    return f"{what} of {where or 'the model'} was {before.get(where)} and is {after.get(where)}"
        changed = [name for name, x in self.values.items() if not torch.equal(x, later.values[name])]
        return f"the values of {changed[0]} have changed" if changed else ""


def snapshot(model: nn.Module) -> Snapshot:
    """The model as it is now."""
    modules = dict(model.named_modules())
    facts: dict[str, dict[str, Any]] = {
        "the class": {path: type(module).__name__ for path, module in modules.items()},
        "an assigned forward": {path: "forward" in vars(module) for path, module in modules.items()},
        "the training mode": {path: module.training for path, module in modules.items()},
        "the number of hooks": {
            path: sum(len(getattr(module, name, ())) for name in _HOOKS) for path, module in modules.items()
        },
        "the attention implementation": {
            path: getattr(module.config, "_attn_implementation", "")
            for path, module in modules.items()
            if hasattr(module, "config")
        },
        "requires_grad": {name: x.requires_grad for name, x in model.named_parameters()},
        "the identity": {name: id(x) for name, x in model.named_parameters(remove_duplicate=False)},
        "the place in the state dict": {name: k for k, name in enumerate(model.state_dict())},
    }
    return Snapshot(facts, {name: x.clone() for name, x in model.state_dict().items()})


def exact_detachment(subject: Subject) -> None:
    """Attached among others and detached in any order, it leaves each time what the others alone are, and no trace."""
    model = subject.backbone.model
    if model.training:  # an earlier check has asked for its edits: the snapshot would take the mode for the model's own
        raise subject.broken("its edits leave the model in training mode")
    weight, output, token, *last = (subject.trained(neighbour) for neighbour in subject.neighbours)
    key_value = last[0] if last else token  # a prefix is refused where attention is not transformers' own
    before = snapshot(model)
    for order, others in zip(_ORDERS, [(weight, key_value), (output, token), (key_value, output)] * 2, strict=True):
        _leave(subject, (others[0], subject.alone, others[1]), order)
        if trace := before.difference(snapshot(model)):
            raise subject.broken(f"after detaching, {trace}")
    if not torch.equal(_forward(subject), subject.untouched):
        raise subject.broken("after detaching, the backbone gives another output than before")


def attached_again(subject: Subject) -> None:
    """Attached, detached and attached again, it gives the same output."""
    for _ in range(2):
        attachment = _in_force(subject, subject.alone)
        output = _forward(subject)
        attachment.detach()
    if not torch.equal(output, subject.output):
        raise subject.broken("attached for the second time it gives another output than the first time")


_ORDERS = tuple(permutations(range(3)))


def _leave(subject: Subject, three: tuple[Trained, ...], order: tuple[int, ...]) -> None:
    """Attaches three deltas and detaches them in an order, comparing what is left with what it alone gives."""
    attachments = {k: _in_force(subject, trained) for k, trained in enumerate(three)}
    try:
        for k in order[:2]:
            attachments.pop(k).detach()
        output = _forward(subject)
    finally:
        for attachment in attachments.values():
            attachment.detach()
    left = three[order[2]]
    if not torch.equal(output, subject.output_of(left)):
        raise subject.broken(
            f"of {', '.join(str(each.expression) for each in three)}, {left.expression} is left and does not give what "
            "it gives alone"
        )


def _in_force(subject: Subject, trained: Trained) -> Attachment:
    attachment = attach(subject.backbone, trained.expression)
    attachment.put(subject.prepared(trained, trained.weights))
    return attachment


def _forward(subject: Subject) -> Tensor:
    with torch.no_grad():
        return forward(subject.backbone, subject.batch)


CHECKS = (Check(exact_detachment), Check(attached_again))
