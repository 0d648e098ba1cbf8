"""Checks of `deltacompose plugins check`: whether a member that can be read meets the contract of its kind."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from typing import Any

import typer

from deltacompose.errors import BadInput, NoPlace
from deltacompose.plugins.isolation import error_text, isolated, value_text

Standing = tuple[str, str]
"""A state (`sound`, `broken` or `unchecked`) and its reason."""


def checked(known: Any, row: dict[str, str]) -> dict[str, str]:
    """The row of a member with the result of the checks of its kind; unchanged if the member cannot be read."""
    if row["state"] != "sound" or row["kind"] not in _CHECKS:
        return row
    typer.echo(f"checking {row['name']}", err=True)
    member = getattr(known, f"{row['kind']}s")[row["name"]]
    label = f"{row['kind']} {row['name']} of {row['origin']}"
    outcome = isolated(label, lambda: _CHECKS[row["kind"]](row["name"], member), announce=False)
    state, reason = outcome.value or ("broken", "")
    if outcome.faults:
        state, reason = "broken", "; ".join(filter(None, [reason, *outcome.faults]))
    return {**row, "state": state, "reason": reason}


def _task(name: str, task: Any) -> Standing:
    from deltacompose.task.task import Task

    if not isinstance(task, Task):
        return "broken", f"{value_text(task)} is not a deltacompose.task.Task"
    return "sound", ""


def _measure(name: str, measure: Any) -> Standing:
    from deltacompose.analysis.similarity.measure import Measure
    from deltacompose.checks import suite as checks

    if not isinstance(measure, Measure):
        return "broken", f"{value_text(measure)} is not a deltacompose.analysis.similarity.measure.Measure"
    return _suite(lambda: checks.check_measure(measure))


def _backbone(name: str, member: Any) -> Standing:
    from deltacompose.backbone.pico import CONFIGURATIONS
    from deltacompose.backbone.pico_diffusion import DENOISERS
    from deltacompose.backbone.pretrained import Checkpoint
    from deltacompose.checks import suite as checks
    from deltacompose.places.table import Table, read_table

    if isinstance(member, Mapping):
        member = read_table(name, member)
    if isinstance(member, Table):
        small = {kind for kind, _ in CONFIGURATIONS.values()} | set(DENOISERS)
        if not small & set(member.serves):
            serves = ", ".join(member.serves)
            return "unchecked", f"there is no small model of {serves}; give one to checks.check_backbone_table"
        return _suite(lambda: checks.check_backbone_table(member))
    loaded = member() if callable(member) else member
    if not isinstance(loaded, Checkpoint):
        return "broken", f"its loader returns {value_text(loaded)}, which is not a Checkpoint"
    return "sound", ""


def _engine(name: str, engine: Any) -> Standing:
    if not callable(engine):
        return "broken", f"{value_text(engine)} is not a function of the options of a run"
    try:
        inspect.signature(engine).bind({})
    except TypeError as error:
        return "broken", f"it cannot be called with the options of a run: {error_text(error)}"
    return "sound", ""


def _suite(check: Callable[[], None]) -> Standing:
    """The result of a check of the conformance suite."""
    try:
        check()
    except (AssertionError, BadInput) as reason:
        return "broken", str(reason)
    return "sound", ""


def method_standing(name: str, kind: Any) -> Standing:
    """The result of the suite for a method at its default settings, on the families where it has places."""
    from deltacompose.checks import suite as checks

    instance = isolated(f"the method {name!r}", lambda: kind())
    if instance.faults:
        return "broken", f"it cannot be constructed at its default settings: {'; '.join(instance.faults)}"
    refusals = {family: _refusal(instance.value, family) for family in checks.BACKBONES}
    for family, refusal in refusals.items():
        if not isinstance(refusal, BadInput | None):
            return "broken", f"at its default settings it fails on {family}: {error_text(refusal)}"
    refused = {family: refusal for family, refusal in refusals.items() if refusal}
    if len(refused) == len(refusals):
        return _nowhere(list(refused.values()))
    state, reason = _suite(
        lambda: checks.check_method(instance.value, backbones=[family for family in refusals if family not in refused])
    )
    lacking = [f"not on {name}: {error_text(why).partition('; ')[0]}" for name, why in refused.items()]
    return state, reason or "; ".join(lacking)


def _nowhere(refused: list[BaseException]) -> Standing:
    """The standing of a method that every family refuses: it has no places, or needs a setting, such as a file."""
    for refusal in refused:
        if not isinstance(refusal, NoPlace):
            return "unchecked", f"at its default settings: {error_text(refusal)}"
    return "broken", f"at its default settings it has no place on any family: {error_text(refused[0])}"


def _refusal(method: Any, family: str) -> BaseException | None:
    """The exception when a method makes weights and edits on a family; None if it makes them."""
    from deltacompose.backbone.pico import pico_backbone
    from deltacompose.method.contract import edits_of
    from deltacompose.method.weights import init_weights

    backbone = pico_backbone(family)

    def use() -> None:
        init_weights(backbone, method)
        edits_of(method, backbone)

    return isolated(f"the method {type(method).__name__}", use).raised


_CHECKS: Mapping[str, Callable[[str, Any], Standing]] = {
    "method": method_standing,
    "task": _task,
    "backbone": _backbone,
    "measure": _measure,
    "engine": _engine,
}
