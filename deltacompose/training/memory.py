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


def available(device: torch.device) -> int:
    """Bytes that are free for a new process: of the GPU, else of the machine or of the group that it is limited to."""
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0])
    limits = [_limit(Path("/sys/fs/cgroup")), _meminfo("MemAvailable")]
    return min((limit for limit in limits if limit is not None), default=1 << 62)


def _meminfo(name: str) -> int | None:
    with contextlib.suppress(OSError):
        lines = Path("/proc/meminfo").read_text(encoding="utf-8").splitlines()
        return next((1024 * int(line.split()[1]) for line in lines if line.startswith(f"{name}:")), None)
    return None


def _limit(group: Path) -> int | None:
    """Remaining memory of a control group (version 2); None without a limit."""
    with contextlib.suppress(OSError, ValueError):
        return int((group / "memory.max").read_text()) - int((group / "memory.current").read_text())
    return None


def _status(name: str) -> int:
    """Bytes, by the system's word; `getrusage` would count the process that this one was forked from."""
    try:
        lines = (_SELF / "status").read_text().splitlines()
    except OSError:  # no Linux
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    kibibytes = next(line.split()[1] for line in lines if line.startswith(name))
    return 1024 * int(kibibytes)
