"""Studies carried out for real on pico backbones: banks, sequences, grids, failures, and what is never redone."""

from __future__ import annotations

import io
import json
import random
import re
from collections import Counter
from dataclasses import replace

import pytest
import torch
from picostudy import broken_off

import deltacompose as dc
from deltacompose import api
from deltacompose.analysis.interaction import runs_of_store as stored
from deltacompose.analysis.interaction.runs import runs
from deltacompose.analysis.interaction.selection import choose
from deltacompose.backbone.pico import pico, pico_tokenizer
from deltacompose.cells import carry_out as work
from deltacompose.cells import loaded
from deltacompose.cells import train as train_cells
from deltacompose.cells.evaluate_delta import randomised
from deltacompose.cells.study_facts import facts
from deltacompose.cells.task_data import Cut
from deltacompose.cells.worker_sources import Sources, options_of
from deltacompose.engine import shown
from deltacompose.errors import BadInput
from deltacompose.store import open_store
from deltacompose.study import BackboneChoice, Study
from deltacompose.study.recipe import Recipe
from deltacompose.training import memory as footprint

WORDS = {"good": ["bright", "kind", "calm"], "bad": ["grim", "rude", "torn"]}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A pico BERT in a folder, and two tasks with rows of their own."""
    place = tmp_path_factory.mktemp("work")
    pico("bert").save_pretrained(place / "bert")
    pico_tokenizer("bert").save_pretrained(place / "bert")
    for name, seed in (("mood", 0), ("tone", 1)):
        source = random.Random(seed)
        rows = []
        for split, count in (("train", 40), ("val", 12), ("test", 12)):
            for k in range(count):
                label = ("good", "bad")[k % 2]
                text = f"{name} {split} {k} {source.choice(WORDS[label])}"
                rows.append({"split": split, "input": text, "target": label})
        (place / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return place


def own(name):
    return {
        "path": f"{name}.jsonl",
        "data": {"split": "split"},
        "columns": {"input": "input", "target": "target"},
        "category": "mood",
        "metric": "accuracy",
        "verbalizer": {"bad": "bad", "good": "good"},
    }


@pytest.fixture
def study(folder):
    return Study(
        name="pico",
        tasks=("mood", "tone"),
        compositions=("bitfit",),
        backbone=BackboneChoice(model=str(folder / "bert")),
        seeds=(0, 1),
        training=Recipe(steps=4, batch=4, evaluate_every=2, limit=32),
        transfer=True,
        own_tasks={name: own(name) for name in ("mood", "tone")},
        folder=str(folder),
    )


def records(store, kind):
    return [record for record in dc.records(store) if record["kind"] == kind]


def scores(store):
    return {json.dumps(r["spec"], sort_keys=True): r["result"]["score"] for r in records(store, "evaluate")}


def histories(store):
    return {r["key"]: [(h["step"], h["score"]) for h in r["result"]["history"]] for r in records(store, "train")}


def test_a_study_is_carried_out_once_and_then_found(study, tmp_path):
    first = dc.run(study, tmp_path)
    assert len(first.done) == 2 + 4 + 8 + 4
    assert not first.failed
    second = dc.run(study, tmp_path)
    assert (second.done, len(second.stored)) == ((), 18)


def test_every_evaluation_keeps_a_prediction_for_every_example(study, tmp_path):
    dc.run(study, tmp_path)
    store = open_store(tmp_path)
    for record in records(tmp_path, "evaluate"):
        lines = (store.folder(record["key"]) / "predictions.jsonl").read_text().splitlines()
        rows = [json.loads(line) for line in lines]
        assert len(rows) == record["result"]["examples"] == 12
        assert record["result"]["score"] == pytest.approx(sum(row["score"] for row in rows) / 12)
        assert all((row["prediction"] == row["target"]) == bool(row["score"]) for row in rows)


def test_the_size_of_the_bank_changes_no_score(study, tmp_path):
    study = replace(study, compositions=("prompt(length=2) + lora(rank=2) + adapter(bottleneck=2)",))
    for bank in (1, 4):
        dc.run(study, tmp_path / str(bank), bank=bank)
    assert scores(tmp_path / "1") == scores(tmp_path / "4")
    assert histories(tmp_path / "1") == histories(tmp_path / "4")


def test_sequences_that_begin_alike_share_what_is_trained(study, tmp_path):
    sequences = ("bitfit", "bitfit >> lora", "bitfit >> lora >> adapter")
    study = replace(study, tasks=("mood",), seeds=(0,), compositions=sequences)
    dc.run(study, tmp_path)
    assert len(records(tmp_path, "train")) == 3
    said = "sequences with the same first stages share their training: 3 trainings of a stage in place of 6"
    assert said in api.notes(study)
    assert not any("same first stages" in note for note in api.notes(replace(study, compositions=("bitfit", "lora"))))


def test_a_neutral_stage_starts_where_the_last_one_left_off(study, tmp_path):
    study = replace(study, tasks=("mood",), compositions=("bitfit >> lora(rank=2)",))
    dc.run(study, tmp_path)
    trained = {(r["spec"]["seed"], r["spec"]["stage"]): r["result"] for r in records(tmp_path, "train")}
    for seed in (0, 1):
        assert trained[seed, 1]["history"][0]["score"] == trained[seed, 0]["dev"]


def test_a_grid_is_chosen_from_on_development_data_alone(study, tmp_path):
    study, lines = replace(study, grid=(0.1, 1.0, 10.0), transfer=False, tasks=("mood",)), io.StringIO()
    with shown(lines) as progress:
        dc.run(study, tmp_path, progress=progress)
    assert re.search(r"done: select bitfit on mood, [\d.]+ s(; .+ left)?$", lines.getvalue(), re.MULTILINE)
    [chosen] = records(tmp_path, "select")
    dev: dict[float, list[float]] = {}
    for record in records(tmp_path, "train"):
        dev.setdefault(record["spec"]["grid"], []).append(record["result"]["dev"])
    means = {factor: sum(values) / len(values) for factor, values in dev.items()}
    assert means[chosen["result"]["grid"]] == max(means.values())
    found = [(r["spec"], r["result"]["score"]) for r in records(tmp_path, "evaluate") if r["spec"]["source"] == "mood"]
    final = {spec["seed"]: score for spec, score in found if spec["grid"] is None}
    every = {(spec["seed"], spec["grid"]): score for spec, score in found if spec["grid"] is not None}
    assert final == {seed: every[seed, chosen["result"]["grid"]] for seed in (0, 1)}
    found = runs(stored.rows(dc.records(tmp_path)), stored.COLUMNS, ["bitfit"])
    assert choose(found, "dev")["bitfit", "mood"].grid == str(chosen["result"]["grid"])
    assert choose(found, "dev")["bitfit", "mood"].values == 3


def test_training_may_start_from_another_tasks_weights(study, tmp_path):
    study = replace(study, start_from=("mood",), seeds=(0,), transfer=False)
    dc.run(study, tmp_path)
    [started] = [r for r in records(tmp_path, "train") if r["spec"]["start"]]
    assert (started["spec"]["start"], started["spec"]["task"]) == ("mood", "tone")
    assert dc.transfer_matrix(tmp_path, "bitfit").seeds == (0,)


def test_few_shots_are_drawn_anew_for_each_seed(study, tmp_path):
    study = replace(study, shots=2, transfer=False, tasks=("mood",))
    dc.run(study, tmp_path)
    keys = {record["key"] for record in records(tmp_path, "train")}
    assert len(keys) == 2
    whole = loaded.present_task(loaded.TaskSource("mood", Sources.of(study).own_tasks))
    drawn = [Cut(shots=2, seed=seed).of(whole) for seed in (0, 1)]
    assert [len(task.examples("train")) for task in drawn] == [4, 4]
    assert drawn[0].examples("train") != drawn[1].examples("train")


def test_a_diverging_training_fails_alone_and_blocks_what_reads_it(study, tmp_path):
    recipe = replace(study.training, learning_rates={"lora": 1e30}, clip=1e30)
    study = replace(study, compositions=("bitfit", "lora"), training=recipe)
    outcome = dc.run(study, tmp_path, bank=4)
    assert {reason.partition(":")[0] for reason in outcome.failed.values()} == {"Diverged"}
    assert all("lora" in reason for reason in outcome.failed.values())
    assert dc.transfer_matrix(tmp_path, "bitfit").failed.sum() == 0
    assert len(outcome.blocked) == 8 + 4


def test_an_interrupted_training_goes_on_to_the_same_weights(study, tmp_path, monkeypatch):
    study = replace(study, tasks=("mood",), seeds=(0,), compositions=("prompt(length=2) + lora(rank=2, dropout=0.1)",))
    dc.run(study, tmp_path / "whole")
    broken_off(study, tmp_path / "broken", monkeypatch, lambda cell, step: step == 2)
    dc.run(study, tmp_path / "broken")
    assert weights(tmp_path / "broken") == weights(tmp_path / "whole")


def weights(store):
    """The checksums of all trained tensors."""
    return {record["key"]: record["files"]["delta.safetensors"] for record in records(store, "train")}


@pytest.mark.parametrize("written", [0, 1, 3, 5, 8])
def test_a_bank_that_ends_between_two_checkpoints_goes_on_as_it_was(study, tmp_path, monkeypatch, written):
    """Three deltas with three evaluations write nine states."""
    recipe = replace(study.training, batch=2)
    study = replace(study, tasks=("mood",), seeds=(0, 1, 2), transfer=False, training=recipe)
    study = replace(study, compositions=("prompt(length=2) + lora(rank=2, dropout=0.1)",))
    dc.run(study, tmp_path / "whole", bank=3)
    write, count = train_cells.write_state, []

    def write_or_stop(state, folder):
        if len(count) == written:
            raise KeyboardInterrupt
        count.append(folder)
        write(state, folder)

    with monkeypatch.context() as patched:
        patched.setattr(train_cells, "write_state", write_or_stop)
        with pytest.raises(KeyboardInterrupt):
            dc.run(study, tmp_path / "broken", bank=3)
    dc.run(study, tmp_path / "broken", bank=1 if written else 3)
    assert weights(tmp_path / "broken") == weights(tmp_path / "whole")
    assert histories(tmp_path / "broken") == histories(tmp_path / "whole")
    kinds = {key: cell.kind for key, cell in dc.plan(study).nodes(data="cell")}
    starts = [event["keys"] for event in open_store(tmp_path / "broken").events() if event["event"] == "start"]
    banks = [keys for keys in starts if kinds[keys[0]] == "train"]
    assert len(banks) == 2
    assert banks[0] == banks[1]


def test_a_random_delta_has_the_norms_of_the_trained_one_and_nothing_else_of_it(study, tmp_path):
    dc.run(study, tmp_path)
    [record, *_] = records(tmp_path, "train")
    trained = dc.load_delta(open_store(tmp_path).folder(record["key"]))
    drawn = randomised(trained, 0)
    for name, tensor in trained.weights.items():
        assert float(drawn.weights[name].norm()) == pytest.approx(float(tensor.norm()), rel=1e-5)
        assert not (drawn.weights[name] == tensor).all() or not tensor.any()


def test_another_backbone_than_the_plans_is_refused(study, tmp_path):
    plan = dc.plan(study)
    cell = next(cell for _, cell in plan.nodes(data="cell") if cell.kind == "train")
    spec = {"kind": cell.kind, "spec": {**cell.spec, "backbone": "0" * 64}, "parents": []}
    open_store(tmp_path)
    with pytest.raises(BadInput, match=r"changed after the study was planned \(content 000000000000 then"):
        work.carry_out({"store": str(tmp_path), "cells": [spec], "options": options_of(study)})


def test_unknown_names_in_a_study_say_what_exists(study, tmp_path):
    for change, said in (
        ({"tasks": ("mod",)}, "no task 'mod'"),
        ({"compositions": ("lroa",)}, "did you mean 'lora'"),
        ({"backbone": BackboneChoice(model="nowhere/at-all")}, "nowhere/at-all"),
    ):
        with pytest.raises(BadInput, match=said):
            dc.run(replace(study, **change), tmp_path)
    with pytest.raises(BadInput, match="no engine 'pol'; did you mean 'pool'"):
        dc.run(study, tmp_path, engine="pol")


def test_the_cost_of_one_delta_is_measured_in_a_process_of_its_own(study, tmp_path):
    study = replace(study, tasks=("mood",), seeds=(0,), transfer=False, efficiency=True, compositions=("lora",))
    dc.run(study, tmp_path)
    trained = {r["spec"]["composition"]: r["result"] for r in records(tmp_path, "train")}
    assert not list(open_store(tmp_path).records(state="failed"))
    for record in records(tmp_path, "efficiency"):
        found = record["result"]
        assert found["parameters"] == trained[record["spec"]["composition"]]["parameters"]
        assert found["peak_memory"] >= found["backbone_memory"] > 0
        assert found["seconds_per_step"] > 0
        assert found["checkpoint"] > 4 * found["parameters"]
        assert found["training_operations"] > found["inference_operations"] > found["extra_operations"] >= 0
        assert found["latency_1"] > 0
        assert found["latency_16"] > 0


def test_memory_is_counted_from_when_training_begins():
    freed = torch.ones(75_000_000)
    del freed
    device = torch.device("cpu")
    before = footprint.count_anew(device)
    assert footprint.peak(device) - before < 100_000_000
    used = torch.ones(50_000_000)
    assert 150_000_000 < footprint.peak(device) - before < 300_000_000
    assert len(used) > 0


def test_a_trainings_peak_memory_is_its_own_and_not_that_of_what_was_before(study, tmp_path):
    freed = torch.ones(200_000_000)  # 800 MB
    del freed
    highest = footprint.peak(torch.device("cpu"))
    dc.run(replace(study, tasks=("mood",), seeds=(0,)), tmp_path)
    [record] = records(tmp_path, "train")
    assert 0 < record["result"]["peak_memory"] < highest - 300_000_000


def test_a_training_keeps_the_development_predictions_of_the_checkpoint_that_was_kept(study, tmp_path):
    dc.run(study, tmp_path)
    store = open_store(tmp_path)
    for record in records(tmp_path, "train"):
        folder = store.folder(record["key"])
        rows = [json.loads(line) for line in (folder / "predictions.jsonl").read_text().splitlines()]
        assert record["result"]["dev"] == pytest.approx(sum(row["score"] for row in rows) / len(rows))
        assert all((row["prediction"] == row["target"]) == bool(row["score"]) for row in rows)
        assert "dev_predictions" not in record["result"]


def test_a_budget_of_tokens_makes_banks_smaller_and_changes_nothing_else(study, tmp_path):
    study = replace(study, seeds=(0, 1, 2), transfer=False)
    dc.run(study, tmp_path / "wide", bank=6)
    dc.run(study, tmp_path / "narrow", bank=6, tokens=1)
    assert sizes(tmp_path / "wide") == [6]
    assert sizes(tmp_path / "narrow") == [1] * 6
    assert scores(tmp_path / "wide") == scores(tmp_path / "narrow")
    known = facts(study).tasks["mood"]
    one = 4 * (known.lengths.padded + known.lengths.answer)
    dc.run(study, tmp_path / "two", bank=6, tokens=int(2.5 * one))
    assert sizes(tmp_path / "two") == [2, 2, 2]


def sizes(store):
    """How many trainings each group had that was given to a worker."""
    starts = (event["labels"] for event in open_store(store).events() if event["event"] == "start")
    return [len(labels) for labels in starts if labels[0].startswith("train")]


def test_the_latest_development_score_is_read_from_a_checkpoint(tmp_path):
    store, key = open_store(tmp_path), "ab" * 32
    assert work.under_way(store, key) is None
    history = [{"step": 0, "score": 0.5}, {"step": 8, "score": 0.75, "loss": 0.1}]
    for upto in (0, 1, 2):
        state = json.dumps({"history": history[:upto]})
        store.save_checkpoint(key, lambda folder, state=state: (folder / "state.json").write_text(state) and None)
    assert work.under_way(store, key) == {"step": 8, "score": 0.75}


def test_examples_are_put_into_tokens_once_whatever_seeds_choose_among_them(study, monkeypatch):
    """Few-shot cells of several seeds read other training examples, and the same test examples."""
    loaded.forget()
    source = loaded.TaskSource("mood", Sources.of(study).own_tasks)
    backbone, fingerprint = loaded.backbone_of(Sources.of(study).backbone), loaded.present_task(source).fingerprint
    read, tokens = Counter(), type(backbone.tokenizer).__call__

    def counted(tokenizer, text, *arguments, **options):
        read[text] += 1
        return tokens(tokenizer, text, *arguments, **options)

    monkeypatch.setattr(type(backbone.tokenizer), "__call__", counted)
    for seed in range(3):
        reader = loaded.reader_of_content(backbone, source, fingerprint, Cut(shots=2, seed=seed), 32)
        for split in ("train", "val", "test"):
            reader.rows(split)
    texts = [example.input for example in loaded.present_task(source).examples("test")]
    assert texts
    assert {read[text] for text in texts} == {1}
    loaded.forget()
