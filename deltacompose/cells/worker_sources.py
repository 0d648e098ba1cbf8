"""Where a study's backbone and tasks come from: plain data on the way to a worker, frozen records within a process.

The records are compared and hashed by content, so what was loaded from them can be looked up by them.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Self

from deltacompose.study.config import SHARDED, BackboneChoice, Study


@dataclass(frozen=True)
class PlainData:
    """Texts, numbers, lists and mappings, compared by their JSON text with entries in the order given.

    The order of a table of places matters: it is the forward order, in which weights are drawn.
    """

    value: Any = field(compare=False)
    digest: str

    @classmethod
    def of(cls, value: Any) -> Self:
        """The data with the SHA-256 (hex) of their JSON text."""
        return cls(value, hashlib.sha256(json.dumps(value).encode()).hexdigest())


@dataclass(frozen=True)
class BackboneSource:
    """Which backbone a study uses, and how it is loaded; see `BackboneChoice` for the fields."""

    model: str
    dtype: str
    head: str | None
    table: PlainData
    attention: str | None
    device: str | None = None
    chat: bool = False
    system: str | None = None

    @classmethod
    def of(cls, choice: BackboneChoice) -> Self:
        """The source of a study's choice."""
        table = PlainData.of(choice.table)
        named = (choice.model, choice.dtype, choice.head, table, choice.attention, choice.device)
        return cls(*named, choice.chat, choice.system)

    @classmethod
    def read(cls, plain: Mapping[str, Any]) -> Self:
        """The inverse of `plain`."""
        return cls(**{**plain, "table": PlainData.of(plain["table"])})

    def plain(self) -> dict[str, Any]:
        """The source as JSON holds it."""
        return {**vars(self), "table": self.table.value}

    def options(self) -> dict[str, Any]:
        """The options of `load_backbone`, without those that the study leaves open."""
        left_open = {"model"} | ({"device"} if self.device is None else set())
        left_open |= set() if self.chat else {"chat", "system"}
        return {name: value for name, value in self.plain().items() if name not in left_open}

    @property
    def sharded(self) -> bool:
        """Whether the layers are dealt out over the processes."""
        return self.device == SHARDED


@dataclass(frozen=True)
class OwnTasks:
    """The descriptions of a study's own tasks, with the study's folder, to which their paths are relative."""

    folder: str
    described: PlainData

    @classmethod
    def read(cls, plain: Mapping[str, Any]) -> Self:
        """The inverse of `plain`."""
        return cls(plain["folder"], PlainData.of(plain["described"]))

    def plain(self) -> dict[str, Any]:
        """The descriptions as JSON holds them."""
        return {"folder": self.folder, "described": self.described.value}


@dataclass(frozen=True)
class Sources:
    """All that workers need in addition to the cells.

    Attributes:
        processes: the number of processes that carry out a cell together.
    """

    backbone: BackboneSource
    own_tasks: OwnTasks
    processes: int = 1

    @classmethod
    def of(cls, study: Study) -> Self:
        """Where the backbone and the tasks of a study come from."""
        own = OwnTasks(study.folder, PlainData.of(study.own_tasks))
        return cls(BackboneSource.of(study.backbone), own, study.processes)

    @classmethod
    def read(cls, options: Mapping[str, Any]) -> Self:
        """The sources among the options of a run, as `plain` writes them."""
        own = OwnTasks.read(options["tasks"])
        return cls(BackboneSource.read(options["backbone"]), own, int(options.get("processes", 1)))

    def plain(self) -> dict[str, Any]:
        """The sources as options of a run, which JSON can hold."""
        several = {"processes": self.processes} if self.processes > 1 else {}
        return {"backbone": self.backbone.plain(), "tasks": self.own_tasks.plain(), **several}


def options_of(study: Study) -> dict[str, Any]:
    """The options of a run that say where workers find the study's backbone and tasks."""
    return Sources.of(study).plain()
