"""The command as its users meet it, typing errors included: one clear sentence, and an exit status that says so."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace

import broken
import numpy as np
import pytest
import typer
from safetensors.numpy import load_file, save_file

import deltacompose as dc
from deltacompose import cli
from deltacompose.analysis.similarity.measure import Measure
from deltacompose.backbone.pico import pico, pico_tokenizer
from deltacompose.checks import suite as checks
from deltacompose.cli import listings as catalogue
from deltacompose.cli import plugin_check
from deltacompose.plugins import loader as plugins
from deltacompose.task import Task

STUDY = """\
name: tiny
tasks: [mood, tone]
compositions: [bitfit]
backbone: {model: ./encoder}
training: {steps: 2, batch: 4, evaluate_every: 2, limit: 32}
transfer: true
own_tasks:
  mood: {path: mood.csv, columns: {input: text, target: label}, category: mood, metric: accuracy,
         verbalizer: {bad: grim, good: bright}}
  tone: {path: tone.csv, columns: {input: text, target: label}, category: tone, metric: accuracy,
         verbalizer: {bad: grim, good: bright}}
"""
TINY = ("--steps", "2", "--batch", "4")
PATIENCE = 600.0


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A folder with an encoder and a decoder of two layers, a study of two tasks, its store, and a delta."""
    folder = tmp_path_factory.mktemp("cli")
    for name, family in (("encoder", "bert"), ("decoder", "llama")):
        for part in (pico(family), pico_tokenizer(family)):
            part.save_pretrained(folder / name)
    for name in ("mood", "tone"):
        rows = [f"{('dull', 'sunny')[k % 2]} {name} {k},{('bad', 'good')[k % 2]}" for k in range(80)]
        (folder / f"{name}.csv").write_text("text,label\n" + "\n".join(rows) + "\n")
    (folder / "tiny.yaml").write_text(STUDY)
    with pytest.MonkeyPatch.context() as patched:
        patched.chdir(folder)  # a study names the folder of its backbone relative to where the command runs
        dc.run("tiny.yaml", "store")
    backbone = dc.load_backbone(str(folder / "encoder"))
    dc.train(backbone, "bitfit", "sentiment_tweet", steps=1, batch=2, evaluate_every=1, limit=16).save(folder / "delta")
    return folder


@pytest.fixture
def folder(made, tmp_path, monkeypatch):
    """A copy of that folder to work in."""
    shutil.copytree(made, tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "200")
    return tmp_path


@pytest.fixture
def typed(monkeypatch, capsys):
    """Types a command: gives its exit status, what it prints, and what it prints as an error."""

    def type_(*words):
        monkeypatch.setattr(sys, "argv", ["deltacompose", *map(str, words)])
        try:
            cli.main()
            status = 0
        except SystemExit as end:
            status = end.code
        out = capsys.readouterr()
        return status, out.out, out.err

    return type_


@pytest.fixture
def refused(typed):
    """Types a command that must be refused with one sentence, and gives the sentence."""

    def type_(*words, status=2):
        found, _, error = typed(*words)
        assert found == status, error
        assert error.startswith("error: "), error
        assert error.count("\n") == 1, error
        return error

    return type_


# -- what goes right ---------------------------------------------------------------------------------------------------


def test_a_study_is_planned_run_once_read_and_cleaned(folder, typed):
    status, out, _ = typed("plan", "tiny.yaml", "--json")
    facts = json.loads(out)
    assert (status, facts["stored"]) == (0, 0)
    assert facts["cells"] == facts["to_run"] == 2 + 2 + 4 + 2
    status, out, err = typed("run", "tiny.yaml", "--engine", "inprocess")
    assert (status, "10 cells computed, 0 already in results/tiny" in out) == (0, True)
    assert re.search(r"\[10/10\] \d\d:\d\d:\d\d done: ", err)
    status, out, _ = typed("run", "tiny.yaml", "--engine", "inprocess", "--json")
    assert json.loads(out) == {"store": "results/tiny", "done": 0, "stored": 10, "failed": {}, "blocked": {}}
    for what in ("tiny.yaml", "results/tiny"):
        status, out, _ = typed("status", what)
        assert (status, "10 cells, 10 done" in out) == (0, True)
    assert typed("verify", "results/tiny")[:2] == (0, "0 problems\n")
    assert typed("gc", "tiny.yaml")[:2] == (0, "0 would be removed; --delete removes them\n")
    status, out, _ = typed("lift", "tiny.yaml", "--json")
    assert {row["task"] for row in json.loads(out)} == {"mood", "tone"}
    assert typed("report", "tiny.yaml")[0] == 0
    assert (folder / "results" / "tiny" / "figures" / "report.html").exists()


def test_a_dry_run_is_the_plan_and_computes_nothing(folder, typed):
    assert typed("run", "tiny.yaml", "--dry-run", "--json")[1] == typed("plan", "tiny.yaml", "--json")[1]
    assert not (folder / "results").exists()


def test_what_the_commands_of_a_store_print_is_to_be_had_as_json(folder, typed):
    def said(*words, status=0):
        found, out, error = typed(*words, "--json")
        assert found == status, error
        return json.loads(out)

    assert said("verify", "store") == {"store": "store", "problems": [], "notes": []}
    told = said("report", "tiny.yaml", "--store", "store", "--out", "pages")
    assert told["report"] == "pages/report.html"
    assert {*told["files"], told["report"]} == {str(path) for path in Path("pages").iterdir()}
    told = said("report", "tiny.yaml", "--store", "store", "--out", "page", "--page-only")
    assert told["files"] == []
    assert [path.name for path in Path("page").iterdir()] == ["report.html"]
    assert told["not_drawn"] == ""
    assert "transfer.csv" in Path("pages/report.html").read_text()
    assert "transfer.csv" not in Path("page/report.html").read_text()
    (folder / "tiny.yaml").write_text(STUDY.replace("transfer: true\n", ""))
    listed = said("gc", "tiny.yaml", "--store", "store")
    assert (listed["deleted"], len(listed["paths"])) == (False, 2)
    assert said("gc", "tiny.yaml", "--store", "store", "--delete") == listed | {"deleted": True}
    assert not any(Path(path).exists() for path in listed["paths"])
    found = next((folder / "store" / "cells").rglob("delta.safetensors"))
    found.write_bytes(b"nothing")
    [problem] = said("verify", "store", status=1)["problems"]
    assert (problem["key"], problem["file"]) == (found.parent.name, "delta.safetensors")
    assert problem["reason"] == "has another checksum than when it was stored"
    assert said("retry", "store") == {"store": "store", "forgotten": []}


def test_a_report_on_a_large_study_says_which_figures_are_not_in_files_and_what_draws_them(folder, typed, monkeypatch):
    monkeypatch.setattr("deltacompose.report.report.LARGE", 1)
    status, out, _ = typed("report", "store", "--out", "some")
    assert status == 0
    assert "--all-figures draws them, `deltacompose heatmap store heatmap.pdf --composition " in out
    assert not [*Path("some").glob("*.relative.pdf"), *Path("some").glob("lift.pdf")]
    assert ".relative.pdf" not in Path("some/report.html").read_text()
    status, out, _ = typed("report", "store", "--out", "whole", "--all-figures")
    assert (status, "--all-figures draws" in out) == (0, False)
    assert list(Path("whole").glob("*.relative.pdf"))
    assert Path("whole/lift.pdf").exists()


def test_every_command_that_prints_facts_prints_them_as_json():
    def leaves(command, path=()):
        for name, one in getattr(command, "commands", {"": command}).items():
            yield from leaves(one, (*path, name)) if name else [(path, command)]

    without = {
        path for path, one in leaves(typer.main.get_command(cli.app)) if not any("--json" in p.opts for p in one.params)
    }
    assert without == {("plugins", "new")}  # which prints what to do next


def test_a_study_that_shrank_leaves_cells_for_gc(folder, typed):
    (folder / "tiny.yaml").write_text(STUDY.replace("transfer: true\n", ""))
    assert "2 would be removed" in typed("gc", "tiny.yaml", "--store", "store")[1]
    assert "2 removed" in typed("gc", "tiny.yaml", "--store", "store", "--delete")[1]
    assert "0 would be removed" in typed("gc", "tiny.yaml", "--store", "store")[1]


def test_one_delta_is_trained_evaluated_and_heard(folder, typed):
    status, out, _ = typed("train", "lora(rank=2)", "past_tense", "new", "--backbone", "./decoder", *TINY)
    assert (status, out.startswith("lora(rank=2) on past_tense: exact_match 0.")) == (0, True)
    status, out, _ = typed("generate", "new", "walk", "run", "--backbone", "./decoder", "--tokens", "2", "--json")
    assert [row["input"] for row in json.loads(out)] == ["walk", "run"]
    status, out, _ = typed("evaluate", "delta", "sentiment_tweet", "--backbone", "./encoder", "--json")
    assert {"score", "untouched", "chance", "metric", "split", "trivial"} <= set(json.loads(out))


def test_listings_are_tables_for_people_and_json_for_programs(typed):
    for command, keys in (
        ("methods", {"name", "category", "source", "parameters"}),
        ("backbones", {"name", "what", "serves"}),
        ("plugins", {"name", "distribution", "version", "state", "reason", "members"}),
    ):
        status, out, _ = typed(command, "--json")
        assert (status, keys <= set(json.loads(out)[0])) == (0, True)
    status, out, _ = typed("tasks", "intent")
    assert (status, out.splitlines()[0].split()[:3]) == (0, ["name", "category", "kind"])
    assert "7 labels" in out
    assert json.loads(typed("tasks", "intent", "--json")[1])[0]["labels"][0] == "add to playlist"


def test_a_task_is_shown_with_chance_and_the_trivial_scores_that_it_is_the_best_of(typed):
    words = ("intent", "sentiment_movie", "past_tense", "glue_rte")
    status, out, error = typed("tasks", *words, "--json")
    assert (status, error) == (0, "")
    intent, movie, past, far = json.loads(out)
    for row, name in ((intent, "intent"), (movie, "sentiment_movie"), (past, "past_tense")):
        task = dc.tasks()[name]
        assert row["chance"] == task.chance("test") == max(row["baselines"].values())
        assert row["baselines"] == task.baselines("test")
    assert set(movie["baselines"]) == {"always negative", "always positive", "random candidate"}
    assert movie["chance"] == pytest.approx(0.5, abs=0.05)
    assert set(past["baselines"]) == {"commonest answer", "copy of the input"}
    assert (far["chance"], far["baselines"]) == (None, None)  # of the hub: nothing is fetched to list it
    status, out, _ = typed("tasks", "sentiment_movie", "glue_rte")
    head, *lines = [re.split("  +", line) for line in out.splitlines()]
    assert head[:6] == ["name", "category", "kind", "metric", "chance", "baselines"]
    assert lines[0][4] == f"{movie['chance']:.3f}"
    assert lines[0][5] in ("always negative", "always positive", "random candidate") or ", " in lines[0][5]
    assert lines[1][4:6] == ["–", "–"]


def test_all_tasks_are_listed_without_reading_one(typed, monkeypatch):
    def read(task, split):
        raise AssertionError(f"{task.name} is read")

    monkeypatch.setattr(Task, "examples", read)
    status, out, _ = typed("tasks")
    assert status == 0
    assert {line.split()[0] for line in out.splitlines()[1:]} == set(dc.tasks())
    assert "chance" not in out.splitlines()[0]


@pytest.mark.parametrize("words", [("--help",), ("run", "--help")], ids=" ".join)
def test_help_imports_nothing_heavy(words):
    program = f"import sys; from deltacompose import cli; sys.argv = ['deltacompose', *{words!r}]; cli.main()"
    heavy = {"torch", "transformers", "pandas", "scipy", "sklearn", "matplotlib"}
    last = f"import sys, atexit; atexit.register(lambda: print(sorted({heavy} & set(sys.modules))))"
    done = subprocess.run([sys.executable, "-c", f"{last}; {program}"], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == "[]"


def test_help_names_every_command(typed):
    out = typed("--help")[1]
    assert all(f"  {name} " in out for name in ("run", "plan", "status", "report", "train", "methods", "plugins"))


def test_a_reader_that_ends_early_is_no_error():
    program = f"{sys.executable} -c 'from deltacompose.cli import main; main()' tasks | head -1"
    done = subprocess.run(["bash", "-c", program], capture_output=True, text=True, check=False)
    assert (done.stderr, done.stdout.split()[:1]) == ("", ["name"])


# -- typing errors -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("before", "after", "said"),
    [
        ("tasks: [mood, tone]", "tasks: [mood, tune]", "no task 'tune'; of "),
        ("tasks: [mood, tone]", "tasks: []", "tasks: []: "),
        (
            "tasks: [mood, tone]",
            "task: [mood, tone]",
            "no field 'task'; did you mean 'tasks'? fields: backbone",
        ),
        ("[bitfit]", "[bitfitt]", "no method 'bitfitt'; did you mean 'bitfit'? methods: adapter"),
        ("[bitfit]", "['lora(rnk=2)']", "no lora setting 'rnk'; did you mean 'rank'? lora settings: alpha"),
        ("[bitfit]", "['lora(rank=two)']", "'two' in 'lora(rank=two)' is not a setting"),
        ("[bitfit]", "['lora(rank=0)']", "lora: rank=0: should be greater than or equal to 1"),
        ("[bitfit]", "['bitfit + (lora >> adapter)']", "write it as 'bitfit + lora >> adapter'"),
        ("[bitfit]", "['bitfit +']", "'bitfit +' is not a composition"),
        ("[bitfit]", "['__import__(\"os\")']", "settings of '__import__' are given by name"),
        (
            "[bitfit]",
            "['lora(places=(\"attention.qery\",))']",
            "no place 'attention.qery' in bert; did you mean 'attention.query'? places: attention, ",
        ),
        ("[bitfit]", "['prefix(places=(\"cross_attention\",))']", "no place 'cross_attention' in bert"),
        (
            "{model: ./encoder}",
            "{modle: ./encoder}",
            "no field 'backbone.modle'; fields: attention, chat, device, dtype",
        ),
        (
            "{model: ./encoder}",
            "{model: ./encodr}",
            "no folder './encodr', and it is not a name on the Hugging",
        ),
        ("{model: ./encoder}", "{model: t5}", "'t5' is a table, which serves models, and no model"),
        (
            "{model: ./encoder}",
            "{model: ./encoder, dtype: fp16}",
            "backbone.dtype: 'fp16': input should be 'auto', 'float32'",
        ),
        ("{model: ./encoder}", "{model: ./encoder, table: brt}", "no table 'brt'; did you mean 'bert'?"),
        ("steps: 2", "steps: -2", "training.steps: -2: input should be greater than or equal to 0"),
        ("steps: 2", "stesp: 2", "no field 'training.stesp'; fields: batch, checkpointing"),
        ("steps: 2", "warmup: 1e-1", "(YAML reads 1e-3 as text; write 1.0e-3)"),
        ("steps: 2", "learning_rates: {lroa: 0.1}", "learning_rates: no method 'lroa'; did you mean 'lora'?"),
        ("transfer: true", "stages: [{}, {steps: 3}]", "settings for 2 stages; its compositions have one stage each"),
        ("transfer: true", "transfer: true\ntransfer: false", "the key 'transfer' stands twice"),
        ("transfer: true", "transfer: 'yes'", "transfer: 'yes': input should be a valid boolean"),
        ("transfer: true", "transfer: [", "tiny.yaml is not valid YAML"),
        ("path: mood.csv", "path: mod.csv", "mod.csv: No such file or directory"),
        ("target: label", "target: lable", "no column 'lable'; did you mean 'label'? columns: label, text"),
        ("metric: accuracy", "metric: acuracy", "no metric 'acuracy'; did you mean 'accuracy'?"),
        ("good: bright", "fine: bright", "the label 'good' of example 'train-"),
        ("category: mood", "categroy: mood", "no entry 'categroy'"),
        ("category: mood,", "data: {drop: {label: [bad, good]}}, category: mood,", "no row of 'train' is left of 80"),
        ("limit: 32", "limit: 600", "limit=600 tokens of input, and ./encoder has positions for 512"),
    ],
)
def test_a_mistake_in_a_study_is_told_before_anything_is_computed(folder, refused, before, after, said):
    assert before in STUDY
    (folder / "tiny.yaml").write_text(STUDY.replace(before, after))
    assert said in refused("run", "tiny.yaml", "--engine", "inprocess", "--store", "new")
    assert not (folder / "new" / "cells").exists()


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("run", "tony.yaml"), "cannot read tony.yaml: No such file or directory"),
        (("run", "tiny.yaml", "--engine", "pol"), "no engine 'pol'; did you mean 'pool'? engines: dask"),
        (
            ("run", "tiny.yaml", "--engine", "inprocess", "--workers", "2"),
            "no option of the engine inprocess 'workers'",
        ),
        (("status", "tony.yaml"), "cannot find a study file or a store at tony.yaml"),
        (("report", "tiny.yaml"), "there is no store results/tiny; `deltacompose run tiny.yaml` makes one"),
        (("lift", "tiny.yaml"), "there is no store results/tiny"),
        (("verify", "nowhere"), "cannot find a study file or a store at nowhere"),
        (("gc", "tiny.yaml", "--store", "nowhere"), "there is no store nowhere"),
        (("tasks", "intnet"), "no task 'intnet'; did you mean 'intent'? of "),
        (("backbones", "--derive", "nowhere"), "no backbone 'nowhere': it is not a folder, the cache"),
        (("plugins", "check", "biultin"), "no plugin 'biultin'; did you mean 'builtin'?"),
        (("plugins", "new", "lora"), "the name 'lora' is taken"),
        (("plugins", "new", "My Method"), "'My Method' is not a name for a plugin"),
        (("train", "bitfit", "intnet", "out", "--backbone", "./encoder"), "no task 'intnet'; did you mean 'intent'?"),
        (
            ("train", "bitfit", "past_tense", "out", "--backbone", "./encoder", *TINY),
            "an encoder, which ranks candidates",
        ),
        (
            ("train", "bitfit", "intent", "out", "--learning-rate", "1e-3"),
            "'1e-3' is not a valid --learning-rate (expected METHOD=RATE, as lora=1e-4)",
        ),
        (
            ("train", "bitfit", "intent", "out", "--backbone", "./encoder", "--learning-rate", "lroa=1e-3"),
            "learning_rates: no method 'lroa'; did you mean 'lora'?",
        ),
        (
            ("evaluate", "nowhere", "intent", "--backbone", "./encoder"),
            "nowhere holds no delta: there is no delta.json",
        ),
        (("evaluate", "delta", "intent", "--backbone", "./encoder", "--split", "dev"), "no split 'dev'; splits: test"),
        (("generate", "delta", "hi", "--backbone", "./encoder"), "./encoder is an encoder and cannot generate"),
    ],
)
def test_a_mistake_in_a_command_is_one_sentence(folder, refused, words, said):
    assert said in refused(*words)


def test_an_unreachable_scheduler_is_said_before_data_are_read_with_the_local_engine(folder, refused):
    (folder / "mood.csv").unlink()
    said = refused("run", "tiny.yaml", "--engine", "dask", "--scheduler", "tcp://127.0.0.1:9")
    assert "no dask scheduler answers at tcp://127.0.0.1:9" in said
    assert "use the local engine 'pool'" in said
    assert not (folder / "results").exists()


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("rnu", "tiny.yaml"), "No such command 'rnu'"),
        (("run",), "Missing argument 'study'"),
        (("run", "tiny.yaml", "--wrokers", "2"), "No such option: --wrokers"),
        (("run", "tiny.yaml", "--workers", "0"), "Invalid value for '--workers'"),
        (("run", "tiny.yaml", "--bank", "many"), "Invalid value for '--bank'"),
        (("train", "bitfit", "intent", "out", "--steps", "-2"), "Invalid value for '--steps'"),
        (("generate", "delta", "hi", "--tokens", "0"), "Invalid value for '--tokens'"),
    ],
)
def test_a_mistyped_command_or_option_is_shown_with_its_usage(folder, typed, words, said):
    status, out, error = typed(*words)
    assert (status, out) == (2, "")
    assert error.startswith("Usage: deltacompose")
    assert said in error


# -- files that are not what they should be ----------------------------------------------------------------------------


def half(folder):
    content = (folder / "delta" / "delta.safetensors").read_bytes()
    (folder / "delta" / "delta.safetensors").write_bytes(content[: len(content) // 2])


def foreign(folder):
    tensors = load_file(folder / "delta" / "delta.safetensors")
    save_file({f"{name}.other": x for name, x in tensors.items()}, folder / "delta" / "delta.safetensors")


def later(folder):
    path = folder / "delta" / "delta.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"format": 9}))


def gone(folder):
    (folder / "delta" / "delta.safetensors").unlink()


def unreadable(folder):
    (folder / "delta" / "delta.json").write_text("{")


@pytest.mark.parametrize(
    ("harm", "said"),
    [
        (half, "delta/delta.safetensors is truncated or not a safetensors file"),
        (foreign, "delta/delta.safetensors is not the file that its delta.json was written for"),
        (later, "delta/delta.json has format 9; this version of deltacompose reads format 1"),
        (gone, "delta holds no delta: there is no delta.safetensors"),
        (unreadable, "delta/delta.json is not valid JSON"),
    ],
)
def test_a_delta_that_is_not_whole_is_refused(folder, refused, harm, said):
    harm(folder)
    assert said in refused("evaluate", "delta", "sentiment_tweet", "--backbone", "./encoder")


def test_a_delta_for_another_backbone_is_refused_by_name(folder, refused):
    said = refused("evaluate", "delta", "sentiment_tweet", "--backbone", "./decoder")
    assert "this delta of bitfit was trained on" in said
    assert "not on ./decoder" in said


@pytest.mark.parametrize("command", ["run", "plan", "status", "retry", "report", "lift", "verify", "gc"])
def test_a_store_of_another_format_is_refused_by_every_command(folder, refused, command):
    (folder / "store" / "store.json").write_text('{"format": 99}')
    assert "store has format 99; this version reads formats 1 to 2" in refused(command, "tiny.yaml", "--store", "store")


def test_a_folder_that_is_no_store_is_not_made_one(folder, refused):
    assert "is not a store and not empty" in refused("run", "tiny.yaml", "--store", "encoder", "--engine", "inprocess")
    assert "cannot be opened as a store" in refused("run", "tiny.yaml", "--store", "mood.csv", "--engine", "inprocess")


@pytest.mark.parametrize(
    "words",
    [
        ("train", "bitfit", "intent", "mood.csv/out", "--backbone", "./encoder"),
        ("report", "tiny.yaml", "--store", "store", "--out", "mood.csv/out"),
        ("run", "tiny.yaml", "--store", "/proc/nowhere", "--engine", "inprocess"),
        ("plugins", "new", "gain", "--folder", "mood.csv"),
    ],
)
def test_a_folder_that_cannot_be_written_is_one_sentence(folder, refused, words):
    assert any(
        reason in refused(*words) for reason in ("Not a directory", "No such file or directory", "cannot be written")
    )


def test_a_damaged_cell_is_found_by_verify_and_computed_again_by_run(folder, typed):
    found = next((folder / "store" / "cells").rglob("delta.safetensors"))
    found.write_bytes(b"nothing")
    status, out, error = typed("verify", "tiny.yaml", "--store", "store")
    assert (status, out) == (1, "1 problems\n")
    assert "delta.safetensors has another checksum than when it was stored" in error
    (found.parent / "record.json").write_text("{")
    status, out, _ = typed("run", "tiny.yaml", "--store", "store", "--engine", "inprocess")
    assert (status, "1 cells computed" in out) == (0, True)
    assert typed("verify", "store")[0] == 0


# -- failures and interruption -----------------------------------------------------------------------------------------


def test_failed_cells_give_a_status_are_shown_and_can_be_tried_again(folder, typed):
    rates = "evaluate_every: 2, clip: 1.0e+30, learning_rates: {lora: 1.0e+30}"
    changed = STUDY.replace("evaluate_every: 2", rates).replace("[bitfit]", "[bitfit, lora]")
    (folder / "tiny.yaml").write_text(changed)
    status, out, error = typed("run", "tiny.yaml", "--engine", "inprocess")
    assert status == 1
    assert "failed: train lora on mood, seed 0: Diverged" in error
    assert "blocked: evaluate lora from mood to tone, seed 0" in error
    status, out, _ = typed("status", "tiny.yaml", "--json")
    counts = json.loads(out)
    assert (status, counts["failed"], counts["blocked"]) == (0, 2, 6)
    failed = [path.stem for path in (folder / "results" / "tiny" / "failed").iterdir()]
    for path in (folder / "results" / "tiny" / "failed").iterdir():
        shutil.copy(path, folder)
    assert typed("retry", "tiny.yaml")[1] == "the next run will retry 2 failed cells\n"
    assert json.loads(typed("status", "tiny.yaml", "--json")[1])["failed"] == 0
    for key in failed:
        shutil.copy(folder / f"{key}.json", folder / "results" / "tiny" / "failed")
    told = {"store": "results/tiny", "forgotten": sorted(failed)}
    assert json.loads(typed("retry", "results/tiny", "--json")[1]) == told
    assert json.loads(typed("retry", "results/tiny", "--json")[1]) == told | {"forgotten": []}


def test_a_delta_that_diverges_is_told_in_one_sentence(folder, refused):
    words = ("lora(rank=2) + bitfit", "sentiment_tweet", "out", "--backbone", "./encoder", "--steps", "4")
    rates = ("--learning-rate", "lora=1e30", "--learning-rate", "bitfit=1e30")
    said = refused("train", *words, *rates, status=1)
    assert said.startswith("error: lora(rank=2) + bitfit on sentiment_tweet, seed 0: ")
    assert said.endswith("; try a lower learning rate\n")
    assert not list((folder / "out").iterdir())


def test_ctrl_c_ends_a_run_with_130_and_keeps_what_is_finished(folder, typed):
    """Inside a training; `tests/engine/test_driver.py` sends ctrl-C to every engine."""
    (folder / "tiny.yaml").write_text(
        STUDY.replace("evaluate_every: 2", "evaluate_every: 500").replace("steps: 2", "steps: 100000")
    )
    program = "from deltacompose.cli import main; main()"
    command = [sys.executable, "-c", program, "run", "tiny.yaml", "--store", "store", "--engine", "inprocess"]
    run = subprocess.Popen(command, stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True, start_new_session=True)
    said: list[str] = []
    reader = threading.Thread(target=lambda: said.extend(run.stderr), daemon=True)
    reader.start()
    deadline = time.monotonic() + PATIENCE
    while not any((folder / "store" / "checkpoints").glob("*/*")) and time.monotonic() < deadline:
        assert run.poll() is None
        time.sleep(0.1)
    os.killpg(run.pid, signal.SIGINT)
    assert run.wait(PATIENCE) == 130
    reader.join(PATIENCE)
    assert "Traceback" not in "".join(said)
    assert "interrupted; finished cells are kept" in "".join(said)
    assert typed("verify", "store")[0] == 0
    assert "10 done" in typed("status", "store")[1]


def test_a_plugins_members_are_read_and_its_methods_put_through_the_suite(capsys, monkeypatch):
    monkeypatch.setattr(checks, "BACKBONES", ("bert",))
    catalogue.check_plugin("example")
    said = capsys.readouterr()
    assert re.search(r"method +red +sound", said.out)
    assert said.err == "checking red\n"
    catalogue.check_plugin("example", as_json=True)
    [row] = [row for row in json.loads(capsys.readouterr().out) if row["name"] == "red"]
    assert (row["kind"], row["state"], row["reason"]) == ("method", "sound", "")


def sound(kind, name):
    """The row of a member that can be read."""
    return {"kind": kind, "name": name, "origin": "extra 1.0", "state": "sound", "reason": ""}


def measure(**changes):
    """A measure of prompts, with some of what it states changed."""
    stated = {
        "name": "any",
        "needs": "prompts",
        "function": lambda arrays: np.corrcoef(arrays.reshape(len(arrays), -1)),
        "range": (-1.0, 1.0),
        "invariances": "scale",
        "source": "Pearson",
    }
    return Measure(**stated | changes)


def known_as(kind, member):
    """What is loaded where `member` is the only one of its kind, called `any`."""
    return SimpleNamespace(**{f"{kind}s": {"any": member}})


MISMADE = [
    ("measure", np.corrcoef, "corrcoef at .* is not a deltacompose.analysis.similarity.measure.Measure"),
    ("measure", measure(needs="promts"), "no need 'promts'; did you mean 'prompts'"),
    ("measure", measure(function=lambda arrays: np.eye(3)), r"of 4 tasks it makes a matrix of shape \(3, 3\)"),
    ("measure", measure(function=lambda arrays: 1 / 0), "ZeroDivisionError: division by zero"),
    ("engine", 5, "5 is not a function of the options of a run"),
    ("engine", lambda: None, "it cannot be called with the options of a run: TypeError: too many positional"),
    ("backbone", {"place": {}}, "no key of a table 'place'; did you mean 'places'"),
    ("backbone", lambda: "a folder", "its loader returns 'a folder', which is not a Checkpoint"),
    ("backbone", lambda: sys.exit(3), "SystemExit: 3"),
    ("task", {"name": "any"}, "{'name': 'any'} is not a deltacompose.task.Task"),
    ("task", len, "<built-in function len> is not a deltacompose.task.Task"),
]


@pytest.mark.parametrize(("kind", "member", "reason"), MISMADE)
def test_a_member_of_another_kind_of_thing_is_broken_in_one_sentence(kind, member, reason):
    row = plugin_check.checked(known_as(kind, member), sound(kind, "any"))
    assert row["state"] == "broken", row
    assert re.search(reason, row["reason"])
    assert "Traceback" not in row["reason"]


@pytest.mark.parametrize(
    ("kind", "member", "state"),
    [
        ("measure", measure(), "sound"),
        ("engine", lambda options: None, "sound"),
        ("backbone", plugins.loaded().backbones["bert"].data, "sound"),
        ("backbone", plugins.loaded().backbones["bert"].data | {"serves": ["no-such-type"]}, "unchecked"),
        ("task", plugins.loaded().tasks["intent"], "sound"),
    ],
)
def test_a_member_that_keeps_its_contract_is_sound(kind, member, state):
    row = plugin_check.checked(known_as(kind, member), sound(kind, "any"))
    assert row["state"] == state, row["reason"]


def test_a_method_that_needs_a_setting_as_a_file_is_unchecked_and_not_broken():
    known = plugins.loaded()
    found = plugin_check.checked(known, sound("method", "intrinsic_prompt"))
    assert found["state"] == "unchecked"
    assert found["reason"].startswith("at its default settings: intrinsic_prompt: no decoder can be read from file=''")


@dataclass(frozen=True)
class Asking(broken.Good):
    """Has a setting without a default."""

    rank: int = field(kw_only=True)


@dataclass(frozen=True)
class Failing(broken.Good):
    """Divides by zero where it draws its weights."""

    def init(self, backbone, generator):
        return {"shared.scale": 1 / 0}


@dataclass(frozen=True)
class Mistyped(broken.Good):
    """Acts at a place that no family has."""

    place: str = "fnn"


@dataclass(frozen=True)
class Crossing(broken.Good):
    """Acts at a place that T5 alone has."""

    place: str = "cross_attention"


@pytest.mark.parametrize(
    ("kind", "reason"),
    [
        (Asking, r"it cannot be constructed at its default settings: TypeError: .* missing 1 required .* 'rank'"),
        (Failing, "at its default settings it fails on t5: ZeroDivisionError: division by zero"),
        (Mistyped, "at its default settings it has no place on any family: no place 'fnn' in t5; did you mean 'ffn'?"),
    ],
)
def test_a_method_that_cannot_be_put_through_the_suite_is_broken_in_one_sentence(kind, reason):
    state, said = plugin_check.method_standing("any", kind)
    assert (state, "\n" in said) == ("broken", False)
    assert re.match(reason, said)


def test_a_method_is_checked_on_the_families_where_it_has_places_and_the_others_are_named(monkeypatch):
    seen = []
    monkeypatch.setattr(checks, "check_method", lambda method, backbones: seen.extend(backbones))
    state, reason = plugin_check.method_standing("any", Crossing)
    assert (state, seen) == ("sound", ["t5"])
    assert reason.startswith("not on bert: no place 'cross_attention' in bert; not on gpt2: no place 'cross_attention'")


def test_a_new_plugin_is_announced_by_the_name_that_its_method_has_in_a_composition(tmp_path, capsys):
    catalogue.new_plugin("lo-reft", tmp_path)
    (source,) = tmp_path.glob("*/src/*/lo_reft.py")
    assert 'name: ClassVar[str] = "lo_reft"' in source.read_text()
    assert "installs the method 'lo_reft';" in capsys.readouterr().out


def test_checking_a_plugin_with_a_broken_method_exits_with_1(monkeypatch, capsys):
    row = sound("method", "scale")
    monkeypatch.setattr(plugins, "loaded", lambda: SimpleNamespace(methods={"scale": Mistyped}))
    monkeypatch.setattr(plugins, "check", lambda known, name: [row])
    with pytest.raises(typer.Exit) as ended:
        catalogue.check_plugin("any")
    assert ended.value.exit_code == 1
    assert re.search(
        r"method +scale +broken +at its default settings it has no place on any family", capsys.readouterr().out
    )
