"""The card of a delta in a library: what it was trained on and how, and what it scores, as checked JSON."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Annotated, Any, ClassVar, Literal

from annotated_types import Ge, Len, Lt, MaxLen
from pydantic import ConfigDict, StringConstraints

from deltacompose.delta.delta import Delta
from deltacompose.delta.model_card import HubResult, model_card
from deltacompose.errors import BadInput, quoted
from deltacompose.figures.figure_files import slug
from deltacompose.limits import CARD_RESULTS, CARD_TEXT, EXPRESSION_CHARACTERS, NAME_CHARACTERS
from deltacompose.study.recipe import Count
from deltacompose.validation import checked, plain

FORMAT = 1
"""The version of cards and of the layout of a library."""

_NAME = re.compile(r"[a-z0-9][a-z0-9_.-]{0,199}")
_STRICT = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False)

Name = Annotated[str, Len(1, NAME_CHARACTERS)]
Text = Annotated[str, MaxLen(CARD_TEXT)]
Digest = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]


@dataclass(frozen=True)
class Result:
    """A score of a delta on a target.

    Attributes:
        target: the task that was evaluated.
        chance: the best score that does not use the input; None if unknown.
        untouched: what the backbone scores without a delta; None if unknown.
        shots: training examples per class of the target that were used; None is zero-shot, or the whole training data
            where the target is the delta's own task.
        started: whether training on the target began with this delta (initialisation transfer). A row with `shots`
            that did not is of a fresh delta of the same composition.
        seed: of that training; None where the target was not trained on.
        trivial: whether the score is that of a constant answer.
    """

    __pydantic_config__: ClassVar[ConfigDict] = _STRICT

    target: Name
    split: Literal["val", "test"]
    metric: Name
    score: float
    chance: float | None = None
    untouched: float | None = None
    shots: Count | None = None
    started: bool = False
    seed: Annotated[int, Ge(0), Lt(2**63)] | None = None
    trivial: bool = False

    @property
    def key(self) -> tuple[object, ...]:
        """Fields that two scores of one measurement share."""
        return self.target, self.split, self.shots, self.started, self.seed


@dataclass(frozen=True)
class Card:
    """Description of one delta of a library.

    Attributes:
        task: what it was trained on.
        composition: its expression as text.
        sha256: of its tensors' file.
        fingerprint: of its backbone's weights.
        recipe: the training settings of its last stage.
        data: fingerprint of the examples that it was trained on; "" if unknown.
        licence: of those examples.
        parts: the tasks of which a mixture or a cluster is made; empty for a single task.
    """

    __pydantic_config__: ClassVar[ConfigDict] = _STRICT

    task: Name
    composition: Annotated[str, Len(1, EXPRESSION_CHARACTERS)]
    sha256: Digest
    fingerprint: Text
    category: Text = ""
    seed: Annotated[int, Ge(0), Lt(2**63)] | None = None
    recipe: Mapping[str, Any] = field(default_factory=dict)
    metric: Text = ""
    dev: float | None = None
    kind: Literal["", "choice", "generation"] = ""
    data: Text = ""
    licence: Text = ""
    source: Text = ""
    parts: Annotated[tuple[Name, ...], MaxLen(CARD_RESULTS)] = ()
    results: Annotated[tuple[Result, ...], MaxLen(CARD_RESULTS)] = ()
    format: int = FORMAT

    @property
    def name(self) -> str:
        """The name of the delta in a library: of task, composition, seed and content, safe as a file name."""
        seed = "" if self.seed is None else f".{self.seed}"
        return f"{slug(self.task)}.{slug(self.composition)}{seed}.{self.sha256[:8]}"

    def described(self) -> dict[str, Any]:
        """The card as plain data."""
        return plain(self)

    def joined(self, other: Card) -> Card:
        """This card with the results of both; of one measurement that of the other card."""
        results = {result.key: result for result in (*self.results, *other.results)}
        return replace(other, results=tuple(results.values()))

    def readme(self, described: Mapping[str, Any]) -> str:
        """The card as the Hugging Face hub shows it; `described` is what `delta.json` holds."""
        rows = [HubResult(r.target, r.split, r.metric, r.score) for r in self.results if r.shots is None]
        tags = (f"task:{self.task}", f"category:{self.category}" if self.category else "")
        return model_card(described, rows, tags, self.licence)


def card_of(delta: Delta, sha256: str, **known: Any) -> Card:
    """The card of a delta, from its record and what else is known of it.

    Raises:
        BadInput: the delta does not say on which task it was trained, or on which backbone.
    """
    task = known.pop("task", None) or delta.record.get("task")
    if not isinstance(task, str) or not task:
        raise BadInput(
            f"a delta of {delta.expression} that names no task cannot be put into a library; give the task's name"
        )
    if "fingerprint" not in delta.backbone:
        raise BadInput(f"a delta of {delta.expression} that names no backbone cannot be put into a library")
    record = delta.record
    facts: dict[str, Any] = {
        "task": task,
        "composition": str(delta.expression),
        "sha256": sha256,
        "fingerprint": delta.backbone["fingerprint"],
        "seed": record.get("seed"),
        "recipe": dict(record.get("recipe") or {}),
        "metric": record.get("metric") or "",
        "dev": record.get("dev"),
    }
    described = json.loads(json.dumps(facts | known, default=_as_plain))
    return checked(Card, described, f"the card of {task!r}")


def read_card(data: Mapping[str, Any], where: str) -> Card:
    """A card from plain data.

    Args:
        where: the file, for the error.

    Raises:
        BadInput: a newer format, an unknown field, a value of a wrong type or out of its range.
    """
    check_format(data.get("format"), where)
    return checked(Card, data, where)


def check_format(version: object, where: str) -> None:
    """Refuses a format that this version does not read.

    Raises:
        BadInput: says which one it reads.
    """
    if type(version) is not int or version != FORMAT:
        newer = " (a later version of deltacompose wrote it)" if type(version) is int and version > FORMAT else ""
        raise BadInput(f"{where} has format {quoted(version)}; this version reads format {FORMAT}{newer}")


def check_name(name: str) -> str:
    """A name that may become part of a path.

    Raises:
        BadInput: it is something else than letters, digits, `_`, `-` and single dots.
    """
    if not _NAME.fullmatch(name) or ".." in name:
        raise BadInput(
            f"{quoted(name)} is not a valid name of a delta in a library (expected lower-case letters, digits, "
            "'_', '-' and single dots)"
        )
    return name


def content_digest(cards: Iterable[Card]) -> str:
    """SHA-256 over the expressions and tensors of some cards, in any order."""
    content = sorted([card.task, card.composition, card.sha256] for card in cards)
    return hashlib.sha256(json.dumps(content, separators=(",", ":")).encode()).hexdigest()


def _as_plain(value: object) -> Any:
    """A record that is not plain data yet, as a `Result`."""
    return plain(value)
