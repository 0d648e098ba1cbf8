"""The memory that a worker takes besides weights and deltas: Python, torch, and what their first training adds.

    python -m deltacompose.cells.process_memory

trains a delta of a pico backbone, whose tensors take less than a megabyte, and prints the most bytes that its process
held. They are measured once per machine and version of torch and transformers, and remembered.
"""

from __future__ import annotations

import platform
import subprocess
import sys
from importlib.metadata import version

from deltacompose.cache.remembered import remembered
from deltacompose.errors import BadInput
from deltacompose.study import machine

STEPS = 2


def process_bytes() -> int:
    """Bytes of a worker's process without weights and deltas, measured now (some seconds) if they were not before.

    Raises:
        BadInput: a process cannot be started, or ends in an error.
    """
    inputs = [machine.processor(), platform.python_version(), version("torch"), version("transformers")]
    return remembered("process", inputs, _measured, int)


def _measured() -> int:
    command = [sys.executable, "-m", "deltacompose.cells.process_memory"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        reason = (done.stderr.strip().splitlines() or [f"exit status {done.returncode}"])[-1]
        raise BadInput(f"cannot measure the memory of a process: {reason}")
    return int(done.stdout.splitlines()[-1])


def _most_bytes() -> int:
    """The most bytes that this process has held after a training of a pico backbone."""
    import torch

    from deltacompose import registry
    from deltacompose.backbone.pico import pico_backbone
    from deltacompose.scoring import reader
    from deltacompose.study.recipe import Recipe
    from deltacompose.task import Example, Task
    from deltacompose.training import train
    from deltacompose.training.learner import Job
    from deltacompose.training.memory import peak

    torch.set_num_threads(1)
    rows = tuple(Example(str(i), "some words " * (1 + i % 4), ("no", "yes")[i % 2]) for i in range(8))
    words = {"no": "no", "yes": "yes"}
    task = Task("pico", "made", "choice", "accuracy", lambda split: rows, verbalizer=words)
    backbone = pico_backbone("llama")
    recipe = Recipe(steps=STEPS, batch=4, evaluate_every=STEPS)
    train(backbone, [Job(registry.parse("lora"), reader(backbone, task, 32), 0, recipe)])
    return peak(torch.device("cpu"))


if __name__ == "__main__":
    print(_most_bytes())
