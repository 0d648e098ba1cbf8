"""Cells in persistent processes of this machine."""

from __future__ import annotations

import contextlib
import json
import os
import queue
import signal
import subprocess
import sys
import threading
from collections.abc import Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from multiprocessing import Pipe
from multiprocessing.connection import Connection
from typing import Any

from deltacompose.engine.executor import Executor, WorkerDied, answer, environment, follow, value
from deltacompose_plugins.engines.options import checked, environments, late


def pool(options: Mapping[str, Any]) -> Executor:
    """Cells in processes of this machine, which persist because importing torch takes seconds.

    Options: `workers` (one per device, else one per core); `threads` of each (1); `devices`, a list of texts for
    CUDA_VISIBLE_DEVICES that the workers take in turn.
    """
    checked("pool", options, ("workers", "threads", "devices"))
    return Pool(environments(options))


class Pool:
    """Persistent processes, each served by one thread of this process; a dead one is replaced at its next call.

    Each entry of `environments` makes a worker, with those environment variables set before anything is imported.
    """

    def __init__(self, environments: Sequence[Mapping[str, str]]) -> None:
        workers = len(environments)
        self.slots = workers
        self._environments = environments
        self._free: queue.SimpleQueue[int] = queue.SimpleQueue()
        for index in range(workers):
            self._free.put(index)
        self._workers: dict[int, _Worker] = {}
        self._threads = ThreadPoolExecutor(workers, thread_name_prefix="pool")
        self._lock = threading.Lock()
        self._closed = False

    def submit(self, function: str, spec: dict[str, Any]) -> Future[Any]:
        return self._threads.submit(self._call, function, spec)

    def _call(self, function: str, spec: dict[str, Any]) -> Any:
        index = self._free.get()
        try:
            reply = self._worker(index).ask({"function": function, "spec": spec}, spec.get("limit"))
            if "OutOfMemoryError" in reply.get("error", {}).get("kinds", ()):
                self._workers[index].kill()  # what it holds on the device is lost only with it
            return value(reply)
        finally:
            self._free.put(index)

    def _worker(self, index: int) -> _Worker:
        with self._lock:
            if self._closed:
                raise WorkerDied("the pool was closed")
            if index not in self._workers or not self._workers[index].alive:
                self._workers[index] = _Worker(self._environments[index])
            return self._workers[index]

    def close(self) -> None:
        with self._lock:
            self._closed = True
            for worker in self._workers.values():
                worker.kill()
        self._threads.shutdown(wait=True, cancel_futures=True)


class _Worker:
    """One process that answers calls, JSON over a pipe, in a process group of its own."""

    def __init__(self, variables: Mapping[str, str]) -> None:
        self._pipe, far_end = Pipe()
        numbers = [str(far_end.fileno()), str(os.getpid())]
        command = [sys.executable, "-m", __name__, *numbers]
        # Its output goes to stderr: stdout may be a user's JSON. Ctrl-C reaches only the driver, which stops the group.
        options: dict[str, Any] = {"env": environment(**variables), "stdout": 2, "start_new_session": True}
        self._process = subprocess.Popen(command, pass_fds=[far_end.fileno()], stdin=subprocess.DEVNULL, **options)
        far_end.close()
        self._killed = False

    @property
    def alive(self) -> bool:
        return self._process.poll() is None

    def ask(self, request: Mapping[str, Any], limit: float | None) -> dict[str, Any]:
        try:
            self._pipe.send_bytes(json.dumps(request).encode())
            if not self._pipe.poll(limit):
                self.kill()
                raise TimeoutError(late(limit or 0.0))
            reply: dict[str, Any] = json.loads(self._pipe.recv_bytes())
        except (EOFError, ConnectionError):
            self.kill()
            raise WorkerDied(f"worker {self._process.pid} ended by {_ending(self._process.returncode)}") from None
        return reply

    def kill(self) -> None:
        """End the process with all that it started."""
        if not self._killed:
            self._killed = True
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()


def _ending(status: int) -> str:
    return signal.Signals(-status).name if status < 0 else f"exit status {status}"


def serve(pipe: Connection, parent: int) -> None:
    """A worker's whole life: answer calls until the pool closes the pipe or its process is gone."""
    os.set_inheritable(pipe.fileno(), False)
    follow(parent)
    with contextlib.suppress(EOFError, ConnectionError):
        while True:
            request = json.loads(pipe.recv_bytes())
            pipe.send_bytes(json.dumps(answer(request["function"], request["spec"])).encode())


if __name__ == "__main__":
    serve(Connection(int(sys.argv[1])), int(sys.argv[2]))
