"""Reading the store of a study: its records, transfer matrices, lifts and problems."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from math import isnan
from pathlib import Path
from typing import Any

from deltacompose import registry
from deltacompose.analysis.matrix import TransferMatrix
from deltacompose.analysis.transfer import lift
from deltacompose.analysis.transfer.findings import gather
from deltacompose.analysis.transfer.records import with_examples
from deltacompose.errors import BadInput, unknown
from deltacompose.planning.plan import Prepared
from deltacompose.store.store import Problem, Store, open_store
from deltacompose.study.config import Cell, Study
from deltacompose.study.queries import Record, done, of_kind


def verify(study: Study | Prepared, store: Store) -> tuple[list[Problem], list[str]]:
    """Every problem of a store and of the study's cells in it, and notes on cells computed from earlier inputs.

    The keys of the study are derived again from the present inputs. A stored cell with such a key must have unchanged
    files and answers to the examples of the task. Cells of the same study from earlier inputs are valid for those
    inputs; the notes count them by what has changed.
    """
    from deltacompose.api.planned import prepare
    from deltacompose.cells.scored_answers import ANSWERS
    from deltacompose.cells.stored_evidence import rows_fault
    from deltacompose.cells.worker_sources import Sources

    problems, prepared = store.verify(), prepare(study, store)
    damaged = {problem.key for problem in problems if problem.key}
    planned, own = prepared.plan, Sources.of(prepared.study).own_tasks
    for key in planned:
        if store.has(key) and key not in damaged:
            fault = rows_fault(store.record(key), store.folder(key), own)
            problems += [Problem(key, ANSWERS, fault)] if fault else []
    others = [record for record in store.records() if record["key"] not in planned] if not damaged else []
    return problems, list(_outdated([cell for _, cell in planned.nodes(data="cell")], others))


def _plan(study: Study | Prepared, store: Store) -> Iterable[str]:
    """The keys of a study's cells, for which torch is imported unless the study is prepared."""
    if isinstance(study, Prepared):
        return list(study.plan)
    from deltacompose.api.planned import plan

    return list(plan(study, store))


_INPUTS = {
    "backbone": "the backbone's weights, configuration, tokenizer or table",
    "data": "the examples of a task",
    "source_data": "the examples of a task",
    "implementations": "the code of a method",
    "versions": "the version of a method",
}
"""Fields of a spec that are digests of inputs, and the inputs."""


def _outdated(cells: Iterable[Cell], stored: Iterable[Record]) -> Iterator[str]:
    """Sentences that count the stored cells which differ from planned ones only in an input, by that input."""

    def question(kind: str, spec: Mapping[str, Any]) -> str:
        return json.dumps([kind, {n: x for n, x in spec.items() if n not in _INPUTS}], sort_keys=True)

    present = {question(cell.kind, cell.spec): cell.spec for cell in cells}
    counts: Counter[str] = Counter()
    for record in stored:
        now = present.get(question(record["kind"], record["spec"]))
        changed = {_INPUTS[n] for n in _INPUTS if now is not None and now.get(n) != record["spec"].get(n)}
        counts.update(changed)
    for what, count in sorted(counts.items()):
        yield f"{count} stored cells were computed from earlier inputs: {what} changed since"


def records(
    store: Store | str | Path, study: Study | Prepared | None = None, damaged: list[Problem] | None = None
) -> list[Record]:
    """The records of a store, finished and failed; evaluations have the score of each example.

    >>> [record["state"] for record in dc.records(store)][:2]
    ['done', 'done']

    Args:
        study: if given, only the cells of its plan, including those that finished cells have added.
        damaged: a list that receives a problem for each damaged cell, which is left out; if None, the first is raised.
    """
    store = store if isinstance(store, Store) else open_store(store, create=False)
    wanted = None if study is None else set(_plan(study, store))
    stored = [*store.records(damaged=damaged), *store.records(state="failed", damaged=damaged)]
    chosen = [record for record in stored if wanted is None or record["key"] in wanted]

    def report(key: str, reason: str) -> None:
        if damaged is None:
            raise BadInput(reason)
        damaged.append(Problem(key, "predictions.jsonl", f"is damaged: {reason}"))

    return list(with_examples(chosen, store.folder, report))


def of_transfer(records: Iterable[Record]) -> list[Record]:
    """The records from which transfer matrices are made.

    Trainings that start from another task's weights are left out, and so are evaluations of grid values that were not
    chosen.
    """
    return [
        record
        for record in records
        if not record["spec"].get("start") and (record["kind"] != "evaluate" or _is_final(record["spec"]))
    ]


def categories_of(records: Iterable[Record], store: Store | None = None, study: Study | None = None) -> dict[str, str]:
    """The present category of every target task of the evaluations; empty if a target has none.

    Tasks that were trained and not evaluated yet, or whose cells failed, are there too where their category is known.

    Cells and their keys do not contain categories. The category is that of the study or of the installed task; without
    a study, that of the store's latest run. Records of a store of version 1 hold a category, which is the last resort.
    The tasks are in the study's order, without a study in alphabetical order.

    >>> categories_of(dc.records(store))
    {'intent': 'intent', 'sentiment_movie': 'sentiment'}
    """
    records = list(records)
    evaluations = done(records, "evaluate")
    specs = [record["spec"] for record in of_kind(records, "train", "evaluate")]
    named = {spec[key] for spec in specs for key in ("task", "source", "target") if isinstance(spec.get(key), str)}
    recorded = {record["spec"]["target"]: record["result"].get("category", "") for record in evaluations}
    installed = {name: registry.tasks()[name].category for name in {*recorded, *named} if name in registry.tasks()}
    kept = store.labels() if store is not None else {}
    if study is not None:
        own = {name: str(rows["category"]) for name, rows in study.own_tasks.items() if rows.get("category")}
        known = recorded | kept | installed | own
    else:
        known = recorded | installed | kept
    if not all(known[name] for name in recorded):
        return {}
    shown = {*recorded, *(name for name in named if known.get(name))}
    first = [] if study is None else [name for name in study.named_tasks if name in shown]
    return {name: known[name] for name in dict.fromkeys([*first, *sorted(shown)])}


def transfer_matrix(store: Store | str | Path, composition: str, split: str = "test") -> TransferMatrix:
    """The transfer matrix of one composition from a store: the scores of each source's delta on each target.

    >>> dc.transfer_matrix(store, "bitfit").targets
    ('intent', 'sentiment_movie')

    Raises:
        BadInput: the store has no evaluation of that composition; the message names those that it has.
    """
    store = store if isinstance(store, Store) else open_store(store, create=False)
    chosen = of_transfer(records(store))
    evaluated = (record["spec"]["composition"] for record in of_kind(chosen, "evaluate"))
    known = {name for name in evaluated if name}
    text = composition if composition in known else str(registry.parse(composition))
    if text not in known:
        raise unknown("composition", text, known)
    return gather(chosen, categories_of(chosen, store), [text], split).matrices[text]


def lifts(
    records: Sequence[Record],
    split: str,
    categories: Mapping[str, str] | None = None,
    order: Sequence[str] = (),
) -> list[dict[str, Any]]:
    """The lift of each task over the untouched backbone, with 95 % intervals: a row per composition and task.

    >>> [lift["task"] for lift in lifts(dc.records(store), "test")]
    ['intent', 'sentiment_movie']

    Args:
        categories: the category of each task; those of `categories_of` if None.
        order: of the tasks, as that of the study; others follow in alphabetical order.
    """
    rows = []
    labels = categories_of(records) if categories is None else categories
    for text, matrix in gather(records, labels, (), split, order).matrices.items():
        for estimate in lift.lifts(matrix):
            at = matrix.targets.index(estimate.task)
            levels = {"chance": float(matrix.chance[at]), "untouched": float(matrix.untouched[at])}
            about = {
                "composition": text,
                "category": estimate.category,
                "task": estimate.task,
                "metric": matrix.metric[at],
            }
            measured = {
                "score": estimate.value + levels["untouched"],
                **levels,
                "lift": estimate.value,
                "low": estimate.low,
                "high": estimate.high,
            }
            known = {name: None if isnan(value) else value for name, value in measured.items()}
            rows.append(about | known | {"zero": estimate.verdict, "seeds": estimate.seeds, "covers": estimate.covers})
    return rows


def _is_final(spec: Mapping[str, Any]) -> bool:
    return spec.get("grid") is None
