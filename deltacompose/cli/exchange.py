"""Commands that carry things elsewhere: what a study needs to nodes without a network, results to other programs."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from deltacompose.cli import show
from deltacompose.cli.delta import BackboneName
from deltacompose.cli.study import AsJson, StudyFile, store_of
from deltacompose.errors import BadInput


def register(app: typer.Typer) -> None:
    """Adds these commands to the program."""
    for command in (prefetch, export):
        app.command()(command)


def prefetch(study: StudyFile, as_json: AsJson = False) -> None:
    """Fetch the backbone and the data sets of a study into the hub's cache, for nodes without a network."""
    from deltacompose import results
    from deltacompose.study.config import Study

    rows = results.prefetch(Study.read(study))
    if as_json:
        show.as_json(rows)
    else:
        show.table(rows, ("what", "name", "state", "cache", "reason"))
    if any(row["state"] == "failed" for row in rows):
        raise typer.Exit(1)


def export(
    what: Annotated[Path, typer.Argument(help="A study file, or a store; a delta's folder.")],
    out: Annotated[Path, typer.Argument(help="A .csv or .parquet file; of a delta, a new folder.")],
    store: Annotated[Path | None, typer.Option("--store", help="Folder of the results of a study.")] = None,
    to: Annotated[str, typer.Option(help="Of a delta: peft (an adapter) or merged (a plain model).")] = "",
    backbone: BackboneName = "embedded",
    as_json: AsJson = False,
) -> None:
    """Write all cells of a store as one tidy table; or a delta, as an adapter of peft's or merged into its backbone."""
    from deltacompose.cli.interop import export_delta
    from deltacompose.store.store import Problem, open_store

    if to:
        return export_delta(what, out, to, backbone, as_json)
    if (what / "delta.json").exists():
        raise BadInput(f"{what} is a delta; say --to peft or --to merged")
    place = store_of(what, store)
    if not place.is_dir():
        raise BadInput(f"there is no store {place}; `deltacompose run {what}` makes one")
    damaged: list[Problem] = []
    rows = open_store(place, create=False).export(out, damaged)
    show.damaged(damaged)
    return show.as_json({"cells": rows, "file": str(out)}) if as_json else typer.echo(f"{rows} cells in {out}")
