"""The engine at work on real trainings: what is killed, stopped, late or without room ends as if nothing had been."""

from __future__ import annotations

import runpy
import shutil
import signal
from pathlib import Path

import campaign
import pytest
import realwork
from deltacompose_plugins.engines.inprocess import inprocess

import deltacompose as dc
from deltacompose.cells.worker_sources import options_of
from deltacompose.engine import run_plan
from deltacompose.errors import BadInput
from deltacompose.store import open_store

LIMIT = 600.0
LATE = "TimeoutError: not finished within its limit of 600 s"


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    return realwork.study(tmp_path_factory.mktemp("study"), tasks=("mood", "tone"), compositions=("lora(rank=2)",))


@pytest.fixture(scope="module")
def left_alone(study, tmp_path_factory):
    """The store of the study when nothing happens."""
    place = tmp_path_factory.mktemp("undisturbed")
    dc.run(study, place, bank=1)
    return open_store(place)


@pytest.fixture(scope="module")
def undisturbed(left_alone):
    return realwork.contents(left_alone)


def carried_out(study, place, function, **options):
    """The store and what became of the cells, where `realwork` has a hand in it."""
    store = open_store(place / "store")
    how = {"bank": 1, "backoff": 0.01, "folder": str(place)} | options
    job = realwork.job_of(f"realwork:{function}")
    return store, run_plan(dc.plan(study), store, inprocess({}), job, options_of(study) | how)


def events(store, name):
    return [event for event in store.events() if event["event"] == name]


def test_a_bank_without_room_is_halved_until_it_has_and_no_weight_changes(study, tmp_path):
    store, outcome = carried_out(study, tmp_path, "greedy", bank=4)
    assert not outcome.failed
    banks = [len(event["keys"]) for event in events(store, "start") if event["labels"][0].startswith("train")]
    assert banks == [4, 2, 2]
    assert {event["reason"] for event in events(store, "again")} == {"OutOfMemoryError: no room for so many deltas"}
    dc.run(study, tmp_path / "pairs", bank=2)
    assert realwork.contents(store) == realwork.contents(open_store(tmp_path / "pairs"))


def test_a_training_that_was_too_slow_goes_on_from_its_checkpoint(study, undisturbed, tmp_path):
    store, outcome = carried_out(study, tmp_path, "hesitant", timeout=LIMIT, attempts=2, times=1)
    assert not outcome.failed
    (again,) = events(store, "again")
    assert again["reason"] == LATE
    assert again["pause"] == 0.01
    assert realwork.contents(store) == undisturbed


def test_a_training_that_is_always_too_slow_fails_alone(study, undisturbed, tmp_path):
    store, outcome = carried_out(study, tmp_path, "hesitant", timeout=LIMIT, attempts=1, times=1)
    (failed,) = outcome.failed
    cell = outcome.plan.nodes[failed]["cell"]
    assert (cell.kind, cell.spec["task"], cell.spec["seed"]) == ("train", "mood", 1)
    assert outcome.failed[failed] == LATE
    assert set(outcome.blocked) == set(outcome.plan.successors(failed))
    assert realwork.contents(store).items() <= undisturbed.items()
    assert len(outcome.done) == len(undisturbed) - 1 - len(outcome.blocked)


def test_a_training_whose_network_is_away_is_tried_again_with_longer_and_longer_pauses(study, undisturbed, tmp_path):
    store, outcome = carried_out(study, tmp_path, "unreliable", attempts=3, times=2)
    assert not outcome.failed
    assert [event["reason"] for event in events(store, "again")] == ["OSError: the network is away"] * 2
    assert [event["pause"] for event in events(store, "again")] == [0.01, 0.02]
    assert realwork.contents(store) == undisturbed


def test_a_training_whose_network_stays_away_fails_with_the_reason_and_its_attempts(study, tmp_path):
    store, outcome = carried_out(study, tmp_path, "unreliable", attempts=2, times=9)
    (failed,) = outcome.failed
    assert outcome.failed[failed] == "OSError: the network is away"
    assert store.failure(failed)["attempts"] == 2


@pytest.mark.slow
def test_sigterm_inside_a_training_stops_the_run_and_the_next_one_ends_alike(study, undisturbed, tmp_path):
    """`test_driver.py` sends signals to every engine, over cells that import no torch."""
    file, place = Path(study.folder) / "study.yaml", tmp_path / "store"
    study.write(file)
    (marks := tmp_path / "marks").mkdir()
    (marks / "stand").touch()
    driver = campaign.start(place, engine="inprocess", study=file, marks=str(marks))
    campaign.until((marks / "standing").exists, driver)
    driver.send_signal(signal.SIGTERM)
    assert driver.wait(campaign.PATIENCE) == 130
    (marks / "stand").unlink()
    store = open_store(place)
    assert store.verify() == []
    assert list((store.root / "tmp").iterdir()) == []
    assert [event["reason"] for event in events(store, "stop")] == ["KeyboardInterrupt"]
    assert len(store.keys()) < len(undisturbed)
    dc.run(study, place, bank=1)
    assert realwork.contents(store) == undisturbed


@pytest.mark.thorough
def test_nothing_is_lost_or_changed_when_driver_and_workers_are_killed_in_real_trainings(study, left_alone, tmp_path):
    """By this seed a worker and then a driver; `make campaign` kills fifty over a larger study."""
    study.write(file := Path(study.folder) / "study.yaml")
    shutil.copytree(left_alone.root, tmp_path / "undisturbed")
    report = campaign.kills(tmp_path, kills=2, seed=10, field=campaign.real(file))
    assert report["kills"] == 2
    assert report["inside a step or a write"] >= 1
    assert (report["cells lost"], report["half-written reads"], report["differences"]) == (0, 0, 0)
    assert report["cells"] == report["rounds"] * len(left_alone.keys())
    assert report["steps lost by a kill, at most"] <= realwork.EVERY


# The time left


ETA = runpy.run_path(str(Path(__file__).parents[2] / "studies" / "speed" / "eta_error.py"))


def test_a_real_runs_log_tells_how_far_its_predictions_were_from_the_truth(left_alone):
    found = ETA["errors"](left_alone.events())
    assert found["cells"] == len(left_alone.keys())
    moments = found["predictions"]
    assert [row["cells_done"] for row in moments] == [0.25, 0.5, 0.75]
    assert found["seconds"] >= moments[0]["true"] >= moments[1]["true"] >= moments[2]["true"] >= 0
    assert all(row["predicted"] >= 0 and row["error"] > -1 for row in moments)


def line(run, event, elapsed, eta):
    return {"run": run, "event": event, "elapsed": elapsed, "eta": eta}


def test_the_error_of_a_prediction_is_of_the_time_that_was_left():
    done = [line("b", "done", 10.0 * n, 33.0 - 3 * n) for n in range(1, 9)]
    other = [line("a", "done", 1.0, 1.0), line("a", "end", 2.0, 0.0), line("c", "done", 1.0, 5.0)]
    found = ETA["errors"]([*other[:2], *done[:4], other[2], *done[4:], line("b", "end", 90.0, 0.0)])
    assert found == {
        "cells": 8,
        "seconds": 90.0,
        "predictions": [
            {"cells_done": 0.25, "predicted": 27.0, "true": 70.0, "error": -0.614},
            {"cells_done": 0.5, "predicted": 21.0, "true": 50.0, "error": -0.58},
            {"cells_done": 0.75, "predicted": 15.0, "true": 30.0, "error": -0.5},
        ],
    }


@pytest.mark.parametrize("events", [[], [line("a", "done", 1.0, 2.0)], [line("a", "run", 0.0, None)] * 2])
def test_a_log_without_a_finished_run_has_no_error_of_prediction(events):
    with pytest.raises(BadInput, match="no run that computed cells and came to its end; let one finish first"):
        ETA["errors"](events)
