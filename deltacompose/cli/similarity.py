"""Commands of analysis: transfer and similarity, on a store, a study, or anybody's published matrices.

`predict`, `graph` and `subspace` are in files of their own.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from deltacompose.cli import answers, show
from deltacompose.cli.answers import Answer, estimated, number
from deltacompose.cli.options import (
    AsJson,
    Categories,
    Composition,
    Measures,
    Out,
    Permutations,
    Prompts,
    Scores,
    Source,
    Split,
    StoreFolder,
)
from deltacompose.errors import BadInput

if TYPE_CHECKING:
    from deltacompose.analysis.matrix import TransferMatrix
    from deltacompose.analysis.similarity.compare import Comparison, Deltas
    from deltacompose.analysis.similarity.stored_arrays import StoredDeltas
    from deltacompose.cli.inputs import Material


def register(app: typer.Typer) -> None:
    """Adds these commands to the program."""
    for command in (transfer, similarity):
        app.command()(command)


def transfer(
    source: Source = None,
    scores: Scores = None,
    prompts: Prompts = None,
    categories: Categories = None,
    composition: Composition = "",
    split: Split = "",
    store: StoreFolder = None,
    permutations: Permutations = 9999,
    out: Out = None,
    as_json: AsJson = False,
) -> None:
    """How the deltas of each task do on the others: relative and chance-corrected, within and across categories."""
    from deltacompose.analysis.transfer.summaries import summary
    from deltacompose.cli.inputs import Files, read
    from deltacompose.cli.transfer import absent, further, write

    given = read(Files(source, store, scores, prompts, categories, composition, split), ("prompts",))

    def answer(text: str, matrix: TransferMatrix) -> Answer:
        found = {**summary(matrix, permutations), **further(given, text)}
        found["limitations"] += absent(matrix) if out is not None else []
        return found

    found = answers.of_each(given.needed_matrices(), answer)
    if out is not None:
        write({text: given.matrices[text] for text in answers.each(found)}, answers.stems(found), out)
    answers.give("transfer", found, as_json, out, _say_transfer)


def similarity(
    source: Source = None,
    scores: Scores = None,
    prompts: Prompts = None,
    categories: Categories = None,
    composition: Composition = "",
    measure: Measures = None,
    every: Annotated[
        bool, typer.Option("--all", help="Every delta of all tasks and seeds, however many: cosines, neighbours.")
    ] = False,
    k: Annotated[int, typer.Option(help="With --all: neighbours of each delta.")] = 3,
    sketch: Annotated[int | None, typer.Option(help="With --all: width of count-sketches; exact if not given.")] = None,
    split: Split = "",
    store: StoreFolder = None,
    out: Out = None,
    as_json: AsJson = False,
) -> None:
    """How near the tasks' deltas are, by every measure that can be had; what the others lack is said.

    The overlap of activated neurons has, in JSON, also that of every window of three layers.
    """
    from deltacompose.analysis.similarity.compare import windows
    from deltacompose.cli.inputs import Files, read

    files = Files(source, store, scores, prompts, categories, composition, split)
    given = read(files, ("scores", "categories"))
    if every:
        return _every(given, (k, sketch), out, as_json)
    tables: dict[str, dict[str, Comparison]] = {}

    def answer(text: str, deltas: Deltas) -> Answer:
        compared, lacking = compared_of(deltas, measure)
        tables[text] = compared
        measured = {name: one.described() for name, one in compared.items()}
        if "neuron_overlap" in compared:
            measured["neuron_overlap"]["windows"] = windows(compared["neuron_overlap"], deltas)
        return {"composition": text, "tasks": list(deltas.tasks), "measures": measured, "lacking": lacking}

    found = answers.of_each(given.needed_deltas(), answer)
    if out is not None:
        for text, stem in answers.stems(found).items():
            _write_tables(tables[text], out, stem)
    answers.give("similarity", found, as_json, out, _say_similarity)
    return None


def _every(given: Material, how: tuple[int, int | None], out: Path | None, as_json: bool) -> None:
    """All deltas of each composition of a store."""
    from deltacompose.cli import similarity_all as every
    from deltacompose.figures.files import slugs

    stored = given.stored()
    if not stored:
        raise BadInput("--all compares the deltas of a store; name a store or a study")
    stems = slugs(stored) if len(stored) > 1 else dict.fromkeys(stored, "")

    def answer(text: str, deltas: StoredDeltas) -> Answer:
        return every.compared(text, deltas, how, out, f"{stems[text]}." if stems[text] else "")

    answers.give("similarity", answers.of_each(stored, answer), as_json, out, every.say)


def compared_of(deltas: Deltas, chosen: list[str] | None) -> tuple[dict[str, Comparison], dict[str, str]]:
    """All measures, or those that were named; where nothing can be computed, that is an error."""
    from deltacompose.analysis.similarity.compare import compare_all
    from deltacompose.plugins import loader as plugins

    found, lacking = compare_all(plugins.loaded().measures, deltas, chosen or ())
    if not found:
        raise BadInput("; ".join(dict.fromkeys(lacking.values())))
    return found, lacking


def _write_tables(compared: Mapping[str, Comparison], out: Path, stem: str) -> None:
    """`similarity.<measure>.csv`, rows sources, columns targets."""
    from deltacompose.figures.files import slug, write_text

    for name, one in compared.items():
        write_text(out / f"{stem}similarity.{slug(name)}.csv", one.frame().to_csv(index_label="source\\target"))


def _say_transfer(text: str, answer: Answer) -> None:
    rows = [
        {"value": kind, **{part: answer[f"{kind}_{part}_category"] for part in ("same", "cross")}}
        for kind in ("relative", "corrected", "lift")
        if f"{kind}_same_category" in answer
    ]
    for row in rows:
        for part in ("same", "cross"):
            row[part] = f"{number(row[part])}{_between(answer, row['value'], part)}"
    typer.echo(f"{answer['tasks']} tasks, {answer['seeds']} seed(s); mean of the values off the diagonal:")
    show.table(rows, ("value", "same", "cross"))
    if answer["category_p"] is not None:
        pairs = answer["pairs"][answer["category_p_of"]]["same_unordered"]
        typer.echo(
            f"same above cross category: p = {answer['category_p']:.4g} (least attainable {answer['least_p']:.2g}, "
            f"{pairs} pairs of one category, {answer['category_p_of']} values)"
        )
    typer.echo(f"asymmetry {number(answer['asymmetry'])}, reliability {number(answer['reliability']['all'])}")
    for one in answer["stacks"]:
        typer.echo(f"corrected value minus that of {one['alone']}: {estimated(one['mean'])}")
    for one in answer["swaps"]:
        typer.echo(
            f"{one['method']} from another task: corrected {estimated(one['corrected'])}, minus that of the stack "
            f"{estimated(one['minus_stack'])}, minus that of it alone {estimated(one['minus_alone'])}"
        )
    if answer["initialisation"]:
        started = answer["initialisation"]
        typer.echo(
            f"started from {', '.join(started['sources'])}: lift {number(started['mean_lift'])} on development data, "
            f"own score reached by {started['reached']:.0%}, which saved {number(started['mean_saved'])} of the steps"
        )


def _between(answer: Answer, kind: str, part: str) -> str:
    """The 95 % interval of a mean, where there is one."""
    found = (answer["intervals"].get(kind) or {}).get(part)
    if not found or found["low"] is None:
        return ""
    return f" [{found['low']:.3f}, {found['high']:.3f}]"


def _say_similarity(text: str, answer: Answer) -> None:
    columns = ("measure", "needs", "tasks", "seeds", "least", "greatest")
    show.table([_row(name, one) for name, one in answer["measures"].items()], columns)
    for sentence in dict.fromkeys(line for one in answer["measures"].values() for line in one["limitations"]):
        typer.echo(f"- {sentence}")
    say_lacking(answer)


def say_lacking(answer: Answer) -> None:
    for reason in dict.fromkeys(answer["lacking"].values()):
        names = [name for name, other in answer["lacking"].items() if other == reason]
        typer.echo(f"- no {', '.join(names)}: {reason}")


def _row(name: str, one: Mapping[str, Any]) -> dict[str, Any]:
    off = [value for i, row in enumerate(one["matrix"]) for j, value in enumerate(row) if i != j]
    sizes = {"tasks": len(one["tasks"]), "seeds": len(one["seeds"])}
    return {"measure": name, "needs": one["needs"], **sizes, "least": min(off), "greatest": max(off)}
