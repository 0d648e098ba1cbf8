"""`deltacompose agreement`: trained deltas on a backbone in bfloat16 against float32."""

from __future__ import annotations

import json
from dataclasses import replace

import picostudy
import pytest
import torch
import yaml
from typer.testing import CliRunner

import deltacompose as dc
from deltacompose import registry
from deltacompose.api.agreement import agreement
from deltacompose.cli import app
from deltacompose.errors import BadInput
from deltacompose.scoring import reader
from deltacompose.task.named import named_task
from deltacompose.task.task import score
from deltacompose.validation import plain

WRITTEN = ("name", "tasks", "compositions", "seeds", "training", "transfer")


@pytest.fixture(scope="module")
def pico(tmp_path_factory):
    folder = tmp_path_factory.mktemp("agreement")
    study = picostudy.make(folder, family="t5", compositions=("bitfit", "bitfit >> lora(rank=2)"), seeds=(0,))
    dc.run(study, folder / "store", progress=False)
    return study, folder / "store"


def test_each_composition_is_compared_on_its_own_tasks(pico):
    study, store = pico
    rows = agreement(study, store)
    assert [row.composition for row in rows] == ["untouched", "bitfit", "bitfit >> lora(rank=2)"]
    for row in rows:
        assert (row.deltas, row.examples) == (2, 24)
        assert 0.5 <= row.agreement <= 1
        assert 0 < row.loss_difference < 0.1
        assert abs(row.losses[0] - row.losses[1]) <= row.loss_difference


def test_the_numbers_in_float32_are_those_of_the_deltas_themselves(pico):
    study, store = pico
    row = next(row for row in agreement(study, store) if row.composition == "bitfit")
    records = [r for r in dc.records(store) if r["kind"] == "evaluate" and r["spec"]["composition"] == "bitfit"]
    own = [r["result"]["score"] for r in records if r["spec"]["source"] == r["spec"]["target"]]
    assert row.scores[0] == pytest.approx(sum(own) / len(own))


def test_the_numbers_of_the_other_type_are_those_of_a_backbone_in_it(pico):
    study, store = pico
    row = next(row for row in agreement(study, store) if row.composition == "untouched")
    backbone = dc.load_backbone(study.backbone.model, dtype="bfloat16")
    assert next(backbone.model.parameters()).dtype == torch.bfloat16
    values = []
    for name in study.tasks:
        task = named_task(name, study.own_tasks, study.folder, registry.task_of)
        read = reader(backbone, task, 32)
        values.append(score(task, task.examples("test"), read.predict("test")).value)
    assert row.scores[1] == pytest.approx(sum(values) / 2)


def test_a_backbone_that_answers_otherwise_shows(pico, monkeypatch):
    study, store = pico
    from deltacompose.scoring.rows import Reader

    right = Reader.predict_each

    def other(self, *arguments):
        predictions = right(self, *arguments)
        if self.backbone.model.dtype == torch.bfloat16:
            return [["good" if p == "bad" else "bad" for p in each] for each in predictions]
        return predictions

    monkeypatch.setattr(Reader, "predict_each", other)
    assert {row.agreement for row in agreement(study, store)} == {0.0}


def test_the_command_prints_a_table_or_json(pico, tmp_path):
    study, store = pico
    path = tmp_path / "study.yaml"
    fields = {name: value for name, value in plain(study).items() if name in WRITTEN}
    own = {name: {**task, "path": f"{study.folder}/{task['path']}"} for name, task in study.own_tasks.items()}
    path.write_text(yaml.safe_dump({**fields, "own_tasks": own, "backbone": {"model": study.backbone.model}}))
    table = CliRunner().invoke(app, ["agreement", str(path), "--store", str(store)])
    assert table.exit_code == 0, table.output
    assert "bitfit >> lora(rank=2)" in table.output
    printed = CliRunner().invoke(app, ["agreement", str(path), "--store", str(store), "--json"])
    document = json.loads(printed.stdout)
    assert (document["dtype"], document["split"]) == ("bfloat16", "test")
    assert [row["deltas"] for row in document["compositions"]] == [2, 2, 2]
    wrong = CliRunner().invoke(app, ["agreement", str(path), "--dtype", "int8"])
    assert isinstance(wrong.exception, BadInput)
    assert str(wrong.exception) == "'int8' is not a valid dtype (expected bfloat16 or float16)"


def test_a_study_that_has_not_run_is_refused(pico):
    study, store = pico
    with pytest.raises(BadInput, match="has no trained delta of pico; run the study first"):
        agreement(replace(study, seeds=(7,)), store)
