"""Loggers of a run: TensorBoard's event files, JSON lines, W&B offline, and one that a stranger gives."""

from __future__ import annotations

import json
import sys
import types

import picostudy
import pytest
from cellwork import plan_of, study, training
from deltacompose_plugins.engines.inprocess import inprocess
from deltacompose_plugins.loggers.jsonl import jsonl
from deltacompose_plugins.loggers.tensorboard import tensorboard
from deltacompose_plugins.loggers.wandb import wandb

import deltacompose as dc
from deltacompose.engine import run_plan
from deltacompose.engine.loggers import Run, logging_to
from deltacompose.errors import BadInput
from deltacompose.store import open_store

MAKERS = {"jsonl": jsonl, "tensorboard": tensorboard, "wandb": wandb}
WORK = "cellwork:carry_out"


def logged(plan, store, *targets, makers=MAKERS):
    with logging_to(targets, makers, Run("mine", store.root), store) as tell:
        return run_plan(plan, store, inprocess({}), WORK, {"backoff": 0.01}, tell)


def test_a_file_has_every_event_and_the_results_of_finished_cells(tmp_path):
    store, path = open_store(tmp_path / "store"), tmp_path / "logs" / "run.jsonl"
    logged(study(2, 1), store, str(path))
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    assert [line["event"] for line in lines] == [event["event"] for event in store.events()]
    done = [line for line in lines if line["event"] == "done"]
    assert len(done) == 6
    for line in done:
        record = store.record(line["key"])
        assert (line["study"], line["result"], line["spec"]) == ("mine", record["result"], record["spec"])


def test_tensorboard_has_the_curves_of_a_real_training(tmp_path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    made = picostudy.make(tmp_path, seeds=(0,), tasks=("mood",))
    dc.run(made, tmp_path / "store", log_to="tensorboard", progress=False)
    events = EventAccumulator(str(tmp_path / "store" / "tensorboard"))
    events.Reload()
    [record] = open_store(tmp_path / "store").records("train")
    label = "train bitfit on mood, seed 0"
    curve = [(point.step, point.value) for point in events.Scalars(f"dev/{label}")]
    expected = [(entry["step"], entry["score"]) for entry in record["result"]["history"]]
    assert [step for step, _ in curve] == [step for step, _ in expected]
    assert [value for _, value in curve] == pytest.approx([score for _, score in expected])
    losses = {point.step: point.value for point in events.Scalars(f"loss/{label}")}
    assert losses == pytest.approx({e["step"]: e["loss"] for e in record["result"]["history"] if e["loss"] is not None})
    [evaluated] = [r for r in open_store(tmp_path / "store").records("evaluate") if r["spec"]["source"] == "mood"]
    name = "score/evaluate bitfit from mood to mood, seed 0"
    assert [point.value for point in events.Scalars(name)] == pytest.approx([evaluated["result"]["score"]])
    assert events.Scalars("progress/settled")[-1].value == 1


def test_wandb_is_offline_and_has_each_point_once(tmp_path, monkeypatch):
    calls, points, ended = [], [], []
    run = types.SimpleNamespace(log=points.append, finish=lambda: ended.append(True))
    fake = types.SimpleNamespace(init=lambda **options: calls.append(options) or run)
    monkeypatch.setitem(sys.modules, "wandb", fake)
    monkeypatch.delenv("WANDB_MODE", raising=False)
    store = open_store(tmp_path)
    logged(plan_of(training()), store, "wandb:thesis")
    assert calls == [{"project": "thesis", "name": "mine", "dir": str(tmp_path), "mode": "offline"}]
    names = [next(iter(point)) for point in points]
    assert "seconds/train lora on sst2, seed 0" in names
    assert len(names) == len(set(names))
    assert ended == [True]


def test_a_strangers_logger_is_used_by_its_name(tmp_path):
    taken = []

    class Mine:
        def log(self, event, record):
            taken.append((event["event"], record is not None))

        def close(self):
            taken.append(("closed", False))

    logged(plan_of(training()), open_store(tmp_path), "mine:here", makers={"mine": lambda target, run: Mine()})
    assert ("done", True) in taken
    assert taken[-1] == ("closed", False)


def test_a_logger_that_fails_is_left_out_and_the_run_goes_on(tmp_path):
    class Broken:
        def log(self, event, record):
            raise OSError("the disk is full")

        def close(self):
            pass

    store = open_store(tmp_path)
    with pytest.warns(UserWarning, match="the logger broken is no longer used: OSError: the disk is full"):
        outcome = logged(study(1, 1), store, "broken", makers={"broken": lambda target, run: Broken()})
    assert not outcome.failed


@pytest.mark.parametrize(
    ("target", "sentence"),
    [
        ("tensorbord", "no logger 'tensorbord'.*or a file of JSON lines, whose name ends in .jsonl"),
        ("run.txt", "no logger 'run.txt'"),
        ("/proc/nowhere/run.jsonl", "cannot write the log"),
    ],
)
def test_a_target_that_is_no_logger_is_refused_before_the_run(tmp_path, target, sentence):
    with pytest.raises(BadInput, match=sentence):
        logged(plan_of(training()), open_store(tmp_path), target)


def test_a_logger_whose_library_is_missing_says_how_to_install_it(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "wandb", None)
    with pytest.raises(BadInput, match="the logger wandb needs wandb: pip install"):
        logged(plan_of(training()), open_store(tmp_path), "wandb")
