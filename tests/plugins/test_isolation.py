"""Plugin code that raises, prints, hangs or changes the interpreter: every command goes on and names the plugin."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import hostile
import pytest

from deltacompose.plugins import Lazy, isolation
from deltacompose.plugins.isolation import Attempt, error_text, isolated
from deltacompose.plugins.members import Member

PATIENCE = 600.0
"""Seconds after which a test gives up waiting, also on a machine that does other work."""


@pytest.fixture(scope="module")
def listed(tmp_path_factory):
    """`plugins --json` with every hostile plugin installed: the process and its rows by name."""
    folder = hostile.install(tmp_path_factory.mktemp("site"), [*hostile.IMPORT, *hostile.QUIET])
    done = hostile.typed(folder, "plugins", "--json")
    assert done.returncode == 0, done.stderr
    return done, {row["name"]: row for row in json.loads(done.stdout)}


@pytest.mark.parametrize("name", hostile.IMPORT)
def test_a_plugin_that_misbehaves_as_it_is_loaded_is_broken_by_name_version_and_error(listed, name):
    row = listed[1][name]
    assert (row["state"], row["distribution"], row["version"]) == ("broken", name, "1.5")
    assert hostile.IMPORT[name][1] in row["reason"]
    assert len(row["reason"]) < 1000
    assert row["reason"].isprintable()


@pytest.mark.parametrize("name", hostile.QUIET)
def test_a_plugin_that_prints_or_fails_later_stays_active(listed, name):
    assert (listed[1][name]["state"], listed[1][name]["reason"]) == ("active", "")


def test_whatever_plugins_do_stdout_is_one_document_and_stderr_has_no_traceback(listed):
    done, rows = listed
    assert "lora" in " ".join(rows["builtin"]["members"])
    assert "noise" not in done.stdout
    assert done.stderr.count("noise") == 6
    assert "Traceback" not in done.stderr
    said = "what the plugin 'fails_at_exit' of fails_at_exit 1.5 registered with atexit failed: ZeroDivisionError: at"
    assert said in done.stderr


def test_a_listing_goes_on_after_members_that_cannot_be_read(tmp_path):
    done = hostile.typed(hostile.install(tmp_path, ["member_exits", "member_prints"]), "tasks", "--json")
    assert done.returncode == 0, done.stderr
    rows = {row["name"]: row.get("fault") for row in json.loads(done.stdout)}
    assert rows["member_exits"] == "task member_exits of member_exits 1.5 cannot be read: SystemExit: 0"
    assert rows["member_prints"].endswith("cannot be used: 'member_prints' is None, not a task")
    assert sum(fault is None for fault in rows.values()) > 20


# An interrupt of the user, and a plugin that hangs

WAITS = """
import pathlib, time
pathlib.Path(__file__).with_name("here").write_text("")
while True:
    try:
        time.sleep(1)
    except KeyboardInterrupt:
        {caught}
"""


@pytest.mark.parametrize("caught", ["raise", "break", "raise SystemExit(0)"])
def test_ctrl_c_stops_the_command_whatever_a_plugin_makes_of_it(tmp_path, monkeypatch, caught):
    monkeypatch.setitem(hostile.QUIET, "waits", WAITS.format(caught=caught))
    hostile.install(tmp_path, ["waits"])
    command = [*hostile.COMMAND, "plugins", "--json"]
    streams = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    with subprocess.Popen(command, env=hostile.environment(tmp_path), **streams) as running:
        until = time.monotonic() + PATIENCE
        while not (tmp_path / "here").exists() and time.monotonic() < until:
            time.sleep(0.02)
        running.send_signal(signal.SIGINT)
        out, error = running.communicate(timeout=PATIENCE)
    assert (running.returncode, out) == (130, "")
    assert error == "interrupted; finished cells are kept\n"


def test_an_interrupt_that_no_signal_caused_is_the_plugins_fault():
    def interrupts():
        raise KeyboardInterrupt("mine")

    assert isolated("x", interrupts).error == "KeyboardInterrupt: mine"


def test_what_a_handler_of_ours_raises_is_raised_though_the_plugin_catches_it():
    def ring(number, frame):
        raise TimeoutError("late")

    def stubborn():
        try:
            signal.raise_signal(signal.SIGALRM)
        except TimeoutError:
            return "caught"

    before = signal.signal(signal.SIGALRM, ring)
    try:
        with pytest.raises(TimeoutError, match="late"):
            isolated("x", stubborn)
        assert signal.getsignal(signal.SIGALRM) is ring
    finally:
        signal.signal(signal.SIGALRM, before)


def test_a_plugin_that_takes_long_is_named_with_what_to_do(monkeypatch):
    said, heard = [], threading.Event()

    def say(sentence):
        said.append(sentence)
        heard.set()

    monkeypatch.setattr(isolation, "SLOW", 0.01)
    monkeypatch.setattr(isolation, "_say", say)
    assert isolated("the plugin 'slow' of slow 2.0", lambda: heard.wait(PATIENCE)) == Attempt(True)
    assert said == [
        "the plugin 'slow' of slow 2.0 is still running after 0.01 s; ctrl-C stops the command; "
        "--no-plugins or DELTACOMPOSE_PLUGINS leaves the plugin out"
    ]
    heard.clear()
    isolated("quick", lambda: None)
    isolated("quiet", lambda: time.sleep(0.05), announce=False)
    assert not heard.is_set()


# The interpreter afterwards


def test_code_that_changes_nothing_leaves_everything_as_it_was(capsys):
    before = (sys.stdout, sys.stderr, signal.getsignal(signal.SIGINT), list(sys.path))
    outcome = isolated("x", lambda: print("heard") or 3)
    assert outcome == Attempt(3)
    assert (sys.stdout, sys.stderr, signal.getsignal(signal.SIGINT), list(sys.path)) == before
    assert capsys.readouterr() == ("", "heard\n")


def test_in_another_thread_errors_are_caught_and_the_interpreter_is_let_alone():
    outcomes = []

    def exits():
        raise SystemExit(1)

    thread = threading.Thread(target=lambda: outcomes.append(isolated("x", exits)))
    thread.start()
    thread.join(PATIENCE)
    assert [outcome.error for outcome in outcomes] == ["SystemExit: 1"]


def test_an_exit_handler_can_be_taken_back(tmp_path):
    plugin = "import atexit\ndef last(): print('still here')\natexit.register(last)\natexit.unregister(last)"
    (tmp_path / "taken_back.py").write_text(plugin)
    program = (
        "from deltacompose.plugins.isolation import isolated\n"
        "print(isolated('x', lambda: __import__('taken_back')).faults)"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, env=hostile.environment(tmp_path), check=True
    )
    assert (done.stdout, done.stderr) == ("()\n", "")


@pytest.mark.parametrize(
    ("error", "text"),
    [
        (ValueError("a\n  b"), "ValueError: a b"),
        (ValueError(), "ValueError"),
        (ValueError("x" * 1000), f"ValueError: {'x' * 188}…"),
    ],
)
def test_an_exception_is_part_of_a_sentence_of_at_most_two_hundred_characters(error, text):
    assert error_text(error) == text


def test_a_member_that_changes_the_interpreter_as_it_is_read_cannot_be_used(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    member = Member("task", "moving", Lazy("os:chdir", "/"), "far 1.0")
    with pytest.raises(Exception, match=r"task moving of far 1\.0 cannot be "):
        member.read()
    assert Path.cwd() == tmp_path
