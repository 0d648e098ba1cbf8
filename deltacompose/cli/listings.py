"""Commands that list what there is: methods, tasks, backbones, plugins."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from deltacompose.cli import show
from deltacompose.errors import BadInput, NoPlace
from deltacompose.plugins.members import said

AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]
plugins = typer.Typer(help="List plugins, check one, or begin a new one.", invoke_without_command=True)


def register(app: typer.Typer) -> None:
    """Adds these commands to the program."""
    for command in (methods, tasks, backbones):
        app.command()(command)
    app.add_typer(plugins, name="plugins")


def methods(
    as_json: AsJson = False,
    peft: Annotated[
        bool, typer.Option("--peft", help="The types of peft(type=...), with why the others fail.")
    ] = False,
) -> None:
    """Every method: category, places, parameters, settings, learning rate, what it can do, source, and faults."""
    from deltacompose import api
    from deltacompose.method import catalogue

    columns: tuple[str, ...]
    if peft:
        rows = api.methods()["peft"].table()  # type: ignore[attr-defined]
        columns = ("type", "works", "acts", "places", "neutral", "banked", "mergeable", "note")
    else:
        rows = [{"name": row["method"], **row} for row in catalogue.table(api.methods())]
        columns = tuple(key for key in catalogue.COLUMNS if key != "fault" or any(row[key] for row in rows))
    if as_json:
        return show.as_json(rows)
    rates = (row.get("learning_rate") for row in rows)
    shown = [
        row | {"learning_rate": None if rate is None else f"{rate:g}"} for row, rate in zip(rows, rates, strict=True)
    ]
    show.table(shown, columns)
    return None


def tasks(
    as_json: AsJson = False,
    verify: Annotated[
        bool, typer.Option("--verify", help="Read the data and compare them with the description.")
    ] = False,
    name: Annotated[list[str] | None, typer.Argument(help="Tasks; all if none is named.")] = None,
) -> None:
    """Every task: category, kind, metric and source; chance and trivial scores of those that are named, or as JSON.

    They are the test split's, and unknown of tasks of the hub, whose data only `--verify` reads.
    """
    from deltacompose import api

    known = api.tasks()
    chosen = name or sorted(known)
    if verify:
        from deltacompose.task.verify import verify as verified

        rows = [verified(api.task_of(one)) for one in chosen]
        columns: tuple[str, ...] = ("name", "state", "chance", "reason")
    else:
        # Scores of the embedded tasks need all their rows: some seconds for all of them, which a listing does not take.
        rows = [_task(one) | (_scores(one) if name or as_json else {}) for one in chosen]
        scores = ("chance", "baselines") if name else ()
        columns = ("name", "category", "kind", "metric", *scores, "labels", "verified", "source")
        if not as_json:
            rows = [{**row, "labels": _few(row["labels"]), "baselines": _best(row.get("baselines"))} for row in rows]
    if as_json:
        return show.as_json(rows)
    show.table(rows, columns)
    return None


def backbones(
    as_json: AsJson = False,
    derive: Annotated[
        str, typer.Option(help="Show the table of places derived for a model (folder or hub name).")
    ] = "",
) -> None:
    """Every named backbone and every family of models with a table of places."""
    from deltacompose import api
    from deltacompose.plugins import loader as door

    if derive:
        typer.echo(str(api.load_backbone(derive, table="derived").table), nl=False)
        return None
    known = door.loaded()
    rows = [
        {"name": name, "origin": known.origin("backbone", name), **_backbone(known.backbones[name])}
        for name in known.backbones
    ]
    if as_json:
        return show.as_json(rows)
    show.table(rows, ("name", "what", "serves", "origin"))
    return None


@plugins.callback()
def plugins_alone(context: typer.Context, as_json: AsJson = False) -> None:
    """Every plugin: what it gives, and if it gives nothing, why."""
    if context.invoked_subcommand is None:
        list_plugins(as_json)


@plugins.command("list")
def list_plugins(as_json: AsJson = False) -> None:
    """The same as `plugins` alone."""
    from deltacompose.plugins import loader as door

    rows = door.describe(door.loaded())
    if as_json:
        return show.as_json(rows)
    counted = [{**row, "members": len(row["members"])} for row in rows]
    show.table(counted, ("name", "distribution", "version", "state", "members", "reason"))
    return None


@plugins.command("check")
def check_plugin(name: Annotated[str, typer.Argument(help="The plugin's name.")], as_json: AsJson = False) -> None:
    """Read every member of a plugin, and put its methods through the conformance suite."""
    from deltacompose.plugins import loader as door

    known = door.loaded()
    rows = door.check(known, name)
    rows = [_checked(known, row) for row in rows]
    if as_json:
        show.as_json(rows)
    else:
        show.table(rows, ("kind", "name", "state", "reason"))
    if any(row["state"] not in ("sound", "unchecked") for row in rows):
        raise typer.Exit(1)


@plugins.command("new")
def new_plugin(
    name: Annotated[str, typer.Argument(help="What the method will be called.")],
    folder: Annotated[Path, typer.Option(help="Where the distribution's folder goes.")] = Path(),
) -> None:
    """Begin a plugin: a whole distribution with a method, its tests and a README."""
    from deltacompose.plugins import loader as door
    from deltacompose.plugins import scaffold

    known = door.loaded()
    made = scaffold.new_plugin(name, folder, {*known.methods, *known.expressions})
    typer.echo(f"{made}: pip install -e {made} makes the method {name!r} known; its tests run by pytest {made}")


def _task(name: str) -> dict[str, Any]:
    from deltacompose import api

    task = api.task_of(name)
    facts = {
        field: getattr(task, field)
        for field in ("name", "category", "kind", "metric", "verified", "source", "licence", "note")
    }
    return facts | {"labels": list(task.labels)}


def _scores(name: str) -> dict[str, Any]:
    """Chance and the trivial scores behind it, none of which uses the input."""
    from deltacompose import api
    from deltacompose.task import verify as task_verify

    found = task_verify.baselines(api.task_of(name))
    return {"chance": max(found.values()) if found else None, "baselines": found}


def _best(baselines: dict[str, float] | None) -> str | None:
    """The names of the best trivial scores, which are chance."""
    if baselines is None:
        return None
    return ", ".join(one for one, value in baselines.items() if value == max(baselines.values()))


def _few(labels: list[str]) -> str:
    """The labels where they fit into a column, else how many there are."""
    listed = ", ".join(labels)
    return listed if len(listed) <= 40 else f"{len(labels)} labels"


def _backbone(member: object) -> dict[str, Any]:
    from deltacompose.places.table import Table

    if isinstance(member, Table):
        return {"what": "table", "serves": list(member.serves)}
    return {"what": "weights", "serves": []}


def _checked(known: Any, row: dict[str, str]) -> dict[str, str]:
    """The row of a sound method with what the conformance suite says of it; any other row as it is."""
    if row["kind"] != "method" or row["state"] != "sound":
        return row
    typer.echo(f"checking {row['name']}", err=True)
    state, reason = _standing(known.methods[row["name"]])
    return {**row, "state": state, "reason": reason}


def _standing(kind: Any) -> tuple[str, str]:
    """What the suite says of a method at its default settings, on the families where it has places: state, reason."""
    from deltacompose.checks import suite as checks

    try:
        method = kind()
    except (Exception, SystemExit) as error:  # what a stranger's method raises may be anything
        return "broken", f"it cannot be made at its default settings: {said(error)}"
    refusals = {family: _refusal(method, family) for family in checks.BACKBONES}
    for family, refusal in refusals.items():
        if not isinstance(refusal, BadInput | None):
            return "broken", f"at its default settings it fails on {family}: {said(refusal)}"
    refused = {family: refusal for family, refusal in refusals.items() if refusal}
    if len(refused) == len(refusals):
        return _nowhere(list(refused.values()))
    try:
        checks.check_method(method, backbones=[family for family in refusals if family not in refused])
    except (AssertionError, BadInput) as reason:
        return "broken", str(reason)
    return "sound", "; ".join(f"not on {name}: {said(why).partition('; ')[0]}" for name, why in refused.items())


def _nowhere(refused: list[BaseException]) -> tuple[str, str]:
    """State and reason of a method that every family refuses: for its places, or for want of a setting, as a file."""
    for refusal in refused:
        if not isinstance(refusal, NoPlace):
            return "unchecked", f"at its default settings: {said(refusal)}"
    return "broken", f"at its default settings it has a place on no family: {said(refused[0])}"


def _refusal(method: Any, family: str) -> BaseException | None:
    """Why a method has no weights or edits on a family; None if it has."""
    from deltacompose.backbone.pico import pico_backbone
    from deltacompose.method.contract import edits_of
    from deltacompose.method.weights import init_weights

    backbone = pico_backbone(family)
    try:
        init_weights(backbone, method)
        edits_of(method, backbone)
    except (Exception, SystemExit) as refusal:  # what a stranger's method raises may be anything
        return refusal
    return None
