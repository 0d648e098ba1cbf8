"""How a delta was read in training: what it is evaluated with, unless the user asks for something else.

A delta knows no more than what it was shown. Inputs that are cut at another length, or that stand in another template,
are other inputs: the score is then of the reading as much as of the delta.
"""

from __future__ import annotations

import string
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

from deltacompose.backbone.backbone import Backbone
from deltacompose.errors import BadInput
from deltacompose.scoring.rows import Reader
from deltacompose.study.recipe import Recipe
from deltacompose.task.task import Task

BARE = "{input}"
"""The template of a task that is read without one."""


@dataclass(frozen=True)
class Reading:
    """How the examples of a task were read.

    Attributes:
        task: the name of the task; "" where it is unknown.
        limit: the longest input in tokens.
        template: the task's template; None where it is unknown, as of deltas of earlier versions.
        head: `mlm` where candidates were ranked by a masked-language head, else None.
        chat: `{"system": ...}` where inputs were read through the backbone's chat template, else None.
    """

    task: str = ""
    limit: int = Recipe().limit
    template: str | None = None
    head: str | None = None
    chat: Mapping[str, Any] | None = None

    @property
    def options(self) -> dict[str, Any]:
        """The options of `load_backbone` by which a backbone reads as in training."""
        chat = {} if self.chat is None else {"chat": True, "system": self.chat.get("system")}
        return {"head": self.head, **chat}

    @classmethod
    def of(cls, record: Mapping[str, Any]) -> Reading:
        """The reading that a delta's record tells; the default one where it tells none."""
        reading = record.get("reading", {})
        told = {name: reading[name] for name in ("template", "head", "chat") if name in reading}
        recipe = record.get("recipe") or {}
        limit = reading.get("limit", recipe.get("limit", cls.limit))
        task = record.get("task")
        return cls(task if isinstance(task, str) else "", int(limit), **told)


def described(reader: Reader) -> dict[str, Any]:
    """How a task is read, for the record of a delta."""
    chat = reader.backbone.chat
    conversation = {} if chat is None else {"chat": {"system": chat.system}}
    reading = {"limit": reader.limit, "template": reader.task.template, "head": head_of(reader.backbone)}
    return reading | conversation


def head_of(backbone: Backbone) -> str | None:
    """`mlm` for an encoder with its masked-language head."""
    headed = backbone.kind == "encoder" and any(place.kind == "head" for place in backbone.places())
    return "mlm" if headed else None


def as_trained(task: Task, reading: Reading, trained: Task | None = None) -> Task:
    """A task in the template that a delta was trained with.

    The delta's own task is put into the template of its training. Another task keeps its own template, unless the delta
    was trained without the template that its task has: then this one is read without a template too.

    Args:
        trained: the task that the delta was trained on, as it is installed; None where it is not.
    """
    if reading.template is None:
        return task
    if task.name == reading.task:
        return replace(task, template=reading.template)
    without = reading.template == BARE and trained is not None and trained.template != BARE
    return task.without_template() if without else task


def mismatches(reader: Reader, reading: Reading) -> Iterator[str]:
    """Differences between how a task is read now and in the delta's training, a sentence each."""
    if reader.limit != reading.limit:
        yield (
            f"inputs are truncated to {reader.limit} tokens, and the delta was trained with a limit of {reading.limit}"
        )
    if reading.template is not None and reader.task.name == reading.task and reader.task.template != reading.template:
        yield (
            f"task {reader.task.name!r} is read in the template {reader.task.template[:80]!r}, and the delta was "
            f"trained with {reading.template[:80]!r}"
        )
    own, chat = reader.backbone.chat, reading.chat
    if (own is None) != (chat is None):
        yield (
            f"inputs are read {'without' if own is None else 'through'} the chat template, and the delta was trained "
            f"{'through' if own is None else 'without'} it"
        )
    elif own is not None and chat is not None and own.system != chat.get("system"):
        yield "the system prompt is another one than the delta was trained with"


def templated(text: str, template: str) -> str:
    """An input in a template.

    Raises:
        BadInput: the template asks for columns, which a text alone does not have.
    """
    names = {name for _, name, _, _ in string.Formatter().parse(template) if name}
    if others := sorted(names - {"input"}):
        raise BadInput(
            f"cannot put a text into the template {template[:80]!r} because it has no {', '.join(others)}; write the "
            f"whole input and give --template {BARE!r}"
        )
    return template.replace("{{", "\0").replace("}}", "\1").replace(BARE, text).replace("\0", "{").replace("\1", "}")
