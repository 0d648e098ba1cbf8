"""With which libraries and on which processor a cell is computed: recorded with it, in no key."""

from __future__ import annotations

import importlib.metadata
import platform
import sys
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

LIBRARIES = ("deltacompose", "torch", "transformers", "tokenizers", "peft", "numpy", "diffusers", "bitsandbytes")
"""Distributions whose version can change a number; those that are not installed are left out."""


@cache
def environment() -> Mapping[str, str]:
    """The versions of Python and of the installed `LIBRARIES`, and the processor that computes."""
    versions = {name: _version(name) for name in LIBRARIES}
    known = {name: version for name, version in versions.items() if version}
    return {**known, "python": platform.python_version(), "processor": _processor()}


def _version(distribution: str) -> str:
    try:
        return importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        return ""


def _processor() -> str:
    """The GPU where this process can use one, else the CPU's model."""
    torch: Any = sys.modules.get("torch")  # whoever computes has imported it; a process that only reads need not
    if torch is not None and torch.cuda.is_available():
        return str(torch.cuda.get_device_name())
    lines = Path("/proc/cpuinfo").read_text(errors="replace").splitlines() if Path("/proc/cpuinfo").exists() else []
    models = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(models, platform.processor() or platform.machine())
