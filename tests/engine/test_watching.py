"""A store watched from another process: what is done, how fast, and with which scores."""

from __future__ import annotations

import dataclasses
import datetime
import io
import re
import time

import pytest
from cellwork import evaluation, plan_of, study, training
from deltacompose_plugins.engines.inprocess import inprocess
from rich.console import Console
from typer.testing import CliRunner

from deltacompose.cli import app
from deltacompose.cli.watch import page, summary
from deltacompose.engine import run_plan
from deltacompose.engine.watching import Watch
from deltacompose.store import open_store

WORK = "cellwork:carry_out"


def run(plan, store):
    return run_plan(plan, store, inprocess({}), WORK, {"backoff": 0.01})


def printed(snapshot, width=100):
    stream = io.StringIO()
    Console(file=stream, width=width, color_system=None).print(page(snapshot, "results/mine"))
    return stream.getvalue()


def test_an_empty_store_has_no_cells_and_no_run(tmp_path):
    snapshot = Watch(open_store(tmp_path)).look()
    assert set(snapshot.counts.values()) == {0}
    assert (snapshot.active, snapshot.rate, snapshot.eta, snapshot.scores) == (False, None, None, ())
    assert "no run is active" in summary(snapshot)


def test_a_finished_run_is_counted_by_state_and_by_kind_with_its_failures(tmp_path):
    store = open_store(tmp_path)
    bad = training("bad", act="raise")
    run(plan_of(training(), bad, evaluation(bad, "imdb")), store)
    snapshot = Watch(store).look()
    expected = {"cells": 3, "done": 1, "running": 0, "waiting": 0, "failed": 1, "blocked": 1}
    assert snapshot.counts == expected
    assert [(row["kind"], row["done"], row["failed"]) for row in snapshot.kinds] == [("train", 1, 1)]
    assert snapshot.failures == (
        {"label": "train lora on bad, seed 0", "reason": "ValueError: the loss is not finite"},
    )
    assert not snapshot.active
    assert "train lora on bad, seed 0" in printed(snapshot)


def test_what_runs_is_seen_while_it_runs_and_scores_grow(tmp_path):
    store, seen = open_store(tmp_path), []
    watch = Watch(store)
    looks = run_plan(
        study(2, 2), store, inprocess({}), WORK, {}, lambda event: seen.append((event["event"], watch.look()))
    )
    assert len(looks.done) == len(study(2, 2))
    under_way = [snapshot for event, snapshot in seen if event == "start"]
    assert all(snapshot.active and snapshot.counts["running"] >= 1 for snapshot in under_way)
    assert under_way[0].running[0]["label"].startswith("train lora on ")
    done = [snapshot.counts["done"] for _, snapshot in seen]
    assert done == sorted(done)
    cells = {snapshot.counts["cells"] for event, snapshot in seen if event != "run"}
    assert cells == {len(study(2, 2))}
    assert all(sum(s.counts.values()) == 2 * s.counts["cells"] for _, s in seen), "the states sum to the cells"
    last = seen[-1][1]
    assert last.scores
    assert {"composition", "tasks", "seeds", "dev"} <= set(last.scores[0])


def test_a_second_look_reads_only_what_is_new(tmp_path, monkeypatch):
    store = open_store(tmp_path)
    run(study(2, 1), store)
    watch = Watch(store)
    first = watch.look()
    read = []
    intact = type(store).intact
    monkeypatch.setattr(type(store), "intact", lambda self, key: read.append(key) or intact(self, key))
    assert watch.look() == dataclasses.replace(first, rate=watch.look().rate)
    assert read == []
    run(plan_of(training("another")), store)
    assert watch.look().counts["done"] == first.counts["done"] + 1
    assert len(read) == 1


def test_half_a_line_of_the_log_is_read_when_it_is_whole(tmp_path):
    store = open_store(tmp_path)
    run(study(1, 1), store)
    path = tmp_path / "events.jsonl"
    whole = path.read_bytes()
    cut = whole.rstrip(b"\n").rfind(b"\n") + 20
    path.write_bytes(whole[:cut])
    watch = Watch(store)
    assert watch.look().active
    path.write_bytes(whole)
    assert not watch.look().active
    assert watch.look().damaged == ()


def test_damaged_lines_of_the_log_are_named_and_skipped(tmp_path):
    store = open_store(tmp_path)
    run(study(1, 1), store)
    with (tmp_path / "events.jsonl").open("ab") as file:
        file.write(b"not json\n")
    [problem] = Watch(store).look().damaged
    assert "events.jsonl" in problem


def test_the_rate_is_that_of_the_last_minutes(tmp_path):
    from deltacompose.engine.watching import _rate

    now = time.time()
    assert _rate([now - 4000, now - 60, now - 30, now - 1]) == pytest.approx(3, rel=0.1)
    assert _rate([now - 4000, now - 1]) is None


def test_the_page_fits_a_narrow_terminal_and_shows_markup_as_text(tmp_path):
    store = open_store(tmp_path)
    run(plan_of(training("[bold]a_very_long_task_name_that_goes_on[/bold]" * 2, act="raise")), store)
    text = printed(Watch(store).look(), width=60)
    assert max(map(len, text.splitlines())) <= 60
    assert "[bold]" in text.replace("\n", "")


def test_the_counts_stand_whole_below_the_bar(tmp_path):
    store = open_store(tmp_path)
    run(study(2, 1), store)
    snapshot = Watch(store).look()
    assert summary(snapshot) in [line.strip() for line in printed(snapshot, width=100).splitlines()]


def test_the_command_prints_one_page_one_document_or_lines(tmp_path):
    store = open_store(tmp_path / "store")
    run(study(2, 1), store)
    runner = CliRunner()
    once = runner.invoke(app, ["watch", str(tmp_path / "store"), "--once"])
    assert (once.exit_code, "6 cells, 6 done" in once.output) == (0, True)
    document = runner.invoke(app, ["watch", str(tmp_path / "store"), "--json"])
    assert '"cells": 6' in document.output
    lines = runner.invoke(app, ["watch", str(tmp_path / "store")]).output.splitlines()
    assert len(lines) == 1
    assert re.match(r"\d\d:\d\d:\d\d 6 cells, 6 done, 0 running", lines[0])


def test_watching_changes_nothing_in_the_store(tmp_path):
    store = open_store(tmp_path)
    run(study(1, 1), store)
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")}
    Watch(store).look()
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")} == before


def test_a_store_that_does_not_exist_is_refused_by_name(tmp_path):
    result = CliRunner().invoke(app, ["watch", str(tmp_path / "nowhere")])
    assert "cannot find a study file or a store" in str(result.exception)


def test_times_of_events_are_read_with_their_zone():
    moment = datetime.datetime(2024, 1, 1, 12, tzinfo=datetime.timezone(datetime.timedelta(hours=2)))
    assert datetime.datetime.fromisoformat(moment.isoformat()).timestamp() == moment.timestamp()
