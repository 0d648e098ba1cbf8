"""Cells on a dask cluster."""

from __future__ import annotations

import contextlib
import json
import logging
import signal
import socket
import threading
from collections.abc import Callable, Mapping
from concurrent.futures import Future, InvalidStateError
from pathlib import Path
from typing import Any

from deltacompose.engine.executor import Executor, UnfitWorker, WorkerDied, answer, value
from deltacompose.errors import BadInput
from deltacompose_plugins.engines.options import checked, environments, late, variables
from deltacompose_plugins.engines.security import TLS, check_address, security

RUNNING = ("scheduler", "scheduler_file", *TLS, "insecure")
LOCAL = ("workers", "threads", "devices")
DEADLINE = 9.0
"""Seconds within which a scheduler must answer, however long its workers may take to come."""

CLOSING = 120.0
"""Seconds in which the processes of a local cluster have ended, also on a machine that does other work."""

LOCAL_WAIT = 300.0
"""Seconds for the first worker of a local cluster to start, also on a machine that does other work."""


def dask(options: Mapping[str, Any]) -> Executor:
    """Cells on a dask cluster: one of this machine's processes, or the cluster of a scheduler that runs already.

    Options: `scheduler`, an address, or `scheduler_file`; `wait`, seconds to wait for its workers (10), not for the
    scheduler itself; without either, `workers`, `threads` and `devices` of a local cluster, as the engine `pool` has
    them, for which a script must keep its main part under `if __name__ == "__main__"`. The workers of a scheduler that
    runs already get their devices where they are started, by CUDA_VISIBLE_DEVICES.

    A scheduler on another machine must have TLS, where `tls_ca_file`, `tls_cert` and `tls_key` are PEM files, or be
    accepted by `insecure`. A local cluster listens on 127.0.0.1 alone.
    """
    checked("dask", options, (*RUNNING, "wait", *LOCAL))
    try:
        import distributed  # noqa: F401
    except ImportError:
        raise BadInput("the engine 'dask' needs the extra 'cluster': pip install 'deltacompose[cluster]'") from None
    return Dask(options)


class Dask:
    """Calls on the workers of a dask scheduler. One that ran before us keeps running, with what it has under way."""

    def __init__(self, options: Mapping[str, Any]) -> None:
        self._wait = float(options.get("wait") or (10 if _is_running(options) else LOCAL_WAIT))
        self._cluster: Any = None if _is_running(options) else _local_cluster(options)
        self._client = self._connected(options)
        self._plugins = plugins()
        self._late: set[str] = set()
        self._slots = 1
        try:
            self._check_workers()
        except BaseException:
            self.close()
            raise

    def _connected(self, options: Mapping[str, Any]) -> Any:
        from distributed import Client

        connect: Any = Client
        if self._cluster is not None:
            return connect(self._cluster, set_as_default=False)
        where = options.get("scheduler") or _address(options["scheduler_file"])
        check_address(where, options)
        how: dict[str, Any] = {"timeout": DEADLINE - 1, "set_as_default": False}
        if (secured := security(options)) is not None:
            how["security"] = secured
        try:
            return _within(DEADLINE, lambda: connect(where, **how))
        except (OSError, ValueError) as error:
            raise BadInput(
                f"no dask scheduler answers at {where} ({_first_line(error)}); start one by `dask scheduler` and "
                f"`dask worker`, or use the local engine 'pool'"
            ) from None

    def _check_workers(self) -> None:
        """Refuse workers that lack what this process has, before any cell is sent to them."""
        try:
            self._client.wait_for_workers(1, timeout=self._wait)
        except TimeoutError:
            raise BadInput("the dask scheduler has no workers; start one by `dask worker ADDRESS`") from None
        for address, installed in self._client.run(plugins, on_error="return").items():
            lack = _first_line(installed) if isinstance(installed, BaseException) else lacking(self._plugins, installed)
            if lack:
                raise UnfitWorker(f"the dask worker at {address} cannot take part: {lack}")

    @property
    def slots(self) -> int:
        """How many threads the cluster's workers have now; after closing, the last number known."""
        if self._client.status == "running":  # when it is closed the run still says how it ended
            self._slots = max(1, int(sum(self._client.nthreads().values())))
        return self._slots

    def submit(self, function: str, spec: dict[str, Any]) -> Future[Any]:
        if self._client.status != "running":
            raise BadInput(f"the connection to the dask scheduler is {self._client.status}; finished cells are kept")
        future: Future[Any] = Future()
        task = self._client.submit(carry, function, spec, self._plugins, pure=False)
        task.add_done_callback(lambda ended: self._ended(ended, future))
        if spec.get("limit"):
            timer = threading.Timer(spec["limit"], self._give_up, (task, future, spec["limit"]))
            timer.daemon = True
            timer.start()
            future.add_done_callback(lambda ended: timer.cancel())
        return future

    def _ended(self, task: Any, future: Future[Any]) -> None:
        if task.key not in self._late:
            _hand_over(task, future)

    def _give_up(self, task: Any, future: Future[Any], limit: float) -> None:
        """A running task ends only with its worker, which its nanny starts again."""
        workers = [address for address, keys in self._client.processing().items() if task.key in keys]
        self._late.add(task.key)
        task.cancel(force=True)
        with contextlib.suppress(ValueError):  # a worker without a nanny cannot be restarted: the call runs to its end
            self._client.restart_workers(workers, raise_for_error=False)
        _settled(future, error=TimeoutError(late(limit)))

    def close(self) -> None:
        with contextlib.suppress(TimeoutError):
            self._client.close(timeout=5)
        if self._cluster is not None:
            self._cluster.close(timeout=CLOSING)


def _is_running(options: Mapping[str, Any]) -> bool:
    running = bool(options.get("scheduler") or options.get("scheduler_file"))
    local = [name for name in LOCAL if options.get(name)]
    if not running and (alone := [name for name in (*TLS, "insecure") if options.get(name)]):
        raise BadInput(f"{', '.join(alone)} are of a running dask scheduler; name one by scheduler or scheduler_file")
    if running and local:
        raise BadInput(
            f"the workers of a running dask scheduler are set where they are started; leave out {', '.join(local)}"
        )
    return running


def _local_cluster(options: Mapping[str, Any]) -> Any:
    """Processes of this machine under a scheduler of their own; when a worker is killed, its call fails at once."""
    import dask.config
    from distributed import Nanny, Scheduler, SpecCluster

    start: Any = SpecCluster  # a LocalCluster gives all its workers one environment, and so one device
    settings = {
        "distributed.worker.daemon": False,  # a worker may start processes of its own
        "distributed.scheduler.allowed-failures": 0,
        "distributed.nanny.pre-spawn-environ": variables(options.get("threads", 1)),
    }
    here = {"host": "127.0.0.1", "protocol": "tcp://", "dashboard": False}
    scheduler = {"cls": Scheduler, "options": here | {"port": 0, "dashboard_address": "127.0.0.1:0"}}
    alone = here | {"nthreads": 1, "memory_limit": 0, "silence_logs": logging.WARN, "preload": [__name__]}
    workers = {
        number: {"cls": Nanny, "options": alone | {"env": environment}}
        for number, environment in enumerate(environments(options))
    }
    with dask.config.set(settings):
        return start(workers=workers, scheduler=scheduler, silence_logs=logging.WARN)


def dask_setup(worker: Any) -> None:
    """Called by dask as a worker of the local cluster starts: ctrl-C is for the driver alone, which stops it."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)


def _within(seconds: float, connect: Callable[[], Any]) -> Any:
    """A client, or `TimeoutError` in time: distributed waits for ever where a port is open and nothing answers."""
    outcome: Future[Any] = Future()

    def attempt() -> None:
        try:
            outcome.set_result(connect())
        except Exception as error:
            outcome.set_exception(error)

    threading.Thread(target=attempt, daemon=True).start()
    try:
        return outcome.result(seconds)
    except TimeoutError:
        outcome.add_done_callback(lambda late: late.exception() or late.result().close())
        raise TimeoutError(f"no answer within {seconds:g} s") from None


def _address(scheduler_file: str) -> str:
    """The address in a file that `dask scheduler --scheduler-file` wrote."""
    try:
        return str(json.loads(Path(scheduler_file).read_text())["address"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise BadInput(
            f"{scheduler_file} is not a file of a dask scheduler ({_first_line(error)}); start one by "
            f"`dask scheduler --scheduler-file {scheduler_file}`, or use the local engine 'pool'"
        ) from None


def _hand_over(task: Any, future: Future[Any]) -> None:
    """Give a finished dask task's outcome to a future of the standard library."""
    if task.status == "finished":
        reply = task.result()
        try:
            _settled(future, result=value(reply))
        except Exception as error:
            _settled(future, error=error)
    else:
        reason = task.exception() if task.status == "error" else task.status
        _settled(future, error=WorkerDied(f"the call was lost with its dask worker: {reason}"))


def _settled(future: Future[Any], result: Any = None, error: BaseException | None = None) -> None:
    with contextlib.suppress(InvalidStateError):  # the limit and the end came at one moment: the first counts
        future.set_result(result) if error is None else future.set_exception(error)


def carry(function: str, spec: dict[str, Any], expected: Mapping[str, str]) -> dict[str, Any]:
    """Answers a call in a dask worker that has the driver's plugins; workers may join at any time."""
    lack = lacking(expected, plugins()) or _unseen(spec)
    if lack:
        unfit = ("UnfitWorker", "BadInput", "ValueError", "Exception")
        return {"error": {"kinds": unfit, "message": f"a dask worker on {socket.gethostname()}: {lack}", "trace": ""}}
    return answer(function, spec)


def _unseen(spec: Mapping[str, Any]) -> str:
    if "store" in spec and not (Path(spec["store"]) / "store.json").exists():
        return f"it does not see the store {spec['store']}; put the store where every worker has it under that path"
    return ""


def plugins() -> dict[str, str]:
    """The plugins that are active in this process: distribution and version by name."""
    from deltacompose.plugins import loaded

    return {plugin.name: plugin.origin for plugin in loaded().plugins if plugin.state == "active"}


def lacking(expected: Mapping[str, str], installed: Mapping[str, str]) -> str:
    """The driver's plugins that a worker lacks, as a sentence; empty if none."""
    for name, origin in expected.items():
        if installed.get(name) != origin:
            has = f"has {installed[name]} instead" if name in installed else "does not have it"
            return f"the plugin {name!r} of {origin} is in use here, and the worker {has}; install it there"
    return ""


def _first_line(error: BaseException) -> str:
    return f"{type(error).__name__}: {error}".splitlines()[0]
