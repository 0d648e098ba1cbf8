"""What a hundred tasks, twenty compositions and five seeds on T5-large take, by the cost model of `deltacompose plan`.

    python studies/speed/hundred_tasks.py [--transfer] [--rate 1e14] [--workers 8] [--json]

The plan is the study's own: its cells are made and counted one by one, from the shape of T5-large (its configuration,
no weights), its trained parameters and soft tokens. Nothing is trained and nothing fetched, so two things are assumed
and can be changed: how long the tasks' examples are (`--input`, `--answer`, `--candidates`), and how many operations a
second one worker sustains (`--rate`). With `--transfer` every delta is scored on every task: a million cells, which
take some minutes and some gigabytes to plan.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Mapping
from typing import Any

import torch
import transformers

from deltacompose import api
from deltacompose.backbone import Backbone
from deltacompose.cells.shapes import delta_shape, shape_of
from deltacompose.cli import output
from deltacompose.planning import plan as planning
from deltacompose.planning.cost import cost
from deltacompose.planning.facts import Facts, TaskFacts
from deltacompose.planning.fitting import greediest
from deltacompose.planning.flops import Lengths
from deltacompose.study import BackboneChoice, Rows, Study
from deltacompose.study.recipe import Recipe

LARGE = {"d_model": 1024, "d_ff": 4096, "d_kv": 64, "num_heads": 16, "num_layers": 24, "vocab_size": 32128}
"""T5-large (Raffel et al. 2020, arXiv 1910.10683, section 3.7), as transformers has it."""

SINGLE = ("prompt", "prefix", "bitfit", "adapter", "lora")
PAIRS = tuple(f"{a} + {b}" for k, a in enumerate(SINGLE) for b in SINGLE[k + 1 :])
FURTHER = (
    "prompt + bitfit + adapter",
    "prompt >> bitfit",
    "prompt >> adapter",
    "bitfit >> adapter",
    "adapter >> prompt",
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--transfer", action="store_true", help="score every delta on every task")
    parser.add_argument("--tasks", type=int, default=100)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=1000)
    parser.add_argument("--input", type=float, default=128, help="tokens of an input, padding included")
    parser.add_argument("--answer", type=float, default=4, help="tokens of an answer, and of a candidate")
    parser.add_argument("--candidates", type=float, default=3, help="answers that are ranked")
    parser.add_argument("--rate", type=float, default=1e14, help="operations a second that one worker sustains")
    parser.add_argument("--workers", type=int, default=8)
    parser.add_argument("--bank", type=int, default=8, help="deltas of one expression that train in one pass")
    parser.add_argument("--json", action="store_true", help="one JSON object instead of a table")
    given = parser.parse_args()
    found = reckoned(given)
    if given.json:
        return output.write_json(found)
    output.print_table(found["kinds"], tuple(found["kinds"][0]))
    for name, value in found.items():
        if name != "kinds":
            print(f"{name}: {value:,.4g}" if isinstance(value, float) else f"{name}: {value:,}")
    return None


def reckoned(given: argparse.Namespace) -> dict[str, Any]:
    """The rows of each kind of cell, and the whole: hours and days, bytes of memory and of disk."""
    names = tuple(f"task_{k}" for k in range(given.tasks))
    study = Study(
        name="a hundred tasks",
        tasks=names,
        compositions=(*SINGLE, *PAIRS, *FURTHER),
        backbone=BackboneChoice("google-t5/t5-large", "bfloat16"),
        seeds=tuple(range(given.seeds)),
        training=Recipe(steps=given.steps, batch=16, evaluate_every=max(1, given.steps // 5)),
        rows=Rows(train=10_000, val=200, test=500),
        transfer=given.transfer,
    )
    facts = _facts(study, t5_large(), given)
    started = time.monotonic()
    prepared = planning.prepare(study, facts, api.parse)
    plan = prepared.plan
    seconds = time.monotonic() - started
    memory = greediest(study, facts, api.parse, given.bank, gpu=True).bytes
    rates = {"train": given.rate, "evaluate": given.rate}
    found = cost(plan, None, lambda: rates, given.workers, memory)
    cells = [cell for _, cell in plan.nodes(data="cell")]
    kept = sum(4.0 * facts.deltas[cell.spec["composition"]].trained for cell in cells if cell.kind == "train")
    hours = found.total("seconds") / 3600
    return {
        "kinds": [_row(row) for row in found.kinds],
        "cells": len(cells),
        "parameters of the backbone": facts.shape.total,
        "operations": found.total("flops"),
        "hours of one worker": hours,
        f"days of {given.workers} workers": found.seconds / 86400,
        f"gigabytes of one worker, banks of {given.bank}": memory / 1e9,
        "gigabytes of deltas on disk": kept / 1e9,
        "seconds of planning": seconds,
    }


def _row(row: Mapping[str, Any]) -> dict[str, Any]:
    hours = row["seconds"] / 3600
    return {"kind": row["kind"], "cells": row["cells"], "operations": f"{row['flops']:.3g}", "hours": f"{hours:,.0f}"}


def t5_large() -> Backbone:
    """T5-large without weights: its shapes alone, in memory that nothing is written to."""
    with torch.device("meta"):
        model = transformers.T5ForConditionalGeneration(transformers.T5Config(**LARGE))
    model.to_empty(device="cpu").tie_weights()
    return api.load_backbone(model)


def _facts(study: Study, backbone: Backbone, given: argparse.Namespace) -> Facts:
    rows = {"train": study.rows.train or 0, "val": study.rows.val or 0, "test": study.rows.test or 0}
    length = Lengths(given.input, given.input, given.answer, given.candidates, given.answer, True, given.answer)
    tasks = {name: TaskFacts(name, "any", rows, length) for name in study.tasks}
    wholes = [api.parse(text) for text in study.compositions]
    parts = [whole.until(k + 1) for whole in wholes for k in range(len(whole.stages))]
    return Facts("t5-large", shape_of(backbone), tasks, {str(part): delta_shape(backbone, part) for part in parts})


if __name__ == "__main__":
    main()
