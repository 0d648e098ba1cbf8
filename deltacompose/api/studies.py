"""Planning and running studies."""

from __future__ import annotations

import os
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import networkx as nx
import torch

from deltacompose import registry
from deltacompose.analysis.subspace.dimension_search import most_tries
from deltacompose.api.observers import observers
from deltacompose.cells.carry_out import under_way
from deltacompose.cells.grouping import by_expression, processes_of
from deltacompose.cells.study_facts import facts, speed_of
from deltacompose.cells.study_facts import notes as notes_of
from deltacompose.cells.worker_sources import options_of
from deltacompose.engine import Outcome, Work, run_plan
from deltacompose.errors import BadInput
from deltacompose.planning import plan as planning
from deltacompose.planning import search_cells as search
from deltacompose.planning.cost import Cost, cost
from deltacompose.planning.plan import Prepared
from deltacompose.store.store import Store, open_store
from deltacompose.study.config import Study
from deltacompose.task import verify as task_verify
from deltacompose.task.named import named_task


def prepare(study: Study | Prepared, store: Store | None = None) -> Prepared:
    """A study with its facts and its plan, which every other function here takes in place of the study.

    Reading the backbone and the data of a large study takes minutes; so a caller of several functions prepares it once.

    Args:
        store: if given, the plan also has the cells that finished cells have added, and its keys have the store's
            version. It has no effect on a study that is already prepared.

    Raises:
        BadInput: the study names something that does not exist, or has settings that fit none of its compositions.
    """
    if isinstance(study, Prepared):
        return study
    _check_training(study, max(len(registry.parse(text).stages) for text in study.compositions))
    known = facts(study) if store is None else facts(study, store.format)
    prepared = planning.prepare(study, known, registry.parse)
    return prepared if store is None else prepared.grown(store.intact)


def plan(study: Study | Prepared, store: Store | None = None) -> nx.DiGraph:
    """The cells of a study, a directed graph with an edge from each cell to those that read it.

    With a store, the graph also has the cells that finished cells have added, so that it covers all cells of the study
    in the store, and the keys have the store's version.

    >>> study = dc.Study("pair", ["sentiment_movie", "intent"], ["lora"], transfer=True, **tiny)
    >>> graph = dc.plan(study)
    >>> len(graph), sum(graph.nodes[key]["cell"].kind == "train" for key in graph)
    (10, 2)
    """
    return prepare(study, store).plan


def _check_training(study: Study, stages: int) -> None:
    """Checks the settings of stages and the learning rates against the compositions and the methods.

    Raises:
        BadInput: more stages have settings than any composition has, or a learning rate names an unknown method.
    """
    if len(study.stages) > stages:
        limit = f"at most {stages} stages" if stages > 1 else "one stage each"
        raise BadInput(
            f"study {study.name!r} has settings for {len(study.stages)} stages; its compositions have {limit}"
        )
    for stage in range(stages):
        registry.check_rates(study.recipe(stage))


def notes(study: Study | Prepared) -> list[str]:
    """Sentences to read before a study runs: parts of a composition that train the same parameters, trainings that are
    shared, and the growth of the plan."""
    prepared = prepare(study)
    return [*notes_of(prepared.study), *_of_beginnings(prepared.study), *_of_searches(prepared)]


def _of_beginnings(study: Study) -> list[str]:
    """A sentence on the trainings saved because sequences with the same first stages share them."""
    expressions = [registry.parse(text) for text in study.compositions]
    apart = sum(len(expression.stages) for expression in expressions)
    together = len({str(whole.until(stage + 1)) for whole in expressions for stage in range(len(whole.stages))})
    each = len(study.tasks) * len(study.seeds) * len(study.grid)
    if together == apart:
        return []
    return [
        f"sequences with the same first stages share their training: {together * each} trainings of a stage in place "
        f"of {apart * each}"
    ]


def _of_searches(prepared: Prepared) -> list[str]:
    """Sentences on the searches for the intrinsic dimension: how many cells they add, and what they cost."""
    study = prepared.study
    chosen, expressions = study.dimension, search.greatest(study.dimension)
    if chosen is None:
        return []
    searches, each = len(study.tasks) * len(expressions), most_tries(chosen.most, chosen.resolution, goals=4)
    sentences = [
        f"{searches} searches for the intrinsic dimension add cells while they run, at most "
        f"{searches * each * len(study.seeds) * len(study.grid)} trainings in total; only those already in the plan "
        "are counted"
    ]
    if chosen.warm_start:
        sentences.append(
            "each training starts from the solution at the next lower d, so the training budget differs between d"
        )
    if "dense" in chosen.projections:
        onto = prepared.facts.deltas[str(registry.parse(expressions[0]))].dense
        size = f"{4 * onto * chosen.most / 1e9:.2g} GB at d = {chosen.most}"
        sentences.append(f"a dense projection takes {size}, in memory and on disk for each delta that it trained")
    return sentences


def run(study: Study | Prepared | str | Path, store: str | Path, engine: str = "inprocess", **options: Any) -> Outcome:
    """Runs the cells of a study that are missing from a store; finished cells are never computed again.

    >>> study = dc.Study("one", ["sentiment_movie"], ["bitfit"], **tiny)
    >>> outcome = dc.run(study, folder / "store")
    >>> sorted((record["kind"], record["state"]) for record in dc.records(folder / "store"))
    [('evaluate', 'done'), ('evaluate', 'done'), ('evaluate', 'done'), ('train', 'done')]

    Args:
        study: a study, the file that holds one, or a study that `prepare` has planned without a store.
        store: the folder of the results.
        engine: `inprocess`, `pool`, `dask`, or one that a plugin gives.
        options: options of the engine (`workers`, `threads`, `devices`, ...); `bank`, the number of deltas of one
            expression that train in one pass (default 16 on a GPU, 8 on a CPU); `tokens`, the maximum number of tokens
            in a pass, padding included; `timeout`, seconds that a cell may take; `attempts` and `backoff`, see
            `run_plan`; `progress`, a function that is called with every event (if None, the progress is shown on stderr
            or in the notebook; False for nothing); `log_to`, loggers as `tensorboard`, `wandb:project`, `run.jsonl`.

    Raises:
        BadInput: the study, the engine or one of its options is not valid, or the store is read-only.
    """
    asked = study if isinstance(study, Study | Prepared) else Study.read(study)
    make = registry.engine_of(engine)
    settings: dict[str, Any] = {
        name: options.pop(name) for name in ("timeout", "attempts", "backoff") if name in options
    }
    settings["bank"] = options.pop("bank", _bank())
    settings |= {"tokens": options.pop("tokens")} if "tokens" in options else {}
    progress, targets = options.pop("progress", None), options.pop("log_to", ())
    if engine == "pool" or (engine == "dask" and not {"scheduler", "scheduler_file"} & options.keys()):
        options = _workers(_study_of(asked), options.get("devices")) | options
    executor = make(options)  # before the plan, whose data may take minutes to read: a missing cluster fails at once
    try:
        if (Path(store) / "store.json").exists():  # a read-only store fails before the plan, too
            open_store(store).check_writable()
        prepared = prepare(asked)
        opened = open_store(store)
        opened.keep_labels({name: task.category for name, task in prepared.facts.tasks.items()})
        group = partial(by_expression, known=prepared.facts.tasks)
        work = Work(group=group, extend=prepared.extend, peek=under_way, processes=processes_of)
        sent = options_of(prepared.study) | settings
        with observers(prepared.study.name, opened, progress, targets) as tell:
            return run_plan(prepared.plan, opened, executor, work, sent, tell)
    finally:
        executor.close()


def cost_of(
    study: Study | Prepared, store: Store | None = None, workers: int | None = None, bank: int | None = None
) -> Cost:
    """The estimated time and memory for the cells of a study that are missing from a store.

    Args:
        workers: the number of workers for the estimate; if None, one per GPU, or without a GPU one per core.
        bank: the number of deltas trained in one pass, for the estimate of memory; if None, as in `run`.
    """
    prepared = prepare(study, store)
    workers = workers or _workers(prepared.study, None).get("workers") or len(os.sched_getaffinity(0))
    memory = planning.memory(prepared, bank or _bank())
    return cost(prepared.plan, store, lambda: speed_of(prepared.study), workers, memory)


def prefetch(study: Study) -> list[dict[str, Any]]:
    """Fetches the backbone and the data sets of a study from the hub, for nodes without a network.

    Returns:
        A row for the backbone and for each task: `state` is `cached`, `local` (nothing to fetch) or `failed`, with the
        `reason`; `cache` is the folder to copy.
    """
    model = study.backbone.model
    row: dict[str, Any] = {"name": model, "what": "backbone", "state": "local", "reason": "", "cache": ""}
    try:
        folder = registry.fetch_backbone(model)
        if folder.parent.name == "snapshots":
            row |= {"state": "cached", "cache": str(folder)}
    except BadInput as error:
        row |= {"state": "failed", "reason": str(error)}
    own = {name: named_task(name, study.own_tasks, study.folder, registry.task_of) for name in study.own_tasks}
    names = study.named_tasks
    fetched = task_verify.prefetch(own[name] if name in own else registry.task_of(name) for name in names)
    return [row, *({"what": "task"} | task for task in fetched)]


def _study_of(study: Study | Prepared) -> Study:
    return study.study if isinstance(study, Prepared) else study


def _bank() -> int:
    """The default number of deltas in a bank: a GPU has room for more work at once."""
    return 16 if torch.cuda.is_available() else 8


def _workers(study: Study, chosen: Sequence[str] | None) -> dict[str, Any]:
    """The number of workers on this machine and their devices.

    With GPUs: one per worker, or all for one worker if a delta needs several. On a CPU: as many workers as the cores
    allow if a worker is a group of processes, otherwise the default of the engine.
    """
    count, visible = torch.cuda.device_count(), os.environ.get("CUDA_VISIBLE_DEVICES")
    if not chosen and (not count or study.backbone.device == "cpu"):
        cores = len(os.sched_getaffinity(0))
        return {"workers": max(1, cores // study.processes)} if study.processes > 1 else {}
    if not chosen and (study.processes > 1 or study.backbone.device is not None):
        return {"workers": 1}
    devices = chosen or (visible.split(",")[:count] if visible else list(map(str, range(count))))
    return {"workers": len(devices), "devices": devices}
