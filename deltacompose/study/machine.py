"""Resources of this machine for a plan: processor, GPUs, free memory. Without a GPU torch is not imported."""

from __future__ import annotations

import contextlib
import os
import sys
from pathlib import Path

CPUINFO = Path("/proc/cpuinfo")
BFLOAT16 = ("avx512_bf16", "amx_bf16", "bf16")
"""The names that Linux gives to instructions for bfloat16 products: two of x86, one of ARM."""

_UNLIMITED = 1 << 62


def gpus() -> int:
    """The number of GPUs."""
    if not _may_have_gpu():
        return 0
    import torch

    return torch.cuda.device_count()


def has_gpu() -> bool:
    """Whether torch can use a GPU."""
    if not _may_have_gpu():
        return False
    import torch

    return torch.cuda.is_available()


def _may_have_gpu() -> bool:
    """Whether torch has to be asked: it is imported already, or the system shows a device of NVIDIA or AMD."""
    devices = (*Path("/dev").glob("nvidia[0-9]*"), Path("/dev/dxg"), Path("/dev/kfd"))
    return "torch" in sys.modules or os.name == "nt" or any(device.exists() for device in devices)


def multiplies_bfloat16(device: str | None = None) -> bool:
    """Whether a device has instructions for products of bfloat16 matrices; without them they take many times as long.

    Args:
        device: as of a backbone; every one but `cpu` is a GPU where there is one.
    """
    if device != "cpu" and has_gpu():
        import torch

        supported: bool = torch.cuda.is_bf16_supported(including_emulation=False)
        return supported
    words = {word for line in _of_processor() if line[0] in ("flags", "Features") for word in line[1].split()}
    return not words.isdisjoint(BFLOAT16)


def suitable_dtype(device: str | None = None) -> str:
    """The precision that `dtype: auto` means: `bfloat16` where the device multiplies it, else `float32`."""
    return "bfloat16" if multiplies_bfloat16(device) else "float32"


def processor(gpu: bool = False) -> str:
    """The name of the processor, as Linux gives it, or of the first GPU."""
    if gpu:
        import torch

        return str(torch.cuda.get_device_name())
    return next((value for name, value in _of_processor() if name == "model name"), "unknown processor")


def free_bytes(gpu: bool = False) -> int:
    """Bytes that are free for a new process: of a GPU, else of the machine or of the group that it is limited to."""
    if gpu:
        import torch

        return int(torch.cuda.mem_get_info()[0])
    limits = [left_in_group(Path("/sys/fs/cgroup")), _free_of_machine()]
    return min((limit for limit in limits if limit is not None), default=_UNLIMITED)


def left_in_group(group: Path) -> int | None:
    """Remaining memory of a control group (version 2); None without a limit."""
    with contextlib.suppress(OSError, ValueError):
        return int((group / "memory.max").read_text()) - int((group / "memory.current").read_text())
    return None


def _of_processor() -> list[tuple[str, str]]:
    """Names and values of the fields of /proc/cpuinfo on Linux; an empty list on other systems."""
    with contextlib.suppress(OSError):
        lines = CPUINFO.read_text(encoding="utf-8").splitlines()
        return [(name.strip(), value.strip()) for name, _, value in (line.partition(":") for line in lines)]
    return []


def _free_of_machine() -> int | None:
    with contextlib.suppress(OSError):
        lines = Path("/proc/meminfo").read_text(encoding="utf-8").splitlines()
        return next((1024 * int(line.split()[1]) for line in lines if line.startswith("MemAvailable:")), None)
    return None
