"""Checks of what a method says of itself: its settings, its text, its declarations."""

from __future__ import annotations

import dataclasses
import math
import typing
from collections.abc import Iterator, Sequence
from contextlib import suppress
from itertools import zip_longest
from keyword import iskeyword
from typing import Any, Literal

from deltacompose.checks.formula import NotArithmetic, plain, stated
from deltacompose.checks.runner import Check
from deltacompose.checks.signature import signature
from deltacompose.checks.subject import Subject, differing, place_settings
from deltacompose.composition import parse
from deltacompose.errors import BadInput
from deltacompose.method.contract import Category, Method
from deltacompose.method.weights import init_weights
from deltacompose.plugins import loader as plugins
from deltacompose.plugins.members import Member

MOST_SETTINGS = 6


def declarations(subject: Subject) -> None:
    """The method says its name, category, learning rate, source, and whether it is neutral and banked."""
    kind = type(subject.method)
    tests: dict[str, tuple[Any, str]] = {
        "name": (
            lambda x: isinstance(x, str) and x.isidentifier() and not iskeyword(x),
            "letters, digits and '_', and no word of Python's own",
        ),
        "category": (lambda x: x in typing.get_args(Category), f"one of {', '.join(typing.get_args(Category))}"),
        "learning_rate": (lambda x: isinstance(x, float) and math.isfinite(x) and x > 0, "a number above zero"),
        "source": (lambda x: isinstance(x, str) and bool(x.strip()), "the paper that it is from"),
        "neutral": (lambda x: isinstance(x, bool), "True or False"),
        "banked": (lambda x: isinstance(x, bool), "True or False"),
        "version": (lambda x: type(x) is int and x > 0, "a whole number from 1"),
        "__doc__": (lambda x: bool(x) and not x.startswith(f"{kind.__name__}("), "a docstring that gives the formula"),
    }
    for name, (holds, expected) in tests.items():
        value = getattr(subject.method, name, None)
        if not holds(value):
            raise subject.broken(f"it says {name} = {value!r}; expected {expected}")


def frozen_settings(subject: Subject) -> None:
    """The method is a frozen dataclass of at most six settings, equal and hashed by them."""
    method = subject.method
    parameters = vars(type(method)).get("__dataclass_params__")
    if parameters is None or not parameters.frozen:
        raise subject.broken(
            f"{type(method).__name__} is not a frozen dataclass; write @dataclass(frozen=True) above it"
        )
    if len(method.settings) > MOST_SETTINGS:
        raise subject.broken(
            f"it has {len(method.settings)} settings, {', '.join(method.settings)}; expected at most 6"
        )
    if method != type(method)(**method.settings) or hash(method) != hash(type(method)(**method.settings)):
        raise subject.broken("two of it with the same settings are not equal, or not hashed alike")


def refused_settings(subject: Subject) -> None:
    """A setting of the wrong type is refused by name."""
    method = subject.method
    for name in method.settings:
        wrong = object()
        try:
            type(method)(**{**method.settings, name: wrong})
        except BadInput as error:
            if name in str(error):
                continue
            raise subject.broken(f"the error for a wrong {name!r} does not name it: {error}") from error
        raise subject.broken(f"setting {name!r} takes anything, as an object(); call super().__post_init__()")


def text_round_trip(subject: Subject) -> None:
    """The text of a method reads back as the same method, with its settings at their defaults and changed."""
    kind = type(subject.method)
    for method in (subject.method, *changed(subject.method)):
        text = str(method)
        try:
            back = parse(text, {kind.name: kind})
        except BadInput as error:
            raise subject.broken(f"its text {text!r} does not read back: {error}") from error
        if [part for _, part in back.parts()] != [method]:
            raise subject.broken(f"its text {text!r} reads back as {str(back)!r}, which is not the same method")


def listed_by_its_name(subject: Subject) -> None:
    """Where an installed plugin lists the class, it does so under the class's own name, which no other member has."""
    kind, known = type(subject.method), plugins.load()
    target = f"{kind.__module__}:{kind.__qualname__}"
    members = {**known.expressions.listed, **known.methods.listed}  # type: ignore[attr-defined]
    if (taken := members.get(kind.name)) and not _reads_as(taken, target):
        raise subject.broken(f"the name {kind.name!r} is that of {taken} of {taken.origin}; choose another")
    for name, member in known.methods.listed.items():  # type: ignore[attr-defined]
        if member.value in (kind, target) and name != kind.name:
            raise subject.broken(f"{member.origin} lists {target} as {name!r}; expected the class's own {kind.name!r}")


def _reads_as(member: Member, target: str) -> bool:
    """Whether a member is the class that is found there, by whatever path it is listed."""
    try:
        member_class = member.read()
    except BadInput:  # told where the plugin itself is checked
        return True
    return isinstance(member_class, type) and f"{member_class.__module__}:{member_class.__qualname__}" == target


def every_setting_matters(subject: Subject) -> None:
    """Each setting changes something that the method does, at the other settings' values or at others."""
    method = subject.method
    expected = list(signature(subject, method))
    for name in method.settings:
        others = list(_others_of(subject, method, name))
        if not others or any(_differs(subject, other, expected) for other in others):
            continue  # no other value of the setting is known, so it cannot be checked
        if not any(
            _differs(subject, other, list(signature(subject, base)))
            for base in changed(method)
            if base.settings[name] == method.settings[name]
            for other in _others_of(subject, base, name)
        ):
            raise subject.broken(f"setting {name!r} changes nothing that the method does; read it, or leave it out")


def stated_formula(subject: Subject) -> None:
    """The stated formula, where it can be computed, is the number of parameters."""
    backbone = subject.backbone
    try:
        method = plain(subject.method)
        numbers = stated(method, backbone)
        size = sum(x.numel() for x in init_weights(backbone, method).values())
    except (NotArithmetic, BadInput):
        return  # words, or a method that refuses its defaults here
    if size not in numbers:
        raise subject.broken(
            f"its formula {method.formula!r} gives {' or '.join(map(str, numbers))} parameters, and init {size}; "
            "a setting's letter is read from the docstring, 'rank: r.'"
        )


def _differs(subject: Subject, method: Method, expected: Sequence[tuple[str, Any]]) -> bool:
    """Whether anything that a method does differs from what is expected."""
    return any(
        left is None or right is None or left[0] != right[0] or differing(left[1], right[1]) > 0
        for left, right in zip_longest(signature(subject, method), expected)
    )


def _others_of(subject: Subject, method: Method, name: str) -> Iterator[Method]:
    """The method with one setting at other values that it accepts."""
    value = method.settings[name]
    hint = typing.get_type_hints(type(method))[name]
    kinds = dict.fromkeys(place.kind for place in subject.backbone.places())
    narrow = kinds if name in place_settings(method, subject.backbone) else ()
    places = [kind if isinstance(value, str) else (kind,) for kind in narrow]
    for other in (*_alternatives(hint), *places, *_others(value), *_farther(value)):
        if other != value:
            with suppress(BadInput):
                yield type(method)(**{**method.settings, name: other})


def changed(method: Method) -> Iterator[Method]:
    """The method with one setting after another at another value, where one can be found that it accepts."""
    hints = typing.get_type_hints(type(method))
    for name, value in method.settings.items():
        for other in (*_alternatives(hints[name]), *_others(value)):
            if other == value:
                continue
            try:
                yield type(method)(**{**method.settings, name: other})
            except BadInput:
                continue
            break


def _alternatives(hint: Any) -> tuple[Any, ...]:
    return typing.get_args(hint) if typing.get_origin(hint) is Literal else ()


def _others(value: Any) -> tuple[Any, ...]:
    """Values of the same type, the likeliest to be accepted first."""
    match value:
        case bool():
            return (not value,)
        case int():
            return (value + 1, value - 1)
        case float():
            return (value / 2 + 0.01, value * 2)
        case str():
            return (value + 'it\'s "x"', value + "x")
        case tuple():
            return (value[:1], value + value[:1])
    return (1, 0.5, "x", ("x",))


def _farther(value: Any) -> tuple[Any, ...]:
    """Values of the same type that are far from this one."""
    match value:
        case bool():
            return ()
        case int():
            return (1, 2, 2 * value)
        case float():
            return (0.9 * value + 0.05, 0.5)
    return ()


def has_fields(subject: Subject) -> bool:
    """Whether the method has settings that can be looked at one by one."""
    return dataclasses.is_dataclass(subject.method)


CHECKS = (
    Check(declarations, once=True),
    Check(frozen_settings, once=True),
    Check(refused_settings, when=has_fields, once=True),
    Check(text_round_trip, when=has_fields, once=True),
    Check(listed_by_its_name, once=True),
    Check(every_setting_matters, when=has_fields, once=True),
    Check(stated_formula),
)
