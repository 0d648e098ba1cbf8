"""A store watched from another process: what a run has done so far, how fast, and with which scores.

Only files are read, and of a growing store only what is new since the last look.
"""

from __future__ import annotations

import datetime
import time
from collections import Counter, defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from statistics import fmean
from typing import Any

from deltacompose.store.reading import events_after, missing_of
from deltacompose.store.store import Problem, Store, alive, machine

WINDOW = 300.0
"""Seconds over which the rate of a run is taken."""


@dataclass(frozen=True)
class Snapshot:
    """The state of a store at one moment.

    Attributes:
        counts: `cells`, `done`, `running`, `waiting`, `failed`, `blocked`; `cells` are those of the latest run.
        kinds: for each kind of cell how many are done, and their mean seconds.
        rate: cells finished per minute, over the last five minutes of the latest run; None before two are finished.
        eta: seconds left according to the latest run; None if no run is active.
        active: whether a run has begun and not ended; a run on another machine counts as active until it says that it
            has ended.
        elapsed: seconds that the latest run has taken.
        scores: for each composition a row of `composition`, `tasks` (how many were trained), `seeds`, `dev` (mean
            development score of its trainings) and, by split, the mean score on each task of its own deltas.
        running: the labels of the cells under way, with step and development score where known.
        failures: for each failed cell its label and the reason.
        damaged: parts of the store that cannot be read.
    """

    counts: Mapping[str, int]
    kinds: tuple[Mapping[str, Any], ...]
    rate: float | None
    eta: float | None
    active: bool
    elapsed: float
    scores: tuple[Mapping[str, Any], ...]
    running: tuple[Mapping[str, Any], ...]
    failures: tuple[Mapping[str, str], ...]
    damaged: tuple[str, ...]


class Watch:
    """Looks at a store again and again. It has state because what was read once is not read again."""

    def __init__(self, store: Store) -> None:
        self.store = store
        self._records: dict[str, Mapping[str, Any]] = {}
        self._failures: dict[str, Mapping[str, Any]] = {}
        self._offset = 0
        self._runs: dict[str, dict[str, Any]] = {}
        self._latest = ""
        self._labels: dict[str, str] = {}
        self._damaged: list[Problem] = []

    def look(self) -> Snapshot:
        """The present state."""
        self._damaged = []
        self._read_cells()
        self._read_events()
        run = self._runs.get(self._latest, {})
        active = _is_active(run)
        running = sorted(run["running"] - self._records.keys() - self._failures.keys()) if active else []
        return Snapshot(
            counts=self._counts(run.get("counts", {}), len(running)),
            kinds=tuple(self._kinds()),
            rate=_rate(run.get("finished", [])),
            eta=run.get("eta") if active else None,
            active=active,
            elapsed=run.get("elapsed", 0.0),
            scores=tuple(_scores(self._records.values())),
            running=tuple(run["scores"].get(key, {"label": self._label(key)}) for key in running),
            failures=tuple(
                {"label": self._label(key), "reason": f"{failure['error']}: {failure['message']}"}
                for key, failure in sorted(self._failures.items())
            ),
            damaged=tuple(map(str, self._damaged)),
        )

    def _counts(self, logged: Mapping[str, int], running: int) -> dict[str, int]:
        """The number of cells in each state: finished ones as they are stored, the others as the latest run says."""
        done, failed = len(self._records), len(self._failures)
        cells, blocked = max(logged.get("cells", 0), done + failed), logged.get("blocked", 0)
        waiting = max(0, cells - done - failed - blocked - running)
        states = {"done": done, "running": running, "waiting": waiting, "failed": failed, "blocked": blocked}
        return {"cells": cells, **states}

    def _label(self, key: str) -> str:
        return self._labels.get(key, key[:12])

    def _read_cells(self) -> None:
        for key in self.store.keys("done"):
            if key not in self._records and (record := self.store.intact(key)) is not None:
                self._records[key] = _brief(record)
        failed = {}
        for record in self.store.records(state="failed", damaged=self._damaged):
            failed[record["key"]] = record
        self._failures = {key: record for key, record in failed.items() if key not in self._records}

    def _read_events(self) -> None:
        events, self._offset = events_after(self.store.root / "events.jsonl", self._offset, self._damaged)
        for event in events:
            if missing_of(event):
                continue
            run = self._runs.setdefault(event["run"], {"running": set(), "scores": {}, "finished": [], "ended": False})
            self._take(run, event)

    def _take(self, run: dict[str, Any], event: Mapping[str, Any]) -> None:
        run |= {name: event[name] for name in ("counts", "eta", "elapsed") if name in event}
        self._labels |= dict(zip(event.get("keys", ()), event.get("labels", ())))
        if "key" in event and "label" in event:
            self._labels[event["key"]] = event["label"]
        match event["event"]:
            case "run":
                run |= {"machine": event["machine"], "pid": event["pid"]}
                self._latest = event["run"]
            case "start":
                run["running"] |= set(event["keys"])
            case "evaluated":
                run["scores"][event["key"]] = {name: event[name] for name in ("label", "step", "score")}
            case "done" | "failed" | "again":
                run["running"] -= {event.get("key"), *event.get("keys", ())}
                if event["event"] == "done" and "time" in event:
                    run["finished"].append(datetime.datetime.fromisoformat(event["time"]).timestamp())
            case "end" | "stop":
                run["ended"] = True

    def _kinds(self) -> list[dict[str, Any]]:
        seconds: dict[str, list[float]] = defaultdict(list)
        for record in self._records.values():
            seconds[record["kind"]].append(record["seconds"])
        failed = Counter(record["kind"] for record in self._failures.values())
        counts = {kind: {"done": len(seconds[kind]), "failed": failed[kind]} for kind in sorted({*seconds, *failed})}
        return [
            {"kind": kind, **own, "seconds": fmean(seconds[kind]) if seconds[kind] else None}
            for kind, own in counts.items()
        ]


def _is_active(run: Mapping[str, Any]) -> bool:
    if not run or run["ended"]:
        return False
    return bool(run.get("machine") != machine() or alive(run["pid"]))


def _brief(record: Mapping[str, Any]) -> dict[str, Any]:
    """Entries of a record that a snapshot needs: their histories and lists of files would fill the memory."""
    spec = {name: record["spec"].get(name) for name in ("composition", "task", "source", "target", "seed", "split")}
    result = {name: record["result"].get(name) for name in ("dev", "score")}
    return {"kind": record["kind"], "seconds": record["seconds"], "spec": spec, "result": result}


def _rate(finished: list[float]) -> float | None:
    """Cells per minute over the last `WINDOW` seconds, from the times at which cells were finished."""
    now = time.time()
    recent = [moment for moment in finished if moment > now - WINDOW]
    if len(recent) < 2:
        return None
    return 60 * len(recent) / max(1.0, now - recent[0])


def _scores(records: Any) -> list[dict[str, Any]]:
    """A row for each composition, and for the untouched backbone first: mean scores of what is done so far."""
    rows: dict[str, dict[str, list[Any]]] = {}
    for record in records:
        spec, result = record["spec"], record["result"]
        trained = record["kind"] == "train"
        evaluated = record["kind"] == "evaluate" and spec["source"] in (spec["target"], "untouched")
        score = result["dev" if trained else "score"]
        if (trained or evaluated) and isinstance(score, int | float):
            row = rows.setdefault(spec["composition"] or str(spec["source"]), defaultdict(list))
            row["dev" if trained else str(spec["split"])].append(float(score))
            row["tasks"].append(spec["task"] or spec["target"])
            row["seeds"].append(spec["seed"])
    return [
        {"composition": name, "tasks": len(set(row.pop("tasks"))), "seeds": len(set(row.pop("seeds")))}
        | {what: fmean(values) for what, values in sorted(row.items())}
        for name, row in sorted(rows.items(), key=lambda item: (item[0] != "untouched", item[0]))
    ]
