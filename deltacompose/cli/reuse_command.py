"""`deltacompose reuse` and `deltacompose merge`: several trained deltas on a new task."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from deltacompose.cli import output
from deltacompose.cli.options import ANALYSES, DELTAS, AsJson, Out, StudyOrStore, StudyStore
from deltacompose.errors import BadInput


def register(app: typer.Typer) -> None:
    """Adds these commands to the program."""
    app.command(rich_help_panel=DELTAS)(merge)
    app.command(rich_help_panel=ANALYSES)(reuse)


def merge(
    out: Annotated[str, typer.Argument(help="Folder or URL for the merged delta.")],
    deltas: Annotated[list[str], typer.Argument(help="Folders or URLs of the deltas, or of one library.")],
    way: Annotated[str, typer.Option(help="Way of merging: mean, ties, task_arithmetic or few_shot.")] = "mean",
    task: Annotated[str | None, typer.Option(help="New task, for few_shot; a name or a YAML file.")] = None,
    shots: Annotated[int, typer.Option(min=1, help="Labelled examples of the task, in total.")] = 32,
    evaluations: Annotated[int, typer.Option(min=1, help="Evaluations of the loss, for few_shot.")] = 40,
    composition: Annotated[str | None, typer.Option(help="Composition of the library's deltas, of several.")] = None,
    seed: Annotated[int, typer.Option(min=0, help="Random seed of the examples.")] = 0,
    as_json: AsJson = False,
) -> None:
    """Merge trained deltas into one.

    The way few_shot finds a coefficient for each delta on few examples of a task, without gradients (LoraHub).
    """
    from deltacompose import registry
    from deltacompose.delta.reuse import merged
    from deltacompose.library.new_task import few_examples, task_given
    from deltacompose.scoring import reader
    from deltacompose.scoring.as_trained import Reading

    places = _deltas_of(deltas, composition)
    if len(places) < 2:
        raise BadInput(f"merging needs at least 2 deltas, found {len(places)}")
    if way == "few_shot" and task is None:
        raise BadInput("few_shot finds weights on few examples of a task; name it with --task")
    loaded = [registry.load_delta(place) for place in places]
    name = loaded[0].backbone.get("name")
    if name is None:
        raise BadInput("the first delta does not record its backbone")
    reading = Reading.of(loaded[0].record)
    backbone = registry.load_backbone(name, head=reading.head)
    read = None
    if task is not None:
        read = reader(backbone, few_examples(task_given(task), shots, seed), reading.limit)
    delta, coefficients = merged(way, loaded, backbone, read, evaluations=evaluations)
    delta.save(out)
    facts = {"way": way, "deltas": places, "out": out, "coefficients": coefficients and list(coefficients)}
    if as_json:
        return output.write_json(facts)
    typer.echo(f"{len(places)} deltas of {delta.expression} merged by {way}, saved in {out}")
    for place, value in zip(places, coefficients or (), strict=False):
        typer.echo(f"  {value:+.3f}  {place}")
    return None


def _deltas_of(places: list[str], composition: str | None) -> list[str]:
    """The places themselves, or those of the deltas of a library of one composition."""
    from deltacompose.cli.library_commands import usable_cards
    from deltacompose.formats.urls import within
    from deltacompose.library.layout import DELTAS, INDEX
    from deltacompose.library.library import Library

    if len(places) != 1 or INDEX not in _names(places[0]):
        return places
    library = Library(places[0])
    cards = usable_cards(library)
    text = library.composition(composition, cards)
    return [str(within(places[0], DELTAS, name)) for name, card in cards.items() if card.composition == text]


def _names(place: str) -> list[str]:
    from deltacompose.formats.urls import names_in

    return names_in(place)


def reuse(source: StudyOrStore, store: StudyStore = None, out: Out = None, as_json: AsJson = False) -> None:
    """Compare ways of reusing deltas on new tasks.

    Reads the scores on the held-out tasks of a study with `reuse`: deltas merged, routed, and as starts of few-shot
    training, each against training from nothing.
    """
    from deltacompose import api
    from deltacompose.analysis.transfer.reuse_summary import rows, used
    from deltacompose.cli.study import store_of
    from deltacompose.figures.style import counted
    from deltacompose.store.store import Problem, open_store
    from deltacompose.study.config import Study

    study = None if source.is_dir() else Study.read(source)
    damaged: list[Problem] = []
    records = api.records(open_store(store_of(source, store), create=False), study, damaged)
    output.print_damaged(damaged)
    every = used(records)
    table = rows(every)
    targets, seeds = every[-1].targets, every[-1].seeds
    shown = [
        {name: row[name] for name in ("composition", "way", "few-shot", "shots")}
        | {"score": output.estimated({"value": row["score"], "low": row["low"], "high": row["high"]})}
        | {"against nothing": _difference(row)}
        | {"p": output.number(row["p"], ".2g")}
        for row in table
    ]
    columns = ("composition", "way", "few-shot", "shots", "score", "against nothing", "p")
    names = f"{counted(len(targets), 'held-out task')} ({', '.join(targets)})"
    caption = f"means over {names} and {counted(len(seeds), 'seed')}, with 95 % intervals"
    if out is not None:
        import pandas as pd

        from deltacompose.figures.figure_files import write_text
        from deltacompose.report.paper_tables import PaperTable

        write_text(Path(out) / "reuse.csv", pd.DataFrame(table).to_csv(index=False))
        texts = tuple(tuple(output.text_of(row[column]) for column in columns) for row in shown)
        printed = PaperTable(columns, texts, f"{caption[0].upper()}{caption[1:]}.", "reuse", names=3)
        for suffix in ("md", "tex"):
            printed.write(Path(out) / f"reuse.{suffix}")
    if as_json:
        return output.write_json({"targets": list(targets), "seeds": list(seeds), "ways": table})
    output.print_table(shown, columns)
    typer.echo(caption)
    return None


def _difference(row: dict[str, object]) -> str:
    keys = {"value": "difference", "low": "difference_low", "high": "difference_high"}
    return output.estimated({name: row[key] for name, key in keys.items()})
