"""The one kind of error that bad input raises, bounded quotations, and the sentence that names what exists instead."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable

QUOTED = 200
"""The longest quotation of an input in an error message, in characters."""
LONGEST = 2000
"""The longest error message, in characters; a longer one is truncated in the middle."""

_QUOTATION = re.compile(
    rf"(?<!\w)(?P<mark>['\"])(?P<text>(?:(?!(?P=mark)).)*)(?P=mark)|(?P<word>\S{{{QUOTED},}})", re.DOTALL
)


def truncated(text: str, length: int = QUOTED) -> str:
    """The text itself, or its beginning and end around `…` where it is longer than `length` characters.

    >>> truncated("a" * 50, 11)
    'aaaaa…aaaaa'
    """
    if len(text) <= length:
        return text
    half = (length - 1) // 2
    return f"{text[: length - 1 - half]}…{text[len(text) - half :]}"


def quoted(value: object, length: int = QUOTED) -> str:
    """The `repr` of a value for an error message, at most `length` characters long.

    A long text is cut before its `repr` is formed, so that quoting megabytes costs nothing.

    >>> quoted("lora"), len(quoted("x" * 10**6))
    ("'lora'", 200)
    """
    if isinstance(value, str | bytes) and len(value) > length:
        value = value[:length] + value[-length:]  # type: ignore[operator]
    try:
        text = repr(value)
    except (ValueError, RecursionError):  # an integer with too many digits to print, or nested beyond the stack
        text = f"<{type(value).__name__}>"
    return truncated(text, length)


def bounded(message: str) -> str:
    """A message whose quotations have at most `QUOTED` characters, and which has at most `LONGEST` itself.

    >>> len(bounded("x" * 10_000)) < 10_000
    True
    """
    return truncated(_QUOTATION.sub(_shortened, message), LONGEST)


def _shortened(match: re.Match[str]) -> str:
    mark = match["mark"] or ""
    return mark + truncated(match["word"] or match["text"], QUOTED - 2 * len(mark)) + mark


class BadInput(ValueError):
    """Something a user gave cannot be used; the message is one sentence: what was found, expected, exists.

    The message is bounded, whatever it quotes: see `bounded`.

    >>> dc.parse("lora(rnk=8)")  # doctest: +ELLIPSIS
    Traceback (most recent call last):
        ...
    deltacompose.errors.BadInput: ...did you mean 'rank'?...
    """

    def __init__(self, message: object = "") -> None:
        super().__init__(bounded(str(message)))


class NoPlace(BadInput):
    """A place that a family of backbones lacks; the message lists those that it has."""


class Diverged(ArithmeticError):
    """A delta's loss or scores are not finite. It fails alone; its neighbours in a bank go on."""


MANY = 60
"""More names than this are no longer read, and not all listed."""
_COMPARED = 1000
"""Longer names have no nearest spelling: comparing them takes time that grows with the square of their length."""


def unknown(kind: str, name: str, existing: Iterable[str]) -> BadInput:
    """The error for a name that does not exist: the nearest spelling, and what does exist, of many names the nearest.

    >>> print(unknown("method", "lroa", ["lora", "bitfit"]))
    no method 'lroa'; did you mean 'lora'? methods: bitfit, lora
    """
    names = sorted(existing)
    wanted = name[:QUOTED]
    near = difflib.get_close_matches(wanted, names, n=1)
    hint = f"did you mean {near[0]!r}? " if near else ""
    plural = f"{kind[:-1]}ies" if kind.endswith("y") and kind[-2] not in "aeiou" else f"{kind}s"
    if len(names) > MANY:
        nearest = difflib.get_close_matches(wanted, names[:_COMPARED], n=8, cutoff=0.0)
        return BadInput(
            f"no {kind} {quoted(name)}; {hint}of {len(names)} {plural} the nearest are: {', '.join(nearest)}"
        )
    return BadInput(f"no {kind} {quoted(name)}; {hint}{plural}: {', '.join(names) or 'none'}")
