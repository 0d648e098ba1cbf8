"""Instruction data as people publish them: Alpaca's columns, OpenAI's and ShareGPT's conversations, prompt pairs.

A conversation gives one example: its last assistant's turn is the answer, and all turns before it are the input. A
backbone that chats reads them as turns; any other reads them as one text.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any

from deltacompose.errors import BadInput, quoted, unknown
from deltacompose.formats.json_files import parsed_json

Message = tuple[str, str]
"""A role and its text."""

ROLES = ("system", "user", "assistant")

COLUMNS: Mapping[str, Mapping[str, str]] = {
    "alpaca": {"input": "instruction", "target": "output"},
    "messages": {"input": "messages", "target": "messages"},
    "sharegpt": {"input": "conversations", "target": "conversations"},
    "completion": {"input": "prompt", "target": "completion"},
}
"""The columns of each format, where a description names no others."""

_SPEAKERS = {"human": "user", "user": "user", "gpt": "assistant", "assistant": "assistant", "system": "system"}
"""Speakers of ShareGPT's conversations and the roles that they have."""


def with_defaults(mapping: Mapping[str, Any]) -> dict[str, Any]:
    """A task's description with what its `format` says by itself: columns, metric and category."""
    form = mapping.get("format")
    if form is None:
        return dict(mapping)
    if form not in COLUMNS:
        raise unknown("format", str(form), COLUMNS)
    known = {"columns": dict(COLUMNS[form]), "metric": "rouge_l", "category": "instruction"}
    return known | dict(mapping)


def question(form: str, row: Mapping[str, Any], column: str) -> tuple[str, tuple[Message, ...]]:
    """The input of a row as one text, and its turns where there is more than one."""
    if form in ("messages", "sharegpt"):
        turns = conversation(form, _cell(row, column), f"column {column!r}")[:-1]
        if len(turns) == 1:
            return turns[0][1], ()
        return "\n".join(f"{role.capitalize()}: {content}" for role, content in turns), turns
    parts = [_cell(row, column), row.get("input") if form == "alpaca" else None]
    return "\n\n".join(str(part).strip() for part in parts if part is not None and str(part).strip()), ()


def answer(form: str, row: Mapping[str, Any], column: str) -> Any:
    """The answer of a row."""
    if form in ("messages", "sharegpt"):
        return conversation(form, _cell(row, column), f"column {column!r}")[-1][1]
    return _cell(row, column)


def conversation(form: str, raw: Any, where: str) -> tuple[Message, ...]:
    """The turns of a conversation up to its last assistant's turn.

    Raises:
        BadInput: it is not a list of messages, no answer can be learned from it, or nothing stands before the answer.
    """
    if isinstance(raw, str):
        raw = parsed_json(raw, where)
    if not isinstance(raw, Sequence) or isinstance(raw, str | bytes):
        raise BadInput(f"{where} holds {quoted(raw, 40)}, not a list of messages")
    turns = [_message(form, message, where) for message in raw]
    check_messages(turns, where)
    last = max(at for at, (role, _) in enumerate(turns) if role == "assistant")
    if last == 0 or turns[last - 1][0] != "user":
        raise BadInput(f"{where}: no user's message stands before the last assistant's, so there is no input")
    return tuple(turns[: last + 1])


def check_messages(messages: Sequence[Message], where: str) -> None:
    """Refuses a conversation from which no answer can be learned.

    Raises:
        BadInput: a role is unknown, no turn is an assistant's, or two turns in a row have one role.
    """
    for role, _ in messages:
        if role not in ROLES:
            raise BadInput(f"{where}: {unknown('role', role, ROLES)}")
    if not any(role == "assistant" for role, _ in messages):
        raise BadInput(f"{where}: no message is an assistant's, so there is no answer to learn")
    for (role, _), (following, _) in pairwise(messages):
        if role == following:
            raise BadInput(f"{where}: two messages in a row are of the role {role}; join them into one")


def _message(form: str, message: Any, where: str) -> Message:
    names = ("from", "value") if form == "sharegpt" else ("role", "content")
    if not isinstance(message, Mapping) or any(name not in message for name in names):
        raise BadInput(f"{where}: {quoted(message, 60)} is not a message; expected the keys {' and '.join(names)}")
    role, content = str(message[names[0]]), message[names[1]]
    if isinstance(content, Sequence) and not isinstance(content, str):
        content = "\n".join(_part(part, where) for part in content)
    if not isinstance(content, str) or not content.strip():
        raise BadInput(f"{where}: a message of the role {quoted(role, 40)} has no text")
    return _SPEAKERS.get(role, role) if form == "sharegpt" else role, content.strip()


def _part(part: Any, where: str) -> str:
    """The text of a part of a message's content, as OpenAI writes it."""
    if not isinstance(part, Mapping) or part.get("type") != "text" or not isinstance(part.get("text"), str):
        raise BadInput(f"{where}: {quoted(part, 60)} is not a text; images, sounds and calls of tools are not read")
    return str(part["text"])


def _cell(row: Mapping[str, Any], column: str) -> Any:
    if column not in row:
        raise unknown("column", column, row)
    return row[column]
