"""The members that plugins give: named, checked as far as listing can, and imported when they are first read."""

from __future__ import annotations

import functools
import importlib
import keyword
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from deltacompose.errors import BadInput
from deltacompose.plugins.isolation import attempted, isolated, value_text

KINDS = ("method", "expression", "task", "backbone", "measure", "engine", "logger")
TARGET = re.compile(r"[A-Za-z_][\w.]*:[A-Za-z_][\w.]*")
LONGEST_NAME = 100


class _Unfit(BadInput):
    """A member that can be read and is not of its kind."""


@dataclass(frozen=True, init=False)
class Lazy:
    """A member that `function(*arguments)` makes when it is first read; the function may be named by a text.

    >>> Lazy("fractions:Fraction", 1, 3)
    Lazy(function='fractions:Fraction', arguments=(1, 3))
    """

    function: str | Callable[..., Any]
    arguments: tuple[Any, ...]

    def __init__(self, function: str | Callable[..., Any], *arguments: Any) -> None:
        object.__setattr__(self, "function", function)
        object.__setattr__(self, "arguments", arguments)


@dataclass(frozen=True)
class Member:
    """One named thing that a plugin gives, not yet imported.

    Attributes:
        value: the thing itself, a `Lazy`, or text: `"package.module:Attribute"`; of an expression, the composition.
        origin: the distribution and version it came from.
        builtin: whether it is one of our own, whose code needs no isolation.
    """

    kind: str
    name: str
    value: Any
    origin: str
    builtin: bool = False

    def __str__(self) -> str:
        return f"{self.kind} {self.name}"

    @property
    def namespace(self) -> str:
        """Methods and named compositions are written in the same text, so they share their names."""
        return "method" if self.kind == "expression" else self.kind

    def fault(self) -> str:
        """Fault of the member as listed, found without importing it; empty if it has none."""
        name, value = self.name, self.value
        if not (isinstance(name, str) and name.strip() and name.isprintable() and len(name) <= LONGEST_NAME):
            return f"{value_text(name)} is not a valid name (expected 1 to {LONGEST_NAME} printable characters)"
        if self.namespace == "method" and (not name.isidentifier() or keyword.iskeyword(name)):
            return (
                f"{name!r} cannot be written in a composition; a name is letters, digits and '_' and no word of Python"
            )
        if self.kind == "expression":
            return "" if isinstance(value, str) else f"{name!r} is {value_text(value)}, not a composition as text"
        if isinstance(value, Lazy):
            return self._untargeted(value.function)
        return self._untargeted(value) if isinstance(value, str) else self._misfit(value)

    def read(self) -> Any:
        """The member itself, imported or made now.

        Raises:
            BadInput: it cannot be imported or made, is not a member of its kind, or has a name of its own that differs.
        """
        if self.kind == "expression":
            return self.value
        label = f"{self} of {self.origin}"
        outcome = (attempted if self.builtin else isolated)(label, self._made)
        if outcome.faults:
            verb = "used" if isinstance(outcome.raised, _Unfit) else "read"
            raise BadInput(f"{label} cannot be {verb}: {'; '.join(outcome.faults)}") from outcome.raised
        return outcome.value

    def _made(self) -> Any:
        member = _resolved(self.value)
        if fault := self._misfit(member):
            raise _Unfit(fault)
        return member

    def _untargeted(self, target: Any) -> str:
        if not isinstance(target, str) or TARGET.fullmatch(target):
            return ""
        return f"{self.name!r} is {value_text(target)}, not 'package.module:Attribute'"

    def _misfit(self, member: Any) -> str:
        """A method must be one, and whatever has a name of its own is listed under it."""
        own = getattr(member, "name", None)
        if fault := _no_method(member) if self.kind == "method" else f"not a {self.kind}" if member is None else "":
            return f"{self.name!r} is {value_text(member)}, {fault}"
        if isinstance(own, str) and own != self.name:
            return f"it is listed as {self.name!r} and its own name is {own!r}"
        return ""


class Members(Mapping[str, Any]):
    """The members of one kind by name. Listing imports nothing; its only state is the members read so far."""

    def __init__(self, members: Mapping[str, Member]) -> None:
        self.listed = members
        self._read: dict[str, Any] = {}

    def __getitem__(self, name: str) -> Any:
        if name not in self._read:
            self._read[name] = self.listed[name].read()
        return self._read[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self.listed)

    def __len__(self) -> int:
        return len(self.listed)

    def __contains__(self, name: object) -> bool:
        """Without this, asking whether a name exists would import it."""
        return name in self.listed

    def _ipython_key_completions_(self) -> list[str]:
        return list(self.listed)

    def __repr__(self) -> str:
        return f"Members({', '.join(self.listed)})"


def _no_method(member: Any) -> str:
    """Reason why an object is not a class of methods; empty if it is one."""
    # Imported here because checking settings costs pydantic, which listing can do without.
    from deltacompose.composition import Part

    expected = "not a frozen dataclass made from deltacompose.method.Method"
    if not (isinstance(member, type) and issubclass(member, Part)):
        return expected
    parameters = vars(member).get("__dataclass_params__")
    if parameters is None or not parameters.frozen:
        return f"{expected}; write @dataclass(frozen=True) above it"
    if not isinstance(getattr(member, "name", None), str):
        return "which does not say its name; write name: ClassVar[str] = ... in it"
    lacking = sorted(getattr(member, "__abstractmethods__", ()))
    return f"which lacks {' and '.join(lacking)}" if lacking else ""


def _resolved(value: Any) -> Any:
    if isinstance(value, Lazy):
        return _resolved(value.function)(*value.arguments)
    return _imported(value) if isinstance(value, str) else value


def _imported(target: str) -> Any:
    module, attribute = target.split(":")
    return functools.reduce(getattr, attribute.split("."), importlib.import_module(module))
