"""Every block of Python and every console block of the documentation runs, in the order of its page, in a new folder.

A block whose first line is a comment with a path, as `# src/package/file.py` or `# study.yaml`, is a file: it is
written there, and later blocks import or read it. A console block holds `$ deltacompose ...`, and `$ pip install -e
FOLDER`, which makes a distribution in the folder importable as if it were installed.
"""

import importlib
import re
import shlex
import subprocess
import sys
import types
from pathlib import Path
from typing import get_args

import pytest
import yaml
from typer.testing import CliRunner

import deltacompose
from deltacompose import plugins
from deltacompose.analysis.graph import edges as network
from deltacompose.analysis.subspace.readouts import READOUTS
from deltacompose.analysis.transfer import tidy_tables as tables
from deltacompose.cli import app
from deltacompose.plugins.scaffold import new_plugin
from deltacompose.study import Study

ROOT = Path(__file__).parent.parent
PAGES = sorted((ROOT / "docs").rglob("*.md"))
"""The README is longer at work, and is run with less of it by `test_readme.py`."""
BLOCK = re.compile(r"^(?P<indent> *)```(?P<language>[a-z]*)[^\n]*\n(?P<text>.*?)^(?P=indent)```$", re.S | re.M)
FILE = re.compile(r"# (?P<path>[\w./-]+\.(?:py|yaml))\n")
RUN = {"python", "yaml", "console"}


def blocks(page, *languages):
    """The blocks of some languages: the line that each begins after, its language and its text."""
    text = page.read_text(encoding="utf-8")
    for block in BLOCK.finditer(text):
        if block["language"] in languages:
            yield text[: block.start()].count("\n") + 1, block["language"], block["text"]


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A working folder whose `src` is imported from, here and in processes started here; afterwards nothing is left."""
    (tmp_path / "src").mkdir()
    known = set(sys.modules)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path / "src"))
    monkeypatch.setenv("PYTHONPATH", str(tmp_path / "src"))
    yield tmp_path
    for name in set(sys.modules) - known:
        if str(tmp_path) in str(getattr(sys.modules[name], "__file__", "")):
            del sys.modules[name]
    plugins.loaded.cache_clear()


def forget(path):
    """Lets a file that has changed be imported anew, as it would be in a new process."""
    importlib.invalidate_caches()
    for name, module in list(sys.modules.items()):
        if getattr(module, "__file__", None) == str(path):
            del sys.modules[name]


def run(page, folder, monkeypatch):
    """Runs a page's blocks in their order, those of Python in one module."""
    module = types.ModuleType(f"page_{page.stem}")
    monkeypatch.setitem(sys.modules, module.__name__, module)
    for line, language, text in blocks(page, *RUN):
        if file := FILE.match(text):
            path = folder / file["path"]
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text, encoding="utf-8")
            forget(path)
        elif language == "python":
            exec(compile("\n" * line + text, str(page), "exec"), module.__dict__)
        elif language == "console":
            for command in text.splitlines():
                run_command(command, folder, monkeypatch)


def run_command(line, folder, monkeypatch):
    """Runs a line of a console block in this process; it must succeed."""
    prompt, program, *words = shlex.split(line)
    assert prompt == "$", f"a console block holds commands alone: {line}"
    if [program, *words[:-1]] == ["pip", "install", "-e"]:
        import_from(folder / words[-1] / "src", words[-1], monkeypatch)
        return
    assert program == "deltacompose", f"no test runs {line}"
    if words[0] == "run" and "--engine" not in words:
        words += ["--engine", "inprocess"]  # workers would import torch anew
    ended = CliRunner().invoke(app, words)
    assert ended.exit_code == 0, f"{line}: {ended.output[-2000:]} {ended.exception!r}"


def import_from(source, distribution, monkeypatch):
    """Makes a distribution importable, here and in processes started here, and its entry point known."""
    as_distribution(source, distribution.removeprefix("deltacompose-"))
    monkeypatch.syspath_prepend(str(source))
    monkeypatch.setenv("PYTHONPATH", str(source), prepend=":")
    plugins.loaded.cache_clear()


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_block_of_a_page_runs(page, folder, monkeypatch):
    installed(folder, "ssf")
    run(page, folder, monkeypatch)


def installed(folder, name):
    """What `deltacompose plugins new` writes, found as if it had been installed editable."""
    made = new_plugin(name, folder)
    for path in (made / "src").rglob("*.py"):
        target = folder / "src" / path.relative_to(made / "src")
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(path.read_text())
    as_distribution(folder / "src", name)


def as_distribution(source, name):
    """The metadata that makes a folder of packages look installed."""
    info = source / f"deltacompose_{name}-0.1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: deltacompose-{name}\nVersion: 0.1.0\n")
    (info / "entry_points.txt").write_text(f"[deltacompose]\n{name} = deltacompose_{name}\n")


def test_the_study_of_a_page_is_a_study(folder):
    (text,) = (text for *_, text in blocks(ROOT / "docs" / "writing_a_method.md", "yaml"))
    (folder / "ssf.yaml").write_text(text)
    assert yaml.safe_load(text)["compositions"] == ["ssf", "lora", "ssf + lora", "lora >> ssf"]
    assert Study.read(folder / "ssf.yaml").name == "ssf"


@pytest.mark.slow
def test_the_distributions_own_test_passes_with_the_pages_methods(folder, monkeypatch):
    installed(folder, "ssf")
    for *_, text in blocks(ROOT / "docs" / "writing_a_method.md", "python"):
        if found := FILE.match(text):
            (folder / found["path"]).write_text(text, encoding="utf-8")
    test = folder / "deltacompose-ssf" / "tests" / "test_ssf.py"
    few = test.read_text().replace("[Ssf()]", "[Ssf(), LoraFa(), Dpt()], backbones=('gpt2',)")
    imports = "from deltacompose_ssf.lora_fa import LoraFa\nfrom deltacompose_ssf.dpt import Dpt\n"
    test.write_text(imports + few)
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "--rootdir", str(folder), str(test)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=folder)
    assert done.returncode == 0, done.stdout[-3000:]
    assert " passed" in done.stdout


def test_a_block_that_fails_is_told_by_its_page_and_line(folder, monkeypatch):
    page = folder / "page.md"
    page.write_text("# A page\n\n```python\nx = 1\n```\n\n```python\nx += 1\nraise KeyError(x)\n```\n")
    with pytest.raises(KeyError, match="2") as error:
        run(page, folder, monkeypatch)
    assert error.traceback[-1].lineno + 1 == 9
    assert str(error.traceback[-1].path) == str(page)


def test_every_built_in_measure_and_every_kind_of_graph_and_readout_is_in_the_page_of_the_analyses():
    page = (ROOT / "docs" / "analyses.md").read_text(encoding="utf-8")
    named = set(re.findall(r"`([a-z_0-9]+)`", page))
    wanted = {*plugins.loaded().measures, *get_args(network.Kind), *READOUTS, *tables.COLUMNS}
    assert sorted(wanted - named) == []


WRITTEN = [*PAGES, ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "studies").glob("*.md"))]


def uneven(text):
    """The lines of tables that do not have as many cells as the head of their table."""
    width, rows = None, []
    for number, line in enumerate(BLOCK.sub(lambda block: "\n" * block[0].count("\n"), text).splitlines(), 1):
        bars = len(re.findall(r"(?<!\\)\|", line)) if line.startswith("|") else None
        width = None if bars is None else width or bars
        if bars != width:
            rows.append(number)
    return rows


@pytest.mark.parametrize("page", WRITTEN, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_row_of_a_table_has_the_cells_of_its_head(page):
    assert uneven(page.read_text(encoding="utf-8")) == []


def test_a_row_with_a_cell_too_many_is_found_by_its_line():
    assert uneven("| a | b |\n|---|---|\n| 1 | | 2 |\n| 1 | 2 |\n\n| 1 |\n") == [3]


def test_a_command_of_a_page_that_fails_is_an_error(folder, monkeypatch):
    page = folder / "page.md"
    page.write_text("```console\n$ deltacompose transfer missing.csv\n```\n")
    with pytest.raises(AssertionError, match=r"transfer missing\.csv"):
        run(page, folder, monkeypatch)


def test_every_page_is_in_the_navigation_of_the_site():
    named = set(re.findall(r": ([\w/]+\.md)$", (ROOT / "mkdocs.yml").read_text(encoding="utf-8"), re.M))
    assert named == {path.relative_to(ROOT / "docs").as_posix() for path in PAGES}


def test_the_reference_has_every_public_name_and_every_built_in_method():
    reference = "".join(path.read_text(encoding="utf-8") for path in (ROOT / "docs" / "reference").glob("*.md"))
    documented = set(re.findall(r"^::: ([\w.]+)$", reference, re.M))
    public = {f"deltacompose.{home}.{name}" for name, home in deltacompose._NAMES.items() if home != name}
    methods = {f"{method.__module__}.{method.__qualname__}" for method in deltacompose.methods().values()}
    built_in = {name for name in methods if name.startswith("deltacompose_plugins.methods.")}
    assert sorted((public | built_in) - documented) == []
