"""What one delta costs by itself: measured in a process of its own, which trains nothing else.

    python -m deltacompose.cells.efficiency < spec.json

reads a training cell's spec and where its backbone and tasks come from, takes a few steps, and prints the result.
"""

from __future__ import annotations

import json
import statistics
import sys
import time
from collections.abc import Mapping
from tempfile import TemporaryDirectory
from typing import Any

import torch

from deltacompose import registry
from deltacompose.attach.attachment import attach
from deltacompose.cells import carry_out as work
from deltacompose.study.config import Cell
from deltacompose.study.recipe import Recipe
from deltacompose.training.learner import Job, Learner
from deltacompose.training.loop import learn
from deltacompose.training.memory import count_anew, peak

WARM_UP = 3
"""Steps that are not timed: allocators and caches are cold in the first ones."""


def measured(spec: Mapping[str, Any], options: Mapping[str, Any]) -> dict[str, Any]:
    """Parameters, bytes and seconds of one delta in training.

    Returns:
        `parameters`, `ratio` (to the backbone's), `seconds_per_step` (median), `peak_memory` (bytes of the process, or
        of the device, while it trains), `backbone_memory` (those held before), `checkpoint` (bytes on disk), `threads`.
    """
    read = work.reader_of(Cell("efficiency", spec), options)
    before = count_anew(read.backbone.model.device)
    learner = Learner(
        read.backbone, Job(registry.parse(spec["composition"]), read, spec["seed"], Recipe(**spec["recipe"]))
    )
    attachment = attach(read.backbone, learner.job.expression)
    seconds = []
    try:
        for _ in range(learner.recipe.steps):
            started = time.perf_counter()
            learn(attachment, [(learner, learner.batch())])
            seconds.append(time.perf_counter() - started)
    finally:
        attachment.detach()
    if learner.failure:
        raise learner.failure
    with TemporaryDirectory() as folder:
        size = sum(path.stat().st_size for path in registry.with_origins(learner.delta()).save(folder).iterdir())
    return {
        "parameters": learner.size,
        "ratio": learner.size / sum(x.numel() for x in read.backbone.model.parameters()),
        "seconds_per_step": statistics.median(seconds[WARM_UP:] or seconds),
        "peak_memory": peak(read.backbone.model.device),
        "backbone_memory": before,
        "checkpoint": size,
        "threads": torch.get_num_threads(),
    }


if __name__ == "__main__":
    asked = json.load(sys.stdin)
    print(json.dumps(measured(asked["spec"], asked["options"])))
