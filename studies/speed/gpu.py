"""Speed, memory and agreement on this machine's device, as one JSON file and one Markdown table.

    make gpu                                        # tests marked gpu, then this, on a machine with CUDA
    python studies/speed/gpu.py --cpu               # everything that a CPU can run, at a small size

Weights are random and of real shapes (T5-base, Llama-3.2-1B), so no hub is needed; with --cpu the shapes are small.
Each measurement is a function that gives rows; one that cannot run here gives a row "not measured" with the reason.
Times are medians over rounds with quartiles, after a round that does not count. Exits with status 2 without CUDA.
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
import transformers
from steps import RANK, RATE, Peer, padded, training

import deltacompose as dc
from deltacompose.backbone import Backbone
from deltacompose.backbone.pico import pico_tokenizer
from deltacompose.cells.shapes import delta_shape, lengths_of, shape_of
from deltacompose.errors import BadInput
from deltacompose.planning.flops import WEIGHT_BYTES, Memory, memory
from deltacompose.scoring import reader
from deltacompose.store.store import open_store
from deltacompose.study import BackboneChoice, Rows, Study
from deltacompose.study.recipe import Recipe
from deltacompose.training import learn
from deltacompose.training.evaluation import evaluate, evaluate_many
from deltacompose.training.learner import Job, Learner
from deltacompose.training.memory import count_anew, peak

HERE = Path(__file__).parent
COMPOSED = "prompt(length=8) + bitfit + adapter"
LLAMA_1B = {
    "hidden_size": 2048, "intermediate_size": 8192, "num_hidden_layers": 16, "num_attention_heads": 32,
    "num_key_value_heads": 8, "head_dim": 64, "vocab_size": 128256, "max_position_embeddings": 4096,
}  # fmt: skip
LLAMA_SMALL = {
    "hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 2, "vocab_size": 512, "max_position_embeddings": 512,
}  # fmt: skip
T5_BASE = {
    "d_model": 768, "d_kv": 64, "d_ff": 3072, "num_layers": 12, "num_heads": 12, "vocab_size": 32128,
}  # fmt: skip
T5_SMALL = {"d_model": 64, "d_kv": 16, "d_ff": 128, "num_layers": 2, "num_heads": 4, "vocab_size": 512}

Row = dict[str, Any]


class NotMeasured(Exception):
    """Why something cannot be measured on this machine."""


@dataclass(frozen=True)
class Kit:
    """The device and the sizes that measurements take.

    Attributes:
        banks: numbers K of deltas in a bank.
        rounds: timed repetitions, after one that is not timed.
    """

    device: torch.device
    folder: Path
    llama: dict[str, Any]
    t5: dict[str, Any]
    dtype: str
    banks: tuple[int, ...]
    batch: int
    tokens: int
    rounds: int
    steps: int

    @property
    def small(self) -> bool:
        """Whether this is the small form for a CPU."""
        return self.device.type == "cpu"

    def saved(self, family: str) -> Path:
        """The folder of a model of random weights, written once."""
        folder = self.folder / family
        if not folder.exists():
            ends = {"pad_token_id": 0, "eos_token_id": 2, "bos_token_id": 1}
            torch.manual_seed(0)
            if family == "llama":
                model = transformers.LlamaForCausalLM(transformers.LlamaConfig(**self.llama, **ends))
            else:
                start = {"pad_token_id": 0, "eos_token_id": 2, "decoder_start_token_id": 0}
                model = transformers.T5ForConditionalGeneration(transformers.T5Config(**self.t5, **start))
            model.to(torch.bfloat16).save_pretrained(folder)
            pico_tokenizer("llama" if family == "llama" else "t5").save_pretrained(folder)
        return folder

    def backbone(self, family: str = "llama", **options: Any) -> Backbone:
        """A backbone of random weights on the device."""
        options = {"dtype": self.dtype, "device": str(self.device)} | options
        return dc.load_backbone(str(self.saved(family)), **options)

    def sync(self) -> None:
        """Wait for the device."""
        if self.device.type == "cuda":
            torch.cuda.synchronize()

    def seconds(self, *arms: Callable[[], object]) -> list[list[float]]:
        """Seconds of each arm in each round; arms take turns in going first."""
        times: list[list[float]] = [[] for _ in arms]
        for number in range(self.rounds + 1):
            order = list(range(len(arms)))[:: 1 if number % 2 else -1]
            for at in order:
                self.sync()
                started = time.perf_counter()
                arms[at]()
                self.sync()
                if number:
                    times[at].append(time.perf_counter() - started)
        return times


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cpu", action="store_true", help="the small form, on a CPU")
    parser.add_argument("--present", action="store_true", help="only say whether CUDA is available, by the exit status")
    parser.add_argument("--only", nargs="+", choices=list(MEASUREMENTS), help="names of measurements")
    parser.add_argument("--out", type=Path, default=Path("results/gpu"), help="folder of the two files")
    settings = parser.parse_args()
    if not settings.cpu and not torch.cuda.is_available():
        print("error: no CUDA device is available here; --cpu runs the small form on a CPU", file=sys.stderr)
        return 2
    if settings.present:
        return 0
    with tempfile.TemporaryDirectory() as folder:
        kit = _kit(settings.cpu, Path(folder))
        rows = [row for name in settings.only or MEASUREMENTS for row in attempted(kit, name)]
    facts = {
        "device": device_name(kit.device),
        "devices": torch.cuda.device_count(),
        "dtype": kit.dtype,
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "rounds": kit.rounds,
    }
    settings.out.mkdir(parents=True, exist_ok=True)
    stem = "cpu" if settings.cpu else "".join(c if c.isalnum() else "_" for c in facts["device"]).strip("_")
    (settings.out / f"{stem}.json").write_text(json.dumps({**facts, "rows": rows}, indent=1) + "\n", encoding="utf-8")
    (settings.out / f"{stem}.md").write_text(table(facts, rows), encoding="utf-8")
    print(f"written: {settings.out}/{stem}.json, {settings.out}/{stem}.md")
    return 0


def _kit(cpu: bool, folder: Path) -> Kit:
    if cpu:
        return Kit(torch.device("cpu"), folder, LLAMA_SMALL, T5_SMALL, "float32", (1, 2, 4), 2, 32, 5, 8)
    banks = (1, 2, 4, 8, 16, 32, 64)
    return Kit(torch.device("cuda", 0), folder, LLAMA_1B, T5_BASE, "bfloat16", banks, 8, 128, 10, 20)


def device_name(device: torch.device) -> str:
    """The name of the GPU, or of the processor."""
    if device.type == "cuda":
        return str(torch.cuda.get_device_name(device))
    lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines() if Path("/proc/cpuinfo").exists() else []
    named = next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "")
    return named or platform.processor() or "CPU"


def attempted(kit: Kit, name: str) -> Iterator[Row]:
    """The rows of a measurement; one with the reason where it cannot run or fails."""
    print(f"{name} ...", flush=True)
    try:
        yield from ({"measurement": name} | row for row in MEASUREMENTS[name](kit))
    except NotMeasured as reason:
        yield {"measurement": name, "what": "", "value": None, "reason": str(reason)}
    except Exception as error:
        first = " ".join(str(error).split())[:160]
        yield {"measurement": name, "what": "", "value": None, "reason": f"failed: {type(error).__name__}: {first}"}
    if kit.device.type == "cuda":
        torch.cuda.empty_cache()


def table(facts: dict[str, Any], rows: list[Row]) -> str:
    """The rows as Markdown, with the device above them."""
    head = "\n".join(f"* {name}: {value}" for name, value in facts.items())
    lines = ["| measurement | what | value | quartiles |", "|---|---|---|---|"]
    for row in rows:
        reach = row.get("quartiles")
        value = (
            f"not measured: {row['reason']}" if row["value"] is None else f"{row['value']:.4g} {row.get('unit', '')}"
        )
        spread = "" if reach is None else f"{reach[0]:.4g} to {reach[1]:.4g}"
        cells = (row["measurement"], row["what"], value.strip(), spread)
        lines.append("| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |")
    return f"# {facts['device']}\n\n{head}\n\n" + "\n".join(lines) + "\n"


def timed(what: str, times: list[float], scale: float, unit: str) -> Row:
    """A row of the median and the quartiles of some times."""
    scaled = [value * scale for value in times]
    low, middle, high = statistics.quantiles(scaled, n=4, method="inclusive") if len(scaled) > 1 else [scaled[0]] * 3
    return {"what": what, "value": middle, "unit": unit, "quartiles": [low, high]}


def learners_of(kit: Kit, backbone: Backbone, expression: str, bank: int) -> tuple[list[Learner], Any]:
    """Learners of a bank, and the task that they read."""
    task = dc.tasks()["sentiment_tweet"].limited(train=kit.batch * 4, val=kit.batch, test=kit.batch)
    read = reader(backbone, task, kit.tokens)
    recipe = Recipe(steps=100_000, batch=kit.batch, warmup=0.0)
    parsed = dc.parse(expression)
    return [Learner(backbone, Job(parsed, read, seed, recipe)) for seed in range(bank)], read


def banks(kit: Kit) -> Iterator[Row]:
    """Milliseconds of a step of one delta, in banks of K, against K steps of peft's LoRA in a bare loop."""
    for expression in ("lora", COMPOSED):
        for bank in kit.banks:
            backbone = kit.backbone()
            try:
                learners, read = learners_of(kit, backbone, expression, bank)
                rows = padded(read, list(range(kit.batch)))
                with training(backbone, dc.parse(expression)) as attachment:
                    step = partial(learn, attachment, [(learner, rows) for learner in learners])
                    [times] = kit.seconds(step)
                yield timed(f"{expression}, K = {bank}, one step of one delta", times, 1e3 / bank, "ms")
            except torch.OutOfMemoryError:
                yield {"what": f"{expression}, K = {bank}", "value": None, "reason": "out of memory"}


def peer_loops(kit: Kit) -> Iterator[Row]:
    """Milliseconds of a step of peft's LoRA: a bare loop, transformers' Trainer, and torch.compile."""
    backbone = kit.backbone()
    _, read = learners_of(kit, backbone, "lora", 1)
    rows = padded(read, list(range(kit.batch)))
    peer = Peer(backbone, ("*attention.query", "*attention.value"))
    [times] = kit.seconds(lambda: peer.step(read, rows))
    yield timed("peft in a bare loop, one step", times, 1e3, "ms")
    yield from _trainer(kit, peer, backbone, rows)
    yield from _compiled(kit, peer, backbone, rows)


def _labelled(rows: Any) -> dict[str, torch.Tensor]:
    """The batch as a causal model of transformers takes it, loss on the answer alone."""
    labels = torch.full_like(rows["ids"], -100)
    labels[:, -rows["answer"].shape[1] :] = rows["answer"]
    return {"input_ids": rows["ids"], "attention_mask": rows["mask"], "labels": labels}


def _trainer(kit: Kit, peer: Peer, backbone: Backbone, rows: Any) -> Iterator[Row]:
    batch = {name: x.cpu() for name, x in _labelled(rows).items()}
    examples = [{name: x[k % kit.batch] for name, x in batch.items()} for k in range(kit.batch * kit.steps)]
    try:
        arguments = transformers.TrainingArguments(
            output_dir=str(kit.folder / "trainer"), per_device_train_batch_size=kit.batch, max_steps=kit.steps,
            learning_rate=RATE, report_to=[], save_strategy="no", logging_strategy="no", use_cpu=kit.small,
            disable_tqdm=True, bf16=not kit.small,
        )  # fmt: skip
    except ImportError as error:
        yield {"what": "peft + Trainer, one step", "value": None, "reason": str(error).split(".")[0]}
        return
    trainer = transformers.Trainer(model=backbone.model, args=arguments, train_dataset=examples)
    times = []
    for number in range(kit.rounds + 1):
        kit.sync()
        started = time.perf_counter()
        trainer.train()
        kit.sync()
        if number:
            times.append((time.perf_counter() - started) / kit.steps)
    yield timed("peft + Trainer, one step", times, 1e3, "ms")


def _compiled(kit: Kit, peer: Peer, backbone: Backbone, rows: Any) -> Iterator[Row]:
    """torch.compile of the loss; on CUDA in the mode that captures CUDA graphs."""
    mode = "default" if kit.small else "reduce-overhead"
    batch = _labelled(rows)
    compiled = torch.compile(backbone.model, mode=mode)
    tensors = list(peer.trained.values())

    def step() -> None:
        loss = compiled(**batch, use_cache=False).loss
        for tensor, gradient in zip(tensors, torch.autograd.grad(loss, tensors), strict=True):
            tensor.grad = gradient
        peer.optimiser.step()

    try:
        [times] = kit.seconds(step)
    except Exception as error:
        reason = f"torch.compile failed: {type(error).__name__}: {' '.join(str(error).split())[:100]}"
        yield {"what": f"peft under torch.compile ({mode})", "value": None, "reason": reason}
        return
    yield timed(f"peft under torch.compile ({mode}), one step", times, 1e3, "ms")


def evaluation(kit: Kit) -> Iterator[Row]:
    """Milliseconds per example and source of evaluating N sources, one after another and in shared passes."""
    backbone = kit.backbone()
    task = dc.tasks()["sentiment_tweet"].limited(train=kit.batch, val=kit.batch, test=4 * kit.batch)
    recipe = {"steps": 1, "batch": 2, "limit": kit.tokens}
    deltas = [dc.train(backbone, "lora", task, seed, **recipe) for seed in range(kit.banks[-1])]
    read = reader(backbone, task, kit.tokens)
    for count in kit.banks:
        chosen = deltas[:count]
        alone, shared = kit.seconds(
            lambda chosen=chosen: [evaluate(read, delta, "test") for delta in chosen],
            lambda chosen=chosen: evaluate_many(read, chosen, "test"),
        )
        yield timed(f"{count} sources, one after another", alone, 1e3 / count / (4 * kit.batch), "ms")
        yield timed(f"{count} sources, in shared passes", shared, 1e3 / count / (4 * kit.batch), "ms")


def attention(kit: Kit) -> Iterator[Row]:
    """Milliseconds of a step by SDPA and by flash attention, with and without a prefix."""
    for kernel in ("sdpa", "flash_attention_2"):
        for expression in ("lora", "prefix"):
            what = f"{kernel}, {expression}, one step"
            if kernel == "flash_attention_2" and kit.small:
                yield {"what": what, "value": None, "reason": "flash attention needs a GPU"}
                continue
            try:
                backbone = kit.backbone(attention=kernel)
            except (BadInput, ImportError) as error:
                yield {"what": what, "value": None, "reason": str(error)[:160]}
                continue
            learners, read = learners_of(kit, backbone, expression, 1)
            rows = padded(read, list(range(kit.batch)))
            with training(backbone, dc.parse(expression)) as attachment:
                [times] = kit.seconds(partial(learn, attachment, [(learners[0], rows)]))
            yield timed(what, times, 1e3, "ms")


def precision(kit: Kit) -> Iterator[Row]:
    """How far bfloat16 is from float32: candidates' scores, and predictions that agree."""
    task = dc.tasks()["sentiment_tweet"].limited(train=kit.batch, val=kit.batch, test=8 * kit.batch)
    scores = []
    for dtype in ("float32", "bfloat16"):
        read = reader(kit.backbone(dtype=dtype), task, kit.tokens)
        with torch.no_grad():
            scores.append(read.scores(read.rows("test")).float().cpu())
    apart = (scores[0] - scores[1]).abs()
    agree = (scores[0].argmax(-1) == scores[1].argmax(-1)).float().mean()
    yield {"what": "largest difference of a candidate's log-likelihood", "value": float(apart.max()), "unit": "nats"}
    yield {"what": "predictions that agree", "value": float(100 * agree), "unit": "%"}


def quantised(kit: Kit) -> Iterator[Row]:
    """The loss of LoRA on int8 and nf4 weights, against peft on the same quantised base."""
    if kit.small:
        raise NotMeasured("bitsandbytes is measured on a GPU")
    for dtype in ("int8", "nf4"):
        losses = []
        for ours in (True, False):
            backbone = kit.backbone(dtype=dtype)
            learners, read = learners_of(kit, backbone, f"lora(rank={RANK})", 1)
            rows = padded(read, list(range(kit.batch)))
            with torch.no_grad():
                if ours:
                    with training(backbone, dc.parse(f"lora(rank={RANK})")) as attachment:
                        attachment.put(learners[0].tensors())
                        losses.append(float(read.loss(rows, 1)))
                    first = learners[0]
                else:
                    peer = Peer(backbone, ("*attention.query", "*attention.value"))
                    peer.like(first, torch.Generator().manual_seed(0))
                    losses.append(float(read.loss(rows, 1)))
        yield {
            "what": f"{dtype}, difference of the loss from peft's",
            "value": abs(losses[0] - losses[1]),
            "unit": "nats",
        }


def sharding(kit: Kit) -> Iterator[Row]:
    """Seconds of a step and bytes of a backbone in shards over two GPUs by NCCL, against whole ones."""
    if torch.cuda.device_count() < 2:
        raise NotMeasured(f"sharding needs two GPUs, found {torch.cuda.device_count()}")
    command = [sys.executable, str(HERE / "shards.py"), "--rounds", str(kit.rounds)]
    ended = subprocess.run(command, capture_output=True, text=True, check=True)
    for name, value in json.loads(ended.stdout[ended.stdout.index("{") :]).items():
        if isinstance(value, int | float) and not isinstance(value, bool):
            yield {"what": f"two shards: {name}", "value": float(value)}


def predicted_memory(kit: Kit) -> Iterator[Row]:
    """Peak memory of training beside the plan's prediction."""
    if kit.small:
        raise NotMeasured("a process on a CPU keeps what was freed; `efficiency: true` measures it in one of its own")
    for expression in ("lora", COMPOSED):
        for bank in kit.banks[:: max(1, len(kit.banks) - 1)]:
            before = count_anew(kit.device)
            backbone = kit.backbone()
            learners, read = learners_of(kit, backbone, expression, bank)
            rows = padded(read, list(range(kit.batch)))
            with training(backbone, dc.parse(expression)) as attachment:
                for _ in range(2):
                    learn(attachment, [(learner, rows) for learner in learners])
            measured = peak(kit.device) - before
            held = WEIGHT_BYTES[kit.dtype]
            how = Memory(held, max(held, 2.0), bank)
            shape, delta = shape_of(backbone), delta_shape(backbone, dc.parse(expression))
            predicted = memory(shape, lengths_of(read, kit.batch), delta, kit.batch, how)
            what = f"{expression}, K = {bank}"
            yield {"what": f"{what}, measured", "value": measured / 1e6, "unit": "MB"}
            yield {"what": f"{what}, predicted over measured", "value": predicted / max(1, measured)}


def out_of_memory(kit: Kit) -> Iterator[Row]:
    """Whether a bank that does not fit trains all the same, and how many deltas did."""
    if kit.small:
        raise NotMeasured("a GPU's memory can be limited, a CPU's cannot")
    held = torch.cuda.memory_allocated()
    total = torch.cuda.get_device_properties(kit.device).total_memory
    backbone = kit.backbone()
    used = torch.cuda.memory_allocated() - held
    torch.cuda.set_per_process_memory_fraction(min(1.0, (held + 1.5 * used) / total))
    try:
        with tempfile.TemporaryDirectory() as store:
            study = _cut(kit, "llama", ("lora",), seeds=tuple(range(16)), tasks=("sentiment_tweet",))
            outcome = dc.run(study, store, bank=16)
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)
    del backbone
    yield {"what": "cells of 16 deltas in a bank that does not fit, finished", "value": float(outcome.done), "unit": ""}


def _cut(kit: Kit, family: str, compositions: tuple[str, ...], **changes: Any) -> Study:
    """A study of a few rows and steps on random weights of a real shape."""
    settings: dict[str, Any] = {
        "name": f"{family}_cut",
        "tasks": ("sentiment_tweet", "lexical_entailment"),
        "compositions": compositions,
        "backbone": BackboneChoice(model=str(kit.saved(family)), dtype=kit.dtype, device=str(kit.device)),
        "training": Recipe(steps=kit.steps, batch=kit.batch, evaluate_every=kit.steps, limit=kit.tokens),
        "rows": Rows(train=8 * kit.batch, val=kit.batch, test=2 * kit.batch),
    }
    return Study(**(settings | changes))


def studies(kit: Kit) -> Iterator[Row]:
    """Seconds of cut forms of studies/t5_base_glue.yaml and studies/llama_transfer.yaml."""
    cuts = {
        "t5_base_glue": _cut(kit, "t5", ("prompt", "bitfit", "adapter", COMPOSED, "prompt >> bitfit")),
        "llama_transfer": _cut(kit, "llama", ("lora", COMPOSED), transfer=True),
    }
    for name, study in cuts.items():
        with tempfile.TemporaryDirectory() as store:
            started = time.perf_counter()
            dc.run(study, store)
            seconds = time.perf_counter() - started
            records = open_store(store).records()
            finished = sum(record["state"] == "done" for record in records)
        yield {"what": f"{name}, cut, {finished} of {len(dc.plan(study))} cells", "value": seconds, "unit": "s"}


MEASUREMENTS: dict[str, Callable[[Kit], Iterator[Row]]] = {
    "banks": banks,
    "peft": peer_loops,
    "evaluation": evaluation,
    "attention": attention,
    "precision": precision,
    "quantised": quantised,
    "sharding": sharding,
    "memory": predicted_memory,
    "out_of_memory": out_of_memory,
    "studies": studies,
}
"""What is measured, in this order."""


if __name__ == "__main__":
    sys.exit(main())
