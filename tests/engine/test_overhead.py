"""The costs around a cell, counted: planning, the driver, files that are written and waited for."""

from __future__ import annotations

import os
import tracemalloc
from collections import Counter

import networkx as nx
import picostudy
import pytest

import deltacompose as dc
from deltacompose import registry
from deltacompose.backbone import content
from deltacompose.cache import file_digests
from deltacompose.cells import loaded
from deltacompose.engine import Work, run_plan
from deltacompose.planning import plan as planning
from deltacompose.planning.facts import Facts, TaskFacts
from deltacompose.planning.flops import Lengths, Shape, StackShape
from deltacompose.scoring import rows
from deltacompose.store import atomic, open_store, reading
from deltacompose.study import Cell, Study

COMPOSITIONS = ("lora(rank=2)", "bitfit", "prompt(length=4) + lora(rank=4)", "adapter >> bitfit", "ia3", "bitfit + ia3")


def facts_of(names):
    """Facts of tasks without data and of a backbone without weights."""
    lengths, rows = Lengths(4, 4, 1, 2, 1), {"train": 9, "val": 9, "test": 9}
    tasks = {name: TaskFacts(f"{k:064d}", "kind", rows, lengths) for k, name in enumerate(names)}
    return Facts("b" * 64, Shape(9, "encoder", {"encoder": StackShape(9, 1, 2, 4, 1, 2)}), tasks)


@pytest.fixture
def hashed(monkeypatch):
    """Counts the keys of cells that are computed."""
    counts, own = Counter(), Cell.key.func

    def key(cell):
        counts["keys"] += 1
        return own(cell)

    monkeypatch.setattr(Cell.key, "func", key)
    return counts


def test_ten_thousand_cells_are_planned_in_little_memory_and_hashed_once_each(hashed):
    names = tuple(f"task{k}" for k in range(40))
    study = Study("wide", names, COMPOSITIONS, transfer=True)
    registry.parse("lora")  # what is imported once is not counted
    tracemalloc.start()
    try:
        prepared = planning.prepare(study, facts_of(names), registry.parse)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert len(prepared.plan) > 10_000
    assert hashed["keys"] == len(prepared.plan)
    assert peak < 1 << 29


def plan_of(count):
    plan = nx.DiGraph()
    for k in range(count):
        cell = Cell("probe", {"composition": "lora", "source": f"task{k}", "seed": 0})
        plan.add_node(cell.key, cell=cell)
    return plan


@pytest.fixture
def counted(monkeypatch):
    """Counts calls of functions that read, hash, or wait for the disk."""
    counts = Counter()

    def count(where, name):
        function = getattr(where, name)

        def counting(*arguments, **options):
            counts[name] += 1
            return function(*arguments, **options)

        monkeypatch.setattr(where, name, counting)

    count(os, "fsync")
    count(reading, "record")
    count(atomic, "checksum")
    monkeypatch.setattr(atomic, "_NAMED", set())
    return counts


def test_the_driver_reads_a_cell_once_and_waits_for_the_disk_three_times(tmp_path, counted):
    cells = 200
    executor = registry.engine_of("inprocess")({})
    outcome = run_plan(plan_of(cells), open_store(tmp_path / "store"), executor, Work("trivialwork:carry_out"))
    assert len(outcome.done) == cells
    shards = len(list((tmp_path / "store" / "cells").iterdir()))
    assert counted["fsync"] <= 3 * cells + shards + 8, "the record, the cell's folder, its place; a shard's name once"
    assert counted["record"] <= cells, "the driver reads each record once"
    assert counted["checksum"] == 0, "no file of a cell is hashed that it does not have"


def test_a_cells_key_is_hashed_once_for_each_of_its_two_sides(tmp_path, hashed):
    plan = plan_of(50)
    before = hashed["keys"]
    run_plan(plan, open_store(tmp_path / "store"), registry.engine_of("inprocess")({}), Work("trivialwork:carry_out"))
    assert before == 50
    assert hashed["keys"] == 100, "once in the plan, and once by the worker that was sent its spec"


def work_around_cells(folder, monkeypatch, **changes):
    """What a study's cells make a process do besides their own work, as counts, and how many cells there are."""
    counts = Counter()
    loaded.forget()
    monkeypatch.setattr(file_digests, "_remembered", {})
    monkeypatch.setattr(file_digests, "LARGE", 0)  # the weights are large; small files are hashed each time
    monkeypatch.setattr(file_digests, "SETTLED", -1.0)  # a file that was just written would be hashed again
    load, encode, digest, weights = registry.load_backbone, rows.encoded, file_digests._digest, content._weights

    def loading(*arguments, **options):
        counts["backbones loaded"] += 1
        return load(*arguments, **options)

    def encoding(tokenizer, text):
        counts["texts put into tokens"] += 1
        return encode(tokenizer, text)

    def reading(path):
        counts["files hashed"] += 1
        return digest(path)

    def hashing(model):
        counts["weights hashed"] += 1
        return weights(model)

    folder.mkdir()
    study = picostudy.make(folder, seeds=(0,), **changes)
    with monkeypatch.context() as patch:
        patch.setattr(registry, "load_backbone", loading)
        patch.setattr(rows, "encoded", encoding)
        patch.setattr(file_digests, "_digest", reading)
        patch.setattr(content, "_weights", hashing)
        outcome = dc.run(study, folder / "store", progress=False)
    assert not outcome.failed
    return counts, len(outcome.done)


def test_more_cells_load_hash_and_put_into_tokens_no_more(tmp_path, monkeypatch):
    few, cells = work_around_cells(tmp_path / "few", monkeypatch)
    many, more = work_around_cells(tmp_path / "many", monkeypatch, compositions=("bitfit", "ia3", "bitfit >> ia3"))
    assert more >= 2 * cells
    assert many == few
    assert few["backbones loaded"] == 1
    texts = 4 * (
        2 * (40 + 12 + 12) + 2 * 32
    )  # input, answer and two candidates: all examples, and 32 a task for the plan
    assert few["texts put into tokens"] <= texts
