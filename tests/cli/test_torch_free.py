"""Commands that read answer without importing torch, which takes seconds."""

from __future__ import annotations

import io
import json
import os
import shutil
import subprocess
import sys
import time
import zipfile
from pathlib import Path

import pytest

from deltacompose.cli.waiting import waiting

HEAVY = {"torch", "transformers", "peft", "accelerate"}
PROGRAM = """
import contextlib, io, json, sys
from deltacompose import cli
output = io.StringIO()
with contextlib.redirect_stdout(output):
    cli.main()
print(json.dumps({"modules": sorted({name.partition(".")[0] for name in sys.modules}), "output": output.getvalue()}))
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A study with its store, and a cache of its own."""
    folder = tmp_path_factory.mktemp("reading")
    with zipfile.ZipFile(Path(__file__).parents[1] / "data" / "store_version_2.zip") as archive:
        archive.extractall(folder)
    rows = ["source,a,b,c", "a,.9,.7,.6", "b,.7,.8,.6", "c,.6,.6,.9", "chance,.5,.5,.5"]
    (folder / "scores.csv").write_text("\n".join(rows) + "\n")
    return folder


def ran(folder, *arguments):
    """The heavy modules that a command imported, and what it printed."""

    environment = os.environ | {"DELTACOMPOSE_CACHE": str(folder / "cache")}
    command = [sys.executable, "-W", "ignore", "-c", PROGRAM, *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment, cwd=folder)
    assert done.returncode == 0, done.stderr
    facts = json.loads(done.stdout.splitlines()[-1])
    return set(facts["modules"]) & HEAVY, facts["output"]


READING = (
    ("tasks",),
    ("backbones",),
    ("plugins",),
    ("status", "store"),
    ("watch", "store", "--once"),
    ("transfer", "store"),
    ("graph", "--scores", "scores.csv", "--k", "1"),
    ("report", "store", "--out", "report"),
)


@pytest.mark.parametrize("arguments", READING, ids=lambda arguments: arguments[0])
def test_a_command_that_reads_a_store_or_a_listing_imports_no_torch(folder, arguments):
    heavy, output = ran(folder, *arguments)
    assert heavy == set()
    assert output


def test_the_methods_are_listed_without_torch_once_they_were_listed(folder):
    heavy, first = ran(folder, "methods")
    assert "torch" in heavy
    heavy, again = ran(folder, "methods")
    assert heavy == set()
    assert again == first
    assert "lora" in again


OF_A_STUDY = (
    ("status", "kinds.yaml", "--store", "store"),
    ("plan", "kinds.yaml", "--store", "store"),
    ("report", "kinds.yaml", "--store", "store", "--out", "report"),
    ("transfer", "kinds.yaml", "--store", "store"),
)


def test_a_study_is_read_without_torch_once_it_was_planned(folder):
    heavy, first = ran(folder, *OF_A_STUDY[1])
    assert "torch" in heavy
    for arguments in OF_A_STUDY:
        heavy, output = ran(folder, *arguments)
        assert heavy == set(), arguments
        assert output
    assert ran(folder, *OF_A_STUDY[1])[1] == first


@pytest.mark.parametrize("name", ["mood.jsonl", "model/config.json", "model/tokenizer.json", "kinds.yaml"])
def test_an_edited_input_is_planned_anew(folder, tmp_path, name):
    copy = tmp_path / "copy"
    shutil.copytree(folder, copy)
    ran(copy, "plan", "kinds.yaml", "--store", "store")
    before = ran(copy, "status", "kinds.yaml", "--store", "store")
    assert before[0] == set()
    path = copy / name
    edits = {
        "mood.jsonl": lambda text: text.replace("mood", "muud"),
        "model/config.json": lambda text: text.replace('"model_type"', '"strange": 1,\n  "model_type"'),
        "model/tokenizer.json": lambda text: text.replace('"truncation": null', '"truncation":  null') + " ",
        "kinds.yaml": lambda text: text.replace("name: kinds", "name: others"),
    }
    path.write_text(edits[name](path.read_text()))
    heavy, _ = ran(copy, "status", "kinds.yaml", "--store", "store")
    assert "torch" in heavy


def test_a_wait_of_more_than_two_seconds_is_told_and_a_short_one_is_not(monkeypatch):
    stream = io.StringIO()
    monkeypatch.setattr(sys, "stderr", stream)
    with waiting("planning the study", first=30.0):
        pass
    assert stream.getvalue() == ""
    with waiting("planning the study", first=0.01, following=0.01):
        deadline = time.monotonic() + 60
        while "planning the study" not in stream.getvalue() and time.monotonic() < deadline:
            time.sleep(0.01)
    assert stream.getvalue().startswith("planning the study … 0 s\n")
