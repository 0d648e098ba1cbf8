"""Numbers of a table, which are read from a model's configuration."""

from __future__ import annotations

import operator
from collections.abc import Callable, Mapping
from functools import reduce
from types import MappingProxyType
from typing import Any

from deltacompose.errors import BadInput

Number = int | str | tuple[int | str, ...]


def read_number(number: Number, config: Any, known: Mapping[str, int] = MappingProxyType({})) -> int:
    """A number of a table, read from a configuration: `n_head`, `hidden_size / n_head`, 64, or a list of such.

    `1 if multi_query` is a number where the configuration's attribute is true. Names in `known` come before those of
    the configuration.

    >>> from types import SimpleNamespace
    >>> read_number(("head_dim", "hidden_size / heads"), SimpleNamespace(hidden_size=64, heads=4))
    16
    """
    for alternative in number if isinstance(number, tuple) else (number,):
        if isinstance(alternative, int):
            return alternative
        formula, _, condition = alternative.partition(" if ")
        if condition and not getattr(config, condition, False):
            continue
        words = formula.split()
        read = [int(word) if word.isdigit() else known.get(word, getattr(config, word, None)) for word in words[::2]]
        operands = [value for value in read if isinstance(value, int)]
        if len(operands) == len(read):
            steps = zip(words[1::2], operands[1:])
            return reduce(lambda left, step: _OPERATORS[step[0]](left, step[1]), steps, operands[0])
    raise BadInput(f"{type(config).__name__} has no number {plain(number)!r}")


_OPERATORS: Mapping[str, Callable[[int, int], int]] = {
    "+": operator.add,
    "-": operator.sub,
    "*": operator.mul,
    "/": operator.floordiv,
}


def is_formula(text: Any) -> bool:
    """Whether a text is a number of a table: names and numbers joined by + - * /, perhaps with a condition.

    >>> is_formula("hidden_size / num_heads"), is_formula("rm -rf /")
    (True, False)
    """
    formula, _, condition = text.partition(" if ") if isinstance(text, str) else ("", "", "")
    words = formula.split()
    return (
        (not condition or condition.isidentifier())
        and len(words) % 2 == 1
        and set(words[1::2]) <= _OPERATORS.keys()
        and all(w.isidentifier() or w.isdigit() for w in words[::2])
    )


def plain(value: Any) -> Any:
    """A tuple as a list, of one as its only element: what YAML shows."""
    if not isinstance(value, tuple):
        return value
    return value[0] if len(value) == 1 else list(value)
