"""Observers of a run: its progress on the screen, and loggers."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

from deltacompose import registry
from deltacompose.engine.loggers import Run, logging_to
from deltacompose.engine.progress import shown
from deltacompose.store.store import Store

Tell = Callable[[Mapping[str, Any]], None]


@contextmanager
def observers(
    name: str, store: Store, progress: Tell | bool | None = None, log_to: str | Sequence[str] = ()
) -> Iterator[Tell]:
    """Yields a function that tells every event to all who follow a run; closes them when it has ended.

    Args:
        name: of the study.
        progress: called with every event; None or True show the progress on stderr or in the notebook, False shows
            nothing.
        log_to: loggers, each as `deltacompose.engine.loggers.opened` reads it.

    Raises:
        BadInput: a logger does not exist or cannot be used.
    """
    targets = [log_to] if isinstance(log_to, str) else list(log_to)
    with ExitStack() as closing:
        own: list[Tell] = []
        if targets:
            run = Run(name, store.root)
            own.append(closing.enter_context(logging_to(targets, registry.loggers(), run, store)))
        if progress is None or progress is True:
            own.append(closing.enter_context(shown()))
        elif callable(progress):
            own.append(progress)

        def tell(event: Mapping[str, Any]) -> None:
            for listener in own:
                listener(event)

        yield tell
