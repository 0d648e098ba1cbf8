"""What the engines have in common: their options, and how a late call is told."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import Any

from deltacompose.errors import BadInput, unknown


def checked(engine: str, options: Mapping[str, Any], known: Sequence[str]) -> None:
    """Refuse options that an engine does not have, and numbers of workers or threads below one."""
    for name, given in options.items():
        if name not in known:
            raise unknown(f"option of the engine {engine}", name, known)
        if name in ("workers", "threads") and (type(given) is not int or given < 1):
            raise BadInput(f"the engine {engine} got {name}={given!r}; it must be a whole number from 1")


def worker_count(options: Mapping[str, Any]) -> int:
    """The number of workers asked for, or one for each core that this process may use."""
    return int(options.get("workers", len(os.sched_getaffinity(0))))


def variables(threads: int, device: str | None = None) -> dict[str, str]:
    """Environment variables of a worker, which must stand before torch is imported there."""
    names = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")
    return {name: str(threads) for name in names} | ({} if device is None else {"CUDA_VISIBLE_DEVICES": device})


def late(limit: float) -> str:
    """The message of a `TimeoutError`."""
    return f"not finished within its limit of {limit:g} s"
