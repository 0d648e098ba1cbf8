"""Runs one input after another in a process of its own, and counts what became of them.

Each input runs in a fork of this process, which has imported everything: that takes milliseconds. The fork has ten
seconds of computing and reports how it ended, how long it took and how much memory it had.
"""

from __future__ import annotations

import json
import os
import resource
import shutil
import signal
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from deltacompose.errors import LONGEST, BadInput

SECONDS = 10
"""An input that computes longer hangs: seconds of its process, whatever else the machine does."""
WAITING = 60
"""Seconds after which a process that computes nothing, as one that waits for a pipe, is ended."""
MEMORY = 1024
"""MB that a process which refuses an input may have."""

Action = Callable[[Path], object]


@dataclass(frozen=True)
class Case:
    """One input.

    Attributes:
        kind: the row of the table that it is counted in.
        name: what it is.
        action: makes the input in an empty folder and gives it to the interface, in Python or by the command.
        expected: `refused` with one sentence; `accepted`; or `listed`, where a command shows what is readable and says
            on stderr what is damaged; `status 1`, where `verify` finds it.
    """

    kind: str
    name: str
    action: Action
    expected: str = "refused"


@dataclass(frozen=True)
class Ending:
    """How a case ended: `refused`, `accepted`, `listed`, `traceback`, `hang`, `killed` or `lengthy` (an error that is
    more than one bounded sentence)."""

    outcome: str
    message: str
    seconds: float
    memory: float


def command(*words: object) -> object:
    """Runs the `deltacompose` command; gives what it printed to stderr."""
    from deltacompose.cli import main

    sys.argv = ["deltacompose", *map(str, words)]
    main()
    return None


def run(case: Case) -> Ending:
    """Runs a case in a fork of this process."""
    folder = Path(tempfile.mkdtemp(prefix="hostile-"))
    results = folder / "results"
    results.mkdir()
    pid = os.fork()
    if pid == 0:
        _child(case, folder, results)
    status, usage = _waited(pid)
    outcome, message = _reported(results, status)
    shutil.rmtree(folder, ignore_errors=True)
    return Ending(outcome, message, usage.ru_utime + usage.ru_stime, usage.ru_maxrss / 1024)


def _waited(pid: int) -> tuple[int, resource.struct_rusage]:
    deadline = time.monotonic() + WAITING
    while time.monotonic() < deadline:
        done, status, usage = os.wait4(pid, os.WNOHANG)
        if done:
            return status, usage
        time.sleep(0.005)
    os.kill(pid, signal.SIGKILL)
    _, status, usage = os.wait4(pid, 0)
    return status, usage


def _child(case: Case, folder: Path, results: Path) -> None:
    """Runs the case and writes how it ended; never returns."""
    errors = os.open(results / "stderr", os.O_CREAT | os.O_WRONLY, 0o600)
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    os.dup2(errors, 2)
    work = folder / "work"
    work.mkdir()
    os.chdir(work)
    resource.setrlimit(resource.RLIMIT_CPU, (SECONDS, SECONDS))
    outcome, message = "accepted", ""
    try:
        case.action(work)
    except BadInput as error:
        outcome, message = "refused", str(error)
    except SystemExit as error:
        outcome = "refused" if error.code == 2 else "accepted" if error.code in (0, None) else f"status {error.code}"
    except BaseException:
        outcome, message = "traceback", traceback.format_exc()
    sys.stderr.flush()
    (results / "ending").write_text(json.dumps([outcome, message]))
    os._exit(0)


def _reported(results: Path, status: int) -> tuple[str, str]:
    """The outcome by what the child wrote: an error must be one line of bounded length."""
    stderr = (results / "stderr").read_text(errors="replace") if (results / "stderr").exists() else ""
    if os.WIFSIGNALED(status):
        return ("hang" if os.WTERMSIG(status) in (signal.SIGKILL, signal.SIGXCPU) else "killed"), stderr[-1000:]
    outcome, message = json.loads((results / "ending").read_text())
    lines = [line for line in (message or stderr).splitlines() if line]
    if lines and lines[0].startswith("Usage:"):  # a word that the command does not know: usage, hint and error
        lines = lines[2:]
    if outcome == "refused" and (len(lines) != 1 or len(lines[0]) > LONGEST + len("error: ")):
        return "lengthy", (message or stderr)[:1000]
    if outcome == "accepted" and "damaged" in stderr:
        return "listed", stderr
    return outcome, message or stderr


def table(cases: Sequence[Case], endings: Sequence[Ending]) -> list[dict[str, object]]:
    """A row for each kind of input, and one for all."""
    kinds = [*dict.fromkeys(case.kind for case in cases), "all"]
    rows = []
    for kind in kinds:
        own = [(c, e) for c, e in zip(cases, endings, strict=True) if kind in (c.kind, "all")]
        row: dict[str, object] = {"kind": kind, "inputs": len(own)}
        for outcome in ("refused", "accepted", "listed", "status 1"):
            row[outcome] = sum(c.expected == e.outcome == outcome for c, e in own)
        row["tracebacks"] = sum(e.outcome == "traceback" for _, e in own)
        row["hangs"] = sum(e.outcome in ("hang", "killed") for _, e in own)
        row["otherwise"] = len(own) - sum(c.expected == e.outcome for c, e in own)
        row["slowest_s"] = round(max(e.seconds for _, e in own), 2)
        row["peak_mb"] = round(max(e.memory for _, e in own))
        rows.append(row)
    return rows


def wrong(cases: Sequence[Case], endings: Sequence[Ending]) -> list[str]:
    """The cases that did not end as expected, or took more memory than a refused input may, a line each."""
    lines = []
    for case, ending in zip(cases, endings, strict=True):
        if ending.outcome != case.expected:
            lines.append(f"{case.kind}: {case.name}: {ending.outcome}, expected {case.expected}: {ending.message}")
        elif ending.memory > MEMORY:
            lines.append(f"{case.kind}: {case.name}: {ending.memory:.0f} MB; the limit is {MEMORY}")
    return lines
