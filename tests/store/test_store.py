"""The store: whole cells only, whatever is killed, corrupted or full."""

import errno
import json
import multiprocessing
import os
import subprocess
import sys
import time
from collections import Counter

import pandas
import pytest
from cellwork import evaluation, training
from hypothesis import given, settings
from hypothesis import strategies as st

from deltacompose.errors import BadInput
from deltacompose.store import Damaged, Unwritable, machine, open_store, reading
from deltacompose.store import atomic as disk
from deltacompose.study import Cell

FORK = multiprocessing.get_context("fork")
DEAD = 2**22 + 1  # above every process id that Linux gives


@pytest.fixture
def store(tmp_path):
    return open_store(tmp_path / "store")


def write(text):
    return lambda folder: (folder / "delta.txt").write_text(text) and None


def tree(folder):
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


# Storing and reading


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)


@settings(max_examples=25, deadline=None)
@given(st.dictionaries(st.text(), json_values, max_size=4), st.dictionaries(st.text(), json_values, max_size=4))
def test_a_record_reads_back_as_it_was_stored_and_its_key_follows_from_it(tmp_path_factory, spec, result):
    store = open_store(tmp_path_factory.mktemp("store"))
    cell = Cell("train", spec)
    assert store.add(cell, result)
    record = store.record(cell.key)
    assert (record["spec"], record["result"], record["parents"]) == (spec, result, [])
    assert Cell(record["kind"], record["spec"]).key == record["key"] == cell.key
    assert store.verify() == []


def test_a_cell_is_absent_then_failed_then_done(store):
    cell = training()
    assert (store.state(cell.key), store.has(cell.key)) == ("absent", False)
    store.fail(cell, ValueError("too steep"))
    assert (store.state(cell.key), store.has(cell.key)) == ("failed", False)
    assert store.add(cell, {"dev": 0.5}, write("tensors"))
    assert (store.state(cell.key), store.has(cell.key)) == ("done", True)
    assert (store.folder(cell.key) / "delta.txt").read_text() == "tensors"
    assert store.keys("failed") == []


def test_a_record_says_where_its_files_came_from_and_what_they_were(store):
    cell = evaluation(training(), "imdb")
    store.add(cell, {"score": 0.5}, write("abc"), seconds=1.5)
    record = store.record(cell.key)
    assert record["format"] == 2
    assert record["state"] == "done"
    assert record["parents"] == list(cell.parents)
    assert record["seconds"] == 1.5
    assert record["files"] == {"delta.txt": "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"}
    assert {"host", "finished"} < set(record)


def test_who_comes_second_drops_its_copy(store):
    cell = training()
    assert store.add(cell, {"dev": 1.0}, write("first"))
    assert not store.add(cell, {"dev": 2.0}, write("second"))
    assert store.record(cell.key)["result"] == {"dev": 1.0}
    assert (store.folder(cell.key) / "delta.txt").read_text() == "first"
    assert list((store.root / "tmp").iterdir()) == []


def test_records_come_by_kind_and_state(store):
    first = training()
    store.add(first, {"dev": 1.0})
    store.add(evaluation(first, "imdb"), {"score": 1.0})
    store.fail(training("other"), ValueError("no"))
    assert len(list(store.records())) == 2
    assert [record["key"] for record in store.records("train")] == [first.key]
    assert [record["message"] for record in store.records(state="failed")] == ["no"]


def test_to_read_all_records_each_is_read_once_and_no_file_is_hashed(store, monkeypatch):
    """So that thousands are read in a fraction of a second."""
    monkeypatch.setattr(os, "fsync", lambda number: None)
    for seed in range(200):
        store.add(training(seed=seed), {"dev": 0.5, "history": [{"step": 1, "loss": 0.25}]})
    counts, read, checksum = Counter(), reading.record, disk.checksum
    monkeypatch.setattr(reading, "record", lambda *given: counts.update(["record"]) or read(*given))
    monkeypatch.setattr(disk, "checksum", lambda *given: counts.update(["checksum"]) or checksum(*given))
    assert sum(1 for _ in store.records("train")) == 200
    assert counts == {"record": 200}


def test_importing_the_store_imports_no_torch():
    code = "import sys, deltacompose.store, deltacompose.engine; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


# Opening


def test_a_store_of_another_format_is_refused_by_its_number(tmp_path):
    (tmp_path / "store.json").write_text('{"format": 7}')
    with pytest.raises(BadInput, match="has format 7; this version reads formats 1 to 2; a later deltacompose made it"):
        open_store(tmp_path)


def test_a_folder_of_other_things_is_no_store(tmp_path):
    (tmp_path / "thesis.tex").write_text("")
    with pytest.raises(BadInput, match=r"not a store and not empty \(it has 'thesis.tex'\)"):
        open_store(tmp_path)
    assert tree(tmp_path) == ["thesis.tex"]


def test_a_store_that_is_not_there_is_not_made_where_only_reading_is_meant(tmp_path):
    with pytest.raises(BadInput, match="there is no store at"):
        open_store(tmp_path / "new", create=False)
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize("content", ["", "[]", '{"form', "\x00\x01"])
def test_an_unreadable_store_file_is_refused(tmp_path, content):
    (tmp_path / "store.json").write_text(content)
    with pytest.raises(BadInput, match=r"store.json is unreadable|has format None"):
        open_store(tmp_path)


def test_a_file_is_no_store(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(BadInput, match="cannot be opened as a store"):
        open_store(tmp_path / "file")


def _open(path, results):
    results.put(str(open_store(path).root))


def test_eight_processes_may_make_one_store_at_once(tmp_path):
    results = FORK.Queue()
    processes = [FORK.Process(target=_open, args=(tmp_path / "store", results)) for _ in range(8)]
    for process in processes:
        process.start()
    assert {results.get(timeout=600) for _ in processes} == {str(tmp_path / "store")}
    for process in processes:
        process.join()


@pytest.mark.parametrize("key", ["", "../../etc/passwd", "A" * 64, "a" * 63, "a" * 64 + "\n", "/" + "a" * 63, None, 3])
def test_what_is_no_key_never_becomes_a_path(store, key):
    for use in (store.folder, store.has, store.state, store.record, store.failure, store.checkpoint, store.set_aside):
        with pytest.raises(BadInput, match="a key is 64 hexadecimal digits"):
            use(key)
    with pytest.raises(BadInput, match="a key is 64 hexadecimal digits"):
        store.forget_failures([key])


def test_a_cell_that_is_not_there_is_named(store):
    with pytest.raises(BadInput, match=f"has no cell {'a' * 64}"):
        store.record("a" * 64)


def test_a_result_that_is_not_finite_is_refused_and_leaves_nothing(store):
    with pytest.raises(BadInput, match=r"result of the train cell .* cannot be stored: Out of range float"):
        store.add(training(), {"dev": float("nan")}, write("x"))
    assert store.keys() == []
    assert list((store.root / "tmp").iterdir()) == []


# Failures


def test_a_failure_keeps_its_traceback_and_counts_its_attempts(store):
    cell = training()
    try:
        raise ValueError("the loss is not finite")
    except ValueError as error:
        store.fail(cell, error, attempts=2)
        store.fail(cell, error)
    failure = store.failure(cell.key)
    assert (failure["error"], failure["message"], failure["attempts"]) == ("ValueError", "the loss is not finite", 3)
    assert "test_a_failure_keeps_its_traceback" in failure["traceback"]
    assert failure["spec"] == dict(cell.spec)


def test_a_forgotten_failure_is_absent_and_a_finished_cell_cannot_fail(store):
    cell = training()
    store.fail(cell, ValueError())
    store.forget_failures([cell.key])
    assert store.state(cell.key) == "absent"
    store.add(cell, {})
    store.fail(cell, ValueError())
    assert store.state(cell.key) == "done"


# Checkpoints


def test_a_checkpoint_replaces_the_one_before_and_goes_with_the_cell(store):
    cell = training()
    assert store.checkpoint(cell.key) is None
    for step in ("one", "two", "three"):
        store.save_checkpoint(cell.key, write(step))
    assert (store.checkpoint(cell.key) / "delta.txt").read_text() == "three"
    assert len(list((store.root / "checkpoints" / cell.key).iterdir())) == 1
    store.add(cell, {})
    assert store.checkpoint(cell.key) is None


def test_a_damaged_checkpoint_is_not_used(store):
    cell = training()
    store.save_checkpoint(cell.key, write("state"))
    (store.checkpoint(cell.key) / "delta.txt").write_text("stale")
    assert store.checkpoint(cell.key) is None
    store.save_checkpoint(cell.key, write("new"))
    assert (store.checkpoint(cell.key) / "delta.txt").read_text() == "new"


def test_cells_that_train_together_are_known_as_such_until_they_are_done(store):
    cells = [training("one"), training("two"), training("three")]
    keys = tuple(cell.key for cell in cells)
    assert store.together(keys[0]) == ()
    store.save_checkpoints({key: write("state") for key in keys})
    assert [store.together(key) for key in keys] == [keys] * 3
    store.save_checkpoints({key: write("state") for key in keys[:2]})
    assert [store.together(key) for key in keys] == [keys[:2], keys[:2], keys]
    store.add(cells[0], {})
    assert (store.together(keys[0]), store.together(keys[1])) == ((), keys[:2])


def test_cells_without_a_checkpoint_in_common_have_each_its_newest(store):
    one, two, none = (training(name).key for name in ("one", "two", "none"))
    for text in ("first", "second"):
        store.save_checkpoint(one, write(text))
    store.save_checkpoint(two, write("first"))
    found = store.checkpoints([one, two, none])
    assert {key: (folder / "delta.txt").read_text() for key, folder in found.items()} == {one: "second", two: "first"}
    assert store.checkpoints([]) == {}


def test_a_checkpoint_of_no_key_is_refused(store):
    for use in (store.together, store.drop_checkpoint, lambda key: store.checkpoints([key])):
        with pytest.raises(BadInput, match="is not a valid cell key"):
            use("../elsewhere")


# Races and kills


def _race(root, cells, name, start):
    store = open_store(root)
    start.wait()
    for cell in cells:
        store.add(cell, {"by": name}, lambda folder: [(folder / f"{i}.txt").write_text(name) for i in range(5)])


def test_eight_racing_processes_give_no_mixed_cell(store):
    cells, start = [training(seed=seed) for seed in range(20)], FORK.Event()
    processes = [FORK.Process(target=_race, args=(store.root, cells, f"process {i}", start)) for i in range(8)]
    for process in processes:
        process.start()
    start.set()
    for process in processes:
        process.join()
    assert {process.exitcode for process in processes} == {0}
    assert store.keys() == sorted(cell.key for cell in cells)
    assert store.verify() == []
    for cell in cells:
        texts = {(store.folder(cell.key) / f"{i}.txt").read_text() for i in range(5)}
        assert texts == {store.record(cell.key)["result"]["by"]}
    assert list((store.root / "tmp").iterdir()) == []


STEPS = ("mkdir", "open", "fsync", "rename", "replace", "rmdir", "unlink")


def _ended_at_step(act, number):
    """Do something in a process that ends, without any clean-up, before its n-th call of the system."""
    count = 0

    def counted(function):
        def wrapped(*args, **kwargs):
            nonlocal count
            count += 1
            if count > number:
                os._exit(9)
            return function(*args, **kwargs)

        return wrapped

    def run():
        for name in STEPS:
            setattr(os, name, counted(getattr(os, name)))
        act()

    process = FORK.Process(target=run)
    process.start()
    process.join()
    return process.exitcode == 9


def test_a_cell_is_whole_or_absent_whatever_call_its_writer_is_killed_before(tmp_path):
    number = 0
    states = []
    cell = training()
    while True:
        store = open_store(tmp_path / str(number))
        killed = _ended_at_step(lambda store=store: store.add(cell, {"dev": 1.0}, write("tensors")), number)
        assert store.verify() == []
        assert [record["result"] for record in store.records()] == [{"dev": 1.0}] * store.has(cell.key)
        states.append(store.state(cell.key))
        store.sweep()
        assert list((store.root / "tmp").iterdir() if (store.root / "tmp").exists() else []) == []
        assert store.add(cell, {"dev": 1.0}, write("tensors")) == (states[-1] == "absent")
        assert store.state(cell.key) == "done"
        number += 1
        if not killed:
            break
    assert {"absent", "done"} == set(states)
    assert states == sorted(states)


def test_a_checkpoint_is_the_old_or_the_new_whatever_call_its_writer_is_killed_before(tmp_path):
    cell = training()
    for number in range(100):
        store = open_store(tmp_path / str(number))
        store.save_checkpoint(cell.key, write("old"))
        killed = _ended_at_step(lambda store=store: store.save_checkpoint(cell.key, write("new")), number)
        assert (store.checkpoint(cell.key) / "delta.txt").read_text() in ("old", "new")
        if not killed:
            break
    assert not killed


def test_cells_that_train_together_have_a_checkpoint_in_common_whatever_call_their_writer_is_killed_before(tmp_path):
    keys = [training(name).key for name in ("one", "two", "three")]
    seen = set()
    for number in range(200):
        store = open_store(tmp_path / str(number))
        store.save_checkpoints({key: write("old") for key in keys})
        killed = _ended_at_step(lambda store=store: store.save_checkpoints({key: write("new") for key in keys}), number)
        found = store.checkpoints(keys)
        (common,) = {(folder / "delta.txt").read_text() for folder in found.values()}
        assert list(found) == keys
        seen.add((common, len({store.checkpoint(key).name for key in keys})))
        if not killed:
            break
    assert not killed
    assert {("old", 2), ("new", 1)} <= seen  # some were killed when one of the cells was ahead of the others


def test_an_error_of_the_disk_after_the_rename_does_no_harm(store, monkeypatch):
    cell, sync = training(), disk.sync

    def failing(path):
        if path.parent.name == "cells":
            raise OSError(errno.EIO, "Input/output error")
        sync(path)

    monkeypatch.setattr(disk, "sync", failing)
    with pytest.raises(OSError, match="Input/output error"):
        store.add(cell, {"dev": 1.0})
    monkeypatch.setattr(disk, "sync", sync)
    assert store.verify() == []
    assert not store.add(cell, {"dev": 1.0})


def test_what_dead_processes_left_is_swept_and_nothing_else(store):
    def leftover(name):
        (store.root / "tmp" / name).mkdir(parents=True)
        (store.root / "tmp" / name / "half").write_text("x")
        return name

    dead = leftover(f"{machine()}.{DEAD}.aa")
    kept = {leftover(f"{machine()}.{os.getpid()}.bb"), leftover(f"elsewhere-1.{DEAD}.cc"), leftover("who.knows")}
    assert store.sweep() == 1
    assert {path.name for path in (store.root / "tmp").iterdir()} == kept
    assert dead not in kept


def test_a_process_that_ended_but_was_not_waited_for_is_dead():
    process = subprocess.Popen([sys.executable, "-c", ""])
    until = time.monotonic() + 600
    while disk.alive(process.pid) and time.monotonic() < until:
        time.sleep(0.01)
    assert not disk.alive(process.pid)
    assert process.wait() == 0
    assert disk.alive(os.getpid())


# Damage


@pytest.mark.parametrize("damage", ["truncate", "empty", "foreign", "edit", "missing"])
def test_a_damaged_record_is_said_and_can_be_computed_again(store, damage):
    cell, other = training(), training("other")
    store.add(cell, {"dev": 0.5}, write("tensors"))
    store.add(other, {"dev": 0.25})
    path = store.folder(cell.key) / "record.json"
    text = path.read_text()
    contents = {"truncate": text[: len(text) // 2], "empty": "", "edit": text.replace("0.5", "0.9")}
    contents["foreign"] = (store.folder(other.key) / "record.json").read_text()
    path.write_text(contents[damage]) if damage in contents else path.unlink()
    with pytest.raises(Damaged, match=r"record.json is (truncated|not what was stored|missing)"):
        store.record(cell.key)
    assert [(problem.key, problem.file) for problem in store.verify()] == [(cell.key, "record.json")]
    assert store.add(cell, {"dev": 0.5}, write("tensors"))
    assert store.verify() == []
    assert len(tree(store.root / "aside")) >= 1


def test_verify_names_the_file_that_changed_and_the_one_that_is_gone(store):
    cell = training()
    store.add(cell, {}, lambda folder: [(folder / name).write_text(name) for name in ("a.txt", "b.txt", "c.txt")])
    (store.folder(cell.key) / "a.txt").write_text("A.txt")
    (store.folder(cell.key) / "b.txt").unlink()
    found = [str(problem) for problem in store.verify()]
    assert found == [
        f"cell {cell.key}: a.txt has another checksum than when it was stored",
        f"cell {cell.key}: b.txt cannot be read: No such file or directory",
    ]


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_no_flipped_bit_of_any_file_goes_unnoticed(tmp_path_factory, data):
    store, cell = open_store(tmp_path_factory.mktemp("store")), training()
    store.add(cell, {"dev": 0.5}, write("some tensors"))
    path = store.folder(cell.key) / data.draw(st.sampled_from(["record.json", "delta.txt"]))
    content = bytearray(path.read_bytes())
    content[data.draw(st.integers(0, len(content) - 1))] ^= 1 << data.draw(st.integers(0, 7))
    path.write_bytes(content)
    assert [problem.key for problem in store.verify()] == [cell.key]


# Disks that do not take it


def mounted(folder, size):
    """A small file system, where this machine lets us have one."""
    folder.mkdir()
    done = subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", folder], capture_output=True)
    if done.returncode:
        pytest.skip("mounting a small file system needs root")
    return folder


@pytest.fixture
def small_disk(tmp_path):
    folder = mounted(tmp_path / "disk", "256k")
    yield folder
    subprocess.run(["umount", folder], check=True)


def test_a_full_disk_is_one_clear_sentence_and_keeps_what_is_finished(small_disk):
    store = open_store(small_disk / "store")

    def fill():
        for seed in range(20):
            store.add(training(seed=seed), {"dev": 1.0}, lambda folder: (folder / "big").write_bytes(b"x" * 30_000))

    with pytest.raises(Unwritable, match="No space left on device; finished cells are kept"):
        fill()
    assert 3 <= len(store.keys()) < 20
    assert store.verify() == []
    subprocess.run(["mount", "-o", "remount,size=4m", small_disk], check=True)
    fill()
    assert len(store.keys()) == 20


def test_a_full_disk_is_known_also_where_safetensors_meets_it(small_disk):
    import numpy
    from safetensors.numpy import save_file

    store = open_store(small_disk / "store")
    with pytest.raises(Unwritable, match="No space left on device"):
        store.add(training(), {}, lambda folder: save_file({"a": numpy.zeros(10**6)}, folder / "delta.safetensors"))
    assert store.keys() == []


def test_a_read_only_store_can_be_read_and_says_that_it_cannot_be_written(small_disk):
    store = open_store(small_disk / "store")
    store.add(training(), {"dev": 1.0})
    subprocess.run(["mount", "-o", "remount,ro", small_disk], check=True)
    store = open_store(small_disk / "store")
    assert [record["result"] for record in store.records()] == [{"dev": 1.0}]
    for act in (store.check_writable, lambda: store.add(training(seed=1), {}), lambda: store.log({"event": "run"})):
        with pytest.raises(Unwritable, match="cannot be written: Read-only file system"):
            act()
    with pytest.raises(Unwritable, match="Read-only file system"):
        open_store(small_disk / "another")


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES])
def test_what_trying_again_cannot_mend_is_told_apart(store, number):
    def fail(folder):
        raise OSError(number, os.strerror(number))

    with pytest.raises(Unwritable, match=os.strerror(number)):
        store.add(training(), {}, fail)
    with pytest.raises(ConnectionError):
        store.add(training(), {}, lambda folder: (_ for _ in ()).throw(ConnectionError("away")))


# Upkeep


def test_gc_keeps_what_is_kept_rests_on_and_is_dry_unless_told(store):
    kept_parent, other = training(), training("other")
    kept, lost = evaluation(kept_parent, "imdb"), evaluation(other, "imdb")
    for cell in (kept_parent, other, kept, lost):
        store.add(cell, {})
    store.fail(training("third"), ValueError())
    store.save_checkpoint(training("fourth").key, write("x"))
    store.save_checkpoint(kept_parent.key, write("of a finished cell"))
    planned = store.gc({kept.key})
    assert len(planned) == 5
    assert len(store.keys()) == 4
    assert store.gc({kept.key}, dry=False) == planned
    assert store.keys() == sorted([kept_parent.key, kept.key])
    assert not any(place.exists() for place in planned)
    assert store.gc({kept.key}) == []


def test_gc_takes_what_lost_machines_left_half_written_once_nobody_works(store):
    lost = store.root / "tmp" / "pod-7f.12.abc"
    (lost / "files").mkdir(parents=True)
    (store.root / "tmp" / "pod-8a.12.abc").mkdir()
    with disk.temporary(store.root) as own:
        assert store.gc([], leftovers=True) == []
        os.utime(lost, (time.time() - 100_000,) * 2)
        assert store.gc([]) == []
        assert store.gc([], leftovers=True, dry=False) == [lost]
        assert own.exists()
    assert not lost.exists()


@pytest.mark.parametrize("suffix", ["csv", "parquet"])
def test_the_export_has_a_row_for_every_cell_failed_ones_too(store, tmp_path, suffix):
    first = training()
    store.add(first, {"dev": 0.5, "history": [{"step": 1}]})
    store.add(evaluation(first, "imdb"), {"score": 0.75})
    store.fail(training("other", rate="high"), ValueError("too steep"))
    store.add(training("third", rate=0.1), {"dev": 0.25})
    assert store.export(tmp_path / f"cells.{suffix}") == 4
    table = (pandas.read_csv if suffix == "csv" else pandas.read_parquet)(tmp_path / f"cells.{suffix}")
    table = table.set_index("key")
    assert table.loc[first.key, "result.dev"] == 0.5
    assert json.loads(table.loc[first.key, "result.history"]) == [{"step": 1}]
    assert sorted(table["state"]) == ["done", "done", "done", "failed"]
    assert "too steep" in set(table["message"])
    assert set(table["spec.rate"].dropna()) == {"high", "0.1"}


def test_an_export_to_another_kind_of_file_is_refused(store, tmp_path):
    with pytest.raises(BadInput, match=r"must end in .csv or .parquet"):
        store.export(tmp_path / "cells.xlsx")
    with pytest.raises(BadInput, match="cannot export to"):
        store.export(tmp_path / "nowhere" / "cells.csv")


def test_the_log_of_events_bears_a_line_that_was_cut_off(store):
    store.log({"event": "run"})
    with open(store.root / "events.jsonl", "a") as file:
        file.write('{"event": "do')
    store.log({"event": "end"})
    assert [event["event"] for event in store.events()] == ["run", "end"]


def test_times_of_files_and_records_are_never_trusted(store):
    cell = training()
    store.add(cell, {"dev": 1.0}, write("x"))
    store.save_checkpoint(training("other").key, write("old"))
    for path in [store.root, *store.root.rglob("*")]:
        os.utime(path, (2**32, 2**32))  # the year 2106: the clock has been set back since
    store.save_checkpoint(training("other").key, write("new"))
    assert (store.checkpoint(training("other").key) / "delta.txt").read_text() == "new"
    assert not store.add(cell, {"dev": 1.0}, write("x"))
    assert store.verify() == []
