"""The counts of the guide for contributors stay within their limits, and count what they say."""

import ast
from pathlib import Path

import house_counts
import pytest
from house_counts import COUNTS, PHRASES


@pytest.mark.parametrize("count", COUNTS, ids=lambda count: count.name)
def test_a_count_is_within_its_limit(count):
    shown = "; ".join(f"{at}: {text.splitlines()[0]}" for at, text in count.places()[:5])
    assert count.kept, f"{count.value} {count.name}, expected {count.limit}; the first: {shown}"


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("is no X", "the text is no composition"),
        ("is no X", "they are no edits"),
        ("What a …", "What a delta does"),
        ("What a …", "Saves it. What is left out is listed."),
        ("is said, told, had", "The size is said in the file."),
        ("beside", "written beside it"),
        (", for … (because)", "it is slow, for it reads everything"),
        ("in force", "with the delta in force"),
        ("Of …", "Of the largest value"),
    ],
)
def test_a_riddle_is_counted(name, text, monkeypatch):
    monkeypatch.setattr(house_counts, "texts", lambda: [("page.md:1", text)])
    assert len(house_counts.phrase(name)) == 1


@pytest.mark.parametrize(
    "text",
    ["There is no place of that name.", "it is no longer finite", "What is the graph of tasks?", "two tables, for t5"],
)
def test_plain_sentences_are_not_counted(text, monkeypatch):
    monkeypatch.setattr(house_counts, "texts", lambda: [("page.md:1", text)])
    assert [name for name in PHRASES if house_counts.phrase(name)] == []


def test_a_count_outside_its_limit_gives_exit_status_1(monkeypatch, capsys):
    broken = house_counts.Count("broken", lambda: [("a.py:1", "x")], most=0)
    monkeypatch.setattr(house_counts, "COUNTS", (broken,))
    assert house_counts.main([]) == 1
    assert "*  broken" in capsys.readouterr().out
    assert house_counts.main(["--where", "brok"]) == 1
    assert capsys.readouterr().out == "a.py:1: x\n"


def test_locals_are_counted_wherever_they_are_bound_or_read(monkeypatch, tmp_path):
    source = "def f(one):\n    found = [one for one in g]\n    return found\n"
    monkeypatch.setattr(house_counts, "modules", lambda *folders: [house_counts.ROOT / "a.py"])
    monkeypatch.setattr(house_counts, "tree", lambda path: ast.parse(source))
    assert [name for _, name in house_counts.locals_named("one", "found")].count("found") == 2
    assert len(house_counts.locals_named("one")) == 3


def test_every_built_in_file_is_read():
    paths = house_counts.modules(*house_counts.SOURCES)
    assert Path("deltacompose/attach/attachment.py") in {path.relative_to(house_counts.ROOT) for path in paths}
    assert not any("tests" in path.relative_to(house_counts.ROOT).parts for path in paths)


def test_a_public_property_without_a_docstring_is_counted(monkeypatch):
    source = '''
class Record:
    @property
    def plain(self): ...

    @functools.cached_property
    def cached(self): ...

    @property
    def told(self):
        """A docstring."""

    @property
    def _own(self): ...

    def method(self): ...

class _Hidden:
    @property
    def plain(self): ...
'''
    monkeypatch.setattr(house_counts, "modules", lambda *folders: [house_counts.ROOT / "a.py"])
    monkeypatch.setattr(house_counts, "tree", lambda path: ast.parse(source))
    assert [name for _, name in house_counts.undocumented_properties()] == ["Record.plain", "Record.cached"]
