"""The one kind of error that bad input raises, the sentence that names what exists instead, and numbers run wild."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class BadInput(ValueError):
    """Something a user gave cannot be used; the message is one sentence: what was found, expected, exists."""


class NoPlace(BadInput):
    """A place that a family of backbones lacks; the message lists those that it has."""


class Diverged(ArithmeticError):
    """What a delta computes is no longer a finite number; it fails alone, and its neighbours in a bank go on."""


MANY = 60
"""More names than this are no longer read, and not all listed."""


def unknown(kind: str, name: str, existing: Iterable[str]) -> BadInput:
    """The error for a name that does not exist: the nearest spelling, and what does exist, of many names the nearest.

    >>> print(unknown("method", "lroa", ["lora", "bitfit"]))
    no method 'lroa'; did you mean 'lora'? methods: bitfit, lora
    """
    names = sorted(existing)
    near = difflib.get_close_matches(name, names, n=1)
    hint = f"did you mean {near[0]!r}? " if near else ""
    plural = f"{kind[:-1]}ies" if kind.endswith("y") else f"{kind}s"
    if len(names) > MANY:
        nearest = difflib.get_close_matches(name, names, n=8, cutoff=0.0)
        return BadInput(f"no {kind} {name!r}; {hint}of {len(names)} {plural} the nearest are: {', '.join(nearest)}")
    return BadInput(f"no {kind} {name!r}; {hint}{plural}: {', '.join(names) or 'none'}")
