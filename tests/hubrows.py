"""Local copies of data sets of the hub, with the columns and types that the descriptions declare."""

from __future__ import annotations

from datasets import ClassLabel, Dataset, Features, Value
from deltacompose_plugins.tasks import task

CASES = {"t5_base_glue": "t5", "llama_transfer": "llama"}
"""The study files and the pico model that stands for the backbone of each."""


SINGLE = {"string": "string", "int": "int64", "float": "float64", "bool": "bool"}


def feature(kind):
    if isinstance(kind, tuple):
        return ClassLabel(names=list(kind))
    return [Value("string")] if kind == "list" else Value(SINGLE[kind])


def cell(row, name, kind, n, split):
    """A value for a column: unlike in every row and split, and one that the description knows for the target."""
    if name == row.columns.positions:
        return (
            [f"{name} {n}", "b", "c"][: row.options]
            if name == row.columns.candidates
            else ["A", "B", "C"][: row.options]
        )
    if isinstance(kind, tuple):
        known = [i for i in range(len(kind)) if str(i) not in row.data.drop.get(name, ()) and _known(row, name, i)]
        return known[n % len(known)]
    if kind == "list":
        return [f"{name} {i} of {n} {split}" for i in range(row.options or 2)]
    if name == row.columns.target and row.words:
        raw = list(row.values if isinstance(row.values, dict) else row.words)[n % 2]
        if row.columns.positions:
            raw = f"{name} {n}" if row.columns.positions == row.columns.candidates else "B"
        elif isinstance(row.values, tuple):
            raw = str(n % len(row.values))
        return int(raw) if kind == "int" else float(n % len(row.words)) if kind == "float" else raw
    return {"string": f"{name} {n} {split}", "int": n, "float": n % 5 + 0.25, "bool": False}[kind]


def _known(row, name, number):
    return name != row.columns.target or not isinstance(row.values, dict) or str(number) in row.values


def copy(name, split, size=120):
    """A table with the columns and types that a task's description declares."""
    row = task(name).read.row
    kinds, cells = {}, [{} for _ in range(size)]
    for column, kind in row.schema.items():
        outer, _, inner = column.partition(".")
        kinds |= {outer: kinds.get(outer, {}) | {inner: feature(kind)}} if inner else {column: feature(kind)}
        for n, one in enumerate(cells):
            value = cell(row, column, kind, n, split)
            if column == row.columns.positions == row.columns.candidates:
                value = [f"{row.columns.target} {n}", *value[1:]]
            one |= {outer: one.get(outer, {}) | {inner: value}} if inner else {column: value}
    return Dataset.from_list(cells, features=Features(kinds))
