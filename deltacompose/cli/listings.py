"""Commands that list the members: methods, tasks, backbones, plugins."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import typer

from deltacompose.cli import output
from deltacompose.cli.options import CATALOGUE, AsJson
from deltacompose.cli.plugin_check import checked
from deltacompose.cli.waiting import waiting
from deltacompose.errors import BadInput, unknown
from deltacompose.plugins.isolation import value_text

plugins = typer.Typer(help="List, check or create plugins.", invoke_without_command=True)


def register(app: typer.Typer) -> None:
    """Adds these commands to the program."""
    for command in (methods, tasks, backbones):
        app.command(rich_help_panel=CATALOGUE)(command)
    app.add_typer(plugins, name="plugins", rich_help_panel=CATALOGUE)


def methods(
    as_json: AsJson = False,
    peft: Annotated[
        bool, typer.Option("--peft", help="Types of peft(type=...), with the reason for each that fails.")
    ] = False,
) -> None:
    """List the methods.

    Category, places, parameters, settings, learning rate, abilities, source, and faults.
    """
    columns: tuple[str, ...]
    with waiting("reading the methods", first=0.5):  # the first time torch is imported, which takes seconds
        rows = _remembered("peft" if peft else "methods", _peft_types if peft else _methods)
    if peft:
        columns = ("type", "works", "acts", "places", "neutral", "banked", "mergeable", "note")
    else:
        named = (key for row in rows[:1] for key in row if key != "name")
        columns = tuple(key for key in named if key != "fault" or any(row[key] for row in rows))
    if as_json:
        return output.write_json(rows)
    rates = (row.get("learning_rate") for row in rows)
    shown = [
        row | {"learning_rate": None if rate is None else f"{rate:g}"} for row, rate in zip(rows, rates, strict=True)
    ]
    output.print_table(shown, columns)
    return None


def _methods() -> list[dict[str, Any]]:
    from deltacompose import registry
    from deltacompose.method import catalogue

    return [{"name": row["method"], **row} for row in catalogue.table(registry.methods())]


def _peft_types() -> list[dict[str, Any]]:
    from deltacompose import registry

    return registry.methods()["peft"].table()  # type: ignore[attr-defined,no-any-return]


def _remembered(kind: str, find: Callable[[], list[dict[str, Any]]]) -> list[dict[str, Any]]:
    """A listing that needs torch, recalled where the same code and the same libraries gave it before.

    It is not remembered where a member has no file that describes it, or a fault that may pass.
    """
    from deltacompose import registry
    from deltacompose.cache.remembered import entry, recall, remember

    code = registry.code()
    if code is None:
        return find()
    path = entry(kind, [code])
    rows: list[dict[str, Any]] | None = recall(path, list[dict[str, Any]])
    if rows is None:
        rows = find()
        if not any(str(row.get("fault") or "").startswith("cannot") for row in rows):
            remember(path, rows)
    return rows


def tasks(
    as_json: AsJson = False,
    verify: Annotated[bool, typer.Option("--verify", help="Comparison of the data with their description.")] = False,
    scores: Annotated[
        bool, typer.Option("--scores", help="Chance and trivial scores, even if no task is named.")
    ] = False,
    name: Annotated[list[str] | None, typer.Argument(help="Names of tasks.  [default: all]")] = None,
) -> None:
    """List the tasks.

    Category, kind, metric and source. For named tasks also chance and the trivial scores behind it, on the test split.
    These need all rows of a task; they are unknown for tasks of the hub, whose data only `--verify` reads.
    """
    from deltacompose.plugins import loader as door

    known = door.loaded().tasks
    chosen = name or sorted(known)
    for task in chosen:
        if task not in known:
            raise unknown("task", task, known)
    if verify:
        from deltacompose.task.verify import verify as verified

        rows = [verified(known[task]) for task in chosen]
        columns: tuple[str, ...] = ("name", "state", "chance", "reason")
    else:
        scored = scores or bool(name)
        rows = [_or_fault(known, task, partial(_task, scored=scored), bool(name)) for task in chosen]
        columns = ("name", "category", "kind", "metric", *(("chance", "baselines") if scored else ()))
        columns = _with_faults((*columns, "labels", "verified", "source"), rows)
        if not as_json:
            rows = [row | {"labels": _few(row.get("labels")), "baselines": _best(row.get("baselines"))} for row in rows]
    if as_json:
        return output.write_json(rows)
    output.print_table(rows, columns)
    return None


def backbones(
    as_json: AsJson = False,
    derive: Annotated[
        str, typer.Option(help="Model (folder or hub name) whose derived table of places is shown.")
    ] = "",
) -> None:
    """List the backbones.

    Every named backbone, and every family of models with a table of places.
    """
    from deltacompose.plugins import loader as door

    if derive:
        from deltacompose import api

        table = api.load_backbone(derive, table="derived").table
        return output.write_json({table.name: table.data}) if as_json else typer.echo(str(table), nl=False)
    known = door.loaded()
    rows = [
        {"origin": known.origin("backbone", name)} | _or_fault(known.backbones, name, _backbone)
        for name in known.backbones
    ]
    if as_json:
        return output.write_json(rows)
    output.print_table(rows, _with_faults(("name", "what", "serves", "origin"), rows))
    return None


def _or_fault(
    members: Mapping[str, Any], name: str, row: Callable[[Any], dict[str, Any]], named: bool = False
) -> dict[str, Any]:
    """The row of a member; for a member that cannot be read, a row with the reason under `fault`.

    Raises:
        BadInput: a member that the user named cannot be read.
    """
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
    """List, check or create plugins.

    Without a subcommand, every plugin with its members, or the reason why it has none.
    """
    if context.invoked_subcommand is None:
        list_plugins(as_json)


@plugins.command("list")
def list_plugins(as_json: AsJson = False) -> None:
    """List the plugins."""
    from deltacompose.plugins import loader as door

    rows = door.describe(door.loaded())
    if as_json:
        return output.write_json(rows)
    counted = [{**row, "members": len(row["members"])} for row in rows]
    output.print_table(counted, ("name", "distribution", "version", "state", "members", "reason"))
    return None


@plugins.command("check")
def check_plugin(name: Annotated[str, typer.Argument(help="Name of the plugin.")], as_json: AsJson = False) -> None:
    """Check every member of a plugin.

    Its members are read and go through the conformance suite.
    """
    from deltacompose.plugins import loader as door

    known = door.loaded()
    rows = door.check(known, name)
    rows = [checked(known, row) for row in rows]
    if as_json:
        output.write_json(rows)
    else:
        output.print_table(rows, ("kind", "name", "state", "reason"))
    if any(row["state"] not in ("sound", "unchecked") for row in rows):
        raise typer.Exit(1)


@plugins.command("new")
def new_plugin(
    name: Annotated[str, typer.Argument(help="Name of the new method.")],
    folder: Annotated[Path, typer.Option(help="Folder in which the distribution is made.")] = Path(),
) -> None:
    """Create a plugin with one method.

    The result is a whole distribution with a method, its tests and a README.
    """
    from deltacompose.plugins import loader as door
    from deltacompose.plugins import scaffold

    known = door.loaded()
    distribution = scaffold.new_plugin(name, folder, {*known.methods, *known.expressions})
    method = distribution.name.removeprefix("deltacompose-").replace("-", "_")
    typer.echo(f"created {distribution}")
    typer.echo(
        f"`pip install -e {distribution}` installs the method {method!r}; `pytest {distribution}` runs its tests"
    )


def _task(task: Any, scored: bool) -> dict[str, Any]:
    """The facts of a task; with `scored` also chance and the trivial scores behind it."""
    from deltacompose.task import Task
    from deltacompose.task.verify import baselines

    if not isinstance(task, Task):
        raise BadInput(f"{value_text(task)} is not a valid task (expected a deltacompose.task.Task)")
    stated = ("name", "category", "kind", "metric", "verified", "source", "licence", "note")
    facts = {field: getattr(task, field) for field in stated} | {"labels": list(task.labels)}
    if not scored:
        return facts
    trivial = baselines(task)
    return facts | {"chance": max(trivial.values()) if trivial else None, "baselines": trivial}


def _best(baselines: dict[str, float] | None) -> str | None:
    """The names of the trivial answers that score best; that score is chance."""
    if baselines is None:
        return None
    return ", ".join(name for name, value in baselines.items() if value == max(baselines.values()))


def _few(labels: list[str] | None) -> str | None:
    """The labels if they fit into a column, otherwise their number."""
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
