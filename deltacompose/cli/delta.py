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
    from deltacompose.delta.delta import Delta

BackboneName = Annotated[str, typer.Option(help="A backbone's name, a folder, or a name on the hub.")]
Split = Annotated[str, typer.Option(help="train, val or test.")]
Dtype = Annotated[str, typer.Option(help="float32, bfloat16 or float16.")]
OwnBackbone = Annotated[
    str | None, typer.Option(help="A backbone's name, a folder, or a name on the hub.  [default: the delta's own]")
]
Limit = Annotated[int | None, typer.Option(min=1, help="Longest input in tokens.  [default: as the delta was trained]")]
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
    limit: Annotated[int, typer.Option(min=1, help="Longest input in tokens.")] = 128,
    learning_rate: Annotated[
        list[str] | None, typer.Option(help="Of one method, as lora=1e-4; may be repeated.  [default: its own]")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Train one composition on one task and save the delta."""
    from deltacompose import api

    recipe = {"steps": steps, "batch": batch, "evaluate_every": max(1, steps // 4), "limit": limit}
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
    backbone: OwnBackbone = None,
    dtype: Dtype = "float32",
    limit: Limit = None,
    as_json: AsJson = False,
) -> None:
    """Score one delta on a task, beside the untouched backbone and chance."""
    from deltacompose import api
    from deltacompose.scoring.as_trained import Reading, mismatches
    from deltacompose.training.loop import evaluate as evaluated

    given = api.load_delta(delta)
    loaded = _own_backbone(given, backbone, dtype)
    read = api.reader_for(loaded, given, task, limit)
    for sentence in mismatches(read, Reading.of(given.record)):
        typer.echo(f"note: {sentence}", err=True)
    measured = evaluated(read, given, split).score
    facts = {
        "task": task,
        "split": split,
        "limit": read.limit,
        "metric": measured.metric,
        "score": measured.value,
        "trivial": measured.trivial,
    }
    facts["untouched"] = evaluated(read, None, split).score.value
    facts["chance"] = read.task.chance(split)
    if as_json:
        return show.as_json(facts)
    show.table([facts], tuple(facts))
    return None


def generate(
    delta: DeltaFolder,
    text: Annotated[list[str], typer.Argument(help="Inputs.")],
    backbone: OwnBackbone = None,
    dtype: Dtype = "float32",
    tokens: Annotated[int, typer.Option(min=1, help="The most new tokens.")] = 40,
    limit: Limit = None,
    template: Annotated[
        str | None, typer.Option(help="Template around each input, with {input}.  [default: the delta's own]")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Generate text with a delta attached."""
    from deltacompose import api
    from deltacompose.scoring import answers
    from deltacompose.scoring.as_trained import BARE, Reading

    given = api.load_delta(delta)
    loaded, reading = _own_backbone(given, backbone, dtype), Reading.of(given.record)
    around = template or reading.template or BARE
    with given.attached(loaded):
        outputs = answers(loaded, text, tokens, limit or reading.limit, around)
    if as_json:
        return show.as_json([{"input": one, "output": output} for one, output in zip(text, outputs, strict=True)])
    for output in outputs:
        typer.echo(output)
    return None


def _own_backbone(given: Delta, name: str | None, dtype: str) -> Backbone:
    """The backbone that a delta is of, or the one of that name, with the head that the delta was trained with."""
    from deltacompose import api
    from deltacompose.scoring.as_trained import Reading

    name = name or given.backbone.get("name")
    if name is None:
        raise BadInput("the delta does not record its backbone; give --backbone")
    return api.load_backbone(name, dtype=dtype, head=Reading.of(given.record).head)


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
