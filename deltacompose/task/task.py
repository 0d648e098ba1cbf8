"""The contract of a task: examples, a template, a verbalizer, a metric and a category; scoring and chance.

Every task is text to text, so that a delta is the whole of what was learned. A *choice* task ranks candidate answers
(the verbalizer's words, or an example's own candidates); a *generation* task produces a string.
"""

from __future__ import annotations

import hashlib
import json
import random
import string
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Literal

from deltacompose.errors import BadInput, quoted, unknown
from deltacompose.notebook import counted
from deltacompose.task.description import RANKINGS
from deltacompose.task.examples import SPLITS, Example, FewShot, Limited
from deltacompose.task.metrics import METRICS, Score, is_number, metric
from deltacompose.task.mixed_rows import Mixed, fingerprint_of, part_of

__all__ = ["SPLITS", "Example", "Kind", "Task", "check_no_overlap", "score"]

Kind = Literal["choice", "generation"]


@dataclass(frozen=True)
class Task:
    """A task. Its examples are read lazily, checked once, and kept.

    Attributes:
        read: gives the examples of "train", "val" or "test".
        template: how the input is put, with `{input}` and the names of columns in braces.
        verbalizer: label -> words to rank, in a fixed order, the positive one of two last; empty for generation.
            Where every example has its own candidates, its labels name their positions.
        verified: whether the rows that `read` gives have been checked against the description.
        note: what a reader of its scores must know.
        parts: the tasks that a mixture is made of (`deltacompose.task.mixture`); none of an ordinary task.
        ranking: the rule that ranks candidates by their log-likelihoods, one of `RANKINGS`; None is `sum`, unless a
            study says otherwise.
    """

    name: str
    category: str
    kind: Kind
    metric: str
    read: Callable[[str], tuple[Example, ...]]
    template: str = "{input}"
    verbalizer: Mapping[str, str] = field(default_factory=dict, hash=False)
    source: str = ""
    licence: str = ""
    verified: bool = False
    note: str = ""
    ranking: str | None = None
    parts: tuple[Task, ...] = ()

    def __repr__(self) -> str:
        labels = f" of {counted(len(self.labels), 'label')}" if self.labels else ""
        return f"<task {self.name!r}: {self.kind}{labels}, {self.metric}>"

    def __post_init__(self) -> None:
        for problem in _problems(self):
            raise BadInput(f"task {self.name!r}: {problem}")

    @property
    def labels(self) -> tuple[str, ...]:
        """The labels of a choice task in their fixed order; none for generation."""
        return tuple(self.verbalizer)

    @property
    def candidates(self) -> tuple[str, ...]:
        """The verbalizer's words, in the order of the labels."""
        return tuple(self.verbalizer.values())

    def options(self, example: Example) -> tuple[str, ...]:
        """The words to rank for one example, in the order of the (first) labels: its own candidates or the task's."""
        return example.candidates or self.candidates

    def text(self, example: Example) -> str:
        """The input as the backbone reads it: put into the template."""
        values = {"input": example.input, **example.columns}
        return "".join(before + self._value(values, name) for before, name, _, _ in self._pieces)

    def answer(self, example: Example) -> str:
        """The words that the backbone ought to produce or to rank first."""
        if self.kind == "generation":
            return example.target
        return self.options(example)[self.labels.index(example.target)]

    def without_template(self) -> Task:
        """The same task with its input bare."""
        if self.parts:
            return self._remixed([part.without_template() for part in self.parts])
        return replace(self, template="{input}")

    def ranked_by(self, rule: str) -> Task:
        """The same task whose candidates, those of its parts too, are ranked by another rule."""
        own = self._remixed([part.ranked_by(rule) for part in self.parts]) if self.parts else self
        return replace(own, ranking=rule)

    def examples(self, split: str) -> tuple[Example, ...]:
        """The examples of a split, in their fixed order.

        Raises:
            BadInput: an unknown or empty split, a duplicate id, a label outside the verbalizer.
        """
        if split not in SPLITS:
            raise unknown("split", split, SPLITS)
        if split not in self._read:
            self._read[split] = _checked(self, split, self.read(split))
        return self._read[split]

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 (hex) over kind, template, verbalizer, metric, a ranking but `sum`, and every example."""
        if self.parts and isinstance(self.read, Mixed):
            return fingerprint_of(self.read, [(part.name, part.fingerprint) for part in self.parts])
        digest = hashlib.sha256()
        ranking = [self.ranking] if self.ranking not in (None, "sum") else []
        digest.update(_canonical([self.kind, self.template, list(self.verbalizer.items()), self.metric, *ranking]))
        for split in SPLITS:
            digest.update(split.encode())
            for example in self.examples(split):
                columns = sorted(example.columns.items())
                row = [example.id, example.input, example.target, example.candidates, example.accepted, columns]
                digest.update(_canonical([*row, example.messages] if example.messages else row))
        return digest.hexdigest()

    def baselines(self, split: str) -> dict[str, float]:
        """Scores on a split of what uses nothing of the input, by name.

        Choice: every constant label, and a random candidate. Generation: the commonest answer of the training split,
        and a copy of the bare input. The best constant label is the majority class in accuracy, the all-positive
        classifier in F1.
        """
        return dict(_baselines(self, split))

    def chance(self, split: str) -> float:
        """The best of the baselines on a split, in the task's metric: what a score must exceed to mean anything."""
        if split not in self._chance:
            self._chance[split] = max(self.baselines(split).values())
        return self._chance[split]

    def few_shot(self, shots: int, seed: int) -> Task:
        """The task with `shots` training and as many development examples, drawn anew for every seed.

        Choice: per label; generation: in total. The test split stays whole. Each is drawn from its own split, so
        nothing overlaps; a development split with fewer of a label gives what it has. After Gao et al. 2021, arXiv
        2012.15723, who draw both from the training data.

        Raises:
            BadInput: a label has fewer training examples than `shots`.
        """
        if self.parts:
            return self._remixed([part.few_shot(shots, seed) for part in self.parts])
        return replace(self, read=FewShot(self.name, self.labels, self.examples, shots, seed))

    def limited(self, train: int | None = None, val: int | None = None, test: int | None = None, seed: int = 0) -> Task:
        """The task with at most so many rows per split, drawn by the seed, as even over labels as they allow."""
        if self.parts:
            return self._remixed([part.limited(train, val, test, seed) for part in self.parts])
        return replace(self, read=Limited(self.labels, self.examples, (train, val, test), seed))

    def _remixed(self, parts: Sequence[Task]) -> Task:
        """The same mixture of other versions of its parts: limits and shots are those of each part."""
        if not isinstance(self.read, Mixed):
            raise BadInput(f"task {self.name!r} has parts and does not read them as a mixture")
        return replace(self, parts=tuple(parts), read=self.read.of(tuple(parts)))

    def _value(self, values: Mapping[str, str], name: str | None) -> str:
        if name is not None and name not in values:
            raise BadInput(f"task {self.name!r}: no column {name!r} for its template; columns: {', '.join(values)}")
        return "" if name is None else values[name]

    @cached_property
    def _pieces(self) -> tuple[tuple[str, str | None, str | None, str | None], ...]:
        """The template as literal text and the name that follows it; what is put in is never read as a template."""
        return tuple(string.Formatter().parse(self.template))

    @cached_property
    def _read(self) -> dict[str, tuple[Example, ...]]:
        return {}

    @cached_property
    def _chance(self) -> dict[str, float]:
        return {}


def score(task: Task, examples: Sequence[Example], predictions: Sequence[str]) -> Score:
    """The score of predictions in the task's metric: labels for choice, texts for generation.

    >>> task = dc.tasks()["sentiment_movie"]
    >>> examples = task.examples("val")[:4]
    >>> score(task, examples, [example.target for example in examples]).value
    1.0

    Raises:
        BadInput: no examples, another number of predictions, or a predicted label that is none of the task's.
    """
    if task.parts:
        return _mean_over_parts(task, examples, predictions)
    if task.kind == "choice":
        for answer in set(predictions) - set(task.labels):
            raise unknown(f"{task.name} label", answer, task.labels)
    references = [(example.target, *example.accepted) for example in examples]
    return metric(task.metric).score(references, predictions, task.labels)


def scores_of_parts(task: Task, examples: Sequence[Example], predictions: Sequence[str]) -> dict[str, Score]:
    """The score of a mixture's predictions on each of its tasks, in that task's own metric."""
    scores: dict[str, Score] = {}
    for part in task.parts:
        own = [k for k, example in enumerate(examples) if part_of(example) == part.name]
        if own:
            told = [_own_answer(part, predictions[k]) for k in own]
            right = [(_own_answer(part, examples[k].target), *examples[k].accepted) for k in own]
            scores[part.name] = metric(part.metric).score(right, told, part.labels)
    return scores


def _own_answer(part: Task, answer: str) -> str:
    """A mixture's answer as one of its tasks says it: a label by its number, a text as it is."""
    return answer if part.kind == "generation" else part.labels[int(answer)]


def _mean_over_parts(task: Task, examples: Sequence[Example], predictions: Sequence[str]) -> Score:
    """The mean of the parts' scores; per example, its own score in such units that their mean is that mean."""
    scores = scores_of_parts(task, examples, predictions)
    if not scores:
        raise BadInput(f"the score of task {task.name!r} on no examples is not defined")
    each = {name: iter(score.per_example) for name, score in scores.items()}
    units = {name: len(examples) / (len(scores) * len(score.per_example)) for name, score in scores.items()}
    per_example = tuple(next(each[name]) * units[name] for name in map(part_of, examples))
    value = sum(score.value for score in scores.values()) / len(scores)
    return Score(value, task.metric, per_example, all(score.trivial for score in scores.values()))


def check_no_overlap(task: Task) -> None:
    """Splits share no id and no input.

    Raises:
        BadInput: they do; names the two splits and the example.
    """
    seen: dict[object, str] = {}
    for split in SPLITS:
        for example in task.examples(split):
            columns = tuple(sorted(example.columns.items()))
            for what in (("id", example.id), ("input", example.input, columns, example.candidates)):
                if seen.setdefault(what, split) != split:
                    shown = f"{what[0]} {str(what[1])[:60]!r}"
                    raise BadInput(f"task {task.name!r}: the {shown} stands in both {seen[what]!r} and {split!r}")


def _baselines(task: Task, split: str) -> Iterator[tuple[str, float]]:
    """Names and scores of what uses nothing of the input."""
    if task.parts:
        yield "mean over the parts", sum(part.chance(split) for part in task.parts) / len(task.parts)
        return
    examples = task.examples(split)
    if task.kind == "choice":
        for label in task.labels:
            yield f"always {label}", score(task, examples, [label] * len(examples)).value
        yield "random candidate", _random(task, examples)
        return
    commonest = Counter(example.target for example in task.examples("train")).most_common(1)[0][0]
    yield "commonest answer", score(task, examples, [commonest] * len(examples)).value
    yield "copy of the input", score(task, examples, [example.input for example in examples]).value


def _random(task: Task, examples: Sequence[Example]) -> float:
    """Expected score of random candidates: exact for accuracy, 0 for correlations, else the mean of 20 draws."""
    sizes = [len(task.options(example)) for example in examples]
    if task.metric == "accuracy":
        return sum(1 / size for size in sizes) / len(sizes)
    if metric(task.metric).range[0] < 0:
        return 0.0
    draws = [random.Random(seed) for seed in range(20)]
    return (
        sum(score(task, examples, [task.labels[draw.randrange(size)] for size in sizes]).value for draw in draws) / 20
    )


def _problems(task: Task) -> Iterator[str]:
    """Faults of a task's description, found without reading its examples."""
    if task.parts:  # each of which has been checked
        return
    compares = metric(task.metric).compares
    fitting = ("labels", "numbers") if task.kind == "choice" else ("texts", "numbers")
    if task.kind not in ("choice", "generation"):
        yield f"kind {task.kind!r} is neither 'choice' nor 'generation'"
    if compares not in fitting:
        able = ", ".join(name for name, each in METRICS.items() if each.compares in fitting)
        yield f"metric {task.metric!r} compares {compares}, which a {task.kind} task does not give; it can have {able}"
    if (task.kind == "choice") != (len(task.verbalizer) > 1):
        expected = "at least two labels" if task.kind == "choice" else "no labels"
        yield f"a {task.kind} task has {expected} in its verbalizer, not {len(task.verbalizer)}"
    if task.metric == "f1" and len(task.verbalizer) != 2:
        yield f"metric 'f1' needs two labels, the positive one last; labels: {', '.join(task.labels)}"
    if task.kind == "choice" and compares == "numbers" and not all(map(is_number, task.labels)):
        yield f"metric {task.metric!r} compares numbers, and the labels are: {', '.join(task.labels)}"
    if task.ranking is not None and task.ranking not in RANKINGS:
        yield str(unknown("ranking", task.ranking, RANKINGS))
    if len(set(task.candidates)) < len(task.candidates):
        yield f"two labels have the same words; words: {', '.join(task.candidates)}"
    yield from _template_problems(task.template)


def _template_problems(template: str) -> Iterator[str]:
    """Braces hold names only: an attribute, an index, a conversion or a format would reach beyond the text."""
    try:
        pieces = list(string.Formatter().parse(template))
    except ValueError as error:
        yield f"template {quoted(template)} cannot be read ({error}); write {{{{ for a brace"
        return
    for _, name, form, conversion in pieces:
        if name is not None and (not name or any(mark in name for mark in ".[]") or form or conversion):
            shown = quoted(template)
            yield f"template {shown} has braces that hold more or less than a name; write {{input}} or {{column}}"
    if not any(name for _, name, _, _ in pieces):
        yield f"template {quoted(template)} shows nothing of the input; it needs {{input}} or a column"


def _checked(task: Task, split: str, examples: tuple[Example, ...]) -> tuple[Example, ...]:
    """The examples, if they are what the task says."""
    if not examples:
        raise BadInput(f"task {task.name!r} has no examples in its {split!r} split")
    [(commonest, times)] = Counter(example.id for example in examples).most_common(1)
    if times > 1:
        raise BadInput(f"task {task.name!r}: {times} examples of {split!r} have the id {commonest!r}; ids must differ")
    for example in examples:
        allowed = task.labels[: len(example.candidates) or None]
        if task.kind == "choice" and example.target not in allowed:
            raise BadInput(
                f"task {task.name!r}: the label {quoted(example.target)} of example {quoted(example.id)} is outside "
                f"the verbalizer; labels: {', '.join(allowed)}"
            )
        if len(example.candidates) > len(task.labels):
            counts = f"{len(example.candidates)} candidates for {len(task.labels)} labels"
            raise BadInput(f"task {task.name!r}: example {quoted(example.id)} has {counts}")
    return examples


def _canonical(value: object) -> bytes:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode()
