"""`deltacompose transfer`: the transfer matrix, training from other tasks' weights, stacks and swaps; and its files."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from deltacompose.cli import output
from deltacompose.cli.heatmap import Percent, TargetsInRows
from deltacompose.cli.options import (
    ANALYSES,
    AsJson,
    Categories,
    Composition,
    Name,
    Out,
    Permutations,
    Prompts,
    Runs,
    Scores,
    Source,
    Split,
    StoreFolder,
)
from deltacompose.cli.output import Answer, estimated, number
from deltacompose.errors import BadInput
from deltacompose.study.queries import of_kind

if TYPE_CHECKING:
    from deltacompose.analysis.arrays import Floats
    from deltacompose.analysis.matrix import TransferMatrix
    from deltacompose.cli.inputs import Inputs


def register(app: typer.Typer) -> None:
    """Adds this command to the program."""
    app.command(rich_help_panel=ANALYSES)(transfer)


def transfer(
    source: Source = None,
    scores: Scores = None,
    prompts: Prompts = None,
    categories: Categories = None,
    composition: Composition = "",
    name: Name = "",
    seeds: Runs = 0,
    split: Split = "",
    store: StoreFolder = None,
    permutations: Permutations = 9999,
    minus: Annotated[
        Path | None, typer.Option(help="Table, store or study whose matrix is subtracted, with intervals.")
    ] = None,
    percent: Percent = False,
    targets_in_rows: TargetsInRows = False,
    out: Out = None,
    as_json: AsJson = False,
) -> None:
    """Measure transfer between tasks.

    Scores of each task's delta on the other tasks: relative and chance-corrected, within and across categories.
    """
    from deltacompose.analysis.transfer.summaries import summary
    from deltacompose.cli.inputs import Options, read_inputs

    described = (name, seeds, percent, targets_in_rows)
    options = Options(source, store, scores, prompts, categories, composition, split, *described)
    inputs = read_inputs(options, ("prompts",))
    other = read_inputs(Options(minus, None, None, None, categories, composition, split, *described)) if minus else None

    def analyse(text: str, matrix: TransferMatrix) -> Answer:
        result = {**summary(matrix, permutations), **_further(inputs, text)}
        if other is not None:
            result["minus"] = _minus(matrix, other.needed_matrices(), text)
        result["limitations"] += _not_drawn(matrix) if out is not None else []
        return result

    answer = output.answer_each(inputs.needed_matrices(), analyse)
    if out is not None:
        matrices = {text: inputs.matrices[text] for text in output.by_composition(answer)}
        _write(matrices, output.stems(answer), out)
        others = {} if other is None else other.needed_matrices()
        for reason in _draw(matrices, output.stems(answer), others, out):
            typer.echo(f"note: {reason}", err=True)
    output.write_answer("transfer", answer, as_json, out, _print)


def _counterpart(others: Mapping[str, TransferMatrix], text: str) -> TransferMatrix | None:
    return others.get(text) or (next(iter(others.values())) if len(others) == 1 else None)


def _minus(matrix: TransferMatrix, others: Mapping[str, TransferMatrix], text: str) -> dict[str, Any]:
    """The difference of raw scores to the matrix of another table or store, in every cell and on average."""
    from deltacompose.analysis.transfer.difference import differences

    subtrahend = _counterpart(others, text)
    if subtrahend is None:
        raise BadInput(f"--minus has no matrix of {text!r} (found {', '.join(others)}); name one with --composition")
    difference = differences(matrix, subtrahend, "score")
    rows = difference.to_pandas().astype(object).where(lambda cells: cells.notna(), None)
    return {**difference.summary(), "cells_of": rows.to_dict("records")}


def _further(inputs: Inputs, text: str) -> dict[str, Any]:
    """`initialisation`: training from another task's weights; `stacks`: C under this composition minus C under a part;
    `swaps`: one part from another task.

    They are None or empty if the study did not ask for them.
    """
    from deltacompose.analysis.transfer.part_swaps import swap_effects, swap_matrices

    swaps = swap_matrices(inputs.records, text, inputs.categories, inputs.split) if inputs.records else {}
    return {
        "initialisation": _initialisation(inputs, text),
        "stacks": list(_stacks(inputs.matrices, text)),
        "swaps": swap_effects(swaps, inputs.matrices, text),
    }


def _initialisation(inputs: Inputs, text: str) -> dict[str, Any] | None:
    from deltacompose.analysis.transfer.summaries import initialisation_transfer

    records = of_kind(inputs.records, "train", "evaluate")
    if not any(record["spec"].get("start") for record in records if record["spec"].get("composition") == text):
        return None
    starts = initialisation_transfer(records, text, inputs.split)
    values = {
        "lift": starts.lift(),
        "lift_on_test": starts.lift_on_test(),
        "steps": starts.steps,
        "saved": starts.saved(),
    }
    return {
        "sources": list(starts.sources),
        "targets": list(starts.targets),
        "seeds": list(starts.seeds),
        **{f"mean_{name}": _mean(array) for name, array in values.items()},
        **{name: _listed(array) for name, array in values.items()},
        "reached": float(starts.reached().mean()),
        "failed": int(starts.failed.sum()),
    }


def _stacks(matrices: Mapping[str, TransferMatrix], text: str) -> Iterator[dict[str, Any]]:
    """Compares the composition with every other one that has a matrix and a proper subset of its methods."""
    from dataclasses import asdict

    from deltacompose.analysis.transfer.summaries import stack_effect

    for other, alone in matrices.items():
        if other == text or not _methods(other) < _methods(text):
            continue
        try:
            effect = stack_effect(matrices[text], alone)
        except BadInput as reason:
            yield {"alone": other, "mean": None, "limitations": [str(reason)]}
            continue
        estimate = asdict(effect.mean) if effect.mean else {}
        known = {n: None if isinstance(v, float) and v != v else v for n, v in estimate.items()}
        yield {"alone": other, "mean": known or None, "limitations": list(effect.limitations)}


def _methods(text: str) -> set[str]:
    from deltacompose.analysis.interaction.composition_text import stages

    return {method for stage in stages(text) for method in stage}


def _mean(values: Floats) -> float | None:
    import numpy as np

    known = values[~np.isnan(values)]
    return float(known.mean()) if len(known) else None


def _listed(values: Floats) -> Any:
    """Nested lists, None for NaN."""
    import numpy as np

    listed = values.astype(object)
    listed[np.isnan(values)] = None
    return listed.tolist()


def _write(matrices: Mapping[str, TransferMatrix], stems: Mapping[str, str], out: Path) -> None:
    """Writes `transfer.csv` (tidy), `scores.csv` (sources by targets) and the heatmaps as PDF and PNG."""
    from deltacompose.analysis.transfer import tidy_tables as files
    from deltacompose.figures.style import Look, save, styled
    from deltacompose.report import figures

    kinds = sorted({kind for matrix in matrices.values() for kind in matrix.categories.values()})
    look = Look(compositions=tuple(matrices), categories=tuple(kinds))
    for text, matrix in matrices.items():
        files.write(matrix, out / f"{stems[text]}transfer.csv")
        files.write_scores(matrix, out / f"{stems[text]}scores.csv")
        for drawing in figures.heatmaps(matrix, look, figures.tested(matrix)):
            with styled():
                figure = drawing.draw()
                for kind in ("pdf", "png"):
                    save(figure, out / f"{stems[text]}{drawing.name}.{kind}")


def _draw(
    matrices: Mapping[str, TransferMatrix], stems: Mapping[str, str], others: Mapping[str, TransferMatrix], out: Path
) -> list[str]:
    """Draws `reliability` where there are two seeds, and `difference` to other matrices.

    Returns:
        The reasons of figures that cannot be drawn.
    """
    from deltacompose import figures
    from deltacompose.analysis.units import unknown_chance

    drawings: dict[str, Callable[[], Any]] = {}
    if repeated := {text: matrix for text, matrix in matrices.items() if len(matrix.seeds) > 1}:
        value = "score" if any(unknown_chance(matrix) for matrix in repeated.values()) else "relative"
        drawings["reliability"] = partial(figures.reliability, repeated, value=value)
    for text, matrix in matrices.items():
        if (subtrahend := _counterpart(others, text)) is not None:
            drawings[f"{stems[text]}difference"] = partial(figures.difference, matrix, subtrahend, value="score")
    return output.write_figures(drawings, out)


def _not_drawn(matrix: TransferMatrix) -> list[str]:
    """A sentence for each heatmap that `_write` leaves out, with the reason."""
    from deltacompose.report import figures

    return list(figures.not_drawn(matrix))


def _print(text: str, answer: Answer) -> None:
    rows = [
        {"value": kind, **{part: answer[f"{kind}_{part}_category"] for part in ("same", "cross")}}
        for kind in ("relative", "corrected", "lift")
        if f"{kind}_same_category" in answer
    ]
    for row in rows:
        for part in ("same", "cross"):
            row[part] = f"{number(row[part])}{_interval(answer, row['value'], part)}"
    typer.echo(f"{answer['tasks']} tasks, {answer['seeds']} seed(s); mean of the values off the diagonal:")
    output.print_table(rows, ("value", "same", "cross"))
    if answer["category_p"] is not None:
        pairs = answer["pairs"][answer["category_p_of"]]["same_unordered"]
        typer.echo(
            f"same above cross category: p = {answer['category_p']:.4g} (minimum attainable {answer['least_p']:.2g}, "
            f"{pairs} pairs within a category, {answer['category_p_of']} values)"
        )
    typer.echo(f"asymmetry {number(answer['asymmetry'])}, reliability {number(answer['reliability']['all'])}")
    for stack in answer["stacks"]:
        typer.echo(f"corrected value minus that of {stack['alone']}: {estimated(stack['mean'])}")
    if minus := answer.get("minus"):
        told = f"{minus['above']} cells above and {minus['below']} below of {minus['tested']} tested"
        typer.echo(f"{minus['minuend']} minus {minus['subtrahend']}: mean score {number(minus['mean'])}; {told}")
    for swap in answer["swaps"]:
        typer.echo(
            f"{swap['method']} from another task: corrected {estimated(swap['corrected'])}, minus the stack "
            f"{estimated(swap['minus_stack'])}, minus the method alone {estimated(swap['minus_alone'])}"
        )
    if answer["initialisation"]:
        starts = answer["initialisation"]
        typer.echo(
            f"initialised from {', '.join(starts['sources'])}: lift {number(starts['mean_lift'])} on development "
            f"data, own score reached by {starts['reached']:.0%}, steps saved {number(starts['mean_saved'])}"
        )


def _interval(answer: Answer, kind: str, part: str) -> str:
    """The 95 % interval of a mean; empty if it has none."""
    interval = (answer["intervals"].get(kind) or {}).get(part)
    if not interval or interval["low"] is None:
        return ""
    return f" [{interval['low']:.3f}, {interval['high']:.3f}]"
