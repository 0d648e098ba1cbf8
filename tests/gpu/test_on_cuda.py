"""What must hold on a GPU as on a CPU: pico models, seconds; `make gpu` runs these."""

from __future__ import annotations

import pytest
import torch
from deltacompose_plugins.backbones import tables

import deltacompose as dc
from deltacompose.backbone.loading import load_backbone
from deltacompose.backbone.pico import pico, pico_backbone, pico_tokenizer
from deltacompose.scoring import reader
from deltacompose.task import Example, Task

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA")]

FAMILIES = ("llama", "gpt2", "t5", "bert")
EXPRESSIONS = ("lora(rank=2)", "prompt(length=3) + bitfit + adapter(bottleneck=4)", "prefix(length=2)")
LABELS = {"a": "no", "b": "yes, it is"}


def rows(split):
    return tuple(Example(f"{split}{k}", f"{k} {'sea ' * (k % 4)}{split}", "ab"[k % 2]) for k in range(16))


CHOICE = Task("state", "made", "choice", "accuracy", rows, "{input}?", LABELS)


def on_gpu(family, **options):
    """The pico backbone of a family, on the GPU."""
    model = pico(family).requires_grad_(False).to("cuda", **options)
    return load_backbone(model, pico_tokenizer(family), tables=tables())


@pytest.mark.parametrize("family", FAMILIES)
def test_scores_are_those_of_the_cpu(family):
    found = [reader(backbone, CHOICE) for backbone in (pico_backbone(family), on_gpu(family))]
    with torch.no_grad():
        cpu, gpu = (read.scores(read.rows("val")).cpu() for read in found)
    torch.testing.assert_close(gpu, cpu, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("expression", EXPRESSIONS)
@pytest.mark.parametrize("family", FAMILIES)
def test_training_ends_near_where_it_ends_on_the_cpu(family, expression):
    deltas = [
        dc.train(backbone, expression, CHOICE, steps=4, batch=4, keep="last")
        for backbone in (pico_backbone(family), on_gpu(family))
    ]
    for name, tensor in deltas[0].weights.items():
        torch.testing.assert_close(deltas[1].weights[name].cpu(), tensor, rtol=2e-2, atol=2e-3)


@pytest.mark.parametrize("family", ["llama", "t5"])
def test_bfloat16_agrees_with_float32(family):
    found = [reader(on_gpu(family, dtype=dtype), CHOICE) for dtype in (torch.float32, torch.bfloat16)]
    with torch.no_grad():
        exact, rounded = (read.scores(read.rows("val")).float() for read in found)
    torch.testing.assert_close(rounded, exact, rtol=0.1, atol=0.5)


def test_detaching_frees_the_memory_of_a_delta():
    backbone = on_gpu("llama")
    weights = dc.init_weights(backbone, "lora")
    before = torch.cuda.memory_allocated()
    with dc.attached(backbone, "lora", {name: x.cuda() for name, x in weights.items()}):
        pass
    torch.cuda.synchronize()
    assert torch.cuda.memory_allocated() <= before
