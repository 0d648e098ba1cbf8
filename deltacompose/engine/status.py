"""Status of a run, read from its store by any process at any time."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import networkx as nx

from deltacompose.analysis.environments import differences
from deltacompose.store.reading import missing_of
from deltacompose.store.store import Problem, Store, alive, machine


def status(store: Store, plan: nx.DiGraph | None = None) -> dict[str, Any]:
    """Counts the cells of a plan by state; without a plan, those of the store and its latest run.

    Returns:
        `cells`, `done`, `failed`, `running`, `blocked`, `waiting`: numbers of cells. `eta`: seconds left according to
        the latest run, or None if no run is active. `runs`: `{"machine", "pid", "alive"}` of the runs that have not
        ended; `alive` is None for a run on another machine, which cannot be checked. `failures`, `blocked_by`: reasons
        by key. `damaged`: a sentence for each part of the store that cannot be read; damaged cells count as waiting.
        `environments`: a sentence for each difference in the libraries and processors that computed the cells.
        `evaluated`: the latest development score of running cells, `{"label", "step", "score"}` by key.
    """
    damaged: list[Problem] = []
    runs, running, last = _log(store, damaged)
    done = {record["key"] for record in store.records(damaged=damaged)}
    failures = {record["key"]: record for record in store.records(state="failed", damaged=damaged)}
    failed = set(failures)
    if plan is not None:
        done, failed = done & set(plan), failed & set(plan)
    failed -= done
    blocked = _blocked(plan, done, failed) if plan is not None else _logged_blocks(last, done)
    running = {key for key in running - done - failed if plan is None or key in plan}
    known = done | failed | running | set(blocked)
    cells = len(plan) if plan is not None else max(len(known), _cells(last))
    counts = {"cells": cells, "done": len(done), "failed": len(failed), "running": len(running)}
    counts |= {"blocked": len(blocked), "waiting": cells - len(known)}
    reasons = {key: f"{failures[key]['error']}: {failures[key]['message']}" for key in sorted(failed)}
    eta = last[-1]["eta"] if runs and last else None
    scores = {
        event["key"]: {name: event[name] for name in ("label", "step", "score")}
        for event in last
        if event["event"] == "evaluated" and event["key"] in running
    }
    facts = {"eta": eta, "runs": list(runs.values()), "evaluated": scores}
    facts["environments"] = differences(store.environments())
    facts["damaged"] = [str(problem) for problem in damaged]
    return counts | facts | {"failures": reasons, "blocked_by": blocked}


def _log(store: Store, damaged: list[Problem]) -> tuple[dict[str, dict[str, Any]], set[str], list[dict[str, Any]]]:
    """The runs that have not ended, the cells that they are running, and the events of the latest run."""
    runs: dict[str, dict[str, Any]] = {}
    running: dict[str, set[str]] = {}
    latest: list[dict[str, Any]] = []
    for event in store.events(damaged):
        if missing := missing_of(event):
            damaged.append(Problem("", "events.jsonl", f"has an event without {missing}"))
            continue
        run = event["run"]
        if event["event"] == "run":
            runs[run] = {"machine": event["machine"], "pid": event["pid"]}
            running[run], latest = set(), []
        if event["event"] == "start":
            running.setdefault(run, set()).update(event["keys"])
        if event["event"] in ("done", "failed", "again"):
            running.setdefault(run, set()).difference_update({event.get("key"), *event.get("keys", ())})
        if event["event"] in ("end", "stop"):
            runs.pop(run, None)
        latest.append(event)
    for run, facts in list(runs.items()):
        facts["alive"] = alive(facts["pid"]) if facts["machine"] == machine() else None
        if facts["alive"] is False:
            del runs[run]
    return runs, {key for run in runs for key in running[run]}, latest


def _blocked(plan: nx.DiGraph, done: set[str], failed: set[str]) -> dict[str, str]:
    """The cells of a plan that depend on a failed one, with the reason."""
    causes = {child: key for key in sorted(failed) for child in nx.descendants(plan, key)}
    return {child: f"cell {key} failed" for child, key in causes.items() if child not in done | failed}


def _logged_blocks(events: list[dict[str, Any]], done: set[str]) -> dict[str, str]:
    """The cells that the latest run has reported as blocked, with the reason."""
    failures = [event for event in events if event["event"] == "failed"]
    return {k: f"{e['label']} failed: {e['reason']}" for e in failures for k in e["blocked"] if k not in done}


def _cells(events: list[Mapping[str, Any]] | list[dict[str, Any]]) -> int:
    return int(events[-1]["counts"].get("cells", 0)) if events else 0
