"""Loggers of a run: what happens in it, and what its cells give, sent to TensorBoard, to W&B or into a file.

A logger is a member of the kind `logger` (hook `deltacompose_loggers`): a function of a target, the text behind the
logger's name, and of a `Run`, which gives an object with `log` and `close`.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Protocol

from deltacompose.errors import BadInput, quoted, unknown
from deltacompose.store.store import Store

FILE = "jsonl"
"""The logger that a name of a file stands for."""


@dataclass(frozen=True)
class Run:
    """Facts for a logger before a run begins: the study's name and the folder of the store."""

    name: str
    store: Path


class Logger(Protocol):
    """Takes the events of one run."""

    def log(self, event: Mapping[str, Any], record: Mapping[str, Any] | None) -> None:
        """Takes an event, as in the store's log; of a finished cell also its record, with the history of a training."""
        ...

    def close(self) -> None:
        """Is called once, when the run has ended, however it ended."""
        ...


Maker = Callable[[str, Run], Logger]
Tell = Callable[[Mapping[str, Any]], None]


def opened(target: str, makers: Mapping[str, Maker], run: Run) -> Logger:
    """The logger that a text names: `tensorboard`, `tensorboard:FOLDER`, `wandb:PROJECT`, or a file `NAME.jsonl`.

    Args:
        makers: the installed loggers by name.

    Raises:
        BadInput: there is no such logger, or it cannot be used, as its library is not installed.
    """
    name, _, where = target.partition(":")
    if name in makers:
        return makers[name](where, run)
    if Path(target).suffix == ".jsonl" and FILE in makers:
        return makers[FILE](target, run)
    reason = str(unknown("logger", name, makers))
    raise BadInput(f"{reason}; or a file of JSON lines, whose name ends in .jsonl")


@contextmanager
def logging_to(targets: Sequence[str], makers: Mapping[str, Maker], run: Run, store: Store) -> Iterator[Tell]:
    """Yields a function that sends each event to every logger; closes them at the end.

    A logger that fails is left out from then on, with a warning: a run does not end because of it.
    """
    with ExitStack() as closing:
        loggers: dict[str, Logger] = {}
        for target in targets:
            if target in loggers:
                raise BadInput(f"the logger {quoted(target)} is named twice")
            loggers[target] = opened(target, makers, run)
            closing.callback(_attempted, target, loggers[target].close)

        def tell(event: Mapping[str, Any]) -> None:
            record = store.intact(event["key"]) if loggers and event["event"] == "done" else None
            for target in list(loggers):
                if not _attempted(target, partial(loggers[target].log, event, record)):
                    del loggers[target]

        yield tell


def _attempted(target: str, act: Callable[[], None]) -> bool:
    """Whether a logger did what it should; if not, a warning says why."""
    try:
        act()
    except Exception as error:
        reason = " ".join(str(error).split())[:200]
        warnings.warn(f"the logger {target} is no longer used: {type(error).__name__}: {reason}", stacklevel=2)
        return False
    return True
