"""Peak memory of a training process, as a plan predicts it and as the system counts it.

    OMP_NUM_THREADS=1 python studies/speed/memory.py                       # pico backbones and the embedded one
    OMP_NUM_THREADS=1 python studies/speed/memory.py --backbones smollm2   # needs the plugin deltacompose-smollm2

A row for each backbone and composition: megabytes of the whole process, predicted by `deltacompose plan` and measured
in a fresh process that loads the backbone and trains a bank of deltas (`--bank`, one by default) for a few steps of the
8 longest rows (VmHWM of Linux, counted anew when training begins); `ratio` is predicted over measured.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import typer

from deltacompose import api, registry
from deltacompose.backbone.pico import pico, pico_tokenizer
from deltacompose.cli import output
from deltacompose.study import BackboneChoice, Rows, Study
from deltacompose.study.recipe import Recipe

COMPOSITIONS = ("lora", "prompt", "prompt + bitfit + adapter", "full")
PICO = ("bert", "t5", "llama", "gpt2")
TASK, BATCH, STEPS = "sentiment_tweet", 8, 3


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    names = [*(f"pico {family}" for family in PICO), "embedded"]
    parser.add_argument("--backbones", nargs="+", default=names, help="names, folders, or `pico FAMILY`")
    parser.add_argument("--compositions", nargs="+", default=list(COMPOSITIONS), metavar="TEXT")
    parser.add_argument("--dtype", default="", help="of the frozen weights; pico backbones float32, others `auto`")
    parser.add_argument("--bank", type=int, default=1, help="number of deltas trained together")
    parser.add_argument("--json", action="store_true", help="one JSON list instead of a table")
    parser.add_argument(
        "--measure", type=Path, metavar="STUDY", help="train the study's deltas as one bank and print the peak"
    )
    settings = parser.parse_args()
    if settings.measure:
        typer.echo(measured_here(Study.read(settings.measure)))
        return None
    with tempfile.TemporaryDirectory() as folder:
        rows = [
            row(Path(folder), name, text, settings.dtype, settings.bank)
            for name in settings.backbones
            for text in settings.compositions
        ]
    if settings.json:
        return output.write_json(rows)
    output.print_table(rows, tuple(rows[0]))
    return None


def row(folder: Path, name: str, text: str, dtype: str, bank: int) -> dict[str, Any]:
    """Predicted and measured megabytes of the training of one bank."""
    study = asked(folder, name, text, dtype, bank)
    path = folder / "study.yaml"
    study.write(path)
    predicted = api.cost_of(study, workers=1, bank=bank).memory
    command = [sys.executable, "-W", "ignore", __file__, "--measure", str(path)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"{name}, {text}: {(done.stderr.strip().splitlines() or ['failed'])[-1]}")
    measured = int(done.stdout.splitlines()[-1])
    compared = {
        "backbone": name,
        "dtype": study.backbone.dtype,
        "composition": text,
        "bank": bank,
        "predicted MB": round(predicted / 1e6),
        "measured MB": round(measured / 1e6),
        "ratio": round(predicted / measured, 2),
    }
    typer.echo(", ".join(map(str, compared.values())), err=True)  # an interrupted run has shown what it measured
    return compared


def asked(folder: Path, name: str, text: str, dtype: str, bank: int) -> Study:
    """A study of one training for each delta of a bank, whose every step reads all of its rows."""
    model, chosen = name, dtype or ("float32" if name.startswith("pico ") else "auto")
    if name.startswith("pico "):
        family = name.removeprefix("pico ")
        model = str(folder / family)
        if not Path(model).exists():
            pico(family).save_pretrained(model)
            pico_tokenizer(family).save_pretrained(model)
    return Study(
        name="memory",
        tasks=(TASK,),
        compositions=(text,),
        backbone=BackboneChoice(model, chosen, device="cpu"),  # type: ignore[arg-type]
        training=Recipe(steps=STEPS, batch=BATCH, evaluate_every=STEPS, limit=96),
        seeds=tuple(range(bank)),
        rows=Rows(BATCH, BATCH, BATCH),
        folder=str(folder),
    )


def measured_here(study: Study) -> int:
    """The most bytes of this process while it trains the cells of a study as one bank."""
    import torch

    from deltacompose.cells.loaded import backbone_of
    from deltacompose.cells.study_facts import sample
    from deltacompose.cells.worker_sources import Sources
    from deltacompose.scoring import reader
    from deltacompose.training import train
    from deltacompose.training.learner import Job
    from deltacompose.training.memory import peak

    torch.set_num_threads(1)
    backbone = backbone_of(Sources.of(study).backbone)
    read = sample(study, TASK)
    rows = read.rows("train")
    longest = sorted(range(len(rows)), key=lambda i: -sum(read.lengths(rows[i])))[:BATCH]
    examples = tuple(read.task.examples("train")[i] for i in longest)
    task = replace(read.task, read=lambda split: examples)
    shared, expression = reader(backbone, task, study.training.limit), registry.parse(study.compositions[0])
    for outcome in train(backbone, [Job(expression, shared, seed, study.recipe(0)) for seed in study.seeds]):
        if isinstance(outcome, Exception):
            raise outcome
    return peak(torch.device("cpu"))


if __name__ == "__main__":
    main()
