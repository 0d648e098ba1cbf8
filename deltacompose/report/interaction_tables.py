"""The factorial in words and Markdown tables: printed by the command and stored with the figures."""

from __future__ import annotations

from collections.abc import Sequence

from deltacompose.study.queries import Record

MEGA = 1e6


def summary(record: Record, title: str = "") -> str:
    """One group as Markdown: means, each method's Shapley value and conditional marginals, terms, and every caveat.

    Unknown values, which are most in a factorial of which little was run, have no row; the caveats list them.
    """
    parts = [
        f"## {title or 'all runs'}",
        _means(record),
        _methods(record),
        _terms(record),
        *(orders_table(each) for each in record["orders"]),
        *([efficiency_table(record)] if record.get("efficiency") else []),
        *([costs_table(record["costs"])] if record.get("costs") else []),
        _caveats(record),
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def efficiency_table(record: Record) -> str:
    """Cost and speed of convergence of each composition over its chosen runs.

    `alone` is the number of trainings measured in a process of their own; where it is 0, memory and time are those of a
    process that may have trained several deltas at once.
    """
    header = ["composition", "parameters", "ratio", "peak memory MB", "s / step", "checkpoint MB", "runs", "alone"]
    header += ["% of final score", "steps to it", "seconds to it", "never"]
    rows = []
    for name, measured in record["efficiency"].items():
        speeds = list(record["convergence"][name].values())
        memory, checkpoint = (_divided(measured[key], MEGA) for key in ("peak_memory", "checkpoint"))
        measures = [_number(measured["parameters"], 0), _number(measured["ratio"], 5), _number(memory, 1)]
        measures += [
            _number(measured["seconds_per_step"], 4),
            _number(checkpoint, 3),
            str(measured["runs"]),
            str(measured["alone"]),
        ]
        reached = [_number(_mean([speed[key] for speed in speeds]), 1) for key in ("steps", "seconds")]
        never = f"{sum(speed['never'] for speed in speeds)} of {sum(speed['runs'] for speed in speeds)}"
        rows.append([name, *measures, _number(speeds[0]["percent"], 0), *reached, never])
    shared = [name for name, measured in record["efficiency"].items() if not measured["alone"]]
    note = "Where `alone` is 0, memory and seconds are of workers that did other work too; do not compare them."
    return _table(header, rows) + (f"\n\n{note}" if shared else "")


COSTS = (
    ("parameters", "parameters", 1.0, 0),
    ("training_operations", "GFLOP / step", 1e9, 2),
    ("inference_operations", "GFLOP / example", 1e9, 3),
    ("extra_operations", "of these the delta's", 1e9, 4),
    ("latency_1", "ms / example", 1e-3, 2),
    ("latency_16", "at batch 16", 1e-3, 2),
    ("merged_latency_1", "merged", 1e-3, 2),
    ("merged_latency_16", "merged, at batch 16", 1e-3, 2),
    ("peak_memory", "peak memory MB", 1e6, 1),
    ("checkpoint", "checkpoint MB", 1e6, 3),
    ("score", "score", 1.0, 1),
    ("pscp", "PSCP", 1.0, 1),
)
"""Measures of cost: name in a row of `costs`, head of the column, unit, digits."""


def cost_cells(row: Record) -> list[str]:
    """The measures of one composition as texts, in the order of `COSTS`; empty where one was not measured."""
    return ["" if row.get(name) is None else f"{row[name] / unit:,.{digits}f}" for name, _, unit, digits in COSTS]


def costs_table(rows: Sequence[Record]) -> str:
    """Cost of one delta of each composition in training and in use, its score, and the score less its penalties.

    Operations are those of matrix products and attention (torch's counter); an example's are of one pass over its
    input. Latency is the median time of an answer. PSCP is that of PEFT-Bench, with its constants.
    """
    header = ["composition", *(head for _, head, _, _ in COSTS)]
    note = (
        "PSCP = score · (1 + parameters / 5e8)⁻¹ · (1 + operations of the delta / 1e13)⁻¹ · (1 + peak memory / 94 "
        "GB)⁻¹ (Belanec et al. 2025, arXiv 2511.21285). Merged latency is empty where a delta cannot be merged."
    )
    return _table(header, [[str(row["composition"]), *cost_cells(row)] for row in rows]) + f"\n\n{note}"


def orders_table(record: Record) -> str:
    """Every order with its final score and the gain of each stage, the tests, and which order is best where."""
    stages = range(len(record["stages"]))
    header = ["order", "final", *(f"gain of stage {stage + 1}" for stage in stages)]
    rows = [
        [text, _number(order["scores"][-1]), *map(_with_interval, order["gains"], order["intervals"])]
        for text, order in record["orders"].items()
    ]
    sentences = [
        f"Orders of {', '.join(record['stages'])}: {len(record['units'])} units, {len(record['seeds'])} seeds."
    ]
    for blocks, tests in record["tests"].items():
        sentences.append(f"Test {blocks}: {_tests(tests)}.")
    sentences.append(
        "Best order: "
        + "; ".join(f"{unit}: {' = '.join(best) or 'unknown'}" for unit, best in record["best"].items())
        + "."
    )
    missing = [*record["missing"]["orders"], *(" ".join(run.values()) for run in record["missing"]["runs"])]
    sentences += [f"Missing: {'; '.join(missing)}."] if missing else []
    return _table(header, rows) + "\n\n" + " ".join(sentences)


def _means(record: Record) -> str:
    partial = record["missing"]["partial"]
    intervals, spread = record["intervals"]["means"], record["spread"]
    rows = []
    for name, mean in record["means"].items():
        cell_text = _with_interval(mean, intervals[name])
        if name in partial:
            incomplete = partial[name]
            units = f"{len(incomplete['units'])} of {len(record['units'])} units"
            cell_text = f"missing ({_number(incomplete['mean'])} over {units})"
        if mean is not None or name in partial:
            rows.append([name, cell_text, _number(spread[name])])
    return _table(["combination", "mean [interval]", "spread over seeds"], rows)


def _methods(record: Record) -> str:
    rows = []
    for method, each in record["marginals"].items():
        reach = record["intervals"]["marginals"][method]
        whole = {"Shapley": (record["shapley"][method], record["intervals"]["shapley"][method])}
        whole |= {f"on {on}": (value, reach[on]) for on, value in each.items()}
        rows += [
            [method, what, _with_interval(*interval)] for what, interval in whole.items() if interval[0] is not None
        ]
    return _table(["method", "marginal", "points [interval]"], rows)


def _terms(record: Record) -> str:
    rows = [
        [name, _with_interval(effect, record["intervals"]["effects"][name]), _number(record["mobius"][name])]
        for name, effect in record["effects"].items()
        if effect is not None or record["mobius"][name] is not None
    ]
    return _table(["methods", "±1 effect [interval]", "Möbius term"], rows)


def _caveats(record: Record) -> str:
    interval = record["intervals"]
    sentences = [f"intervals: {interval['level']:.0%}, {interval['draws']} draws; resampled: {interval['resampled']}"]
    if record["optimism"] is not None:
        sentences.append(
            f"choosing on the test score flatters by {_number(record['optimism'])} points; chosen on {record['select']}"
        )
    sentences += record["notes"]
    for cell in record["missing"]["cells"]:
        sentences.append(f"missing: {cell['combination']} on {cell['unit']}")
    chosen = [each for each in record["trivial"] if each["chosen"]]
    for each in chosen:
        where = f"{each['combination']} on {each['unit']}" if each["unit"] else each["combination"]
        sentences.append(f"trivial solution: {where} scores {_number(each['score'])} ({each['because']})")
    others = len(record["trivial"]) - len(chosen)
    sentences += [f"{others} more trivial solutions, at grid values that were not chosen"] if others else []
    return "\n".join(f"- {sentence}" for sentence in sentences)


def _tests(tests: Record | None) -> str:
    p_values = {name: each["p"] for name, each in (tests or {}).items() if each}
    return ", ".join(f"{name} p = {p:.4f}" for name, p in p_values.items()) or "not possible with these runs"


def _table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [header, ["---"] * len(header), *rows] if rows else []
    return "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines)


def _with_interval(value: float | None, reach: Sequence[float] | None) -> str:
    return _number(value) + (f" [{_number(reach[0])}, {_number(reach[1])}]" if reach is not None else "")


def _number(value: float | None, digits: int = 2) -> str:
    return "unknown" if value is None else f"{value:.{digits}f}"


def _divided(value: float | None, by: float) -> float | None:
    return None if value is None else value / by


def _mean(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if known else None
