"""Studies carried out, and what their stores hold: the second half of the Python interface."""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import partial
from math import isnan
from pathlib import Path
from typing import Any

import networkx as nx
import torch

from deltacompose import api
from deltacompose.analysis.matrix import TransferMatrix
from deltacompose.analysis.subspace.dimension_search import most_tries
from deltacompose.analysis.transfer.findings import gather
from deltacompose.analysis.transfer.records import with_examples
from deltacompose.cells import carry_out as work
from deltacompose.cells.evidence import ANSWERS, rows_fault
from deltacompose.cells.grouping import by_expression, processes_of
from deltacompose.engine import Outcome, Work, run_plan
from deltacompose.errors import BadInput, unknown
from deltacompose.figures import lift
from deltacompose.planning import dimension_search as search
from deltacompose.planning import plan as planning
from deltacompose.planning.cost import Cost, cost
from deltacompose.store.store import Problem, Store, open_store
from deltacompose.study.config import Cell, Study
from deltacompose.task import verify as task_verify
from deltacompose.task.build import task_from_mapping


def plan(study: Study, store: Store | None = None) -> nx.DiGraph:
    """The cells of a study: a directed graph from what is read to what reads it.

    With a store, also those that finished cells have added: only then is it all that the store has of the study. The
    keys are of the store's version.
    """
    graph, added = _planned(study, None if store is None else work.facts(study, store.format))
    if store is None:
        return graph
    return planning.grown(graph, added, store.intact)


def _planned(study: Study, known: planning.Facts | None = None) -> tuple[nx.DiGraph, planning.Extension]:
    """A study's plan before anything is carried out, and what finished cells add to it."""
    _check_training(study, max(len(api.parse(text).stages) for text in study.compositions))
    known = known or work.facts(study)
    return planning.plan(study, known, api.parse), planning.extension(study, known, api.parse)


def _check_training(study: Study, stages: int) -> None:
    """Refuses settings of stages that no composition has, and learning rates of methods that there are not."""
    if len(study.stages) > stages:
        said = f"at most {stages} stages" if stages > 1 else "one stage each"
        raise BadInput(
            f"study {study.name!r} has settings for {len(study.stages)} stages; its compositions have {said}"
        )
    for stage in range(stages):
        api.check_rates(study.recipe(stage))


def notes(study: Study) -> list[str]:
    """What a reader should know before a study is carried out: parts that meet, what is shared, and how far its plan
    will grow."""
    return [*work.notes(study), *_of_beginnings(study), *_of_searches(study)]


def _of_beginnings(study: Study) -> list[str]:
    """What it saves that sequences which begin alike are trained from one beginning."""
    expressions = [api.parse(text) for text in study.compositions]
    apart = sum(len(expression.stages) for expression in expressions)
    together = len({str(one.until(stage + 1)) for one in expressions for stage in range(len(one.stages))})
    each = len(study.tasks) * len(study.seeds) * len(study.grid)
    if together == apart:
        return []
    return [
        f"sequences that begin alike share what is trained: {together * each} trainings of a stage in place of "
        f"{apart * each}"
    ]


def _of_searches(study: Study) -> list[str]:
    chosen, expressions = study.dimension, search.greatest(study.dimension)
    if chosen is None:
        return []
    searches, each = len(study.tasks) * len(expressions), most_tries(chosen.most, chosen.resolution, goals=4)
    said = [
        f"{searches} searches for the intrinsic dimension add cells as they go, at most "
        f"{searches * each * len(study.seeds) * len(study.grid)} trainings in all; only those that are in the plan by "
        "now are counted"
    ]
    if chosen.warm_start:
        said.append(
            "their trainings begin with the solution at the next lower d, so the budget is not the same at all d"
        )
    if "dense" in chosen.projections:
        onto = work.facts(study).deltas[str(api.parse(expressions[0]))].dense
        size = f"{4 * onto * chosen.most / 1e9:.2g} GB at d = {chosen.most}"
        said.append(f"a dense projection takes {size}, in memory and on disk beside each delta that it trained")
    return said


def run(study: Study | str | Path, store: str | Path, engine: str = "inprocess", **options: Any) -> Outcome:
    """Carries out what a store does not have yet of a study; finished cells are never computed again.

    Args:
        study: a study, or the file that holds one.
        store: the folder of the results.
        engine: `inprocess`, `pool`, `dask`, or one that a plugin gives.
        options: those of the engine (`workers`, `threads`, `devices`, ...); `bank`, how many deltas of one expression
            train in one pass (16 on a GPU, 1 on a CPU, where it gains nothing at ordinary batch sizes), and `tokens`,
            how many tokens, with padding, such a pass may hold; `timeout`, seconds that a cell may take, `attempts` and
            `backoff`, as `run_plan` says; `progress`, which is told every event.
    """
    study = study if isinstance(study, Study) else Study.read(study)
    make = api.engine_of(engine)
    how: dict[str, Any] = {name: options.pop(name) for name in ("timeout", "attempts", "backoff") if name in options}
    how["bank"] = options.pop("bank", _bank())
    how |= {"tokens": options.pop("tokens")} if "tokens" in options else {}
    progress = options.pop("progress", None)
    if engine == "pool" or (engine == "dask" and not {"scheduler", "scheduler_file"} & options.keys()):
        options = _workers(study, options.get("devices")) | options
    executor = make(options)  # before the plan, whose data may take minutes to read: a missing cluster is said at once
    try:
        if (Path(store) / "store.json").exists():  # before the plan, whose data may take minutes to read
            open_store(store).check_writable()
        known = work.facts(study)
        cells, added = _planned(study, known)
        opened = open_store(store)
        opened.keep_labels({name: task.category for name, task in known.tasks.items()})
        group = partial(by_expression, known=known.tasks)
        what = Work(group=group, extend=added, peek=work.under_way, processes=processes_of)
        return run_plan(cells, opened, executor, what, work.options_of(study) | how, progress)
    finally:
        executor.close()


def cost_of(study: Study, store: Store | None = None, workers: int | None = None, bank: int | None = None) -> Cost:
    """What is left of a study, and what it will take.

    Args:
        workers: to reckon with; one for each GPU, else for each core of this process if None.
    """
    known = work.facts(study)
    workers = workers or _workers(study, None).get("workers") or len(os.sched_getaffinity(0))
    memory = planning.memory(study, known, api.parse, bank or _bank())
    return cost(plan(study, store), store, lambda: work.speed_of(study), workers, memory)


def prefetch(study: Study) -> list[dict[str, Any]]:
    """Fetches what a study needs from the hub, for nodes without a network: a row for the backbone and for each task.

    `state` is `cached`, `local` (nothing to fetch) or `failed`, with the `reason`; `cache` is the folder to take along.
    """
    model = study.backbone.model
    row: dict[str, Any] = {"name": model, "what": "backbone", "state": "local", "reason": "", "cache": ""}
    try:
        folder = api.fetch_backbone(model)
        if folder.parent.name == "snapshots":
            row |= {"state": "cached", "cache": str(folder)}
    except BadInput as error:
        row |= {"state": "failed", "reason": str(error)}
    own = {name: task_from_mapping(name, rows, study.folder) for name, rows in study.own_tasks.items()}
    names = dict.fromkeys((*study.tasks, *study.start_from))
    fetched = task_verify.prefetch(own[name] if name in own else api.task_of(name) for name in names)
    return [row, *({"what": "task"} | one for one in fetched)]


def verify(study: Study, store: Store) -> tuple[list[Problem], list[str]]:
    """Every problem of a store and of the study's cells in it, and notes on cells of other inputs than those at hand.

    The keys of the study are derived anew from the present inputs. A stored cell that they name must have its files as
    they were stored, and answers to the examples of the task. Cells of the same study from earlier inputs are counted
    in the notes, by what has changed: they are right for what they were computed from.
    """
    problems, options = store.verify(), work.options_of(study)
    damaged = {problem.key for problem in problems if problem.key}
    planned = plan(study, store)
    for key in planned:
        if store.has(key) and key not in damaged:
            fault = rows_fault(store.record(key), store.folder(key), options)
            problems += [Problem(key, ANSWERS, fault)] if fault else []
    found = [record for record in store.records() if record["key"] not in planned] if not damaged else []
    return problems, list(_outdated([cell for _, cell in planned.nodes(data="cell")], found))


_INPUTS = {
    "backbone": "the backbone's weights, configuration, tokenizer or table",
    "data": "the examples of a task",
    "source_data": "the examples of a task",
    "implementations": "the code of a method",
    "versions": "the version of a method",
}
"""Fields of a spec that are digests of inputs, and what they are of."""


def _outdated(cells: Iterable[Cell], stored: Iterable[Mapping[str, Any]]) -> Iterator[str]:
    """How many stored cells differ from planned ones in nothing but the inputs, by what differs."""

    def question(kind: str, spec: Mapping[str, Any]) -> str:
        return json.dumps([kind, {n: x for n, x in spec.items() if n not in _INPUTS}], sort_keys=True)

    present = {question(cell.kind, cell.spec): cell.spec for cell in cells}
    counts: Counter[str] = Counter()
    for record in stored:
        now = present.get(question(record["kind"], record["spec"]))
        changed = {_INPUTS[n] for n in _INPUTS if now is not None and now.get(n) != record["spec"].get(n)}
        counts.update(changed)
    for what, count in sorted(counts.items()):
        yield f"{count} stored cells are of earlier inputs: {what} changed since"


def records(
    store: Store | str | Path, study: Study | None = None, damaged: list[Problem] | None = None
) -> list[Mapping[str, Any]]:
    """The records of a store, the failed ones too; evaluations with the score of each example.

    Args:
        study: if given, only the cells that it asks for, and those that its finished cells have added.
        damaged: takes a problem for each cell that is damaged, which is then left out; without it the first is raised.
    """
    store = store if isinstance(store, Store) else open_store(store, create=False)
    wanted = None if study is None else set(plan(study, store))
    found = [*store.records(damaged=damaged), *store.records(state="failed", damaged=damaged)]
    chosen = [one for one in found if wanted is None or one["key"] in wanted]

    def tell(key: str, reason: str) -> None:
        if damaged is None:
            raise BadInput(reason)
        damaged.append(Problem(key, "predictions.jsonl", f"is damaged: {reason}"))

    return list(with_examples(chosen, store.folder, tell))


def of_transfer(found: Iterable[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """The records that transfer matrices are made of: no training that started from another task's weights, and of
    the values of a grid only the chosen one."""
    return [
        one for one in found if not one["spec"].get("start") and (one["kind"] != "evaluate" or _is_final(one["spec"]))
    ]


def categories_of(
    found: Iterable[Mapping[str, Any]], store: Store | None = None, study: Study | None = None
) -> dict[str, str]:
    """The present category of every task that evaluations name as a target; no cell keeps or is keyed by one.

    It is that of the study or of the installed task; without a study that of the store's latest run. Records of a store
    of version 1 still hold the one of their time, which is taken where nothing else is known. Empty if a task has none.
    """
    done = [one for one in found if one["kind"] == "evaluate" and one["state"] == "done"]
    recorded = {one["spec"]["target"]: one["result"].get("category", "") for one in done}
    installed = {name: api.tasks()[name].category for name in recorded if name in api.tasks()}
    kept = store.labels() if store is not None else {}
    if study is not None:
        own = {name: rows.get("category", "") for name, rows in study.own_tasks.items()}
        known = recorded | kept | installed | own
    else:
        known = recorded | installed | kept
    return {name: known[name] for name in recorded} if all(known[name] for name in recorded) else {}


def transfer_matrix(store: Store | str | Path, composition: str, split: str = "test") -> TransferMatrix:
    """The transfer matrix of one composition from a store: how the delta of each source does on each target.

    Raises:
        BadInput: the store has no evaluation of that composition; the message names those it has.
    """
    store = store if isinstance(store, Store) else open_store(store, create=False)
    found = of_transfer(records(store))
    text = str(api.parse(composition))
    known = {one["spec"]["composition"] for one in found if one["kind"] == "evaluate" and one["spec"]["composition"]}
    if text not in known:
        raise unknown("composition", text, known)
    return gather(found, categories_of(found, store), [text], split).matrices[text]


def lifts(
    found: Sequence[Mapping[str, Any]], split: str, categories: Mapping[str, str] | None = None
) -> list[dict[str, Any]]:
    """What training gave each task over the untouched backbone, with 95 % intervals: a row per composition and task.

    Args:
        categories: of the tasks; those of `categories_of` if None.
    """
    rows = []
    labels = categories_of(found) if categories is None else categories
    for text, matrix in gather(found, labels, (), split).matrices.items():
        for one in lift.lifts(matrix):
            at = matrix.targets.index(one.task)
            levels = {"chance": float(matrix.chance[at]), "untouched": float(matrix.untouched[at])}
            about = {"composition": text, "category": one.category, "task": one.task, "metric": matrix.metric[at]}
            measured = {
                "score": one.value + levels["untouched"],
                **levels,
                "lift": one.value,
                "low": one.low,
                "high": one.high,
            }
            known = {name: None if isnan(value) else value for name, value in measured.items()}
            rows.append(about | known | {"zero": one.verdict, "seeds": one.seeds, "covers": one.covers})
    return rows


def _bank() -> int:
    """The number of deltas that train as one bank: a GPU has room for more work at once."""
    return 16 if torch.cuda.is_available() else 8


def _workers(study: Study, given: Sequence[str] | None) -> dict[str, Any]:
    """How this machine is shared out: a GPU for each worker, or all for one where a delta needs several.

    On CPUs, how many workers of so many processes each its cores take; nothing where each worker is one process.
    """
    count, visible = torch.cuda.device_count(), os.environ.get("CUDA_VISIBLE_DEVICES")
    if not given and (not count or study.backbone.device == "cpu"):
        cores = len(os.sched_getaffinity(0))
        return {"workers": max(1, cores // study.processes)} if study.processes > 1 else {}
    if not given and (study.processes > 1 or study.backbone.device is not None):
        return {"workers": 1}
    devices = given or (visible.split(",")[:count] if visible else list(map(str, range(count))))
    return {"workers": len(devices), "devices": devices}


def _is_final(spec: Mapping[str, Any]) -> bool:
    return spec.get("grid") is None
