"""The memory that training takes: of the device on a GPU, else of this process."""

from __future__ import annotations

import contextlib
import resource
from pathlib import Path

import torch

_SELF = Path("/proc/self")


def count_anew(device: torch.device) -> int:
    """Bytes held now; from now on `peak` counts anew, where the system can: else it counts from the process's start."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        return int(torch.cuda.memory_allocated(device))
    with contextlib.suppress(OSError):
        (_SELF / "clear_refs").write_text("5")
    return _status("VmRSS")


def peak(device: torch.device) -> int:
    """The most bytes that were held since `count_anew`."""
    return int(torch.cuda.max_memory_allocated(device)) if device.type == "cuda" else _status("VmHWM")


def _status(name: str) -> int:
    """Bytes, by the system's word; `getrusage` would count the process that this one was forked from."""
    try:
        lines = (_SELF / "status").read_text().splitlines()
    except OSError:  # no Linux
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    kibibytes = next(line.split()[1] for line in lines if line.startswith(name))
    return 1024 * int(kibibytes)
