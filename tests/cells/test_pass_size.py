"""How many tokens a pass of a bank holds: chosen from measured passes, never so that a bank is slower than in turn."""

from __future__ import annotations

import pytest
import torch

import deltacompose as dc
from deltacompose.backbone.pico import pico_backbone
from deltacompose.cells import calibration, pass_size
from deltacompose.cells.pass_size import largest, steps, tokens_of_pass
from deltacompose.composition import parse
from deltacompose.scoring import reader
from deltacompose.study.recipe import Recipe
from deltacompose.training import train
from deltacompose.training.learner import Job


def bank_steps(overhead, each, fits=10**9, beyond=0.0):
    """Seconds by deltas: an overhead, a time for each, and more for each beyond those that fit into the caches."""
    return {k: overhead + each * k + beyond * max(0, k - fits) for k in (1, 2, 4, 8, 16)}


def test_where_larger_banks_are_never_slower_the_largest_is_chosen():
    assert largest(bank_steps(1.0, 1.0)) == 16


def test_where_every_bank_is_slower_deltas_go_in_turn():
    assert largest({1: 1.0, 2: 2.5, 4: 6.0}) == 1


def test_a_bank_is_no_larger_than_what_pays():
    assert largest(bank_steps(1.0, 1.0, fits=4, beyond=3.0)) == 4


@pytest.mark.parametrize(
    "seconds",
    [bank_steps(1.0, 0.1), bank_steps(0.1, 1.0, 2, 2.0), bank_steps(0.0, 1.0, 8, 0.5), {k: k**1.2 for k in (1, 2, 4)}],
    ids=["overhead", "small caches", "large caches", "slower and slower"],
)
def test_the_chosen_bank_is_never_slower_than_its_deltas_in_turn(seconds):
    chosen = largest(seconds)
    assert seconds[chosen] <= chosen * seconds[1] * (1 + pass_size.TOLERANCE)


def test_steps_are_measured_once_for_a_data_type_a_width_and_a_size_of_batches(monkeypatch, tmp_path):
    monkeypatch.setenv("DELTACOMPOSE_CACHE", str(tmp_path))
    calls = []

    def seconds(deltas):
        calls.append(deltas)
        return 0.5 + deltas

    first = steps("float32", "cpu", 128, 256, seconds)
    assert first == {k: 0.5 + k for k in (1, 2, 4, 8, 16)}
    assert steps("float32", "cpu", 128, 256, seconds) == first
    assert len(calls) == 5
    steps("bfloat16", "cpu", 128, 256, seconds)
    steps("float32", "cpu", 256, 256, seconds)
    assert len(calls) == 15
    assert list(steps("float32", "cpu", 256, 2048, seconds)) == [1, 2], "a pass holds no more than the largest one"


def test_a_measurement_trains_banks_of_every_size(monkeypatch, tmp_path):
    monkeypatch.setenv("DELTACOMPOSE_CACHE", str(tmp_path))
    monkeypatch.setitem(pass_size.PASS_TOKENS, "cpu", 256)
    trained = []

    def timed(act, device, calls, warm):
        _, matrices, rows = act.args
        before = matrices.weights.clone()
        act()
        assert not torch.equal(before, matrices.weights)
        trained.append((len(matrices.weights), rows))
        return 10.0 * len(matrices.weights)

    monkeypatch.setattr(calibration, "timed", timed)
    state = torch.get_rng_state()
    assert steps("float32", "cpu", 64, 64) == {1: 10.0, 2: 20.0, 4: 40.0}
    assert trained == [(1, 2), (2, 2), (4, 2)] * pass_size.ROUNDS
    assert torch.equal(torch.get_rng_state(), state)


@pytest.fixture
def jobs():
    backbone = pico_backbone("bert")
    read = reader(backbone, dc.tasks()["sentiment_tweet"].limited(train=32, val=4, test=4), limit=32)
    recipe = Recipe(steps=4, batch=8, evaluate_every=2)
    return backbone, [Job(parse("bitfit", dc.methods()), read, seed, recipe) for seed in range(4)]


def test_one_delta_and_few_tokens_need_no_measurement(jobs, monkeypatch):
    def refused(*_):
        raise AssertionError("nothing is to be measured")

    monkeypatch.setattr(pass_size, "steps", refused)
    backbone, own = jobs
    assert tokens_of_pass(backbone, own[:1]) is None
    assert tokens_of_pass(backbone, own) is None, "16 steps are too few"
    monkeypatch.setattr(pass_size, "STEPS", 16)
    monkeypatch.setattr(pass_size, "LEAST", 100_000)
    assert tokens_of_pass(backbone, own) is None, "a pass of all of them is small"
    monkeypatch.setattr(pass_size, "LEAST", 256)
    with pytest.raises(AssertionError, match="nothing is to be measured"):
        tokens_of_pass(backbone, own)


def test_a_bank_passes_in_parts_of_the_measured_size(jobs, monkeypatch):
    backbone, own = jobs
    monkeypatch.setattr(pass_size, "STEPS", 16)
    monkeypatch.setattr(pass_size, "steps", lambda *_: {1: 1.0, 2: 3.0, 4: 9.0})
    alone = tokens_of_pass(backbone, own)
    assert alone < 2 * 8 * 32, "every bank is slower"
    monkeypatch.setattr(pass_size, "steps", lambda *_: {1: 1.0, 2: 1.5, 4: 2.0})
    assert tokens_of_pass(backbone, own) > 3 * alone
    widths = []
    handle = backbone.model.embeddings.register_forward_hook(lambda module, args, output: widths.append(len(output)))
    try:
        parts = train(backbone, own, budget=alone)
        in_turn, largest_pass = len(widths), max(widths)
        widths.clear()
        whole = train(backbone, own, budget=4096)
    finally:
        handle.remove()
    assert in_turn > len(widths)
    assert max(widths) > largest_pass
    for a, b in zip(parts, whole, strict=True):
        assert all(torch.allclose(x, b.weights[n], atol=1e-5) for n, x in a.weights.items())


def test_a_training_that_goes_on_keeps_the_size_of_its_passes(jobs):
    backbone, own = jobs
    kept = []

    class Checkpoints:
        def save(self, states):
            kept.append([(dict(tensors), dict(info)) for tensors, info in states])

        def load(self):
            return dict(enumerate(kept[0])) if kept else {}

    train(backbone, own, Checkpoints(), budget=300)
    assert {info["budget"] for _, info in kept[0]} == {300}
    begun = len(kept)
    train(backbone, own, Checkpoints(), budget=4096)
    assert {info["budget"] for _, info in kept[begun]} == {300}
