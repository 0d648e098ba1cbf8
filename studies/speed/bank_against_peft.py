"""Steps of a bank of K LoRA deltas in one pass, against K steps of peft's LoRA in turn.

    OMP_NUM_THREADS=1 python studies/speed/bank_against_peft.py [--dtype bfloat16] [--json]

Both arms train rank-8 LoRA on query and value of the same frozen backbone, by the same loss on rows padded to one
length, each with AdamW and clipping. A round times every arm once, one after the other; what is printed are medians and
quartiles of the rounds' ratios, peft's seconds over ours, so above 1 the bank is faster. The difference is that of the
two arms' first losses at equal weights, which shows that they do the same.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from peft import LoraConfig, inject_adapter_in_model
from torch import Generator

import deltacompose as dc
from deltacompose.attach import attach
from deltacompose.backbone import Backbone
from deltacompose.scoring import Batch, Reader, reader
from deltacompose.training import frozen, learn
from deltacompose.training.learner import Job, Learner

RANK, ALPHA, RATE, STEPS = 8, 16, 2e-3, 100_000
PLACES = ("attention.query", "attention.value")

Arm = Callable[[], None]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--backbone", default="embedded")
    parser.add_argument("--task", default="sentiment_tweet")
    parser.add_argument("--dtype", default="bfloat16", choices=["float32", "bfloat16"])
    parser.add_argument("--banks", type=int, nargs="+", default=[1, 4, 16], help="sizes K")
    parser.add_argument("--batches", type=int, nargs="+", default=[4, 16], help="rows of each delta")
    parser.add_argument("--tokens", type=int, default=32, help="that rows are padded to")
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--json", action="store_true", help="one JSON object instead of lines")
    given = parser.parse_args()
    found = [measured(given, bank, batch) for batch in given.batches for bank in given.banks]
    facts = {"device": device(), "threads": torch.get_num_threads(), "dtype": given.dtype, "rounds": given.rounds}
    if given.json:
        print(json.dumps({**facts, "tokens": given.tokens, "found": found}))
        return
    print(", ".join(f"{name} {value}" for name, value in facts.items()))
    for one in found:
        print(
            f"K = {one['bank']:2}, batch {one['batch']:2}: ratio {one['ratio']:.2f} "
            f"[{one['quartiles'][0]:.2f}, {one['quartiles'][1]:.2f}], losses differ by {one['difference']:.1e}"
        )


def measured(given: argparse.Namespace, bank: int, batch: int) -> dict[str, Any]:
    """The ratio for one size of bank and batch."""
    torch.manual_seed(0)
    ours, theirs = (dc.load_backbone(given.backbone, dtype=given.dtype) for _ in range(2))
    task = dc.tasks()[given.task].limited(train=batch * bank * 4, val=1, test=1)
    expression = dc.parse(f"lora(rank={RANK}, alpha={float(ALPHA)})")
    mine, peers = reader(ours, task, given.tokens), reader(theirs, task, given.tokens)
    recipe = dc.Recipe(steps=STEPS, batch=batch, learning_rates={"lora": RATE}, warmup=0.0)
    learners = [Learner(ours, Job(expression, mine, seed, recipe)) for seed in range(bank)]
    rows = [list(range(k * batch, (k + 1) * batch)) for k in range(bank)]
    peer = Peer(theirs)
    with in_force(ours, expression, learners) as attachment:
        own, other = [padded(mine, r) for r in rows], [padded(peers, r) for r in rows]

        def banked() -> None:
            learn(attachment, list(zip(learners, own, strict=True)))

        def in_turn() -> None:
            for one in other:
                peer.step(peers, one)

        peer.like(learners[0], torch.Generator().manual_seed(0))
        attachment.put(learners[0].tensors())
        with torch.no_grad():
            difference = abs(float(mine.loss(own[0], 1)) - float(peers.loss(other[0], 1)))
        ratios = interleaved(in_turn, banked, given.rounds)
    low, middle, high = np.quantile(ratios, [0.25, 0.5, 0.75])
    return {
        "bank": bank,
        "batch": batch,
        "ratio": float(middle),
        "quartiles": [float(low), float(high)],
        "difference": difference,
    }


@contextmanager
def in_force(backbone: Backbone, expression: Any, learners: list[Learner]) -> Iterator[Any]:
    """The expression attached, the backbone frozen."""
    attachment = attach(backbone, expression)
    try:
        with frozen(backbone.model):
            yield attachment
    finally:
        attachment.detach()


def padded(read: Reader, rows: list[int]) -> Batch:
    """Rows of the training split at the one length that all arms have."""
    answers = max(read.lengths(row)[1] for row in read.rows("train"))
    return read.batch("train", rows, (read.limit, answers))


class Peer:
    """peft's LoRA in the same kind of backbone, with its optimiser, which moves from step to step."""

    def __init__(self, backbone: Backbone) -> None:
        paths = [place.module for place in backbone.places(*PLACES)]
        config = LoraConfig(r=RANK, lora_alpha=ALPHA, target_modules=paths, lora_dropout=0.0)
        inject_adapter_in_model(config, backbone.model)
        self.backbone = backbone
        self.trained = {n: x for n, x in backbone.model.named_parameters() if "lora_" in n}
        for name, x in backbone.model.named_parameters():
            x.requires_grad_(name in self.trained)
        for x in self.trained.values():
            x.data = x.data.float()
        self.optimiser = torch.optim.AdamW(self.trained.values(), lr=RATE, weight_decay=0.0)

    def step(self, read: Reader, batch: Batch) -> None:
        """What one step of a run by itself does."""
        loss = read.loss(batch, 1).sum()
        gradients = torch.autograd.grad(loss, list(self.trained.values()))
        for x, gradient in zip(self.trained.values(), gradients, strict=True):
            x.grad = gradient
        torch.nn.utils.clip_grad_norm_(self.trained.values(), 1.0)
        self.optimiser.step()
        float(loss.detach())

    def like(self, learner: Learner, drawn: Generator) -> None:
        """Gives both the same weights: A as drawn by ours, and a B that is not zero."""
        for place in self.backbone.places(*PLACES):
            down, up = (learner.weights[f"0.0.{place.name}.{half}"] for half in ("down", "up"))
            with torch.no_grad():
                up.copy_(torch.randn(up.shape, generator=drawn) * 0.1)
                for half, x in (("A", down), ("B", up)):
                    self.trained[f"{place.module}.lora_{half}.default.weight"].copy_(x)


def device() -> str:
    """What the passes run on."""
    return torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu"


def interleaved(first: Arm, second: Arm, rounds: int) -> list[float]:
    """Seconds of the first over those of the second, round by round, after one round that is not counted."""
    ratios = []
    for number in range(rounds + 1):
        pair = [seconds(arm) for arm in ((first, second) if number % 2 else (second, first))]
        one, other = pair if number % 2 else reversed(pair)
        if number:
            ratios.append(one / other)
    return ratios


def seconds(arm: Arm) -> float:
    """How long an arm takes, its kernels done."""
    started = time.perf_counter()
    arm()
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter() - started


if __name__ == "__main__":
    main()
