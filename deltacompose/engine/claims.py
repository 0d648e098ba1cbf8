"""Who does what, where several drivers share a store."""

from __future__ import annotations

import contextlib
import fcntl
from collections.abc import Iterable, Iterator

from deltacompose.store.atomic import writing
from deltacompose.store.store import Store


class Claims:
    """Which cells this driver has under way, so that several on one store do not do the same work.

    A claim is a lock on one byte of a file, which the system drops when the process ends, however it ends. It is a
    courtesy: where the file system knows no locks, cells may be computed twice, and one copy is dropped.
    """

    def __init__(self, store: Store) -> None:
        with writing(store.root):
            self._file = open(store.root / "claims", "ab")  # noqa: SIM115  it lives as long as the run

    def take(self, key: str) -> bool:
        """Whether no other driver has the cell under way."""
        try:
            fcntl.lockf(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB, 1, _byte(key))
        except (BlockingIOError, PermissionError):
            return False
        except OSError:
            return True
        return True

    def release(self, keys: Iterable[str]) -> None:
        """Let other drivers have these cells."""
        for key in keys:
            with contextlib.suppress(OSError):
                fcntl.lockf(self._file, fcntl.LOCK_UN, 1, _byte(key))

    def close(self) -> None:
        """Let go of all that is claimed."""
        self._file.close()


@contextlib.contextmanager
def resting(store: Store) -> Iterator[bool]:
    """Gives whether no other process, on any machine, has claimed a cell; within, none then can.

    It gives no where the file system has no locks. Not for a process that has claims itself: it would lose them.
    """
    with contextlib.ExitStack() as stack:
        try:
            file = stack.enter_context(open(store.root / "claims", "ab"))
            fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            free = True
        except OSError:
            free = False
        yield free


def _byte(key: str) -> int:
    # 56 bits of the key: offsets of locks are signed 64-bit numbers, and may lie beyond the end of the file. Two cells
    # of one byte may be computed one after the other, or twice; no result changes.
    return int(key[:14], 16)
