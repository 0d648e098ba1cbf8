"""The process group that trains and evaluates one delta, each rank on its share of the rows of every batch.

Each rank holds the delta's weights and the optimizer; only the gradients of those weights, which are few, are reduced
(data parallelism; Li et al. 2020, arXiv 2006.15704). Each rank holds the whole backbone, or a shard of its layers
(`backbone/sharding.py`). The result equals that of one process on the whole batches, up to the rounding of sums.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, distributed

from deltacompose.errors import BadInput
from deltacompose.study.config import LAUNCHED


@dataclass(frozen=True)
class ProcessGroup:
    """This process's rank in a process group; a group of size 1 by default."""

    rank: int = 0
    size: int = 1

    def share(self, rows: Sequence[int]) -> list[int]:
        """The rows that this rank takes."""
        return list(rows[self.rank :: self.size])

    def summed(self, tensors: Sequence[Tensor | None]) -> list[Tensor | None]:
        """Each tensor's sum over all ranks, in one all-reduce; None stays None."""
        if self.size == 1:
            return list(tensors)
        own = [x for x in tensors if x is not None]
        # One flat tensor: a delta has hundreds of small tensors, and each all-reduce has a fixed latency.
        flat = torch.cat([x.flatten().float() for x in own])
        distributed.all_reduce(flat)
        pieces = iter(flat.split([x.numel() for x in own]))
        return [x if x is None else next(pieces).view_as(x).to(x.dtype) for x in tensors]

    def gathered(self, data: Any, device: torch.device) -> list[Any]:
        """JSON values of all processes, in the order of their ranks."""
        if self.size == 1:
            return [data]
        written = torch.tensor(list(json.dumps(data).encode()), dtype=torch.uint8, device=device)
        lengths = [torch.zeros(1, dtype=torch.int64, device=device) for _ in range(self.size)]
        # Texts differ in length and all_gather does not: exchange the lengths first, then pad.
        distributed.all_gather(lengths, torch.tensor([len(written)], device=device))
        longest = max(int(length) for length in lengths)
        padded = torch.nn.functional.pad(written, (0, longest - len(written)))
        texts = [torch.empty_like(padded) for _ in range(self.size)]
        distributed.all_gather(texts, padded)
        return [json.loads(bytes(text[: int(n)].tolist())) for text, n in zip(texts, lengths, strict=True)]

    def of_first(self, data: Any, device: torch.device) -> Any:
        """Rank 0's value of something in which processes may differ, like what others have stored by now."""
        return self.gathered(data, device)[0]


ALONE = ProcessGroup()


@contextmanager
def process_group(on_cpu: bool = False) -> Iterator[ProcessGroup]:
    """Joins the process group that torchrun started this process in; without torchrun a group of size 1.

    Each rank takes its own GPU if there are any. After an error the process group stays up: other ranks may wait for
    this one, which must first write the reason for which it ends.

    Args:
        on_cpu: use CPUs even if there are GPUs.

    Raises:
        BadInput: there are fewer GPUs than processes.
    """
    if LAUNCHED not in os.environ:
        yield ALONE
        return
    on_gpus = torch.cuda.is_available() and not on_cpu
    if on_gpus:
        own, size, count = int(os.environ["LOCAL_RANK"]), os.environ["LOCAL_WORLD_SIZE"], torch.cuda.device_count()
        if own >= count:
            raise BadInput(f"{size} processes need a GPU each and see {count}; ask for fewer processes")
        torch.cuda.set_device(own)
    distributed.init_process_group("cpu:gloo,cuda:nccl" if on_gpus else "gloo")
    yield ProcessGroup(distributed.get_rank(), distributed.get_world_size())
    distributed.destroy_process_group()
