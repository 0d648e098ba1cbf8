"""The expression algebra: methods trained at once (`+`) and in sequence (`>>`).

`a + b >> c` is a composition of two stages, the first of two methods. Compositions are immutable, both operators
are associative, and `str` and `parse` are inverse to each other, so the study file, the folder's record and the label
in a figure are one text.
"""

from __future__ import annotations

import ast
import dataclasses
import typing
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any, ClassVar

from pydantic import ConfigDict, TypeAdapter, ValidationError

from deltacompose.errors import BadInput, quoted, unknown
from deltacompose.limits import EXPRESSION_CHARACTERS, INTEGER, PARTS
from deltacompose.notebook import table

Setting = bool | int | float | str | None | tuple["Setting", ...]
"""Types of a method's settings: each value must be printed and parsed back as itself."""


class Term:
    """Anything that stands in a composition: a method, or a composition itself. Gives both operators."""

    def __add__(self, other: Term) -> Composition:
        """Train both at once."""
        left, right = composition(self), composition(other)
        for side in (left, right):
            if len(side.stages) > 1:
                raise BadInput(
                    f"({side}) cannot take part in '+': '+' joins the methods of one stage, '>>' joins stages; "
                    f"write it as {_distributed(left, right)}"
                )
        return Composition((left.stages[0] + right.stages[0],))

    def __rshift__(self, other: Term) -> Composition:
        """Train this first, then the other, which starts with this one attached and frozen."""
        return Composition(composition(self).stages + composition(other).stages)


class Part(Term):
    """One method with its settings: the base of every method, a frozen dataclass that says its `name`.

    Settings are checked against their annotations when a part is made, so Python and the study file refuse the same
    input: `Annotated[int, Ge(1)]` states a range.
    """

    name: ClassVar[str]

    def __post_init__(self) -> None:
        method: Any = type(self)
        for field, kind in _kinds(method).items():
            value = getattr(self, field)
            try:
                object.__setattr__(self, field, kind.validate_python(value))
            except ValidationError as error:
                reason = error.errors()[0]["msg"].removeprefix("Input ").removeprefix("Value error, ")
                raise BadInput(f"{self.name}: {field}={quoted(value)}: {reason[:1].lower()}{reason[1:]}") from None
            if isinstance(value, int) and abs(value) >= INTEGER:
                raise BadInput(f"{self.name}: {field}={quoted(value)}: an integer must be smaller than 2**63")

    def __str__(self) -> str:
        """The method as text, with the settings that differ from their defaults."""
        changed = [
            f"{field.name}={getattr(self, field.name)!r}"
            for field in _fields(type(self))
            if not _same(getattr(self, field.name), field.default)
        ]
        return self.name + (f"({', '.join(changed)})" if changed else "")

    def _repr_html_(self) -> str:
        return composition(self)._repr_html_()

    @property
    def settings(self) -> dict[str, Setting]:
        """Every setting by name, defaults included: what a cell's key is made of."""
        return {field.name: getattr(self, field.name) for field in _fields(type(self))}


@dataclass(frozen=True)
class Composition(Term):
    """Stages trained one after another, each of methods trained at once.

    >>> from deltacompose_plugins import LoRA, BitFit
    >>> str(LoRA(rank=4) + BitFit() >> LoRA())
    'lora(rank=4) + bitfit >> lora'
    """

    stages: tuple[tuple[Part, ...], ...]

    def __post_init__(self) -> None:
        if not self.stages or not all(self.stages):
            raise BadInput("a composition needs at least one method in every stage")
        if (count := sum(map(len, self.stages))) > PARTS:
            raise BadInput(f"a composition has {count} methods; the limit is {PARTS}")

    def __repr__(self) -> str:
        return f"{type(self).__name__}({str(self)!r})"

    def __str__(self) -> str:
        return " >> ".join(" + ".join(map(str, stage)) for stage in self.stages)

    def parts(self) -> Iterator[tuple[str, Part]]:
        """Each method with the prefix of its tensors' names, `<stage>.<part>.`, in the order written.

        >>> [prefix for prefix, _ in dc.parse("prompt + bitfit >> adapter").parts()]
        ['0.0.', '0.1.', '1.0.']
        """
        for s, stage in enumerate(self.stages):
            for p, part in enumerate(stage):
                yield f"{s}.{p}.", part

    def _repr_html_(self) -> str:
        rows = [
            {"stage": s, "method": part.name, "settings": ", ".join(f"{n}={x!r}" for n, x in part.settings.items())}
            for s, stage in enumerate(self.stages, 1)
            for part in stage
        ]
        return table(str(self), rows, ("stage", "method", "settings"))

    def until(self, stage: int) -> Composition:
        """The first `stage` stages: what a sequence has trained before its stage of that number begins.

        >>> str(dc.parse("prompt + bitfit >> adapter").until(1))
        'prompt + bitfit'
        """
        return Composition(self.stages[:stage])

    def describe(self) -> list[list[dict[str, Any]]]:
        """Stages of parts with every setting written out, ready for JSON: the content of a cell's key."""
        return [[{"method": part.name, "settings": part.settings} for part in stage] for stage in self.stages]


def composition(term: Term) -> Composition:
    """A method alone is a composition of one stage with one part."""
    if isinstance(term, Composition):
        return term
    if isinstance(term, Part):
        return Composition(((term,),))
    raise BadInput(f"{term!r} is neither a method nor a composition")


def parse(text: str, methods: Mapping[str, type[Part]], expressions: Mapping[str, str] | None = None) -> Composition:
    """The composition that a text says, read with `ast` and never evaluated.

    Args:
        text: methods with settings by name, joined by `+` and `>>`; parentheses may group.
        methods: the known methods by name.
        expressions: named compositions, which may stand wherever a method may.

    Raises:
        BadInput: unknown method or setting, a setting of the wrong type, or anything else that is not a composition.
    """
    if len(text) > EXPRESSION_CHARACTERS:
        raise BadInput(
            f"the composition {quoted(text)} has {len(text)} characters; the limit is {EXPRESSION_CHARACTERS}"
        )
    try:
        return composition(_Reader(text, methods, expressions or {}).read())
    except RecursionError:
        raise BadInput(f"the composition {quoted(text)} is nested too deep") from None


@dataclass(frozen=True)
class _Reader:
    """Walks the syntax tree of one text; the six kinds of node it knows are the six branches of its two methods."""

    text: str
    methods: Mapping[str, type[Part]]
    expressions: Mapping[str, str]
    within: tuple[str, ...] = ()

    def read(self) -> Term:
        try:
            tree = ast.parse(self.text.strip(), mode="eval")
        except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
            raise BadInput(
                f"{quoted(self.text)} is not a composition ({error}); write for example 'prompt + lora >> adapter'"
            ) from None
        return self._term(tree.body)

    def _term(self, node: ast.expr) -> Term:
        match node:
            case ast.BinOp(left, ast.Add(), right):
                return self._term(left) + self._term(right)
            case ast.BinOp(left, ast.RShift(), right):
                return self._term(left) >> self._term(right)
            case ast.Name(name):
                return self._named(name, {})
            case ast.Call(ast.Name(name), [], keywords) if all(k.arg for k in keywords):
                names = [str(k.arg) for k in keywords]
                if len(set(names)) < len(names):
                    raise BadInput(f"a setting stands twice in {_unparsed(node)}")
                return self._named(name, {str(k.arg): self._setting(k.value) for k in keywords})
            case ast.Call(ast.Name(name), [_, *_]):
                raise BadInput(f"settings of {name!r} are given by name, as in {name}({self._example(name)})")
        raise BadInput(f"{_unparsed(node)} in {quoted(self.text)} is not a method; join methods by '+' and '>>'")

    def _setting(self, node: ast.expr) -> Setting:
        match node:
            case ast.Constant(bool() | int() | float() | str() | None as value):
                if isinstance(value, str) and not value.isascii() and value.encode(errors="ignore").decode() != value:
                    raise BadInput(f"{quoted(value)} has half of a surrogate pair, which is not valid text")
                return value
            case ast.UnaryOp(ast.USub(), ast.Constant(int() | float() as value)) if not isinstance(value, bool):
                return -value
            case ast.Tuple(elements):
                return tuple(self._setting(element) for element in elements)
        raise BadInput(
            f"{_unparsed(node)} in {quoted(self.text)} is not a setting; it may be a number, text, True, False, None "
            "or a tuple of those"
        )

    def _named(self, name: str, settings: dict[str, Setting]) -> Term:
        if name in self.expressions:
            return self._expanded(name, settings)
        if name not in self.methods:
            raise unknown("method", name, [*self.methods, *self.expressions])
        return configured(self.methods[name], settings)

    def _expanded(self, name: str, settings: dict[str, Setting]) -> Term:
        if settings:
            raise BadInput(
                f"{name!r} names the composition {self.expressions[name]!r} and takes no settings; write it out instead"
            )
        if name in self.within:
            raise BadInput(f"the named composition {name!r} contains itself")
        return dataclasses.replace(self, text=self.expressions[name], within=(*self.within, name)).read()

    def _example(self, name: str) -> str:
        fields = _fields(self.methods[name]) if name in self.methods else ()
        return f"{fields[0].name}={fields[0].default!r}" if fields else "rank=8"


def _unparsed(node: ast.expr) -> str:
    """A quotation of a part of an expression; what is nested too deep to print is named by its kind."""
    try:
        return quoted(ast.unparse(node))
    except (RecursionError, ValueError):
        return f"<{type(node).__name__}>"


def configured(method: type[Part], settings: Mapping[str, Setting]) -> Part:
    """A method with settings by name; a setting that it does not have is an error that lists those it has."""
    known = [field.name for field in _fields(method)]
    for name in settings:
        if name not in known:
            raise unknown(f"{method.name} setting", name, known)
    return method(**settings)


@cache
def _kinds(method: Any) -> dict[str, TypeAdapter[Any]]:
    """How each setting of a method is checked: strictly, by its annotation."""
    hints = typing.get_type_hints(method, include_extras=True)
    strict = ConfigDict(strict=True, allow_inf_nan=False)
    return {field.name: TypeAdapter(hints[field.name], config=strict) for field in _fields(method)}


def _fields(method: Any) -> tuple[dataclasses.Field[Any], ...]:
    """The settings of a class of methods, as dataclasses keeps them."""
    if not dataclasses.is_dataclass(method):
        raise BadInput(f"{method.__name__} is not a frozen dataclass; write @dataclass(frozen=True) above it")
    return dataclasses.fields(method)


def _same(value: object, default: object) -> bool:
    return type(value) is type(default) and value == default


def _distributed(left: Composition, right: Composition) -> str:
    """The nearest composition that is allowed: the meeting stages are joined, the others stay in sequence."""
    joined = Composition((left.stages[-1] + right.stages[0],))
    return repr(str(Composition(left.stages[:-1] + joined.stages + right.stages[1:])))
