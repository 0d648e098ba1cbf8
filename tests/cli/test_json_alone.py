"""With `--json` stdout holds one document and nothing else, whatever plugins and libraries print."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import hostile
import picostudy
import pytest
import typer

import deltacompose as dc
from deltacompose.cli import app, output

SITE = ["prints", "member_prints", "member_interrupts", "interrupts", "closes_stdout"]
STORE = ("--store", "store")
SUCCEED = {
    "methods": (),
    "tasks": ("intent",),
    "backbones": (),
    "plugins": (),
    "plugins list": (),
    "plan": ("study.yaml",),
    "run": ("study.yaml", *STORE, "--engine", "inprocess"),
    "status": ("study.yaml", *STORE),
    "verify": ("store",),
    "retry": ("store",),
    "gc": ("study.yaml", *STORE),
    "lift": ("study.yaml", *STORE),
    "report": ("store",),
    "export": ("store", "cells.csv"),
}
"""Words for which commands must succeed; the others are given the store, which some of them must refuse."""


def leaves(command, path=()):
    """The words of every command with `--json`."""
    for name, child in getattr(command, "commands", {}).items():
        yield from leaves(child, (*path, name))
    if any("--json" in parameter.opts for parameter in command.params):
        yield path


ALL = sorted(set(leaves(typer.main.get_command(app))))


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A folder with a study, its store, and plugins that print."""
    folder = tmp_path_factory.mktemp("json")
    study = picostudy.make(folder, seeds=(0,))
    study.write(folder / "study.yaml")
    dc.run(study, folder / "store", "inprocess")
    hostile.install(folder / "site", SITE)
    return folder


def noisy(data, original=output.write_json):
    """Prints in every way before and after the document."""
    for _ in range(2):
        print("noise")
        os.write(1, b"noise")
        subprocess.run(["echo", "noise"], check=True)
    original(data)
    print("noise")
    os.write(1, b"noise")


@pytest.mark.parametrize("path", [path for path in ALL if path != ("plugins", "check")], ids=" ".join)
def test_every_command_with_json_prints_one_document_or_nothing(place, monkeypatch, path):
    monkeypatch.chdir(place)
    monkeypatch.setattr(output, "write_json", noisy)
    name = " ".join(path)
    status, out, error = hostile.forked(place / "site", (*path, *SUCCEED.get(name, ("store",)), "--json"))
    assert "Traceback" not in error
    if name in SUCCEED:
        assert status == 0, error
        assert "noise" in error
    if status or not out:
        assert (out, status != 0) == ("", True), error
    else:
        json.loads(out)


@pytest.mark.parametrize("words", [("tasks",), ("plugins", "--json")], ids=" ".join)
def test_a_listing_into_a_closed_pipe_ends_without_a_traceback(words):
    reading, writing = os.pipe()
    os.close(reading)
    try:
        done = subprocess.run([*hostile.COMMAND, *words], stdout=writing, stderr=subprocess.PIPE, check=False)
    finally:
        os.close(writing)
    assert (done.returncode, done.stderr) == (1, b"")


def test_words_after_a_double_dash_ask_for_no_document(capsys, monkeypatch):
    from deltacompose.cli.stdout import document_alone

    with document_alone(["generate", "--", "--json"]):
        assert sys.stdout is not sys.stderr
        print("text")
    assert capsys.readouterr().out == "text\n"
