"""All sources on a few examples: one banked pass per batch, with the scores that each delta has alone."""

import pytest
import torch

import deltacompose as dc
from deltacompose.backbone.pico import pico_backbone
from deltacompose.delta.delta import Delta
from deltacompose.library.banked import few_example_scores
from deltacompose.scoring import reader
from deltacompose.task.examples import Example
from deltacompose.task.task import Task
from deltacompose.training.evaluation import evaluate

FAMILIES = ("bert", "gpt2", "t5")


def task(kind="choice", rows=12):
    words = ("bad", "good")

    def read(split):
        return tuple(Example(f"{split}-{k}", f"row {k} {words[k % 2]} text", words[k % 2]) for k in range(rows))

    labels = {word: word for word in words} if kind == "choice" else {}
    metric = "accuracy" if kind == "choice" else "exact_match"
    return Task("few", "mood", kind, metric, read, verbalizer=labels)


def deltas_of(backbone, text, count):
    expression, deltas = dc.parse(text), []
    for seed in range(count):
        source = torch.Generator().manual_seed(seed)
        start = dc.init_weights(backbone, expression, seed)
        weights = {n: x + torch.randn(x.shape, generator=source) for n, x in start.items()}
        made = {"name": backbone.name, "family": backbone.family, "fingerprint": backbone.fingerprint}
        deltas.append(Delta(expression, weights, {}, made))
    return deltas


def passes(backbone, act):
    """How many passes through the backbone's stacks an act makes."""
    count = 0

    def counted(*_):
        nonlocal count
        count += 1

    layer = backbone.module(backbone.places("layer")[0])
    handle = layer.register_forward_hook(counted)
    try:
        act()
    finally:
        handle.remove()
    return count


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("text", ["lora(rank=2)", "bitfit + adapter(bottleneck=2)", "prompt(length=2)"])
def test_scores_are_those_of_each_delta_alone(family, text):
    backbone = pico_backbone(family)
    read, deltas = reader(backbone, task()), deltas_of(backbone, text, 5)
    found = few_example_scores(read, [None, *deltas])
    alone = [evaluate(read, delta, "train").score for delta in (None, *deltas)]
    assert [score.per_example for score in found] == [score.per_example for score in alone]


@pytest.mark.parametrize("family", FAMILIES)
def test_so_many_sources_pass_together_and_not_one_after_another(family):
    backbone = pico_backbone(family)
    read, deltas = reader(backbone, task(rows=4)), deltas_of(backbone, "lora(rank=2)", 12)
    few_example_scores(read, deltas)  # what is shown once of a method passes before
    one = passes(backbone, lambda: few_example_scores(read, deltas[:1]))
    together = passes(backbone, lambda: few_example_scores(read, deltas))
    assert one <= together <= 2 * one  # 12 deltas, in one pass for each batch that the budget of tokens allows


def test_deltas_of_several_compositions_are_banked_apart():
    backbone = pico_backbone("bert")
    read = reader(backbone, task())
    deltas = [*deltas_of(backbone, "lora(rank=2)", 2), None, *deltas_of(backbone, "bitfit", 2)]
    found = few_example_scores(read, deltas)
    assert [s.value for s in found] == [evaluate(read, delta, "train").score.value for delta in deltas]


@pytest.mark.parametrize("family", ["gpt2", "t5"])
def test_generated_answers_are_those_of_each_delta_alone(family):
    backbone = pico_backbone(family)
    read, deltas = reader(backbone, task("generation", rows=4)), deltas_of(backbone, "lora(rank=2)", 3)
    found = few_example_scores(read, deltas)
    assert found == [evaluate(read, delta, "train").score for delta in deltas]


def test_what_no_bank_can_hold_passes_alone():
    backbone = pico_backbone("bert")
    read, deltas = reader(backbone, task()), deltas_of(backbone, "full(places=('*attention.query',))", 2)
    found = few_example_scores(read, deltas)
    assert [s.value for s in found] == [evaluate(read, delta, "train").score.value for delta in deltas]
