"""`deltacompose predict`: which measure of similarity says beforehand how tasks transfer."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from deltacompose.cli import answers, show
from deltacompose.cli.answers import Answer, number
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
from deltacompose.cli.similarity import compared_of, say_lacking
from deltacompose.errors import BadInput

if TYPE_CHECKING:
    from deltacompose.analysis.matrix import TransferMatrix
    from deltacompose.analysis.similarity.compare import Comparison, Deltas
    from deltacompose.cli.inputs import Material


_P = ("ndcg_p", "ndcg_p_by", "mantel_p", "mantel_p_by")


def register(app: typer.Typer) -> None:
    """Adds this command to the program."""
    app.command()(predict)


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
    share: Annotated[float, typer.Option(help="Of the cells, below 1, for estimating the others from them.")] = 0.3,
    out: Out = None,
    as_json: AsJson = False,
) -> None:
    """Which measure of similarity predicts transfer, beside random rankings and the popularity of the sources.

    p-values are one-sided (greater); those that end in _by are adjusted over all measures (Benjamini and Yekutieli).
    """
    from deltacompose.cli.inputs import Files, read

    given = read(Files(source, store, scores, prompts, categories, composition, split))

    def answer(text: str, matrix: TransferMatrix) -> Answer:
        return _predicted(text, matrix, given, (measure, permutations, share))

    found = answers.of_each(given.needed_matrices(), answer)
    if out is not None:
        for text, stem in answers.stems(found).items():
            _write_predictions(answers.each(found)[text], out, stem)
    answers.give("predict", found, as_json, out, _say_predict)


def _predicted(text: str, matrix: TransferMatrix, given: Material, how: tuple[list[str] | None, int, float]) -> Answer:
    from deltacompose.analysis.prediction import evaluate as prediction
    from deltacompose.analysis.prediction.matrix_completion import NOT_DEFAULT

    chosen, permutations, share = how
    if text not in given.needed_deltas():
        raise BadInput(f"there are no deltas of {text!r} to compare; found: {', '.join(given.deltas) or 'none'}")
    compared, lacking = compared_of(_of_tasks(given.deltas[text], matrix), chosen)
    whole = {name: one for name, one in compared.items() if set(matrix.tasks) <= set(one.tasks)}
    for name in compared.keys() - whole.keys():
        missing = [task for task in matrix.tasks if task not in compared[name].tasks]
        lacking[name] = f"it has no value for {', '.join(missing)}, and all measures are judged on the same tasks"
    result = prediction.summary(matrix, {n: one.nearness() for n, one in whole.items()}, permutations)
    _add_noiseless(result["measures"], whole, matrix)
    gains = prediction.gains_of(matrix)
    methods = {method: _known(one) for method, one in prediction.completion_quality(gains, share).items()}
    completed = {"share": share, "methods": methods, "limitation": NOT_DEFAULT}
    result["limitations"] += _unused(given.deltas[text], matrix)
    return {
        "composition": matrix.composition,
        **result,
        "lacking": lacking,
        "best_single_source": prediction.best_single_source(matrix),
        "mixtures": _mixtures(whole, matrix),
        "completion": completed,
    }


def _add_noiseless(judged: Mapping[str, dict[str, Any]], compared: Mapping[str, Comparison], matrix: Any) -> None:
    """Adds to each measure its correlation with transfer without the noise of the seeds."""
    from deltacompose.analysis.attenuation import without_noise

    for name, one in compared.items():
        at = [one.tasks.index(task) for task in matrix.tasks]
        near, found = one.measure.nearness(one.values)[:, at][:, :, at], judged[name]
        directed = found["mantel_of"].startswith("qap")
        found.update(without_noise(found["mantel_r"], near, matrix.square().relative(), directed))


def _known(values: Mapping[str, float]) -> dict[str, float | None]:
    """None instead of NaN, which JSON has not."""
    return {name: None if value != value else value for name, value in values.items()}


def _unused(deltas: Deltas, matrix: TransferMatrix) -> list[str]:
    """A sentence on the tasks that have deltas and are not judged."""
    from deltacompose.analysis.matrix import shortened

    rest = [task for task in deltas.tasks if task not in matrix.tasks]
    return [f"{shortened(rest)}: deltas whose tasks are not both source and target of the matrix, not used"] * bool(
        rest
    )


def _of_tasks(deltas: Deltas, matrix: TransferMatrix) -> Deltas:
    """Prompts in the order of the matrix, each of whose tasks needs one."""
    from deltacompose.analysis.similarity.compare import Prompts as FromFile

    return deltas.only(matrix.tasks) if isinstance(deltas, FromFile) else deltas


def _mixtures(compared: Mapping[str, Comparison], matrix: TransferMatrix) -> dict[str, Any]:
    """For each measure and target the three nearest sources with their weights (SPoT).

    In proportion to similarity where that is above zero throughout, else equal ones.
    """
    from deltacompose.analysis.prediction import evaluate as prediction

    result: dict[str, Any] = {}
    for name, one in compared.items():
        near = one.nearness().loc[list(matrix.tasks), list(matrix.tasks)].to_numpy()
        weighted = one.measure.range[0] >= 0 and not one.measure.distance and (near > 0).all()
        mix = prediction.weighted_top_k if weighted else prediction.top_k
        targets = {t: mix(prediction.similarities_to(t, near, matrix.tasks), 3) for t in matrix.tasks}
        result[name] = {"weights": "in proportion" if weighted else "equal", "targets": targets}
    return result


def _write_predictions(answer: Answer, out: Path, stem: str) -> None:
    """`predict.csv`, one row per measure."""
    import pandas as pd

    from deltacompose.figures.files import write_text

    rows = [{"measure": name, **_plain(one)} for name, one in answer["measures"].items()]
    write_text(out / f"{stem}predict.csv", pd.DataFrame(rows).to_csv(index=False))


def _plain(values: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in values.items() if not isinstance(value, dict | list)}


def _say_predict(text: str, answer: Answer) -> None:
    columns = ("measure", "ndcg", *_P[:2], "regret_at_1", "kendall_within", "mantel_r", *_P[2:])
    by: Callable[[str], float] = lambda name: -(answer["measures"][name]["ndcg"] or 0.0)
    ranked = {name: answer["measures"][name] for name in sorted(answer["measures"], key=by)}
    rows = [{"measure": name, **one, **{p: number(one[p], ".2g") for p in _P}} for name, one in ranked.items()]
    show.table(rows, columns)
    one = rows[0]
    least = {test: _least(ranked, test) for test in ("ndcg", "mantel")}
    said = ", ".join(f"{test} {number(p, '.2g')}" for test, p in least.items())
    typer.echo(f"p one-sided (greater); the least attainable: {said}")
    typer.echo(f"NDCG of a random ranking {number(one['ndcg_null'])}, of popularity {number(one['ndcg_popularity'])}")
    errors = ", ".join(
        f"{method} {number(values['rmse'])}" for method, values in answer["completion"]["methods"].items()
    )
    typer.echo(f"root mean square error from {answer['completion']['share']:.0%} of the cells: {errors}")
    typer.echo(f"- {answer['completion']['limitation']}")
    say_lacking(answer)


def _least(measures: Mapping[str, Any], test: str) -> float | None:
    """The smallest p that any of the measures could have."""
    return min((p for one in measures.values() if (p := one[f"{test}_least_p"]) is not None), default=None)
