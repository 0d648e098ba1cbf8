"""Training steps of a bank of K LoRA deltas in one pass, compared with K steps of peft's LoRA in turn.

    OMP_NUM_THREADS=1 python studies/speed/steps.py [--shapes tiny-t5] [--dtype bfloat16] [--out results/speed]

Both arms train rank-8 LoRA on one frozen backbone, with the same loss on padded rows, AdamW and clipping. The places
are query and value, of cross attention too; on GPT-2, whose query and value are one matrix, `attention.output` and
`ffn.up`. peft runs in a bare loop, without a trainer. Each round times both arms, which take turns in going first. A
ratio is peft's time over ours: above 1 the bank is faster. On a CPU the time is the CPU time of the thread, which
other processes disturb less than the clock. `difference` is that of the two first losses at equal weights. Writes
`summary.json` and `summary.md`.

    OMP_NUM_THREADS=1 python studies/speed/steps.py --lever prefix --shapes tiny-t5 gpt2-like

compares steps of one delta whose frozen layers below are computed once for each text with steps that run every layer.
The delta is LoRA at the cross attention of a pair's decoder, or tunes the last layer; the ratio is the time of the
steps that run every layer over that of the others.
"""

from __future__ import annotations

import argparse
import json
import platform
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from peft import LoraConfig, inject_adapter_in_model
from torch import Generator

import deltacompose as dc
from deltacompose.attach import attach
from deltacompose.attach.frozen_prefix import frozen_prefix
from deltacompose.backbone import Backbone
from deltacompose.backbone.pico import pico_tokenizer
from deltacompose.scoring import Batch, Reader, reader
from deltacompose.training import frozen, learn
from deltacompose.training.learner import Job, Learner

RANK, ALPHA, RATE, STEPS = 8, 16, 2e-3, 100_000
PLACES = ("*attention.query", "*attention.value")
UNFUSED = ("attention.output", "ffn.up")
T5 = {"decoder_start_token_id": 0, "feed_forward_proj": "relu"}
SHAPES: dict[str, tuple[str, str, dict[str, Any]]] = {
    "tiny-t5": (
        "t5",
        "T5",
        {"d_model": 128, "d_kv": 32, "d_ff": 512, "num_layers": 4, "num_decoder_layers": 4, "num_heads": 4, **T5},
    ),
    "t5-small": (
        "t5",
        "T5",
        {"d_model": 512, "d_kv": 64, "d_ff": 2048, "num_layers": 6, "num_decoder_layers": 6, "num_heads": 8, **T5},
    ),
    "gpt2-like": (
        "gpt2",
        "GPT2",
        {"n_embd": 256, "n_layer": 6, "n_head": 4, "bos_token_id": 0, "eos_token_id": 0},
    ),
}
"""Shapes with random weights: family of the tokenizer, prefix of the transformers classes, configuration."""

STEPS_TOGETHER = 10
"""Steps between two looks at the frozen weights: a training has hundreds."""

Arm = Callable[[], None]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shapes", nargs="+", default=["tiny-t5", "embedded", "t5-small", "gpt2-like"])
    parser.add_argument("--lever", default="bank", choices=["bank", "prefix"])
    parser.add_argument("--task", default="sentiment_tweet")
    parser.add_argument("--dtype", default="float32", choices=["float32", "bfloat16"])
    parser.add_argument("--banks", type=int, nargs="+", default=[1, 8], help="sizes K")
    parser.add_argument("--batches", type=int, nargs="+", default=[4, 8, 16], help="rows of each delta")
    parser.add_argument("--tokens", type=int, default=32, help="length to which rows are padded")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--out", type=Path, default=Path("results/speed"))
    settings = parser.parse_args()
    rows = []
    for row in measurements(settings):
        rows.append(row)
        print(line(row), flush=True)
    of_bank = settings.lever == "bank"
    facts = {
        "lever": "bank of K deltas" if of_bank else "frozen layers once for each text",
        "peer": "peft in a bare loop, K runs in turn" if of_bank else "the same steps through every layer",
        "precision": settings.dtype,
        "device": device(),
        "threads": torch.get_num_threads(),
        "rounds": settings.rounds,
        "tokens": settings.tokens,
    }
    settings.out.mkdir(parents=True, exist_ok=True)
    (settings.out / "summary.json").write_text(json.dumps({**facts, "rows": rows}, indent=1))
    (settings.out / "summary.md").write_text(table(facts, rows))
    print(f"written: {settings.out}/summary.json, {settings.out}/summary.md")


def measurements(settings: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """A row for each shape and size."""
    for shape in settings.shapes:
        for batch in settings.batches:
            if settings.lever == "bank":
                yield from (measured(settings, shape, bank, batch) for bank in settings.banks)
            else:
                yield from prefixed(settings, shape, batch)


def prefixed(settings: argparse.Namespace, shape: str, batch: int) -> Iterator[dict[str, Any]]:
    """The ratios of frozen layers computed once, for deltas of the decoder of a pair and of the last layer."""
    backbone = backbone_of(shape, settings.dtype)
    task = dc.tasks()[settings.task].limited(train=batch * 4, val=1, test=1)
    read = reader(backbone, task, settings.tokens)
    crossed = f"lora(rank={RANK}, places=('cross_attention.query', 'cross_attention.value'))"
    deltas = {"last layer": "last_layers(n=1)"} | ({"decoder": crossed} if len(backbone.streams) > 1 else {})
    for name, text in deltas.items():
        expression = dc.parse(text)
        ratios, difference = prefix_ratios(read, expression, batch, settings.rounds)
        low, middle, high = np.quantile(ratios, [0.25, 0.5, 0.75])
        yield {
            "shape": f"{shape}, {name}",
            "bank": 1,
            "batch": batch,
            "ratio": float(middle),
            "quartiles": [float(low), float(high)],
            "n": settings.rounds,
            "difference": difference,
        }


def prefix_ratios(read: Reader, expression: Any, batch: int, rounds: int) -> tuple[list[float], float]:
    """The time of steps through every layer over that with kept states; how far weights differ after ten steps."""
    backbone = read.backbone
    recipe = dc.Recipe(steps=STEPS, batch=batch, learning_rates={"lora": RATE, "last_layers": RATE}, warmup=0.0)
    every, kept = (Learner(backbone, Job(expression, read, 0, recipe)) for _ in range(2))
    rows = padded(read, list(range(batch)))
    with training(backbone, expression) as attachment:
        first = attachment.first_touched()

        def all_layers() -> None:
            for _ in range(STEPS_TOGETHER):
                learn(attachment, [(every, rows)])

        def with_kept_states() -> None:
            with frozen_prefix(backbone, first):
                for _ in range(STEPS_TOGETHER):
                    learn(attachment, [(kept, rows)])

        with_kept_states()  # reads the texts, and compares a pass with a full one
        all_layers()
        difference = max(float((every.weights[name] - x).detach().abs().max()) for name, x in kept.weights.items())
        ratios = interleaved(all_layers, with_kept_states, rounds)
    return ratios, difference


def line(row: dict[str, Any]) -> str:
    """One row of the results as a sentence."""
    low, high = row["quartiles"]
    size = f"{row['shape']}, K = {row['bank']}, batch {row['batch']}"
    return f"{size}: ratio {row['ratio']:.2f} [{low:.2f}, {high:.2f}], losses differ by {row['difference']:.1e}"


def table(facts: dict[str, Any], rows: list[dict[str, Any]]) -> str:
    """The results as a Markdown table, with what was held fixed above it."""
    head = ", ".join(f"{name} {value}" for name, value in facts.items())
    body = [
        f"| {row['shape']} | {row['bank']} | {row['batch']} | {row['ratio']:.2f} "
        f"| {row['quartiles'][0]:.2f} to {row['quartiles'][1]:.2f} |"
        for row in rows
    ]
    return "\n".join([head, "", "| backbone | K | batch | ratio | quartiles |", "|---|---|---|---|---|", *body]) + "\n"


def backbone_of(shape: str, dtype: str) -> Backbone:
    """A backbone of one of the shapes with random weights, or of a name."""
    if shape not in SHAPES:
        return dc.load_backbone(shape, dtype=dtype)
    family, prefix, sizes = SHAPES[shape]
    tokenizer = pico_tokenizer(family)
    config = getattr(transformers, f"{prefix}Config")(vocab_size=max(1000, len(tokenizer)), **sizes)
    torch.manual_seed(0)
    kind = "ForConditionalGeneration" if prefix == "T5" else "LMHeadModel"
    model = getattr(transformers, f"{prefix}{kind}")(config).eval().to(getattr(torch, dtype))
    return dc.load_backbone(model, tokenizer)


def measured(settings: argparse.Namespace, shape: str, bank: int, batch: int) -> dict[str, Any]:
    """The ratio for one shape and one size of bank and batch."""
    ours, theirs = (backbone_of(shape, settings.dtype) for _ in range(2))
    task = dc.tasks()[settings.task].limited(train=batch * bank * 4, val=1, test=1)
    places = UNFUSED if ours.family == "gpt2" else PLACES
    expression = dc.parse(f"lora(rank={RANK}, alpha={float(ALPHA)}, places={places})")
    mine, peers = reader(ours, task, settings.tokens), reader(theirs, task, settings.tokens)
    recipe = dc.Recipe(steps=STEPS, batch=batch, learning_rates={"lora": RATE}, warmup=0.0)
    learners = [Learner(ours, Job(expression, mine, seed, recipe)) for seed in range(bank)]
    rows = [list(range(k * batch, (k + 1) * batch)) for k in range(bank)]
    peer = Peer(theirs, places)
    with training(ours, expression) as attachment:
        own, other = [padded(mine, r) for r in rows], [padded(peers, r) for r in rows]

        def banked() -> None:
            learn(attachment, list(zip(learners, own, strict=True)))

        def in_turn() -> None:
            for each in other:
                peer.step(peers, each)

        peer.like(learners[0], torch.Generator().manual_seed(0))
        attachment.put(learners[0].tensors())
        with torch.no_grad():
            difference = abs(float(mine.loss(own[0], 1)) - float(peers.loss(other[0], 1)))
        ratios = interleaved(in_turn, banked, settings.rounds)
    low, middle, high = np.quantile(ratios, [0.25, 0.5, 0.75])
    return {
        "shape": shape,
        "bank": bank,
        "batch": batch,
        "ratio": float(middle),
        "quartiles": [float(low), float(high)],
        "n": settings.rounds,
        "difference": difference,
    }


@contextmanager
def training(backbone: Backbone, expression: Any) -> Iterator[Any]:
    """The expression attached to the frozen backbone."""
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

    def __init__(self, backbone: Backbone, places: tuple[str, ...]) -> None:
        paths = [place.module for place in backbone.places(*places)]
        transposed = backbone.family == "gpt2"
        config = LoraConfig(r=RANK, lora_alpha=ALPHA, target_modules=paths, lora_dropout=0.0, fan_in_fan_out=transposed)
        inject_adapter_in_model(config, backbone.model)
        self.places = backbone.places(*places)
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
        for place in self.places:
            down, up = (learner.weights[f"0.0.{place.name}.{half}"] for half in ("down", "up"))
            with torch.no_grad():
                up.copy_(torch.randn(up.shape, generator=drawn) * 0.1)
                for half, x in (("A", down), ("B", up)):
                    self.trained[f"{place.module}.lora_{half}.default.weight"].copy_(x)


def device() -> str:
    """The device that the passes run on."""
    return torch.cuda.get_device_name() if torch.cuda.is_available() else platform.processor() or platform.machine()


def interleaved(first: Arm, second: Arm, rounds: int) -> list[float]:
    """The first arm's time over the second's, round by round, after a round that is not counted.

    An arm is repeated until it takes about a second.
    """
    first(), second()
    repeats = max(1, round(1.0 / max(seconds(first, 1), 1e-3)))
    ratios = []
    for number in range(rounds):
        times = {arm: seconds(arm, repeats) for arm in ((first, second) if number % 2 else (second, first))}
        ratios.append(times[first] / times[second])
    return ratios


def seconds(arm: Arm, repeats: int) -> float:
    """How long an arm takes, its kernels done: CPU time of this thread on a CPU, else by the clock."""
    on_gpu = torch.cuda.is_available()
    clock = time.perf_counter if on_gpu or torch.get_num_threads() > 1 else time.thread_time
    started = clock()
    for _ in range(repeats):
        arm()
    if on_gpu:
        torch.cuda.synchronize()
    return clock() - started


if __name__ == "__main__":
    main()
