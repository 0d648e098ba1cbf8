"""A real study that takes seconds: a pico backbone in a folder, and tasks whose label a word of the input tells."""

from __future__ import annotations

import json
import random
from dataclasses import replace
from pathlib import Path

import pytest

import deltacompose as dc
from deltacompose.backbone.pico import pico, pico_tokenizer
from deltacompose.cells.train import Checkpoints
from deltacompose.study import BackboneChoice, Study
from deltacompose.study.recipe import Recipe

WORDS = {"good": ["bright", "kind", "calm"], "bad": ["grim", "rude", "torn"]}


def make(folder, family="bert", head=None, tasks=("mood", "tone"), **changes):
    """The study; its files lie in `folder`."""
    folder = Path(folder)
    model = folder / family
    if not model.exists():
        pico(family, head=head).save_pretrained(model)
        pico_tokenizer(family).save_pretrained(model)
    for number, name in enumerate(tasks):
        write_rows(folder / f"{name}.jsonl", name, number)
    study = Study(
        name="pico",
        tasks=tasks,
        compositions=("bitfit",),
        backbone=BackboneChoice(model=str(model), head=head),
        seeds=(0, 1),
        training=Recipe(steps=4, batch=4, evaluate_every=2, limit=32),
        transfer=True,
        own_tasks={name: own(name) for name in tasks},
        folder=str(folder),
    )
    return replace(study, **changes)


def own(name):
    """The few lines that say where a task's rows are."""
    return {
        "path": f"{name}.jsonl",
        "data": {"split": "split"},
        "columns": {"input": "input", "target": "target"},
        "category": "mood",
        "metric": "accuracy",
        "verbalizer": {"bad": "bad", "good": "good"},
    }


def write_rows(path, name, seed, counts=(("train", 40), ("val", 12), ("test", 12))):
    source = random.Random(seed)
    rows = []
    for split, count in counts:
        for k in range(count):
            label = ("good", "bad")[k % 2]
            text = f"{name} {split} {k} {source.choice(WORDS[label])}"
            rows.append({"split": split, "input": text, "target": label})
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def broken_off(study, store, monkeypatch, when):
    """A run that ctrl-C ends right after the checkpoint of which `when(cell, step)` holds."""
    save = Checkpoints.save

    def save_and_stop(self, states):
        save(self, states)
        if when(self.cells[0], states[0][1]["step"]):
            raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(Checkpoints, "save", save_and_stop)
        with pytest.raises(KeyboardInterrupt):
            dc.run(study, store)
