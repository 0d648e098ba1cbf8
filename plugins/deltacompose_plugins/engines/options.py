"""Common part of the engines: their options, and the error of a call that exceeds its limit."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import Any

from deltacompose.errors import BadInput, unknown


def checked(engine: str, options: Mapping[str, Any], known: Sequence[str]) -> None:
    """Refuse options that an engine does not have, fewer than one worker or thread, and devices that are not texts."""
    for name, value in options.items():
        if name not in known:
            raise unknown(f"option of the engine {engine}", name, known)
        if name in ("workers", "threads") and (type(value) is not int or value < 1):
            raise BadInput(f"the engine {engine} got {name}={value!r}; it must be a whole number from 1")
        if name == "devices" and (
            isinstance(value, str) or not all(isinstance(device, str) and device for device in value)
        ):
            raise BadInput(f"the engine {engine} got devices={value!r}; it must be a list of texts, as ['0', '1']")


def environments(options: Mapping[str, Any]) -> list[dict[str, str]]:
    """The environment variables of each worker: as many as asked for, one for each device, or one for each core.

    `devices` are texts for CUDA_VISIBLE_DEVICES, which the workers take in turn.
    """
    devices = options.get("devices") or [None]
    count = options.get("workers", len(devices) if options.get("devices") else len(os.sched_getaffinity(0)))
    return [variables(options.get("threads", 1), devices[i % len(devices)]) for i in range(count)]


def variables(threads: int, device: str | None = None) -> dict[str, str]:
    """Environment variables of a worker, which must stand before torch is imported there."""
    names = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")
    return {name: str(threads) for name in names} | ({} if device is None else {"CUDA_VISIBLE_DEVICES": device})


def late(limit: float) -> str:
    """The message of a `TimeoutError`."""
    return f"not finished within its limit of {limit:g} s"
