"""Planning and running studies."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from deltacompose import registry
from deltacompose.api.estimates import default_bank, slow_precision, unfit_to_run, workers_of
from deltacompose.api.observers import observers
from deltacompose.api.planned import prepare
from deltacompose.cells.carry_out import under_way
from deltacompose.cells.grouping import by_expression, processes_of
from deltacompose.cells.worker_sources import options_of
from deltacompose.engine import Outcome, Work, run_plan
from deltacompose.errors import BadInput
from deltacompose.planning.plan import Prepared
from deltacompose.store.store import open_store
from deltacompose.study.config import Study
from deltacompose.task import verify as task_verify
from deltacompose.task.named import named_task

_HERE = ("inprocess", "pool")
"""The engines whose workers are on this machine, so that its memory is theirs."""


def run(
    study: Study | Prepared | str | Path,
    store: str | Path,
    engine: str = "inprocess",
    *,
    bank: int | None = None,
    tokens: int | None = None,
    timeout: float | None = None,
    attempts: int | None = None,
    backoff: float | None = None,
    progress: Callable[[Mapping[str, Any]], None] | bool | None = None,
    log_to: str | Sequence[str] = (),
    **options: Any,
) -> Outcome:
    """Runs the cells of a study that are missing from a store; finished cells are never computed again.

    >>> study = dc.Study("one", ["sentiment_movie"], ["bitfit"], **tiny)
    >>> outcome = dc.run(study, folder / "store")
    >>> sorted((record["kind"], record["state"]) for record in dc.records(folder / "store"))
    [('evaluate', 'done'), ('evaluate', 'done'), ('evaluate', 'done'), ('train', 'done')]

    Args:
        study: a study, the file that holds one, or a study that `prepare` has planned without a store.
        store: the folder of the results.
        engine: `inprocess`, `pool`, `dask`, or one that a plugin gives.
        bank: the number of deltas of one expression that train in one pass; 16 on a GPU and 8 on a CPU if None.
        tokens: the maximum number of tokens in a pass, padding included.
        timeout: seconds that a cell may take.
        attempts: how often a cell is tried whose error may pass; see `run_plan`.
        backoff: seconds before the second attempt; see `run_plan`.
        progress: called with every event; if None or True, the progress is shown on stderr or in the notebook; False
            shows nothing.
        log_to: loggers, as `tensorboard`, `wandb:project`, `run.jsonl`.
        options: of the engine: `workers`, `threads`, `devices`, ...

    Raises:
        BadInput: the study, the engine or one of its options is not valid, or the store is read-only.
    """
    asked = study if isinstance(study, Study | Prepared) else Study.read(study)
    make = registry.engine_of(engine)
    limits = {"timeout": timeout, "attempts": attempts, "backoff": backoff, "tokens": tokens}
    settings: dict[str, Any] = {name: value for name, value in limits.items() if value is not None}
    settings["bank"] = default_bank() if bank is None else bank
    if engine == "pool" or (engine == "dask" and not {"scheduler", "scheduler_file"} & options.keys()):
        options = workers_of(_study_of(asked), options.get("devices")) | options
    executor = make(options)  # before the plan, whose data may take minutes to read: a missing cluster fails at once
    try:
        if (Path(store) / "store.json").exists():  # a read-only store fails before the plan, too
            open_store(store).check_writable()
        registry.fetch_backbone(_study_of(asked).backbone.model)  # workers need the weights; a plan does not
        prepared = prepare(asked)
        opened = open_store(store)
        opened.keep_labels({name: task.category for name, task in prepared.facts.tasks.items()})
        group = partial(by_expression, known=prepared.facts.tasks)
        work = Work(group=group, extend=prepared.extend, peek=under_way, processes=processes_of)
        if engine in _HERE:
            for sentence in (unfit_to_run(prepared, executor.slots, settings["bank"]), slow_precision(prepared.study)):
                if sentence:
                    logging.getLogger(__name__).warning(sentence)
        sent = options_of(prepared.study) | settings
        with observers(prepared.study.name, opened, progress, log_to) as tell:
            return run_plan(prepared.plan, opened, executor, work, sent, tell)
    finally:
        executor.close()


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
