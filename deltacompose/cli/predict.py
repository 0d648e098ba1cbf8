"""`deltacompose predict`: how well each measure of similarity predicts transfer."""

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
    Permutations,
    Prompts,
    Scores,
    Source,
    Split,
    StoreFolder,
)
from deltacompose.cli.output import Answer, number
from deltacompose.cli.similarity import compared_of, print_lacking
from deltacompose.errors import BadInput

if TYPE_CHECKING:
    from deltacompose.analysis.matrix import TransferMatrix
    from deltacompose.analysis.similarity.compare import Comparison, Deltas
    from deltacompose.cli.inputs import Inputs


_P = ("ndcg_p", "ndcg_p_by", "mantel_p", "mantel_p_by")


def register(app: typer.Typer) -> None:
    """Adds this command to the program."""
    app.command(rich_help_panel=ANALYSES)(predict)


def predict(
    source: Source = None,
    scores: Scores = None,
    prompts: Prompts = None,
    categories: Categories = None,
    composition: Composition = "",
    measure: Measures = None,
    split: Split = "",
    store: StoreFolder = None,
    permutations: Permutations = 999,
    share: Annotated[
        float, typer.Option(help="Share of the cells, below 1, from which the others are estimated.")
    ] = 0.3,
    out: Out = None,
    as_json: AsJson = False,
) -> None:
    """Predict transfer from similarity.

    Each measure is compared with random rankings and with the popularity of the sources.

    p-values are one-sided (greater); those that end in _by are adjusted over all measures (Benjamini and Yekutieli).
    """
    from deltacompose.cli.inputs import Options, read_inputs

    inputs = read_inputs(Options(source, store, scores, prompts, categories, composition, split))

    compared: dict[str, Mapping[str, Comparison]] = {}

    def analyse(text: str, matrix: TransferMatrix) -> Answer:
        result, compared[text] = _predicted(text, matrix, inputs, (measure, permutations, share))
        return result

    answer = output.answer_each(inputs.needed_matrices(), analyse)
    if out is not None:
        for text, stem in output.stems(answer).items():
            part = output.by_composition(answer)[text]
            _write_predictions(part, out, stem)
            part["limitations"] += _draw(part, compared[text], inputs.matrices[text], (out, stem))
    output.write_answer("predict", answer, as_json, out, _print)


def _predicted(
    text: str, matrix: TransferMatrix, inputs: Inputs, settings: tuple[list[str] | None, int, float]
) -> tuple[Answer, Mapping[str, Comparison]]:
    """The predictions of one composition, and the comparisons that predict.

    Args:
        settings: the measures, the permutations and the share of cells.
    """
    from deltacompose.analysis.prediction import evaluate as prediction
    from deltacompose.analysis.prediction.matrix_completion import NOT_DEFAULT

    chosen, permutations, share = settings
    if text not in inputs.needed_deltas():
        raise BadInput(f"there are no deltas of {text!r} to compare (found {', '.join(inputs.deltas) or 'none'})")
    compared, lacking = compared_of(_of_tasks(inputs.deltas[text], matrix), chosen)
    whole = {name: comparison for name, comparison in compared.items() if set(matrix.tasks) <= set(comparison.tasks)}
    for name in compared.keys() - whole.keys():
        missing = [task for task in matrix.tasks if task not in compared[name].tasks]
        lacking[name] = f"it has no value for {', '.join(missing)}, and all measures are evaluated on the same tasks"
    result = prediction.summary(
        matrix, {name: comparison.nearness() for name, comparison in whole.items()}, permutations
    )
    _add_noiseless(result["measures"], whole, matrix)
    gains = prediction.gains_of(matrix)
    methods = {method: _known(errors) for method, errors in prediction.completion_quality(gains, share).items()}
    completed = {"share": share, "methods": methods, "limitation": NOT_DEFAULT}
    result["limitations"] += _unused(inputs.deltas[text], matrix)
    answer = {
        "composition": matrix.composition,
        **result,
        "lacking": lacking,
        "best_single_source": prediction.best_single_source(matrix),
        "mixtures": _mixtures(whole, matrix),
        "completion": completed,
    }
    return answer, whole


def _add_noiseless(results: Mapping[str, dict[str, Any]], compared: Mapping[str, Comparison], matrix: Any) -> None:
    """Adds to each measure its correlation with transfer, corrected for the noise between seeds."""
    from deltacompose.analysis.attenuation import without_noise

    for name, comparison in compared.items():
        at = [comparison.tasks.index(task) for task in matrix.tasks]
        near, result = comparison.measure.nearness(comparison.values)[:, at][:, :, at], results[name]
        directed = result["mantel_of"].startswith("qap")
        result.update(without_noise(result["mantel_r"], near, matrix.square().relative(), directed))


def _known(values: Mapping[str, float]) -> dict[str, float | None]:
    """The values with None for NaN, which JSON cannot hold."""
    return {name: None if value != value else value for name, value in values.items()}


def _unused(deltas: Deltas, matrix: TransferMatrix) -> list[str]:
    """A sentence on the tasks whose deltas are not used."""
    from deltacompose.analysis.limitations import shortened

    rest = [task for task in deltas.tasks if task not in matrix.tasks]
    return [
        f"{shortened(rest)}: deltas not used, because their tasks are not both source and target of the matrix"
    ] * bool(rest)


def _of_tasks(deltas: Deltas, matrix: TransferMatrix) -> Deltas:
    """Prompts from a file in the order of the matrix; each of its tasks needs one."""
    from deltacompose.analysis.similarity.compare import Prompts as FromFile

    return deltas.only(matrix.tasks) if isinstance(deltas, FromFile) else deltas


def _mixtures(compared: Mapping[str, Comparison], matrix: TransferMatrix) -> dict[str, Any]:
    """For each measure and target the three nearest sources with their weights (SPoT: Vu et al. 2022, 2110.07904).

    The weights are proportional to similarity if that is positive everywhere, otherwise equal.
    """
    from deltacompose.analysis.prediction import evaluate as prediction

    result: dict[str, Any] = {}
    for name, comparison in compared.items():
        near = comparison.nearness().loc[list(matrix.tasks), list(matrix.tasks)].to_numpy()
        weighted = comparison.measure.range[0] >= 0 and not comparison.measure.distance and (near > 0).all()
        mix = prediction.weighted_top_k if weighted else prediction.top_k
        targets = {t: mix(prediction.similarities_to(t, near, matrix.tasks), 3) for t in matrix.tasks}
        result[name] = {"weights": "in proportion" if weighted else "equal", "targets": targets}
    return result


def _write_predictions(answer: Answer, out: Path, stem: str) -> None:
    """Writes `predict.csv`, one row per measure."""
    import pandas as pd

    from deltacompose.figures.figure_files import write_text

    rows = [{"measure": name, **_plain(values)} for name, values in answer["measures"].items()]
    write_text(out / f"{stem}predict.csv", pd.DataFrame(rows).to_csv(index=False))


def _draw(
    answer: Answer, compared: Mapping[str, Comparison], matrix: TransferMatrix, where: tuple[Path, str]
) -> list[str]:
    """Draws `predict` (all measures against chance) and `predict.<measure>` (transfer against similarity).

    Returns:
        The reasons of figures that cannot be drawn.
    """
    from deltacompose import figures
    from deltacompose.analysis.units import unknown_chance
    from deltacompose.figures.figure_files import slug

    out, stem = where
    value = "score" if unknown_chance(matrix) else "corrected"
    drawings: dict[str, Callable[[], Any]] = {f"{stem}predict": partial(figures.prediction, answer)}
    for name, comparison in compared.items():
        drawings[f"{stem}predict.{slug(name)}"] = partial(figures.similarity_transfer, comparison, matrix, value=value)
    return output.write_figures(drawings, out)


def _plain(values: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in values.items() if not isinstance(value, dict | list)}


def _print(text: str, answer: Answer) -> None:
    columns = ("measure", "ndcg", *_P[:2], "regret_at_1", "kendall_within", "mantel_r", *_P[2:])
    by: Callable[[str], float] = lambda name: -(answer["measures"][name]["ndcg"] or 0.0)
    ranked = {name: answer["measures"][name] for name in sorted(answer["measures"], key=by)}
    rows = [{"measure": name, **values, **{p: number(values[p], ".2g") for p in _P}} for name, values in ranked.items()]
    output.print_table(rows, columns)
    first = rows[0]
    least = {test: _least(ranked, test) for test in ("ndcg", "mantel")}
    attainable = ", ".join(f"{test} {number(p, '.2g')}" for test, p in least.items())
    typer.echo(f"p one-sided (greater); minimum attainable: {attainable}")
    typer.echo(
        f"NDCG of random rankings {number(first['ndcg_null'])}, of popularity {number(first['ndcg_popularity'])}"
    )
    errors = ", ".join(
        f"{method} {number(values['rmse'])}" for method, values in answer["completion"]["methods"].items()
    )
    typer.echo(f"root mean square error of completion from {answer['completion']['share']:.0%} of the cells: {errors}")
    typer.echo(f"- {answer['completion']['limitation']}")
    print_lacking(answer)


def _least(measures: Mapping[str, Any], test: str) -> float | None:
    """The smallest attainable p over the measures."""
    return min((p for values in measures.values() if (p := values[f"{test}_least_p"]) is not None), default=None)
