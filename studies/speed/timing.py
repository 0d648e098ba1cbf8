"""Arms that take turns in one run, and the rows that come of their times.

Each arm is timed by the clock and by the processor time of this process. A busy machine disturbs the processor time
less, so on a CPU a ratio is of processor times; on a GPU it is of the clock. Both are kept in every row.
"""

from __future__ import annotations

import os
import platform
import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

Arm = Callable[[], object]
Row = dict[str, Any]


@dataclass
class Times:
    """Seconds of one arm in each round."""

    cpu: list[float] = field(default_factory=list)
    wall: list[float] = field(default_factory=list)

    @property
    def used(self) -> list[float]:
        """Those that ratios are of: the clock's on a GPU, else the processor's."""
        return self.wall if torch.cuda.is_available() else self.cpu


def interleaved(arms: Mapping[str, Arm], rounds: int, at_least: float = 0.5, warm: bool = True) -> dict[str, Times]:
    """The times of arms that take turns, and in going first; an arm is repeated until it takes so many seconds.

    Args:
        warm: whether a round that does not count goes before.
    """
    repeats = 1
    if warm:
        once = Times()
        for arm in arms.values():
            arm()
        for arm in arms.values():
            _time(arm, 1, once)
        repeats = max(1, round(at_least / max(min(once.wall), 1e-4)))
    times = {name: Times() for name in arms}
    for number in range(rounds):
        for name in list(arms)[:: 1 if number % 2 else -1]:
            _time(arms[name], repeats, times[name])
    return times


def _time(arm: Arm, repeats: int, into: Times) -> None:
    _wait()
    cpu, wall = time.process_time(), time.perf_counter()
    for _ in range(repeats):
        arm()
    _wait()
    into.cpu.append((time.process_time() - cpu) / repeats)
    into.wall.append((time.perf_counter() - wall) / repeats)


def _wait() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def ratio(lever: str, peer: str, setting: str, precision: str, times: Mapping[str, Times], **more: Any) -> Row:
    """A row: how many times as long the arm `theirs` takes as the arm `ours`, by pairs of one round.

    Args:
        setting: backbone and sizes.
        more: other facts of the row.
    """
    ours, theirs = times["ours"], times["theirs"]
    pairs = {
        clock: [b / a for a, b in zip(getattr(ours, clock), getattr(theirs, clock), strict=True)]
        for clock in ("cpu", "wall")
    }
    chosen = pairs["wall" if torch.cuda.is_available() else "cpu"]
    facts = {"lever": lever, "peer": peer, "setting": setting, "precision": precision, "unit": "times"}
    return facts | spread(chosen) | {f"{clock}_ratio": statistics.median(values) for clock, values in pairs.items()} | {
        "seconds": {
            name: {"cpu": statistics.median(own.cpu), "wall": statistics.median(own.wall)}
            for name, own in times.items()
        },
    } | more  # fmt: skip


def amount(lever: str, setting: str, precision: str, values: list[float], unit: str, **more: Any) -> Row:
    """A row that is not a ratio of arms: a share, a time."""
    return (
        {"lever": lever, "peer": "", "setting": setting, "precision": precision, "unit": unit} | spread(values) | more
    )


def spread(values: list[float]) -> Row:
    """Median, least and greatest of some values, and how many they are."""
    return {"value": statistics.median(values), "low": min(values), "high": max(values), "n": len(values)}


def machine() -> Row:
    """The device, and how busy the machine is now: processes that wanted to run in the last minute, by core."""
    return {"device": device_name(), "load": round(os.getloadavg()[0] / (os.cpu_count() or 1), 2)}


def device_name() -> str:
    """The name of the GPU, or of the processor."""
    if torch.cuda.is_available():
        return str(torch.cuda.get_device_name())
    lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines() if Path("/proc/cpuinfo").exists() else []
    named = next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "")
    return named or platform.processor() or platform.machine()
