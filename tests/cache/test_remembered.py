"""Facts remembered between processes: found once, and again as soon as an input differs."""

from __future__ import annotations

import dataclasses

import pytest

from deltacompose.cache import remembered
from deltacompose.plugins import loaded
from deltacompose.plugins.members import Member, Members
from deltacompose.plugins.packages import packages


@pytest.fixture(autouse=True)
def cache(monkeypatch, tmp_path):
    monkeypatch.setenv("DELTACOMPOSE_CACHE", str(tmp_path / "cache"))


def test_facts_are_found_once_for_the_same_inputs_and_again_for_others():
    calls = []

    def find():
        calls.append(1)
        return {"answer": len(calls)}

    assert remembered.remembered("t", [1, "a"], find) == remembered.remembered("t", [1, "a"], find) == {"answer": 1}
    assert remembered.remembered("t", [1, "b"], find) == {"answer": 2}
    assert remembered.remembered("u", [1, "a"], find) == {"answer": 3}


@pytest.mark.parametrize("content", ["{", "[1]", '{"answer": "text"}', ""])
def test_an_entry_that_is_damaged_or_of_another_type_is_found_again(content):
    path = remembered.entry("t", [1])
    path.parent.mkdir(parents=True)
    path.write_text(content)
    assert remembered.remembered("t", [1], lambda: {"answer": 1}, dict[str, int]) == {"answer": 1}
    assert remembered.recall(path, dict[str, int]) == {"answer": 1}


def test_where_the_cache_cannot_be_written_facts_are_found_each_time(monkeypatch):
    monkeypatch.setenv("DELTACOMPOSE_CACHE", "/proc/none")
    calls = []
    for _ in range(2):
        remembered.remembered("t", [1], lambda: calls.append(1) or {"a": 1})
    assert len(calls) == 2


def test_an_edited_source_gives_another_digest(tmp_path):
    package = tmp_path / "mine"
    (package / "inner").mkdir(parents=True)
    for name in ("__init__.py", "inner/table.yaml", "inner/code.py"):
        (package / name).write_text("1")
    before = remembered.sources([package])
    (package / "notes.txt").write_text("no source")
    assert remembered.sources([package]) == before
    (package / "inner" / "table.yaml").write_text("2")
    assert remembered.sources([package]) != before


def test_the_packages_of_the_members_are_found_without_importing_them():
    folders = packages(loaded())
    assert {"deltacompose", "deltacompose_plugins"} <= {folder.name for folder in folders}


def test_a_member_that_is_an_object_has_no_package_that_describes_it():

    known = loaded()
    members = Members({"mine": Member("measure", "mine", object(), "mine 1.0")})
    assert packages(dataclasses.replace(known, measures=members)) is None
