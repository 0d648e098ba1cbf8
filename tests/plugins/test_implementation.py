"""The digest of a method's code: of a released built-in its distribution's version, of any other its source too."""

from __future__ import annotations

import sys

import pytest
import stale_edits

from deltacompose.errors import BadInput
from deltacompose.plugins import implementation as code
from deltacompose.plugins import loader


@pytest.fixture
def site(tmp_path):
    stale_edits.write_plugin(tmp_path)
    with stale_edits.installed(tmp_path):
        yield tmp_path


def digest(name="shifted"):
    return code.implementation(loader.loaded(), name)


def test_a_comment_in_a_built_in_method_changes_nothing_and_in_a_plugin_it_does(site, monkeypatch):
    built_in, plugin = digest("lora"), digest()
    monkeypatch.setattr(code, "file_digest", lambda path: "edited")
    assert digest("lora") == built_in
    assert digest() != plugin


def test_a_built_in_method_of_an_unreleased_version_is_named_by_its_source(site, monkeypatch):
    monkeypatch.setattr(code, "is_release", lambda version: False)
    before = digest("lora")
    monkeypatch.setattr(code, "file_digest", lambda path: "edited")
    assert digest("lora") != before


def test_an_edit_after_the_import_is_refused_until_the_process_is_restarted(site):
    before = digest()
    stale_edits.write_plugin(site, scale=3.0)
    with pytest.raises(BadInput, match="changed after this process imported it; restart the process"):
        digest()
    stale_edits.restarted()
    assert digest() != before
    stale_edits.write_plugin(site)
    stale_edits.restarted()
    assert digest() == before


def test_a_package_is_named_by_all_its_files_but_not_by_compiled_ones(tmp_path):
    (tmp_path / "shifted_plugin").mkdir()
    stale_edits.write_plugin(tmp_path)
    (tmp_path / "shifted_plugin.py").rename(tmp_path / "shifted_plugin" / "__init__.py")
    (tmp_path / "shifted_plugin" / "numbers.csv").write_text("1")
    with stale_edits.installed(tmp_path):
        before = digest()
        (tmp_path / "shifted_plugin" / "__pycache__").mkdir(exist_ok=True)
        (tmp_path / "shifted_plugin" / "__pycache__" / "x.pyc").write_text("1")
        assert digest() == before
        (tmp_path / "shifted_plugin" / "numbers.csv").write_text("2")
        assert digest() != before


def test_a_method_whose_source_cannot_be_read_is_refused(site, monkeypatch):
    kind = loader.loaded().methods["shifted"]
    monkeypatch.setattr(sys.modules[kind.__module__], "__file__", None)
    with pytest.raises(BadInput, match="cannot read the source of method 'shifted'"):
        code._text("shifted", type("Made", (), {"__module__": "nowhere"}))


@pytest.mark.parametrize(
    ("version", "released"), [("1.2", True), ("1.2rc1", True), ("1.2.dev3", False), ("1.2+mine", False), ("?", False)]
)
def test_a_release_is_neither_in_development_nor_changed_locally(version, released):
    assert code.is_release(version) is released
