"""What several processes under torchrun do with a backbone whose layers lie in shards; each leaves what it saw."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch.distributed.tensor import DTensor

import deltacompose as dc
from deltacompose.backbone.pico import pico_backbone
from deltacompose.backbone.sharding import shard
from deltacompose.cells.probe import gradients
from deltacompose.cells.training_state import write_state
from deltacompose.distributed import ALONE, process_group
from deltacompose.errors import Diverged
from deltacompose.scoring import reader
from deltacompose.study.recipe import Recipe
from deltacompose.task import Example, Task
from deltacompose.training import evaluate, train
from deltacompose.training.learner import Job

ROWS = tuple(Example(str(k), f"row {k} " * (1 + k % 3), ("a", "b")[k % 2]) for k in range(7))
TEXTS = tuple(Example(str(k), f"row {k}", "word " * (1 + k % 4)) for k in range(7))
CHOICE = Task("c", "made", "choice", "accuracy", lambda split: ROWS, verbalizer={"a": "low", "b": "very high"})
SPOKEN = Task("g", "made", "generation", "exact_match", lambda split: TEXTS)


def look(spec):
    """Each process does what `spec` names, one after another, and leaves what it saw of each."""
    with process_group() as processes:
        seen = {name: _LOOKS[name](processes, Path(spec["folder"]), **how) for name, how in spec["looks"].items()}
        (Path(spec["folder"]) / f"rank{processes.rank}.json").write_text(json.dumps(seen))


def _compare(processes, folder, cases):
    """Trains and scores the same on a whole backbone and on one in shards, for each case."""
    return [_compared(processes, *case) for case in cases]


def _compared(processes, family, head, kind, expression, checkpointing):
    whole, parts = (pico_backbone(family, head=head) for _ in range(2))
    shard(parts)
    task, recipe = (
        {"choice": CHOICE, "generation": SPOKEN}[kind],
        Recipe(3, 5, evaluate_every=3, checkpointing=checkpointing),
    )
    jobs = [Job(dc.parse(expression), reader(one, task), 0, recipe, processes=processes) for one in (whole, parts)]
    [one], [two] = (train(job.reader.backbone, [job]) for job in jobs)
    rows = jobs[0].reader.rows("train")[:2]
    layers = [x for place in whole.places("layer") for x in whole.module(place).parameters()]
    held = [x for x in parts.model.parameters() if isinstance(x, DTensor)]
    said = [evaluate(job.reader, one, "test", who).predictions for job in jobs for who in (processes, ALONE)]
    return {
        "names": one.weights.keys() == two.weights.keys()
        and one.record["without_gradient"] == two.record["without_gradient"]
        and [n for n, _ in parts.model.named_parameters()] == [n for n, _ in whole.model.named_parameters()],
        "weights": all(torch.equal(x, two.weights[n]) for n, x in one.weights.items()),
        "history": one.record["history"][-1]["score"] == two.record["history"][-1]["score"],
        "gradients": _apart(*(gradients(replace(job, processes=ALONE), 3) for job in jobs)),
        "predictions": len(set(said)) == 1 and len(said[0]) == len(ROWS),
        "features": torch.equal(*(job.reader.features(rows) for job in jobs)),
        "fingerprint": whole.fingerprint == parts.fingerprint,
        "layers": sum(x.numel() for x in layers),
        "sharded": sum(x.numel() for x in held),
        "held": sum(x.to_local().numel() for x in held),
    }


def _apart(one, two):
    return float((one - two).norm() / one.norm())


def _uneven(processes, folder):
    """Only one process's share has numbers that are none; all must hear of it, and none may wait for another."""
    backbone = pico_backbone("t5")
    shard(backbone)
    read = reader(backbone, CHOICE)
    rank, calls = read.rank, []

    def failing(rows, deltas=1):
        calls.append(len(rows))
        ranks = rank(rows, deltas)
        if processes.rank == 1 and len(calls) == 1:
            raise Diverged("no numbers")
        return ranks

    read.rank = failing
    try:
        read.predict("test", budget=8, processes=processes)
        said = "nothing"
    except Diverged as error:
        said = str(error)
    return {"said": said, "calls": len(calls)}


def _unequal_ends(processes, folder):
    """One process has all its tokens long before the other; what they say is what each says by itself."""
    whole, parts = pico_backbone("gpt2"), pico_backbone("gpt2")
    shard(parts)
    ids = torch.arange(12).view(2, 6) + 5
    how = {"max_new_tokens": (1, 7)[processes.rank], "do_sample": False, "attention_mask": torch.ones_like(ids)}
    return torch.equal(*(one.model.generate(input_ids=ids, **how) for one in (whole, parts)))


def _refused(processes, folder):
    """What cannot be sharded, in words."""
    shared = pico_backbone("gpt2")
    layers = shared.model.transformer.h
    layers[1] = layers[0]
    try:
        shard(shared)
    except dc.BadInput as error:
        return str(error)


def _read_parameters(processes, folder):
    """What methods read of a backbone in shards, beside the whole."""
    whole, parts = pico_backbone("gpt2"), pico_backbone("gpt2")
    shard(parts)
    return [
        torch.equal(whole.parameter(place, name), parts.parameter(parts.place(place.name), name))
        and whole.width(place) == parts.width(parts.place(place.name))
        for place in whole.places()
        for name in whole.parameter_names(place)
    ]


class _Kept:
    """Checkpoints in a folder, which the first process writes and all read; the process ends after one of them."""

    def __init__(self, folder, processes, last=None):
        self.folder, self.processes, self.last = folder, processes, last

    def save(self, states):
        if not self.processes.rank:
            self.folder.mkdir(exist_ok=True)
            write_state(states[0], self.folder)
        if states[0][1]["step"] == self.last:
            raise KeyboardInterrupt

    def load(self):
        self.processes.of_first(None, torch.device("cpu"))  # that the first process has written what it was to write
        if not self.folder.exists():
            return {}
        return {0: (load_file(self.folder / "state.safetensors"), json.loads((self.folder / "state.json").read_text()))}


def _resumed(processes, folder):
    """A training in shards that is broken off after its second checkpoint and goes on, beside one that is not."""
    backbone = pico_backbone("bert")
    shard(backbone)
    recipe = Recipe(6, 5, evaluate_every=2)
    job = Job(dc.parse("lora(rank=2) + adapter"), reader(backbone, CHOICE), 0, recipe, processes=processes)
    [whole] = train(backbone, [job])
    state, broken = folder / "state", False
    try:
        train(backbone, [job], _Kept(state, processes, last=2))
    except KeyboardInterrupt:
        broken = True
    [again] = train(backbone, [job], _Kept(state, processes))
    return {
        "broken": broken,
        "weights": all(torch.equal(x, again.weights[n]) for n, x in whole.weights.items()),
        "steps": [row["step"] for row in again.record["history"]],
        "tokens": whole.record["tokens"] - again.record["tokens"],
    }


_LOOKS = {
    "compare": _compare,
    "uneven": _uneven,
    "unequal_ends": _unequal_ends,
    "refused": _refused,
    "read_parameters": _read_parameters,
    "resumed": _resumed,
}


def failing(spec):
    """One process lacks memory while the others wait for its word."""
    with process_group() as processes:
        if processes.rank == 1:
            raise MemoryError("no room")
        processes.gathered(0, torch.device("cpu"))
