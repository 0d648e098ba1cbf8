"""Plans of backbones that are too large for this machine, and what does not fit is said before it runs."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import picostudy
import pytest
import torch
import yaml
from torch._subclasses.fake_tensor import FakeTensor
from transformers import AutoModelForCausalLM, LlamaConfig, MixtralConfig, T5Config
from typer.testing import CliRunner

import deltacompose as dc
from deltacompose import api, registry
from deltacompose.api import estimates
from deltacompose.backbone.pico import pico, pico_tokenizer
from deltacompose.cells import process_memory
from deltacompose.cells.process_memory import process_bytes
from deltacompose.cells.step_memory import StepBytes, _Living, step_bytes
from deltacompose.cells.study_facts import facts, greediest_of, sample
from deltacompose.cli import app
from deltacompose.errors import BadInput
from deltacompose.planning import flops
from deltacompose.planning.fitting import advice, greediest
from deltacompose.planning.flops import DeltaShape, Lengths, Memory
from deltacompose.store import open_store
from deltacompose.study import Study, machine
from deltacompose.study.recipe import Recipe

SHAPES = {
    "llama3-8b": (
        "llama",
        LlamaConfig(
            hidden_size=4096,
            intermediate_size=14336,
            num_hidden_layers=32,
            num_attention_heads=32,
            num_key_value_heads=8,
            vocab_size=128256,
            architectures=["LlamaForCausalLM"],
        ),
        8_030_261_248,
    ),
    "t5-11b": (
        "t5",
        T5Config(
            d_model=1024,
            d_kv=128,
            d_ff=65536,
            num_layers=24,
            num_heads=128,
            vocab_size=32128,
            architectures=["T5ForConditionalGeneration"],
        ),
        11_307_321_344,
    ),
    "mixtral-8x7b": ("llama", MixtralConfig(architectures=["MixtralForCausalLM"]), 46_702_792_704),
}
PROGRAM = """
import contextlib, io, json, sys
from deltacompose import cli
output = io.StringIO()
with contextlib.redirect_stdout(output):
    cli.main()
peak = next(line for line in open("/proc/self/status") if line.startswith("VmHWM"))
print(json.dumps({"bytes": 1024 * int(peak.split()[1]), "output": output.getvalue()}))
"""
COMPOSITIONS = ["lora", "prompt(length=20) + bitfit", "prefix", "full", "ia3 >> adapter"]


def planned(folder, name, **changes):
    """A study on a large shape, of which the configuration and a tokenizer are here and no weights are."""
    tokenizer, config, _ = SHAPES[name]
    config.save_pretrained(folder / name)
    pico_tokenizer(tokenizer).save_pretrained(folder / name)
    tasks = ("mood", "tone", "hue", "gait", "taste")
    for number, task in enumerate(tasks):
        picostudy.write_rows(folder / f"{task}.jsonl", task, number)
    own = {task: picostudy.own(task) for task in tasks}
    data = {
        "name": "large",
        "tasks": list(tasks),
        "compositions": COMPOSITIONS,
        "backbone": {"model": str(folder / name), "dtype": "float32"},  # whose speed is measured fast everywhere
        "seeds": [0, 1],
        "training": {"steps": 100, "batch": 16, "limit": 128},
        "transfer": True,
        "own_tasks": own,
    }
    path = folder / "large.yaml"
    path.write_text(yaml.safe_dump(data | changes))
    return path


@pytest.fixture(scope="module")
def calibrated(tmp_path_factory):
    """A cache for the plans of this file, so that the machine is calibrated once."""
    return tmp_path_factory.mktemp("cache")


@pytest.mark.parametrize("name", SHAPES)
def test_a_large_shape_is_planned_without_its_weights(name, tmp_path, calibrated):
    path = planned(tmp_path, name)
    environment = os.environ | {"DELTACOMPOSE_CACHE": str(calibrated), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-W", "ignore", "-c", PROGRAM, "plan", str(path), "--json"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    measured = json.loads(done.stdout.splitlines()[-1])
    answer = json.loads(measured["output"])
    assert measured["bytes"] < 1 << 30
    trainings = 5 * 2 * 6  # tasks, seeds, stages
    assert {row["kind"]: row["cells"] for row in answer["kinds"]}["train"] == trainings
    assert all(row["flops"] > 0 for row in answer["kinds"])
    assert answer["memory"] > 4 * SHAPES[name][2]
    assert f"the weights of {tmp_path / name} are not on this machine: keys are not final" in answer["remarks"][0]
    parameters = {row["composition"]: row["parameters"] for row in answer["parameters"]}
    assert parameters["full"] > 0.9 * SHAPES[name][2]
    assert 0 < parameters["lora"] < 0.01 * SHAPES[name][2]


def test_a_shape_without_weights_is_made_once_for_a_plan_and_anew_when_a_file_differs(tmp_path, monkeypatch):
    study = wide(tmp_path, "llama")
    (tmp_path / "llama" / "model.safetensors").unlink()
    made, original = [], registry.load_skeleton
    monkeypatch.setattr(
        registry, "load_skeleton", lambda *args, **options: made.append(1) or original(*args, **options)
    )
    greediest_of(study, facts(study), 1)
    assert len(made) == 1
    config = tmp_path / "llama" / "config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | {"num_hidden_layers": 1}))
    assert facts(study).shape.stacks["decoder"].layers == 1
    assert len(made) == 2


def test_planning_makes_no_large_tensor(tmp_path, monkeypatch):
    study = Study.read(planned(tmp_path, "llama3-8b"))
    sizes = []
    original = torch.utils._python_dispatch.TorchDispatchMode

    class Counting(original):
        def __torch_dispatch__(self, function, types, args=(), kwargs=None):
            result = function(*args, **(kwargs or {}))
            for x in result if isinstance(result, tuple | list) else [result]:
                if isinstance(x, torch.Tensor) and not isinstance(x, FakeTensor) and x.device.type != "meta":
                    sizes.append(x.numel())
            return result

    with Counting():
        known = facts(study)
    assert known.shape.total == SHAPES["llama3-8b"][2]
    assert max(sizes, default=0) < 1e6


def test_without_the_weights_a_run_and_a_status_are_refused_in_one_sentence(tmp_path):
    path = planned(tmp_path, "llama3-8b")
    with pytest.raises(BadInput, match=r"holds no model: it has no model\.safetensors"):
        dc.run(path, tmp_path / "store")
    dc.run(picostudy.make(tmp_path / "other", tasks=("mood",), seeds=(0,)), tmp_path / "store", progress=False)
    store = open_store(tmp_path / "store")
    with pytest.raises(BadInput, match=r"cannot tell which cells of study 'large' are in .* because the weights of"):
        api.plan(Study.read(path), store)


def test_a_plan_loads_no_weights_and_passes_nothing(tmp_path, monkeypatch):
    made = picostudy.make(tmp_path, tasks=("mood",))

    load = registry.load_backbone

    def refuse(model, *arguments, **options):
        assert not isinstance(model, str | Path), "the weights were loaded"
        return load(model, *arguments, **options)  # a random model in hand, for the speed of this machine

    monkeypatch.setattr(registry, "load_backbone", refuse)
    monkeypatch.setattr("deltacompose.backbone.skeleton.load_backbone", refuse)
    assert len(api.plan(made)) > 0
    assert api.cost_of(made, workers=1).memory > 0
    assert api.notes(made) == []


@pytest.mark.parametrize(("dtype", "bytes_of_a_weight"), [("int8", 1.0), ("nf4", 0.5625)])
def test_a_plan_of_a_model_in_few_bits_loads_no_weights_and_knows_every_parameter(
    dtype, bytes_of_a_weight, tmp_path, monkeypatch
):
    few = {"quantization_config": {"quant_method": "bitsandbytes"}, "device_map": {"": "cpu"}, "dtype": torch.bfloat16}
    monkeypatch.setattr("deltacompose.backbone.pretrained.loading_options", lambda name: dict(few))
    study = Study.read(planned(tmp_path, "llama3-8b", compositions=["lora"]))
    study = replace(study, backbone=replace(study.backbone, dtype=dtype))
    known = facts(study)
    assert known.shape.total == SHAPES["llama3-8b"][2]
    inside = known.shape.stacks["decoder"].parameters
    weights = bytes_of_a_weight * inside + 2 * (known.shape.total - inside)  # embeddings and head stay in bfloat16
    assert greediest(study, known, registry.parse).weights == pytest.approx(weights)


def test_the_key_of_a_model_in_few_bits_is_that_of_the_loaded_one(tmp_path):
    pytest.importorskip("bitsandbytes")
    config = pico("llama").config
    config.update({"hidden_size": 64, "intermediate_size": 128, "head_dim": 16})
    AutoModelForCausalLM.from_config(config).save_pretrained(tmp_path / "llama")
    pico_tokenizer("llama").save_pretrained(tmp_path / "llama")
    for dtype in ("int8", "nf4"):
        whole = registry.load_backbone(str(tmp_path / "llama"), dtype=dtype)
        skeleton = registry.load_skeleton(str(tmp_path / "llama"), dtype=dtype)
        assert skeleton.content == whole.content


# Memory


def wide(folder, family, **changes):
    """A study on a pico backbone whose trainings take megabytes."""
    return picostudy.make(folder, family=family, tasks=("mood",), seeds=(0,), **changes)


@pytest.mark.parametrize("family", ["bert", "t5", "llama", "gpt2"])
@pytest.mark.parametrize("text", ["lora", "prompt(length=8) + bitfit + adapter"])
def test_the_predicted_bytes_of_a_step_are_those_that_a_real_step_keeps(family, text, tmp_path, monkeypatch):
    study = wide(tmp_path, family)
    expression = registry.parse(text)
    predicted = step_bytes(sample(study, "mood"), expression, 8)
    real = registry.load_backbone(study.backbone.model, device="cpu")
    from deltacompose.cells import step_memory
    from deltacompose.scoring import reader

    reading = reader(real, sample(study, "mood").task, study.training.limit)
    monkeypatch.setattr(step_memory, "FakeTensor", torch.Tensor)
    measured = step_bytes(reading, expression, 8)
    assert isinstance(predicted, StepBytes)
    assert predicted.kept == pytest.approx(measured.kept, rel=0.2)
    assert predicted.largest == pytest.approx(measured.largest, rel=0.2)
    assert predicted.peak == pytest.approx(measured.peak, rel=0.2)
    assert predicted.peak > predicted.kept / 2


def test_the_greediest_training_is_the_one_with_the_most_of_everything(tmp_path):
    study = wide(tmp_path, "bert", compositions=("bitfit", "full", "prompt(length=4)"))
    known = facts(study)
    assert greediest(study, known, registry.parse, 1).composition == "full"
    one, four = (greediest_of(study, known, bank).bytes for bank in (1, 4))
    assert one < four < 4 * one
    assert one > 4 * known.shape.total


def test_what_fits_is_not_spoken_of_and_what_does_not_fit_names_the_setting_that_helps(tmp_path):
    study = wide(tmp_path, "bert", training=Recipe(steps=4, batch=16, limit=64))
    known = facts(study)
    largest = greediest(study, known, registry.parse, 16)
    assert advice(study, known, registry.parse, largest, 1e12, workers=2) == ""
    alone = greediest(study, known, registry.parse, 1).bytes
    tight = 0.6e9 + 1.1 * alone
    sentence = advice(study, known, registry.parse, largest, tight, workers=2)
    assert sentence.startswith("training bitfit on mood needs about ")
    assert "in each of 2 workers" in sentence
    assert "; --workers 1 --bank 1 would need " in sentence
    nothing = advice(study, known, registry.parse, largest, 1e6, workers=1)
    assert "even --bank 1 and `training: {checkpointing: true}` and `backbone: {dtype: bfloat16}`" in nothing
    assert "use a machine with more memory" in nothing


def test_the_command_says_what_does_not_fit_before_anything_runs(tmp_path, monkeypatch):
    monkeypatch.setattr(machine, "free_bytes", lambda gpu: 1 << 28)
    path = tmp_path / "study.yaml"
    made = wide(tmp_path, "bert")
    made.write(path)
    result = CliRunner().invoke(app, ["plan", str(path), "--workers", "1"])
    assert result.exit_code == 0, result.output
    assert "warning: training bitfit on mood needs about" in result.output


def test_a_run_says_what_does_not_fit_and_runs(tmp_path, monkeypatch, caplog):
    monkeypatch.setattr(machine, "free_bytes", lambda gpu: 1 << 28)
    outcome = dc.run(wide(tmp_path, "bert"), tmp_path / "store", progress=False, bank=1)
    assert not outcome.failed
    assert "training bitfit on mood needs about" in caplog.text


def test_free_memory_is_that_of_the_machine_or_of_its_group(tmp_path, monkeypatch):
    whole = machine.free_bytes()
    assert 1 << 20 < whole < 1 << 50
    (tmp_path / "memory.max").write_text("3000\n")
    (tmp_path / "memory.current").write_text("1000\n")
    assert machine.left_in_group(tmp_path) == 2000
    (tmp_path / "memory.max").write_text("max\n")
    assert machine.left_in_group(tmp_path) is None


def test_the_bytes_alive_at_one_moment_are_counted():
    with _Living(set()) as living:
        first = torch.zeros(1000)
        second = first + 1  # both are alive: 8000 bytes
        view = second[:10]
        del first, second
        third = torch.zeros(500)  # the view keeps its whole storage
    assert (living.peak, living.bytes) == (8000, 6000)
    del view, third
    assert living.bytes == 0


def test_the_memory_of_a_plan_has_the_process_the_weights_the_step_and_the_optimiser(tmp_path, monkeypatch):
    study = wide(tmp_path, "bert", compositions=("full",))
    known = facts(study)
    monkeypatch.setattr(estimates, "process_bytes", lambda: 10**9)
    trained, batch = known.deltas["full"].trained, min(study.training.batch, known.tasks["mood"].rows["train"])
    step = step_bytes(sample(study, "mood"), registry.parse("full"), batch)
    expected = 10**9 + 4 * known.shape.total + step.peak + 20 * trained
    assert api.cost_of(study, workers=1, bank=1).memory == pytest.approx(expected)


def test_the_memory_of_a_process_is_measured_once_and_its_failure_is_one_sentence(tmp_path, monkeypatch):
    monkeypatch.setenv("DELTACOMPOSE_CACHE", str(tmp_path))
    monkeypatch.setattr(sys, "executable", "/bin/false")
    with pytest.raises(BadInput, match="cannot measure the memory of a process: exit status 1"):
        process_bytes()
    monkeypatch.setattr(process_memory, "_measured", lambda: 1234)
    assert process_bytes() == 1234
    monkeypatch.undo()
    monkeypatch.setenv("DELTACOMPOSE_CACHE", str(tmp_path))
    monkeypatch.setattr(sys, "executable", "/bin/false")
    assert process_bytes() == 1234


def test_a_bank_holds_every_delta_and_the_step_of_those_that_pass_together():
    lengths = Lengths(input=60, padded=64, answer=2)
    how = Memory(bank=8, budget=4096)
    assert [flops.passing(lengths, batch, how) for batch in (1, 16, 24, 128)] == [8, 3, 2, 1]
    delta = DeltaShape(trained=100)
    assert flops.bank_bytes(delta, 5000.0, 8, 1) == 8 * 2000 + 5000
    assert flops.bank_bytes(delta, 5000.0, 8, 3) == 8 * 2000 + 3 * (5000 + 800), (
        "their weights and gradients are copied"
    )
    assert flops.bank_bytes(delta, 5000.0, 3, 3) == 3 * 2000 + 3 * 5000
    assert flops.bank_bytes(delta, 900.0, 8, 1, alike=3) == 8 * 2000 + 3 * 800, "an evaluation copies the deltas"


def test_the_memory_of_a_bank_is_bounded_by_the_tokens_of_a_pass_and_a_gpu_passes_more(tmp_path):
    study = wide(tmp_path, "bert", compositions=("lora",), training=Recipe(steps=4, batch=16, limit=64))
    known = facts(study)
    on_cpu, on_gpu = (greediest(study, known, registry.parse, 16, gpu) for gpu in (False, True))
    assert 1 <= on_cpu.together < on_gpu.together == 16
    assert on_cpu.bytes < on_gpu.bytes
