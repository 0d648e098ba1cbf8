"""The flat training step in counts that no machine's speed changes: operations, padding, gradients."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from transformers import T5Config, T5ForConditionalGeneration

import deltacompose as dc
from deltacompose.attach import attach
from deltacompose.backbone.pico import pico_backbone, pico_tokenizer
from deltacompose.checks.batches import tiny
from deltacompose.composition import parse
from deltacompose.scoring import reader
from deltacompose.study.recipe import Recipe
from deltacompose.training import frozen, learn
from deltacompose.training.flat import Layout, Matrices
from deltacompose.training.learner import Job, Learner


class Operations(TorchDispatchMode):
    """Counts the operations that reach the dispatcher."""

    def __init__(self) -> None:
        super().__init__()
        self.counts: Counter[str] = Counter()

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.counts[str(function)] += 1
        return function(*args, **(kwargs or {}))


@pytest.fixture(scope="module")
def small_t5():
    """A T5 of four and four layers of width 128 with random weights."""
    torch.manual_seed(0)
    tokenizer = pico_tokenizer("t5")
    sizes = {"d_model": 128, "d_kv": 32, "d_ff": 512, "num_layers": 4, "num_decoder_layers": 4, "num_heads": 4}
    config = T5Config(vocab_size=max(1000, len(tokenizer)), decoder_start_token_id=0, **sizes)
    return dc.load_backbone(T5ForConditionalGeneration(config).eval(), tokenizer)


def operations_of_a_step(backbone, text, deltas):
    read = reader(backbone, tiny())
    expression = parse(text, dc.methods())
    recipe = Recipe(steps=8, batch=4, warmup=0.0)
    learners = [Learner(backbone, Job(expression, read, seed, recipe)) for seed in range(deltas)]
    lengths = (max(one.lengths[0] for one in learners), max(one.lengths[1] for one in learners))
    attachment = attach(backbone, expression)
    try:
        with frozen(backbone.model):
            group = [(learner, learner.batch(lengths)) for learner in learners]
            learn(attachment, group)
            with Operations() as seen:
                learn(attachment, group)
    finally:
        attachment.detach()
    return sum(seen.counts.values())


@pytest.mark.parametrize(("text", "most"), [("lora", 2150), ("bitfit", 1800), ("prompt + bitfit + adapter", 2600)])
def test_a_step_of_one_delta_dispatches_fewer_operations_than_pefts(small_t5, text, most):
    """peft's bare loop dispatches 2618 for LoRA; the bare pass of this model and its gradient take 1451."""
    assert operations_of_a_step(small_t5, text, 1) <= most


@pytest.mark.parametrize(("text", "most"), [("lora", 132), ("bitfit", 148), ("prompt + bitfit + adapter", 250)])
def test_a_bank_of_sixteen_shares_its_operations(small_t5, text, most):
    assert operations_of_a_step(small_t5, text, 16) / 16 <= most


def test_a_batch_is_padded_to_its_longest_row_and_no_further():
    read = reader(pico_backbone("t5"), dc.tasks()["sentiment_tweet"].limited(train=256, val=1, test=1), limit=64)
    learner = Learner(read.backbone, Job(parse("bitfit", dc.methods()), read, 0, Recipe(steps=60, batch=8)))
    padded = real = 0
    for indices, (longest, answer) in learner.batches:
        rows = [read.rows("train")[index] for index in indices]
        assert longest == max(len(row.input) for row in rows)
        assert answer == max(len(row.answer) for row in rows)
        padded += len(rows) * longest
        real += sum(len(row.input) for row in rows)
    assert padded / real <= 1.12


def test_rows_hold_the_tensors_of_each_delta_apart():
    tensors = [{"a": torch.full((2, 3), float(k)), "b": torch.arange(4.0) + k} for k in range(3)]
    matrices = Matrices.of(tensors, torch.device("cpu"))
    assert matrices.weights.shape == (3, 10)
    for name, leaf in matrices.leaves().items():
        assert leaf.is_leaf
        assert leaf.requires_grad
        assert torch.equal(leaf, torch.stack([each[name] for each in tensors]))
    matrices.take_gradients([torch.ones(3, 2, 3), None])
    assert torch.equal(matrices.gradients, torch.cat([torch.ones(3, 6), torch.zeros(3, 4)], 1))
    matrices.take_gradients([torch.full((1, 2, 3), 5.0), torch.full((1, 4), 6.0)], rows=[1])
    assert torch.equal(matrices.gradients[1], torch.tensor([5.0] * 6 + [6.0] * 4))
    assert torch.equal(matrices.gradients[0], torch.cat([torch.ones(6), torch.zeros(4)]))


def test_a_span_is_the_columns_of_a_prefix():
    layout = Layout({"0.0.x": torch.Size([2]), "0.0.y": torch.Size([3]), "0.1.x": torch.Size([4])})
    assert layout.size == 9
    assert layout.span("0.0.") == slice(0, 5)
    assert layout.span("0.1.") == slice(5, 9)
    assert {name: view.shape for name, view in layout.views(torch.zeros(7, 9)).items()} == {
        "0.0.x": (7, 2),
        "0.0.y": (7, 3),
        "0.1.x": (7, 4),
    }
