"""Arms of training steps: a bank of K LoRA deltas in one pass, K steps of peft's LoRA in turn, and our levers off.

Both train rank-8 LoRA on one frozen backbone, with the same loss on padded rows, AdamW and clipping. The places are
query and value, of cross attention too; on GPT-2, whose query and value are one matrix, `attention.output` and
`ffn.up`. peft runs in a bare loop, without a trainer.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
import transformers
from peft import LoraConfig, inject_adapter_in_model
from timing import Arm
from torch import Generator

import deltacompose as dc
from deltacompose.attach import attach
from deltacompose.backbone import Backbone
from deltacompose.backbone.pico import pico_tokenizer
from deltacompose.scoring import Batch, Reader, reader
from deltacompose.training import frozen, learn
from deltacompose.training.learner import Job, Learner

RANK, ALPHA, RATE, STEPS, TOKENS = 8, 16, 2e-3, 20_000, 32
TASK = "sentiment_tweet"
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


DEVICE = "cuda:0" if torch.cuda.is_available() else None


def backbone_of(shape: str, dtype: str, words: Any = None) -> Backbone:
    """A backbone of one of the shapes with random weights, or of a name.

    Args:
        words: the tokenizer of a shape; bytes if None.
    """
    if shape not in SHAPES:
        return dc.load_backbone(shape, dtype=dtype, device=DEVICE)
    family, prefix, sizes = SHAPES[shape]
    tokenizer = words or pico_tokenizer(family)
    config = getattr(transformers, f"{prefix}Config")(vocab_size=max(1000, len(tokenizer)), **sizes)
    torch.manual_seed(0)
    kind = "ForConditionalGeneration" if prefix == "T5" else "LMHeadModel"
    model = getattr(transformers, f"{prefix}{kind}")(config).eval().to(DEVICE, getattr(torch, dtype))
    return dc.load_backbone(model, tokenizer)


@dataclass(frozen=True)
class StepArms:
    """Functions that each take one step of K deltas, and how far the first losses of both are apart."""

    ours: Arm
    theirs: Arm
    difference: float


@contextmanager
def against_peft(shape: str, bank: int, batch: int, dtype: str, tokens: int = TOKENS) -> Iterator[StepArms]:
    """A step of a bank of K deltas, and K steps of peft's, from equal weights."""
    mine, learners, rows = bank_of(shape, bank, batch, dtype, tokens)
    theirs = backbone_of(shape, dtype)
    peers, peer = reader(theirs, mine.task, tokens), Peer(theirs, places_of(theirs))
    with training(mine.backbone, learners[0].job.expression) as attachment:
        own, other = [padded(mine, r) for r in rows], [padded(peers, r) for r in rows]
        peer.like(learners[0], torch.Generator().manual_seed(0))
        attachment.put(learners[0].tensors())
        with torch.no_grad():
            difference = abs(float(mine.loss(own[0], 1)) - float(peers.loss(other[0], 1)))
        group = list(zip(learners, own, strict=True))
        yield StepArms(lambda: learn(attachment, group), lambda: [peer.step(peers, each) for each in other], difference)


def bank_of(
    shape: str, bank: int, batch: int, dtype: str, tokens: int = TOKENS
) -> tuple[Reader, list[Learner], list[list[int]]]:
    """K learners of LoRA on one task, and the rows of each."""
    backbone = backbone_of(shape, dtype)
    read = reader(backbone, dc.tasks()[TASK].limited(train=batch * bank * 4, val=1, test=1), tokens)
    expression = dc.parse(lora_of(backbone))
    recipe = dc.Recipe(steps=STEPS, batch=batch, learning_rates={"lora": RATE}, warmup=0.0)
    learners = [Learner(backbone, Job(expression, read, seed, recipe)) for seed in range(bank)]
    return read, learners, [list(range(k * batch, (k + 1) * batch)) for k in range(bank)]


def lora_of(backbone: Backbone) -> str:
    """The expression of LoRA as both have it."""
    return f"lora(rank={RANK}, alpha={float(ALPHA)}, places={places_of(backbone)})"


def places_of(backbone: Backbone) -> tuple[str, ...]:
    """Where both put LoRA."""
    return UNFUSED if backbone.family == "gpt2" else PLACES


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
