"""Real cells that tell what they are about and make trouble when asked; and what of their stores must be equal."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import time
from pathlib import Path
from unittest import mock

import picostudy
import torch

from deltacompose.cells import carry_out as work
from deltacompose.cells.grouping import by_expression
from deltacompose.engine import Work
from deltacompose.store import Store
from deltacompose.study.recipe import Recipe
from deltacompose.training import loop as training

EVERY = 6
TIMES = {"seconds", "peak_memory"}
"""What differs between two runs of one training."""


def study(folder, **changes):
    """69 small cells in a folder: trainings of one stage and of two, transfer, untouched and random deltas."""
    given = {
        "tasks": ("mood", "tone", "turn"),
        "compositions": ("bitfit", "lora(rank=2) >> bitfit"),
        "training": Recipe(steps=4 * EVERY, batch=4, evaluate_every=EVERY, limit=32),
    }
    return picostudy.make(folder, **given | changes)


def job_of(function="realwork:carry_out"):
    """How a study's cells are carried out with this file in between."""
    return Work(function, group=by_expression)


def contents(store):
    """What of a store must not depend on how it came about: all but times, memory and hosts.

    Weights and predictions are files, whose checksums are compared.
    """
    kept = ("kind", "spec", "parents", "state")
    return {
        record["key"]: [record[name] for name in kept] + [_timeless(record["result"]), _files(store, record)]
        for record in store.records()
    }


def _files(store, record):
    told = {
        name: _timeless(json.loads((store.folder(record["key"]) / name).read_text()))
        for name in record["files"]
        if name == "delta.json"
    }
    return record["files"] | told


def _timeless(value):
    if isinstance(value, dict):
        return {name: _timeless(one) for name, one in value.items() if name not in TIMES}
    return [_timeless(one) for one in value] if isinstance(value, list) else value


# Telling


def carry_out(spec):
    """Carries out cells as `deltacompose.cells.carry_out` does; `options["marks"]` names a folder for marks."""
    marks = spec["options"].get("marks")
    if marks:
        with open(Path(marks) / "begun", "a") as file:
            file.writelines(f"{cell['key']} {os.getpid()}\n" for cell in spec["cells"])
    with _telling(Path(marks)) if marks else contextlib.nullcontext():
        return work.carry_out(spec)


def begun(marks):
    """For each cell the processes that began it, in their order."""
    found = {}
    for line in (marks / "begun").read_text().splitlines():
        key, _, process = line.partition(" ")
        found.setdefault(key, []).append(int(process))
    return found


@contextlib.contextmanager
def _telling(marks):
    mine, notes = marks / str(os.getpid()), marks / "notes"

    def about(phase, function):
        def told(*given, **named):
            mine.write_text(phase)
            try:
                return function(*given, **named)
            finally:
                mine.write_text("idle")

        return told

    def learn(attachment, group):
        _stand(marks, group)
        step(attachment, group)
        with open(notes, "a") as file:
            for one, _ in group:
                cell = f"{one.job.expression}/{one.job.reader.task.name}/{one.job.seed}".replace(" ", "")
                file.write(f"{cell} {one.step}\n")

    step = about("step", training.learn)
    with (
        mock.patch.object(training, "learn", learn),
        mock.patch.object(Store, "save_checkpoints", about("checkpoint", Store.save_checkpoints)),
        mock.patch.object(Store, "add", about("write", Store.add)),
    ):
        mine.write_text("idle")
        yield


def _stand(marks, group):
    """Stands still inside the first step after a checkpoint for as long as the file `stand` is there, and says so."""
    while (marks / "stand").exists() and group[0][0].step == EVERY + 1:
        (marks / "standing").touch()
        time.sleep(0.01)


# Trouble


def greedy(spec):
    """Has memory for passes of two deltas."""

    def small(attachment, group):
        if len(group) > 2:
            raise torch.OutOfMemoryError("no room for so many deltas")
        step(attachment, group)

    step = training.learn
    with mock.patch.object(training, "learn", small):
        return work.carry_out(spec)


def hesitant(spec):
    """Is in a step of the task `mood` with seed 1 when its time is up, the first `options["times"]` times.

    The signal of the time limit is sent by itself: on a busy machine an honest cell may take any time.
    """
    return _troubled(spec, lambda: signal.raise_signal(signal.SIGALRM))


def unreliable(spec):
    """Loses the network in a step of the task `mood` with seed 1, the first `options["times"]` times."""

    def away():
        raise OSError("the network is away")

    return _troubled(spec, away)


def _troubled(spec, act):
    options = spec["options"]
    seen = Path(options["folder"]) / "troubles"

    def troubled(attachment, group):
        job, times = group[0][0].job, len(seen.read_text()) if seen.exists() else 0
        if (job.reader.task.name, job.seed, group[0][0].step) == ("mood", 1, 3) and times < options["times"]:
            seen.write_text("x" * (times + 1))
            act()
        step(attachment, group)

    step = training.learn
    with mock.patch.object(training, "learn", troubled):
        return work.carry_out(spec)
