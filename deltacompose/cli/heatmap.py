"""`deltacompose heatmap`: a transfer matrix, several on one scale, or the difference of two, as one figure."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from deltacompose.cli import output
from deltacompose.cli.options import ANALYSES, AsJson, Categories, Composition, Name, Runs, Split, StoreFolder
from deltacompose.errors import BadInput

if TYPE_CHECKING:
    from deltacompose.analysis.matrix import TransferMatrix

Venue = Annotated[str, typer.Option("--style", help="Venue: neurips, icml, acl, nature or talk.")]
Columns = Annotated[int, typer.Option(help="Number of columns of the page that the figure spans, 1 or 2.")]
Width = Annotated[float | None, typer.Option(help="Width in inches.  [default: that of the venue's columns]")]
Percent = Annotated[bool, typer.Option("--percent", help="Percentages in the table and in the figure.")]
TargetsInRows = Annotated[bool, typer.Option("--targets-in-rows", help="Rows of a plain table are targets.")]


def register(app: typer.Typer) -> None:
    """Adds this command to the program."""
    app.command(rich_help_panel=ANALYSES)(heatmap)


def heatmap(
    source: Annotated[
        Path, typer.Argument(help="Table of scores (.csv, .tsv, .xlsx, .parquet), store, or YAML file of a study.")
    ],
    file: Annotated[Path, typer.Argument(help="Figure to write (.pdf, .png or .svg).")],
    minus: Annotated[
        Path | None, typer.Option(help="Table, store or study to subtract; the figure is of the difference.")
    ] = None,
    value: Annotated[
        str, typer.Option(help="Value: corrected, relative, score or lift.  [default: corrected; score without chance]")
    ] = "",
    order: Annotated[str, typer.Option(help="Order of the tasks: category, cluster or given.")] = "category",
    dendrogram: Annotated[bool, typer.Option("--dendrogram", help="Clustered tasks with their dendrogram.")] = False,
    venue: Venue = "neurips",
    columns: Columns = 1,
    width: Width = None,
    title: Annotated[str | None, typer.Option(help="Title.  [default: the composition]")] = None,
    limits: Annotated[str, typer.Option(help="Ends of the colour scale, as LOW,HIGH.  [default: the values]")] = "",
    annotate: Annotated[
        str, typer.Option(help="Text in cells: spread, value, none, or auto (what is legible).")
    ] = "auto",
    digits: Annotated[int, typer.Option(min=0, max=6, help="Digits after the decimal point.")] = 2,
    percent: Percent = False,
    transpose: Annotated[bool, typer.Option("--transpose", help="Targets as rows of the figure.")] = False,
    baselines: Annotated[bool, typer.Option(help="Rows of chance, the untouched backbone and random deltas.")] = True,
    colours: Annotated[str, typer.Option(help="Colour map of signed values, such as RdBu_r or PuOr.")] = "RdBu_r",
    targets_in_rows: TargetsInRows = False,
    categories: Categories = None,
    composition: Composition = "",
    name: Name = "",
    seeds: Runs = 0,
    split: Split = "",
    store: StoreFolder = None,
    as_json: AsJson = False,
) -> None:
    """Draw a transfer matrix.

    Several compositions stand side by side on one scale; with --minus the difference is drawn with its intervals.
    """
    from deltacompose.figures.venues import style

    about = {"name": name, "runs": seeds, "percent": percent, "transposed": targets_in_rows, "split": split}
    read = {"categories": categories, "composition": composition, **about}
    matrices = _matrices(source, store, read)
    look = style(venue, columns, width=width, diverging=colours)
    form: dict[str, Any] = {"style": look, "limits": _limits(limits), "annotate": annotate, "title": title}
    further = {"digits": digits, "percent": percent, "transpose": transpose, "baselines": baselines}
    answer: dict[str, Any] = {"file": str(file), "compositions": list(matrices)}
    if minus is not None:
        answer["difference"] = _difference(matrices, _matrices(minus, None, read), file, value, form)
    else:
        answer["value"] = _drawn(matrices, file, (value, order, dendrogram), look, form, further)
    if as_json:
        return output.write_json(answer)
    typer.echo(f"{file}")
    return None


def _matrices(source: Path, store: Path | None, about: Mapping[str, Any]) -> Mapping[str, TransferMatrix]:
    """The matrices of a table, of one with several compositions, of a store or of a study."""
    from deltacompose.analysis.transfer.published import About, matrices_of
    from deltacompose.cli.inputs import Options, read_inputs
    from deltacompose.cli.inputs import is_tidy_table as tidy
    from deltacompose.formats.sheets import SUFFIXES

    if source.suffix in SUFFIXES and not about["composition"] and tidy(source):
        from deltacompose.analysis.transfer.tidy_tables import read_categories

        kinds = read_categories(about["categories"]) if about["categories"] else None
        return matrices_of(source, About(kinds, percent=about["percent"]))
    return read_inputs(Options(source, store, **about)).needed_matrices()


def _limits(text: str) -> tuple[float, float] | None:
    if not text:
        return None
    try:
        low, high = (float(end) for end in text.split(","))
    except ValueError:
        raise BadInput(f"--limits {text!r} is not two numbers; expected LOW,HIGH such as -0.5,1") from None
    return low, high


def _drawn(
    matrices: Mapping[str, TransferMatrix],
    file: Path,
    what: tuple[str, str, bool],
    look: Any,
    form: Mapping[str, Any],
    further: Mapping[str, Any],
) -> str:
    """Draws one matrix, or several on one scale, and gives the value that is drawn."""
    from deltacompose import figures
    from deltacompose.analysis.transfer.uncertainty import can_be_tested, marks
    from deltacompose.analysis.units import unknown_chance
    from deltacompose.figures.venues import Style

    value, order, dendrogram = what
    whole = list(matrices.values())
    value = value or ("score" if any(unknown_chance(matrix) for matrix in whole) else "corrected")
    styled: Style = look.of(dict(matrices))
    form = {**form, "style": styled}
    if len(whole) > 1:
        figures.panels(matrices, file, value=value, order=order, **{**form, "title": form["title"] or ""})
    elif dendrogram:
        figures.clustermap(whole[0], file, value=value, **form)
    else:
        marked = marks(whole[0]) if can_be_tested(whole[0], "untouched") else None
        figures.heatmap(whole[0], file, value=value, order=order, marks=marked, **form, **further)
    return value


def _difference(
    first: Mapping[str, TransferMatrix], second: Mapping[str, TransferMatrix], file: Path, value: str, form: Any
) -> dict[str, Any]:
    """Draws the difference of two matrices and gives its summary."""
    from deltacompose import figures
    from deltacompose.analysis.transfer.difference import differences

    minuend, subtrahend = pair_of(first, second)
    figures.difference(minuend, subtrahend, file, value=value or "score", **form)
    return differences(minuend, subtrahend, value or "score").summary()


def pair_of(
    first: Mapping[str, TransferMatrix], second: Mapping[str, TransferMatrix]
) -> tuple[TransferMatrix, TransferMatrix]:
    """The two matrices to compare: the only ones, or those of the one composition that both have.

    Raises:
        BadInput: several compositions in common, or none.
    """
    if len(first) == len(second) == 1:
        return next(iter(first.values())), next(iter(second.values()))
    common = [text for text in first if text in second]
    if len(common) != 1:
        raise BadInput(
            f"cannot tell which matrices to compare: {', '.join(first)} and {', '.join(second)}; name one with "
            "--composition"
        )
    return first[common[0]], second[common[0]]
