"""The contract of an executor: `submit(function, spec) -> Future`, and what happens at its far end."""

from __future__ import annotations

import errno
import importlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
import traceback
from collections.abc import Mapping, Sequence
from concurrent.futures import Future
from pathlib import Path
from typing import Any, Protocol

from deltacompose.errors import BadInput
from deltacompose.study.config import LAUNCHED

FAILURE = "error.json"
"""Where the first of several processes that fails leaves its exception."""

TAIL = 4000
"""How many characters of a failed process's messages are kept."""


class Executor(Protocol):
    """Somewhere to call functions: this process, others, a cluster.

    Attributes:
        slots: how many calls it can have under way; it may change while workers come and go.
    """

    @property
    def slots(self) -> int:
        """How many calls can be under way now."""
        ...

    def submit(self, function: str, spec: dict[str, Any]) -> Future[Any]:
        """Call `"package.module:name"` with a JSON-able mapping; where that has a `limit`, for so many seconds at most.

        A failure in the worker becomes the future's exception: any exception in the call, `WorkerDied`,
        `TimeoutError`. Exceptions raised by `submit` itself ends the run.
        """

    def close(self) -> None:
        """Stop at once, whatever is under way, and leave no process behind. May be called again."""


class WorkerDied(OSError):
    """A worker process ended while it was at work: killed, out of memory, crashed."""


class UnfitWorker(BadInput):
    """A worker lacks something that the study needs, so no cell should be sent there."""


class RemoteError(Exception):
    """An exception at the far end, told in words. `str` is its message; its traceback is a note.

    Attributes:
        kinds: the names of its class and of that class's bases.
        errno: the system's number of an `OSError`.
    """

    def __init__(self, kinds: Sequence[str], message: str, trace: str, number: int | None = None) -> None:
        super().__init__(message)
        self.kinds = tuple(kinds)
        self.errno = number
        self.add_note(trace)

    @property
    def kind(self) -> str:
        """The name of its class."""
        return self.kinds[0]


def kinds(error: BaseException) -> tuple[str, ...]:
    """The names of an exception's class and of its bases, also of one from the far end."""
    return error.kinds if isinstance(error, RemoteError) else tuple(base.__name__ for base in type(error).__mro__)


def may_pass(error: BaseException) -> bool:
    """Whether the same call may go well another time. `WorkerDied` and `TimeoutError` are `OSError`s."""
    return not {"OSError", "MemoryError", "OutOfMemoryError", "CancelledError"}.isdisjoint(kinds(error))


def disk_is_full(error: BaseException) -> bool:
    """Whether there was no room on a disk, or none left for this user."""
    return getattr(error, "errno", None) in (errno.ENOSPC, errno.EDQUOT)


def call(function: str, spec: Mapping[str, Any]) -> Any:
    """Import and call a function; under torchrun where the spec asks for several `processes`."""
    if spec.get("processes", 1) > 1 and LAUNCHED not in os.environ:
        return launched(function, spec, spec["processes"])
    module, _, name = function.partition(":")
    return getattr(importlib.import_module(module), name)(spec)


def answer(function: str, spec: Mapping[str, Any]) -> dict[str, Any]:
    """Answer of a worker: the value, or the exception in words. Raises only exceptions that end the process."""
    try:
        return {"value": call(function, spec)}
    except Exception as error:
        reported = {"kinds": kinds(error), "message": str(error), "number": getattr(error, "errno", None)}
        return {"error": reported | {"trace": traceback.format_exc()}}


def value(answer: Mapping[str, Any]) -> Any:
    """The value in an answer; the exception in it is raised as `RemoteError`."""
    if "error" in answer:
        raise RemoteError(**answer["error"])
    return answer["value"]


def launched(function: str, spec: Mapping[str, Any], processes: int) -> None:
    """Call a function in several processes at once under `torch.distributed.run`, and wait for them.

    Every process gets the same spec and finds its rank in the environment; what they give is in the store. The first
    exception in any of them ends them all, and is raised here as `RemoteError`.
    """
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "spec.json"
        path.write_text(json.dumps(dict(spec)))
        launcher = ["torch.distributed.run", "--standalone", "--nproc-per-node", str(processes)]
        command = [sys.executable, "-m", *launcher, "-m", "deltacompose.engine.torchrun", function, str(path)]
        own = environment(**{LAUNCHED: "1"})
        ended = subprocess.run(command, capture_output=True, text=True, errors="replace", env=own)
        if ended.returncode and (failure := path.with_name(FAILURE)).exists():
            value(json.loads(failure.read_bytes()))
    if ended.returncode:
        tail = (ended.stderr or ended.stdout)[-TAIL:]
        raise RuntimeError(f"{processes} processes under torchrun ended with status {ended.returncode}: {tail}")


def environment(**further: str) -> dict[str, str]:
    """This process's environment for a new interpreter that finds the same modules as this one."""
    return os.environ | {"PYTHONPATH": os.pathsep.join(path or os.getcwd() for path in sys.path)} | further


def follow(parent: int) -> None:
    """From now on end this process, with those that it started, when the one that started it is gone."""

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(0.2)
        if os.getpgrp() == os.getpid():
            os.killpg(0, signal.SIGKILL)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()
