"""The precision that suits a machine: `dtype: auto` is bfloat16 where the processor multiplies it, else float32."""

from __future__ import annotations

import logging
from dataclasses import replace

import picostudy
import pytest
import torch

import deltacompose as dc
from deltacompose.api import estimates, studies
from deltacompose.api.estimates import cost_of, slow_precision
from deltacompose.cells.calibration import calibrated
from deltacompose.errors import BadInput
from deltacompose.study import BackboneChoice, Study, machine

WITH = "processor\t: 0\nmodel name\t: Sapphire\nflags\t\t: fpu avx512f avx512_bf16 amx_bf16\n\n"
WITHOUT = "processor\t: 0\nmodel name\t: Milan\nflags\t\t: fpu avx2 fma\n\n"
ARM = "processor\t: 0\nFeatures\t: fp asimd bf16\n"


@pytest.fixture(params=[(WITH, "bfloat16"), (ARM, "bfloat16"), (WITHOUT, "float32"), ("", "float32")])
def precision(request, tmp_path, monkeypatch):
    """A machine without a GPU, whose processor is described by a text; gives the precision that suits it."""
    text, dtype = request.param
    _pretend(monkeypatch, tmp_path, text)
    return dtype


@pytest.fixture
def study(tmp_path):
    return picostudy.make(tmp_path / "inputs")


def _pretend(monkeypatch, folder, text):
    (folder / "cpuinfo").write_text(text)
    monkeypatch.setattr(machine, "CPUINFO", folder / "cpuinfo")
    monkeypatch.setattr(machine, "has_gpu", lambda: False)


def test_auto_becomes_the_precision_that_the_processor_multiplies(precision, tmp_path):
    assert BackboneChoice("m", "auto").dtype == precision
    (tmp_path / "study.yaml").write_text(
        "name: a\ntasks: [t]\ncompositions: [lora]\nbackbone: {model: m, dtype: auto}\n"
    )
    study = Study.read(tmp_path / "study.yaml")
    assert study.backbone.dtype == precision
    study.write(tmp_path / "written.yaml")
    assert Study.read(tmp_path / "written.yaml") == study


def test_a_backbone_is_loaded_in_it(precision, study):
    folder = study.backbone.model
    assert dc.load_backbone(folder, dtype="auto").model.dtype == getattr(torch, precision)
    with pytest.raises(BadInput, match="no dtype 'automatic'"):
        dc.load_backbone(folder, dtype="automatic")


def test_a_gpu_is_asked_itself(monkeypatch, tmp_path):
    _pretend(monkeypatch, tmp_path, WITHOUT)
    monkeypatch.setattr(machine, "has_gpu", lambda: True)
    for supported, dtype in ((True, "bfloat16"), (False, "float32")):
        monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation, answer=supported: answer)
        assert BackboneChoice("m", "auto").dtype == BackboneChoice("m", "auto", device="cuda:1").dtype == dtype
        assert BackboneChoice("m", "auto", device="cpu").dtype == "float32"


def test_the_name_of_the_processor_is_that_of_the_first(monkeypatch, tmp_path):
    _pretend(monkeypatch, tmp_path, WITH + WITHOUT)
    assert machine.processor() == "Sapphire"
    (tmp_path / "cpuinfo").unlink()
    assert machine.processor() == "unknown processor"


def test_bfloat16_without_instructions_for_it_is_said(study, monkeypatch, tmp_path, caplog):
    # Measured in float32: on a machine without such instructions a measurement in bfloat16 takes long.
    monkeypatch.setattr(estimates, "calibrated", lambda dtype, device: calibrated("float32", device))
    half = replace(study, backbone=replace(study.backbone, dtype="bfloat16"), tasks=study.tasks[:1], seeds=(0,))
    _pretend(monkeypatch, tmp_path, WITHOUT)
    sentence = "this processor has no instructions for bfloat16"
    assert any(sentence in remark for remark in cost_of(half).remarks)
    with caplog.at_level(logging.WARNING):
        monkeypatch.setattr(studies, "run_plan", lambda *everything: None)
        dc.run(half, tmp_path / "store", engine="inprocess", progress=False)
    assert sentence in caplog.text
    _pretend(monkeypatch, tmp_path, WITH)
    assert slow_precision(half) == ""
    _pretend(monkeypatch, tmp_path, WITHOUT)
    assert slow_precision(replace(half, backbone=study.backbone)) == ""
