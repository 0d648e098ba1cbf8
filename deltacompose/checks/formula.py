"""The stated number of parameters, read as arithmetic: `r(o + i) per matrix`, `n³ + 2md + m per sublayer`.

A formula is a text for readers. Where it is arithmetic whose letters are known it can be computed, and must be right.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping

from deltacompose.backbone.backbone import Backbone
from deltacompose.method.contract import Edit, KeyValueEdit, Method, TokenEdit, edits_of

_SUPERSCRIPTS = str.maketrans("⁰¹²³⁴⁵⁶⁷⁸⁹", "0123456789")
_TOKEN = re.compile(r"\s*(?:(?P<number>\d+)|(?P<letter>[A-Za-z])(?P<power>[⁰¹²³⁴⁵⁶⁷⁸⁹]+)?|(?P<sign>[+()·*-]))")
_LETTER = re.compile(r"^\s*(?P<setting>\w+): (?P<letter>[A-Za-z])(?:[.,;]|$)", re.M)
_PER = re.compile(r"(?P<sum>.+?) per (?P<unit>[a-z]+(?: [a-z-]+)?)")
Letters = Mapping[str, int]


class NotArithmetic(ValueError):
    """A formula that is words, or has a letter that nothing explains."""


def stated(method: Method, backbone: Backbone) -> tuple[int, ...]:
    """The numbers of parameters that a method's formula can mean on a backbone.

    The letter of a setting is read from the docstring, `rank: r.`; `d` is the width of a place (before that of the
    embeddings), `o` and `i` are the sides of a place's matrix. `A + B per place` may count A once or at each place.

    Raises:
        NotArithmetic: it is not arithmetic, or has other letters.
    """
    text = method.formula.strip()
    match = _PER.fullmatch(text)
    if match is None:
        return (_value(text, _settings(method) | _embedding(method, backbone)),)
    terms = _terms(match["sum"])
    places = [_settings(method) | own for own in _places(method, backbone)]
    once = _settings(method) | _embedding(method, backbone)
    numbers = []
    for split in range(len(terms)):
        try:
            before = sum(_value(term, once) for term in terms[:split])
        except NotArithmetic:
            continue
        numbers.append(before + sum(_value(term, own) for own in places for term in terms[split:]))
    return tuple(numbers)


def plain(method: Method) -> Method:
    """The method at its defaults but for the settings that have a letter: what a formula is stated for.

    Raises:
        NotArithmetic: it has settings without a default.
    """
    try:
        return type(method)(**{name: method.settings[name] for name in _letters(method).values()})
    except (TypeError, KeyError):
        raise NotArithmetic(f"{method} has settings without a default") from None


def _letters(method: Method) -> dict[str, str]:
    return {match["letter"]: match["setting"] for match in _LETTER.finditer(type(method).__doc__ or "")}


def _settings(method: Method) -> dict[str, int]:
    """The letters that the docstring gives to settings that are whole numbers."""
    letters = _letters(method)
    values = {letter: method.settings.get(name) for letter, name in letters.items()}
    return {letter: value for letter, value in values.items() if type(value) is int}


def _embedding(method: Method, backbone: Backbone) -> dict[str, int]:
    return {} if "d" in _settings(method) else {"d": backbone.embedding_width}


def _places(method: Method, backbone: Backbone) -> Iterator[dict[str, int]]:
    """For each place that is edited the letters of its sizes."""
    seen: set[str] = set()
    for edit in edits_of(method, backbone):
        name = edit.stream if isinstance(edit, TokenEdit) else edit.place.name
        if name not in seen:
            seen.add(name)
            own = _sizes(edit, backbone)
            yield {letter: size for letter, size in own.items() if letter not in _settings(method)}


def _sizes(edit: Edit, backbone: Backbone) -> dict[str, int]:
    if isinstance(edit, TokenEdit):
        return {"d": backbone.embedding_width}
    if isinstance(edit, KeyValueEdit):
        heads, width = backbone.heads(edit.place)
        return {"d": heads * width}
    sizes = {"d": backbone.width(edit.place)}
    if "weight" in backbone.parameter_names(edit.place):
        shape = backbone.parameter(edit.place, "weight").shape
        if len(shape) == 2:
            sizes |= {"o": shape[0], "i": shape[1]}
    return sizes


def _terms(text: str) -> list[str]:
    """The terms of a sum, outside parentheses."""
    terms, depth = [""], 0
    for character in text:
        depth += (character == "(") - (character == ")")
        if character == "+" and not depth:
            terms.append("")
        else:
            terms[-1] += character
    return terms


def _value(text: str, letters: Letters) -> int:
    tokens = list(_read(text, letters))
    value, rest = _sum(tokens)
    if rest:
        raise NotArithmetic(text)
    return value


def _read(text: str, letters: Letters) -> Iterator[int | str]:
    """Numbers and signs; juxtaposed factors have no sign between them."""
    position, text = 0, text.strip()
    while position < len(text):
        match = _TOKEN.match(text, position)
        if match is None:
            raise NotArithmetic(text)
        position = match.end()
        if match["number"]:
            yield int(match["number"])
        elif match["letter"]:
            if match["letter"] not in letters:
                raise NotArithmetic(text)
            yield letters[match["letter"]] ** int((match["power"] or "1").translate(_SUPERSCRIPTS))
        else:
            yield match["sign"]


def _sum(tokens: list[int | str]) -> tuple[int, list[int | str]]:
    value, tokens = _product(tokens)
    while tokens and tokens[0] in ("+", "-"):
        sign, (other, tokens) = tokens[0], _product(tokens[1:])
        value += other if sign == "+" else -other
    return value, tokens


def _product(tokens: list[int | str]) -> tuple[int, list[int | str]]:
    value, tokens = _factor(tokens)
    while tokens and (tokens[0] in ("·", "*", "(") or isinstance(tokens[0], int)):
        other, tokens = _factor(tokens[1:] if tokens[0] in ("·", "*") else tokens)
        value *= other
    return value, tokens


def _factor(tokens: list[int | str]) -> tuple[int, list[int | str]]:
    if tokens and isinstance(tokens[0], int):
        return tokens[0], tokens[1:]
    if tokens and tokens[0] == "(":
        value, rest = _sum(tokens[1:])
        if rest and rest[0] == ")":
            return value, rest[1:]
    raise NotArithmetic("a factor is missing")
