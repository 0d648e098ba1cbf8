"""`deltacompose recommend`: which delta to start from on a new task, and how good that advice is."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from deltacompose.cli import output
from deltacompose.cli.options import DELTAS, AsJson, Categories, Out, Prompts, Scores, StoreFolder
from deltacompose.errors import BadInput

if TYPE_CHECKING:
    from deltacompose.analysis.recommendation.evidence import Evidence
    from deltacompose.library.recommend import Estimate, Recommendation


def register(app: typer.Typer) -> None:
    """Adds this command to the program."""
    app.command(rich_help_panel=DELTAS)(recommend)


def recommend(
    source: Annotated[
        str | None, typer.Argument(metavar="LIBRARY", help="Library; with --evaluate also a store or a study's file.")
    ] = None,
    task: Annotated[str | None, typer.Option(help="Name of a task, or YAML file that describes one.")] = None,
    shots: Annotated[int, typer.Option(min=1, help="Labelled training examples of the task, in total.")] = 32,
    composition: Annotated[str | None, typer.Option(help="Composition of the deltas, of several.")] = None,
    store: StoreFolder = None,
    evaluate: Annotated[bool, typer.Option("--evaluate", help="Quality on each task left out in turn.")] = False,
    leave_out: Annotated[
        bool, typer.Option("--leave-out", help="Treatment of a task that the library knows as a new one.")
    ] = False,
    scores: Scores = None,
    prompts: Prompts = None,
    categories: Categories = None,
    seed: Annotated[int, typer.Option(min=0, help="Random seed of the examples.")] = 0,
    out: Out = None,
    as_json: AsJson = False,
) -> None:
    """Recommend sources for a new task.

    Predicts for every source its score on the task without training and after training on few examples, compared with
    no source and chance. With --evaluate, leaves out each task of a library, a store or a published table in turn.
    """
    if evaluate:
        if task is not None:
            raise BadInput("--evaluate leaves out each task in turn; give it without --task")
        options = {"store": store, "scores": scores, "prompts": prompts, "categories": categories}
        evidences = _evidences(source, composition, shots, options)
        answers = {text: _evaluated(evidence, seed) for text, evidence in evidences.items()}
        return _show_quality(answers, out, as_json)
    if scores is not None or prompts is not None:
        raise BadInput("--scores and --prompts are tables to --evaluate on; a new task needs a library of deltas")
    if source is None or task is None:
        raise BadInput("name a library and a new task with --task, or give --evaluate")
    from deltacompose.cli.library_commands import usable_cards
    from deltacompose.library.library import Library
    from deltacompose.library.recommend import recommend as recommended

    usable_cards(Library(source))
    recommendation = recommended(source, task, shots, composition=composition, seed=seed, leave_out=leave_out)
    if as_json:
        return output.write_json(recommendation.described())
    return _show(recommendation)


def _evidences(
    source: str | None, composition: str | None, shots: int, options: Mapping[str, Path | None]
) -> dict[str, Evidence]:
    """The evidence of each composition of a library, a store, a study or tables."""
    from deltacompose.formats.urls import is_url

    if source is not None and (is_url(source) or (Path(source) / "library.json").exists()):
        from deltacompose.cli.library_commands import usable_cards
        from deltacompose.library.library import Library
        from deltacompose.library.library_evidence import gather

        library = Library(source)
        cards = usable_cards(library)
        texts = sorted({card.composition for card in cards.values()})
        texts = texts if composition is None else [library.composition(composition, cards)]
        return {text: gather(library, text, shots).zero_shot for text in texts}
    from deltacompose.analysis.recommendation.few_examples import of_matrix
    from deltacompose.cli.inputs import Options, read_inputs

    place = None if source is None else Path(source)
    inputs = read_inputs(
        Options(
            source=place,
            store=options["store"],
            scores=options["scores"],
            prompts=options["prompts"],
            categories=options["categories"],
            composition=composition or "",
        )
    )
    return {
        text: of_matrix(matrix, measures_of(inputs.deltas.get(text), matrix), shots)
        for text, matrix in inputs.needed_matrices().items()
    }


def measures_of(deltas: Any, matrix: Any) -> dict[str, Any]:
    """(seeds, tasks, tasks) of every measure that the deltas have, in the order of the square matrix."""
    import numpy as np

    from deltacompose.analysis.similarity.compare import Prompts as FromFile
    from deltacompose.cli.similarity import compared_of

    tasks, seeds = list(matrix.square().targets), len(matrix.seeds)
    if deltas is None:
        return {}
    own = deltas.only(tasks) if isinstance(deltas, FromFile) else deltas
    compared, _ = compared_of(own, None)
    measures = {}
    for name, comparison in compared.items():
        if not set(tasks) <= set(comparison.tasks):
            continue
        at = [comparison.tasks.index(task) for task in tasks]
        near = comparison.measure.nearness(comparison.values)[:, at][:, :, at]
        measures[name] = near if len(near) == seeds else np.broadcast_to(near.mean(axis=0), (seeds, *near.shape[1:]))
    return measures


def _evaluated(evidence: Evidence, seed: int) -> dict[str, Any]:
    from deltacompose.analysis.recommendation.quality import summary

    return summary(evidence, seed)


def _show_quality(answers: Mapping[str, dict[str, Any]], out: Path | None, as_json: bool) -> None:
    """Prints the quality of recommendations, and writes table, figure and JSON into a folder."""
    single = len(answers) == 1
    answer: dict[str, Any] = (
        {"composition": (text := next(iter(answers)))} | answers[text] if single else {"compositions": dict(answers)}
    )
    if out is not None:
        from deltacompose.figures.recommendations import write_quality

        write_quality(answers, out)
    output.write_answer("recommend", answer, as_json, out, _print_quality)


def _print_quality(text: str, answer: output.Answer) -> None:
    from deltacompose.figures.style import counted

    rows = [
        {"strategy": name}
        | {metric: output.estimated(estimate) for metric, estimate in metrics.items()}
        | {"p": output.number(metrics["regret_at_1"].get("p"), ".2g")}
        for name, metrics in answer["strategies"].items()
    ]
    output.print_table(rows, ("strategy", "regret_at_1", "regret_at_3", "ndcg", "p"))
    coverage = answer["coverage"]
    typer.echo(
        f"{answer['tasks_left_out']} tasks left out, {counted(answer['seeds'], 'seed')}; intervals cover "
        f"{output.number(coverage['found'], '.2f')} of the scores ({coverage['intended']:.2f} intended); sources told "
        f"apart in {answer['told_apart']:.0%} of the cases; p of regret@1 against the model"
    )
    chosen = ", ".join(f"{name} ({count})" for name, count in answer["best_alone"].items())
    typer.echo(f"best predictor alone, chosen on the other tasks: {chosen}")


def _show(recommendation: Recommendation) -> None:
    rows = [
        {
            "source": source.task,
            "zero-shot": _interval(source.zero_shot),
            "few-shot": _interval(source.few_shot),
            "few examples": source.tried,
            "tied": source.tied,
        }
        for source in recommendation.sources
    ]
    nothing: dict[str, Any] = {"few examples": None, "tied": None}
    rows.append(
        {
            "source": "no source",
            "zero-shot": _interval(recommendation.untouched),
            "few-shot": _interval(recommendation.fresh),
        }
        | nothing
    )
    rows.append({"source": "chance", "zero-shot": f"{recommendation.chance:.3f}", "few-shot": "–"} | nothing)
    output.print_table(rows, ("source", "zero-shot", "few-shot", "few examples", "tied"))
    typer.echo(
        f"{recommendation.composition}; {recommendation.examples} examples of {recommendation.task}; intervals of 90 %"
    )
    typer.echo(recommendation.verdict)
    for note in recommendation.notes:
        typer.echo(f"- {note}")


def _interval(estimate: Estimate | None) -> str:
    return "–" if estimate is None else f"{estimate.value:.3f} [{estimate.low:.3f}, {estimate.high:.3f}]"
