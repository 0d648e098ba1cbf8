"""Shares of the machine's arithmetic, the growth of a study's time, and the time to attach, swap, save and load."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import torch
from peft import LoraConfig, get_peft_model
from steps import ALPHA, DEVICE, RANK, RATE, backbone_of, bank_of, lora_of, padded, training
from timing import Row, amount, interleaved, ratio
from torch.utils.flop_counter import FlopCounterMode
from whole import TASKS, saved

import deltacompose as dc
from deltacompose.attach import attach
from deltacompose.registry import load_delta
from deltacompose.study import BackboneChoice, Rows, Study
from deltacompose.training import learn

WIDE = 1024


def roofline(shape: str, bank: int, batch: int, precision: str, rounds: int) -> Iterator[Row]:
    """The share of the measured rate of matrix products that a step of a bank reaches, by the operations it does."""
    read, learners, rows = bank_of(shape, bank, batch, precision)
    group = [(own, padded(read, each)) for own, each in zip(learners, rows, strict=True)]
    square = torch.randn(WIDE, WIDE, device=DEVICE, dtype=getattr(torch, precision))
    with training(read.backbone, learners[0].job.expression) as attachment:
        learn(attachment, group)
        with FlopCounterMode(display=False) as counter:
            learn(attachment, group)
        operations = counter.get_total_flops()
        times = interleaved({"ours": lambda: learn(attachment, group), "theirs": lambda: square @ square}, rounds)
    shares = [
        (operations / own) / (2 * WIDE**3 / product)
        for own, product in zip(times["ours"].used, times["theirs"].used, strict=True)
    ]
    rate = 2 * WIDE**3 / min(times["theirs"].used) / 1e9
    yield amount(
        "operations of a step over the rate of matrix products", f"{shape}, K = {bank}, batch {batch}", precision,
        [100 * share for share in shares], "%", gigaflops=rate, operations=operations,
    )  # fmt: skip


def growth(folder: Path, rounds: int) -> Iterator[Row]:
    """Seconds of a small study with more tasks, compositions and seeds, each against the smallest."""
    model = saved("tiny-t5", folder)
    wider = ("lora(rank=4)", "bitfit", "adapter", "ia3")
    forms = {
        "1 task, 1 composition, 1 seed": (1, 1, 1),
        "2 tasks": (2, 1, 1),
        "4 tasks": (4, 1, 1),
        "2 compositions": (1, 2, 1),
        "4 compositions": (1, 4, 1),
        "2 seeds": (1, 1, 2),
        "4 seeds": (1, 1, 4),
        "8 seeds": (1, 1, 8),
    }
    arms: dict[str, Callable[[], None]] = {
        name: _study(model, TASKS[:tasks], wider[:methods], tuple(range(seeds)))
        for name, (tasks, methods, seeds) in forms.items()
    }
    times = interleaved(arms, rounds, warm=False)
    smallest = next(iter(forms))
    for name, (tasks, methods, seeds) in forms.items():
        pairs = {"ours": times[smallest], "theirs": times[name]}
        trained = tasks * methods * seeds
        if name != smallest:
            yield ratio(f"growth: {name}, {trained} trainings", smallest, "tiny-t5, 20 steps of 8, transfer", "float32",
                        pairs)  # fmt: skip


def _study(
    model: str, tasks: tuple[str, ...], compositions: tuple[str, ...], seeds: tuple[int, ...]
) -> Callable[[], None]:
    study = Study(
        name="growth", tasks=tasks, compositions=compositions, seeds=seeds, transfer=True,
        backbone=BackboneChoice(model=model), rows=Rows(train=160, val=16, test=32),
        training=dc.Recipe(steps=20, batch=8, evaluate_every=20, learning_rates={"lora": RATE}, limit=64),
    )  # fmt: skip

    def run() -> None:
        with tempfile.TemporaryDirectory() as store:
            dc.run(study, store, progress=False)

    return run


def latencies(shape: str, precision: str, rounds: int) -> Iterator[Row]:
    """Milliseconds to attach and detach, to swap the delta that is attached, to save it and to load it."""
    backbone = backbone_of(shape, precision)
    expression = dc.parse(lora_of(backbone))
    task = dc.tasks()["sentiment_tweet"].limited(train=8, val=4, test=4)
    recipe = {"steps": 1, "batch": 4, "evaluate_every": 1, "limit": 32}
    first, second = (dc.train(backbone, expression, task, seed, **recipe) for seed in range(2))
    attach(backbone, expression).detach()  # shows once that every edit acts

    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        arms = _own_acts(backbone, expression, (first, second), folder) | _peft_acts(shape, precision, folder)
        times = interleaved(arms, rounds, at_least=0.05)
    for act in ("swap", "save", "load"):
        pair = {"ours": times[act], "theirs": times[f"peft: {act}"]}
        yield ratio(f"to {act} a delta", f"peft: {PEFT_ACTS[act]}", shape, precision, pair)
    yield amount("to attach and detach", shape, precision, [1e3 * s for s in times["attach"].used], "ms")


PEFT_ACTS = {"swap": "set_adapter", "save": "save_pretrained", "load": "load_adapter, delete_adapter"}


def _own_acts(
    backbone: dc.Backbone, expression: object, deltas: tuple, folder: Path
) -> dict[str, Callable[[], object]]:  # type: ignore[type-arg]
    first, second = deltas
    attachment = attach(backbone, expression)
    turn = iter(range(1 << 40))

    def swap() -> None:
        delta = deltas[next(turn) % 2]
        attachment.put({**delta.weights, **delta.constants})

    second.save(folder / "kept")
    return {
        "attach": lambda: attach(backbone, expression).detach(),
        "swap": swap,
        "save": lambda: first.save(folder / f"own{time.monotonic_ns()}"),
        "load": lambda: load_delta(folder / "kept"),
    }


def _peft_acts(shape: str, precision: str, folder: Path) -> dict[str, Callable[[], object]]:
    backbone = backbone_of(shape, precision)
    paths = [place.module for place in backbone.places("*attention.query", "*attention.value")]
    model = get_peft_model(backbone.model, LoraConfig(r=RANK, lora_alpha=ALPHA, target_modules=paths))
    model.add_adapter("second", LoraConfig(r=RANK, lora_alpha=ALPHA, target_modules=paths))
    turn = iter(range(1 << 40))
    model.save_pretrained(str(folder / "peft"), selected_adapters=["second"])

    def load() -> None:
        model.load_adapter(str(folder / "peft" / "second"), "third")
        model.delete_adapter("third")

    return {
        "peft: swap": lambda: model.set_adapter(("default", "second")[next(turn) % 2]),
        "peft: save": lambda: model.save_pretrained(
            str(folder / f"peft{time.monotonic_ns()}"), selected_adapters=["second"]
        ),
        "peft: load": load,
    }
