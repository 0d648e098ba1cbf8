"""Commands on one delta: train, evaluate, generate."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from deltacompose.cli import output
from deltacompose.cli.options import DELTAS, AsJson
from deltacompose.errors import BadInput

if TYPE_CHECKING:
    from deltacompose.backbone.backbone import Backbone
    from deltacompose.delta.delta import Delta

BackboneName = Annotated[str, typer.Option(help="Name of a backbone, a folder, or a name on the hub.")]
Split = Annotated[str, typer.Option(help="Split to evaluate: train, val or test.")]
Dtype = Annotated[str, typer.Option(help="Data type of the backbone: auto, float32, bfloat16 or float16.")]
OwnBackbone = Annotated[
    str | None, typer.Option(help="Name of a backbone, a folder, or a name on the hub.  [default: the delta's own]")
]
Limit = Annotated[
    int | None, typer.Option(min=1, help="Maximum length of an input in tokens.  [default: as in training]")
]
DeltaFolder = Annotated[str, typer.Argument(help="Folder or URL of the delta.")]


def register(app: typer.Typer) -> None:
    """Adds these commands to the program."""
    for command in (train, evaluate, generate):
        app.command(rich_help_panel=DELTAS)(command)


def train(
    composition: Annotated[str, typer.Argument(help="Composition, as in 'prompt + lora(rank=4) >> adapter'.")],
    task: Annotated[str, typer.Argument(help="Name of a task.")],
    out: Annotated[str, typer.Argument(help="Folder or URL for the delta.")],
    backbone: BackboneName = "embedded",
    dtype: Dtype = "float32",
    seed: Annotated[int, typer.Option(min=0, help="Random seed of the weights, the batches and the dropout.")] = 0,
    steps: Annotated[int, typer.Option(min=0, help="Optimiser steps per stage.")] = 200,
    batch: Annotated[int, typer.Option(min=1, help="Examples per step.")] = 16,
    limit: Annotated[int, typer.Option(min=1, help="Maximum length of an input in tokens.")] = 128,
    learning_rate: Annotated[
        list[str] | None,
        typer.Option(help="Learning rate of a method, as lora=1e-4; may be repeated.  [default: the method's own]"),
    ] = None,
    chat: Annotated[bool, typer.Option("--chat", help="Inputs through the backbone's chat template.")] = False,
    system: Annotated[str | None, typer.Option(help="System prompt of the chat.")] = None,
    as_json: AsJson = False,
) -> None:
    """Train a composition on a task."""
    from deltacompose import api

    recipe: dict[str, Any] = {"steps": steps, "batch": batch, "evaluate_every": max(1, steps // 4), "limit": limit}
    rates = dict(map(_rate, learning_rate or ()))
    _check_writable(out)
    loaded = api.load_backbone(backbone, dtype=dtype, chat=chat, system=system)
    delta = api.train(loaded, composition, task, seed, **recipe, learning_rates=rates)
    delta.save(out)
    if as_json:
        return output.write_json(dict(delta.record))
    record = delta.record
    typer.echo(
        f"{delta.expression} on {task}: {record['metric']} {record['dev']:.3f} on development data, saved in {out}"
    )
    return None


def evaluate(
    delta: DeltaFolder,
    task: Annotated[str, typer.Argument(help="Name of a task.")],
    split: Split = "val",
    backbone: OwnBackbone = None,
    dtype: Dtype = "float32",
    limit: Limit = None,
    as_json: AsJson = False,
) -> None:
    """Score a delta on a task.

    The scores of the untouched backbone and of chance are given for comparison.
    """
    from deltacompose import api
    from deltacompose.scoring.as_trained import Reading, mismatches
    from deltacompose.training.evaluation import evaluate as evaluated

    trained = api.load_delta(delta)
    loaded = _own_backbone(trained, backbone, dtype)
    reader = api.reader_for(loaded, trained, task, limit)
    for sentence in mismatches(reader, Reading.of(trained.record)):
        typer.echo(f"note: {sentence}", err=True)
    score = evaluated(reader, trained, split).score
    facts = {
        "task": task,
        "split": split,
        "limit": reader.limit,
        "metric": score.metric,
        "score": score.value,
        "trivial": score.trivial,
    }
    facts["untouched"] = evaluated(reader, None, split).score.value
    facts["chance"] = reader.task.chance(split)
    if as_json:
        return output.write_json(facts)
    output.print_table([facts], tuple(facts))
    return None


def generate(
    delta: DeltaFolder,
    text: Annotated[list[str], typer.Argument(help="Input texts.")],
    backbone: OwnBackbone = None,
    dtype: Dtype = "float32",
    tokens: Annotated[int, typer.Option(min=1, help="Maximum number of new tokens.")] = 40,
    limit: Limit = None,
    template: Annotated[
        str | None, typer.Option(help="Template that contains {input}.  [default: the delta's own]")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Generate text with a delta attached."""
    from deltacompose import api
    from deltacompose.scoring import answers
    from deltacompose.scoring.as_trained import BARE, Reading

    trained = api.load_delta(delta)
    loaded, reading = _own_backbone(trained, backbone, dtype), Reading.of(trained.record)
    chosen = template or reading.template or BARE
    with trained.attached(loaded):
        replies = answers(loaded, text, tokens, limit or reading.limit, chosen)
    if as_json:
        pairs = zip(text, replies, strict=True)
        return output.write_json([{"input": prompt, "output": reply} for prompt, reply in pairs])
    for reply in replies:
        typer.echo(reply)
    return None


def _own_backbone(delta: Delta, name: str | None, dtype: str) -> Backbone:
    """The backbone of a delta, or the one of that name, with the head and the chat that the delta was trained with."""
    from deltacompose import api
    from deltacompose.scoring.as_trained import Reading

    name = name or delta.backbone.get("name")
    if name is None:
        raise BadInput("the delta does not record its backbone; name it with --backbone")
    return api.load_backbone(name, dtype=dtype, **Reading.of(delta.record).options)


def _rate(text: str) -> tuple[str, float]:
    """The method and the learning rate in a text such as `lora=1e-4`."""
    method, _, number = text.partition("=")
    try:
        return method, float(number)
    except ValueError:
        raise BadInput(f"{text!r} is not a valid --learning-rate (expected METHOD=RATE, as lora=1e-4)") from None


def _check_writable(place: str) -> None:
    """Makes the folder and a temporary file in it, so that an error comes before the training and not after it."""
    from deltacompose.formats.urls import check_url, is_url

    if is_url(place):
        check_url(place)
        return
    folder = Path(place)
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.NamedTemporaryFile(dir=folder):
        pass
