"""`make speed`: a run in pieces that adds to one summary, and the table that the documentation has of it."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).parents[2]
SPEED = ROOT / "studies" / "speed"
NAMES = ("speed", "summary", "timing", "steps", "levers", "matrix", "whole", "costs", "words")


@pytest.fixture
def kit(monkeypatch):
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    monkeypatch.syspath_prepend(str(SPEED))
    import speed

    yield speed
    for name in NAMES:
        sys.modules.pop(name, None)
    torch.set_num_threads(before)


def run(kit, monkeypatch, *arguments):
    monkeypatch.setattr(sys, "argv", ["speed.py", *map(str, arguments)])
    return kit.main()


def row(value=2.0, **more):
    facts = {"lever": "bank", "peer": "in turn", "setting": "small", "precision": "float32", "unit": "times"}
    return facts | {"value": value, "low": 1.5, "high": 2.5, "n": 3, "device": "a processor", "load": 0.5} | more


def counting(kit, names, calls):
    def measured(name):
        calls.append(name)
        yield row(float(len(calls)))

    return [kit.Measurement("group", name, lambda name=name: measured(name)) for name in names]


def test_the_page_shows_the_table_of_the_committed_summary(kit):
    from summary import rows_of, with_table

    page = kit.PAGE.read_text(encoding="utf-8")
    assert page == with_table(page, rows_of(kit.PUBLISHED))


def test_a_run_in_pieces_measures_only_what_the_summary_lacks(kit, tmp_path):
    from summary import Summary

    path, calls = tmp_path / "summary.json", []
    kit.carry_out(Summary.opened(path, {}), counting(kit, ["a"], calls), 60.0)
    kit.carry_out(Summary.opened(path, {}), counting(kit, ["a", "b"], calls), 60.0)
    assert calls == ["a", "b"]
    kit.carry_out(Summary.opened(path, {}), counting(kit, ["a"], calls), 60.0, again=True)
    assert calls == ["a", "b", "a"]
    rows = json.loads(path.read_text())["rows"]
    assert sorted((each["measurement"], each["value"]) for each in rows) == [("a", 3.0), ("b", 2.0)]


def test_nothing_begins_when_the_budget_is_used_up(kit, tmp_path, capsys):
    from summary import Summary

    calls: list[str] = []
    kit.carry_out(Summary.opened(tmp_path / "summary.json", {}), counting(kit, ["a", "b"], calls), -1.0)
    assert calls == []
    assert "left out, the budget is used up: b" in capsys.readouterr().out


def test_a_measurement_that_fails_is_a_row_and_is_tried_again(kit, tmp_path):
    from summary import Summary, table

    def broken():
        raise ValueError("no such thing")
        yield

    path = tmp_path / "summary.json"
    kit.carry_out(Summary.opened(path, {}), [kit.Measurement("group", "a", broken)], 60.0)
    text = table(json.loads(path.read_text())["rows"])
    assert "Not measured, a: failed: ValueError: no such thing." in text
    calls: list[str] = []
    kit.carry_out(Summary.opened(path, {}), counting(kit, ["a"], calls), 60.0)
    assert calls == ["a"]


def test_a_published_summary_is_on_the_page(kit, tmp_path):
    source, page, published = tmp_path / "summary.json", tmp_path / "speed.md", tmp_path / "published.json"
    source.write_text(json.dumps({"rows": [{"measurement": "a"} | row(2.345)]}))
    page.write_text(kit.PAGE.read_text(encoding="utf-8"), encoding="utf-8")
    assert kit.publish(source, page, published) == 0
    line = "| bank | in turn | small | float32 | 2.35 | 1.50 to 2.50 | 3 | a processor |"
    assert line.replace("2.35", f"{2.345:.2f}") in page.read_text(encoding="utf-8").splitlines()
    assert kit.publish(tmp_path / "absent.json", page, published) == 2


def test_the_ratio_is_of_pairs_of_one_round(kit):
    from timing import Times, ratio

    times = {"ours": Times([1.0, 2.0, 4.0], [2.0, 2.0, 2.0]), "theirs": Times([2.0, 6.0, 4.0], [3.0, 3.0, 3.0])}
    own = ratio("lever", "peer", "where", "float32", times)
    assert (own["cpu_ratio"], own["wall_ratio"]) == (2.0, 1.5)
    assert own["value"] == (1.5 if torch.cuda.is_available() else 2.0)
    assert own["n"] == 3


def test_arms_take_turns_in_going_first(kit):
    from timing import interleaved

    order: list[str] = []
    times = interleaved({"a": lambda: order.append("a"), "b": lambda: order.append("b")}, 2, warm=False)
    assert order == ["b", "a", "a", "b"]
    assert len(times["a"].cpu) == len(times["a"].wall) == 2


def test_an_unknown_measurement_is_named(kit, monkeypatch, tmp_path, capsys):
    assert run(kit, monkeypatch, "--only", "nothing", "--out", tmp_path) == 2
    assert capsys.readouterr().err == "error: no measurement is named nothing; --list names them\n"


def test_every_group_of_the_page_is_measured(kit, tmp_path):
    known = kit.measurements(5, tmp_path)
    names = [each.name for each in known]
    assert len(set(names)) == len(names)
    page = kit.PAGE.read_text(encoding="utf-8")
    groups = {line.split("`")[1] for line in page.splitlines() if line.startswith("| `")}
    assert groups == {each.group for each in known}


def test_what_a_processor_cannot_multiply_is_not_measured(kit, monkeypatch, tmp_path):
    monkeypatch.setattr(kit, "multiplies_bfloat16", lambda device: False)
    calls = []
    [without] = kit.attempted(kit.Measurement("matrix", "matrix/tiny-t5/bfloat16/float32", lambda: calls.append(0)))
    assert (without, calls) == ({"reason": "this processor has no instructions for bfloat16"}, [])
    assert "study/bfloat16" in {each.name for each in kit.measurements(1, tmp_path)}
    monkeypatch.setattr(kit, "multiplies_bfloat16", lambda device: True)
    assert "study/bfloat16" not in {each.name for each in kit.measurements(1, tmp_path)}
    [row] = kit.attempted(kit.Measurement("matrix", "matrix/tiny-t5/bfloat16/float32", lambda: [{"value": 1.0}]))
    assert row["value"] == 1.0
