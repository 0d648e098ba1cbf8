"""The calls of a method's functions in one forward pass, recorded so that they can be made again elsewhere."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

from torch import Tensor

from deltacompose.checks.subject import Subject, with_edits
from deltacompose.method.contract import Edit, TokenEdit, WeightEdit, edits_of


@dataclass(frozen=True, eq=False)
class Call:
    """One call of an edit's function, or of its factors.

    Attributes:
        number: of the edit among the method's, in their order.
        part: `change` or `factors`.
        tensors: the delta's own, `t`.
        arguments: the tensors after `t`.
    """

    edit: Edit
    number: int
    part: str
    tensors: dict[str, Tensor]
    arguments: tuple[Tensor, ...]
    result: Any

    @property
    def function(self) -> Callable[..., Any]:
        """The function that was called."""
        return getattr(self.edit, self.part)  # type: ignore[no-any-return]


def calls(subject: Subject) -> list[Call]:
    """Every call that the method's functions get when its output is computed, each edit's first one."""
    return subject.once("calls", lambda: _recorded(subject))


def _recorded(subject: Subject) -> list[Call]:
    recorded: dict[tuple[int, str], Call] = {}
    numbers = iter(range(len(edits_of(subject.method, subject.backbone))))
    method = with_edits(subject.method, lambda edit: _recording(edit, next(numbers), recorded))
    subject.given(replace(subject.alone, expression=subject.trained(method).expression), subject.alone.weights)
    return list(recorded.values())


def _recording(edit: Edit, number: int, recorded: dict[tuple[int, str], Call]) -> Edit:
    """The edit with functions that note what they are called with."""

    def noting(part: str) -> Callable[..., Any]:
        function = getattr(edit, part)

        def noted(t: dict[str, Tensor], *arguments: Tensor) -> Any:
            result = function(t, *arguments)
            call = Call(edit, number, part, dict(t), tuple(x.detach().clone() for x in arguments), result)
            recorded.setdefault((number, part), call)
            return result

        return noted

    changes: dict[str, Any] = {"change": noting("change")}
    if isinstance(edit, WeightEdit) and edit.factors:
        changes["factors"] = noting("factors")
    changed: Edit = replace(edit, **changes)
    return changed


def named_edit(edit: Edit) -> str:
    """An edit as the errors name it: its kind, and where it is."""
    return f"{type(edit).__name__} at {edit.stream if isinstance(edit, TokenEdit) else edit.place.name}"
