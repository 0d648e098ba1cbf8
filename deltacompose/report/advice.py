"""Quality of recommended sources in the report: the summary of a composition, its sentence, its numbers in the page."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from deltacompose.analysis.arrays import Floats
from deltacompose.analysis.matrix import TransferMatrix
from deltacompose.analysis.recommendation.few_examples import of_matrix
from deltacompose.analysis.recommendation.quality import LEAST_LEFT, METRICS, MODEL, RANDOM, summary
from deltacompose.errors import BadInput
from deltacompose.figures.style import counted

MOST = 2000
"""The largest number of seeds times squared tasks that the report leaves out in turn: some seconds."""
Answer = Mapping[str, Any]


def is_small(matrix: TransferMatrix) -> bool:
    """Whether leaving out each task of a matrix takes some seconds at most."""
    return len(matrix.seeds) * len(matrix.square().tasks) ** 2 <= MOST


def advice_of(matrix: TransferMatrix, measures: Mapping[str, Floats]) -> tuple[Answer | None, str]:
    """The quality of recommended sources on each task left out, or why it was not computed.

    The reason is empty where the study is too small for the question.

    Args:
        measures: by name (seeds, tasks, tasks), greater is nearer, as `few_examples.of_matrix` takes them.
    """
    tasks = len(matrix.square().tasks)
    if tasks < LEAST_LEFT:
        return None, ""
    if not is_small(matrix):
        return None, (
            f"{counted(tasks, 'task')} and {counted(len(matrix.seeds), 'seed')} take long; "
            "`deltacompose recommend STUDY --evaluate` computes it"
        )
    try:
        return summary(of_matrix(matrix, measures)), ""
    except BadInput as error:
        return None, str(error)


def sentence(text: str, answer: Answer) -> str:
    """Regret of the recommended source against a random one."""
    own, other = (answer["strategies"][name]["regret_at_1"] for name in (MODEL, RANDOM))
    return (
        f"{text}, choice of a source on {answer['tasks_left_out']} tasks left out: the recommended source scores "
        f"{_interval(own)} below the best one, a random source {_interval(other)} (p = {other['p']:.2g})."
    )


def caption(answer: Answer) -> str:
    """How to read the figure, with the coverage of the model's intervals."""
    coverage = answer["coverage"]
    return (
        f"Means over {counted(answer['tasks_left_out'], 'task')} left out in turn, {counted(answer['seeds'], 'seed')}, "
        f"with 95 % bootstrap intervals over tasks. Predictors: {', '.join(answer['predictors'])}. Intervals of the "
        f"model, meant to cover {coverage['intended']:.0%} of the scores, cover {coverage['found']:.0%}; sources are "
        f"told apart in {answer['told_apart']:.0%} of the cases."
    )


def shown(answer: Answer | None, reason: str) -> dict[str, Any]:
    """The numbers of the figure: by strategy and metric the mean and its interval in thousandths, and p as text."""
    if answer is None:
        return {"strategies": [], "caption": f"Not computed: {reason}." if reason else "Too few tasks."}
    strategies = [
        [name, *(_numbers(metrics[metric]) for metric in METRICS)] for name, metrics in answer["strategies"].items()
    ]
    return {"strategies": strategies, "caption": caption(answer)}


def _numbers(estimate: Mapping[str, float | None]) -> list[int | str | None]:
    p = estimate.get("p")
    return [*(_thousandths(estimate[key]) for key in ("value", "low", "high")), "" if p is None else f"{p:.2g}"]


def _thousandths(value: float | None) -> int | None:
    return None if value is None else round(1000 * value)


def _interval(estimate: Mapping[str, float]) -> str:
    return f"{estimate['value']:.3f} [{estimate['low']:.3f}, {estimate['high']:.3f}]"
