"""Kill, fill, corrupt: a campaign against the engine and the store, over a study of 60 small cells.

`python tests/campaign.py --kills 50` prints what came of it, one JSON object a line; its exit status is 0 if all that
was tried held (`faults`); what failed, and what could not be tried here, is said on stderr. Its cells are of
arithmetic; with `--real` it kills over a study of 69 real ones, trainings and evaluations of a pico backbone. The
drivers that it kills are this same file, run as `campaign.py --drive STORE`.
"""

from __future__ import annotations

import argparse
import contextlib
import datetime
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cellwork
import networkx as nx
from deltacompose_plugins.engines.cluster import dask
from deltacompose_plugins.engines.inprocess import inprocess
from deltacompose_plugins.engines.pool import pool

from deltacompose.engine import Work, run_plan, status
from deltacompose.engine.driver import POLL
from deltacompose.errors import BadInput
from deltacompose.store import alive, open_store

PLAN = cellwork.study(tasks=4, seeds=3)
PATIENCE = 600.0
"""Seconds after which waiting is given up, also on a machine that does other work."""

BUSY = ("step", "checkpoint", "write")


@dataclass(frozen=True)
class Field:
    """What a campaign is fought over.

    Attributes:
        options: of the run, beside those of the campaign.
        contents: what of a store must not depend on how it came about, by key.
        every: steps between two checkpoints.
        study: the study's file, for the drivers; none for cells of arithmetic.
    """

    plan: nx.DiGraph
    work: Work
    options: Mapping[str, Any]
    contents: Callable[[Any], dict[str, Any]]
    every: int
    study: Path | None = None


def arithmetic():
    return Field(PLAN, Work("cellwork:carry_out"), {}, contents, cellwork.EVERY)


def real(path):
    """The real study of a file."""
    import realwork

    import deltacompose as dc
    from deltacompose.cells.worker_sources import options_of

    study = dc.Study.read(path)
    return Field(dc.plan(study), realwork.job_of(), options_of(study), realwork.contents, realwork.EVERY, path)


def real_field(folder):
    """The study of `realwork`, with its files, in a folder."""
    import realwork

    folder.mkdir()
    realwork.study(folder).write(folder / "study.yaml")
    return real(folder / "study.yaml")


# Drivers


def start(store, engine="pool", pause=0.0, study=None, pretended=None, **further):
    """A driver in a process of its own; `pretended` is what it and its workers believe, as `elsewhere` says."""
    options = {"marks": further.pop("marks")} if "marks" in further else {}
    settings = json.dumps({"pause": pause, "backoff": 0.01, "attempts": 50, "bank": 1} | options)
    command = [sys.executable, __file__, "--drive", str(store), "--engine", engine, "--options", settings]
    alone = os.environ | {"OMP_NUM_THREADS": "1"}
    if pretended:
        path = os.pathsep.join([str(Path(__file__).parent / "elsewhere"), alone.get("PYTHONPATH", "")])
        alone |= {"PYTHONPATH": path.strip(os.pathsep)} | pretended
    return subprocess.Popen([*command, *(["--study", str(study)] if study else [])], env=alone, **further)


def drive(store, engine, options, study=None):
    """What such a driver does; its exit status is 0 when all cells are done, 130 when it was interrupted."""
    field = real(Path(study)) if study else arithmetic()
    executor = inprocess({}) if engine == "inprocess" else {"pool": pool, "dask": dask}[engine]({"workers": 2})
    try:
        outcome = run_plan(field.plan, open_store(store), executor, field.work, {**field.options, **options})
    except KeyboardInterrupt:
        return 130
    except BadInput as error:
        print(error, file=sys.stderr)
        return 2
    finally:
        executor.close()
    return int(bool(outcome.failed or outcome.blocked))


def undisturbed(folder, field):
    """The store of the same plan, carried out in one process that is left in peace; made once in a folder."""
    path = folder / "undisturbed"
    if not path.exists() and start(path, engine="inprocess", study=field.study).wait():
        raise RuntimeError("a driver that was left in peace did not come to its end")
    return open_store(path, create=False)


def compared(store, folder, field=None):
    """Cells that are not there, and cells that are not what they would be undisturbed."""
    field = field or arithmetic()
    expected = field.contents(undisturbed(folder, field))
    found = field.contents(store)
    lost = expected.keys() - found.keys()
    different = [key for key in found if found[key] != expected.get(key)]
    return {"cells": len(expected), "cells lost": len(lost), "differences": len(different) + len(store.verify())}


def contents(store):
    """What of a store must not depend on how it came about: all but times and hosts."""
    kept = ("kind", "spec", "parents", "result", "files", "state")
    return {record["key"]: [record[name] for name in kept] for record in store.records()}


def looked(path, wanted):
    """The status of a store, if it is as wanted."""
    found = status(open_store(path, create=False))
    return found if wanted(found) else None


# Kills


class Reader(threading.Thread):
    """Reads the whole store over and over, with as much rest in between, and counts what is not whole."""

    def __init__(self, path):
        super().__init__(daemon=True)
        self.path, self.half, self.reads, self.stopped = path, 0, 0, threading.Event()

    def run(self):
        while not self.stopped.is_set():
            began = time.monotonic()
            with contextlib.suppress(BadInput):
                store = open_store(self.path, create=False)
                self.half += len(store.verify())
                self.reads += len(store.keys())
            self.stopped.wait(max(0.02, time.monotonic() - began))

    def stop(self):
        self.stopped.set()
        self.join()


def kills(folder, kills, seed=0, field=None):
    """SIGKILL driver and workers at random moments, at least two times in three inside a step or a write."""
    field = field or arithmetic()
    chance, report, rounds = random.Random(seed), Counter(), 0
    undisturbed(folder, field)
    began = time.monotonic()
    while report["kills"] < kills:
        rounds += 1
        path, marks = folder / f"store{rounds}", folder / f"marks{rounds}"
        marks.mkdir()
        reader = Reader(path)
        reader.start()
        while _drive_and_kill(path, marks, chance, report, kills, field):
            pass
        reader.stop()
        report["half-written reads"] += reader.half
        report["reads"] += reader.reads
        store = open_store(path)
        store.sweep()
        report["left in tmp"] += len(list((store.root / "tmp").iterdir()))
        for name, number in compared(store, folder, field).items():
            report[name] += number
        lost = steps_lost(marks)
        report["steps lost by a kill, at most"] = max(report["steps lost by a kill, at most"], lost)
    whole = {
        "steps between checkpoints": field.every,
        "rounds": rounds,
        "cells of a round": len(field.plan),
        "seconds": round(time.monotonic() - began, 1),
    }
    name = "kills" if field.study is None else "kills over real cells"
    return {"campaign": name, "half-written reads": 0, "left in tmp": 0} | report | whole


def _drive_and_kill(path, marks, chance, report, most, field):
    """One driver's life. False when its plan is done."""
    driver = start(path, pause=0.004, marks=str(marks), study=field.study)
    while driver.poll() is None:
        victim = chance.choice(["driver", "worker", "worker"])
        busy = chance.random() < 2 / 3
        time.sleep(chance.random() * 0.4)
        if report["kills"] >= most:
            break
        stopped = held(marks, driver, BUSY if busy else (*BUSY, "idle"))
        if stopped is None:
            break
        worker, phase = stopped
        with contextlib.suppress(ProcessLookupError):
            os.kill(driver.pid if victim == "driver" else worker, signal.SIGKILL)
            report["kills"] += 1
            report[f"of a {victim}"] += 1
            report["inside a step or a write"] += phase in BUSY
            report[f"in {phase}"] += 1
        with contextlib.suppress(ProcessLookupError):
            os.kill(worker, signal.SIGCONT)
    return driver.wait() != 0


def held(marks, driver, phases):
    """A worker that is held in the middle of one of these things, with what that is."""
    while driver.poll() is None:
        for mark in sorted(marks.glob("[0-9]*"), key=lambda path: random.random()):
            if mark.read_text() in phases and alive(int(mark.name)):
                with contextlib.suppress(ProcessLookupError):
                    worker = int(mark.name)
                    os.kill(worker, signal.SIGSTOP)
                    if _holds(worker) and (phase := mark.read_text()) in phases:
                        return worker, phase
                    os.kill(worker, signal.SIGCONT)
        time.sleep(0.001)
    return None


def _holds(pid):
    """Wait until a process stands still; False where it ends instead."""
    while alive(pid):
        with contextlib.suppress(OSError):
            if Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] in "Tt":
                return True
    return False


def steps_lost(marks):
    """The most steps that any cell took more than once between two neighbouring notes of it."""
    latest, lost = {}, 0
    for line in (marks / "notes").read_text().splitlines():
        key, _, step = line.partition(" ")
        if step.isdigit():
            lost = max(lost, latest.get(key, 0) - int(step) + 1)
            latest[key] = int(step)
    return lost


# Disks


@contextlib.contextmanager
def small_disk(folder, size):
    """A file system of a given size; None where this machine does not let us mount one."""
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(folder)]
    if shutil.which("mount") is None or subprocess.run(mount, capture_output=True).returncode:
        yield None
        return
    try:
        yield folder
    finally:
        subprocess.run(["umount", str(folder)], check=True)


NO_MOUNT = {"skipped": "mounting a small file system needs root"}


def full_disk(folder):
    """A disk that fills up in mid-run, and is then given more room."""
    with small_disk(folder / "disk", "300k") as disk:
        if disk is None:
            return {"campaign": "full disk"} | NO_MOUNT
        first = start(disk / "store", stderr=subprocess.PIPE)
        said = first.communicate()[1].decode().strip()
        store = open_store(disk / "store")
        before = {"exit status": first.returncode, "said": said, "finished before": len(store.keys())}
        before["half-written"] = len(store.verify())
        subprocess.run(["mount", "-o", "remount,size=64m", str(disk)], check=True)
        before["exit status after"] = start(disk / "store").wait()
        return {"campaign": "full disk"} | before | compared(store, folder)


def read_only(folder):
    """A finished store on a file system that turns read-only."""
    with small_disk(folder / "disk", "64m") as disk:
        if disk is None:
            return {"campaign": "read-only store"} | NO_MOUNT
        start(disk / "store").wait()
        subprocess.run(["mount", "-o", "remount,ro", str(disk)], check=True)
        second = start(disk / "store", stderr=subprocess.PIPE)
        said = second.communicate()[1].decode().strip()
        found = {"exit status": second.returncode, "said": said}
        store = open_store(disk / "store", create=False)
        return {"campaign": "read-only store"} | found | {"records read": len(list(store.records()))}


def corrupted(folder, seed=0):
    """Bits flipped and files cut short in a finished store."""
    store, chance = open_store(folder / "store"), random.Random(seed)
    start(store.root).wait()
    victims = chance.sample(sorted(PLAN), 10)
    for number, key in enumerate(victims):
        path = store.folder(key) / chance.choice(["record.json", "content.txt"])
        content = bytearray(path.read_bytes())
        content[chance.randrange(len(content))] ^= 1 << chance.randrange(8)
        path.write_bytes(content if number % 2 else content[: len(content) // 2])
    found = {problem.key for problem in store.verify()}
    for key in found:
        store.set_aside(key)
    ended = start(store.root).wait()
    facts = {"corrupted": len(victims), "found by verify": len(found & set(victims)), "exit status": ended}
    return {"campaign": "corrupted files"} | facts | compared(store, folder)


# Several drivers, and the clock


def eight_drivers(folder):
    """Eight drivers that start at once on one store which is not there yet."""
    marks = folder / "marks"
    marks.mkdir()
    drivers = [start(folder / "store", engine="inprocess", pause=0.002, marks=str(marks)) for _ in range(8)]
    ended = [driver.wait() for driver in drivers]
    found = {"exit statuses": sorted(set(ended)), "computed twice": computed_twice(marks)}
    return {"campaign": "eight drivers"} | found | compared(open_store(folder / "store"), folder)


def two_hosts(folder):
    """Two machines on one store; a cell of the first stands still until all else is done, then the machine is lost."""
    path, marks = folder / "store", folder / "marks"
    marks.mkdir()
    one, two = ({"marks": str(marks), "pretended": {"PRETENDED_HOST": host}} for host in ("north", "south"))
    north = start(path, pause=0.03, **one)
    until(lambda: len(open_store(path, create=False).keys()) >= 3, north)
    held(marks, north, ("step",))
    store, workers = open_store(path), {told["pid"] for told in _told(marks)}
    south = start(path, pause=0.01, **two)
    try:
        until(lambda: _steady(store), south)
        claimed = _left_to_north(store)
        time.sleep(3 * POLL)
        found = {"claimed": len(claimed), "waited for": len(claimed & _left_to_north(store))}
        found["waits"] = south.poll() is None
    finally:
        for process in (north.pid, *workers):
            with contextlib.suppress(ProcessLookupError):
                os.kill(process, signal.SIGKILL)
    north.wait()
    found["exit status"] = south.wait()
    found["taken over"] = len(claimed & _started(store)["south"])
    found |= {f"cells of {host}": sum(r["host"] == host for r in store.records()) for host in ("north", "south")}
    found |= {"computed twice": computed_twice(marks), "half-written": len(store.verify())}
    return {"campaign": "two hosts"} | found | compared(store, folder)


def _steady(store):
    """Whether only the worker that stands still has anything left: the north's other one may be at its last cells."""
    before = _left_to_north(store)
    time.sleep(3 * POLL)
    return before and before == _left_to_north(store)


def _left_to_north(store):
    """The cells that the north has under way, if they and those that rest on them are all that is missing."""
    missing, started = set(PLAN) - set(store.keys()), _started(store)
    claimed = missing & started["north"] - started["south"]
    return claimed if missing == claimed.union(*(nx.descendants(PLAN, key) for key in claimed)) else set()


def _started(store):
    """The cells that each host began."""
    events = list(store.events())
    hosts = {event["run"]: event["machine"].partition("-")[0] for event in events if event["event"] == "run"}
    found = {"north": set(), "south": set()}
    for event in events:
        if event["event"] == "start":
            found[hosts[event["run"]]] |= set(event["keys"])
    return found


def no_locks(folder):
    """Two machines at once on one store in a folder without locks: cells may be computed twice, one copy stays."""
    path, marks = folder / "store", folder / "marks"
    marks.mkdir()
    reader = Reader(path)
    reader.start()
    pretended = [{"PRETENDED_HOST": host, "PRETENDED_LOCKS": "none"} for host in ("north", "south")]
    drivers = [start(path, pause=0.004, marks=str(marks), pretended=one) for one in pretended]
    ended = [driver.wait() for driver in drivers]
    reader.stop()
    found = {"exit statuses": sorted(set(ended)), "half-written reads": reader.half, "reads": reader.reads}
    found["computed by both"] = computed_twice(marks)
    return {"campaign": "no locks"} | found | compared(open_store(path), folder)


def computed_twice(marks):
    """How many cells were carried out more often than once."""
    stored = Counter(line for line in (marks / "notes").read_text().splitlines() if line.endswith("stored"))
    return sum(number > 1 for number in stored.values())


DAY = 86400.0


def clock_set_back(folder):
    """The clock is a day behind of a sudden, for a driver and its workers; they are killed; a second driver goes on.

    In between all files are dated 2106. What the processes believed is read from what they left.
    """
    path, marks, clock = folder / "store", folder / "marks", folder / "clock"
    marks.mkdir()
    began, pretended = time.time(), {"PRETENDED_CLOCK": str(clock)}
    first = start(path, pause=0.03, marks=str(marks), pretended=pretended)
    until(lambda: len(open_store(path, create=False).keys()) >= 10, first)
    (folder / "draft").write_text(str(-DAY))
    (folder / "draft").rename(clock)
    until(lambda: clocks(marks)["lived through it"] == 2 and misled(open_store(path), began), first)
    first.kill()
    first.wait()
    until(lambda: not any(alive(told["pid"]) for told in _told(marks)))
    for file in [path, *path.rglob("*")]:
        with contextlib.suppress(FileNotFoundError):
            os.utime(file, (2**32, 2**32))
    ended = start(path, marks=str(marks), pretended=pretended).wait()
    store = open_store(path)
    found = {"exit status": ended, "computed twice": computed_twice(marks)}
    found |= {f"workers that {what}": number for what, number in clocks(marks).items()}
    found |= {"drivers that saw it": len(misled(store, began))}
    found |= {"cells dated a day back": sum(_seconds(r["finished"]) < began - DAY / 2 for r in store.records())}
    return {"campaign": "clock set back"} | found | compared(store, folder)


def misled(store, began):
    """The runs that logged something as of the day before."""
    return {event["run"] for event in store.events() if _seconds(event["time"]) < began - DAY / 2}


def _seconds(date):
    return datetime.datetime.fromisoformat(date).timestamp()


def clocks(marks):
    """How many workers believed of every clock that it was a day earlier, and how many had known better before."""
    here, back, right = time.time() - time.monotonic(), set(), set()
    for told in _told(marks):
        wrong = [told[name] - told["steady"] - here for name in ("time", "now", "ns")]
        if all(abs(one + DAY) < DAY / 2 for one in wrong):
            back.add(told["pid"])
        if all(abs(one) < DAY / 2 for one in wrong):
            right.add(told["pid"])
    return {"saw it": len(back), "lived through it": len(back & right)}


def _told(marks):
    """What workers said of their clocks."""
    return [json.loads(line) for line in (marks / "clocks").read_text().splitlines()]


def until(look, driver=None):
    """Waits until a look returns something true, while a driver is at work."""
    late = time.monotonic() + PATIENCE
    while True:
        with contextlib.suppress(OSError, ValueError, BadInput):
            if look():
                return
        if time.monotonic() > late or (driver is not None and driver.poll() is not None):
            raise RuntimeError("what was waited for did not come")
        time.sleep(0.01)


# How fast, and how well it knows


def speed(folder):
    """Two workers against one on work that mostly waits, by turns; and how far estimates were from the truth."""
    seconds = {1: [], 2: []}
    for turn in range(6):
        workers = turn % 2 + 1
        store, executor = open_store(folder / str(turn)), pool({"workers": workers})
        for future in [executor.submit("cellwork:surroundings", {}) for _ in range(workers)]:
            future.result()
        began = time.monotonic()
        run_plan(PLAN, store, executor, "cellwork:carry_out", {"pause": 0.01})
        seconds[workers].append(time.monotonic() - began)
        executor.close()
    ended = [event for event in store.events() if event["event"] == "done"]
    last = ended[-1]["elapsed"]
    middle = [event for event in ended if 0.2 < event["elapsed"] / last < 0.8]
    errors = sorted(abs(event["eta"] / (last - event["elapsed"]) - 1) for event in middle)
    ratio = round(sorted(a / b for a, b in zip(seconds[1], seconds[2], strict=True))[1], 2)
    return {"campaign": "speed", "two workers over one": ratio, "median ETA error": round(errors[len(errors) // 2], 3)}


def main():
    reader = argparse.ArgumentParser(description=__doc__)
    reader.add_argument("--kills", type=int, default=50)
    reader.add_argument("--seed", type=int, default=0)
    reader.add_argument("--real", action="store_true", help="kill over real trainings, and do nothing else")
    reader.add_argument("--drive", help=argparse.SUPPRESS)
    reader.add_argument("--engine", default="pool", help=argparse.SUPPRESS)
    reader.add_argument("--options", default="{}", help=argparse.SUPPRESS)
    reader.add_argument("--study", help=argparse.SUPPRESS)
    given = reader.parse_args()
    if given.drive:
        return drive(given.drive, given.engine, json.loads(given.options), given.study)
    over_real = {"kills": lambda folder: kills(folder, given.kills, given.seed, real_field(folder / "study"))}
    over_arithmetic = {
        "kills": lambda folder: kills(folder, given.kills, given.seed),
        "full_disk": full_disk,
        "read_only": read_only,
        "corrupted": lambda folder: corrupted(folder, given.seed),
        "eight_drivers": eight_drivers,
        "two_hosts": two_hosts,
        "no_locks": no_locks,
        "clock_set_back": clock_set_back,
        "speed": speed,
    }
    broken = False
    for name, act in (over_real if given.real else over_arithmetic).items():
        with tempfile.TemporaryDirectory(prefix=f"campaign-{name}-") as folder:
            report = act(Path(folder))
        print(json.dumps(report), flush=True)
        if "skipped" in report:
            print(f"NOT TRIED: {report['campaign']}: {report['skipped']}", file=sys.stderr, flush=True)
        for fault in faults(report):
            print(f"FAILED: {report['campaign']}: {fault}", file=sys.stderr, flush=True)
            broken = True
    return int(broken)


NEVER = ("cells lost", "differences", "half-written", "half-written reads", "computed twice", "left in tmp")
"""What no report may have even once."""

ENDINGS = {"full disk": {"exit status": 2, "exit status after": 0}, "read-only store": {"exit status": 2}}
"""With what status drivers must end where that is not 0."""


def faults(report):
    """What of a report must not be, as sentences."""
    told = [f"{report[name]} {name}" for name in NEVER if report.get(name)]
    for name, expected in ({"exit status": 0, "exit statuses": [0]} | ENDINGS.get(report["campaign"], {})).items():
        if report.get(name, expected) != expected:
            told.append(f"{name} {report[name]} instead of {expected}")
    kills, inside = report.get("kills", 0), report.get("inside a step or a write", 0)
    if kills >= 20 and inside < kills / 2:
        told.append(f"{inside} of {kills} kills inside a step or a write, fewer than half")
    steps, every = report.get("steps lost by a kill, at most", 0), report.get("steps between checkpoints", 0)
    if steps > every:
        told.append(f"{steps} steps lost by a kill, more than the {every} between two checkpoints")
    for all_of, those in (("corrupted", "found by verify"), ("claimed", "waited for"), ("claimed", "taken over")):
        if report.get(those, 0) != report.get(all_of, 0):
            told.append(f"{report[all_of]} {all_of}, {report[those]} {those}")
    for name in SEEN.get(report["campaign"], ()):
        if not report[name]:
            told.append(f"{name}: {report[name]}, so that nothing was tried")
    return told


SEEN = {
    "clock set back": ("workers that lived through it", "drivers that saw it", "cells dated a day back"),
    "two hosts": ("waited for", "waits", "cells of north", "cells of south"),
}
"""What must have been in a trial for it to be one."""


if __name__ == "__main__":
    sys.exit(main())
