"""Options that several commands share, and the groups of commands in the help."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

STUDIES, DELTAS, ANALYSES, CATALOGUE, EXCHANGE = "Studies", "Deltas", "Analyses", "Catalogue", "Exchange"
"""Groups of commands, in the order of `deltacompose --help`."""

StudyFile = Annotated[Path, typer.Argument(help="YAML file of the study.")]
StudyOrStore = Annotated[Path, typer.Argument(help="YAML file of the study, or a store.")]
StudyStore = Annotated[Path | None, typer.Option("--store", help="Folder of the results.  [default: results/<study>]")]
Source = Annotated[
    Path | None, typer.Argument(help="Store, YAML file of a study, or table of scores (.csv, .tsv, .xlsx, .parquet).")
]
StoreFolder = Annotated[Path | None, typer.Option("--store", help="Folder of a study's results.")]
Scores = Annotated[
    Path | None,
    typer.Option(
        help="Table of raw scores, 1 at most: rows sources, columns targets, a row `chance`; or a tidy table."
    ),
]
Prompts = Annotated[Path | None, typer.Option(help=".npz file with one soft prompt (tokens, width) per task.")]
Categories = Annotated[Path | None, typer.Option(help="JSON file with an object: the category of each task.")]
Composition = Annotated[str, typer.Option(help="Composition to analyse if the store has several.")]
Name = Annotated[str, typer.Option(help="Title of a plain table of scores, such as a composition.")]
Runs = Annotated[int, typer.Option("--seeds", min=0, help="Number of runs behind each score of a plain table.")]
Split = Annotated[str, typer.Option(help="Split of the evaluations: test or val.  [default: the study's]")]
Out = Annotated[Path | None, typer.Option(help="Folder for the JSON, the tables and the figures.")]
AsJson = Annotated[bool, typer.Option("--json", help="JSON output in place of text.")]
Permutations = Annotated[
    int, typer.Option(min=1, help="Number of random permutations when enumerating all is infeasible.")
]
Measures = Annotated[list[str] | None, typer.Option("--measure", help="Name of a measure; may be repeated.")]
