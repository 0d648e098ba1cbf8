"""Training: what a delta becomes depends on its job alone, not on its bank, an interruption or how memory is saved."""

from __future__ import annotations

import functools
import json
from typing import Any

import pytest
import torch

from deltacompose import plugins
from deltacompose.backbone import Backbone
from deltacompose.backbone.pico import pico_backbone
from deltacompose.checks.batches import batch, forward, tiny
from deltacompose.checks.detaching import snapshot
from deltacompose.checks.gradients import distance
from deltacompose.composition import Composition, parse
from deltacompose.delta import Delta
from deltacompose.errors import BadInput, Diverged
from deltacompose.scoring import reader
from deltacompose.study.recipe import Recipe
from deltacompose.training import evaluate, train
from deltacompose.training.learner import Job, Learner

METHODS = plugins.load(disabled=True).methods
FAMILIES = ("t5", "bert", "gpt2", "llama")
MIXED = "prompt(length=3) + prefix(length=2, mlp=4) + lora(rank=2, dropout=0.2) + bitfit + adapter(bottleneck=3)"
every_family = pytest.mark.parametrize("family", FAMILIES)

shared = functools.cache(pico_backbone)


def read(text: str) -> Composition:
    return parse(text, METHODS)


def job(family: str, text: str, seed: int = 0, earlier: Delta | None = None, **recipe: Any) -> Job:
    given = {"steps": 6, "batch": 4, "evaluate_every": 2, "keep": "last", **recipe}
    return Job(read(text), reader(shared(family), tiny()), seed, Recipe(**given), earlier)


def trained(*jobs: Job, **how: Any) -> list[Delta]:
    deltas = train(jobs[0].reader.backbone, jobs, **how)
    for delta in deltas:
        if isinstance(delta, Exception):
            raise delta
    return deltas


def equal(a: Delta, b: Delta) -> bool:
    return a.weights.keys() == b.weights.keys() and all(torch.equal(x, b.weights[n]) for n, x in a.weights.items())


def nearly_equal(a: Delta, b: Delta, most: float = 1e-5) -> bool:
    return all(distance(x, b.weights[n], 1e-2) < most for n, x in a.weights.items())


def acts_alike(backbone: Backbone, a: Delta, b: Delta) -> bool:
    """Whether two deltas are one function but for rounding.

    Their weights may differ more: Adam scales rounding up where a gradient is zero in exact arithmetic, as that of the
    bias of an attention's keys.
    """
    return distance(output(backbone, a), output(backbone, b), 1e-2) < 1e-4


def told(delta: Delta) -> list[Any]:
    return [[point[name] for name in ("step", "score")] for point in delta.record["history"]]


# Banks


@every_family
def test_the_size_of_the_bank_changes_nothing_but_rounding(family):
    jobs = [job(family, MIXED, seed, steps=4, evaluate_every=4) for seed in range(4)]
    alone = [trained(one)[0] for one in jobs]
    pairs = [*trained(*jobs[:2]), *trained(*jobs[2:])]
    for deltas in (pairs, trained(*jobs)):
        for found, expected in zip(deltas, alone, strict=True):
            assert told(found) == told(expected)
            assert found.record["tokens"] == expected.record["tokens"]
            assert acts_alike(shared(family), found, expected)
    assert not acts_alike(shared(family), alone[0], alone[1])


def test_what_fits_into_one_pass_changes_nothing_but_rounding():
    jobs = [job("bert", MIXED, seed) for seed in range(3)]
    for few, many in zip(trained(*jobs, budget=1), trained(*jobs, budget=10**6), strict=True):
        assert acts_alike(shared("bert"), few, many)


def test_deltas_with_weights_where_a_bank_cannot_act_train_one_at_a_time():
    """T5's bias of relative positions is looked up once for all rows."""
    text = "masked(criterion='magnitude', places=('attention.positions', 'ffn.up'), fraction=0.5)"
    jobs = [job("t5", text, seed) for seed in range(3)]
    for found, one in zip(trained(*jobs), jobs, strict=True):
        assert equal(found, trained(one)[0])


@every_family
def test_a_delta_that_diverges_fails_alone(family):
    good = [job(family, "lora(rank=2) + bitfit", seed) for seed in range(3)]
    bad = job(family, "lora(rank=2) + bitfit", 7, learning_rates={"lora": 1e30, "bitfit": 1e30})
    found = train(shared(family), [good[0], bad, *good[1:]])
    failure = found.pop(1)
    assert isinstance(failure, Diverged)
    assert "lora(rank=2) + bitfit on tiny, seed 7: loss" in str(failure)
    assert "try a lower learning rate" in str(failure)
    for delta, expected in zip(found, trained(*good), strict=True):
        assert nearly_equal(delta, expected)


def test_a_delta_that_diverges_in_its_last_step_is_no_delta():
    """Its loss was finite; what it has become is not."""
    [wild] = train(shared("bert"), [job("bert", "bitfit", learning_rates={"bitfit": 1e30}, steps=1)])
    assert isinstance(wild, Diverged)
    assert "bitfit on tiny, seed 0: the scores of candidates are not numbers at step 1" in str(wild)


def test_weights_that_are_no_longer_finite_are_not_kept():
    """A task of generation has no scores of candidates that would tell."""
    learner = Learner(shared("bert"), job("bert", "bitfit"))
    with torch.no_grad():
        next(iter(learner.weights.values())).fill_(torch.inf)
    learner.evaluated(1.0)
    assert "0.0.embedding.norm.bias is not finite at step 0" in str(learner.failure)
    assert learner.best is None


# Interruption


class Kept:
    """Checkpoints in memory, which stop the training after some of them."""

    def __init__(self, until: int = 10**6) -> None:
        self.states: dict[int, Any] = {}
        self.until = until

    def save(self, states: Any) -> None:
        if self.until == 0:
            raise KeyboardInterrupt
        self.until -= 1
        for index, (tensors, info) in enumerate(states):
            self.states[index] = ({n: x.clone() for n, x in tensors.items()}, json.loads(json.dumps(info)))

    def load(self) -> Any:
        return self.states


@pytest.mark.parametrize(
    ("family", "text", "until", "keep"),
    [
        ("t5", MIXED, 2, "last"),
        ("bert", "masked(criterion='magnitude', reselect=2)", 2, "last"),
        ("gpt2", "diff_pruning", 2, "last"),
        ("llama", "lora >> adapter", 3, "last"),
        ("bert", MIXED, 1, "best"),
    ],
)
def test_training_that_is_interrupted_goes_on_to_the_same_bits(family, text, until, keep):
    earlier = trained(job(family, "lora"))[0] if ">>" in text else None
    jobs = [job(family, text, seed, earlier, keep=keep) for seed in range(2)]
    whole, kept = trained(*jobs), Kept(until)
    before = snapshot(shared(family).model)
    with pytest.raises(KeyboardInterrupt):
        train(shared(family), jobs, checkpoints=kept)
    assert before.difference(snapshot(shared(family).model)) == ""
    kept.until = 10**6
    for found, expected in zip(trained(*jobs, checkpoints=kept), whole, strict=True):
        assert equal(found, expected)
        assert told(found) == told(expected)
        assert found.constants.keys() == expected.constants.keys()
        assert all(torch.equal(x, expected.constants[n]) for n, x in found.constants.items())


def test_a_delta_that_has_diverged_stays_so_and_its_neighbours_go_on_to_the_same_bits():
    jobs = [job("bert", "lora", seed) for seed in range(3)]
    jobs[1] = job("bert", "lora", 1, learning_rates={"lora": 1e30}, clip=1e30)
    whole, kept = train(shared("bert"), jobs), Kept(2)
    with pytest.raises(KeyboardInterrupt):
        train(shared("bert"), jobs, checkpoints=kept)
    assert kept.states[1][1].keys() == {"failure", "budget"}
    kept.until = 10**6
    found = train(shared("bert"), jobs, checkpoints=kept)
    assert str(found[1]) == str(whole[1])
    assert equal(found[0], whole[0])
    assert equal(found[2], whole[2])


def test_one_that_is_behind_catches_up_without_changing_what_its_neighbours_become():
    jobs = [job("bert", "lora", seed) for seed in range(3)]
    ahead = trained(*jobs[:2])
    kept, later = Kept(1), Kept(2)
    for some, checkpoints in ((jobs, kept), (jobs[:2], later)):
        with pytest.raises(KeyboardInterrupt):
            train(shared("bert"), some, checkpoints=checkpoints)
    together = Kept()
    together.states = {**later.states, 2: kept.states[2]}
    found = trained(*jobs, checkpoints=together)
    assert equal(found[0], ahead[0])
    assert equal(found[1], ahead[1])
    assert nearly_equal(found[2], trained(jobs[2])[0])


def test_training_that_was_finished_is_read_back_without_a_step():
    kept = Kept()
    [first] = trained(job("bert", "lora"), checkpoints=kept)
    [again] = trained(job("bert", "lora"), checkpoints=kept)
    assert equal(first, again)
    assert first.record["history"] == again.record["history"]


# Memory


@every_family
def test_recomputing_activations_changes_no_delta_and_leaves_no_trace(family):
    before = snapshot(shared(family).model)
    [found] = trained(job(family, MIXED, checkpointing=True))
    assert before.difference(snapshot(shared(family).model)) == ""
    [expected] = trained(job(family, MIXED))
    assert told(found) == told(expected)
    assert nearly_equal(found, expected, 1e-4)


# Stages


def output(backbone: Backbone, delta: Delta) -> torch.Tensor:
    with delta.attached(backbone), torch.no_grad():
        return forward(backbone, batch(backbone, 0))


@every_family
def test_a_stage_starts_where_the_trained_ones_left_off_and_leaves_them_as_they_were(family):
    backbone = shared(family)
    [first] = trained(job(family, "prefix(length=2, mlp=3) + lora"))
    text = "prefix(length=2, mlp=3) + lora >> adapter + bitfit"
    [start] = trained(job(family, text, 0, first, steps=0))
    assert torch.equal(output(backbone, start), output(backbone, first))
    [second] = trained(job(family, text, 0, first))
    for name, x in first.weights.items():
        assert torch.equal(second.weights[name], x)
    assert any(not torch.equal(x, start.weights[n]) for n, x in second.weights.items())
    assert second.record["parameters"] == sum(x.numel() for n, x in second.weights.items() if n.startswith("1."))


def test_thawed_stages_go_on_training():
    [first] = trained(job("bert", "lora"))
    [second] = trained(job("bert", "lora >> bitfit", 0, first, thaw=True))
    assert not any(torch.equal(second.weights[n], x) for n, x in first.weights.items() if n.endswith("up"))
    assert second.record["parameters"] == sum(x.numel() for x in second.weights.values())


def test_the_best_checkpoint_is_the_earliest_of_equals():
    [best] = trained(job("bert", "lora", keep="best", steps=8))
    scores = [point["score"] for point in best.record["history"]]
    assert best.record["dev"] == max(scores)
    [until_then] = trained(job("bert", "lora", keep="best", steps=8, evaluate_every=2))
    first = scores.index(max(scores))
    if first == 0:
        assert all(not x.any() for n, x in until_then.weights.items() if n.endswith("up"))
    assert equal(best, until_then)


def test_a_delta_says_what_it_was_trained_on_and_is_refused_elsewhere():
    [delta] = trained(job("gpt2", "bitfit"))
    assert delta.record["task"] == "tiny"
    assert 0 < delta.record["ratio"] < 1
    with pytest.raises(BadInput, match=r"this delta of bitfit was trained on .*, not on"):
        evaluate(reader(shared("llama"), tiny()), delta, "val")


def test_an_evaluation_is_the_same_for_whatever_is_trained_in_between():
    backbone = shared("t5")
    [delta] = trained(job("t5", "lora"))
    first = evaluate(reader(backbone, tiny()), delta, "test")
    trained(job("t5", "full", checkpointing=True))
    assert evaluate(reader(backbone, tiny()), delta, "test") == first
