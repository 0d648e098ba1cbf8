"""Commands on a store itself."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Annotated

import typer

from deltacompose.cli import output
from deltacompose.cli.options import AsJson

app = typer.Typer(help="Migrate stores of earlier versions.", no_args_is_help=True)


@app.callback()
def store() -> None:
    """Migrate stores of earlier versions."""


@app.command()
def migrate(
    store: Annotated[Path, typer.Argument(help="Folder of the old store, which stays as it is.")],
    studies: Annotated[list[Path], typer.Argument(help="YAML files of the studies in the store.")],
    out: Annotated[Path | None, typer.Option(help="Folder of the new store.  [default: <store>.migrated]")] = None,
    unchanged: Annotated[
        bool, typer.Option("--unchanged", help="Statement that models, tokenizers, tables and plugins are unchanged.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Copy the valid cells of an old store."""
    from deltacompose.api import migration
    from deltacompose.store.store import open_store
    from deltacompose.study.config import Study

    place = out or store.with_name(f"{store.name}.migrated")
    asked = [Study.read(path) for path in studies]
    outcome = migration.migrate(open_store(store, create=False), asked, place, unchanged)
    if as_json:
        again = [{"key": key, "cell": cell, "reason": reason} for key, (cell, reason) in outcome.again.items()]
        facts = {"store": str(outcome.store), "copied": dict(outcome.copied), "again": again}
        return output.write_json(facts | {"unasked": list(outcome.unasked)})
    typer.echo(f"{len(outcome.copied)} cells copied to {outcome.store}, {len(outcome.again)} to compute again")
    for reason, count in Counter(reason for _, reason in outcome.again.values()).most_common():
        typer.echo(f"{count} to compute again: {reason}")
    for cell, reason in outcome.again.values():
        typer.echo(f"  {cell}: {reason}")
    if outcome.unasked:
        typer.echo(f"{len(outcome.unasked)} cells do not belong to these studies; they stay in {store}")
    return None
