"""The evidence for recommendations, from the cards, tensors and features of a library."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from deltacompose import registry
from deltacompose.analysis import delta_tensors as tensors
from deltacompose.analysis.arrays import Floats
from deltacompose.analysis.recommendation.evidence import Evidence
from deltacompose.analysis.recommendation.few_examples import with_few_examples
from deltacompose.analysis.similarity.formulas import cosine, flatten
from deltacompose.analysis.similarity.measure import Measure, compare
from deltacompose.analysis.similarity.stored_arrays import PROBED, from_weights
from deltacompose.errors import BadInput, quoted
from deltacompose.figures.style import counted
from deltacompose.formats.urls import local_folder, within
from deltacompose.library.card import Card, Result
from deltacompose.library.from_store import EMBEDDING
from deltacompose.library.layout import DELTAS, examples_of
from deltacompose.library.library import Arrays, Library

EMBEDDED = "task_embedding"
"""The predictor that is the cosine of two tasks' embeddings (Vu et al. 2020, arXiv 2005.00770)."""
FROM_WEIGHTS = ("weights", "prompts", "low_rank")
"""Needs of measures that the tensors of a delta satisfy."""


@dataclass(frozen=True, eq=False)
class Gathered:
    """The evidence of a library for one composition.

    Attributes:
        names: of the delta by task and seed.
        zero_shot: scores without any training on the target.
        started: scores after training on a few examples of the target from the delta; None where the library has none.
        fresh: (seeds, targets), scores of a fresh delta that was trained on so few examples; NaN if unknown.
        shots: training examples per class behind `started` and `fresh`.
        notes: a sentence on each predictor that could not be used.
    """

    composition: str
    names: Mapping[tuple[str, int], str]
    zero_shot: Evidence
    started: Evidence | None
    fresh: Floats
    shots: int | None
    notes: tuple[str, ...]


def gather(library: Library, composition: str | None = None, examples: int = 32, split: str = "test") -> Gathered:
    """The evidence of a library.

    Where the score of every example is known, `examples` of them are drawn for each target and seed and give the
    predictor "few examples"; the scores that are predicted are then of the others.

    Raises:
        BadInput: fewer than four tasks, or no scores on the split.
    """
    cards = library.cards()
    text = library.composition(composition, cards)
    own = {name: card for name, card in cards.items() if card.composition == text}
    names = {(card.task, card.seed or 0): name for name, card in own.items()}
    sources, seeds = tuple(sorted({task for task, _ in names})), tuple(sorted({seed for _, seed in names}))
    rows = [(card, result) for card in own.values() for result in card.results if result.split == split]
    targets = tuple(sorted({result.target for _, result in rows if not result.started}))
    scores = _scores(rows, sources, targets, seeds, lambda result: not result.started)
    untouched, chance = _references(rows, targets, seeds)
    arrays = {at: library.features(name) for at, name in names.items()}
    measures, notes = _measures(library, names, arrays, (sources, targets, seeds))
    parts = {card.task: card.parts for card in own.values() if card.parts}
    zero = Evidence(sources, targets, seeds, scores, untouched, chance, measures, parts=parts)
    zero = with_few_examples(zero, _examples(names, arrays, targets, split), examples)
    shots = _common_shots(rows)
    started = None
    if shots is not None:
        after = _scores(rows, sources, targets, seeds, lambda result: result.started and result.shots == shots)
        started = replace(zero, scores=after)
    fresh = np.full((len(seeds), len(targets)), np.nan)
    for card, result in rows:
        if result.target == card.task and result.shots is not None and not result.started:
            fresh[seeds.index(card.seed or 0), targets.index(result.target)] = result.score
    if len(seeds) == 1:
        notes.append("one seed: nothing is known of the spread between training runs")
    if zero.tried is None:
        notes.append("the library has no scores of single examples, so none is held out for the predictor")
    return Gathered(text, names, zero, started, fresh, shots, tuple(notes))


def known_measures(library: Library, card: Card, arrays: Arrays) -> list[Measure]:
    """The measures of the registry whose arrays the library has of a delta."""
    return [
        measure
        for _, measure in sorted(registry.measures().items())
        if measure.needs in arrays or (measure.needs in FROM_WEIGHTS and _fits(library, card, measure))
    ]


def arrays_of(library: Library, name: str, need: str, composition: str) -> Any:
    """The array that a need asks for, of one delta.

    Raises:
        BadInput: the library does not have it, or the composition does not.
    """
    if need in PROBED:
        return library.features(name)[need]
    with local_folder(within(library.place, DELTAS, name), ("delta.safetensors",)) as folder:
        weights = tensors.read(folder / "delta.safetensors")
    return of_weights(need, composition, weights)


def of_weights(need: str, composition: str, weights: Arrays) -> Any:
    """The array that a need asks for, from the tensors of a delta."""
    return flatten(weights) if need == "weights" else from_weights(need, composition, weights)


def near(measure: Measure, tasks: Mapping[str, Any]) -> Floats:
    """(tasks, tasks), greater is nearer."""
    return np.asarray(measure.nearness(compare(measure, tasks)))


def _fits(library: Library, card: Card, measure: Measure) -> bool:
    try:
        arrays_of(library, card.name, measure.needs, card.composition)
    except BadInput:
        return False
    return True


def _scores(
    rows: Sequence[tuple[Card, Result]],
    sources: tuple[str, ...],
    targets: tuple[str, ...],
    seeds: tuple[int, ...],
    wanted: Any,
) -> Floats:
    scores = np.full((len(seeds), len(sources), len(targets)), np.nan)
    for card, result in rows:
        if wanted(result) and result.target in targets:
            at = seeds.index(card.seed or 0), sources.index(card.task), targets.index(result.target)
            scores[at] = result.score
    return scores


def _references(
    rows: Sequence[tuple[Card, Result]], targets: tuple[str, ...], seeds: tuple[int, ...]
) -> tuple[Floats, Floats]:
    """(seeds, targets) of the untouched backbone, and (targets,) of chance."""
    untouched, chance = np.full(len(targets), np.nan), np.full(len(targets), np.nan)
    for _, result in rows:
        if result.target in targets and not result.started:
            t = targets.index(result.target)
            untouched[t] = np.nan if result.untouched is None else result.untouched
            chance[t] = np.nan if result.chance is None else result.chance
    return np.broadcast_to(untouched, (len(seeds), len(targets))).copy(), chance


def _common_shots(rows: Sequence[tuple[Card, Result]]) -> int | None:
    """The number of shots of most trainings that started from a delta."""
    counts: dict[int, int] = {}
    for _, result in rows:
        if result.started and result.shots is not None:
            counts[result.shots] = counts.get(result.shots, 0) + 1
    return max(counts, key=lambda shots: (counts[shots], -shots)) if counts else None


def _measures(
    library: Library,
    names: Mapping[tuple[str, int], str],
    arrays: Mapping[tuple[str, int], Arrays],
    axes: tuple[tuple[str, ...], tuple[str, ...], tuple[int, ...]],
) -> tuple[dict[str, Floats], list[str]]:
    """(seeds, sources, targets) of every measure that the library has the arrays of, and what could not be used."""
    sources, targets, seeds = axes
    values_of: dict[str, Floats] = {}
    notes: list[str] = []
    composition = library.card(next(iter(names.values()))).composition
    for name, measure in [(EMBEDDED, None), *sorted(registry.measures().items())]:
        need = EMBEDDING if measure is None else measure.needs
        if need not in (EMBEDDING, *FROM_WEIGHTS, *PROBED):
            continue
        values = np.full((len(seeds), len(sources), len(targets)), np.nan)
        try:
            for k, seed in enumerate(seeds):
                own = {task: at for (task, other), at in names.items() if other == seed}
                if need in FROM_WEIGHTS:
                    tasks = {task: arrays_of(library, at, need, composition) for task, at in sorted(own.items())}
                else:
                    tasks = {task: arrays[task, seed][need] for task in sorted(own)}
                matrix = near(measure, tasks) if measure else cosine(np.stack(list(tasks.values())))
                _put(values[k], matrix, list(tasks), sources, targets)
            values_of[name] = values
        except KeyError:
            continue  # the study collected no such arrays
        except BadInput as error:
            if need not in FROM_WEIGHTS:
                notes.append(f"{name} is not used: {error}")
    return values_of, notes


def _put(values: Floats, matrix: Floats, tasks: list[str], sources: tuple[str, ...], targets: tuple[str, ...]) -> None:
    for i, source in enumerate(tasks):
        for j, target in enumerate(tasks):
            if target in targets:
                values[sources.index(source), targets.index(target)] = matrix[i, j]


def _examples(
    names: Mapping[tuple[str, int], str],
    arrays: Mapping[tuple[str, int], Arrays],
    targets: tuple[str, ...],
    split: str,
) -> dict[tuple[int, str, str], Floats]:
    """The score of each example by seed, source and target."""
    scores: dict[tuple[int, str, str], Floats] = {}
    for source, seed in names:
        own = arrays[source, seed]
        for target in targets:
            name = examples_of(target, split)
            if name in own:
                scores[seed, source, target] = own[name].astype(float)
            if source == target and f"untouched.{name}" in own:
                scores[seed, "untouched", target] = own[f"untouched.{name}"].astype(float)
    return scores


def check_new(library: Library, task: str) -> None:
    """Refuses a task that the library has deltas of.

    Raises:
        BadInput: says how many.
    """
    count = sum(card.task == task for card in library.cards().values())
    if count:
        raise BadInput(
            f"task {quoted(task)} is in the library already ({counted(count, 'delta')}); use its own delta, or leave "
            "it out with --leave-out"
        )
