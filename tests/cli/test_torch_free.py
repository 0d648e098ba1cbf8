"""Commands that read answer without importing torch, which takes seconds."""

from __future__ import annotations

import io
import json
import os
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

class Refusing:  # ends the command that looks for torch, before the seconds that its import takes
    def find_spec(self, name, path=None, target=None):
        if name == "torch":
            raise SystemExit("torch")

if sys.argv[2:]:
    sys.meta_path.insert(0, Refusing())
for arguments in json.loads(sys.argv[1]):
    sys.argv, output, status = ["deltacompose", *arguments], io.StringIO(), 0
    with contextlib.redirect_stdout(output):
        try:
            cli.main()
        except SystemExit as ended:
            status = ended.code or 0
    modules = sorted({name.partition(".")[0] for name in sys.modules})
    print(json.dumps({"modules": modules, "output": output.getvalue(), "status": status}))
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


def ran(folder, *commands):
    """The heavy modules that each command had imported when it ended, and what it printed, all in one new process."""
    facts, errors = in_one_process(folder, commands)
    assert [each["status"] for each in facts] == [0] * len(commands), errors
    return [(set(each["modules"]) & HEAVY, each["output"]) for each in facts]


def wants_torch(folder, command):
    """Whether a command looks for torch, at which it is ended."""
    [facts], errors = in_one_process(folder, [command], "refuse")
    assert facts["status"] in (0, "torch"), errors
    return facts["status"] == "torch"


def in_one_process(folder, commands, *further):
    """The answer of a new process for each command, and its standard error."""
    environment = os.environ | {"DELTACOMPOSE_CACHE": str(folder / "cache")}
    command = [sys.executable, "-W", "ignore", "-c", PROGRAM, json.dumps(commands), *further]
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment, cwd=folder)
    assert done.returncode == 0, done.stderr
    facts = [json.loads(line) for line in done.stdout.splitlines()]
    return facts, done.stderr


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


def test_commands_that_read_a_store_or_a_listing_import_no_torch(folder):
    for arguments, (heavy, output) in zip(READING, ran(folder, *READING), strict=True):
        assert heavy == set(), arguments
        assert output, arguments


PLAN = ("plan", "kinds.yaml", "--store", "store")
STATUS = ("status", "kinds.yaml", "--store", "store")
OF_A_STUDY = (
    STATUS,
    PLAN,
    ("report", "kinds.yaml", "--store", "store", "--out", "report"),
    ("transfer", "kinds.yaml", "--store", "store"),
)


@pytest.fixture(scope="module")
def first(folder):
    """The first outputs of the listing of methods and of the plan of the study."""
    [(_, methods), (heavy, plan)] = ran(folder, ("methods",), PLAN)
    assert "torch" in heavy
    return methods, plan


def test_methods_are_listed_and_a_study_is_read_without_torch_once_they_were(folder, first):
    methods, plan = first
    commands = (("methods",), *OF_A_STUDY)
    again = dict(zip(commands, ran(folder, *commands), strict=True))
    for arguments, (heavy, output) in again.items():
        assert heavy == set(), arguments
        assert output, arguments
    assert again["methods",][1] == methods
    assert "lora" in methods
    assert again[PLAN][1] == plan


EDITS = {
    "mood.jsonl": lambda text: text.replace("mood", "muud"),
    "model/config.json": lambda text: text.replace('"model_type"', '"strange": 1,\n  "model_type"'),
    "model/tokenizer.json": lambda text: text.replace('"truncation": null', '"truncation":  null') + " ",
    "kinds.yaml": lambda text: text.replace("name: kinds", "name: others"),
}


def test_an_edited_input_is_planned_anew(folder, first):
    """A plan needs torch; the study as it was planned needs none, also after an edit that is taken back."""
    assert not wants_torch(folder, STATUS)
    for name, edited in EDITS.items():
        path = folder / name
        text = path.read_text()
        assert edited(text) != text
        path.write_text(edited(text))
        assert wants_torch(folder, STATUS), name
        path.write_text(text)
    assert not wants_torch(folder, STATUS)


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
