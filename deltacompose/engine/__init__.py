"""Carrying out a plan of cells: in this process, in several, on a cluster, and losing nothing.

The driver owns the plan and gives ready cells to an executor, whose whole contract is `submit(function, spec)`.
Dependencies travel as keys of the store, never as values, and after each call the driver looks into the store.

`driver` runs a plan; `schedule` groups cells into banks and chooses ready groups; `executor` is an engine's contract;
`claims` lets drivers share a store; `progress`, `status` and `watching` report, `loggers` sends it elsewhere; `eta`
estimates; `torchrun` starts processes.
"""

from deltacompose.engine.claims import resting
from deltacompose.engine.driver import Outcome, Work, run_plan
from deltacompose.engine.executor import Executor, RemoteError, UnfitWorker, WorkerDied, answer, call, launched, value
from deltacompose.engine.progress import duration, shown
from deltacompose.engine.schedule import by_bank, label
from deltacompose.engine.status import status

__all__ = [
    "Executor",
    "Outcome",
    "RemoteError",
    "UnfitWorker",
    "Work",
    "WorkerDied",
    "answer",
    "by_bank",
    "call",
    "duration",
    "label",
    "launched",
    "resting",
    "run_plan",
    "shown",
    "status",
    "value",
]
