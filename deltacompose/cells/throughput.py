"""How fast a backbone's passes are on this machine, from a few that are timed."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch

from deltacompose.planning import flops
from deltacompose.planning.flops import DeltaShape, Lengths, Shape
from deltacompose.scoring import Reader

ENOUGH = 1e11
"""Operations of a timed pass, at most: a second or so on one core, and far more than what is lost around it."""


def speed(reader: Reader, shape: Shape, lengths: Lengths, batch: int) -> dict[str, float]:
    """Operations per second of `train` and `evaluate`, each from a pass over a few examples of a task.

    A pass is timed when one has gone before it, for the first one is slower than all that follow. On a CPU it has one
    thread, as workers have, and is timed in the processor's seconds, so that a busy machine does not seem a slow one.
    """
    step = flops.training(shape, lengths, DeltaShape(), 1)
    rows = max(1, min(batch, len(reader.rows("train")), int(ENOUGH / step)))
    chosen = sorted(range(len(reader.rows("train"))), key=lambda i: len(reader.rows("train")[i].input))
    middle = chosen[(len(chosen) - rows) // 2 :][:rows]
    learnt = flops.training(shape, _exact(reader, middle, lengths), DeltaShape(), rows)
    device = reader.backbone.model.device.type
    rates = {"train": learnt / _timed(lambda: _learn(reader, middle), device)}
    asked_rows = [reader.rows("train")[i] for i in middle]
    asked = flops.evaluation(shape, lengths, DeltaShape(), rows, rows)
    choose = reader.task.kind == "choice"
    with torch.no_grad():
        seconds = _timed(
            lambda: reader.rank(asked_rows) if choose else reader.generate(asked_rows, int(lengths.longest)), device
        )
    return rates | {"evaluate": asked / seconds}


def _exact(reader: Reader, indices: list[int], lengths: Lengths) -> Lengths:
    longest = max(reader.lengths(reader.rows("train")[i])[0] for i in indices)
    return Lengths(**(vars(lengths) | {"padded": float(longest)}))


def _learn(reader: Reader, indices: list[int]) -> None:
    """Forward, and backward to the embeddings: what the training of a small delta at the bottom takes."""
    backbone = reader.backbone
    needed = [reader.lengths(reader.rows("train")[i]) for i in indices]
    batch = reader.batch("train", indices, (max(a for a, _ in needed), max(b for _, b in needed)))
    leaf = torch.zeros((), device=backbone.model.device, dtype=backbone.model.dtype, requires_grad=True)
    embedding = backbone.module(backbone.stream(backbone.streams[0]).embedding)
    handle = embedding.register_forward_hook(lambda module, args, output: output + leaf)
    try:
        torch.autograd.grad(reader.loss(batch, 1).sum(), leaf)
    finally:
        handle.remove()


def _timed(act: Callable[[], object], device: str) -> float:
    with _one_thread(device):
        act()
        if device == "cuda":
            torch.cuda.synchronize()
        clock = time.perf_counter if device == "cuda" else time.process_time
        started = clock()
        act()
        if device == "cuda":
            torch.cuda.synchronize()
        return clock() - started


@contextmanager
def _one_thread(device: str) -> Iterator[None]:
    """Within, passes on a CPU have one thread."""
    threads = torch.get_num_threads()
    if device != "cuda":
        torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)
