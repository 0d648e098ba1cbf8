"""Commands that exchange data with other programs: the hub's cache, tables of results, peft and transformers."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from deltacompose.cli import output
from deltacompose.cli.delta_commands import BackboneName
from deltacompose.cli.options import EXCHANGE, AsJson, StudyFile, StudyStore
from deltacompose.cli.study import store_of
from deltacompose.errors import BadInput, unknown


def register(app: typer.Typer) -> None:
    """Adds these commands to the program."""
    for command in (prefetch, export):
        app.command(rich_help_panel=EXCHANGE)(command)
    app.command("import", rich_help_panel=EXCHANGE)(import_adapter)


def prefetch(study: StudyFile, as_json: AsJson = False) -> None:
    """Fetch the backbone and data sets of a study.

    They are kept in the hub's cache, which can be copied to nodes without a network.
    """
    from deltacompose import api
    from deltacompose.study.config import Study

    rows = api.prefetch(Study.read(study))
    if as_json:
        output.write_json(rows)
    else:
        output.print_table(rows, ("what", "name", "state", "cache", "reason"))
    if any(row["state"] == "failed" for row in rows):
        raise typer.Exit(1)


def export(
    what: Annotated[Path, typer.Argument(help="Study file, store or folder of a delta.")],
    out: Annotated[Path, typer.Argument(help="New .csv or .parquet file; for a delta, a new folder.")],
    store: StudyStore = None,
    to: Annotated[str, typer.Option(help="Format for a delta: peft (an adapter) or merged (a plain model).")] = "",
    backbone: BackboneName = "embedded",
    as_json: AsJson = False,
) -> None:
    """Export a store as a table, or a delta.

    The table is tidy, one row per cell. A delta becomes an adapter that peft loads, or is merged into its backbone.
    """
    from deltacompose.store.store import Problem, open_store

    if to:
        return _export_delta(what, out, to, backbone, as_json)
    if (what / "delta.json").exists():
        raise BadInput(f"{what} is a delta; add --to peft or --to merged")
    place = store_of(what, store)
    if not place.is_dir():
        raise BadInput(f"there is no store {place}; `deltacompose run {what}` makes one")
    damaged: list[Problem] = []
    rows = open_store(place, create=False).export(out, damaged)
    output.print_damaged(damaged)
    return output.write_json({"cells": rows, "file": str(out)}) if as_json else typer.echo(f"{rows} cells in {out}")


def _export_delta(folder: Path, out: Path, to: str, backbone: str, as_json: bool) -> None:
    """Writes a delta as an adapter of peft, or merged into a plain transformers model."""
    from deltacompose import api
    from deltacompose.delta import exchange

    if to not in ("peft", "merged"):
        raise unknown("format", to, ["peft", "merged"])
    _check_new(out)
    delta, loaded = api.load_delta(folder), api.load_backbone(backbone)
    facts: dict[str, Any] = {"expression": str(delta.expression), "to": to, "folder": str(out)}
    if to == "peft":
        facts["type"] = exchange.export_peft(delta, loaded, out)
        summary = f"{delta.expression} exported to peft as {facts['type']}, in {out}"
    else:
        merged = exchange.export_merged(delta, loaded, out)
        facts |= {"largest_difference": merged.difference, "largest_logit": merged.size}
        summary = (
            f"{delta.expression} merged, in {out}: logits differ by at most {merged.difference:.2g} from those with "
            f"the delta attached, which are up to {merged.size:.2g}"
        )
    return output.write_json(facts) if as_json else typer.echo(summary)


def import_adapter(
    folder: Annotated[Path, typer.Argument(help="Folder saved by peft: adapter_config.json and safetensors.")],
    out: Annotated[Path, typer.Argument(help="New or empty folder for the delta.")],
    backbone: BackboneName = "embedded",
    any_base: Annotated[
        bool, typer.Option("--any-base", help="Permission for an adapter that names another base model.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Import an adapter that peft has saved."""
    from deltacompose import api
    from deltacompose.delta import exchange

    _check_new(out)
    imported = exchange.import_peft(folder, api.load_backbone(backbone), api.methods(), any_base=any_base)
    delta = api.with_origins(imported)
    delta.save(out)
    facts = {"expression": str(delta.expression), "type": delta.record["imported"], "folder": str(out)}
    return output.write_json(facts) if as_json else typer.echo(f"{facts['type']} as {delta.expression}, in {out}")


def _check_new(folder: Path) -> None:
    """Refuses to overwrite files, and makes the folder before any work is done.

    Raises:
        BadInput: the folder is a file, or is not empty.
    """
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise BadInput(f"{folder} exists and is not an empty folder; name a new folder")
    folder.mkdir(parents=True, exist_ok=True)
