"""Many deltas evaluated in shared passes: the predictions of each by itself, for the passes of one."""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import replace

import picostudy
import pytest
import torch
from passes import backbone_of

import deltacompose as dc
from deltacompose.backbone.pico import pico_backbone
from deltacompose.cells.carry_out import carry_out
from deltacompose.cells.loaded import backbone_of as loaded_backbone
from deltacompose.cells.loaded import forget
from deltacompose.cells.worker_sources import Sources, options_of
from deltacompose.delta import Delta
from deltacompose.errors import BadInput, Diverged
from deltacompose.scoring import reader
from deltacompose.store import open_store
from deltacompose.task import Example, Task
from deltacompose.training import evaluate, evaluate_many, train
from deltacompose.training.evaluation import MOST
from deltacompose.training.learner import Job

TEXTS = ["a", "the sea", "it rains again", "dry", "cold and wet days", "x y"]
LABELS = {"low": "low", "mid": "mid", "top": "top"}


def choice(split):
    return tuple(Example(str(k), text, list(LABELS)[k % 3]) for k, text in enumerate(TEXTS))


def speech(split):
    return tuple(Example(str(k), text, f"{text}!") for k, text in enumerate(TEXTS))


CHOICE = Task("height", "made", "choice", "accuracy", choice, "{input} is", LABELS)
SPEECH = Task("shout", "made", "generation", "exact_match", speech)
CASES = [
    ("bert", None, CHOICE),
    ("roberta", "mlm", CHOICE),
    ("t5", None, CHOICE),
    ("t5", None, SPEECH),
    ("gpt2", None, CHOICE),
    ("gpt2", None, SPEECH),
]


def delta_of(backbone, text, seed, scale=0.3):
    """A delta whose tensors are random, so that deltas of several seeds answer differently."""
    source = torch.Generator().manual_seed(seed)
    weights = {n: scale * torch.randn(x.shape, generator=source) for n, x in dc.init_weights(backbone, text).items()}
    return Delta(dc.parse(text), weights)


@contextmanager
def passes(backbone):
    """Counts the calls of the model that holds the layers, or of each stack of a sequence-to-sequence model."""
    counts = []
    modules = [backbone.model.get_submodule(backbone.stream(name).module) for name in backbone.streams]
    handles = [module.register_forward_hook(lambda *_: counts.append(1)) for module in modules]
    try:
        yield counts
    finally:
        for handle in handles:
            handle.remove()


@pytest.mark.parametrize("text", ["lora(rank=2)", "prompt(length=2) + prefix(length=2) + bitfit", "adapter >> ia3"])
@pytest.mark.parametrize(("family", "head", "task"), CASES, ids=lambda case: getattr(case, "name", case))
def test_many_deltas_get_the_predictions_of_each_by_itself(family, head, task, text):
    backbone = backbone_of(family, head)
    read = reader(backbone, task, 64)
    deltas = [delta_of(backbone, text, seed, 1.0) for seed in range(4)]
    alone = [evaluate(read, delta, "test") for delta in deltas]
    assert len({prediction for each in alone for prediction in each.predictions}) > 1, "equal answers show nothing"
    together = evaluate_many(read, deltas, "test")
    assert [each.predictions for each in together] == [each.predictions for each in alone]
    assert [each.score.value for each in together] == [each.score.value for each in alone]


def test_deltas_of_several_compositions_and_the_untouched_backbone_come_back_in_their_order():
    backbone = backbone_of("bert")
    read = reader(backbone, CHOICE, 64)
    deltas = [
        delta_of(backbone, "bitfit", 0),
        None,
        delta_of(backbone, "lora(rank=2)", 0),
        delta_of(backbone, "bitfit", 1),
    ]
    together = evaluate_many(read, deltas, "test")
    assert [each.predictions for each in together] == [evaluate(read, delta, "test").predictions for delta in deltas]
    assert evaluate_many(read, [], "test") == []


@pytest.mark.parametrize(("family", "task"), [("bert", CHOICE), ("t5", CHOICE), ("gpt2", CHOICE), ("t5", SPEECH)])
def test_the_passes_of_many_deltas_on_a_few_examples_are_those_of_one(family, task):
    backbone = backbone_of(family)
    read = reader(backbone, task, 64)
    deltas = [delta_of(backbone, "lora(rank=2)", seed) for seed in range(MOST)]
    counts = []
    for group in (deltas[:1], deltas):
        with passes(backbone) as passed:
            evaluate_many(read, group, "test", budget=1 << 14)
        counts.append(len(passed))
    attaching = 2 * len(backbone.streams)
    assert counts[1] <= counts[0] + attaching + 8, "generation and open rows may take some passes more than one delta's"


def test_a_small_budget_changes_passes_and_no_prediction():
    backbone = backbone_of("t5")
    read = reader(backbone, CHOICE, 64)
    deltas = [delta_of(backbone, "bitfit", seed) for seed in range(3)]
    whole = evaluate_many(read, deltas, "test")
    assert evaluate_many(read, deltas, "test", budget=8) == whole


def test_a_delta_whose_scores_are_no_numbers_fails_alone():
    backbone = backbone_of("bert")
    read = reader(backbone, CHOICE, 64)
    good, bad = delta_of(backbone, "bitfit", 0), delta_of(backbone, "bitfit", 1)
    bad = replace(bad, weights={n: torch.full_like(x, torch.nan) for n, x in bad.weights.items()})
    first, second, third = evaluate_many(read, [good, bad, good], "test")
    assert isinstance(second, Diverged)
    assert first == third == evaluate(read, good, "test")


def test_a_delta_of_another_backbone_is_refused():
    delta = delta_of(backbone_of("bert"), "bitfit", 0)
    delta = replace(delta, backbone={"name": "bert", "family": "bert", "fingerprint": "0" * 64})
    with pytest.raises(BadInput, match="was trained on bert"):
        evaluate_many(reader(backbone_of("bert"), CHOICE, 64), [delta], "test")


def test_a_transfer_matrix_takes_a_pass_for_each_target_and_not_for_each_source(tmp_path):
    study = picostudy.make(tmp_path, tasks=("mood", "tone", "tune"), seeds=(0, 1))
    dc.run(study, tmp_path / "store")
    cells = [cell for _, cell in dc.plan(study).nodes(data="cell") if cell.kind == "evaluate" and cell.parents]
    store, again = open_store(tmp_path / "store"), open_store(tmp_path / "again")
    for record in store.records("train"):
        folder = store.folder(record["key"])
        copied = again.folder(record["key"])
        copied.parent.mkdir(parents=True, exist_ok=True)
        folder.rename(copied)
    forget()
    backbone, passed = loaded_backbone(Sources.of(study).backbone), []
    handle = backbone.model.register_forward_hook(lambda *_: passed.append(1))
    try:
        for target in study.tasks:
            own = [cell for cell in cells if cell.spec["target"] == target]
            plain = [{"kind": "evaluate", "spec": dict(cell.spec), "parents": list(cell.parents)} for cell in own]
            carry_out({"store": str(again.root), "cells": plain, "options": options_of(study)})
    finally:
        handle.remove()
    assert len(cells) == 3 * (3 + 1) * 2, "three sources and a random delta on each of three targets, for two seeds"
    assert len(passed) <= 3 * 4, "inputs and candidates of a target in one pass each, and the passes of attaching"
    for cell in cells:
        assert again.record(cell.key)["result"] == store.record(cell.key)["result"]
    forget()


def test_learners_of_one_task_are_evaluated_in_shared_passes():
    backbone = pico_backbone("bert")
    recipe = dc.Recipe(steps=2, batch=4, evaluate_every=1, limit=32)
    read, counts = reader(backbone, CHOICE, 32), []
    for seeds in (range(1), range(4)):
        with passes(backbone) as passed:
            train(backbone, [Job(dc.parse("bitfit"), read, seed, recipe) for seed in seeds])
        counts.append(len(passed))
    assert counts[1] == counts[0]
