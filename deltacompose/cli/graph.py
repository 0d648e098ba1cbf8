"""`deltacompose graph`: the task graph, from transfer or from the similarity of deltas."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from deltacompose.cli import output
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
from deltacompose.cli.output import Answer, number
from deltacompose.errors import BadInput

if TYPE_CHECKING:
    import networkx as nx

    from deltacompose.analysis.matrix import TransferMatrix
    from deltacompose.analysis.similarity.compare import Comparison, Deltas


OF = "the mean over targets of relative performance"
"""The objective that the choice of sources under a budget maximises."""


def register(app: typer.Typer) -> None:
    """Adds this command to the program."""
    app.command(rich_help_panel=ANALYSES)(graph)


def graph(
    source: Source = None,
    scores: Scores = None,
    prompts: Prompts = None,
    categories: Categories = None,
    composition: Composition = "",
    name: Name = "",
    seeds: Runs = 0,
    measure: Annotated[str, typer.Option(help="Measure of similarity for the weights.  [default: transfer]")] = "",
    kind: Annotated[str, typer.Option(help="Kind of graph: knn, mutual_knn, mst, threshold or disparity.")] = "knn",
    k: Annotated[int, typer.Option(help="Number of neighbours of each task.")] = 3,
    level: Annotated[float | None, typer.Option(help="Level of the threshold or of the disparity filter.")] = None,
    value: Annotated[
        str,
        typer.Option(
            help="Transfer value of the weights: relative, corrected or raw.  [default: corrected; raw without chance]"
        ),
    ] = "",
    directed: Annotated[bool, typer.Option("--directed", help="Directed edges, from source to target.")] = False,
    budget: Annotated[
        int | None, typer.Option(help="Number of sources to choose, the best for all tasks on average.")
    ] = None,
    split: Split = "",
    store: StoreFolder = None,
    permutations: Permutations = 9999,
    out: Out = None,
    as_json: AsJson = False,
) -> None:
    """Build the task graph.

    Edges, communities, their agreement with the categories, and the best sources to initialise from.
    """
    from deltacompose.analysis.graph import construction as graphs
    from deltacompose.analysis.units import graph_value
    from deltacompose.cli.inputs import Options, read_inputs

    if measure and budget is not None:
        raise BadInput(
            "cannot combine --budget with --measure, because a budget of sources needs transfer; give one of them"
        )
    inputs = read_inputs(Options(source, store, scores, prompts, categories, composition, split, name, seeds))
    drawn: dict[str, nx.Graph] = {}

    def of_transfer(text: str, matrix: TransferMatrix) -> Answer:
        drawn[text] = tasks = graphs.task_graph(matrix, kind, k, level, value or graph_value(matrix), directed)
        summary = graphs.summary(matrix, tasks, permutations)
        return {"composition": text, **summary, "sources": _sources(matrix, budget, summary["limitations"])}

    def of_measure(text: str, deltas: Deltas) -> Answer:
        compared = _compared(text, deltas, measure)
        matrix = compared.as_matrix(text, inputs.categories)
        drawn[text] = tasks = graphs.task_graph(matrix, kind, k, level, "raw", directed)
        summary = graphs.summary(matrix, tasks, permutations, about=compared.limitations)
        tasks.graph["value"] = summary["value"] = measure
        if compared.weighs:
            tasks.graph["weighs"] = summary["weighs"] = compared.weighs
        return {"composition": text, **summary, "sources": None}

    answer = (
        output.answer_each(inputs.needed_deltas(), of_measure)
        if measure
        else output.answer_each(inputs.needed_matrices(), of_transfer)
    )
    if out is not None:
        for text, stem in output.stems(answer).items():
            _write(drawn[text], output.by_composition(answer)[text], out, stem)
    output.write_answer("graph", answer, as_json, out, _print)


def _compared(text: str, deltas: Deltas, measure: str) -> Comparison:
    """The values of one measure.

    Raises:
        BadInput: the measure cannot be computed.
    """
    from deltacompose.analysis.similarity.compare import compare_all
    from deltacompose.plugins import loader as plugins

    comparisons, lacking = compare_all(plugins.loaded().measures, deltas, [measure])
    if lacking:
        raise BadInput(f"{text or 'the prompts'}: {lacking[measure]}")
    return comparisons[measure]


def _sources(matrix: TransferMatrix, budget: int | None, limitations: list[str]) -> dict[str, Any]:
    """The ordinal ranking of each target's sources (Zamir et al. 2018, 1804.08328) and the choice under a budget.

    Either is None if it cannot be computed; the reason is then added to `limitations`.
    """
    chosen = None if budget is None else _chosen(matrix, budget, limitations)
    return {"ordinal": _ordinal(matrix, limitations), "budget": chosen}


def _ordinal(matrix: TransferMatrix, limitations: list[str]) -> dict[str, dict[str, float]] | None:
    """The ordinal weights of each target's sources, largest first."""
    from deltacompose.analysis.prediction.source_selection import ordinal_affinity

    try:
        affinity = ordinal_affinity(matrix)
    except BadInput as reason:
        limitations.append(f"cannot rank the sources: {reason}")
        return None
    result = {}
    for t, target in enumerate(matrix.targets):
        weights = {s: float(affinity[i, t]) for i, s in enumerate(matrix.sources) if s != target}
        result[target] = dict(sorted(weights.items(), key=lambda pair: -pair[1]))
    return result


def _chosen(matrix: TransferMatrix, budget: int, limitations: list[str]) -> dict[str, Any]:
    """The sources with the best relative performance.

    A chosen source serves its own task. The untouched backbone may serve a task and does not count in the budget.
    """
    import numpy as np

    from deltacompose.analysis.limitations import shortened
    from deltacompose.analysis.matrix import mean_over_seeds
    from deltacompose.analysis.prediction.source_selection import choose

    own, gains = mean_over_seeds(matrix.own), mean_over_seeds(matrix.relative())
    untouched = matrix.untouched / np.where(own > 0, own, np.nan)
    named: Callable[[Any], str] = lambda which: shortened([matrix.targets[t] for t in np.flatnonzero(which)])
    if (without := np.isnan(gains).all(axis=0)).any():
        raise BadInput(
            f"cannot choose sources, because none has a relative performance on {named(without)}; omit --budget"
        )
    if (unknown := np.isnan(untouched)).any():
        limitations.append(f"the untouched backbone is not considered for {named(unknown)}: its score there is unknown")
    limitations.append(f"sources are chosen to maximise {OF}; all targets have equal weight")
    choice = choose(gains, budget, untouched)
    serving = ["untouched" if s < 0 else matrix.sources[s] for s in choice.serving]
    return {
        "sources": [matrix.sources[s] for s in choice.sources],
        "serving": dict(zip(matrix.targets, serving, strict=True)),
        "mean_relative": choice.value / len(matrix.targets),
        "of": OF,
        "gap": choice.gap,
        "way": choice.way,
    }


def _write(tasks: nx.Graph, answer: Answer, out: Path, stem: str) -> None:
    """Writes the graph as GraphML, GEXF and node-link JSON, and its drawing as PDF and PNG."""
    from deltacompose.analysis.graph import construction as graphs
    from deltacompose.figures.task_graphs import network

    out.mkdir(parents=True, exist_ok=True)
    for suffix in ("graphml", "gexf"):
        graphs.write(tasks, out / f"{stem}graph.{suffix}")
    graphs.write(tasks, out / f"{stem}graph.nodes.json")
    edges = [(edge["source"], edge["target"], edge["stability"]) for edge in answer["edges"]]
    known = all(stability is not None for _, _, stability in edges)
    for suffix in ("pdf", "png"):
        network(tasks, out / f"{stem}graph.{suffix}", stability={(u, v): s for u, v, s in edges} if known else None)


def _print(text: str, answer: Answer) -> None:
    if "weighs" in answer:
        typer.echo(f"weights: {answer['weighs']}")
    output.print_table(answer["edges"], ("source", "target", "weight", "stability"))
    for algorithm, parts in answer["communities"].items():
        groups = [[name for name, label in parts.items() if label == part] for part in sorted(set(parts.values()))]
        typer.echo(f"{algorithm}: " + "; ".join(", ".join(group) for group in groups))
    for algorithm in ("average_linkage", "louvain"):
        ari, p = answer[f"ari_{algorithm}"], answer[f"ari_{algorithm}_p"]
        typer.echo(f"agreement of {algorithm} with the categories: ARI {number(ari)}, p = {number(p, '.3g')}")
    if answer["sources"] and answer["sources"]["budget"]:
        chosen = answer["sources"]["budget"]
        best = f"best {len(chosen['sources'])} sources: {', '.join(chosen['sources'])}"
        typer.echo(f"{best} ({chosen['of']} {chosen['mean_relative']:.3f})")
