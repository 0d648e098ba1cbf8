"""The one place where figures and tables round: every number that is printed goes through a function of this module."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

_POWERS = ((1e12, "T"), (1e9, "B"), (1e6, "M"), (1e3, "k"))
_BYTES = ((2**40, "TiB"), (2**30, "GiB"), (2**20, "MiB"), (2**10, "KiB"))


def number(value: float, *, signed: bool = False, digits: int = 2, percent: bool = False) -> str:
    """A number as papers print it: no zero before the point, a true minus sign.

    Args:
        value: the whole value; it must not have been rounded before.
        signed: a plus sign before positive values.
        digits: digits after the point; with `percent` two fewer.
        percent: a share is printed in hundredths, without the sign %.

    >>> number(0.871), number(-0.5, signed=True), number(0.25, signed=True)
    ('.87', '−.50', '+.25')
    >>> number(0.871, percent=True), number(0.871, percent=True, digits=3)
    ('87', '87.1')
    """
    if percent:
        value, digits = 100 * value, max(0, digits - 2)
    text = f"{value:+.{digits}f}" if signed else f"{value:.{digits}f}"
    if float(text) == 0:
        text = text.lstrip("+-")
    for zero, bare in (("-0.", "-."), ("+0.", "+."), ("0.", ".")):
        if text.startswith(zero):
            text = bare + text.removeprefix(zero)
            break
    return text.replace("-", "−")


def plus_minus(mean: float, spread: float, *, signed: bool = False, digits: int = 2, percent: bool = False) -> str:
    """A mean and its spread, `.87 ± .02`; the mean alone where the spread is NaN."""
    text = number(mean, signed=signed, digits=digits, percent=percent)
    return text if np.isnan(spread) else f"{text} ± {number(spread, digits=digits, percent=percent)}"


def interval(low: float, high: float, *, digits: int = 2, percent: bool = False) -> str:
    """Both ends of an interval, `[.81, .93]`."""
    return f"[{number(low, digits=digits, percent=percent)}, {number(high, digits=digits, percent=percent)}]"


def p_value(p: float) -> str:
    """A p-value to three digits.

    >>> p_value(0.0312), p_value(0.00004)
    ('p = .031', 'p < .001')
    """
    return "p < .001" if p < 0.0005 else f"p = {number(p, digits=3)}"


def counted(n: int, noun: str) -> str:
    """`1 seed`, `3 seeds`."""
    return f"{n} {noun}" if n == 1 else f"{n} {noun}s"


def counts(numbers: Sequence[int], noun: str) -> str:
    """`3 seeds`, or `3 to 5 seeds` where the counts differ."""
    least, most = min(numbers), max(numbers)
    return counted(most, noun) if least == most else f"{least} to {counted(most, noun)}"


def quantity(value: float) -> str:
    """A large number to three digits.

    >>> quantity(1234), quantity(294912), quantity(7.0)
    ('1.23k', '295k', '7')
    """
    for power, sign in _POWERS:
        if abs(value) >= power:
            return f"{value / power:.3g}{sign}"
    return f"{value:.3g}".replace("-", "−")


def memory(value: float) -> str:
    """Bytes to three digits, in powers of 1024.

    >>> memory(3 * 2**20)
    '3 MiB'
    """
    for power, sign in _BYTES:
        if abs(value) >= power:
            return f"{value / power:.3g} {sign}"
    return f"{value:.3g} B"


def seconds(value: float) -> str:
    """A duration to three digits.

    >>> seconds(0.0123), seconds(90), seconds(7200)
    ('12.3 ms', '1.5 min', '2 h')
    """
    for size, sign in ((3600, "h"), (60, "min"), (1, "s"), (1e-3, "ms")):
        if abs(value) >= size:
            return f"{value / size:.3g} {sign}"
    return f"{value * 1e6:.3g} µs"
