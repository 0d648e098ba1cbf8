"""Commands that list what there is: methods, tasks, backbones, plugins."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import typer

from deltacompose.cli import show
from deltacompose.cli.plugin_check import checked
from deltacompose.errors import BadInput, unknown
from deltacompose.plugins.isolation import value_text

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
    scores: Annotated[
        bool, typer.Option("--scores", help="Chance and trivial scores, also where no task is named.")
    ] = False,
    name: Annotated[list[str] | None, typer.Argument(help="Tasks; all if none is named.")] = None,
) -> None:
    """List tasks: category, kind, metric and source.

    Tasks that are named have chance and the trivial scores behind it as well, on the test split. They need all rows of
    a task, and are unknown of tasks of the hub, whose data only `--verify` reads.
    """
    from deltacompose.plugins import loader as door

    known = door.loaded().tasks
    chosen = name or sorted(known)
    for one in chosen:
        if one not in known:
            raise unknown("task", one, known)
    if verify:
        from deltacompose.task.verify import verify as verified

        rows = [verified(known[one]) for one in chosen]
        columns: tuple[str, ...] = ("name", "state", "chance", "reason")
    else:
        scored = scores or bool(name)
        rows = [_or_fault(known, one, partial(_task, scored=scored), bool(name)) for one in chosen]
        columns = ("name", "category", "kind", "metric", *(("chance", "baselines") if scored else ()))
        columns = _with_faults((*columns, "labels", "verified", "source"), rows)
        if not as_json:
            rows = [row | {"labels": _few(row.get("labels")), "baselines": _best(row.get("baselines"))} for row in rows]
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
    from deltacompose.plugins import loader as door

    if derive:
        from deltacompose import api

        table = api.load_backbone(derive, table="derived").table
        return show.as_json({table.name: table.data}) if as_json else typer.echo(str(table), nl=False)
    known = door.loaded()
    rows = [
        {"origin": known.origin("backbone", name)} | _or_fault(known.backbones, name, _backbone)
        for name in known.backbones
    ]
    if as_json:
        return show.as_json(rows)
    show.table(rows, _with_faults(("name", "what", "serves", "origin"), rows))
    return None


def _or_fault(
    members: Mapping[str, Any], name: str, row: Callable[[Any], dict[str, Any]], named: bool = False
) -> dict[str, Any]:
    """The row of a member; of one that cannot be read the reason, unless the user named it."""
    try:
        return {"name": name, **row(members[name])}
    except BadInput as reason:
        if named:
            raise
        return {"name": name, "fault": str(reason)}


def _with_faults(columns: tuple[str, ...], rows: Iterable[Mapping[str, Any]]) -> tuple[str, ...]:
    return (*columns, "fault") if any("fault" in row for row in rows) else columns


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
    rows = [checked(known, row) for row in rows]
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
    method = made.name.removeprefix("deltacompose-").replace("-", "_")
    typer.echo(f"{made}: pip install -e {made} makes the method {method!r} known; its tests run by pytest {made}")


def _task(task: Any, scored: bool) -> dict[str, Any]:
    """What a task states, and where it is asked for, chance and the trivial scores behind it."""
    from deltacompose.task import Task
    from deltacompose.task.verify import baselines

    if not isinstance(task, Task):
        raise BadInput(f"{value_text(task)} is not a valid task (expected a deltacompose.task.Task)")
    stated = ("name", "category", "kind", "metric", "verified", "source", "licence", "note")
    facts = {field: getattr(task, field) for field in stated} | {"labels": list(task.labels)}
    if not scored:
        return facts
    found = baselines(task)
    return facts | {"chance": max(found.values()) if found else None, "baselines": found}


def _best(baselines: dict[str, float] | None) -> str | None:
    """The names of the best trivial scores, which are chance."""
    if baselines is None:
        return None
    return ", ".join(one for one, value in baselines.items() if value == max(baselines.values()))


def _few(labels: list[str] | None) -> str | None:
    """The labels where they fit into a column, else how many there are."""
    if labels is None:
        return None
    listed = ", ".join(labels)
    return listed if len(listed) <= 40 else f"{len(labels)} labels"


def _backbone(member: object) -> dict[str, Any]:
    from deltacompose.places.table import Table, read_table

    if isinstance(member, Mapping):
        member = read_table("", member)
    if isinstance(member, Table):
        return {"what": "table", "serves": list(member.serves)}
    return {"what": "weights", "serves": []}
