"""The six readouts of the subspaces that a study learned and tuned within, from its records."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterable, Mapping
from typing import Any, Literal

from deltacompose.analysis.subspace.readouts import Readout, readouts
from deltacompose.errors import BadInput
from deltacompose.study.queries import Record, done

_SETTINGS = ("composition", "way", "dimensions", "seen")


def readouts_of(records: Iterable[Record], categories: Mapping[str, str], split: str) -> list[dict[str, Any]]:
    """For each subspace that a study learned (composition, way, dimensions, seen tasks) the six readouts.

    Scores are relative to those of each task's own delta of the same seed, read on the same split; intervals are over
    seeds, each with a subspace of its own.

    Args:
        records: finished cells; those of kinds `subspace`, `reconstruct`, `tune` and `evaluate` are read.
        categories: of each task.
        split: whose evaluations are read.
    """
    finished = done(records)
    spaces = {record["key"]: record for record in finished if record["kind"] == "subspace"}
    own = {
        (r["spec"]["composition"], r["spec"]["target"], r["spec"]["seed"]): r["result"]
        for r in finished
        if r["kind"] == "evaluate" and r["spec"]["source"] == r["spec"]["target"] and r["spec"]["split"] == split
        and r["spec"].get("grid") is None and not r["spec"].get("start")
    }  # fmt: skip
    groups: dict[str, list[Readout]] = defaultdict(list)
    seeds: dict[str, set[int]] = defaultdict(set)
    for record in finished:
        if record["kind"] in ("reconstruct", "tune") and record["spec"]["split"] == split:
            space = spaces[next(parent for parent in record["parents"] if parent in spaces)]["spec"]
            about = json.dumps({name: space[name] for name in _SETTINGS})
            groups[about].append(_outcome(record, space["composition"], own))
            seeds[about].add(int(record["spec"]["seed"]))
    return [
        {
            **json.loads(about),
            "seeds": sorted(seeds[about]),
            "readouts": readouts(outcomes, json.loads(about)["seen"], categories),
        }
        for about, outcomes in sorted(groups.items())
    ]


def _outcome(record: Record, composition: str, own: Mapping[tuple[str, str, int], Mapping[str, Any]]) -> Readout:
    spec, result = record["spec"], record["result"]
    at = (composition, spec["target"], spec["seed"])
    if at not in own:
        raise BadInput(f"{composition} on {at[1]} with seed {at[2]} has no evaluation to compare the subspace with")
    way: Literal["reconstructed", "tuned"] = "reconstructed" if record["kind"] == "reconstruct" else "tuned"
    score, chance = float(result["score"]), float(result["chance"])
    return Readout(spec["target"], way, spec["examples"], score, float(own[at]["score"]), chance, int(spec["seed"]))
