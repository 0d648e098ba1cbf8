"""Seconds and memory of planning a study on the shapes of Llama-3-8B, T5-11B and Mixtral-8x7B, without their weights.

    python studies/speed/large_plans.py [--dtype auto] [--json]

writes each configuration with a small tokenizer into a temporary folder and plans a study of five tasks, five
compositions and two seeds with transfer there, each time in a process of its own: first with an empty cache, so that
the speed of the machine is measured too, then again. Seconds are those of the processor.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import yaml
from transformers import LlamaConfig, MixtralConfig, PretrainedConfig, T5Config

from deltacompose.backbone.pico import pico_tokenizer
from deltacompose.cli import output

COMPOSITIONS = ["lora", "prompt(length=20) + bitfit", "prefix", "full", "ia3 >> adapter"]
FEW_BITS = ("int8", "nf4")
TASKS = ["sentiment_movie", "topic_gloss", "lexical_entailment", "past_tense", "span_qa"]
SHAPES: dict[str, tuple[str, PretrainedConfig]] = {
    "Llama-3-8B": (
        "llama",
        LlamaConfig(
            hidden_size=4096,
            intermediate_size=14336,
            num_hidden_layers=32,
            num_attention_heads=32,
            num_key_value_heads=8,
            vocab_size=128256,
            architectures=["LlamaForCausalLM"],
        ),
    ),
    "T5-11B": (
        "t5",
        T5Config(
            d_model=1024,
            d_kv=128,
            d_ff=65536,
            num_layers=24,
            num_heads=128,
            vocab_size=32128,
            architectures=["T5ForConditionalGeneration"],
        ),
    ),
    "Mixtral-8x7B": ("llama", MixtralConfig(architectures=["MixtralForCausalLM"])),
}
PROGRAM = """
import contextlib, io, json, time
from deltacompose import cli
output = io.StringIO()
with contextlib.redirect_stdout(output):
    cli.main()
peak = next(line for line in open("/proc/self/status") if line.startswith("VmHWM"))
print(json.dumps({"seconds": time.process_time(), "bytes": 1024 * int(peak.split()[1]), "plan": output.getvalue()}))
"""
"""A command of deltacompose, followed by a line with its own seconds and most bytes."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dtype", default="auto", help="of the frozen weights; int8 and nf4 need bitsandbytes")
    parser.add_argument("--json", action="store_true", help="one JSON list instead of a table")
    settings = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        rows = [row(Path(folder), name, settings.dtype) for name in SHAPES]
    if settings.json:
        return output.write_json(rows)
    output.print_table(rows, tuple(rows[0]))
    return None


def row(folder: Path, name: str, dtype: str) -> dict[str, Any]:
    """The cost of planning on one shape, and what the plan says of its largest training."""
    path = written(folder / name, name, dtype)
    first, second = (planned(path, folder / f"{name} cache") for _ in range(2))
    plan = json.loads(first["plan"])
    return {
        "shape": name,
        "parameters": f"{next(r['parameters'] for r in plan['parameters'] if r['composition'] == 'full') / 1e9:.1f} B"
        if dtype not in FEW_BITS
        else "",
        "cells": plan["cells"],
        "first s": round(first["seconds"], 1),
        "again s": round(second["seconds"], 1),
        "peak MB": round(first["bytes"] / 1e6),
        "one training GB": round(plan["memory"] / 1e9, 1),
    }


def written(folder: Path, name: str, dtype: str) -> Path:
    """A study on a shape: its configuration and a tokenizer, and no weights."""
    tokenizer, config = SHAPES[name]
    config.save_pretrained(folder)
    pico_tokenizer(tokenizer).save_pretrained(folder)
    study = {
        "name": "large",
        "tasks": TASKS,
        "compositions": [text for text in COMPOSITIONS if dtype not in FEW_BITS or text != "full"],
        "backbone": {"model": str(folder), "dtype": dtype},
        "seeds": [0, 1],
        "training": {"steps": 100, "batch": 16},
        "transfer": True,
    }
    path = folder / "study.yaml"
    path.write_text(yaml.safe_dump(study))
    return path


def planned(study: Path, cache: Path) -> dict[str, Any]:
    """Time, memory and output of `deltacompose plan`, in a process of its own with one thread."""
    environment = os.environ | {"DELTACOMPOSE_CACHE": str(cache), "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    arguments = ["plan", str(study), "--json", "--bank", "1"]
    command = [sys.executable, "-W", "ignore", "-c", PROGRAM, *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment, cwd=study.parent)
    if done.returncode:
        raise SystemExit(done.stderr.strip() or f"planning {study} ended with status {done.returncode}")
    measured: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return measured


if __name__ == "__main__":
    main()
