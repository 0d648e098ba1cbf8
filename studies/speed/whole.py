"""A whole study as in quickstart.yaml, three ways: peft + Trainer + generate, peft in a bare loop, and deltacompose.

Every way trains LoRA on each of four tasks with two seeds, scores it on the development rows at the middle and the end
of the training, and evaluates every delta on the test rows of every task. The peers have their backbone loaded and
their tasks in tokens before the clock starts, and keep their deltas in memory; ours loads, plans, hashes and stores.
The first peer ranks by `generate`, on an encoder by the states; the second by the scores of all candidates, the
encoder run once.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
import transformers
from steps import DEVICE, RATE, Peer, backbone_of, lora_of
from timing import Row, interleaved, ratio
from words import words

import deltacompose as dc
from deltacompose.cells.pass_size import tokens_of_pass
from deltacompose.scoring import Reader, reader
from deltacompose.study import BackboneChoice, Rows, Study
from deltacompose.study.machine import multiplies_bfloat16
from deltacompose.task.task import score

TASKS = ("sentiment_movie", "sentiment_tweet", "topic_gloss", "package_section")
SEEDS = (0, 1)
TOGETHER = 32


@dataclass(frozen=True)
class Size:
    """How much a study trains and evaluates."""

    steps: int = 20
    batch: int = 16
    val: int = 32
    test: int = 64
    train: int = 320


def whole_study(shape: str, folder: Path, rounds: int, size: Size | None = None) -> Iterator[Row]:
    """Rows: ours against each peer, in fp32 and with a backbone in bf16 against the peers in fp32.

    Rows in bf16 are left out on a device without instructions for it.
    """
    size = size or Size()
    half = multiplies_bfloat16(DEVICE)
    model = saved(shape, folder)
    scores: dict[str, float] = {}
    arms: dict[str, Callable[[], None]] = {
        "trainer": _kept(scores, "trainer", lambda: PeerStudy(model, size, trainer=True)),
        "loop": _kept(scores, "loop", lambda: PeerStudy(model, size, trainer=False)),
        "fp32": lambda: scores.update(fp32=ours(model, size, "float32")),
    }
    if half:
        arms["bf16"] = lambda: scores.update(bf16=ours(model, size, "bfloat16"))
    for precision in (
        "float32",
        *(("bfloat16",) if half else ()),
    ):  # what is measured once per machine is not part of a study's time
        tokens_of_pass(*_first_bank(model, size, precision))
    times = interleaved(arms, rounds, warm=False)
    setting = f"{shape}, {len(TASKS)} tasks, {len(SEEDS)} seeds, {size.steps} steps of {size.batch}"
    peers = {"trainer": "peft + Trainer + generate", "loop": "peft in a bare loop"}
    for arm, precision in (("fp32", "float32"), *((("bf16", "bfloat16"),) if half else ())):
        for peer, name in peers.items():
            pair = {"ours": times[arm], "theirs": times[peer]}
            own = {"score": scores[arm], "peer_score": scores[peer]}
            yield ratio("whole study", f"{name}, fp32", setting, precision, pair, **own)


def _first_bank(model: str, size: Size, precision: str) -> tuple[dc.Backbone, list[Any]]:
    """The backbone, and of each training of the study's bank what the choice of the pass reads."""
    backbone = dc.load_backbone(model, dtype=precision, device=DEVICE)
    recipe = dc.Recipe(steps=10_000, batch=size.batch)
    readers = [reader(backbone, dc.tasks()[name].limited(train=size.train, val=1, test=1), 64) for name in TASKS]
    return backbone, [SimpleNamespace(reader=read, recipe=recipe) for read in readers for _ in SEEDS]


def saved(shape: str, folder: Path) -> str:
    """A folder with a shape of random weights and a tokenizer of words; of a name the name."""
    from steps import SHAPES

    if shape not in SHAPES:
        return shape
    place = folder / shape
    if not place.exists():
        backbone = backbone_of(shape, "float32", words())
        backbone.model.save_pretrained(place)
        backbone.tokenizer.save_pretrained(place)
    return str(place)


def ours(model: str, size: Size, precision: str) -> float:
    """Carries the study out and returns the mean score of all deltas on their own tasks."""
    backbone = dc.load_backbone(model)
    study = Study(
        name="whole",
        tasks=TASKS,
        compositions=(lora_of(backbone),),
        backbone=BackboneChoice(model=model, dtype=precision, device=DEVICE),
        seeds=SEEDS,
        training=dc.Recipe(
            steps=size.steps, batch=size.batch, evaluate_every=size.steps // 2, learning_rates={"lora": RATE}, limit=64
        ),
        rows=Rows(train=size.train, val=size.val, test=size.test),
        transfer=True,
    )
    with tempfile.TemporaryDirectory() as store:
        dc.run(study, store, progress=False)
        own = [
            record["result"]["score"]
            for record in dc.records(store)
            if record["kind"] == "evaluate" and record["spec"].get("source") == record["spec"]["target"]
        ]
    return sum(own) / len(own)


def _kept(scores: dict[str, float], name: str, make: Callable[[], PeerStudy]) -> Callable[[], None]:
    """An arm over a peer's study, which is prepared now."""
    study = make()

    def run() -> None:
        scores[name] = study.run()

    return run


class PeerStudy:
    """The study as a researcher writes it with peft; its weights change from training to training."""

    def __init__(self, model: str, size: Size, trainer: bool) -> None:
        device = "cuda:0" if torch.cuda.is_available() else None
        self.backbone = dc.load_backbone(model, device=device)
        self.size, self.by_trainer = size, trainer
        limits = {"train": size.train, "val": size.val, "test": size.test}
        self.readers = {name: reader(self.backbone, dc.tasks()[name].limited(**limits), 64) for name in TASKS}
        for read in self.readers.values():
            for split in limits:
                read.rows(split)
        self.peer = Peer(self.backbone, ("*attention.query", "*attention.value"))
        self.start = {name: x.detach().clone() for name, x in self.peer.trained.items()}

    def run(self) -> float:
        """Trains and evaluates everything; the mean score of all deltas on their own tasks."""
        own = []
        for name, read in self.readers.items():
            for seed in SEEDS:
                self.train(read, seed)
                for target, other in self.readers.items():
                    value = self.score(other, "test")
                    own += [value] if target == name else []
        return sum(own) / len(own)

    def train(self, read: Reader, seed: int) -> None:
        """One training from fresh weights."""
        torch.manual_seed(seed)
        for name, x in self.peer.trained.items():
            with torch.no_grad():
                if "lora_B" in name:
                    x.zero_()
                else:
                    torch.nn.init.kaiming_uniform_(x, a=5**0.5)
        (self._by_trainer if self.by_trainer else self._by_loop)(read, seed)

    def _by_loop(self, read: Reader, seed: int) -> None:
        size, tensors = self.size, list(self.peer.trained.values())
        optimiser = torch.optim.AdamW(tensors, lr=RATE, weight_decay=0.0)
        schedule = torch.optim.lr_scheduler.LambdaLR(optimiser, dc.Recipe(steps=size.steps).factor)
        order = torch.randperm(len(read.rows("train"))).tolist()
        for step in range(size.steps):
            at = step * size.batch % max(1, len(order) - size.batch + 1)
            loss = read.loss(self.batch(read, order[at : at + size.batch]), 1).sum()
            for x, gradient in zip(tensors, torch.autograd.grad(loss, tensors, allow_unused=True), strict=True):
                x.grad = gradient
            torch.nn.utils.clip_grad_norm_(tensors, 1.0)
            optimiser.step()
            schedule.step()
            if (step + 1) % (size.steps // 2) == 0:
                self.score(read, "val")

    def _by_trainer(self, read: Reader, seed: int) -> None:
        size, study = self.size, self

        class LossOfReader(transformers.Trainer):  # type: ignore[misc]
            """The loss that the other ways have, too."""

            def compute_loss(self, model: Any, inputs: Any, return_outputs: bool = False, **_: Any) -> Any:
                loss = read.loss(inputs, 1).sum()
                return (loss, None) if return_outputs else loss

        class Scores(transformers.TrainerCallback):  # type: ignore[misc]
            """Development scores at the middle and the end."""

            def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
                if state.global_step % (size.steps // 2) == 0:
                    study.score(read, "val")

        with tempfile.TemporaryDirectory() as folder:
            arguments = transformers.TrainingArguments(
                output_dir=folder, per_device_train_batch_size=size.batch, max_steps=size.steps, learning_rate=RATE,
                weight_decay=0.0, warmup_steps=max(1, round(0.06 * size.steps)), report_to=[], save_strategy="no",
                logging_strategy="no", use_cpu=not torch.cuda.is_available(), disable_tqdm=True, seed=seed,
                remove_unused_columns=False, dataloader_drop_last=True,
            )  # fmt: skip
            trainer = LossOfReader(
                model=self.backbone.model, args=arguments, train_dataset=list(range(len(read.rows("train")))),
                data_collator=lambda indices: dict(self.batch(read, indices)), callbacks=[Scores()],
            )  # fmt: skip
            trainer.remove_callback(transformers.PrinterCallback)
            trainer.train()
        self.backbone.model.eval()

    def batch(self, read: Reader, indices: Sequence[int]) -> Any:
        """Training rows, padded to the longest."""
        lengths = [read.lengths(read.rows("train")[i]) for i in indices]
        return read.batch("train", indices, (max(a for a, _ in lengths), max(b for _, b in lengths)))

    def score(self, read: Reader, split: str) -> float:
        """The score on a split, in batches of the rows' order."""
        rows, predictions = read.rows(split), []
        self.backbone.model.eval()
        with torch.no_grad():
            for start in range(0, len(rows), TOGETHER):
                own = rows[start : start + TOGETHER]
                if self.by_trainer and self.backbone.kind != "encoder":
                    longest = max(len(candidate) for row in own for candidate in row.candidates)
                    texts = read.generate(own, longest)
                    known = {text: label for label, text in read.task.verbalizer.items()}
                    # What is none of the labels' texts counts as the first label.
                    predictions += [known.get(text, read.task.labels[0]) for text in texts]
                else:
                    predictions += [read.task.labels[k] for k in read.scores(own).argmax(1).tolist()]
        return float(score(read.task, read.task.examples(split), predictions).value)
