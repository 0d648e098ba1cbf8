"""How far a run's predictions of the time left were from what it then took, read from the store's log of events.

    deltacompose run studies/quickstart.yaml
    python studies/speed/eta_error.py results/quickstart

Of the latest run that came to its end: when a quarter, half and three quarters of its cells were done, the seconds that
it predicted, those that it took, and the error of the prediction as a fraction of the latter. One JSON object.
"""

import argparse
import json
import math
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from deltacompose.errors import BadInput
from deltacompose.store import open_store

MOMENTS = (0.25, 0.5, 0.75)
"""Parts of a run's cells that are done when its prediction is looked at."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("store", type=Path)
    given = parser.parse_args()
    try:
        found = errors(open_store(given.store, create=False).events())
    except BadInput as error:
        parser.error(str(error))
    print(json.dumps({"store": str(given.store)} | found))


def errors(events: Iterable[Mapping[str, Any]]) -> dict[str, Any]:
    """The number of cells, the seconds of the whole run, and a row for each moment."""
    runs: dict[str, list[Mapping[str, Any]]] = {}
    for event in events:
        runs.setdefault(event["run"], []).append(event)
    ended = [
        run
        for run in runs.values()
        if run[-1]["event"] == "end" and any(e["event"] == "done" and e["eta"] is not None for e in run)
    ]
    if not ended:
        raise BadInput("the log has no run that computed cells and came to its end; let one finish first")
    whole = ended[-1][-1]["elapsed"]
    done = [event for event in ended[-1] if event["event"] == "done" and event["eta"] is not None]
    looks = {part: done[math.ceil(part * len(done)) - 1] for part in MOMENTS}
    rows = [_row(part, event["eta"], whole - event["elapsed"]) for part, event in looks.items()]
    return {"cells": len(done), "seconds": round(whole, 1), "predictions": rows}


def _row(part: float, predicted: float, true: float) -> dict[str, float]:
    row = {"cells_done": part, "predicted": round(predicted, 1), "true": round(true, 1)}
    return row | {"error": round(predicted / true - 1, 3)}


if __name__ == "__main__":
    main()
