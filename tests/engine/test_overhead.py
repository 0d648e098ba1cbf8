"""The costs around a cell, counted: planning, the driver, files that are written and waited for."""

from __future__ import annotations

import os
import tracemalloc
from collections import Counter

import networkx as nx
import pytest

from deltacompose import registry
from deltacompose.engine import Work, run_plan
from deltacompose.planning import plan as planning
from deltacompose.planning.facts import Facts, TaskFacts
from deltacompose.planning.flops import Lengths, Shape, StackShape
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
