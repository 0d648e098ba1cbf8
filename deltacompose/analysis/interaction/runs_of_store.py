"""A store's records as the rows of a tidy table, so that one reader serves our own runs and anybody else's."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from deltacompose.analysis.interaction.composition_text import canonical
from deltacompose.analysis.interaction.convergence import Training, history
from deltacompose.analysis.interaction.factorial import NONE
from deltacompose.analysis.interaction.runs import Columns
from deltacompose.errors import BadInput, unknown
from deltacompose.study.queries import Record, by_key, done, of_kind

COLUMNS = Columns(
    score="score",
    unit="task",
    grid="grid",
    seed="seed",
    dev="dev",
    composition="composition",
    train="train",
    chance="chance",
    trivial="trivial",
    cell="cell",
)
"""The columns of the rows; the cells' other settings (shots, template, backbone, …) are columns of their own names."""


def rows(records: Iterable[Record], shared: Sequence[str] = ()) -> list[dict[str, str]]:
    """One row per evaluation on the test split of a delta on its own task, and of the untouched backbone.

    The development score, the factor of the learning rates and the settings come from the training cell among the
    evaluation's parents. The untouched backbone knows no setting of training, so it stands in every group.

    Args:
        records: finished cells of every kind.
        shared: columns by which rows are grouped or filtered.

    Raises:
        BadInput: no such evaluation, or an unknown column.
    """
    finished = by_key(done(records))
    wanted = [record for record in finished.values() if _own_task(record)]
    tests = sorted((record for record in wanted if record["spec"]["split"] == "test"), key=_simplest_first)
    if not tests:
        splits = sorted({str(record["spec"]["split"]) for record in wanted})
        raise BadInput(
            f"no evaluation of a delta on its own task's test split; splits found: {', '.join(splits) or 'none'}"
        )
    table = [_row(record, finished) for record in tests]
    names = list(dict.fromkeys([*COLUMNS.named().values(), *(name for row in table for name in row)]))
    for name in shared:
        if name not in names:
            raise unknown("column", name, names)
    return _in_every_group([{name: row.get(name, "") for name in names} for row in table], shared)


def trainings(records: Iterable[Record], size: Callable[[str], int | None]) -> dict[str, Training]:
    """How every training went, by its cell's key.

    A cell of kind `efficiency` measures one delta alone in its process; where one exists for a training's composition
    and task, its measures stand for that training's, whose process a whole bank may have shared.

    Args:
        records: finished cells of every kind.
        size: the bytes that the delta of a training cell takes on disk.
    """
    kept = of_kind(records, "train", "efficiency")
    alone = {_subject(record): _alone(record["result"]) for record in kept if record["kind"] == "efficiency"}
    result = {str(record["key"]): (record, _training(record, size)) for record in kept if record["kind"] == "train"}
    return {
        key: dataclasses.replace(training, **alone.get(_subject(record), {}))
        for key, (record, training) in result.items()
    }


def _own_task(record: Record) -> bool:
    spec = record["spec"]
    if record["kind"] != "evaluate" or spec["source"] not in ("untouched", spec["target"]) or spec.get("start"):
        return False
    return len(record.get("parents", ())) < 2  # with several it was chosen from a grid, whose values are stored with it


def _simplest_first(record: Record) -> tuple[int, int, str, str, str]:
    spec = record["spec"]
    text = str(spec["composition"] or "")
    return text.count(">>"), text.count("+"), text, str(spec["target"]), str(spec["seed"])


def _row(record: Record, finished: Mapping[str, Record]) -> dict[str, str]:
    spec, result = record["spec"], record["result"]
    trained = [
        finished[key] for key in record.get("parents", ()) if key in finished and finished[key]["kind"] == "train"
    ]
    training = trained[-1] if trained else None
    known = training["result"] if training else {}
    return {
        **({name: _text(value) for name, value in training["spec"].items()} if training else {}),
        **{name: _text(value) for name, value in spec.items() if name not in ("source", "target", "split")},
        "composition": spec["composition"] or NONE,
        "task": str(spec["target"]),
        "grid": _text(training["spec"].get("grid") if training else None),
        "dev": _text(known.get("dev")),
        "train": _text(known.get("train")),
        "score": _text(result["score"]),
        "chance": _text(result.get("chance")),
        "trivial": "1" if result.get("trivial") else "0",
        "cell": str(training["key"]) if training else "",
    }


def _text(value: object) -> str:
    """A setting as one text; None is empty, lists and mappings are JSON."""
    if value is None:
        return ""
    return value if isinstance(value, str) else json.dumps(value, sort_keys=True)


def _in_every_group(table: list[dict[str, str]], shared: Sequence[str]) -> list[dict[str, str]]:
    """Rows of the untouched backbone, once for each setting of the shared columns that they leave empty."""
    settings = list(dict.fromkeys(tuple(row[name] for name in shared) for row in table if row["composition"] != NONE))
    result = []
    for row in table:
        fitting = [dict(zip(shared, values, strict=True)) for values in settings if row["composition"] == NONE]
        copies = [row | each for each in fitting if all(row[name] in ("", value) for name, value in each.items())]
        result += copies or [row]
    return result


def _subject(record: Record) -> tuple[str, str]:
    return canonical(str(record["spec"]["composition"]), ()), str(record["spec"]["task"])


def _alone(result: Mapping[str, Any]) -> dict[str, Any]:
    measures = ("parameters", "ratio", "peak_memory", "seconds_per_step", "checkpoint")
    return {"alone": True, **{name: result[name] for name in measures if name in result}}


def _training(record: Record, size: Callable[[str], int | None]) -> Training:
    result, steps = record["result"], record["spec"]["recipe"]["steps"]
    seconds = result.get("seconds")
    return Training(
        history=history(result.get("history", ())),
        parameters=result.get("parameters"),
        ratio=result.get("ratio"),
        peak_memory=result.get("peak_memory"),
        seconds_per_step=seconds / steps if seconds is not None and steps else None,
        checkpoint=size(str(record["key"])),
    )
