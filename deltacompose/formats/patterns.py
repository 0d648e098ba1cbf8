"""Regular expressions from outside, which may be wrong or take exponential time."""

from __future__ import annotations

import time
from functools import lru_cache
from typing import Any

import regex

from deltacompose.errors import BadInput, quoted
from deltacompose.limits import PATTERN_CHARACTERS, PATTERN_SECONDS

_SLOW = 0.02
"""Seconds; an ordinary pattern matches the name of a module in microseconds."""
_spent: dict[str, float] = {}
"""Seconds that slow matches of each pattern have taken, for a pattern is matched with the name of every module."""


def check_pattern(pattern: str, what: str = "pattern") -> None:
    """Refuses a regular expression that is too long or not valid.

    Args:
        what: what the pattern is called in the error.

    Raises:
        BadInput: it is one of these.
    """
    if len(pattern) > PATTERN_CHARACTERS:
        raise BadInput(f"the {what} {quoted(pattern)} has {len(pattern)} characters; the limit is {PATTERN_CHARACTERS}")
    try:
        _compiled(pattern)
    except (regex.error, RecursionError, MemoryError, OverflowError) as error:
        raise BadInput(f"the {what} {quoted(pattern)} is not a valid regular expression ({error})") from None


def matches(pattern: str, text: str, what: str = "pattern") -> bool:
    r"""Whether the whole of a text matches a regular expression of Python's syntax.

    >>> matches(r"encoder\.\d+", "encoder.11"), matches(r"encoder\.\d+", "encoder.x")
    (True, False)

    Args:
        what: what the pattern is called in the error.

    Raises:
        BadInput: the expression is too long, is not valid, or takes more than a second to match, in one match or in
            all slow ones together.
    """
    check_pattern(pattern, what)
    left = PATTERN_SECONDS - sum(_spent.values())
    started = time.monotonic()
    try:
        matched = _compiled(pattern).fullmatch(text, timeout=max(left, _SLOW)) is not None
    except TimeoutError:
        raise BadInput(
            f"the {what} {quoted(pattern)} takes more than {PATTERN_SECONDS:g} s to match names such as "
            f"{quoted(text)}; write it without nested repetition"
        ) from None
    seconds = time.monotonic() - started
    if seconds > _SLOW:
        _spent[pattern] = _spent.get(pattern, 0.0) + seconds
    return matched


@lru_cache(maxsize=256)
def _compiled(pattern: str) -> Any:
    return regex.compile(pattern, regex.VERSION0)
