"""The measurements of `make gpu`: without CUDA one sentence, on a CPU the small form, and what cannot run says why."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
import torch

SPEED = Path(__file__).parents[2] / "studies" / "speed"


@pytest.fixture
def kit(monkeypatch):
    monkeypatch.syspath_prepend(str(SPEED))
    import gpu

    yield gpu
    for name in ("gpu", "steps"):
        sys.modules.pop(name, None)


def run(kit, monkeypatch, *arguments):
    monkeypatch.setattr(sys, "argv", ["gpu.py", *map(str, arguments)])
    return kit.main()


def test_without_cuda_it_says_so_in_one_sentence(kit, monkeypatch, capsys, tmp_path):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert run(kit, monkeypatch, "--out", tmp_path / "out") == 2
    assert capsys.readouterr().err == "error: no CUDA device is available here; --cpu runs the small form on a CPU\n"
    assert not (tmp_path / "out").exists()


def test_the_small_form_measures_and_names_what_it_does_not_measure(kit, monkeypatch, tmp_path):
    assert run(kit, monkeypatch, "--cpu", "--only", "precision", "quantised", "sharding", "--out", tmp_path) == 0
    document = json.loads((tmp_path / "cpu.json").read_text())
    rows = {row["measurement"]: row for row in document["rows"]}
    assert set(rows) == {"precision", "quantised", "sharding"}
    assert rows["precision"]["value"] > 0
    assert rows["sharding"]["reason"].startswith("sharding needs two GPUs, found")
    text = (tmp_path / "cpu.md").read_text()
    assert text.count("not measured: ") == 2
    assert document["device"] in text.splitlines()[0]


def test_a_measurement_that_fails_is_a_row_and_the_others_go_on(kit, monkeypatch, tmp_path):
    def broken(settings):
        raise ValueError("no such thing")
        yield

    monkeypatch.setitem(kit.MEASUREMENTS, "banks", broken)
    assert run(kit, monkeypatch, "--cpu", "--only", "banks", "sharding", "--out", tmp_path) == 0
    first, second = json.loads((tmp_path / "cpu.json").read_text())["rows"]
    assert first["reason"] == "failed: ValueError: no such thing"
    assert second["measurement"] == "sharding"
