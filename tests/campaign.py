"""Kill, fill, corrupt: a campaign against the engine and the store, over a study of 60 small cells.

`python tests/campaign.py --kills 50` prints what came of it, one JSON object a line; its exit status is 0 if nothing
was lost. Its cells are of arithmetic; with `--real` it kills over a study of 69 real ones, trainings and evaluations of
a pico backbone. The drivers that it kills are this same file, run as `campaign.py --drive STORE`.
"""

from __future__ import annotations

import argparse
import contextlib
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
from deltacompose_plugins.engines.inprocess import inprocess
from deltacompose_plugins.engines.pool import pool

from deltacompose.engine import Work, run_plan, status
from deltacompose.errors import BadInput
from deltacompose.store import alive, open_store

PLAN = cellwork.study(tasks=4, seeds=3)
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
    from deltacompose.work import options_of

    study = dc.Study.read(path)
    return Field(dc.plan(study), realwork.job_of(), options_of(study), realwork.contents, realwork.EVERY, path)


def real_field(folder):
    """The study of `realwork`, with its files, in a folder."""
    import realwork

    folder.mkdir()
    realwork.study(folder).write(folder / "study.yaml")
    return real(folder / "study.yaml")


# Drivers


def start(store, engine="pool", pause=0.0, study=None, **further):
    """A driver in a process of its own."""
    options = {name: further.pop(name) for name in ("marks", "clock") if name in further}
    settings = json.dumps({"pause": pause, "backoff": 0.01, "attempts": 50, "bank": 1} | options)
    command = [sys.executable, __file__, "--drive", str(store), "--engine", engine, "--options", settings]
    alone = os.environ | {"OMP_NUM_THREADS": "1"}
    return subprocess.Popen([*command, *(["--study", str(study)] if study else [])], env=alone, **further)


def drive(store, engine, options, study=None):
    """What such a driver does; its exit status is 0 when all cells are done, 130 when it was interrupted."""
    if "clock" in options:
        _set_clock(options.pop("clock"))
    field = real(Path(study)) if study else arithmetic()
    executor = pool({"workers": 2}) if engine == "pool" else inprocess({})
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


def _set_clock(seconds):
    """Let this process believe that it is another time."""
    real = time.time
    time.time = lambda: real() + seconds


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
    whole = {"rounds": rounds, "cells of a round": len(field.plan), "seconds": round(time.monotonic() - began, 1)}
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
        stopped = _stopped(marks, driver, BUSY if busy else (*BUSY, "idle"))
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


def _stopped(marks, driver, phases):
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


def computed_twice(marks):
    """How many cells were carried out more often than once."""
    stored = Counter(line for line in (marks / "notes").read_text().splitlines() if line.endswith("stored"))
    return sum(number > 1 for number in stored.values())


def clock_set_back(folder):
    """A driver that is killed, files from the future, and a driver whose clock is ten years behind."""
    path, marks = folder / "store", folder / "marks"
    marks.mkdir()
    first = start(path, pause=0.004, marks=str(marks))
    while not (path / "cells").exists() or len(open_store(path).keys()) < 10:
        time.sleep(0.01)
    first.kill()
    first.wait()
    for file in [path, *path.rglob("*")]:
        with contextlib.suppress(FileNotFoundError):
            os.utime(file, (2**32, 2**32))
    ended = start(path, marks=str(marks), clock=-3.2e8).wait()
    found = {"exit status": ended, "computed twice": computed_twice(marks)}
    return {"campaign": "clock set back"} | found | compared(open_store(path), folder)


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
        "clock_set_back": clock_set_back,
        "speed": speed,
    }
    lost = 0
    for name, act in (over_real if given.real else over_arithmetic).items():
        with tempfile.TemporaryDirectory(prefix=f"campaign-{name}-") as folder:
            report = act(Path(folder))
        print(json.dumps(report), flush=True)
        lost += sum(report.get(name, 0) for name in ("cells lost", "half-written reads", "differences"))
    return int(lost > 0)


if __name__ == "__main__":
    sys.exit(main())
