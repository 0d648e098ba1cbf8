"""Options that the commands of analysis have in common: what they are given, and where their answer goes."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

Source = Annotated[
    Path | None, typer.Argument(help="A store, a study's YAML file, or a table of scores (.csv, .parquet).")
]
StoreFolder = Annotated[Path | None, typer.Option("--store", help="Folder of a study's results.")]
Scores = Annotated[
    Path | None,
    typer.Option(
        help="Table of raw scores, 1 at most: rows sources, columns targets, a row `random` as chance; or a tidy table."
    ),
]
Prompts = Annotated[Path | None, typer.Option(help="A .npz file with one soft prompt (tokens, width) per task.")]
Categories = Annotated[Path | None, typer.Option(help="A JSON object: the category of each task.")]
Composition = Annotated[str, typer.Option(help="The composition that is meant, where a store has several.")]
Split = Annotated[str, typer.Option(help="Split whose evaluations are read: test or val.  [default: the study's]")]
Out = Annotated[Path | None, typer.Option(help="Folder for the JSON, the tables and the figures.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON object.")]
Permutations = Annotated[int, typer.Option(min=1, help="Of every permutation test that cannot be exact.")]
Measures = Annotated[list[str] | None, typer.Option("--measure", help="A measure by name; may be repeated.")]
