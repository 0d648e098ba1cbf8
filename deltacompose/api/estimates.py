"""Estimates of what a study will take: time, memory, parameters, and what does not fit.

Facts that need torch are computed once for the same study, files and code, and recalled from then on.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from typing import Any, TypeVar

from pydantic import TypeAdapter

from deltacompose import registry
from deltacompose.cache.remembered import remembered
from deltacompose.cells.calibration import calibrated, speeds
from deltacompose.cells.process_memory import process_bytes
from deltacompose.planning.cost import Cost, cost, looks
from deltacompose.planning.facts import Facts
from deltacompose.planning.fitting import PROCESS, Greediest, advice, greediest
from deltacompose.planning.plan import Prepared
from deltacompose.store.store import Store
from deltacompose.study import machine
from deltacompose.study.config import Study
from deltacompose.validation import plain

T = TypeVar("T")

_MARGIN = 4
"""How many times less a training may take by the formula than it does."""


def cost_of(
    study: Study | Prepared, store: Store | None = None, workers: int | None = None, bank: int | None = None
) -> Cost:
    """The estimated time and memory for the cells of a study that are missing from a store.

    Args:
        workers: the number of workers for the estimate; if None, one per GPU, or without a GPU one per core.
        bank: the number of deltas trained in one pass, for the estimate of memory; if None, as in `run`.
    """
    prepared = _prepared(study, store)
    asked, known, bank = prepared.study, prepared.facts, bank or default_bank()
    workers = workers or workers_of(asked, None).get("workers") or len(os.sched_getaffinity(0))
    largest = _largest(prepared, bank)
    gpu = _on_gpu(asked)
    calibration = calibrated(asked.backbone.dtype, "cuda" if gpu else "cpu")
    lengths = {name: task.lengths for name, task in known.tasks.items()}

    def rates() -> dict[str, float]:
        return speeds(calibration, known.shape, lengths, asked.training.batch, bank, looks(asked, known))

    estimate = cost(prepared.plan, None if known.absent else store, rates, workers, largest.peak)
    remarks = [
        f"{known.absent}: keys are not final, and stored cells are not counted" if known.absent else "",
        unfit(prepared, workers, bank),
        slow_precision(asked),
    ]
    parameters = tuple(
        {"composition": text, "parameters": delta.trained, "share": f"{delta.trained / known.shape.total:.2%}"}
        for text, delta in known.deltas.items()
    )
    speed = f"{calibration}, {asked.backbone.dtype} on {calibration.machine}"
    return replace(estimate, speed=speed, parameters=parameters, remarks=tuple(filter(None, remarks)))


def unfit(prepared: Prepared, workers: int, bank: int) -> str:
    """A sentence where the largest training does not fit into what is free here, with the setting that helps; or ""."""
    largest, gpu = _largest(prepared, bank), _on_gpu(prepared.study)
    room = machine.free_bytes(gpu)
    return advice(prepared.study, prepared.facts, registry.parse, largest, room, workers, gpu)


def slow_precision(study: Study) -> str:
    """A sentence where this machine has no instructions for products in the precision of a study's backbone; or ""."""
    if study.backbone.dtype != "bfloat16" or machine.multiplies_bfloat16(study.backbone.device):
        return ""
    return (
        f"study {study.name!r}: this processor has no instructions for bfloat16, whose products take many times as "
        "long here as those in float32; write `dtype: auto`, which is bfloat16 where a processor has them"
    )


def unfit_to_run(prepared: Prepared, workers: int, bank: int) -> str:
    """As `unfit`, without looking closely where a formula says that there is several times the room."""
    room = machine.free_bytes(_on_gpu(prepared.study)) / workers
    rough = greediest(prepared.study, prepared.facts, registry.parse, bank, _on_gpu(prepared.study)).bytes
    return "" if _MARGIN * rough + PROCESS <= room else unfit(prepared, workers, bank)


def _largest(prepared: Prepared, bank: int) -> Greediest:
    largest = Greediest(**_recalled("memory", prepared, lambda: _greediest(prepared, bank), bank))
    return replace(largest, process=0.0 if _on_gpu(prepared.study) else process_bytes())


def _on_gpu(study: Study) -> bool:
    return machine.has_gpu() and study.backbone.device != "cpu"


def notes(study: Study | Prepared) -> list[str]:
    """Sentences to read before a study runs: parts of a composition that train the same parameters, trainings that are
    shared, and the growth of the plan."""
    prepared = _prepared(study, None)
    return _recalled("notes", prepared, lambda: _notes(prepared))


def default_bank() -> int:
    """The default number of deltas in a bank: a GPU has room for more work at once."""
    return 16 if machine.has_gpu() else 8


def workers_of(study: Study, chosen: Sequence[str] | None) -> dict[str, Any]:
    """The number of workers on this machine and their devices.

    With GPUs: one per worker, or all for one worker if a delta needs several. On a CPU: as many workers as the cores
    allow if a worker is a group of processes, otherwise the default of the engine.
    """
    count, visible = machine.gpus(), os.environ.get("CUDA_VISIBLE_DEVICES")
    if not chosen and (not count or study.backbone.device == "cpu"):
        cores = len(os.sched_getaffinity(0))
        return {"workers": max(1, cores // study.processes)} if study.processes > 1 else {}
    if not chosen and (study.processes > 1 or study.backbone.device is not None):
        return {"workers": 1}
    devices = chosen or (visible.split(",")[:count] if visible else list(map(str, range(count))))
    return {"workers": len(devices), "devices": devices}


def _prepared(study: Study | Prepared, store: Store | None) -> Prepared:
    if isinstance(study, Prepared):
        return study
    from deltacompose.api.planned import prepare

    return prepare(study, store)


def _recalled(kind: str, prepared: Prepared, find: Callable[[], T], *more: Any) -> T:
    """Facts of a prepared study, recalled if the code and files are the same, else computed."""
    code = registry.code()
    if code is None:
        return find()
    facts = TypeAdapter(Facts).validate_python(asdict(prepared.facts))  # numbers as recalled facts have them
    return remembered(kind, [plain(prepared.study), asdict(facts), code, *more], find)


def _greediest(prepared: Prepared, bank: int) -> dict[str, Any]:
    from deltacompose.cells.study_facts import greediest_of

    return asdict(greediest_of(prepared.study, prepared.facts, bank))


def _notes(prepared: Prepared) -> list[str]:
    from deltacompose.api.planned import notes_now

    return notes_now(prepared)
