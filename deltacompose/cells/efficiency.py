"""Cells of kind `efficiency`: what training one delta costs, measured in a process that trains nothing else.

    python -m deltacompose.cells.efficiency < spec.json

reads a training cell's spec and where its backbone and tasks come from, takes a few steps, and prints the result.
"""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch

from deltacompose import registry
from deltacompose.attach.attachment import attach
from deltacompose.cells.context import check
from deltacompose.cells.loaded import backbone_of, reader_as_planned
from deltacompose.cells.train import TrainSpec
from deltacompose.cells.use_cost import cost_of_use, operations
from deltacompose.cells.worker_sources import Sources
from deltacompose.errors import BadInput
from deltacompose.store.store import Store
from deltacompose.study.config import Cell
from deltacompose.training.learner import Job, Learner
from deltacompose.training.loop import learn
from deltacompose.training.memory import count_anew, peak

WARM_UP = 3
"""Steps that are not timed: allocators and caches are cold in the first ones."""


def carry(store: Store, cells: Sequence[Cell], sources: Sources) -> None:
    """Measures what training one delta costs, in a fresh process for each cell.

    Raises:
        BadInput: a measurement failed; has its last message.
    """
    for cell in cells:
        started = time.monotonic()
        request = json.dumps({"spec": cell.spec, "options": sources.plain()})
        command = [sys.executable, "-m", "deltacompose.cells.efficiency"]
        ended = subprocess.run(command, input=request, capture_output=True, text=True, check=False)
        if ended.returncode:
            last = ended.stderr.strip().splitlines()[-1:] or [f"exit status {ended.returncode}"]
            raise BadInput(f"measuring {cell.spec['composition']} alone failed: {last[0]}")
        store.add(cell, json.loads(ended.stdout.splitlines()[-1]), seconds=time.monotonic() - started)


def measured(plain: Mapping[str, Any], sources: Sources) -> dict[str, Any]:
    """Parameters, bytes, operations and seconds of one delta, in training and in use.

    Args:
        plain: the spec of a training cell.

    Returns:
        `parameters`, `ratio` (to the backbone's), `seconds_per_step` (median), `peak_memory` (bytes of the process, or
        of the device, while it trains), `backbone_memory` (those held before), `checkpoint` (bytes on disk), `threads`;
        `training_operations` of one step, and those of `cost_of_use`.
    """
    spec, backbone = TrainSpec.of(plain), backbone_of(sources.backbone)
    check(backbone, [Cell("efficiency", plain)])
    reader = reader_as_planned(backbone, spec.data, spec.task, sources.own_tasks)
    before = count_anew(backbone.model.device)
    learner = Learner(backbone, Job(registry.parse(spec.composition), reader, spec.seed, spec.recipe))
    attachment = attach(backbone, learner.job.expression)
    seconds: list[float] = []
    counted = 0
    try:
        for step in range(learner.recipe.steps):
            started = time.perf_counter()
            batch = learner.batch()
            if step:
                learn(attachment, [(learner, batch)])
            else:  # the first step is not timed, so its operations can be counted
                counted = operations(partial(learn, attachment, [(learner, batch)]))
            seconds.append(time.perf_counter() - started)
        highest = peak(backbone.model.device)
    finally:
        attachment.detach()
    if learner.failure:
        raise learner.failure
    with TemporaryDirectory() as folder:
        registry.with_origins(learner.delta()).save(folder)
        size = sum(path.stat().st_size for path in Path(folder).iterdir())
    return {
        "parameters": learner.size,
        "ratio": learner.size / sum(x.numel() for x in backbone.model.parameters()),
        "seconds_per_step": statistics.median(seconds[WARM_UP:] or seconds),
        "peak_memory": highest,
        "backbone_memory": before,
        "checkpoint": size,
        "threads": torch.get_num_threads(),
        "training_operations": counted,
        **cost_of_use(reader, learner.delta()),
    }


if __name__ == "__main__":
    asked = json.load(sys.stdin)
    print(json.dumps(measured(asked["spec"], Sources.read(asked["options"]))))
