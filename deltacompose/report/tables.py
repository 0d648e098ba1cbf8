"""The report's tables: what was run, what came out, what failed and what is missing, as rows of text."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any

import numpy as np

from deltacompose.analysis.matrix import TransferMatrix
from deltacompose.analysis.statistics import Estimate
from deltacompose.analysis.transfer.findings import Findings
from deltacompose.analysis.transfer.summaries import CategoryComparison
from deltacompose.analysis.units import baselines, ordered
from deltacompose.figures.style import counted, number
from deltacompose.report.interaction_tables import COSTS, cost_cells
from deltacompose.study.queries import Record


@dataclass(frozen=True)
class Table:
    """A head, rows as long as the head, and a sentence on how to read them; how to show it is the template's affair."""

    head: Sequence[str]
    rows: Sequence[Sequence[str]]
    note: str = ""


def tasks(findings: Findings) -> Table:
    """Every task with its category, metric and levels that are not transfer; of an untouched backbone there is one."""
    rows = {}
    for matrix in findings.matrices.values():
        for t, task in enumerate(matrix.targets):
            levels = (level(matrix.chance[t]), level(matrix.untouched[t]))
            rows[task] = (task, matrix.categories.get(task, ""), matrix.metric[t] or "unknown", *levels)
    categories = {task: row[1] for task, row in rows.items()}
    head = ("task", "category", "metric", "chance", "untouched backbone")
    return Table(head, [rows[task] for task in ordered(rows, categories)])


def compositions(findings: Findings) -> Table:
    """Every composition with what its training took, as means over the trainings."""
    head = ("composition", "trainings", "failed", "seeds", "steps", "parameters", "ratio", "seconds", "peak memory")
    texts = {**dict.fromkeys(findings.matrices), **dict.fromkeys(_composition(r) for r in findings.trainings)}
    note = "Parameters are trainable ones, ratio is per parameter of the backbone; seconds and memory are means."
    return Table(head, [_composition_row(findings, text) for text in texts], note)


def costs(findings: Findings) -> Table:
    """Cost of one delta of each composition, and its score."""
    head = ("composition", *(name for _, name, _, _ in COSTS))
    note = (
        "One delta alone in its process. Operations are of matrix products and attention; an example's are of one pass "
        "over its input. PSCP is the score less PEFT-Bench's penalties (arXiv 2511.21285) with the constants 5e8 "
        "parameters, 1e13 operations and 94 GB, exponents 1."
    )
    return Table(head, [(str(row["composition"]), *cost_cells(row)) for row in findings.costs], note)


def _composition_row(findings: Findings, text: str) -> tuple[str, ...]:
    done = [record for record in findings.trainings if _composition(record) == text]
    failed = [r for r in findings.failures if r["kind"] == "train" and _composition(r) == text]
    seeds = sorted({record["spec"]["seed"] for record in (*done, *failed)})
    steps = sorted({int(record["spec"]["recipe"]["steps"]) for record in done})
    return (
        text,
        str(len(done)),
        str(len(failed)),
        ", ".join(map(str, seeds)) or "unknown",
        ", ".join(map(str, steps)) or "unknown",
        _mean(done, "parameters", "{:,.0f}"),
        _mean(done, "ratio", "{:.2%}"),
        _mean(done, "seconds", "{:.1f}"),
        _mean(done, "peak_memory", "{:,.0f} MiB", 2**-20),
    )


def _composition(record: Record) -> str:
    return str(record["spec"]["composition"])


def _mean(records: Iterable[Record], name: str, form: str, scale: float = 1.0) -> str:
    values = [float(record["result"][name]) for record in records if record["result"].get(name) is not None]
    return form.format(scale * fmean(values)) if values else "unknown"


def categories(compared: Sequence[tuple[str, CategoryComparison]]) -> Table:
    """Transfer between tasks of one category against transfer between tasks of two."""
    head = (
        "composition", "value", "same category", "cross category", "difference", "pairs same / cross", "p", "least p",
    )  # fmt: skip
    rows = []
    for text, comparison in compared:
        signed = comparison.kind != "relative"
        ends = (estimate(comparison.same, signed), estimate(comparison.cross, signed), estimate(comparison.difference))
        test = (f"{comparison.test.p:.3g}", f"{comparison.test.least_p:.3g}") if comparison.test else ("none", "none")
        rows.append((text, comparison.kind, *ends, f"{comparison.same_pairs} / {comparison.cross_pairs}", *test))
    note = (
        "Means over off-diagonal cells known in every seed, with 95 % intervals; p is of a one-sided permutation of "
        "the categories over the tasks, least p the smallest that these categories could give."
    )
    return Table(head, rows, note)


def estimate(estimated: Estimate | None, signed: bool = True) -> str:
    """`+.25 [+.10, +.40]`: a value and its interval."""
    return (
        "none"
        if estimated is None
        else f"{number(estimated.value, signed=signed)} {interval(estimated.low, estimated.high, signed)}"
    )


def failures(findings: Findings) -> Table:
    """Every cell that was tried and failed, by name, with its error."""
    rows = [(named(r), str(r.get("error", "unknown")), str(r.get("message", ""))) for r in findings.failures]
    return Table(("cell", "error", "message"), sorted(rows))


def missing(findings: Findings) -> Table:
    """Every cell that a full study would have and that was neither finished nor tried, by name."""
    rows = [
        row for text, matrix in findings.matrices.items() for row in _missing(text, matrix, text in findings.transfer)
    ]
    rows += [(text, "", "", f"trained, never evaluated on the {findings.split} split") for text in findings.unread]
    return Table(("composition", "seed", "source", "targets that are missing"), rows)


def _missing(text: str, matrix: TransferMatrix, transfer: bool) -> Iterable[tuple[str, str, str, str]]:
    absent = np.isnan(matrix.values) & ~matrix.failed
    for k, seed in enumerate(matrix.seeds):
        for s, source in enumerate(matrix.sources):
            targets = [
                name for t, name in enumerate(matrix.targets) if absent[k, s, t] and (transfer or name == source)
            ]
            if targets:
                yield text, str(seed), source, ", ".join(targets)
        unknown = [name for t, name in enumerate(matrix.targets) if np.isnan(matrix.random[k, t])]
        if unknown and transfer:
            yield text, str(seed), "random delta", ", ".join(unknown)
    untouched = [name for t, name in enumerate(matrix.targets) if np.isnan(matrix.untouched[t])]
    if untouched:
        yield "none", "", "untouched backbone", ", ".join(untouched)


def named(record: Record) -> str:
    """A cell as a reader names it: `lora: a → b, seed 0 (test)`."""
    spec: Any = record["spec"]
    if record["kind"] == "evaluate":
        which = f"seed {spec['seed']} ({spec['split']})"
        return f"{spec['composition'] or 'backbone'}: {spec['source']} → {spec['target']}, {which}"
    where = ", ".join(f"{name} {spec[name]}" for name in ("task", "seed", "stage") if name in spec)
    return f"{record['kind']} {spec.get('composition', '')}: {where}"


def raw_scores(matrix: TransferMatrix) -> Table:
    """The mean raw score of every cell, with the levels of reference below."""
    means, rows = matrix.mean(), []
    for s, source in enumerate(matrix.sources):
        rows.append((source, *(_cell(matrix, s, t, float(means[s, t])) for t in range(len(matrix.targets)))))
    for name, levels in baselines(matrix, "score").items():
        rows.append((_REFERENCES.get(name, name), *(level(value) for value in levels)))
    return Table(("source", *matrix.targets), rows, f"Mean raw score over {counted(len(matrix.seeds), 'seed')}.")


_REFERENCES = {"random": "random delta", "untouched": "untouched backbone"}


def _cell(matrix: TransferMatrix, s: int, t: int, mean: float) -> str:
    if np.isnan(mean):
        return "failed" if matrix.failed[:, s, t].any() else "missing"
    return f"{mean:.3f}"


def interval(low: float, high: float, signed: bool = True) -> str:
    """`[−.02, +.11]`, or the words that there is none."""
    if np.isnan(low):
        return "no interval"
    return f"[{number(low, signed=signed)}, {number(high, signed=signed)}]"


def level(value: float) -> str:
    """A level of reference, or the word that it is unknown."""
    return "unknown" if np.isnan(value) else f"{value:.3f}"
