"""The numbers of an event, as loggers that draw curves want them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

Point = tuple[str, float, int]
"""Name of a curve, value, step."""


def points(event: Mapping[str, Any], record: Mapping[str, Any] | None) -> Iterator[Point]:
    """The points that an event adds to curves.

    A development score under way is a point of `dev/<label>`. A finished training gives its whole history, of
    `dev/<label>` and `loss/<label>`; a finished evaluation `score/<label>`, at step 0. `seconds/<label>` is the time
    of a cell, `progress/...` the state of the run, at the number of settled cells.
    """
    label = event.get("label", "")
    if event["event"] == "evaluated" and event["score"] is not None:
        yield f"dev/{label}", float(event["score"]), int(event["step"])
    if event["event"] == "done":
        yield f"seconds/{label}", float(event["seconds"]), 0
        result = {} if record is None else record["result"]
        for entry in result.get("history", ()):
            for name, key in (("dev", "score"), ("loss", "loss")):
                if isinstance(entry.get(key), int | float):
                    yield f"{name}/{label}", float(entry[key]), int(entry["step"])
        if isinstance(result.get("score"), int | float):
            yield f"score/{label}", float(result["score"]), 0
    if event["event"] in ("done", "failed"):
        counts = event["counts"]
        settled = sum(counts[state] for state in ("stored", "done", "failed", "blocked"))
        yield "progress/settled", settled / max(1, counts["cells"]), settled
        yield "progress/failed", float(counts["failed"]), settled
