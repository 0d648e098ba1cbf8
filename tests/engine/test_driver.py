"""Carrying out a plan: the same results by every engine, and nothing lost whatever dies."""

import contextlib
import io
import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
import types
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import campaign
import cellwork
import forkedranks
import networkx as nx
import psutil
import pytest
from cellwork import evaluation, plan_of, study, training
from deltacompose_plugins.engines import cluster
from deltacompose_plugins.engines.cluster import carry, dask, lacking
from deltacompose_plugins.engines.inprocess import inprocess
from deltacompose_plugins.engines.pool import pool
from hypothesis import given, settings
from hypothesis import strategies as st

from deltacompose.engine import RemoteError, Work, by_bank, call, label, launched, resting, run_plan, shown, status
from deltacompose.engine.eta import Pace
from deltacompose.engine.executor import may_pass
from deltacompose.engine.progress import duration
from deltacompose.engine.schedule import Schedule
from deltacompose.errors import BadInput
from deltacompose.plugins import loaded
from deltacompose.store import Unwritable, open_store
from deltacompose.study import Cell

WORK = "cellwork:carry_out"
QUICK = {"backoff": 0.01}
PATIENCE = 600.0
"""Seconds in which processes that import much have begun, also on a machine that does other work."""


@pytest.fixture
def store(tmp_path):
    return open_store(tmp_path / "store")


@pytest.fixture(scope="module")
def workers():
    """Two workers that the tests of this file share."""
    executor = pool({"workers": 2})
    yield executor
    executor.close()


@contextlib.contextmanager
def closing(executor):
    try:
        yield executor
    finally:
        executor.close()


def run(plan, store, executor=None, **options):
    return run_plan(plan, store, executor or inprocess({}), WORK, QUICK | options)


def contents(store):
    """What of a store must not depend on how it came about."""
    return {r["key"]: (r["kind"], r["spec"], r["parents"], r["result"], r["files"]) for r in store.records()}


def events(store, name):
    return [event for event in store.events() if event["event"] == name]


# The loop


def test_a_plan_is_carried_out_once_and_then_never_again(store):
    plan = study(tasks=2, seeds=2)
    first = run(plan, store)
    assert (len(first.done), len(first.stored)) == (len(plan), 0)
    before = contents(store)
    second = run(plan, store)
    assert (second.done, set(second.stored)) == ((), set(plan))
    assert contents(store) == before
    assert len(events(store, "start")) > 0
    assert store.verify() == []


def test_no_cell_starts_before_its_parents_are_stored(store):
    plan = study(tasks=2, seeds=2)
    run(plan, store)
    order = [event["key"] for event in events(store, "done")]
    assert all(order.index(parent) < order.index(child) for parent, child in plan.edges)


def test_the_longest_work_is_given_out_first(store):
    cells = [Cell("train", {"task": "a", "seed": seed}, cost=cost) for seed, cost in enumerate([1.0, 5.0, 3.0])]
    run(plan_of(*cells), store)
    assert [event["keys"][0] for event in events(store, "start")] == [cells[1].key, cells[2].key, cells[0].key]


def test_a_failed_parent_blocks_its_descendants_and_nothing_else(store):
    bad, good = training("bad", act="raise"), training("good")
    child, other = evaluation(bad, "imdb"), evaluation(good, "imdb")
    grandchild = Cell("merge", {}, (child.key, other.key))
    outcome = run(plan_of(bad, good, child, other, grandchild), store)
    assert set(outcome.done) == {good.key, other.key}
    assert outcome.failed == {bad.key: "ValueError: the loss is not finite"}
    reason = "train lora on bad, seed 0 failed: ValueError: the loss is not finite"
    assert outcome.blocked == {child.key: reason, grandchild.key: reason}
    assert "cellwork.py" in store.failure(bad.key)["traceback"]


def test_a_kept_failure_is_not_tried_again_until_it_is_forgotten(store):
    bad = training("bad", act="raise")
    child = evaluation(bad, "imdb")
    plan = plan_of(bad, child)
    run(plan, store)
    outcome = run(plan, store)
    assert (set(outcome.failed), set(outcome.blocked)) == ({bad.key}, {child.key})
    assert store.failure(bad.key)["attempts"] == 1
    store.forget_failures([bad.key])
    run(plan, store)
    assert len(events(store, "start")) == 2


def test_an_error_that_may_pass_is_tried_again_and_a_lasting_one_is_not(store, tmp_path):
    cell, bad = training("away", act="raise now and then"), training("bad", act="raise")
    outcome = run(plan_of(cell, bad), store, folder=str(tmp_path))
    assert set(outcome.done) == {cell.key}
    assert [event["reason"] for event in events(store, "again")] == ["OSError: the network is away"] * 2
    assert [event["pause"] for event in events(store, "again")] == [0.01, 0.02]


def test_an_error_that_does_not_pass_is_kept_after_its_attempts(store, tmp_path):
    cell = training("away", act="raise now and then")
    outcome = run(plan_of(cell), store, folder=str(tmp_path), attempts=2)
    assert outcome.failed == {cell.key: "OSError: the network is away"}
    assert store.failure(cell.key)["attempts"] == 2


def test_a_group_that_has_no_room_is_halved_until_it_has(store):
    cells = [training(seed=seed, bank="lora") for seed in range(8)]
    outcome = run_plan(plan_of(*cells), store, inprocess({}), "cellwork:greedy", QUICK)
    assert set(outcome.done) == {cell.key for cell in cells}
    assert [len(event["keys"]) for event in events(store, "start")] == [8, 4, 4, 2, 2, 2, 2]


def test_a_group_whose_worker_died_comes_back_whole_and_then_in_halves(store, tmp_path):
    cells = [training("dies once", bank="lora", act="die once"), *(training(seed=s, bank="lora") for s in range(3))]
    with closing(pool({"workers": 1})) as one:
        outcome = run(plan_of(*cells), store, one, folder=str(tmp_path))
        assert set(outcome.done) == {cell.key for cell in cells}
        assert [len(event["keys"]) for event in events(store, "start")] == [4, 4]
        deadly = [training("dies always", bank="lora", act="die"), training(seed=7, bank="lora")]
        outcome = run(plan_of(*deadly), store, one, folder=str(tmp_path), attempts=2)
    assert set(outcome.failed) == {deadly[0].key}
    assert outcome.done == (deadly[1].key,)
    assert [len(event["keys"]) for event in events(store, "start")][2:] in ([2, 2, 1, 1, 1], [2, 2, 1, 1])


def test_cells_that_were_saved_together_go_on_together_whatever_the_size_of_the_bank(store):
    cells = [training(seed=seed, bank="lora") for seed in range(5)]
    begun = [cells[3], cells[0], cells[4]]

    def state(cell):
        return lambda folder: (folder / "state.json").write_text(json.dumps([0, cellwork.first(cell)])) and None

    store.save_checkpoints({cell.key: state(cell) for cell in begun})
    run(plan_of(*cells), store, bank=2)
    starts = [event["keys"] for event in events(store, "start")]
    assert starts[0] == [cell.key for cell in begun]
    assert starts[1:] == [[cells[1].key, cells[2].key]]
    undisturbed = open_store(store.root.parent / "undisturbed")
    run(plan_of(*cells), undisturbed)
    assert contents(store) == contents(undisturbed)


def test_in_a_group_only_the_cell_that_fails_fails(store):
    cells = [training(seed=seed, bank="lora") for seed in range(5)]
    bad = training("bad", bank="lora", act="raise")
    outcome = run(plan_of(*cells, bad), store)
    assert set(outcome.failed) == {bad.key}
    assert len(outcome.done) == 5


def test_a_function_that_stores_nothing_is_not_believed(store):
    cell = training()
    outcome = run_plan(plan_of(cell), store, inprocess({}), "cellwork:forgetful", QUICK)
    assert outcome.failed == {
        cell.key: "NotStored: the call returned, but the store does not have the cell",
    }


def test_a_finished_cell_may_add_cells_and_a_second_run_adds_the_same(store):
    def extend(cell, record):
        wanted = cell.kind == "train" and record["result"]["dev"] >= 0 and cell.spec["seed"] < 3
        return [training(seed=cell.spec["seed"] + 1), evaluation(cell, "imdb")] if wanted else []

    first = run_plan(plan_of(training()), store, inprocess({}), Work(WORK, extend=extend))
    assert len(first.done) == 7
    second = run_plan(plan_of(training()), store, inprocess({}), Work(WORK, extend=extend))
    assert (len(second.stored), len(second.done), len(second.plan)) == (7, 0, 7)


def test_a_damaged_cell_is_moved_aside_said_and_computed_again(store):
    plan = study(tasks=2, seeds=1)
    run(plan, store)
    before = contents(store)
    key = min(plan)
    path = store.folder(key) / "record.json"
    path.write_text(path.read_text()[:40])
    outcome = run(plan, store)
    assert outcome.done == (key,)
    assert contents(store) == before
    (event,) = events(store, "damaged")
    assert (event["key"], Path(event["moved"]).exists()) == (key, True)
    assert "truncated" in event["reason"]


def test_a_parent_that_is_nowhere_is_named_before_anything_runs(store):
    orphan = evaluation(training(), "imdb")
    with pytest.raises(BadInput, match=rf"rests on cell {orphan.parents[0]}, which is neither in the plan nor in the"):
        run(plan_of(orphan), store)
    run(plan_of(training()), store)
    assert run(plan_of(orphan), store).done == (orphan.key,)


def test_a_grouping_that_loses_a_cell_is_refused(store):
    with pytest.raises(BadInput, match="must give every cell once"):
        run_plan(study(1, 2), store, inprocess({}), Work(WORK, group=lambda ready, options: [[ready[0]]]))


def test_an_unwritable_store_is_said_before_any_work(store, monkeypatch):
    from deltacompose.store import atomic as disk

    monkeypatch.setattr(disk, "written", lambda path, text: (_ for _ in ()).throw(OSError(30, "Read-only file system")))
    with pytest.raises(Unwritable, match="Read-only file system"):
        run(study(1, 1), store)


# Grouping


cells_strategy = st.lists(
    st.builds(
        lambda kind, bank, tokens, parent, cost, seed: Cell(
            kind,
            {"seed": seed} | ({"bank": bank} if bank else {}) | ({"batch_tokens": tokens} if tokens else {}),
            (parent * 64,) if kind == "evaluate" else (),
            cost,
        ),
        st.sampled_from(["train", "evaluate", "merge"]),
        st.sampled_from([None, "lora", "prompt"]),
        st.sampled_from([None, 100, 400]),
        st.sampled_from("ab"),
        st.floats(0, 1e12),
        st.integers(0, 10**6),
    ),
    max_size=40,
    unique_by=lambda cell: cell.key,
)


@settings(max_examples=60, deadline=None)
@given(cells_strategy, st.integers(1, 4), st.sampled_from([None, 500, 1000]))
def test_every_ready_cell_is_in_one_group_of_its_like_within_the_budget(cells, slots, budget):
    options = {"slots": slots} | ({"tokens": budget} if budget else {})
    groups = by_bank(cells, options)
    assert sorted(c.key for group in groups for c in group) == sorted(c.key for c in cells)
    for group in groups:
        assert len({cell.kind for cell in group}) == 1
        assert len({(cell.spec.get("bank"), cell.kind == "train") for cell in group if cell.kind == "train"}) <= 1
        assert len({cell.parents for cell in group}) == 1
        if group[0].kind == "merge" or (group[0].kind == "train" and not group[0].spec.get("bank")):
            assert len(group) == 1
        if budget and len(group) > 1 and group[0].kind == "train":
            assert sum(cell.spec.get("batch_tokens", 0) for cell in group) <= budget


def test_bankable_cells_are_shared_out_so_that_no_worker_waits():
    cells = [training(seed=seed, bank="lora") for seed in range(8)]
    assert [len(group) for group in by_bank(cells, {"slots": 1})] == [8]
    assert [len(group) for group in by_bank(cells, {"slots": 2})] == [4, 4]
    assert [len(group) for group in by_bank(cells, {"slots": 1, "bank": 3})] == [3, 3, 2]
    assert [len(group) for group in by_bank(cells, {"tokens": 1000}, tokens=lambda cell: 250)] == [4, 4]
    assert [len(group) for group in by_bank(cells, {}, bank=lambda cell: str(cell.spec["seed"] % 2))] == [4, 4]
    assert [len(group) for group in by_bank(cells, {}, bank=lambda cell: None)] == [1] * 8
    others = [training(seed=seed, bank="prompt") for seed in range(8)]
    assert [len(group) for group in by_bank(cells + others, {"slots": 2})] == [8, 8]


def test_a_cell_that_asks_for_several_processes_goes_alone():
    cells = [training(seed=seed, bank="lora", processes=2) for seed in range(3)]
    assert [len(group) for group in by_bank(cells, {})] == [1, 1, 1]


@settings(max_examples=30, deadline=None)
@given(st.data())
def test_a_schedule_settles_every_cell_of_any_plan_in_an_order_that_respects_it(data):
    cells = []
    for number in range(data.draw(st.integers(1, 12))):
        parents = data.draw(st.lists(st.sampled_from(cells), unique_by=lambda c: c.key, max_size=3)) if cells else []
        cells.append(Cell("train", {"number": number}, tuple(sorted(cell.key for cell in parents))))
    bad = {cell.key for cell in data.draw(st.lists(st.sampled_from(cells), max_size=2))}
    schedule = Schedule(lambda ready: [[cell] for cell in ready])
    for cell in schedule.grow(data.draw(st.permutations(cells))):
        schedule.begin(cell)
    while (group := schedule.take(0.0)) is not None:
        (cell,) = group
        assert set(cell.parents) <= schedule.done
        schedule.fail(cell.key, "no") if cell.key in bad else schedule.finish(cell.key)
    assert not schedule.open
    hit = {child for key in schedule.failed for child in nx.descendants(schedule.plan, key)}
    assert set(schedule.blocked) == hit


# Engines


def test_three_engines_give_equal_stores(tmp_path, workers):
    plan = study(tasks=2, seeds=2)
    stores = [open_store(tmp_path / name) for name in ("inprocess", "pool", "dask")]
    run(plan, stores[0])
    run(plan, stores[1], workers)
    with closing(dask({"workers": 2})) as cluster:
        assert cluster.slots == 2
        run(plan, stores[2], cluster)
        dead = training("dead", act="die once")
        outcome = run(plan_of(dead), stores[2], cluster, folder=str(tmp_path))
        assert outcome.done == (dead.key,)
        (again,) = events(stores[2], "again")
        assert (again["keys"], "the call was lost with its dask worker" in again["reason"]) == ([dead.key], True)
        slow, bad = training("slow", act="hang"), training("bad", act="raise")
        outcome = run(plan_of(slow), stores[2], cluster, timeout=3, attempts=1)
        assert outcome.failed[slow.key] == "TimeoutError: not finished within its limit of 3 s"
        outcome = run(plan_of(bad), stores[2], cluster)
        assert outcome.failed[bad.key] == "ValueError: the loss is not finite"
    assert contents(stores[0]) == contents(stores[1])
    assert contents(stores[0]).items() <= contents(stores[2]).items()


def test_the_engines_enter_by_the_plugin_door():
    assert {"inprocess", "pool", "dask"} <= set(loaded().engines)
    assert loaded().engines["inprocess"]({}).slots == 1
    assert loaded().engines["pool"] is pool


def test_workers_persist_have_one_thread_and_import_no_torch_for_nothing(workers):
    futures = [workers.submit("cellwork:surroundings", {}) for _ in range(8)]
    found = [future.result(PATIENCE) for future in futures]
    assert len({one["pid"] for one in found}) <= 2
    assert os.getpid() not in {one["pid"] for one in found}
    assert {(one["OMP_NUM_THREADS"], one["torch"]) for one in found} == {("1", False)}


@pytest.fixture
def port_of_dasks_pages():
    """Taken, as it is where another scheduler runs on the machine."""
    with contextlib.ExitStack() as stack:
        with contextlib.suppress(OSError):
            stack.enter_context(socket.create_server(("", 8787)))
        yield


@pytest.mark.parametrize("engine", [pool, dask])
def test_each_worker_sees_the_device_that_it_was_given(engine, tmp_path, monkeypatch, port_of_dasks_pages):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "7")
    with closing(engine({"devices": ["3", "5,6"], "threads": 2})) as executor:
        assert executor.slots == 2
        futures = [executor.submit("cellwork:surroundings", {"meet": str(tmp_path), "number": 2}) for _ in range(2)]
        found = {(one["CUDA_VISIBLE_DEVICES"], one["OMP_NUM_THREADS"]) for one in (f.result(PATIENCE) for f in futures)}
    assert found == {("3", "2"), ("5,6", "2")}
    assert os.environ["CUDA_VISIBLE_DEVICES"] == "7"


def test_a_killed_worker_fails_its_own_call_alone_and_is_replaced(store, tmp_path, workers):
    cells = [training(seed=seed) for seed in range(4)]
    dying, deadly = training("dies once", act="die once"), training("dies always", act="die")
    outcome = run(plan_of(*cells, dying, deadly), store, workers, folder=str(tmp_path))
    assert set(outcome.done) == {cell.key for cell in cells} | {dying.key}
    assert set(outcome.failed) == {deadly.key}
    assert "WorkerDied: worker" in outcome.failed[deadly.key]
    assert "ended by SIGKILL" in outcome.failed[deadly.key]
    assert store.failure(deadly.key)["attempts"] == 3


@pytest.mark.parametrize("engine", ["inprocess", "pool"])
def test_a_cell_that_takes_too_long_is_stopped_and_the_others_go_on(store, workers, engine, tmp_path):
    slow, good = training("slow", act="hang"), training()
    executor = workers if engine == "pool" else inprocess({})
    outcome = run(plan_of(slow), store, executor, timeout=3, attempts=1)
    assert outcome.failed == {slow.key: "TimeoutError: not finished within its limit of 3 s"}
    # On a busy machine an honest cell may exceed the limit as well, so that it has more attempts than it can need.
    late = training("late", act="hang once")
    outcome = run(plan_of(late, good), store, executor, timeout=3, attempts=100, folder=str(tmp_path))
    assert set(outcome.done) == {late.key, good.key}
    reasons = {event["reason"] for event in events(store, "again") if late.key in event["keys"]}
    assert reasons == {"TimeoutError: not finished within its limit of 3 s"}


def test_an_exception_comes_back_with_its_message_its_kinds_and_its_traceback(workers):
    error = workers.submit("cellwork:nowhere", {}).exception(PATIENCE)
    assert isinstance(error, RemoteError)
    assert (error.kind, str(error)) == ("AttributeError", "module 'cellwork' has no attribute 'nowhere'")
    assert "Exception" in error.kinds
    assert "Traceback" in error.__notes__[0]


def test_a_closed_pool_leaves_no_process_behind_not_even_its_workers_children(tmp_path):
    executor = pool({"workers": 1})
    future = executor.submit("cellwork:parent_of_sleepers", {"file": str(tmp_path / "pids")})
    pids = [int(pid) for pid in _eventually(lambda: (tmp_path / "pids").read_text().split()[:2])]
    executor.close()
    assert future.exception(PATIENCE) is not None
    _eventually(lambda: not any(campaign.alive(pid) for pid in pids))


def _eventually(look, seconds=PATIENCE):
    """The first true value that a look returns."""
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        with contextlib.suppress(OSError, ValueError, BadInput):
            if found := look():
                return found
        time.sleep(0.02)
    raise AssertionError(f"not within {seconds} s")


_CLAIMING = """
import sys
from deltacompose.engine.claims import Claims
from deltacompose.store import open_store
claims = Claims(open_store(sys.argv[1]))
print(claims.take("ab" * 32), flush=True)
sys.stdin.read()
"""


def test_a_store_is_at_rest_while_no_process_has_claimed_a_cell(store):
    with resting(store) as free:
        assert free
    command = [sys.executable, "-c", _CLAIMING, str(store.root)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as driver:
        assert driver.stdout.readline() == "True\n"
        with resting(store) as free:
            assert not free
        driver.kill()
    with resting(store) as free:
        assert free


def test_several_processes_for_one_cell_run_under_torchrun(tmp_path):
    launched("cellwork:ranks", {"folder": str(tmp_path)}, 2)
    assert json.loads((tmp_path / "rank0").read_text()) == [0, [0, 1]]
    assert json.loads((tmp_path / "rank1").read_text()) == [1, [0, 1]]


def test_what_ends_one_of_several_processes_is_told(tmp_path):
    with pytest.raises(RemoteError, match=r"rank [01] has had enough") as found:
        launched("cellwork:broken", {}, 2)
    assert found.value.kind == "RuntimeError"
    assert not may_pass(found.value)
    with pytest.raises(RuntimeError, match="2 processes under torchrun ended with status 1"):
        launched("cellwork:ending", {}, 2)


def test_memory_that_one_of_several_processes_lacks_may_pass():
    with forkedranks.in_place_of_torchrun(), pytest.raises(RemoteError, match="no room") as found:
        launched("cellwork:cramped", {}, 2)
    assert may_pass(found.value)


@pytest.mark.parametrize(
    ("make", "options", "message"),
    [
        (pool, {"worker": 2}, "no option of the engine pool 'worker'; did you mean 'workers'"),
        (pool, {"workers": 0}, "the engine pool got workers=0; it must be a whole number from 1"),
        (inprocess, {"workers": 2}, "no option of the engine inprocess 'workers'"),
        (dask, {"device": ["0"]}, "no option of the engine dask 'device'; did you mean 'devices'"),
        (dask, {"devices": "0,1"}, "the engine dask got devices='0,1'; it must be a list of texts"),
        (dask, {"scheduler": "tcp://x:1", "devices": ["0"]}, "are set where they are started; leave out devices"),
        (dask, {"scheduler": "tcp://x:1", "workers": 2}, "are set where they are started"),
        (dask, {"scheduler_file": "/nowhere/file"}, "/nowhere/file is not a file of a dask scheduler"),
    ],
)
def test_options_that_an_engine_does_not_have_are_refused(make, options, message):
    with pytest.raises(BadInput, match=message):
        make(options)


def test_an_unreachable_scheduler_is_said_within_ten_seconds_with_what_to_do():
    began = time.monotonic()
    with pytest.raises(BadInput, match=r"no dask scheduler answers at tcp://127.0.0.1:9 .*use the local engine 'pool'"):
        dask({"scheduler": "tcp://127.0.0.1:9", "wait": 10 * PATIENCE})
    assert cluster.DEADLINE < 10
    assert time.monotonic() - began < PATIENCE


@pytest.mark.parametrize("option", ["scheduler", "scheduler_file"])
def test_a_port_that_never_answers_is_said_in_time_however_long_workers_are_waited_for(tmp_path, option, monkeypatch):
    monkeypatch.setattr(cluster, "DEADLINE", 1.5)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        address = f"tcp://127.0.0.1:{silent.getsockname()[1]}"
        (tmp_path / "file").write_text(json.dumps({"address": address}))
        where = {"scheduler": address, "scheduler_file": str(tmp_path / "file")}[option]
        began = time.monotonic()
        with pytest.raises(BadInput, match=rf"no dask scheduler answers at {address} .*use the local engine 'pool'"):
            dask({option: where, "wait": 10 * PATIENCE})
        assert time.monotonic() - began < PATIENCE


def test_a_worker_without_a_plugin_is_named():
    ours = {"builtin": "deltacompose 0.1.0", "extra": "extra-methods 2.0"}
    assert lacking(ours, ours) == ""
    assert "'extra' of extra-methods 2.0 is in use here, and the worker does not have it" in lacking(
        ours, {"builtin": "deltacompose 0.1.0"}
    )
    assert "has extra-methods 1.0 instead" in lacking(ours, ours | {"extra": "extra-methods 1.0"})
    reply = carry(WORK, {}, {"extra": "extra-methods 2.0"})
    assert "'extra' of extra-methods 2.0" in reply["error"]["message"]


def test_an_unfit_worker_stops_the_run_instead_of_failing_cells(store):
    class Unfit:
        slots = 1

        def submit(self, function, spec):
            future = Future()
            reply = carry(function, spec, {"extra": "extra-methods 2.0"})["error"]
            future.set_exception(RemoteError(**reply))
            return future

        def close(self):
            self.closed = True

    executor = Unfit()
    with pytest.raises(BadInput, match=r"'extra' of extra-methods 2\.0"):
        run(study(1, 1), store, executor)
    assert executor.closed
    assert store.keys("failed") == []


@pytest.fixture
def dask_commands(tmp_path):
    """A scheduler and two workers, started as a user would; the scheduler's file and the processes."""
    file = tmp_path / "scheduler.json"
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(path or os.getcwd() for path in sys.path)}
    environment["OMP_NUM_THREADS"] = "1"
    quiet = {"env": environment, "stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    shared = ["--scheduler-file", str(file), "--no-dashboard"]
    shared += ["--host", "127.0.0.1"]
    scheduler = [sys.executable, "-m", "distributed.cli.dask_scheduler", "--port", "0", *shared]
    worker = [sys.executable, "-m", "distributed.cli.dask_worker", "--nthreads", "1", "--no-nanny", *shared]
    started = [subprocess.Popen(scheduler, **quiet)]
    _eventually(lambda: file.exists() and file.stat().st_size, PATIENCE)
    started += [subprocess.Popen([*worker, "--local-directory", str(tmp_path)], **quiet) for _ in range(2)]
    yield file, started[1:]
    for process in started:
        process.kill()
        process.wait()


@pytest.mark.thorough
def test_real_cells_are_whole_when_one_of_two_dask_workers_is_killed_in_a_step(store, tmp_path, dask_commands):
    import realwork

    import deltacompose as dc
    from deltacompose.cells.worker_sources import options_of

    file, processes = dask_commands
    marks, killed = tmp_path / "marks", []
    marks.mkdir()
    study = realwork.study(tmp_path / "study", tasks=("mood", "tone"), compositions=("lora(rank=2)",))

    def kill():
        _eventually(lambda: any((store.root / "checkpoints").iterdir()), PATIENCE)
        worker, _ = campaign.held(marks, processes[0], ("step",))
        os.kill(worker, signal.SIGKILL)
        killed.append(worker)

    def run_real(store, executor, **options):
        return run_plan(dc.plan(study), store, executor, realwork.job_of(), options_of(study) | QUICK | options)

    with closing(dask({"scheduler_file": str(file), "wait": PATIENCE})) as cluster:
        _eventually(lambda: cluster.slots == 2, PATIENCE)
        killer = threading.Thread(target=kill)
        killer.start()
        outcome = run_real(store, cluster, marks=str(marks), bank=1)
        killer.join()
    dead, left = sorted(processes, key=lambda process: process.pid not in killed)
    assert (dead.wait(), left.poll()) == (-signal.SIGKILL, None)
    assert [pids for pids in realwork.begun(marks).values() if len(pids) > 1] == [[dead.pid, left.pid]]
    assert (set(outcome.done), outcome.failed) == (set(outcome.plan), {})
    assert store.verify() == []
    undisturbed = open_store(tmp_path / "undisturbed")
    run_real(undisturbed, inprocess({}), bank=1)
    assert realwork.contents(store) == realwork.contents(undisturbed)


def test_a_dask_worker_without_a_plugin_or_without_the_store_is_refused(tmp_path, dask_commands, monkeypatch):
    file, _ = dask_commands
    with closing(dask({"scheduler_file": str(file), "wait": PATIENCE})) as cluster:
        error = cluster.submit(WORK, {"store": "/nowhere", "cells": [], "options": {}}).exception(PATIENCE)
    assert error.kind == "UnfitWorker"
    assert "does not see the store /nowhere" in str(error)
    installed = tmp_path / "site" / "extra_methods-2.0.dist-info"
    installed.mkdir(parents=True)
    (installed / "METADATA").write_text("Metadata-Version: 2.1\nName: extra-methods\nVersion: 2.0\n")
    (installed / "entry_points.txt").write_text("[deltacompose]\nextra = extra_methods\n")
    (installed.parent / "extra_methods.py").write_text("def deltacompose_methods():\n    return {}\n")
    monkeypatch.syspath_prepend(str(installed.parent))
    loaded.cache_clear()
    try:
        with pytest.raises(
            BadInput, match=r"'extra' of extra-methods 2\.0 is in use here, and the worker does not have"
        ):
            dask({"scheduler_file": str(file), "wait": PATIENCE})
    finally:
        loaded.cache_clear()


def test_the_processes_of_a_killed_launcher_end_with_it(tmp_path, workers):
    with closing(pool({"workers": 1})) as executor:
        spec = {"folder": str(tmp_path), "processes": 2}
        executor.submit("cellwork:sleeping_ranks", spec)
        pids = _eventually(lambda: [int((tmp_path / f"rank{i}").read_text()) for i in range(2)])
    _eventually(lambda: not any(campaign.alive(pid) for pid in pids))


# Stopping


@pytest.mark.parametrize(
    ("engine", "number"),
    [
        ("inprocess", signal.SIGINT),
        ("inprocess", signal.SIGTERM),
        ("pool", signal.SIGINT),
        ("pool", signal.SIGTERM),
        ("dask", signal.SIGINT),  # SIGTERM reaches the driver alone, whatever the engine
    ],
)
def test_ctrl_c_and_sigterm_stop_at_once_and_keep_what_is_finished(tmp_path, number, engine):
    path = tmp_path / "store"
    driver = campaign.start(path, engine=engine, pause=0.05, stderr=subprocess.PIPE, start_new_session=True)
    _eventually(lambda: len(open_store(path, create=False).keys()) >= 3, PATIENCE)
    started = psutil.Process(driver.pid).children(recursive=True)
    assert len(started) >= {"inprocess": 0, "pool": 2, "dask": 2}[engine]
    if number == signal.SIGINT:
        os.killpg(driver.pid, number)  # a terminal sends it to all that the command started
    else:
        driver.send_signal(number)
    _, said = driver.communicate(timeout=PATIENCE)
    assert driver.returncode == 130, said.decode()
    assert "Traceback" not in said.decode()
    _eventually(lambda: not any(campaign.alive(process.pid) for process in started))
    store = open_store(path)
    assert 3 <= len(store.keys()) < len(campaign.PLAN)
    assert store.verify() == []
    assert list((store.root / "tmp").iterdir()) == []
    assert [event["reason"] for event in events(store, "stop")] == ["KeyboardInterrupt"]
    assert status(store)["running"] == 0
    outcome = run(campaign.PLAN, store)
    assert len(outcome.done) + len(outcome.stored) == len(campaign.PLAN)


def test_an_interrupt_inside_a_cell_is_raised_again(store):
    with pytest.raises(KeyboardInterrupt):
        run(plan_of(training(act="interrupt")), store)
    assert store.state(training(act="interrupt").key) == "absent"


# What the user sees


def test_off_a_terminal_each_cell_is_a_line(store):
    stream = io.StringIO()
    bad = training("bad", act="raise")
    with shown(stream) as progress:
        run_plan(plan_of(training(), bad, evaluation(bad, "imdb")), store, inprocess({}), WORK, QUICK, progress)
    lines = stream.getvalue().splitlines()
    done = r"\[1/3\] \d\d:\d\d:\d\d done: train lora on sst2, seed 0, 0\.0 s, score 0\.\d+; \d+ s left"
    assert any(re.fullmatch(done, line) for line in lines), lines
    failed = "failed: train lora on bad, seed 0: ValueError: the loss is not finite; this blocks 1 cells"
    assert any(re.fullmatch(rf"\[3/3\] \d\d:\d\d:\d\d {re.escape(failed)}", line) for line in lines), lines


def test_on_a_terminal_there_is_a_bar_with_the_latest_score(store, monkeypatch):
    monkeypatch.setenv("COLUMNS", "160")
    stream = io.StringIO()
    with shown(stream, terminal=True) as progress:
        run_plan(study(2, 1), store, inprocess({}), WORK, QUICK, progress)
    text = stream.getvalue()
    assert "6/6" in text
    assert "score 0." in text


@pytest.mark.parametrize(("eta", "left"), [(None, ""), (40.0, ", 40 s left"), (9000.0, ", 2.5 h left")])
def test_the_bar_shows_what_runs_what_failed_and_the_time_left(monkeypatch, eta, left):
    monkeypatch.setenv("COLUMNS", "160")
    stream = io.StringIO()
    counts = {"cells": 12, "stored": 1, "running": 2, "done": 4, "failed": 1, "blocked": 3}
    done = {"event": "done", "label": "train lora on sst2, seed 0", "seconds": 1.0, "score": 0.8125}
    with shown(stream, terminal=True) as progress:
        progress(done | {"counts": counts, "eta": eta})
    plain = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", stream.getvalue())
    last = [line for line in re.split(r"[\r\n]", plain) if "running" in line][-1]
    facts = f"running 2, failed 1, blocked 3{left}"
    assert last.split("9/12")[1].split() == f"75% {facts} train lora on sst2, seed 0, score 0.812".split()


@pytest.mark.parametrize("columns", [80, 95, 110])
def test_a_narrow_terminal_keeps_the_counts_and_cuts_the_label(monkeypatch, columns):
    monkeypatch.setenv("COLUMNS", str(columns))
    stream, label = io.StringIO(), "train prompt(length=100) + bitfit + adapter(bottleneck=64) on a_long_name, seed 0"
    counts = {"cells": 1234, "stored": 1, "running": 12, "done": 4, "failed": 1, "blocked": 3}
    with shown(stream, terminal=True) as progress:
        progress({"event": "done", "label": label, "seconds": 1.0, "score": 0.5, "counts": counts, "eta": 9000.0})
    plain = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", stream.getvalue())
    lines = [line.rstrip() for line in re.split(r"[\r\n]", plain)]
    last = [line for line in lines if "running" in line][-1]
    assert "9/1234   1% running 12, failed 1, blocked 3, 2.5 h left" in last
    assert last.endswith("…")
    assert max(map(len, lines)) <= columns


def test_a_notebook_has_one_output_that_is_replaced(monkeypatch):
    shell = type("ZMQInteractiveShell", (), {})()
    texts = []
    handle = types.SimpleNamespace(update=lambda page: texts.append(page))
    module = types.SimpleNamespace(HTML=str, display=lambda page, display_id: handle)
    monkeypatch.setitem(sys.modules, "IPython", types.SimpleNamespace(get_ipython=lambda: shell, display=module))
    monkeypatch.setitem(sys.modules, "IPython.display", module)
    counts = {"cells": 2, "stored": 0, "running": 1, "done": 1, "failed": 0, "blocked": 0}
    with shown() as progress:
        progress({"event": "done", "label": "train <b>", "seconds": 1.0, "score": 0.5, "counts": counts, "eta": 40.0})
    assert texts == ["<pre>[1/2] running 1, failed 0, blocked 0, 40 s left train &lt;b&gt;, score 0.500</pre>"]


def test_the_log_has_what_the_bars_show_as_json_lines(store):
    run(study(2, 1), store)
    lines = [json.loads(line) for line in (store.root / "events.jsonl").read_text().splitlines()]
    assert [lines[0]["event"], lines[-1]["event"]] == ["run", "end"]
    assert lines[-1]["counts"] == {"cells": 6, "stored": 0, "running": 0, "done": 6, "failed": 0, "blocked": 0}
    assert lines[-1]["eta"] == 0.0
    assert [line["elapsed"] for line in lines] == sorted(line["elapsed"] for line in lines)


def test_every_line_of_the_log_is_as_the_documentation_says(store, tmp_path):
    bad, away = training("bad", act="raise"), training("away", act="raise now and then")
    good = training("good")
    run(plan_of(bad, evaluation(bad, "imdb"), away, good), store, folder=str(tmp_path))
    (store.folder(good.key) / "record.json").write_text("cut o")
    run(plan_of(good), store)
    with pytest.raises(KeyboardInterrupt):
        run(plan_of(training(act="interrupt")), store)
    looked_into(training("slow"), store)
    page = (Path(__file__).parents[2] / "docs" / "studies.md").read_text().partition("### The log")[2]
    common, further = (table.split("\n\n")[0] for table in page.split("|---|", 2)[1:])
    every = set(re.findall(r"^\| `(\w+)`", common, re.MULTILINE))
    rows = [row.split("|")[1:-1] for row in further.splitlines() if row.startswith("| `")]
    told = {event.strip(" `"): every | set(re.findall(r"`(\w+)`", fields)) for event, _, fields in rows}
    assert {event["event"] for event in store.events()} == set(told)
    for event in store.events():
        assert set(event) == told[event["event"]], event["event"]


def test_development_scores_are_told_once_each_while_a_training_is_under_way(store, monkeypatch):
    monkeypatch.setenv("COLUMNS", "160")
    cell, stream = training("slow"), io.StringIO()
    with shown(stream, terminal=True) as progress:
        looked_into(cell, store, progress)
    [event] = events(store, "evaluated")
    assert (event["key"], event["step"], event["score"]) == (cell.key, 40, 0.625)
    assert "step 40, score 0.625" in stream.getvalue()
    assert status(store)["evaluated"] == {}, "the cell is done"


def test_status_has_the_development_scores_of_what_is_under_way(store):
    cell = training("slow")
    seen = []

    def look(event):
        if event["event"] == "evaluated":
            seen.append(status(store)["evaluated"])

    looked_into(cell, store, look)
    assert [list(found.values()) for found in seen] == [[{"label": label(cell), "step": 40, "score": 0.625}]]


class Threads:
    """An executor of one thread, beside which the driver goes on; calls wait until the driver has seen `looked`."""

    slots = 1

    def __init__(self):
        self.pool, self.looked = ThreadPoolExecutor(1), threading.Event()

    def submit(self, function, spec):
        return self.pool.submit(lambda: self.looked.wait(PATIENCE) and call(function, spec))

    def close(self):
        self.pool.shutdown()


def looked_into(cell, store, progress=None):
    """A run of a cell that has, while it is under way, one development score."""
    what = Work(WORK, peek=lambda store, key: {"step": 40, "score": 0.625})

    def told(event):
        if progress is not None:
            progress(event)
        if event["event"] == "evaluated":
            executor.looked.set()

    with closing(Threads()) as executor:
        run_plan(plan_of(cell), store, executor, what, QUICK, told)


def test_status_tells_from_another_process_while_the_run_goes_on(tmp_path):
    driver = campaign.start(tmp_path / "store", pause=0.1)
    try:
        seen = _eventually(lambda: campaign.looked(tmp_path / "store", lambda found: found["running"] and found["eta"]))
        assert seen["cells"] == len(campaign.PLAN)
        assert seen["eta"] > 0
        assert seen["runs"][0]["pid"] == driver.pid
        assert seen["runs"][0]["alive"] is True
        assert seen["done"] + seen["running"] + seen["waiting"] == seen["cells"]
    finally:
        driver.kill()
        driver.wait()
    after = status(open_store(tmp_path / "store"), campaign.PLAN)
    assert (after["running"], after["runs"], after["eta"]) == (0, [], None)


def test_status_gives_the_reasons_of_what_failed_and_of_what_that_blocks(store):
    bad = training("bad", act="raise")
    plan = plan_of(bad, evaluation(bad, "imdb"), training())
    run(plan, store)
    for found in (status(store), status(store, plan)):
        counts = {name: found[name] for name in ("cells", "done", "failed", "running", "blocked", "waiting")}
        assert counts == {"cells": 3, "done": 1, "failed": 1, "running": 0, "blocked": 1, "waiting": 0}
        assert found["failures"] == {bad.key: "ValueError: the loss is not finite"}
        assert list(found["blocked_by"]) == [evaluation(bad, "imdb").key]


def test_status_of_a_plan_that_was_never_run_says_that_all_waits(store):
    found = status(store, study(1, 1))
    assert (found["cells"], found["waiting"], found["eta"]) == (2, 2, None)


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 20), st.integers(1, 20), st.integers(1, 4), st.floats(0.01, 100))
def test_the_time_left_is_that_of_the_cells_left_at_the_pace_so_far(done, left, slots, seconds):
    pace = Pace()
    cells = [training(seed=seed) for seed in range(done + left)]
    for cell in cells:
        pace.expect(cell)
    assert pace.eta(slots) is None
    for cell in cells[:done]:
        pace.done(cell, seconds)
        pace.done(cell, seconds)
    assert pace.eta(slots) == pytest.approx(left * seconds / min(slots, left))
    for cell in cells[done:]:
        pace.done(cell, None)
    assert pace.eta(slots) == 0


def test_cells_have_labels_and_times_have_units():
    assert label(training()) == "train lora on sst2, seed 0"
    assert label(evaluation(training(), "imdb")) == "evaluate lora from sst2 to imdb, seed 0"
    assert label(Cell("merge", {})) == "merge"
    assert [duration(s) for s in (5, 300, 9000, 200000)] == ["5 s", "5 min", "2.5 h", "2.3 days"]


# The campaign, in short


def test_nothing_is_lost_or_mixed_when_driver_and_workers_are_killed_at_random(tmp_path):
    report = campaign.kills(tmp_path, kills=8, seed=0)
    assert report["kills"] == 8
    assert report["inside a step or a write"] >= 4
    assert (report["cells lost"], report["half-written reads"], report["differences"]) == (0, 0, 0)
    assert report["steps lost by a kill, at most"] <= cellwork.EVERY


def test_a_full_disk_stops_the_run_and_the_next_one_goes_on(tmp_path):
    report = campaign.full_disk(tmp_path)
    if "skipped" in report:
        pytest.skip(report["skipped"])
    assert "No space left on device" in report["said"]
    assert 0 < report["finished before"] < len(campaign.PLAN)
    assert (report["cells lost"], report["differences"]) == (0, 0)


def test_a_read_only_store_is_refused_and_can_be_read(tmp_path):
    report = campaign.read_only(tmp_path)
    if "skipped" in report:
        pytest.skip(report["skipped"])
    assert "Read-only file system" in report["said"]
    assert report["records read"] == len(campaign.PLAN)


def test_corrupted_files_are_found_and_mended(tmp_path):
    report = campaign.corrupted(tmp_path, seed=1)
    assert report["found by verify"] == report["corrupted"]
    assert (report["cells lost"], report["differences"]) == (0, 0)


def test_eight_drivers_on_one_store_share_the_work(tmp_path):
    report = campaign.eight_drivers(tmp_path)
    assert (report["cells lost"], report["differences"], report["computed twice"]) == (0, 0, 0)


def test_what_another_host_has_under_way_is_left_to_it_until_that_host_is_gone(tmp_path):
    report = campaign.two_hosts(tmp_path)
    assert report["claimed"] == report["waited for"] == report["taken over"] >= 1
    assert report["waits"] is True
    assert (report["exit status"], report["computed twice"], report["half-written"]) == (0, 0, 0)
    assert (report["cells lost"], report["differences"]) == (0, 0)
    assert report["cells of north"] >= 3
    assert report["cells of south"] >= 5
    assert campaign.faults(report) == []


def test_where_a_shared_folder_knows_no_locks_cells_are_whole_all_the_same(tmp_path):
    report = campaign.no_locks(tmp_path)
    assert report["exit statuses"] == [0]
    assert (report["cells lost"], report["differences"], report["half-written reads"]) == (0, 0, 0)


def test_a_clock_that_is_set_back_changes_nothing(tmp_path):
    report = campaign.clock_set_back(tmp_path)
    assert (report["cells lost"], report["differences"], report["computed twice"], report["exit status"]) == (
        0,
        0,
        0,
        0,
    )
    assert report["workers that lived through it"] == 2
    assert report["workers that saw it"] > 2
    assert report["drivers that saw it"] == 2
    assert 0 < report["cells dated a day back"] < len(campaign.PLAN)
    assert campaign.faults(report) == []


SOUND = {"campaign": "kills", "cells lost": 0, "differences": 0, "half-written reads": 0, "left in tmp": 0, "kills": 20}
SOUND |= {"inside a step or a write": 10, "steps lost by a kill, at most": 6, "steps between checkpoints": 6}


@pytest.mark.parametrize(
    ("change", "fault"),
    [
        ({}, None),
        ({"kills": 19, "inside a step or a write": 9}, None),
        ({"inside a step or a write": 9}, "9 of 20 kills inside a step or a write, fewer than half"),
        ({"steps lost by a kill, at most": 7}, "7 steps lost by a kill, more than the 6 between two checkpoints"),
        ({"cells lost": 1}, "1 cells lost"),
        ({"left in tmp": 2}, "2 left in tmp"),
        ({"campaign": "eight drivers", "computed twice": 3}, "3 computed twice"),
        ({"campaign": "eight drivers", "exit statuses": [0, 1]}, "exit statuses [0, 1] instead of [0]"),
        ({"campaign": "full disk", "exit status": 2, "exit status after": 0, "half-written": 0}, None),
        ({"campaign": "full disk", "exit status": 0}, "exit status 0 instead of 2"),
        ({"campaign": "corrupted files", "corrupted": 10, "found by verify": 9}, "10 corrupted, 9 found by verify"),
        (
            {"campaign": "clock set back", "workers that lived through it": 0, "drivers that saw it": 2}
            | {"cells dated a day back": 9},
            "workers that lived through it: 0, so that nothing was tried",
        ),
    ],
)
def test_the_campaign_fails_for_whatever_must_not_be(change, fault, monkeypatch, capsys):
    report = SOUND | change
    assert campaign.faults(report) == ([] if fault is None else [fault])
    monkeypatch.setattr(campaign, "kills", lambda *given: report)
    monkeypatch.setattr(campaign, "real_field", lambda folder: None)
    monkeypatch.setattr(sys, "argv", ["campaign.py", "--real"])
    assert campaign.main() == (fault is not None)
    said = capsys.readouterr()
    assert json.loads(said.out) == report
    assert said.err == ("" if fault is None else f"FAILED: {report['campaign']}: {fault}\n")


def test_what_the_campaign_cannot_try_is_said(monkeypatch, capsys):
    monkeypatch.setattr(campaign, "kills", lambda *given: {"campaign": "full disk"} | campaign.NO_MOUNT)
    monkeypatch.setattr(campaign, "real_field", lambda folder: None)
    monkeypatch.setattr(sys, "argv", ["campaign.py", "--real"])
    assert campaign.main() == 0
    assert capsys.readouterr().err == "NOT TRIED: full disk: mounting a small file system needs root\n"
