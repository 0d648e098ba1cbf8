"""Cost of one delta in use: operations of a forward pass, and seconds per example, attached and merged."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode

from deltacompose.backbone.backbone import evaluating
from deltacompose.delta.delta import Delta
from deltacompose.delta.merge import merge
from deltacompose.errors import BadInput
from deltacompose.scoring import Reader, Row, reader

BATCHES = (1, 16)
"""Examples that are read at once where latency is measured."""
REPEATS = 5
"""Timed passes, of which the median counts; one goes before them."""


def operations(act: Callable[[], object]) -> int:
    """Floating-point operations of matrix products and attention in a call (torch's own counter)."""
    with FlopCounterMode(display=False) as counter:
        act()
    return int(counter.get_total_flops())


def cost_of_use(read: Reader, delta: Delta) -> dict[str, Any]:
    """Operations and latency of reading examples of the development split with a delta.

    Returns:
        `inference_operations` of one forward pass over one example, `extra_operations` those beyond the backbone's,
        `latency_1` and `latency_16`, seconds per example at batches of 1 and 16, with the delta attached;
        `merged_latency_1` and `merged_latency_16` with the delta merged into the weights, absent where it cannot be.
    """
    rows = _middle(read.rows("val"), max(BATCHES))
    with torch.no_grad(), evaluating(read.backbone.model):
        base = operations(lambda: _forward(read, rows[:1]))
        with delta.attached(read.backbone):
            own = operations(lambda: _forward(read, rows[:1]))
            measured: dict[str, Any] = {"inference_operations": own, "extra_operations": max(0, own - base)}
            measured |= {f"latency_{size}": _latency(read, rows, size) for size in BATCHES}
    try:
        merged = merge(delta, read.backbone).model
    except (BadInput, torch.OutOfMemoryError):
        return measured
    plain = reader(replace(read.backbone, model=merged), read.task, read.limit)
    with torch.no_grad(), evaluating(merged):
        return measured | {f"merged_latency_{size}": _latency(plain, rows, size) for size in BATCHES}


def _middle(rows: Sequence[Row], count: int) -> list[Row]:
    """So many rows around the median length, with as many candidates each; fewer rows are repeated."""
    alike = [row for row in rows if len(row.candidates) == len(rows[0].candidates)]
    alike = sorted(alike, key=lambda row: len(row.input))
    start = max(0, (len(alike) - count) // 2)
    chosen = alike[start : start + count]
    return [chosen[k % len(chosen)] for k in range(count)]


def _forward(read: Reader, rows: Sequence[Row]) -> object:
    """One pass over the inputs."""
    return read.features(rows)


def _latency(read: Reader, rows: Sequence[Row], size: int) -> float:
    """Median seconds per example of answering."""
    batch, device = rows[:size], read.backbone.model.device
    longest = max(len(row.answer) for row in rows)

    def act() -> None:
        if read.task.kind == "choice":
            read.rank(batch)
        else:
            read.generate(batch, longest)
        if device.type == "cuda":
            torch.cuda.synchronize(device)

    seconds = []
    act()
    for _ in range(REPEATS):
        started = time.perf_counter()
        act()
        seconds.append(time.perf_counter() - started)
    return statistics.median(seconds) / size
