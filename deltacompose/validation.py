"""Strict YAML, and plain data checked by pydantic: whatever is wrong with either becomes one sentence.

YAML is read as data only: no tags, no merge keys, no key twice, and no more nodes than `limits` allows, those that
aliases stand for included. So a document of a few hundred bytes cannot fill the memory.
"""

from __future__ import annotations

import dataclasses
import json
import re
import typing
from collections.abc import Hashable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cache
from typing import Any, TypeVar, cast

import yaml
from pydantic import TypeAdapter, ValidationError

from deltacompose.errors import BadInput, quoted, truncated, unknown
from deltacompose.limits import YAML_DEPTH, YAML_DIGITS, YAML_NODES

T = TypeVar("T")

_CSafeLoader: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # libyaml's parser is ten times as fast
_NUMBER = re.compile(r"[-+]?(?:0x[0-9a-fA-F_]+|0b[01_]+|[0-9][0-9_:.eE+-]*|\.[0-9][0-9_eE+-]*)")
_UNKNOWN = ("extra_forbidden", "unexpected_keyword_argument")
_SHOWN = 3
"""Number of errors of one validation that are printed; the others are counted."""


def parsed_yaml(text: str, name: str) -> Any:
    """The data of a YAML document.

    Args:
        name: of the file, for the error.

    Raises:
        BadInput: it is not valid YAML, has a key twice, a tag, a merge key, a recursive alias or a number that is too
            long, or exceeds the limits on nodes and depth.
    """
    try:
        _Bounds().check(text)
        return yaml.load(text, Loader=_Strict)
    except (yaml.YAMLError, ValueError, OverflowError) as error:
        # ValueError and OverflowError: numbers and dates that look right to YAML and are not, as 2024-99-99
        reason = " ".join(str(error).replace('"<unicode string>", ', "").split())
        raise BadInput(f"{name} is not valid YAML: {reason}") from None


class _Strict(_CSafeLoader):  # type: ignore[misc]
    """YAML's safe loader, which refuses a key that stands twice (plain YAML keeps the last) and long numbers."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        seen: set[Hashable] = set()
        for key_node, _ in node.value:
            key = self.construct_object(key_node, deep=True)
            if not isinstance(key, Hashable):
                raise yaml.constructor.ConstructorError(None, None, "a key is not text", key_node.start_mark)
            if key in seen:
                raise yaml.constructor.ConstructorError(
                    None, None, f"the key {quoted(key)} stands twice", key_node.start_mark
                )
            seen.add(key)
        mapping: dict[Hashable, Any] = super().construct_mapping(node, deep)
        return mapping


@dataclass
class _Bounds:
    """Walks a document's events, which costs little, before anything is built. Its state is the open collections."""

    nodes: int = 0
    open: list[_Collection] = field(default_factory=list)
    anchored: dict[str, tuple[int, int]] = field(default_factory=dict)
    """Nodes and depth of what each anchor names."""

    def check(self, text: str) -> None:
        """Raises a YAML error with its place for what `parsed_yaml` refuses before building."""
        for event in yaml.parse(text, Loader=_CSafeLoader):
            problem = self._problem(event)
            if problem:
                raise yaml.constructor.ConstructorError(None, None, problem, event.start_mark)  # type: ignore[arg-type]

    def _problem(self, event: Any) -> str:
        if isinstance(event, yaml.AliasEvent):
            return self._aliased(str(event.anchor))
        if isinstance(event, yaml.CollectionStartEvent):
            self.open.append(_Collection(event.anchor))
            if len(self.open) > YAML_DEPTH:
                return f"it is nested more than {YAML_DEPTH} deep"
            return f"the tag {quoted(event.tag)} is not supported" if event.tag else ""
        if isinstance(event, yaml.CollectionEndEvent):
            return self._closed(self.open.pop())
        if isinstance(event, yaml.ScalarEvent):
            return self._added(1, 0, event.anchor) or _scalar_problem(event)
        return ""

    def _aliased(self, anchor: str) -> str:
        if any(collection.anchor == anchor for collection in self.open):
            return f"the alias *{truncated(anchor)} stands within what it names"
        if anchor not in self.anchored:
            return f"there is no anchor for the alias *{truncated(anchor)}"
        nodes, depth = self.anchored[anchor]
        if len(self.open) + depth > YAML_DEPTH:
            return f"its aliases are nested more than {YAML_DEPTH} deep"
        return self._added(nodes, depth, None)

    def _closed(self, collection: _Collection) -> str:
        return self._added(collection.nodes + 1, collection.depth + 1, collection.anchor, counted=collection.nodes)

    def _added(self, nodes: int, depth: int, anchor: str | None, counted: int = 0) -> str:
        """A complete node: it counts in its collection and in the document, of which `counted` are there already."""
        self.nodes += nodes - counted
        if anchor is not None:
            self.anchored[anchor] = nodes, depth
        if self.open:
            self.open[-1].nodes += nodes
            self.open[-1].depth = max(self.open[-1].depth, depth)
        return f"it has more than {YAML_NODES} values, aliases counted" if self.nodes > YAML_NODES else ""


@dataclass
class _Collection:
    """A list or mapping of which more is to come: how many nodes are in it, and how deep they are nested."""

    anchor: str | None
    nodes: int = 0
    depth: int = 0


def _scalar_problem(event: yaml.ScalarEvent) -> str:
    if event.tag and event.tag != "!":
        return f"the tag {quoted(event.tag)} is not supported"
    plain, text = event.implicit[0], event.value
    if plain and text == "<<":
        return "merge keys (<<) are not supported; write out what is merged"
    if plain and len(text) > YAML_DIGITS and _NUMBER.fullmatch(text):
        return f"a number has {len(text)} characters, more than {YAML_DIGITS}; put text in quotes"
    return ""


# Plain data as records


def checked(kind: type[T], data: Any, where: str, noun: str = "field") -> T:
    """Plain data as a record, checked strictly: no field that is not known, no text for a number.

    Args:
        kind: a dataclass or anything else that pydantic validates.
        where: what the message begins with, as the file's name.
        noun: what a key of the data is called.

    Raises:
        BadInput: the data do not fit; the message names the first three misfits and what exists.
    """
    try:
        record: T = _adapter(kind).validate_json(json.dumps(data), strict=True)  # as JSON, lists may be tuples
        return record
    except ValidationError as error:
        raise BadInput(f"{where}: {'; '.join(sentences(kind, error, noun))}") from None
    except (TypeError, ValueError) as error:
        reason = " ".join(str(error).split())
        raise BadInput(f"{where}: {reason}; quote dates and other words that YAML reads as something else") from None


def validated(kind: Any, data: Any, where: str) -> Any:
    """Plain data that was read from JSON, checked strictly against a type.

    Raises:
        BadInput: the data do not fit the type; the message says where and what was expected.
    """
    try:
        _adapter(kind).validate_python(data, strict=True)
    except ValidationError as error:
        raise BadInput(f"{where}: {'; '.join(sentences(kind, error, 'field'))}") from None
    return data  # not pydantic's copy, which leaves out the keys that a TypedDict does not name


def plain(record: Any) -> dict[str, Any]:
    """A record as plain data, ready for JSON and YAML."""
    data: dict[str, Any] = json.loads(_adapter(type(record)).dump_json(record))
    return data


def sentences(kind: Any, error: ValidationError, noun: str) -> Iterator[str]:
    """Pydantic's errors as sentences, unknown names first: the first three and the number of the others."""
    count = error.error_count()
    errors = sorted(error.errors(include_url=False), key=lambda each: each["type"] not in _UNKNOWN)
    yield from (_sentence(kind, each, noun) for each in errors[:_SHOWN])
    if count > _SHOWN:
        yield f"and {count - _SHOWN} more errors"


def _adapter(kind: Any) -> TypeAdapter[Any]:
    return _cached(kind)


@cache
def _cached(kind: Hashable) -> TypeAdapter[Any]:
    return TypeAdapter(cast(Any, kind))


def _sentence(kind: Any, error: Any, noun: str) -> str:
    at, value = ".".join(map(str, error["loc"])), error.get("input")
    message = error["msg"].removeprefix("Value error, ")
    if error["type"] in _UNKNOWN:
        return str(unknown(noun, at, _fields(_owner(kind, error["loc"][:-1]))))
    if error["type"].startswith("missing"):
        return f"{quoted(at)[1:-1]} is missing"
    if not at:
        return f"{message[:1].lower()}{message[1:]}"
    hint = (
        " (YAML reads 1e-3 as text; write 1.0e-3)" if error["type"] == "float_type" and isinstance(value, str) else ""
    )
    return f"{quoted(at)[1:-1]}: {quoted(value)}: {message[:1].lower()}{message[1:]}{hint}"


def _owner(kind: Any, path: Sequence[Any]) -> Any:
    """The dataclass whose field a path leads to, else the whole record."""
    owner = kind
    for name in path:
        hints = typing.get_type_hints(owner) if dataclasses.is_dataclass(owner) else {}
        options = (hints.get(str(name)), *typing.get_args(hints.get(str(name))))
        owner = next((option for option in options if dataclasses.is_dataclass(option)), owner)
    return owner


def _fields(kind: Any) -> list[str]:
    if dataclasses.is_dataclass(kind):
        return [each.name for each in dataclasses.fields(kind) if each.compare]
    return sorted(typing.get_type_hints(kind)) if isinstance(kind, type) else []
