"""What is built and installed is whole: the wheel works from anywhere, the source distribution has what tests it."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest
import yaml
from deltacompose_plugins.tasks import descriptions

ROOT = Path(__file__).parent.parent
APACHE = "cfc7749b96f63bd31c3c42b5c471bf756814053e847c10f3eb003417bc523d30"
"""SHA-256 of https://www.apache.org/licenses/LICENSE-2.0.txt."""


def run(*command, **options):
    done = subprocess.run([str(part) for part in command], capture_output=True, text=True, check=False, **options)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    return done.stdout


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    """A wheel and a source distribution, built offline from this checkout."""
    folder = tmp_path_factory.mktemp("dist")
    run(sys.executable, "-m", "hatchling", "build", "-d", folder, cwd=ROOT)
    [wheel], [sdist] = folder.glob("*.whl"), folder.glob("*.tar.gz")
    return wheel, sdist


@pytest.fixture(scope="module")
def installed(built, tmp_path_factory):
    """A folder into which the wheel is installed, without what it depends on."""
    target = tmp_path_factory.mktemp("installed")
    pip = (sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-deps", "--no-index")
    run(*pip, "--target", target, built[0])
    return target


def elsewhere(installed, folder, program):
    """What a program prints that sees the installed wheel before this checkout, from another directory."""
    environment = {**os.environ, "PYTHONPATH": str(installed), "DELTACOMPOSE_PLUGINS": "", "HF_HUB_OFFLINE": "1"}
    return run(sys.executable, "-c", program, cwd=folder, env=environment)


def test_the_wheel_is_imported_from_another_directory(installed, tmp_path):
    program = "import deltacompose, deltacompose_plugins as p; print(deltacompose.__file__); print(p.__file__)"
    places = elsewhere(installed, tmp_path, program).splitlines()
    assert [Path(place).parent.parent for place in places] == [installed, installed]


def test_the_installed_members_are_found_and_read(installed, tmp_path):
    program = """
import json, deltacompose as dc
from deltacompose import plugins
known = plugins.loaded()
task = dc.tasks()["sentiment_tweet"]
print(json.dumps({
    "plugins": [(one.name, one.state, one.reason) for one in known.plugins if one.name == "builtin"],
    "home": __import__("deltacompose_plugins").__file__,
    "methods": sorted(known.methods),
    "places": len(known.backbones["t5"].places),
    "rows": len(task.examples("train")),
    "expression": str(dc.parse("prompt + lora(rank=4) >> adapter")),
}))
"""
    found = json.loads(elsewhere(installed, tmp_path, program))
    assert found["plugins"] == [["builtin", "active", ""]]
    assert found["home"].startswith(str(installed))
    assert found["places"] > 20
    assert found["rows"] > 100
    assert found["expression"] == "prompt + lora(rank=4) >> adapter"


def test_the_wheel_has_every_file_of_both_packages(built):
    inside = set(zipfile.ZipFile(built[0]).namelist())
    homes = (ROOT / "deltacompose", ROOT / "plugins" / "deltacompose_plugins")
    files = {str(path.relative_to(home.parent)) for home in homes for path in home.rglob("*") if path.is_file()}
    assert not {name for name in files if "__pycache__" not in name} - inside
    assert not [name for name in inside if "__pycache__" in name or name.startswith(("tests/", "studies/", "plugins/"))]


def test_the_wheel_has_its_data(built):
    inside = set(zipfile.ZipFile(built[0]).namelist())
    assert {
        "deltacompose/py.typed",
        "deltacompose/report/templates/report.html",
        "deltacompose/report/templates/main.js",
    } <= inside
    assert "deltacompose/plugins/scaffold/plugin/pyproject.toml.jinja" in inside
    assert {"deltacompose_plugins/DATA_LICENSES.md", "deltacompose_plugins/tasks/hub.yaml"} <= inside
    assert {f"deltacompose_plugins/tasks/rows/{name}.jsonl" for name in descriptions("embedded")} <= inside
    tables = {path.name for path in (ROOT / "plugins" / "deltacompose_plugins" / "backbones").glob("*.yaml")}
    assert {f"deltacompose_plugins/backbones/{name}" for name in tables} <= inside


def test_the_wheel_says_its_command_its_door_and_its_licences(built):
    wheel = zipfile.ZipFile(built[0])
    [info] = {name.split("/")[0] for name in wheel.namelist() if ".dist-info/" in name}
    points = wheel.read(f"{info}/entry_points.txt").decode()
    assert "deltacompose = deltacompose.cli:main" in points
    assert "[deltacompose]\nbuiltin = deltacompose_plugins" in points
    assert f"{info}/licenses/LICENSE" in wheel.namelist()
    assert f"{info}/licenses/plugins/deltacompose_plugins/DATA_LICENSES.md" in wheel.namelist()
    metadata = wheel.read(f"{info}/METADATA").decode()
    assert "License-Expression: Apache-2.0" in metadata
    for extra in ("demo", "browser", "cluster", "hub", "dev"):
        assert f"Provides-Extra: {extra}\n" in metadata


def test_the_source_distribution_has_studies_tests_and_what_they_read(built):
    with tarfile.open(built[1]) as archive:
        names = archive.getnames()
    inside = {name.partition("/")[2] for name in names}
    for pattern in ("studies/*.*", "tests/*.py", "docs/*.md", "docs/images/*.png"):
        assert {str(path.relative_to(ROOT)) for path in ROOT.glob(pattern)} <= inside, pattern
    roots = ("README.md", "CHANGELOG.md", "CITATION.cff", "LICENSE", "Makefile", "constraints.txt", "pyproject.toml")
    assert set(roots) <= inside
    assert not [name for name in inside if name.startswith(("results/", ".venv/", "dist/"))]


def test_the_licence_is_apache_2_whole():
    text = (ROOT / "LICENSE").read_bytes()
    assert hashlib.sha256(text).hexdigest() == APACHE


def test_the_citation_names_this_version_and_the_paper():
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    import deltacompose

    assert (citation["cff-version"], citation["type"]) == ("1.2.0", "software")
    assert citation["version"] == deltacompose.__version__
    [paper] = citation["references"]
    assert paper["doi"] == "10.1038/s42256-023-00626-4"
    assert paper["authors"][0] == {"family-names": "Ding", "given-names": "Ning"}


def test_the_hooks_of_the_repository_fetch_nothing():
    hooks = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text(encoding="utf-8"))
    assert [repository["repo"] for repository in hooks["repos"]] == ["local"]
    assert {hook["language"] for hook in hooks["repos"][0]["hooks"]} == {"system"}
