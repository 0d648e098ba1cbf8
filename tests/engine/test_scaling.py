"""What `docs/scaling.md` says is so: its scripts run, its manifests start what exists, its numbers can be made."""

from __future__ import annotations

import argparse
import importlib.util
import os
import re
import subprocess
import sys
from pathlib import Path

import networkx as nx
import picostudy
import pytest
import typer
import yaml

import deltacompose as dc
from deltacompose.cells.study_facts import facts, speed_of
from deltacompose.cli import app
from deltacompose.planning.cost import cost
from deltacompose.store import open_store
from deltacompose.study import Cell

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "scaling.md").read_text(encoding="utf-8")


def script(name):
    """A script of `studies/speed` as a module."""
    spec = importlib.util.spec_from_file_location(name, ROOT / "studies" / "speed" / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def blocks(language):
    return re.findall(rf"^```{language}\n(.*?)^```$", PAGE, re.S | re.M)


def certificates(folder):
    """The commands of the page that make an authority and a certificate, for a folder instead of `/shared`."""
    (text,) = (block for block in blocks("bash") if "openssl" in block)
    return text.replace("/shared", str(folder))


def executable(path, line):
    path.parent.mkdir(exist_ok=True)
    path.write_text(f'#!/bin/sh\nexec {line} "$@"\n')
    path.chmod(0o755)


@pytest.mark.slow
def test_the_slurm_script_carries_out_a_study_where_srun_starts_its_process_here(tmp_path):
    (text,) = (block for block in blocks("bash") if "#SBATCH" in block)
    study = picostudy.make(tmp_path, tasks=("mood",), seeds=(0,), transfer=False)
    study.write(tmp_path / "study.yaml")
    (tmp_path / "run").mkdir()
    executable(tmp_path / "bin" / "srun", "")
    executable(tmp_path / "bin" / "dask", f"{sys.executable} -m dask")
    executable(tmp_path / "bin" / "python", sys.executable)
    executable(tmp_path / "bin" / "deltacompose", f"{sys.executable} -c 'from deltacompose.cli import main; main()'")
    subprocess.run(["bash", "-c", certificates(tmp_path)], check=True, capture_output=True)
    (tmp_path / "job.sh").write_text(text.replace("/shared", str(tmp_path)).replace("ib0", "lo"))
    environment = os.environ | {"PATH": f"{tmp_path / 'bin'}:{os.environ['PATH']}", "SLURM_JOB_ID": "7"}
    done = subprocess.run(
        ["bash", str(tmp_path / "job.sh")], env=environment, capture_output=True, text=True, timeout=1800, cwd=tmp_path
    )
    assert done.returncode == 0, done.stderr[-3000:]
    store = open_store(tmp_path / "results" / "study", create=False)
    assert set(store.keys()) == set(dc.plan(study))
    assert store.verify() == []


def test_every_script_of_the_page_is_one_that_bash_can_read():
    for text in blocks("bash"):
        subprocess.run(["bash", "-n"], input=text, text=True, check=True)


def test_the_manifests_start_what_exists():
    (text,) = blocks("yaml")
    manifests = list(yaml.safe_load_all(text))
    assert [one["kind"] for one in manifests] == ["Service", "Deployment", "Deployment", "Job"]
    containers = [one["spec"]["template"]["spec"]["containers"][0] for one in manifests[1:]]
    names = [one["command"][:2] for one in containers]
    assert names == [["dask", "scheduler"], ["dask", "worker"], ["deltacompose", "run"]]
    parameters = typer.main.get_command(app).commands["run"].params
    known = {name for parameter in parameters for name in parameter.opts}
    assert {word for word in containers[2]["command"] if word.startswith("--")} <= known


def test_a_hundred_tasks_are_reckoned_from_shapes_alone():
    hundred = script("hundred_tasks")
    assert len({*hundred.SINGLE, *hundred.PAIRS, *hundred.FURTHER}) == 20
    given = {"tasks": 3, "seeds": 2, "steps": 10, "transfer": True, "input": 64.0, "answer": 2.0, "candidates": 2.0}
    options = argparse.Namespace(**given, rate=1e12, workers=2, bank=1)
    found = hundred.reckoned(options)
    assert {row["kind"]: row["cells"] for row in found["kinds"]} == {"train": 120, "evaluate": 3 + 120 * 4}
    assert found["parameters of the backbone"] == 737_668_096
    assert found["hours of one worker"] == pytest.approx(found["operations"] / 1e12 / 3600)
    options.steps = 20
    assert hundred.reckoned(options)["operations"] > found["operations"]


@pytest.fixture(scope="module")
def carried(tmp_path_factory):
    folder = tmp_path_factory.mktemp("measured")
    study = picostudy.make(folder, tasks=("mood",), compositions=("lora",), efficiency=True)
    dc.run(study, folder / "store")
    return study, open_store(folder / "store")


def test_predictions_stand_beside_what_the_cells_of_a_store_took(carried):
    study, store = carried
    found = script("cost_against_measured").compared(study, store)
    of_all = {row["kind"]: row for row in found["seconds"] if row["composition"] == "all"}
    assert of_all["train"]["cells"] == 2
    assert of_all["evaluate"]["cells"] == 1 + 2 * 2
    seconds = sum(record["seconds"] for record in store.records("train"))
    assert of_all["train"]["measured s"] == pytest.approx(seconds)
    assert of_all["train"]["ratio"] == pytest.approx(of_all["train"]["predicted s"] / seconds)
    assert {row["composition"] for row in found["seconds"]} == {"all", "untouched", "lora"}
    assert [(row["composition"], row["task"]) for row in found["memory"]] == [("lora", "mood")]
    for row in found["memory"]:
        assert row["by the formula MB"] > 0
        assert row["by the step MB"] > 0


def test_a_cell_is_compared_with_what_the_other_cells_of_its_kind_say_of_it():
    measured = script("cost_against_measured")
    own = [(Cell("train", {"seed": k}, cost=10.0 * (k + 1)), 2.0 * (k + 1)) for k in range(3)]
    assert measured._error(own, own) == pytest.approx(0)
    slow = [*own[:2], (own[2][0], 12.0)]
    assert measured._error(slow[2:], slow) == pytest.approx(0.5)  # 30 at 30 / 6 a second, and it took twice that
    assert measured._error(own[:1], own[:1]) is None


def test_what_a_measurement_of_cost_took_is_known_to_the_next_plan(carried):
    study, store = carried
    assert all(record["seconds"] > 0.1 for record in store.records("efficiency"))
    plan = nx.DiGraph()
    cells = [cell for _, cell in dc.plan(study).nodes(data="cell") if cell.kind == "efficiency"]
    more = [Cell(cell.kind, {**cell.spec, "seed": 9}, (), cell.cost) for cell in cells]
    plan.add_nodes_from((cell.key, {"cell": cell}) for cell in [*cells, *more])
    rates = speed_of(study, facts(study))
    assert cost(plan, store, lambda: rates).total("seconds") > 0.1 * len(cells)
