"""What a delta costs in use is measured attached and, where it can be, merged."""

from __future__ import annotations

import pytest
import torch

import deltacompose as dc
from deltacompose.backbone.pico import pico_backbone
from deltacompose.cells.use_cost import cost_of_use, operations
from deltacompose.scoring import reader
from deltacompose.task import Example, Task

LABELS = {"a": "no", "b": "yes"}


def rows(split):
    return tuple(Example(f"{split}{k}", f"{k} {'sea ' * (k % 4)}{split}", "ab"[k % 2]) for k in range(20))


CHOICE = Task("state", "made", "choice", "accuracy", rows, "{input}?", LABELS)


def test_operations_are_those_of_matrix_products():
    a, b = torch.ones(3, 4), torch.ones(4, 5)
    assert operations(lambda: a @ b) == 2 * 3 * 4 * 5


@pytest.mark.parametrize(("family", "expression"), [("llama", "lora(rank=2)"), ("bert", "lora(rank=2)")])
def test_a_delta_that_can_be_merged_is_measured_both_ways(family, expression):
    backbone = pico_backbone(family)
    delta = dc.train(backbone, expression, CHOICE, steps=1, batch=2)
    found = cost_of_use(reader(backbone, CHOICE), delta)
    latencies = {f"{kind}latency_{size}" for kind in ("", "merged_") for size in (1, 16)}
    assert set(found) == {"inference_operations", "extra_operations", *latencies}
    assert all(found[name] > 0 for name in latencies)
    assert found["inference_operations"] > found["extra_operations"] > 0


def test_a_prompt_costs_the_operations_of_its_tokens_and_is_not_merged():
    backbone = pico_backbone("llama")
    costs = [
        cost_of_use(reader(backbone, CHOICE), dc.train(backbone, f"prompt(length={n})", CHOICE, steps=1, batch=2))
        for n in (4, 8)
    ]
    assert 0 < costs[0]["extra_operations"] < costs[1]["extra_operations"]
    assert not any(name.startswith("merged") for name in costs[0])
