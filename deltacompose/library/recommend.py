"""Which delta of a library to start from on a new task with few labelled examples, compared with starting from none."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from deltacompose import registry
from deltacompose.analysis.arrays import Floats
from deltacompose.analysis.recommendation.evidence import TRIED, Evidence, Table, mean_known
from deltacompose.analysis.recommendation.model import COVERAGE, LEVEL, Model, fit, ties
from deltacompose.backbone.backbone import Backbone
from deltacompose.errors import BadInput
from deltacompose.formats.urls import Place
from deltacompose.library.library import Library
from deltacompose.library.library_evidence import Gathered, check_new, gather
from deltacompose.library.new_task import NewTask, few_examples, measured, task_given
from deltacompose.scoring import reader
from deltacompose.scoring.as_trained import Reading
from deltacompose.task.task import Task

_Z = 1.6448536269514722
"""The 95 % quantile of the normal distribution: two-sided intervals of 90 %, as `COVERAGE` says."""


@dataclass(frozen=True)
class Estimate:
    """A predicted score with its interval of `COVERAGE`."""

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class Source:
    """Prediction for one source.

    Attributes:
        name: of the delta in the library.
        zero_shot: its score on the task without any training.
        few_shot: the score after training on a few examples from it; None where the library knows of no such training.
        tried: its score on the few examples.
        tied: whether it is not told apart from the source with the highest prediction.
    """

    name: str
    task: str
    zero_shot: Estimate
    few_shot: Estimate | None
    tried: float
    tied: bool


@dataclass(frozen=True)
class Recommendation:
    """Sources for a task, the best prediction first, with no source and chance as baselines.

    Attributes:
        untouched: the score of the backbone without a delta, estimated from the few examples.
        fresh: the score of a fresh delta after training on the few examples; None where the library knows none.
        chance: the best score that does not use the input, on the few examples.
        told_apart: whether the sources can be distinguished.
        verdict: that in a sentence.
        skill: Spearman's ρ of predicted and true scores on tasks left out, and its p.
        coefficients: of the model, by predictor.
    """

    task: str
    composition: str
    examples: int
    sources: tuple[Source, ...]
    untouched: Estimate
    fresh: Estimate | None
    chance: float
    told_apart: bool
    verdict: str
    skill: float
    p: float
    coefficients: Mapping[str, float]
    shots: int | None = None
    notes: tuple[str, ...] = ()

    def described(self) -> dict[str, Any]:
        """The recommendation as plain data."""
        from deltacompose.validation import plain

        return plain(self) | {"interval": COVERAGE}


def recommend(
    library: Library | Place,
    task: Task | str | Path,
    shots: int = 32,
    *,
    composition: str | None = None,
    backbone: Backbone | None = None,
    seed: int = 0,
    steps: int = 60,
    leave_out: bool = False,
) -> Recommendation:
    """Predicts for each source of a library what it gives on a new task.

    Reads the scores of all sources on the few examples, the measures of similarity that the library has the arrays of,
    for which a fresh delta is trained on the examples, and each source's popularity. A small model, fitted on the
    library's own tasks and judged on each of them left out, combines them. `docs/tutorials/new_task.md` is an example
    with a library; one of two tasks is too small:

    >>> from deltacompose.library.from_store import make
    >>> from deltacompose.store.store import open_store
    >>> len(make(open_store(store), dc.records(store), folder / "library").names)
    2
    >>> dc.recommend(folder / "library", "sentiment_tweet", shots=8)  # doctest: +ELLIPSIS
    Traceback (most recent call last):
        ...
    deltacompose.errors.BadInput: recommending needs at least 4 tasks ...

    Args:
        task: a task, the name of an installed one, or a YAML file with the description of one.
        shots: how many labelled training examples of the task are used, in total.
        composition: of the deltas, where the library has several.
        backbone: the library's; loaded by its name if None.
        seed: by which the examples are drawn; and of the fresh delta.
        steps: of the fresh delta's training.
        leave_out: whether a task that the library has deltas of is treated as new, all of its deltas left out.

    Raises:
        BadInput: the task is in the library already; fewer shots than classes, or examples; fewer than four tasks in
            the library; or another backbone.
    """
    library = library if isinstance(library, Library) else Library(library)
    chosen = task_given(task)
    if not leave_out:
        check_new(library, chosen.name)
    few = few_examples(chosen, shots, seed)
    gathered = gather(library, composition, shots)
    first = gathered.zero_shot.seeds[0]
    evidence = _without(gathered.zero_shot, chosen.name)
    names = {source: gathered.names[source, first] for source in evidence.sources if (source, first) in gathered.names}
    evidence = _only(evidence, tuple(names))
    deltas = {source: library.delta(name) for source, name in names.items()}
    any_delta = next(iter(deltas.values()))
    model_of = backbone or registry.load_backbone(library.backbone["name"], head=Reading.of(any_delta.record).head)
    library.check_backbone(model_of.fingerprint, model_of.name)
    read = reader(model_of, few, Reading.of(any_delta.record).limit)
    new = measured(library, gathered, read, deltas, names, (seed, steps))
    table = _mean_table(evidence)
    model = fit(table, seed=seed)
    x = _predictors(table, new, chosen.name)
    zero = _estimates(model, model.predict(x), new)
    started, after = _started(gathered, evidence, chosen.name, seed)
    few_shot = None if after is None or started is None else _estimates(after, after.predict(x), new)
    tied = ties(model, model.predict(x))
    sources = [
        Source(names[s], s, zero[k], few_shot[k] if few_shot else None, float(new.tried[k]), tied[k])
        for k, s in enumerate(evidence.sources)
    ]
    return Recommendation(
        task=chosen.name,
        composition=gathered.composition,
        examples=len(few.examples("train")),
        sources=tuple(sorted(sources, key=lambda source: -source.zero_shot.value)),
        untouched=_of_examples(new.untouched),
        fresh=_fresh(gathered, chosen.name, new),
        chance=new.chance,
        told_apart=not all(tied),
        verdict=_verdict(model, tied),
        skill=model.skill,
        p=model.p,
        coefficients=dict(zip(model.predictors, model.coefficients.tolist(), strict=True)),
        shots=gathered.shots,
        notes=gathered.notes,
    )


def _without(evidence: Evidence, task: str) -> Evidence:
    """The evidence of a library that has no delta of a task and no scores on it."""
    targets = tuple(name for name in evidence.targets if name != task)
    t = [evidence.targets.index(name) for name in targets]
    cut = replace(
        evidence,
        targets=targets,
        scores=evidence.scores[:, :, t],
        untouched=evidence.untouched[:, t],
        chance=evidence.chance[t],
        measures={name: values[:, :, t] for name, values in evidence.measures.items()},
        tried=None if evidence.tried is None else evidence.tried[:, :, t],
        tried_untouched=None if evidence.tried_untouched is None else evidence.tried_untouched[:, t],
    )
    return _only(cut, tuple(s for s in evidence.sources if task not in (s, *evidence.parts.get(s, ()))))


def _only(evidence: Evidence, sources: Sequence[str]) -> Evidence:
    s = [evidence.sources.index(name) for name in sources]
    return replace(
        evidence,
        sources=tuple(sources),
        scores=evidence.scores[:, s],
        measures={name: values[:, s] for name, values in evidence.measures.items()},
        tried=None if evidence.tried is None else evidence.tried[:, s],
    )


def _mean_table(evidence: Evidence) -> Table:
    """The evidence averaged over seeds; scores on few examples, which a new task has once, of the first seed alone."""
    tables = [evidence.table(k) for k in range(len(evidence.seeds))]
    gains = mean_known(np.stack([table.gains for table in tables]), axis=0)
    measures = {
        name: mean_known(np.stack([table.measures[name] for table in tables]), axis=0) for name in evidence.measures
    }
    return replace(tables[0], gains=gains, measures=measures)


def _predictors(table: Table, new: NewTask, task: str) -> Floats:
    """(sources, predictors) of the new task."""
    columns = {name: new.measures[name] for name in table.measures}
    columns["popularity"] = mean_known(table.gains)
    columns[TRIED] = new.tried - new.untouched.mean()
    return np.stack([columns[name] for name in table.predictors], axis=1)


def _started(gathered: Gathered, evidence: Evidence, task: str, seed: int) -> tuple[Evidence | None, Model | None]:
    """The evidence on training from a source, and the model fitted on it; None where there is too little."""
    if gathered.started is None:
        return None, None
    started = _only(_without(gathered.started, task), evidence.sources)
    try:
        return started, fit(_mean_table(started), seed=seed)
    except BadInput:
        return None, None


def _estimates(model: Model, gains: Floats, new: NewTask) -> list[Estimate]:
    """Predicted scores: the untouched backbone's on the examples plus the gains, within 0 and 1.

    The interval joins the model's with the standard error of the untouched score.
    """
    base = _of_examples(new.untouched)
    half = math.hypot(model.spread, base.high - base.value)
    return [_bounded(base.value + float(gain), half) for gain in gains]


def _of_examples(scores: Floats) -> Estimate:
    """A mean over examples with its normal interval, the variance being that of one pseudo-example of each kind more.

    Agresti & Coull 1998: an interval of few examples that were all right is not of width 0.
    """
    count = len(scores)
    padded = (scores.sum() + 1) / (count + 2)
    return _bounded(float(scores.mean()), _Z * math.sqrt(padded * (1 - min(padded, 1.0)) / (count + 2)))


def _bounded(value: float, half: float) -> Estimate:
    inside = min(1.0, max(0.0, value))
    return Estimate(inside, max(0.0, value - half), min(1.0, value + half))


def _fresh(gathered: Gathered, task: str, new: NewTask) -> Estimate | None:
    """Gain of training on the few examples from scratch: the library's mean, with its spread."""
    t = [k for k, name in enumerate(gathered.zero_shot.targets) if name != task]
    gains = mean_known(gathered.fresh[:, t] - gathered.zero_shot.untouched[:, t], axis=0)
    gains = gains[~np.isnan(gains)]
    if len(gains) < 2:
        return None
    base = _of_examples(new.untouched)
    spread = _Z * float(gains.std(ddof=1)) * math.sqrt(1 + 1 / len(gains))
    return _bounded(base.value + float(gains.mean()), math.hypot(spread, base.high - base.value))


def _verdict(model: Model, tied: Sequence[bool]) -> str:
    """Whether the sources can be distinguished, as a sentence."""
    if model.p > LEVEL:
        return (
            f"cannot tell the sources apart: on the library's own {model.tasks} tasks, each left out in turn, the "
            f"predicted order agrees with the true one no better than by chance (mean Spearman's ρ {model.skill:.2f}, "
            f"p = {model.p:.2g})"
        )
    count = sum(tied)
    first = "the first source is" if count == 1 else f"the first {count} sources are not told apart; they are"
    return (
        f"{first} predicted to be better than the others (mean Spearman's ρ on tasks left out {model.skill:.2f}, "
        f"p = {model.p:.2g})"
        if count < len(tied)
        else f"cannot tell the sources apart: their predictions differ by less than the model's errors "
        f"({model.gap:.3f})"
    )
