"""`deltacompose library`: libraries of deltas."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from deltacompose.cli import output
from deltacompose.cli.options import AsJson, StudyStore

if TYPE_CHECKING:
    from deltacompose.library.card import Card
    from deltacompose.library.library import Library

app = typer.Typer(help="Make, list and search libraries of deltas.", no_args_is_help=True)

LibraryPlace = Annotated[str, typer.Argument(help="Folder or URL of the library.")]


@app.callback()
def library() -> None:
    """Make, list and search libraries of deltas."""


@app.command()
def make(
    source: Annotated[Path, typer.Argument(metavar="STUDY", help="YAML file of a study, or a store.")],
    out: Annotated[str, typer.Argument(help="Folder or URL of the library.")],
    store: StudyStore = None,
    embeddings: Annotated[
        bool, typer.Option(help="Embeddings of the tasks, for which the backbone is loaded; needs the study's file.")
    ] = True,
    as_json: AsJson = False,
) -> None:
    """Make a library from a study's store.

    Every trained delta is added with its card, its scores and the arrays of the study's measures. Deltas that are in
    the library already stay; their cards get the new scores.
    """
    from deltacompose import api
    from deltacompose.cli.study import store_of
    from deltacompose.library import features, from_store
    from deltacompose.store.store import Problem, open_store
    from deltacompose.study.config import Study

    study = None if source.is_dir() else Study.read(source)
    opened = open_store(store_of(source, store), create=False)
    damaged: list[Problem] = []
    records = api.records(opened, study, damaged)
    output.print_damaged(damaged)
    arrays = features.of_study(study) if embeddings and study is not None else {}
    outcome = from_store.make(opened, records, out, features.task_finder(study), arrays)
    if as_json:
        return output.write_json({"library": out, "added": list(outcome.names), "notes": list(outcome.notes)})
    typer.echo(f"{len(outcome.names)} deltas in {out}")
    for note in outcome.notes:
        typer.echo(f"- {note}")
    return None


@app.command("list")
def list_(place: LibraryPlace, as_json: AsJson = False) -> None:
    """List the deltas of a library."""
    _show(place, usable_cards, as_json)


@app.command()
def search(
    place: LibraryPlace,
    text: Annotated[str, typer.Argument(help="Words in a name, a task, a composition, a licence or a source.")] = "",
    task: Annotated[str | None, typer.Option(help="Task of the delta.")] = None,
    category: Annotated[str | None, typer.Option(help="Category of the task.")] = None,
    composition: Annotated[str | None, typer.Option(help="Composition of the delta.")] = None,
    seed: Annotated[int | None, typer.Option(help="Random seed of the training.")] = None,
    as_json: AsJson = False,
) -> None:
    """Search the deltas of a library."""
    wanted: dict[str, Any] = {"task": task, "category": category, "composition": composition, "seed": seed}
    _show(place, lambda library: library.search(text, **wanted), as_json)


@app.command()
def add(
    place: LibraryPlace,
    delta: Annotated[str, typer.Argument(help="Folder or URL of the delta.")],
    task: Annotated[str | None, typer.Option(help="Task that it was trained on.  [default: as in its record]")] = None,
    category: Annotated[str, typer.Option(help="Category of the task.")] = "",
    licence: Annotated[str, typer.Option(help="Licence of the training data.")] = "",
    as_json: AsJson = False,
) -> None:
    """Add a delta to a library."""
    from deltacompose import api
    from deltacompose.library.library import Library

    trained = api.load_delta(delta)
    known: dict[str, Any] = {"category": category, "licence": licence} | ({} if task is None else {"task": task})
    library = Library.create(place, trained.backbone) if trained.backbone else Library(place)
    name = library.add(trained, **known)
    library.write_readme()
    if as_json:
        return output.write_json({"library": place, "added": name})
    typer.echo(f"added {name} to {place}")
    return None


def usable_cards(library: Library) -> dict[str, Card]:
    """The card of each delta by its name; a sentence on stderr for each delta that cannot be used."""
    problems: list[str] = []
    cards = library.cards(problems)
    for problem in problems:
        typer.echo(f"left out: {problem}", err=True)
    return cards


def _show(place: str, choose: Callable[[Library], dict[str, Card]], as_json: bool) -> None:
    from deltacompose.library.library import Library

    library = Library(place)
    cards = choose(library)
    if as_json:
        deltas = {name: card.described() for name, card in cards.items()}
        return output.write_json({"library": place, "backbone": dict(library.backbone), "deltas": deltas})
    rows = [
        {"name": name} | {field: getattr(card, field) for field in ("task", "category", "composition", "seed", "dev")}
        for name, card in cards.items()
    ]
    output.print_table(rows, ("name", "task", "category", "composition", "seed", "dev"))
    return None
