"""Commands about one delta: train, evaluate, generate."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from deltacompose.cli import show
from deltacompose.errors import BadInput

if TYPE_CHECKING:
    from deltacompose.backbone.backbone import Backbone

BackboneName = Annotated[str, typer.Option(help="A backbone's name, a folder, or a name on the hub.")]
Split = Annotated[str, typer.Option(help="train, val or test.")]
Dtype = Annotated[str, typer.Option(help="float32, bfloat16 or float16.")]
DeltaFolder = Annotated[Path, typer.Argument(help="The delta's folder.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]


def register(app: typer.Typer) -> None:
    """Adds these commands to the program."""
    for command in (train, evaluate, generate):
        app.command()(command)


def train(
    composition: Annotated[str, typer.Argument(help="For example 'prompt + lora(rank=4) >> adapter'.")],
    task: Annotated[str, typer.Argument(help="The name of a task.")],
    out: Annotated[Path, typer.Argument(help="Folder for the delta.")],
    backbone: BackboneName = "embedded",
    dtype: Dtype = "float32",
    seed: Annotated[int, typer.Option(min=0, help="Of the weights, the batches and the dropout.")] = 0,
    steps: Annotated[int, typer.Option(min=0, help="Optimiser steps of each stage.")] = 200,
    batch: Annotated[int, typer.Option(min=1, help="Examples per step.")] = 16,
    learning_rate: Annotated[
        list[str] | None, typer.Option(help="Of one method, as lora=1e-4; may be repeated.  [default: its own]")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Train one composition on one task and save the delta."""
    from deltacompose import api

    recipe = {"steps": steps, "batch": batch, "evaluate_every": max(1, steps // 4)}
    rates = dict(map(_rate, learning_rate or ()))
    _check_writable(out)
    loaded = api.load_backbone(backbone, dtype=dtype)
    delta = api.train(loaded, composition, task, seed, **recipe, learning_rates=rates)
    delta.save(out)
    if as_json:
        return show.as_json(dict(delta.record))
    record = delta.record
    typer.echo(
        f"{delta.expression} on {task}: {record['metric']} {record['dev']:.3f} on development data, saved in {out}"
    )
    return None


def evaluate(
    delta: DeltaFolder,
    task: Annotated[str, typer.Argument(help="The name of a task.")],
    split: Split = "val",
    backbone: BackboneName = "embedded",
    dtype: Dtype = "float32",
    as_json: AsJson = False,
) -> None:
    """Score one delta on a task, beside the untouched backbone and chance."""
    from deltacompose import api

    loaded, given = api.load_backbone(backbone, dtype=dtype), api.load_delta(delta)
    measured = api.evaluate(loaded, given, task, split).score
    facts = {
        "task": task,
        "split": split,
        "metric": measured.metric,
        "score": measured.value,
        "trivial": measured.trivial,
    }
    facts["untouched"] = api.evaluate(loaded, None, task, split).score.value
    facts["chance"] = api.task_of(task).chance(split)
    if as_json:
        return show.as_json(facts)
    show.table([facts], tuple(facts))
    return None


def generate(
    delta: DeltaFolder,
    text: Annotated[list[str], typer.Argument(help="Inputs.")],
    backbone: BackboneName = "embedded-generative",
    dtype: Dtype = "float32",
    tokens: Annotated[int, typer.Option(min=1, help="The most new tokens.")] = 40,
    as_json: AsJson = False,
) -> None:
    """What the backbone says to some inputs with a delta in force."""
    from deltacompose import api

    loaded, given = api.load_backbone(backbone, dtype=dtype), api.load_delta(delta)
    with given.attached(loaded):
        answers = _answers(loaded, text, tokens)
    if as_json:
        return show.as_json([{"input": one, "output": answer} for one, answer in zip(text, answers, strict=True)])
    for answer in answers:
        typer.echo(answer)
    return None


def _rate(text: str) -> tuple[str, float]:
    """The method and its learning rate, of `lora=1e-4`."""
    method, _, number = text.partition("=")
    try:
        return method, float(number)
    except ValueError:
        raise BadInput(f"--learning-rate {text!r} is no method with its rate; write lora=1e-4") from None


def _check_writable(folder: Path) -> None:
    """Makes the folder, and a file in it for a moment: better an error now than after the training."""
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.NamedTemporaryFile(dir=folder):
        pass


def _answers(backbone: Backbone, texts: list[str], tokens: int) -> list[str]:
    from deltacompose.scoring import answers

    return answers(backbone, texts, tokens)
