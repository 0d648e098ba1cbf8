"""The processes of `deltacompose.engine.launched` as forks of one process, in place of an interpreter for each.

Under torchrun the launcher and each of its processes import torch, and those that train import transformers: seconds of
computing each. The forks come from a server that has imported both and computed nothing, so that no thread and no lock
is copied. `tests/engine/test_driver.py` starts processes by torchrun itself.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import runpy
import subprocess
import sys
import tempfile
import types
from multiprocessing import connection
from pathlib import Path
from unittest import mock

from deltacompose.engine import executor

PRELOADED = ("shardwork", "picostudy", "deltacompose.cells.carry_out", "torch.distributed.tensor")
CONTEXT = multiprocessing.get_context("forkserver")
CONTEXT.set_forkserver_preload(list(PRELOADED))


@contextlib.contextmanager
def in_place_of_torchrun():
    """Within it `deltacompose.engine.launched` forks its processes."""
    with mock.patch.object(executor, "subprocess", types.SimpleNamespace(run=run)):
        yield


def run(command, env, **_):
    """The completed process of a torchrun command, as `subprocess.run` returns it, run by forks."""
    from torch.distributed import TCPStore

    size, words = int(command[command.index("--nproc-per-node") + 1]), command[-2:]
    store = TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
    shared = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(store.port), "TORCHELASTIC_USE_AGENT_STORE": "True"}
    shared |= {"WORLD_SIZE": str(size), "LOCAL_WORLD_SIZE": str(size), "OMP_NUM_THREADS": "1"}
    with tempfile.TemporaryDirectory() as folder:
        output = Path(folder) / "output"
        ranks = []
        for rank in range(size):
            own = env | shared | {"RANK": str(rank), "LOCAL_RANK": str(rank)}
            ranks.append(CONTEXT.Process(target=_rank, args=(words, own, str(output))))
            ranks[-1].start()
        status = _ended(ranks)
        return subprocess.CompletedProcess(command, status, "", output.read_text(errors="replace"))


def _ended(ranks):
    """The exit status of the first process that fails, after which the others are killed; 0 if none fails."""
    running, status = {process.sentinel: process for process in ranks}, 0
    while running:
        for sentinel in connection.wait(list(running)):
            process = running.pop(sentinel)
            process.join()
            status = status or process.exitcode
        if status:
            for process in running.values():
                process.kill()
    return status


def _rank(words, environment, output):
    """Runs the work of `python -m deltacompose.engine.torchrun` in a fork."""
    import torch

    written = os.open(output, os.O_CREAT | os.O_WRONLY | os.O_APPEND, 0o600)
    os.dup2(written, 1)
    os.dup2(written, 2)
    os.environ.clear()
    os.environ.update(environment)
    torch.set_num_threads(1)
    sys.argv = ["torchrun", *words]
    runpy.run_module("deltacompose.engine.torchrun", run_name="__main__")
