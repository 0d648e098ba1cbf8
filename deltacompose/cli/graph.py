"""`deltacompose graph`: the graph of the tasks, by how they transfer or by how near their deltas are."""

from __future__ import annotations

from collections.abc import Mapping
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
    from deltacompose.cli.material import Material


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
    budget: Annotated[int | None, typer.Option(help="Choose that many sources that serve all tasks best.")] = None,
    split: Split = "",
    store: StoreFolder = None,
    permutations: Permutations = 9999,
    out: Out = None,
    as_json: AsJson = False,
) -> None:
    """The task graph: edges, communities, their agreement with the categories, and which sources to start from."""
    from deltacompose.analysis import graph as graphs
    from deltacompose.cli.material import Files, read

    given = read(Files(source, store, scores, prompts, categories, composition, split))
    matrices = _similar(given, measure) if measure else given.needed_matrices()
    value = "raw" if measure else value
    drawn: dict[str, nx.Graph] = {}

    def answer(text: str, matrix: TransferMatrix) -> Answer:
        drawn[text] = tasks = graphs.task_graph(matrix, kind, k, level, value, directed)
        found = graphs.summary(matrix, tasks, permutations)
        chosen = None if measure else _sources(matrix, budget, found["limitations"])
        if measure:
            tasks.graph["value"] = found["value"] = measure
        return {"composition": text, **found, "sources": chosen}

    found = answers.of_each(matrices, answer)
    if out is not None:
        for text, stem in answers.stems(found).items():
            _write(drawn[text], answers.each(found)[text], out, stem)
    answers.give("graph", found, as_json, out, _say)


def _similar(given: Material, measure: str) -> Mapping[str, TransferMatrix]:
    """The values of one measure as square matrices, greater being nearer."""
    from deltacompose import plugins
    from deltacompose.analysis.comparison import compare_all

    result = {}
    for text, deltas in given.needed_deltas().items():
        found, lacking = compare_all(plugins.loaded().measures, deltas, [measure])
        if lacking:
            raise BadInput(f"{text or 'the prompts'}: {lacking[measure]}")
        result[text] = found[measure].as_matrix(text, given.categories)
    return result


def _sources(matrix: TransferMatrix, budget: int | None, limitations: list[str]) -> dict[str, Any]:
    """Taskonomy's ordinal ranking of each target's sources, and the choice under a budget; None with the reason."""
    return {"ordinal": _ordinal(matrix, limitations), "budget": None if budget is None else _chosen(matrix, budget)}


def _ordinal(matrix: TransferMatrix, limitations: list[str]) -> dict[str, dict[str, float]] | None:
    """For each target its sources' ordinal weights, the greatest first."""
    from deltacompose.analysis.sources import ordinal_affinity

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


def _chosen(matrix: TransferMatrix, budget: int) -> dict[str, Any]:
    """The best sources of relative performance, a chosen one serving itself; the untouched backbone costs nothing."""
    import numpy as np

    from deltacompose.analysis.matrix import mean_over_seeds
    from deltacompose.analysis.sources import choose

    own = mean_over_seeds(matrix.own)
    untouched = matrix.untouched / np.where(own > 0, own, np.nan)
    found = choose(mean_over_seeds(matrix.relative()), budget, None if np.isnan(untouched).any() else untouched)
    serving = ["untouched" if s < 0 else matrix.sources[s] for s in found.serving]
    return {
        "sources": [matrix.sources[s] for s in found.sources],
        "serving": dict(zip(matrix.targets, serving, strict=True)),
        "mean_relative": found.value / len(matrix.targets),
        "gap": found.gap,
        "way": found.way,
    }


def _write(tasks: nx.Graph, answer: Answer, out: Path, stem: str) -> None:
    """The graph as GraphML, GEXF and node-link JSON, and its picture as PDF and PNG."""
    from deltacompose.analysis import graph as graphs
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
    show.table(answer["edges"], ("source", "target", "weight", "stability"))
    for algorithm, parts in answer["communities"].items():
        groups = [[name for name, part in parts.items() if part == one] for one in sorted(set(parts.values()))]
        typer.echo(f"{algorithm}: " + "; ".join(", ".join(group) for group in groups))
    for algorithm in ("average_linkage", "louvain"):
        ari, p = answer[f"ari_{algorithm}"], answer[f"ari_{algorithm}_p"]
        typer.echo(f"agreement of {algorithm} with the categories: ARI {number(ari)}, p = {number(p, '.3g')}")
    if answer["sources"] and answer["sources"]["budget"]:
        chosen = answer["sources"]["budget"]
        typer.echo(
            f"best {len(chosen['sources'])} sources: {', '.join(chosen['sources'])} "
            f"(mean relative performance {chosen['mean_relative']:.3f})"
        )
