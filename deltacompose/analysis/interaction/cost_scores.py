"""Costs next to scores: what a delta takes in training and in use, and the penalised score of PEFT-Bench.

The PEFT soft cost penalty multiplies a score by one factor for each cost (Belanec et al. 2025, arXiv 2511.21285):

    PSCP = P · (1 + M_p / C_p)^(−β_p) · (1 + M_f / C_f)^(−β_f) · (1 + M_m / C_m)^(−β_m)

with M_p trained parameters, M_f operations of one forward pass beyond those of the backbone, M_m peak memory of
training.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from statistics import fmean
from typing import Any

from deltacompose.errors import BadInput
from deltacompose.study.queries import Record, done

MEASURES = (
    "parameters",
    "ratio",
    "seconds_per_step",
    "training_operations",
    "inference_operations",
    "extra_operations",
    "peak_memory",
    "checkpoint",
    "latency_1",
    "latency_16",
    "merged_latency_1",
    "merged_latency_16",
)
"""Measurements of a cell of kind `efficiency`; cells of earlier versions lack some."""


@dataclass(frozen=True)
class Constants:
    """The costs at which a factor of PSCP is 2^(−β), and the exponents.

    The defaults are those of PEFT-Bench's code: 5·10⁸ parameters; 10¹³ operations, at which the backbone itself would
    serve twice; 94 GB, the memory of an H100 NVL. Its code also prints exponents of ½ and 2.
    """

    parameters: float = 5e8
    operations: float = 1e13
    memory: float = 94e9
    beta_parameters: float = 1.0
    beta_operations: float = 1.0
    beta_memory: float = 1.0

    def __post_init__(self) -> None:
        if min(self.parameters, self.operations, self.memory) <= 0:
            raise BadInput("the constants of PSCP are costs at which a score is halved; they must be positive")


def pscp(
    score: float, parameters: float, operations: float, memory: float, constants: Constants | None = None
) -> float:
    """The score that is left after the penalties.

    Args:
        score: P, in any unit.
        operations: of one forward pass, beyond those of the backbone.
        memory: bytes.

    >>> round(pscp(80.1, 14_680_064, 0.0, 27.75e9), 1)  # LoRA on Llama-3-8B in PEFT-Bench
    60.1
    """
    c = constants or Constants()
    factors = (
        (parameters, c.parameters, c.beta_parameters),
        (operations, c.operations, c.beta_operations),
        (memory, c.memory, c.beta_memory),
    )
    for cost, scale, beta in factors:
        score *= (1 + max(0.0, cost) / scale) ** -beta
    return score


def costs(records: Iterable[Record], constants: Constants | None = None) -> list[dict[str, Any]]:
    """A row for each composition whose cost was measured: the mean of each measure over tasks, the score, PSCP.

    Args:
        records: of a store; cells of kind `efficiency` and evaluations of deltas on their own task are read.

    Returns:
        Rows with `composition`, the `MEASURES`, `tasks` (how many were measured), `score` (the mean over tasks and
        seeds, × 100) and `pscp`; None where something was not measured.
    """
    kept = done(records, "efficiency", "evaluate")
    scores = _scores(kept)
    rows = []
    measured: dict[str, list[Mapping[str, Any]]] = {}
    for record in kept:
        if record["kind"] == "efficiency":
            measured.setdefault(str(record["spec"]["composition"]), []).append(record["result"])
    for composition, results in sorted(measured.items(), key=lambda item: (len(item[0]), item[0])):
        row: dict[str, Any] = {"composition": composition}
        row |= {name: _mean(result.get(name) for result in results) for name in MEASURES}
        row |= {"tasks": len(results), "score": _mean(scores.get(composition, ())), "pscp": None}
        costly = (row["parameters"], row["extra_operations"], row["peak_memory"])
        if row["score"] is not None and None not in costly:
            row["pscp"] = pscp(row["score"], *costly, constants)
        rows.append(row)
    return rows


def _scores(records: Iterable[Record]) -> dict[str, list[float]]:
    """Scores × 100 of deltas on their own tasks, by composition; values of a grid that were not chosen are left out."""
    scores: dict[str, list[float]] = {}
    for record in records:
        spec = record["spec"]
        own = record["kind"] == "evaluate" and spec["source"] == spec["target"] and not spec.get("start")
        if own and spec.get("grid") is None:
            scores.setdefault(str(spec["composition"]), []).append(100 * float(record["result"]["score"]))
    return scores


def _mean(values: Iterable[float | None]) -> float | None:
    known = [float(value) for value in values if value is not None]
    return fmean(known) if known else None
