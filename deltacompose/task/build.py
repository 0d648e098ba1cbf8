"""From the description of a task to its examples: columns become inputs, labels and candidates; splits are carved."""

from __future__ import annotations

import contextlib
import hashlib
import json
import string
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from deltacompose.errors import BadInput, quoted, unknown
from deltacompose.task.description import LETTERS, Columns, TaskRow, row_from_mapping
from deltacompose.task.examples import SPLITS, Example
from deltacompose.task.instructions import answer, question
from deltacompose.task.metrics import METRICS
from deltacompose.task.sources import column, is_file, own_splits, read_rows, state_of, text
from deltacompose.task.task import Kind, Task

_LISTED, _LONGEST = 8, 20
"""At most so many labels, of so many characters, are quoted where a verbalizer is missing."""

_CARVED = {"val": (10, 1000), "test": (5, 2000)}
"""A split that a data set lacks is one part in so many of its training rows, and at most so many rows."""


def task_from_mapping(name: str, mapping: Mapping[str, Any], folder: Path | str = ".") -> Task:
    """The task that a mapping describes, as it was read from YAML; its data are read when they are needed.

    Args:
        folder: what a relative path is relative to: the folder of the study file.

    Raises:
        BadInput: an unknown, missing or wrong entry, named with what was expected there.
    """
    return task_from_row(name, row_from_mapping(name, mapping), folder)


def task_from_row(name: str, row: TaskRow, folder: Path | str = ".") -> Task:
    """The task of a description.

    Raises:
        BadInput: entries that do not fit each other.
    """
    for problem in _misfits(row):
        raise BadInput(f"task {name!r}: {problem}")
    if not row.words and row.metric in METRICS and METRICS[row.metric].compares == "labels":
        raise BadInput(f"task {name!r}: {_without_labels(row, Path(folder))}")
    kind: Kind = "choice" if row.words else "generation"
    return Task(
        name=name,
        category=row.category,
        kind=kind,
        metric=row.metric,
        read=Rows(row, str(folder)),
        template=row.shown,
        verbalizer=row.words,
        source=row.source or _said(row),
        licence=row.licence,
        verified=row.verified,
        note=row.note,
        ranking=row.ranking,
    )


@dataclass(frozen=True)
class Rows:
    """Reads the examples of a described task.

    No input stands in two splits: what the test split has is left out of the others, and what the development split
    has is left out of the training split. Training examples of one input share their answers as accepted ones.
    """

    row: TaskRow
    folder: str

    def __call__(self, split: str) -> tuple[Example, ...]:
        later: set[object] = set()
        for other in SPLITS[SPLITS.index(split) + 1 :]:
            later |= {_content(example) for example in self._raw(other)}
        kept = tuple(example for example in self._raw(split) if _content(example) not in later)
        return kept if self.row.words else _sharing_answers(kept)

    def left_out(self, split: str) -> int:
        """How many rows of a split were left out because a later split has their input."""
        return len(self._raw(split)) - len(self(split))

    def state(self) -> str:
        """A digest of the files that the rows are read from; of a data set of the hub of its address alone."""
        return state_of(self.row.path, self.row.data, Path(self.folder))

    def _raw(self, split: str) -> tuple[Example, ...]:
        """The examples of a split as the data set or the carving gives them."""
        if split not in self._kept:
            carved = self._lacking and split in (*self._lacking, "train")
            self._kept.update(self._carved() if carved else {split: self._read(split)})
        return self._kept[split]

    @property
    def _lacking(self) -> list[str]:
        return [split for split in ("test", "val") if split not in own_splits(self.row.path, self.row.data)]

    def _carved(self) -> dict[str, tuple[Example, ...]]:
        """The training rows cut into the splits that are lacking and the rest; rows of one input stay together."""
        whole = self._read("train")
        groups: dict[tuple[str, ...], list[Example]] = {}
        for example in whole:
            groups.setdefault(_content(example), []).append(example)
        order = iter(sorted(groups, key=_digest))
        shares: dict[str, tuple[Example, ...]] = {}
        taken: set[str] = set()
        for split in self._lacking:
            part, most = _CARVED[split]
            share: set[str] = set()
            while len(share) < max(1, min(most, len(whole) // part)) and (content := next(order, None)):
                share |= {example.id for example in groups[content]}
            shares[split] = tuple(example for example in whole if example.id in share)
            taken |= share
        return shares | {"train": tuple(example for example in whole if example.id not in taken)}

    def _read(self, split: str) -> tuple[Example, ...]:
        """The examples of one of the data set's own splits; an id is the split's name and the row's number."""
        rows = read_rows(self.row.path, self.row.data, split, Path(self.folder))
        try:
            return tuple(_example(self.row, row, f"{split}-{number}") for number, row in enumerate(rows))
        except BadInput as error:
            raise BadInput(f"{self.row.path!r}: {error}") from None

    @cached_property
    def _kept(self) -> dict[str, tuple[Example, ...]]:
        return {}


def _example(task: TaskRow, row: Mapping[str, Any], name: str) -> Example:
    if task.format is not None:
        return _instruction(task, task.format, row, name)
    example = _by_columns(task, row, name)
    if task.choices == "text":
        return example
    letters = LETTERS[: len(example.candidates)]
    listed = "\n".join(f"{letter}. {shown}" for letter, shown in zip(letters, example.candidates, strict=True))
    return replace(example, candidates=letters, columns={**example.columns, "choices": listed})


def _instruction(task: TaskRow, form: str, row: Mapping[str, Any], name: str) -> Example:
    """The example of a row of instruction data."""
    joined, turns = question(form, row, task.columns.inputs[0])
    target, *further = _targets(task, row, answer(form, row, task.columns.target or ""))
    return Example(name, joined, target, accepted=tuple(further), messages=turns)


def _by_columns(task: TaskRow, row: Mapping[str, Any], name: str) -> Example:
    inputs = {_short(name): text(column(row, name)).strip() for name in task.columns.inputs}
    joined = " ".join(filter(None, inputs.values()))
    candidates = _candidates(task.columns, row)
    if task.columns.target is None:
        order = tuple(sorted(candidates, key=lambda candidate: _digest((joined, candidate))))
        return Example(name, joined, LETTERS[order.index(candidates[0])], order, columns=inputs)
    raw = column(row, task.columns.target)
    if task.options and task.values is None and task.columns.positions is None:
        raw = _letter(text(raw).strip(), candidates)
    target, *further = _targets(task, row, raw)
    accepted = tuple(dict.fromkeys(answer for answer in further if answer != target))
    return Example(name, joined, target, candidates, accepted, inputs)


def _letter(raw: str, candidates: Sequence[str]) -> str:
    """The letter of the candidate that a target names by its letter or by its text."""
    if raw not in LETTERS[: len(candidates)] and list(candidates).count(raw) == 1:
        return LETTERS[list(candidates).index(raw)]
    return raw


def _candidates(columns: Columns, row: Mapping[str, Any]) -> tuple[str, ...]:
    match columns.candidates:
        case None:
            return ()
        case str(name):
            listed = column(row, name)
            if not isinstance(listed, Sequence) or isinstance(listed, str):
                raise BadInput(f"column {name!r} lists no candidates but holds {text(listed)[:40]!r}")
            return tuple(text(candidate).strip() for candidate in listed)
        case names:
            return tuple(text(column(row, name)).strip() for name in names)


def _targets(task: TaskRow, row: Mapping[str, Any], raw: Any) -> list[str]:
    """The label (choice), or the text and the further accepted ones (generation)."""
    if not task.words:
        listed = raw if isinstance(raw, (list, tuple)) and raw else [raw]
        return [_rounded(task.columns, target) for target in listed]
    if task.columns.positions:
        names = list(map(text, column(row, task.columns.positions)))
        return [_labelled(dict(zip(names, LETTERS, strict=False)), text(raw), task)]
    if isinstance(task.values, tuple):
        return [_labelled({str(number): label for number, label in enumerate(task.values)}, text(raw), task)]
    target = _rounded(task.columns, raw)
    return [target if task.values is None else _labelled(task.values, target, task)]


def _labelled(values: Mapping[str, str], raw: str, task: TaskRow) -> str:
    if raw in values:
        return values[raw]
    raise BadInput(
        f"the label {quoted(raw)} in column {task.columns.target!r} is outside the verbalizer; "
        f"labels: {', '.join(values)} (`data.drop` leaves out rows without a label)"
    )


def _rounded(columns: Columns, raw: Any) -> str:
    if columns.decimals is None:
        return text(raw).strip()
    try:
        return f"{float(raw):.{columns.decimals}f}"
    except (TypeError, ValueError):
        raise BadInput(
            f"{quoted(text(raw), 40)} in column {columns.target!r} is not a number and cannot be rounded"
        ) from None


def _sharing_answers(examples: tuple[Example, ...]) -> tuple[Example, ...]:
    """Examples of one input accept each other's targets."""
    answers: dict[str, dict[str, None]] = {}
    for example in examples:
        answers.setdefault(example.input, {}).update(dict.fromkeys((example.target, *example.accepted)))
    return tuple(
        example
        if len(answers[example.input]) == 1
        else replace(example, accepted=tuple(answer for answer in answers[example.input] if answer != example.target))
        for example in examples
    )


def _content(example: Example) -> tuple[str, ...]:
    """The fields that make two examples the same question."""
    lettered = example.candidates and example.candidates == LETTERS[: len(example.candidates)]
    shown = (example.columns["choices"],) if lettered and "choices" in example.columns else ()
    return (example.input, *example.candidates, *shown)


def _digest(parts: Sequence[str]) -> bytes:
    return hashlib.sha256(json.dumps(parts).encode()).digest()


def _misfits(row: TaskRow) -> Iterator[str]:
    """Entries that are right by themselves and do not fit each other."""
    if row.verbalizer and (row.options or row.columns.candidates):
        yield "a verbalizer has the same words for every example; where each has its own candidates, give `options`"
    if bool(row.options) != bool(row.columns.candidates):
        yield "`columns.candidates` and the greatest number of them, `options`, go together"
    if row.choices == "letter" and not row.options:
        yield "`choices: letter` is for candidates of each example; give `columns.candidates` and `options`"
    if row.format and (row.options or len(row.columns.inputs) > 1 or row.columns.target is None):
        yield f"`format: {row.format}` reads one column of inputs and one of answers; leave out `options`"
    if row.columns.target is None and not row.columns.candidates:
        yield "`columns.target` is missing"
    values = row.values if isinstance(row.values, tuple) else (row.values or {}).values()
    for label in values if row.words else ():
        if label not in row.words:
            yield str(unknown("label", label, row.words))
    if row.ranking and not row.words:
        yield f"`ranking: {row.ranking}` is for candidates, and this task has none; give a `verbalizer` or `options`"
    names = ["input"] if row.format else ["input", *map(_short, row.columns.inputs)]
    names += ["choices"] if row.choices == "letter" else []
    for name in _names(row.template):
        if name and not set(name) & set(".[]") and name not in names:
            yield f"template {quoted(row.template)}: {unknown('column', name, names)}"


def _without_labels(row: TaskRow, folder: Path) -> str:
    """Why a metric of labels needs a verbalizer, with the labels of the training data where these are few."""
    able = ", ".join(name for name, each in METRICS.items() if each.compares in ("texts", "numbers"))
    labels: list[str] = []
    if row.columns.target is not None and isinstance(row.path, str) and is_file(row.path):
        with contextlib.suppress(BadInput):
            rows = read_rows(row.path, row.data, "train", folder)
            labels = sorted({text(column(each, row.columns.target)).strip() for each in rows})
    few = 1 < len(labels) <= _LISTED and all(label and len(label) <= _LONGEST for label in labels)
    shown = ", ".join(f"{label}: {label}" for label in labels) if few else "no: no, yes: yes"
    return (
        f"metric {row.metric!r} compares labels, and without a verbalizer the task has none and answers in free text; "
        f"add `verbalizer: {{{shown}}}` (label: the words that are ranked for it), or choose a metric of texts: {able}"
    )


def _names(template: str) -> Iterator[str | None]:
    """The names in the braces of a template; none of one that cannot be read, which `Task` refuses."""
    with contextlib.suppress(ValueError):
        yield from (name for _, name, _, _ in string.Formatter().parse(template))


def _short(name: str) -> str:
    return name.rpartition(".")[2]


def _said(row: TaskRow) -> str:
    """Where the data come from, in a few words."""
    config = f", {row.data.config}" if row.data.config else ""
    return (row.path if isinstance(row.path, str) else ", ".join(row.path.values())) + config
