"""Transfer matrices from the records of finished and failed evaluation cells."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import numpy as np
from typing_extensions import TypedDict

from deltacompose.analysis.arrays import Floats
from deltacompose.analysis.matrix import REFERENCES, TransferMatrix
from deltacompose.errors import BadInput, unknown
from deltacompose.formats.row_files import read_json_rows
from deltacompose.study.queries import Record, is_done
from deltacompose.task.mixture import mix_of_name
from deltacompose.validation import validated

Key = tuple[int, str, str]


def with_examples(
    records: Iterable[Record], folder: Callable[[str], Path], damaged: Callable[[str, str], object] | None = None
) -> Iterator[Record]:
    """Each record, that of a finished evaluation with its per-example scores as `example_scores`.

    Args:
        folder: where a cell of a key keeps its files; `predictions.jsonl` there has a `score` in every row.
        damaged: called with the key and reason of each cell that is left out because its predictions cannot be read.

    Raises:
        BadInput: predictions cannot be read and `damaged` is None.
    """
    for record in records:
        if record.get("kind") != "evaluate" or not is_done(record):
            yield record
            continue
        path = folder(str(record["key"])) / "predictions.jsonl"
        try:
            scores = _scores(path)
        except BadInput as error:
            if damaged is None:
                raise BadInput(f"the predictions {path} cannot be read: {error}") from None
            damaged(str(record["key"]), str(error))
        else:
            yield {**record, "example_scores": scores}


def _scores(path: Path) -> list[float]:
    """The score of each row of a file of predictions."""
    rows = read_json_rows(path)
    if not rows:
        raise BadInput(f"{path} has no rows")
    scores = [row.get("score") for row in rows]
    if any(type(score) is not float for score in scores):  # checking each row's type takes as long as reading it
        return [float(row["score"]) for row in validated(list[_Answer], rows, str(path))]
    return cast(list[float], scores)


class _Answer(TypedDict):
    score: float


def from_records(
    records: Iterable[Record],
    composition: str,
    categories: Mapping[str, str] | None = None,
    split: str = "test",
    chosen: Callable[[Record], bool] | None = None,
    order: Sequence[str] = (),
) -> TransferMatrix:
    """The transfer matrix of one composition, read on one split.

    Args:
        records: cells of kind `evaluate`, those of other kinds being passed over, and those of deltas that started
            from another task's weights (`initialisation` reads them). A record has a `spec` (composition, source,
            target, seed, split, backbone) and, when its state is `done`, a `result` (score, metric, chance, trivial).
            Any other state counts as tried and failed. `example_scores` of `with_examples` are taken along. Where a
            learning rate was chosen, the evaluation of the chosen one (`grid` None) stands before those of the grid.
        composition: the expression whose deltas are meant.
        categories: category of each task.
        split: the split whose scores are read.
        chosen: a further condition, for stores in which several cells share composition, source, target and seed.
        order: tasks in the order of the axes, as that of the study, by default that of the categories; tasks that are
            not named follow in alphabetical order.

    Raises:
        BadInput: no such cell, two different scores for one cell, several backbones, or contradictory chance scores.
    """
    evaluations = [record for record in records if _is_of_transfer(record)]
    here = [r for r in evaluations if r["spec"]["split"] == split and (chosen is None or chosen(r))]
    order = order or tuple(categories or ())
    trained = [r for r in here if r["spec"]["composition"] == composition and r["spec"]["source"] not in REFERENCES]
    if not trained:
        raise _nothing_found(evaluations, composition, split)
    cells = _one_per_cell(trained)
    done = {key: record for key, record in cells.items() if is_done(record)}
    seeds = sorted({seed for seed, _, _ in cells})
    sources = _in_order({source for _, source, _ in cells}, order)
    targets = _in_order({target for _, _, target in cells}, order)
    references = [r for r in here if r["spec"]["composition"] in (None, composition) and is_done(r)]
    shape = (seeds, sources, targets)
    return TransferMatrix(
        sources=tuple(sources),
        targets=tuple(targets),
        seeds=tuple(seeds),
        values=_array(done, shape, lambda record: float(record["result"]["score"]), np.nan),
        chance=_chance([*done.values(), *references], targets),
        untouched=_reference(references, "untouched", [None], targets)[0],
        random=_reference(references, "random", seeds, targets),
        trivial=_array(done, shape, lambda record: bool(record["result"]["trivial"]), 0) == 1,
        failed=_array(cells, shape, lambda record: not is_done(record), 0) == 1,
        metric=_metric([*done.values(), *references], targets),
        categories=_with_mixtures(categories or {}, sources),
        composition=composition,
        backbone=_backbone([*trained, *references]),
        examples=_examples(done, references),
    )


def _with_mixtures(categories: Mapping[str, str], sources: Sequence[str]) -> dict[str, str]:
    """The categories with one for the mixtures that a study makes of clusters, which are not tasks of their own."""
    mixtures = {source: "mixture" for source in sources if mix_of_name(source) is not None}
    return {**(mixtures if categories else {}), **categories}


def _is_of_transfer(record: Record) -> bool:
    return record.get("kind", "evaluate") == "evaluate" and not record["spec"].get("start")


def _nothing_found(evaluations: list[Record], composition: str, split: str) -> BadInput:
    specs = [record["spec"] for record in evaluations]
    compositions = {str(spec["composition"]) for spec in specs if spec["source"] not in REFERENCES}
    if composition not in compositions:
        return unknown("composition", composition, compositions)
    splits = ", ".join(sorted({f"{spec['split']}" for spec in specs if spec["composition"] == composition}))
    return BadInput(f"no evaluation of {composition!r} on the split {split!r}; it was evaluated on: {splits}")


def _key(record: Record) -> Key:
    spec = record["spec"]
    return int(spec["seed"]), str(spec["source"]), str(spec["target"])


def _one_per_cell(records: list[Record]) -> dict[Key, Record]:
    """One record per cell; a finished one stands before a failed one, two different finished ones are refused."""
    cells: dict[Key, Record] = {}
    chosen = {_key(record) for record in records if record["spec"].get("grid", 1) is None}
    for record in records:
        key = _key(record)
        if key in chosen and record["spec"].get("grid", 1) is not None:
            continue
        other = cells.get(key)
        if other is None or not is_done(other):
            cells[key] = record
        elif is_done(record) and record != other:
            raise BadInput(
                f"two evaluations of {key[1]} → {key[2]} with seed {key[0]} of {record['spec']['composition']!r}: "
                f"a matrix holds one; their settings differ in {_difference(record['spec'], other['spec'])}"
            )
    return cells


def _difference(settings: Mapping[str, Any], other: Mapping[str, Any]) -> str:
    names = sorted(name for name in {*settings, *other} if settings.get(name) != other.get(name))
    return ", ".join(names) or "nothing but their parents"


def _in_order(tasks: set[str], order: Sequence[str]) -> list[str]:
    """In the given order, then by name: the records of a store come in the order of hashes, which means nothing."""
    return [*(task for task in dict.fromkeys(order) if task in tasks), *sorted(tasks - set(order))]


def _array(
    cells: Mapping[Key, Record],
    shape: tuple[list[int], list[str], list[str]],
    value: Callable[[Record], float],
    otherwise: float,
) -> Floats:
    """(seeds, sources, targets): the value of each cell."""
    seeds, sources, targets = shape
    array = np.full((len(seeds), len(sources), len(targets)), float(otherwise))
    for (seed, source, target), record in cells.items():
        array[seeds.index(seed), sources.index(source), targets.index(target)] = value(record)
    return array


def _reference(records: list[Record], source: str, seeds: list[Any], targets: list[str]) -> Floats:
    """(seeds, targets): mean score of a reference row; a seed of None takes the cells of every seed."""
    scores: dict[tuple[Any, str], list[float]] = defaultdict(list)
    for record in records:
        spec = record["spec"]
        if spec["source"] == source:
            scores[None if seeds == [None] else spec["seed"], spec["target"]].append(float(record["result"]["score"]))
    return np.array([[_average(scores.get((seed, target), [])) for target in targets] for seed in seeds])


def _average(values: list[float]) -> float:
    return float(np.mean(values)) if values else np.nan


def _chance(records: list[Record], targets: list[str]) -> Floats:
    levels_of: dict[str, set[float]] = defaultdict(set)
    for record in records:
        if not np.isnan(level := float(record["result"]["chance"])):
            levels_of[record["spec"]["target"]].add(level)
    for target in targets:
        if len(levels_of[target]) > 1:
            levels = ", ".join(map(str, sorted(levels_of[target])))
            raise BadInput(f"evaluations on {target} state different chance scores: {levels}")
    return np.array([next(iter(levels_of[target]), np.nan) for target in targets])


def _metric(records: list[Record], targets: list[str]) -> tuple[str, ...]:
    names = {record["spec"]["target"]: str(record["result"]["metric"]) for record in records}
    return tuple(names.get(target, "") for target in targets)


def _backbone(records: list[Record]) -> str:
    names = sorted({str(record["spec"]["backbone"]) for record in records})
    if len(names) > 1:
        raise BadInput(f"evaluations on {len(names)} backbones, a matrix is of one: {', '.join(names)}")
    return str(names[0])


def _examples(done: Mapping[Key, Record], references: list[Record]) -> dict[Key, Floats]:
    """Per-example scores of trained and untouched cells, where their records carry them.

    Those of random deltas are left aside: several of them stand behind one mean score.
    """
    untouched = {_key(record): record for record in references if record["spec"]["source"] == "untouched"}
    carrying = {
        key: record for key, record in {**done, **untouched}.items() if record.get("example_scores") is not None
    }
    return {key: np.array(record["example_scores"], dtype=float) for key, record in carrying.items()}
