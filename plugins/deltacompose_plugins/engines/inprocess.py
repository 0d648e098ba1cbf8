"""Cells one after another in this process."""

from __future__ import annotations

import contextlib
import signal
from collections.abc import Iterator, Mapping
from concurrent.futures import Future
from typing import Any

from deltacompose.engine.executor import Executor, answer, value
from deltacompose.errors import BadInput
from deltacompose_plugins.engines.options import checked, late


def inprocess(options: Mapping[str, Any]) -> Executor:
    """Cells one after another in this process. No options."""
    checked("inprocess", options, ())
    return InProcess()


class InProcess:
    """Calls at once and here, so ctrl-C interrupts the call itself."""

    slots = 1

    def submit(self, function: str, spec: dict[str, Any]) -> Future[Any]:
        future: Future[Any] = Future()
        try:
            with _alarm(spec.get("limit")):
                future.set_result(value(answer(function, spec)))
        except Exception as error:
            future.set_exception(error)
        return future

    def close(self) -> None:
        pass


@contextlib.contextmanager
def _alarm(limit: float | None) -> Iterator[None]:
    if limit is None:
        yield
        return

    def ring(number: int, frame: object) -> None:
        raise TimeoutError(late(limit))

    try:
        before = signal.signal(signal.SIGALRM, ring)
    except ValueError:
        raise BadInput("a time limit in this process needs the main thread; use the engine 'pool'") from None
    signal.setitimer(signal.ITIMER_REAL, limit)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
