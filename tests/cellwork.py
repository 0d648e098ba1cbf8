"""Cells of plain arithmetic, which behave as real ones do: steps, checkpoints, slow writes, and trouble when asked."""

from __future__ import annotations

import datetime
import json
import os
import signal
import sys
import time
from pathlib import Path

import networkx as nx

from deltacompose.store import open_store
from deltacompose.study import Cell

STEPS, EVERY = 24, 6


def training(task="sst2", seed=0, **further):
    return Cell("train", {"composition": "lora", "task": task, "seed": seed, **further}, cost=3.0)


def evaluation(parent, target, **further):
    spec = {"composition": "lora", "source": parent.spec["task"], "target": target, "seed": parent.spec["seed"]}
    return Cell("evaluate", spec | further, (parent.key,), cost=1.0)


def plan_of(*cells):
    plan = nx.DiGraph()
    plan.add_nodes_from((cell.key, {"cell": cell}) for cell in cells)
    plan.add_edges_from((parent, cell.key) for cell in cells for parent in cell.parents)
    return plan


def study(tasks=4, seeds=3, **further):
    """A plan of tasks x seeds trainings, each evaluated on all tasks."""
    names = [f"task{i}" for i in range(tasks)]
    trainings = [training(task, seed, **further) for task in names for seed in range(seeds)]
    return plan_of(*trainings, *(evaluation(cell, target) for cell in trainings for target in names))


def carry_out(spec):
    """Do each cell of a group in turn and store it."""
    store, options = open_store(spec["store"], create=False), spec["options"]
    done = []
    for written in spec["cells"]:
        cell = Cell(written["kind"], written["spec"], tuple(written["parents"]), written["cost"])
        if not store.has(cell.key):
            _carried(cell, store, options)
        done.append({"key": cell.key, "state": store.state(cell.key), "seconds": 0.0})
    return done


def _carried(cell, store, options):
    _trouble(cell, options)
    _tell_time(options)
    content, result = (_trained if cell.kind == "train" else _evaluated)(cell, store, options)
    _mark(options, "write")
    store.add(cell, result, lambda folder: _slow_write(folder, content, options), seconds=0.0)
    _mark(options, "idle")
    _note(options, cell.key, "stored")


def _trained(cell, store, options):
    """A long chain of numbers: one step wrong, repeated or left out changes everything after it."""
    number, step = first(cell), 0
    checkpoint = store.checkpoint(cell.key)
    if checkpoint is not None:
        step, number = json.loads((checkpoint / "state.json").read_text())
    while step < STEPS:
        _mark(options, "step")
        time.sleep(options.get("pause", 0.0))
        number, step = _next(number), step + 1
        _note(options, cell.key, step)
        if step % EVERY == 0:
            _mark(options, "checkpoint")
            state = json.dumps([step, number])
            store.save_checkpoint(
                cell.key, lambda folder, state=state: (folder / "state.json").write_text(state) and None
            )
    return [str(number)] * cell.spec.get("lines", 4), {"dev": number / 2**64, "steps": STEPS}


def first(cell):
    """The number that a training begins with."""
    return cell.spec["seed"] + sum(cell.spec["task"].encode())


def _next(number):
    for _ in range(50):
        number = (number * 6364136223846793005 + 1442695040888963407) % 2**64
    return number


def _evaluated(cell, store, options):
    _mark(options, "step")
    time.sleep(options.get("pause", 0.0))
    number = int((store.folder(cell.parents[0]) / "content.txt").read_text().split()[0])
    score = ((number ^ sum(cell.spec["target"].encode())) % 1000) / 1000
    return [f"{i} {score}" for i in range(4)], {"score": score, "metric": "accuracy", "examples": 4}


def _slow_write(folder, lines, options):
    with open(folder / "content.txt", "w") as file:
        for line in lines:
            file.write(line + "\n")
            file.flush()
            time.sleep(options.get("pause", 0.0))


def _mark(options, phase):
    """Say what this process is about, for whoever wants to kill it at that."""
    if "marks" in options:
        (Path(options["marks"]) / str(os.getpid())).write_text(phase)


def _note(options, key, what):
    if "marks" in options:
        with open(Path(options["marks"]) / "notes", "a") as file:
            file.write(f"{key} {what}\n")


def _tell_time(options):
    """Say what time this process believes that it is, beside a clock that all processes of a machine share."""
    if "marks" in options:
        now = datetime.datetime.now(datetime.UTC).timestamp()
        told = {
            "pid": os.getpid(),
            "steady": time.monotonic(),
            "time": time.time(),
            "ns": time.time_ns() / 1e9,
            "now": now,
        }
        with open(Path(options["marks"]) / "clocks", "a") as file:
            file.write(json.dumps(told) + "\n")


def _trouble(cell, options):
    act, folder = cell.spec.get("act"), Path(options.get("folder", "."))
    if act == "raise":
        raise ValueError("the loss is not finite")
    if act == "raise now and then" and _first_times(folder / cell.key, 2):
        raise OSError("the network is away")
    if act == "die":
        os.kill(os.getpid(), signal.SIGKILL)
    if act == "die once" and _first_times(folder / cell.key, 1):
        os.kill(os.getpid(), signal.SIGKILL)
    if act == "hang" or (act == "hang once" and _first_times(folder / cell.key, 1)):
        time.sleep(3600)
    if act == "interrupt":
        raise KeyboardInterrupt


def _first_times(path, times):
    seen = len(path.read_text()) if path.exists() else 0
    path.write_text("x" * (seen + 1))
    return seen < times


def greedy(spec):
    """Has memory for two cells at once."""
    if len(spec["cells"]) > 2:
        raise MemoryError("no room for so many cells")
    return carry_out(spec)


def forgetful(spec):
    """Says that all is done and stores nothing."""
    return [{"key": cell["key"], "state": "done", "seconds": 0.0} for cell in spec["cells"]]


def surroundings(spec):
    """The surroundings of a worker; with `meet`, a folder, it waits there until `number` workers have come."""
    if "meet" in spec:
        (Path(spec["meet"]) / f"worker{os.getpid()}").touch()
        while len(list(Path(spec["meet"]).glob("worker*"))) < spec["number"]:
            time.sleep(0.01)
    names = ("OMP_NUM_THREADS", "CUDA_VISIBLE_DEVICES", "RANK", "WORLD_SIZE")
    return {"pid": os.getpid(), "torch": "torch" in sys.modules} | {name: os.environ.get(name) for name in names}


def ranks(spec):
    """Each of several processes joins their group, and leaves its rank and the ranks that the group gathers."""
    import torch

    from deltacompose.distributed import process_group

    with process_group(on_cpu=True) as processes:
        text = json.dumps([processes.rank, processes.gathered(processes.rank, torch.device("cpu"))])
    (Path(spec["folder"]) / f"rank{os.environ['RANK']}").write_text(text)


def sleeping_ranks(spec):
    (Path(spec["folder"]) / f"rank{os.environ['RANK']}").write_text(str(os.getpid()))
    time.sleep(3600)


def broken(spec):
    raise RuntimeError(f"rank {os.environ['RANK']} has had enough")


def ending(spec):
    os._exit(3)


def cramped(spec):
    raise MemoryError("no room")


def parent_of_sleepers(spec):
    """Starts a process of its own, leaves its number, and sleeps."""
    import subprocess

    child = subprocess.Popen(["sleep", "3600"])
    Path(spec["file"]).write_text(f"{os.getpid()} {child.pid}")
    time.sleep(3600)
