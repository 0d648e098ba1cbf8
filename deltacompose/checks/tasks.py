"""Checks of a task: that its examples, its answers and its metric belong together, and that backbones can read it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import torch

from deltacompose.checks.other_process import Failed, worker
from deltacompose.checks.runner import Broken, Check, Unchecked
from deltacompose.checks.subject import shared
from deltacompose.composition import composition
from deltacompose.plugins import loader as plugins
from deltacompose.scoring import reader
from deltacompose.scoring.as_trained import Reading, as_trained
from deltacompose.study.recipe import Recipe
from deltacompose.task.metrics import metric
from deltacompose.task.task import SPLITS, Example, Task, check_no_overlap, score
from deltacompose.training.learner import Job
from deltacompose.training.loop import train

ROWS = 4
LIMIT = 64


@dataclass(eq=False)
class OfTask:
    """A task, and the pico models that read it."""

    task: Task
    backbones: Sequence[str]

    def __str__(self) -> str:
        return f"task {self.task.name!r}"

    def broken(self, sentence: str) -> Broken:
        """The error that says what is wrong with the task."""
        return Broken(f"{self}: {sentence}")

    @cached_property
    def small(self) -> Task:
        """A few rows of every split."""
        return self.task.limited(ROWS, ROWS, ROWS)


def described(subject: OfTask) -> None:
    """The task has a name and a category, which figures show; source, licence and note are optional."""
    for name in ("name", "category"):
        if not str(getattr(subject.task, name)).strip():
            raise subject.broken(f"it says no {name}")


def separate_splits(subject: OfTask) -> None:
    """Every split has examples, and no two splits share an id or an input."""
    for split in SPLITS:
        subject.task.examples(split)
    check_no_overlap(subject.task)


def repeatable_reading(subject: OfTask) -> None:
    """Read twice, a split has the same examples in the same order."""
    for split in SPLITS:
        if subject.task.read(split) != subject.task.examples(split):
            raise subject.broken(f"its {split!r} split is read twice with different examples or in another order")


def telling_texts(subject: OfTask) -> None:
    """Every example has a text and an answer, and the words that it ranks differ."""
    for split in SPLITS:
        for example in subject.task.examples(split):
            options = subject.task.options(example)
            if not subject.task.text(example).strip() or not subject.task.answer(example).strip():
                raise subject.broken(f"example {example.id!r} of {split!r} has an empty text or answer")
            if len(set(options)) < len(options):
                raise subject.broken(
                    f"example {example.id!r} of {split!r} ranks the same words twice: {', '.join(options)}"
                )


def true_scores(subject: OfTask) -> None:
    """Right answers score the metric's best, and what uses nothing of the input scores less."""
    low, high = metric(subject.task.metric).range
    for split in ("val", "test"):
        examples = subject.task.examples(split)
        right = score(subject.task, examples, [example.target for example in examples]).value
        if not math.isclose(right, high, abs_tol=1e-6):
            raise subject.broken(
                f"its own targets score {right:g} on {split!r}; the best of {subject.task.metric} is {high:g}"
            )
        chance = subject.task.chance(split)
        if not low <= chance < high:
            raise subject.broken(f"chance on {split!r} is {chance:g}; expected at least {low:g} and less than {high:g}")


def alike_elsewhere(subject: OfTask) -> None:
    """Sent to a worker it is the same task: its reader pickles, and reads the same there."""
    fingerprint = worker().ask(_fingerprint, replace(subject.task))  # anew, without what has been read already
    if isinstance(fingerprint, Failed) and fingerprint.late:
        raise Unchecked(f"{subject}: {fingerprint.reason}, so that it is not known whether the task reads alike there")
    if isinstance(fingerprint, Failed):
        reason = fingerprint.reason
        raise subject.broken(f"it cannot be used in another process: {reason}; read it by a module's function")
    if fingerprint != subject.task.fingerprint:
        raise subject.broken("in another process it has other examples, or the same in another order")


def readable(subject: OfTask) -> None:
    """Every backbone that can reads it: its inputs within the limit, a finite loss, a prediction for each example."""
    for family in subject.backbones:
        backbone = shared(family)
        if subject.task.kind == "generation" and backbone.kind == "encoder":
            continue
        read = reader(backbone, subject.small, LIMIT)
        lengths = [read.lengths(row) for row in read.rows("train")]
        batch = read.batch("train", range(len(lengths)), (max(n for n, _ in lengths), max(n for _, n in lengths)))
        with torch.no_grad():
            if not bool(torch.isfinite(read.loss(batch, 1)).all()):
                raise subject.broken(f"its loss on {family} is not finite")
        _predicted(subject, read.predict("val"), subject.small.examples("val"), family)


def read_as_trained(subject: OfTask) -> None:
    """A delta that was trained on it is evaluated on inputs of the same length and template, unless told otherwise."""
    for family in subject.backbones:
        backbone = shared(family)
        if subject.task.kind == "generation" and backbone.kind == "encoder":
            continue
        read = reader(backbone, subject.small, LIMIT)
        recipe = Recipe(steps=1, batch=2, evaluate_every=1, limit=LIMIT)
        method = plugins.load(disabled=True).methods["bitfit"]()
        result = train(backbone, [Job(composition(method), read, 0, recipe)])[0]
        if isinstance(result, Exception):
            raise result
        reading = Reading.of(result.record)
        again = reader(backbone, as_trained(subject.small, reading), reading.limit)
        if again.limit != LIMIT:
            raise subject.broken(
                f"trained on {family} with a limit of {LIMIT} tokens, a delta is evaluated with {again.limit}"
            )
        for trained_on, evaluated_on in zip(read.rows("val"), again.rows("val"), strict=True):
            if trained_on != evaluated_on:
                raise subject.broken(
                    f"on {family} an input is not the one that the delta was trained with; a task's text must follow "
                    "from its template and the example alone"
                )
        return


TEXTS = {
    "Latin": ("Der Bär saß über dem Café.", "Der Bär saß unter dem Café."),
    "Cyrillic": ("президент подписал закон", "президент отклонил закон"),
    "Greek": ("το βιβλίο είναι εδώ", "το ποτάμι είναι εδώ"),
    "Arabic": ("مرحبا بالعالم الجميل", "مرحبا بالبيت الجميل"),
    "Hebrew": ("הספר על השולחן", "העט על השולחן"),
    "Devanagari": ("किताब मेज़ पर है", "क़लम मेज़ पर है"),
    "Chinese": ("你好世界", "你好月亮"),
    "Thai": ("หนังสืออยู่บนโต๊ะ", "ปากกาอยู่บนโต๊ะ"),
}
"""In each of eight scripts an answer, and one with another word."""


def scored_in_every_script(subject: OfTask) -> None:
    """Its metric gives the best score to a right answer in every script, and less to one with a wrong word."""
    own = metric(subject.task.metric)
    for script, (right, wrong) in TEXTS.items():
        best = own.score([(right,)], [right]).value
        if not math.isclose(best, own.range[1], abs_tol=1e-6):
            raise subject.broken(f"in {script} a right answer scores {best:g} in {own.name}; expected {own.range[1]:g}")
        if (less := own.score([(right,)], [wrong]).value) >= best:
            raise subject.broken(
                f"in {script} an answer with a wrong word scores {less:g} in {own.name}, as a right one"
            )


def _compares_texts(subject: OfTask) -> bool:
    return metric(subject.task.metric).compares == "texts"


def _predicted(subject: OfTask, predictions: Sequence[str], examples: Sequence[Example], family: str) -> None:
    if len(predictions) != len(examples):
        raise subject.broken(f"on {family} it has {len(predictions)} predictions for {len(examples)} examples")


def _fingerprint(task: Task) -> str:
    return task.fingerprint


def _of(kind: str) -> Any:
    return lambda subject: subject.task.kind == kind


TASK_CHECKS = (
    Check(described),
    Check(separate_splits),
    Check(repeatable_reading),
    Check(telling_texts),
    Check(true_scores),
    Check(alike_elsewhere),
    Check(readable),
    Check(read_as_trained),
    Check(scored_in_every_script, when=_compares_texts),
)
