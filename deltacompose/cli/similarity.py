"""`deltacompose similarity`: similarity of the tasks' deltas, from a store, a study or a file of soft prompts."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from deltacompose.cli import output
from deltacompose.cli.options import (
    ANALYSES,
    AsJson,
    Categories,
    Composition,
    Measures,
    Out,
    Prompts,
    Scores,
    Source,
    Split,
    StoreFolder,
)
from deltacompose.cli.output import Answer
from deltacompose.errors import BadInput

if TYPE_CHECKING:
    from deltacompose.analysis.similarity.compare import Comparison, Deltas
    from deltacompose.analysis.similarity.stored_arrays import StoredDeltas
    from deltacompose.cli.inputs import Inputs


def register(app: typer.Typer) -> None:
    """Adds this command to the program."""
    app.command(rich_help_panel=ANALYSES)(similarity)


def similarity(
    source: Source = None,
    scores: Scores = None,
    prompts: Prompts = None,
    categories: Categories = None,
    composition: Composition = "",
    measure: Measures = None,
    every: Annotated[
        bool, typer.Option("--all", help="Cosines and neighbours of every delta, over all tasks and seeds.")
    ] = False,
    k: Annotated[int, typer.Option(help="Number of neighbours of each delta, with --all.")] = 3,
    sketch: Annotated[int | None, typer.Option(help="Width of count-sketches, with --all.  [default: exact]")] = None,
    split: Split = "",
    store: StoreFolder = None,
    out: Out = None,
    as_json: AsJson = False,
) -> None:
    """Compare the deltas of different tasks.

    Every measure that can be computed is reported; for the others the missing input is named. In JSON, the overlap of
    activated neurons is also given for every window of three layers.
    """
    from deltacompose.analysis.similarity.compare import windows
    from deltacompose.cli.inputs import Options, read_inputs

    options = Options(source, store, scores, prompts, categories, composition, split)
    inputs = read_inputs(options, ("scores", *(("categories",) if out is None or every else ())))
    if every:
        return _every(inputs, (k, sketch), out, as_json)
    tables: dict[str, dict[str, Comparison]] = {}

    def analyse(text: str, deltas: Deltas) -> Answer:
        compared, lacking = compared_of(deltas, measure)
        tables[text] = compared
        measured = {name: comparison.described() for name, comparison in compared.items()}
        if "neuron_overlap" in compared:
            measured["neuron_overlap"]["windows"] = windows(compared["neuron_overlap"], deltas)
        return {"composition": text, "tasks": list(deltas.tasks), "measures": measured, "lacking": lacking}

    answer = output.answer_each(inputs.needed_deltas(), analyse)
    if out is not None:
        for text, stem in output.stems(answer).items():
            part = output.by_composition(answer)[text]
            part["not_drawn"] = _write_tables(tables[text], out, stem, inputs.categories)
    output.write_answer("similarity", answer, as_json, out, _print)
    return None


def _every(inputs: Inputs, settings: tuple[int, int | None], out: Path | None, as_json: bool) -> None:
    """Compares all deltas of each composition of a store."""
    from deltacompose.cli import similarity_all
    from deltacompose.figures.figure_files import slugs

    stored = inputs.stored()
    if not stored:
        raise BadInput("--all compares the deltas of a store; name a store or a study")
    stems = slugs(stored) if len(stored) > 1 else dict.fromkeys(stored, "")

    def analyse(text: str, deltas: StoredDeltas) -> Answer:
        return similarity_all.compare(text, deltas, settings, out, f"{stems[text]}." if stems[text] else "")

    output.write_answer("similarity", output.answer_each(stored, analyse), as_json, out, similarity_all.print_answer)


def compared_of(deltas: Deltas, chosen: list[str] | None) -> tuple[dict[str, Comparison], dict[str, str]]:
    """The comparisons by all measures or the chosen ones, and the reason for each measure that cannot be computed.

    Raises:
        BadInput: no measure can be computed.
    """
    from deltacompose.analysis.similarity.compare import compare_all
    from deltacompose.plugins import loader as plugins

    compared, lacking = compare_all(plugins.loaded().measures, deltas, chosen or ())
    if not compared:
        raise BadInput("; ".join(dict.fromkeys(lacking.values())))
    return compared, lacking


def _write_tables(compared: Mapping[str, Comparison], out: Path, stem: str, categories: Mapping[str, str]) -> list[str]:
    """Writes `similarity.<measure>.csv`, rows sources, columns targets, and its clustered map as PDF and PNG.

    Returns:
        The reasons of figures that cannot be drawn.
    """
    from deltacompose import figures
    from deltacompose.figures.figure_files import slug, write_text

    drawings: dict[str, Callable[[], Any]] = {}
    for name, comparison in compared.items():
        file = f"{stem}similarity.{slug(name)}"
        write_text(out / f"{file}.csv", comparison.frame().to_csv(index_label="source\\target"))
        drawings[file] = partial(figures.similarity, comparison, categories=dict(categories))
    return output.write_figures(drawings, out)


def _print(text: str, answer: Answer) -> None:
    columns = ("measure", "needs", "tasks", "seeds", "minimum", "maximum")
    output.print_table([_row(name, facts) for name, facts in answer["measures"].items()], columns)
    for sentence in dict.fromkeys(line for facts in answer["measures"].values() for line in facts["limitations"]):
        typer.echo(f"- {sentence}")
    print_lacking(answer)
    for sentence in dict.fromkeys(answer.get("not_drawn", ())):
        typer.echo(f"- {sentence}")


def print_lacking(answer: Answer) -> None:
    """Prints the measures that cannot be computed, with the reason."""
    for reason in dict.fromkeys(answer["lacking"].values()):
        names = [name for name, other in answer["lacking"].items() if other == reason]
        typer.echo(f"- not computed: {', '.join(names)}: {reason}")


def _row(name: str, facts: Mapping[str, Any]) -> dict[str, Any]:
    off = [value for i, row in enumerate(facts["matrix"]) for j, value in enumerate(row) if i != j]
    sizes = {"tasks": len(facts["tasks"]), "seeds": len(facts["seeds"])}
    return {"measure": name, "needs": facts["needs"], **sizes, "minimum": min(off), "maximum": max(off)}
