"""`deltacompose agreement`: a study's deltas on a backbone in another data type, against float32."""

from __future__ import annotations

from dataclasses import asdict
from typing import Annotated

import typer

from deltacompose.cli import output
from deltacompose.cli.options import ANALYSES, AsJson, StudyFile, StudyStore
from deltacompose.cli.study import store_of
from deltacompose.errors import BadInput

DTYPES = ("bfloat16", "float16")
SPLITS = ("test", "val")


def register(app: typer.Typer) -> None:
    """Adds this command to the program."""
    app.command(rich_help_panel=ANALYSES)(agreement)


def agreement(
    source: StudyFile,
    store: StudyStore = None,
    dtype: Annotated[str, typer.Option(help="Data type to compare with float32: bfloat16 or float16.")] = "bfloat16",
    split: Annotated[str, typer.Option(help="Split of the predictions and losses: test or val.")] = "test",
    as_json: AsJson = False,
) -> None:
    """Compare a backbone in bfloat16 with float32.

    Each stored delta of the study is evaluated on its own task twice: the share of equal predictions, the scores and
    the losses, by composition.
    """
    for name, value, known in (("dtype", dtype, DTYPES), ("split", split, SPLITS)):
        if value not in known:
            raise BadInput(f"{value!r} is not a valid {name} (expected {' or '.join(known)})")
    from deltacompose.api.agreement import agreement as compared
    from deltacompose.study.config import Study

    rows = compared(Study.read(source), store_of(source, store), dtype, split)
    if as_json:
        return output.write_json({"dtype": dtype, "split": split, "compositions": [asdict(row) for row in rows]})
    shown = [
        {
            "composition": row.composition,
            "deltas": row.deltas,
            "examples": row.examples,
            "equal": f"{row.agreement:.4f}",
            "score float32": output.number(row.scores[0], ".4f"),
            f"score {dtype}": output.number(row.scores[1], ".4f"),
            "largest": output.number(row.score_difference, ".4f"),
            "loss float32": output.number(row.losses[0], ".4f"),
            f"loss {dtype}": output.number(row.losses[1], ".4f"),
            "largest ": output.number(row.loss_difference, ".2g"),
        }
        for row in rows
    ]
    output.print_table(shown, list(shown[0]))
    typer.echo(
        "equal: share of equal predictions; scores and losses are means over deltas on their own tasks; largest: the "
        "largest difference of one delta"
    )
    return None
