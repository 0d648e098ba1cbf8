"""Which GPU a worker takes, as far as a machine without any can show it: what the engine and the processes are told."""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import replace

import picostudy
import pytest
import torch
import typer
from typer.testing import CliRunner

import deltacompose as dc
from deltacompose import registry
from deltacompose.cells import carry_out as work
from deltacompose.cells.worker_sources import options_of
from deltacompose.cli.study import register
from deltacompose.engine import Outcome
from deltacompose.errors import BadInput
from deltacompose.store import open_store
from deltacompose.study import BackboneChoice


class Told(Exception):
    """Ends a run as soon as what was to be seen has been."""


@pytest.fixture
def told(tmp_path, monkeypatch):
    """Runs a study on a machine with so many GPUs, and gives the options that its engine gets."""
    study = picostudy.make(tmp_path, tasks=("mood",), seeds=(0,), transfer=False)

    def make(options):
        raise Told(options)

    def run(gpus, engine="pool", options=(), **changes):
        monkeypatch.setattr(registry, "engine_of", lambda name: make)
        monkeypatch.setattr(torch.cuda, "device_count", lambda: gpus)
        with pytest.raises(Told) as found:
            dc.run(replace(study, **changes), tmp_path / "store", engine, **dict(options))
        return found.value.args[0]

    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    return run


def test_a_pool_has_one_worker_for_each_gpu(told, monkeypatch):
    assert told(0) == told(2, backbone=BackboneChoice(device="cpu")) == {}
    assert told(2) == {"workers": 2, "devices": ["0", "1"]}
    assert told(2, options={"workers": 4}) == {"workers": 4, "devices": ["0", "1"]}
    assert told(2, options={"devices": ["1"]}) == {"workers": 1, "devices": ["1"]}
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "4,7")
    assert told(2)["devices"] == ["4", "7"]


def test_a_delta_that_needs_several_gpus_has_them_all_to_itself(told):
    assert told(4, processes=2) == {"workers": 1}
    assert told(4, backbone=BackboneChoice(device="auto")) == {"workers": 1}
    assert told(4, backbone=BackboneChoice(device="sharded"), processes=2) == {"workers": 1}


def test_cores_are_shared_out_over_workers_of_several_processes(told, monkeypatch):
    monkeypatch.setattr("os.sched_getaffinity", lambda pid: set(range(8)))
    assert told(0, processes=3) == {"workers": 2}
    assert told(4, processes=16, backbone=BackboneChoice(device="cpu")) == {"workers": 1}


def test_other_engines_are_told_nothing(told):
    assert told(4, "inprocess") == {}
    assert told(4, "dask", options={"scheduler": "tcp://x:1"}) == {"scheduler": "tcp://x:1"}
    assert told(4, "dask", options={"scheduler_file": "file"}) == {"scheduler_file": "file"}


def test_a_dask_cluster_of_this_machine_has_one_worker_for_each_gpu(told):
    assert told(2, "dask") == {"workers": 2, "devices": ["0", "1"]}
    assert told(0, "dask") == {}


@pytest.mark.parametrize(
    ("text", "devices"),
    [("0,1", ["0", "1"]), ("2", ["2"]), ("0+1, 2+3", ["0,1", "2,3"]), ("GPU-a1,0", ["GPU-a1", "0"])],
)
def test_the_command_shares_devices_out(monkeypatch, text, devices):
    given = run_command(monkeypatch, "--devices", text)
    assert given == {"devices": devices}


@pytest.mark.parametrize("text", ["", "0,", "0+,1", ","])
def test_a_worker_without_a_device_is_refused(monkeypatch, text):
    with pytest.raises(BadInput, match=r"is not a valid list of devices \(expected one group per worker, as 0,1 or 0"):
        run_command(monkeypatch, "--devices", text)


def run_command(monkeypatch, *arguments):
    """The options that `deltacompose run` hands on."""
    found = {}

    def run(study, store, engine, progress, **options):
        found.update(options)
        return Outcome((), (), {}, {}, None)

    monkeypatch.setattr("deltacompose.api.studies.run", run)
    app = typer.Typer()
    register(app)
    ended = CliRunner().invoke(app, ["run", "study.yaml", *arguments])
    if ended.exception:
        raise ended.exception
    return found


def test_of_several_processes_each_knows_its_gpu_before_it_loads_the_backbone(tmp_path, monkeypatch):
    study = picostudy.make(tmp_path, tasks=("mood",), seeds=(0,), transfer=False)
    [cell] = [cell for _, cell in dc.plan(study).nodes(data="cell") if cell.kind == "train"]
    happened = []

    @contextmanager
    def process_group(on_cpu):
        happened.append("process_group")
        yield

    def backbone(choice):
        happened.append("backbone")
        raise Told

    monkeypatch.setattr("deltacompose.cells.context.process_group", process_group)
    monkeypatch.setattr("deltacompose.cells.train.backbone_of", backbone)
    spec = {"kind": cell.kind, "spec": dict(cell.spec), "parents": []}
    with pytest.raises(Told):
        work.carry_out({"store": str(open_store(tmp_path / "s").root), "cells": [spec], "options": options_of(study)})
    assert happened == ["process_group", "backbone"]
