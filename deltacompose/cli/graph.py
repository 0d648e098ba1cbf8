"""`deltacompose graph`: the graph of the tasks, by how they transfer or by how near their deltas are."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from deltacompose.cli import answers, show
from deltacompose.cli.answers import Answer, number
from deltacompose.cli.options import (
    AsJson,
    Categories,
    Composition,
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
    import networkx as nx

    from deltacompose.analysis.matrix import TransferMatrix
    from deltacompose.analysis.similarity.compare import Comparison, Deltas


OF = "the mean over targets of relative performance"
"""What a budget of sources is spent on."""


def register(app: typer.Typer) -> None:
    """Adds this command to the program."""
    app.command()(graph)


def graph(
    source: Source = None,
    scores: Scores = None,
    prompts: Prompts = None,
    categories: Categories = None,
    composition: Composition = "",
    measure: Annotated[str, typer.Option(help="A measure of similarity to make the graph of, not of transfer.")] = "",
    kind: Annotated[str, typer.Option(help="knn, mutual_knn, mst, threshold or disparity.")] = "knn",
    k: Annotated[int, typer.Option(help="Neighbours of each task.")] = 3,
    level: Annotated[float | None, typer.Option(help="Of a threshold, or of the disparity filter.")] = None,
    value: Annotated[str, typer.Option(help="relative, corrected or raw.")] = "relative",
    directed: Annotated[bool, typer.Option("--directed", help="Edges from source to target.")] = False,
    budget: Annotated[
        int | None, typer.Option(help="Choose that many sources that serve the tasks best on average.")
    ] = None,
    split: Split = "",
    store: StoreFolder = None,
    permutations: Permutations = 9999,
    out: Out = None,
    as_json: AsJson = False,
) -> None:
    """The task graph: edges, communities, their agreement with the categories, and which sources to start from."""
    from deltacompose.analysis.graph import build as graphs
    from deltacompose.cli.inputs import Files, read

    if measure and budget is not None:
        raise BadInput("--budget chooses sources by how they transfer, and --measure asks for no transfer; give one")
    given = read(Files(source, store, scores, prompts, categories, composition, split))
    drawn: dict[str, nx.Graph] = {}

    def of_transfer(text: str, matrix: TransferMatrix) -> Answer:
        drawn[text] = tasks = graphs.task_graph(matrix, kind, k, level, value, directed)
        found = graphs.summary(matrix, tasks, permutations)
        return {"composition": text, **found, "sources": _sources(matrix, budget, found["limitations"])}

    def of_measure(text: str, deltas: Deltas) -> Answer:
        compared = _compared(text, deltas, measure)
        matrix = compared.as_matrix(text, given.categories)
        drawn[text] = tasks = graphs.task_graph(matrix, kind, k, level, "raw", directed)
        found = graphs.summary(matrix, tasks, permutations, about=compared.limitations)
        tasks.graph["value"] = found["value"] = measure
        if compared.weighs:
            tasks.graph["weighs"] = found["weighs"] = compared.weighs
        return {"composition": text, **found, "sources": None}

    found = (
        answers.of_each(given.needed_deltas(), of_measure)
        if measure
        else answers.of_each(given.needed_matrices(), of_transfer)
    )
    if out is not None:
        for text, stem in answers.stems(found).items():
            _write(drawn[text], answers.each(found)[text], out, stem)
    answers.give("graph", found, as_json, out, _say)


def _compared(text: str, deltas: Deltas, measure: str) -> Comparison:
    """The values of one measure."""
    from deltacompose.analysis.similarity.compare import compare_all
    from deltacompose.plugins import loader as plugins

    found, lacking = compare_all(plugins.loaded().measures, deltas, [measure])
    if lacking:
        raise BadInput(f"{text or 'the prompts'}: {lacking[measure]}")
    return found[measure]


def _sources(matrix: TransferMatrix, budget: int | None, limitations: list[str]) -> dict[str, Any]:
    """Taskonomy's ordinal ranking of each target's sources, and the choice under a budget; None with the reason."""
    chosen = None if budget is None else _chosen(matrix, budget, limitations)
    return {"ordinal": _ordinal(matrix, limitations), "budget": chosen}


def _ordinal(matrix: TransferMatrix, limitations: list[str]) -> dict[str, dict[str, float]] | None:
    """For each target its sources' ordinal weights, the greatest first."""
    from deltacompose.analysis.prediction.source_selection import ordinal_affinity

    try:
        affinity = ordinal_affinity(matrix)
    except BadInput as reason:
        limitations.append(f"no ordinal ranking of sources: {reason}")
        return None
    result = {}
    for t, target in enumerate(matrix.targets):
        weights = {s: float(affinity[i, t]) for i, s in enumerate(matrix.sources) if s != target}
        result[target] = dict(sorted(weights.items(), key=lambda pair: -pair[1]))
    return result


def _chosen(matrix: TransferMatrix, budget: int, limitations: list[str]) -> dict[str, Any]:
    """The best sources of relative performance, a chosen one serving itself; the untouched backbone costs nothing."""
    import numpy as np

    from deltacompose.analysis.matrix import mean_over_seeds, shortened
    from deltacompose.analysis.prediction.source_selection import choose

    own, gains = mean_over_seeds(matrix.own), mean_over_seeds(matrix.relative())
    untouched = matrix.untouched / np.where(own > 0, own, np.nan)
    named: Callable[[Any], str] = lambda which: shortened([matrix.targets[t] for t in np.flatnonzero(which)])
    if (without := np.isnan(gains).all(axis=0)).any():
        raise BadInput(
            f"--budget: no source has a relative performance on {named(without)}, so none can be chosen for it"
        )
    if (unknown := np.isnan(untouched)).any():
        limitations.append(f"the untouched backbone serves none of {named(unknown)}: its score there is unknown")
    limitations.append(f"sources are chosen for {OF}, each target counting as much as any other")
    found = choose(gains, budget, untouched)
    serving = ["untouched" if s < 0 else matrix.sources[s] for s in found.serving]
    return {
        "sources": [matrix.sources[s] for s in found.sources],
        "serving": dict(zip(matrix.targets, serving, strict=True)),
        "mean_relative": found.value / len(matrix.targets),
        "of": OF,
        "gap": found.gap,
        "way": found.way,
    }


def _write(tasks: nx.Graph, answer: Answer, out: Path, stem: str) -> None:
    """The graph as GraphML, GEXF and node-link JSON, and its picture as PDF and PNG."""
    from deltacompose.analysis.graph import build as graphs
    from deltacompose.figures.graph import network

    out.mkdir(parents=True, exist_ok=True)
    for suffix in ("graphml", "gexf"):
        graphs.write(tasks, out / f"{stem}graph.{suffix}")
    graphs.write(tasks, out / f"{stem}graph.nodes.json")
    edges = [(edge["source"], edge["target"], edge["stability"]) for edge in answer["edges"]]
    known = all(stability is not None for _, _, stability in edges)
    for suffix in ("pdf", "png"):
        network(tasks, out / f"{stem}graph.{suffix}", stability={(u, v): s for u, v, s in edges} if known else None)


def _say(text: str, answer: Answer) -> None:
    if "weighs" in answer:
        typer.echo(f"weights: {answer['weighs']}")
    show.table(answer["edges"], ("source", "target", "weight", "stability"))
    for algorithm, parts in answer["communities"].items():
        groups = [[name for name, part in parts.items() if part == one] for one in sorted(set(parts.values()))]
        typer.echo(f"{algorithm}: " + "; ".join(", ".join(group) for group in groups))
    for algorithm in ("average_linkage", "louvain"):
        ari, p = answer[f"ari_{algorithm}"], answer[f"ari_{algorithm}_p"]
        typer.echo(f"agreement of {algorithm} with the categories: ARI {number(ari)}, p = {number(p, '.3g')}")
    if answer["sources"] and answer["sources"]["budget"]:
        chosen = answer["sources"]["budget"]
        best = f"best {len(chosen['sources'])} sources: {', '.join(chosen['sources'])}"
        typer.echo(f"{best} ({chosen['of']} {chosen['mean_relative']:.3f})")
