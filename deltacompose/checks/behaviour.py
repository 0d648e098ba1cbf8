"""Checks of an attached method: what its edits do to the backbone's output, and what they must leave alone."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from deltacompose.attach.attachment import attached
from deltacompose.attach.bound import Bound, BoundTensors
from deltacompose.checks.batches import forward, long_batch
from deltacompose.checks.calls import named_edit
from deltacompose.checks.disturbing import disturbing
from deltacompose.checks.gradients import distance
from deltacompose.checks.runner import Broken, Check
from deltacompose.checks.subject import Subject, doubled, with_edits
from deltacompose.delta.merge import merge
from deltacompose.method.contract import Edit, KeyValueEdit, OutputEdit, TokenEdit, WeightEdit, edits_of
from deltacompose.plugins.isolation import error_text


def fitting_shapes(subject: Subject) -> None:
    """Each edit's function runs, and gives a tensor of the shape that its place asks for."""
    if not edits_of(subject.method, subject.backbone):
        raise subject.broken("edits gives none; its weights change nothing")
    for rows in (subject.batch, long_batch(subject.backbone)):
        _given(subject, lambda edit: _probed(subject, edit), rows)


def acts_or_is_refused(subject: Subject) -> None:
    """On a backbone where it cannot act, it is refused by one sentence that names the method and says why."""
    sentence = subject.refusal
    if sentence and (subject.method.name not in sentence or "because" not in sentence or "\n" in sentence):
        raise subject.broken(
            f"it is refused by {sentence[:200]!r}; expected one sentence with its name {subject.method.name!r} and the "
            "reason behind 'because'"
        )


def neutral_start(subject: Subject) -> None:
    """Before its first step it gives exactly the backbone's output."""
    _same_output(subject, subject.given(subject.alone, subject.alone.start), subject.untouched, "the backbone's")


def neutral_over_a_trained_stage(subject: Subject) -> None:
    """Added as a stage to trained ones, it starts exactly where they left off."""
    own = disturbing(subject.method, subject.backbone)
    for before in (*subject.neighbours, *([own] if own and own.names else [])):
        stack, alone = subject.trained(before >> subject.method), subject.trained(before)
        mixed = {n: stack.weights[n] if n.startswith("0.") else x for n, x in stack.start.items()}
        _same_output(subject, subject.given(stack, mixed), subject.output_of(alone), f"a trained {before}'s")


def effect(subject: Subject) -> None:
    """Once trained it changes the backbone's output."""
    if torch.equal(subject.output, subject.untouched):
        raise subject.broken("with every weight moved the output is still the backbone's; its edits do nothing")
    if not bool(torch.isfinite(subject.output).all()):
        raise subject.broken("with every weight moved a little the output is not finite")


def pure_changes(subject: Subject) -> None:
    """The same tensors and inputs give the same output again, and none of them is changed in place."""
    trained = subject.alone
    _given(subject, lambda edit: _watched(subject, edit))
    t = {n: x.clone() for n, x in {**trained.weights, **trained.constants}.items()}
    batch = {n: x.clone() for n, x in subject.batch.items()}
    with attached(subject.backbone, trained.expression, t, {}), torch.no_grad():
        first, again = (forward(subject.backbone, batch) for _ in range(2))
    for name, x in {**trained.weights, **trained.constants}.items():
        if not torch.equal(t[name], x):
            raise subject.broken(f"a forward pass changes its own tensor {name!r} in place")
    if not torch.equal(first, again) or not torch.equal(first, subject.output):
        raise subject.broken(
            "the same tensors give another output the second time; its edits keep state or draw numbers"
        )


def low_rank_factors(subject: Subject) -> None:
    """Where a weight edit offers factors, their product is its change."""
    for edit in edits_of(subject.method, subject.backbone):
        if isinstance(edit, WeightEdit) and edit.factors:
            frozen = subject.backbone.parameter(edit.place, edit.parameter)
            for size in (1, LARGE):
                up, down = _applied(subject, edit, edit.factors, size=size)
                dense = _applied(subject, edit, edit.change, frozen, size=size)
                if (far := distance(up @ down, dense)) > 1e-5:
                    raise subject.broken(
                        f"at {edit.place.name}{_large(size)} the product of its factors differs from its change by "
                        f"{far:.1e} of its size"
                    )


def merged_model(subject: Subject) -> None:
    """Merged into a plain model, the delta's changes of weights give the output that they give live."""
    for size in (1, LARGE):
        trained = replace(subject.alone, weights={n: size * x for n, x in subject.alone.weights.items()})
        # Large weights in double precision: where attention is all on one token, fp32 has few digits left.
        merged = merge(subject.delta(trained), subject.backbone if size == 1 else doubled(subject.family))
        if not merged.difference <= 1e-5 * merged.size and math.isfinite(merged.size):
            raise subject.broken(
                f"the merged model's output{_large(size)} differs by {merged.difference:.1e} from that of the attached "
                f"delta, whose largest number is {merged.size:.1e}"
            )


LARGE = 30
"""How much larger weights are made to see that what holds for small ones holds for all."""


def _large(size: int) -> str:
    return "" if size == 1 else f", with weights {size} times as large,"


def _same_output(subject: Subject, output: Tensor, expected: Tensor, whose: str) -> None:
    if not torch.equal(output, expected):
        largest = float((output - expected).abs().max())
        raise subject.broken(
            f"its start moves the output by {largest:.1e} from {whose}, to which it must be exactly equal; start it at "
            "zero change, or say neutral = False"
        )


def _applied(subject: Subject, edit: Edit, function: Callable[..., Any], *shared: Tensor, size: int = 1) -> Any:
    bound_tensors = BoundTensors()
    bound_tensors.put(subject.prepared(subject.alone, {n: size * x for n, x in subject.alone.weights.items()}))
    return Bound(edit, bound_tensors, "0.0.", 0).call(function, shared=shared)


def _given(subject: Subject, change: Callable[[Edit], Edit], rows: Mapping[str, Tensor] | None = None) -> None:
    """A forward pass with the method's edits changed."""
    changed = with_edits(subject.method, change)
    trained = replace(subject.alone, expression=subject.trained(changed).expression)
    subject.given(trained, subject.alone.weights, batch=rows)


def _probed(subject: Subject, edit: Edit) -> Edit:
    """The edit with a function that also looks at what comes out."""

    def change(*args: Any) -> Any:
        try:
            result = edit.change(*args)
        except Exception as error:  # whatever a stranger's function raises
            cause = error_text(error)
            raise Broken(f"{subject}: its {named_edit(edit)} fails: {cause}", cause) from error
        if stray := _no_tensor(edit, result):
            raise subject.broken(f"its {named_edit(edit)} gives {stray}")
        shape, expected = _shapes(subject, edit, args, result)
        if shape != expected:
            raise subject.broken(f"its {named_edit(edit)} gives shape {shape}; expected {expected}")
        return result

    return _with_change(edit, change)


def _watched(subject: Subject, edit: Edit) -> Edit:
    """The edit with a function that also looks whether what goes in is left alone; torch counts changes in place."""

    def change(*args: Any) -> Any:
        before = [(x, x._version) for x in args if isinstance(x, Tensor)]
        result = edit.change(*args)
        if any(x._version != version for x, version in before):
            raise subject.broken(f"its {named_edit(edit)} changes what it is given in place; give a new tensor")
        return result

    return _with_change(edit, change)


def _with_change(edit: Edit, change: Callable[..., Any]) -> Edit:
    """The edit with another function, which is the one that acts."""
    dense = {"factors": None, "dropout": 0.0} if isinstance(edit, WeightEdit) else {}
    changes: dict[str, Any] = {"change": change, **dense}
    changed: Edit = replace(edit, **changes)
    return changed


def _no_tensor(edit: Edit, result: Any) -> str:
    """Description of a result that is neither a tensor nor keys and values; empty if it is one."""
    if isinstance(edit, KeyValueEdit):
        fits = isinstance(result, tuple) and [isinstance(x, Tensor) for x in result] == [True, True]
        return "" if fits else f"a {type(result).__name__}; expected a tuple of two tensors, keys and values"
    return "" if isinstance(result, Tensor) else f"a {type(result).__name__}; expected a tensor"


def _shapes(subject: Subject, edit: Edit, args: tuple[Any, ...], result: Any) -> tuple[Any, Any]:
    match edit:
        case OutputEdit():
            return tuple(result.shape), tuple(args[2].shape)
        case WeightEdit():
            return tuple(result.shape), tuple(args[1].shape)
        case TokenEdit():
            return tuple(result.shape), (len(result), subject.backbone.embedding_width)
        case KeyValueEdit(place):
            heads, width = subject.backbone.heads(place)
            each = (heads, result[0].shape[1], width)
            return tuple(tuple(x.shape) for x in result), (each, each)


def _merges(subject: Subject) -> bool:
    """Whether all that it does is to change parameters that the backbone has."""
    return all(
        isinstance(edit, WeightEdit) and edit.parameter in subject.backbone.parameter_names(edit.place)
        for edit in edits_of(subject.method, subject.backbone)
    )


def _neutral(subject: Subject) -> bool:
    return subject.method.neutral


CHECKS = (
    Check(acts_or_is_refused),
    Check(fitting_shapes),
    Check(neutral_start, when=_neutral),
    Check(neutral_over_a_trained_stage, when=_neutral),
    Check(effect),
    Check(pure_changes),
    Check(low_rank_factors),
    Check(merged_model, when=_merges),
)
