"""A sign of life from commands that take long: a line on stderr after two seconds, and then now and again."""

from __future__ import annotations

import contextlib
import sys
import threading
import time
from collections.abc import Iterator

FIRST, NEXT = 2.0, 15.0
"""Seconds after which the first line comes, and the others."""


@contextlib.contextmanager
def waiting(what: str, first: float = FIRST, following: float = NEXT) -> Iterator[None]:
    """Within, says on stderr what is being done once it has taken a while.

    Args:
        what: the work, as "planning the study".
    """
    ended, began = threading.Event(), time.monotonic()

    def tell() -> None:
        pause = first
        while not ended.wait(pause):
            seconds = time.monotonic() - began
            with contextlib.suppress(OSError, ValueError):  # stderr is closed
                print(f"{what} … {seconds:.0f} s", file=sys.stderr, flush=True)
            pause = following

    thread = threading.Thread(target=tell, daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()
