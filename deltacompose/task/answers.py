"""Answers inside longer texts: numbers, final answers, equations.

Models that reason write their way before the answer. A metric extracts what counts from the prediction and from the
right answer alike, and compares that.
"""

from __future__ import annotations

import ast
import operator
import re
from collections.abc import Callable, Mapping
from decimal import Decimal, InvalidOperation

_NUMBER = re.compile(r"[-+]?(?:\d{1,3}(?:,\d{3})+|\d+)(?:\.\d+)?|[-+]?\.\d+")
_LONGEST = 20_000
"""Characters of an answer that are searched, from its end."""


def last_number(text: str) -> str:
    """The last number of a text; "" without one.

    >>> last_number("3 boxes of 1,200 are 3,600 pens.")
    '3,600'
    """
    numbers = _NUMBER.findall(text[-_LONGEST:])
    return numbers[-1] if numbers else ""


def after_hashes(text: str) -> str:
    """The text after the last `####`, to the end of its line (the format of GSM8K); "" without one.

    >>> after_hashes("48 / 2 = 24, and 48 + 24 = 72\\n#### 72")
    '72'
    """
    _, mark, rest = text.rpartition("####")
    return rest.strip().partition("\n")[0].strip() if mark else ""


def boxed(text: str) -> str:
    r"""The content of the last `\boxed{}` of a text, with its inner braces (the format of MATH); "" without one.

    >>> boxed(r"so x = \boxed{\frac{1}{2}}.")
    '\\frac{1}{2}'
    """
    text = text[-_LONGEST:]
    start = max(text.rfind("\\boxed{"), text.rfind("\\fbox{"))
    if start < 0:
        return ""
    start, depth = text.index("{", start) + 1, 1
    for at in range(start, len(text)):
        depth += {"{": 1, "}": -1}.get(text[at], 0)
        if not depth:
            return text[start:at].strip()
    return ""


EXTRACTIONS: Mapping[str, Callable[[str], str]] = {
    "last_number": last_number,
    "hashes": after_hashes,
    "boxed": boxed,
}
"""How an answer is extracted from a text, by name."""


def same_answer(expected: str, predicted: str) -> bool:
    """Whether two extracted answers are equal: as numbers where both are, else as texts without white space.

    Thousands separators, currency and percent signs and a full stop at the end do not count. Nothing equals an answer
    that was not found.

    >>> same_answer("1,200", "$1200.00"), same_answer("72", "27"), same_answer("", "")
    (True, False, False)
    """
    first, second = _bare(expected), _bare(predicted)
    if not first or not second:
        return False
    numbers = _value(first), _value(second)
    if None not in numbers:
        return numbers[0] == numbers[1]
    return first == second


def _bare(text: str) -> str:
    return re.sub(r"\s|\\[$%!,;]|[$%€£]", "", text).rstrip(".").lower()


def _value(text: str) -> Decimal | None:
    try:
        value = Decimal(text.replace(",", "")) if len(text) < 100 else None
    except InvalidOperation:
        return None
    return value if value is not None and value.is_finite() else None


_OPERATIONS: Mapping[type, Callable[..., float]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
    ast.USub: operator.neg,
    ast.UAdd: operator.pos,
}
_DEEP, _EQUATION = 50, 500
_GREAT = 1e15


def equation_holds(text: str) -> bool:
    """Whether a text is one true equation `( ... ) = number` of the four operations, as PEFT-Bench scores SVAMP.

    >>> equation_holds("(8.0 - 3.0) = 5"), equation_holds("(8 - 3) = 6"), equation_holds("8 - 3 = 5")
    (True, False, False)
    """
    left, sign, right = (part.strip() for part in text.partition("="))
    number = right.replace(",", "")
    if not sign or len(text) > _EQUATION or not re.fullmatch(r"[+-]?(\d+(\.\d+)?|\.\d+)", number):
        return False
    if not _parenthesised(left):
        return False
    try:
        return abs(_evaluated(ast.parse(left[1:-1].strip(), mode="eval").body) - float(number)) < 1e-6
    except (ValueError, SyntaxError, ArithmeticError, RecursionError, MemoryError):
        return False


def _parenthesised(text: str) -> bool:
    """Whether one pair of parentheses holds the whole text."""
    depth = 0
    for at, character in enumerate(text):
        depth += {"(": 1, ")": -1}.get(character, 0)
        if depth == 0:
            return at == len(text) - 1 and at > 0
    return False


def _evaluated(node: ast.AST, depth: int = 0) -> float:
    """The value of an arithmetic expression; nothing but numbers and the operations above."""
    if depth > _DEEP:
        raise ValueError("nested too deeply")
    match node:
        case ast.Constant(value=int() | float() as value) if not isinstance(value, bool) and abs(value) < _GREAT:
            return float(value)
        case ast.UnaryOp(op=op, operand=operand) if type(op) in _OPERATIONS:
            return _OPERATIONS[type(op)](_evaluated(operand, depth + 1))
        case ast.BinOp(left=left, op=op, right=right) if type(op) in _OPERATIONS:
            return _OPERATIONS[type(op)](_evaluated(left, depth + 1), _evaluated(right, depth + 1))
    raise ValueError("not arithmetic")
