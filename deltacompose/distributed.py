"""Several processes that train and evaluate one delta together, each on its share of every batch's rows.

Each holds the delta's weights and the optimiser; only the gradients of those weights travel, which are few (data
parallelism; Li et al. 2020, arXiv 2006.15704). The backbone each holds too, or a share of its layers (`shards`). What
they become is what one process would make of the whole batches, but for the rounding of sums.
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
class Company:
    """This process among those that work together; alone if there is no other."""

    rank: int = 0
    size: int = 1

    def share(self, rows: Sequence[int]) -> list[int]:
        """Those of some rows that this process takes."""
        return list(rows[self.rank :: self.size])

    def summed(self, tensors: Sequence[Tensor | None]) -> list[Tensor | None]:
        """Each tensor's sum over all processes, in one exchange; None where it is None."""
        if self.size == 1:
            return list(tensors)
        own = [x for x in tensors if x is not None]
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
        distributed.all_gather(lengths, torch.tensor([len(written)], device=device))
        longest = max(int(length) for length in lengths)
        padded = torch.nn.functional.pad(written, (0, longest - len(written)))
        texts = [torch.empty_like(padded) for _ in range(self.size)]
        distributed.all_gather(texts, padded)
        return [json.loads(bytes(text[: int(n)].tolist())) for text, n in zip(texts, lengths, strict=True)]

    def of_first(self, data: Any, device: torch.device) -> Any:
        """Rank 0's value of something in which processes may differ, like what others have stored by now."""
        return self.gathered(data, device)[0]


ALONE = Company()


@contextmanager
def company(on_cpu: bool = False) -> Iterator[Company]:
    """Within, this process's company: those that were started with it, each with its own GPU if there are any.

    After an error the processes are not parted: whoever is waited for by others must first say why it ends.

    Args:
        on_cpu: whether they work on CPUs, whatever GPUs there are.

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
    yield Company(distributed.get_rank(), distributed.get_world_size())
    distributed.destroy_process_group()
