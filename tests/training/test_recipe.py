"""The recipe in numbers: the rate over the steps, each delta's own clipping, AdamW's formula with decoupled decay."""

from __future__ import annotations

import functools
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from deltacompose import plugins
from deltacompose.backbone.pico import pico_backbone
from deltacompose.checks.batches import tiny
from deltacompose.composition import parse
from deltacompose.scoring import reader
from deltacompose.study.recipe import Recipe
from deltacompose.training import loop, train
from deltacompose.training.learner import Job, Learner

METHODS = plugins.load(disabled=True).methods
NEVER = 1e30
"""A norm that no gradient is clipped to."""

shared = functools.cache(pico_backbone)


def job(seed: int = 0, text: str = "lora(rank=2) + adapter(bottleneck=3)", **recipe: Any) -> Job:
    given_ = {"steps": 4, "batch": 4, "evaluate_every": 4, "keep": "last", "warmup": 0.0, **recipe}
    return Job(parse(text, METHODS), reader(shared("bert"), tiny()), seed, Recipe(**given_))


# The learning rate


def test_the_rate_rises_to_its_peak_at_the_end_of_warmup_and_falls_to_nothing_after_the_last_step():
    """A fifth of 50 steps rises, by a tenth of the peak each; the other 40 fall, by a fortieth each."""
    factors = [Recipe(steps=50, warmup=0.2).factor(step) for step in range(51)]
    assert factors[:10] == pytest.approx([(step + 1) / 10 for step in range(10)])
    assert factors[9] == factors[10] == 1.0
    assert factors[10:] == pytest.approx([(50 - step) / 40 for step in range(10, 51)])
    assert factors[49] == pytest.approx(1 / 40)  # the last step that is taken still learns
    assert factors[50] == 0.0


@pytest.mark.parametrize(
    ("warmup", "expected"), [(0.0, [1.0, 0.75, 0.5, 0.25]), (1.0, [0.25, 0.5, 0.75, 1.0]), (0.5, [0.5, 1.0, 1.0, 0.5])]
)
def test_the_rate_without_warmup_only_falls_and_with_nothing_else_only_rises(warmup, expected):
    recipe = Recipe(steps=4, warmup=warmup)
    assert [recipe.factor(step) for step in range(4)] == expected


@given(steps=st.integers(1, 500), warmup=st.floats(0, 1))
def test_the_rate_is_positive_and_at_most_its_peak_and_rises_and_then_falls(steps, warmup):
    factors = [Recipe(steps=steps, warmup=warmup).factor(step) for step in range(steps)]
    assert all(0 < one <= 1 for one in factors)
    top = factors.index(max(factors))
    assert factors[: top + 1] == sorted(factors[: top + 1])
    assert factors[top:] == sorted(factors[top:], reverse=True)


# Clipping and the optimiser's step


class Seen:
    """What each delta's optimiser was given: gradients after clipping, weights before and after, at every step."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.raw: dict[int, list[list[Tensor]]] = {}
        self.used: dict[int, list[list[Tensor]]] = {}
        self.weights: dict[int, list[list[Tensor]]] = {}
        advance = loop.advance

        def noted(learners: Any, losses: Tensor) -> None:
            # A gradient is clipped in place, so it is copied first.
            for learner in learners:
                before = [x.detach().clone() for x in learner.weights.values()]
                self.raw.setdefault(learner.job.seed, []).append([x.clone() for x in learner.gradients.values()])
                self.weights.setdefault(learner.job.seed, [before])
            advance(learners, losses)
            for learner in learners:
                self.used.setdefault(learner.job.seed, []).append([x.clone() for x in learner.gradients.values()])
                self.weights[learner.job.seed].append([x.detach().clone() for x in learner.weights.values()])

        monkeypatch.setattr(loop, "advance", noted)


def norm(tensors: list[Tensor]) -> float:
    return float(torch.cat([x.flatten() for x in tensors]).norm())


def test_each_delta_of_a_bank_is_clipped_by_the_norm_of_its_own_gradient(monkeypatch):
    """One is clipped to a hundredth, one to ten times its norm (not at all), and one not: none by the norm of all."""
    with pytest.MonkeyPatch.context() as patched:
        free = Seen(patched)
        train(shared("bert"), [job(seed, steps=1, clip=NEVER) for seed in range(3)])
    norms = [norm(free.raw[seed][0]) for seed in range(3)]
    seen = Seen(monkeypatch)
    clips = [norms[0] / 100, norms[1] * 10, NEVER]
    train(shared("bert"), [job(seed, steps=1, clip=clip) for seed, clip in enumerate(clips)])
    assert norm(seen.used[0][0]) == pytest.approx(clips[0], rel=1e-3)
    for found, whole in zip(seen.used[0][0], seen.raw[0][0], strict=True):
        torch.testing.assert_close(found, whole / 100, rtol=1e-3, atol=1e-9)
    for seed in (1, 2):
        assert all(map(torch.equal, seen.used[seed][0], seen.raw[seed][0]))


@pytest.mark.parametrize("decay", [0.0, 0.3])
def test_training_is_adamw_with_decoupled_decay_clipping_and_the_schedule(monkeypatch, decay):
    """Loshchilov and Hutter 2019 (arXiv 1711.05101, algorithm 2), written out in double precision."""
    seen = Seen(monkeypatch)
    one = job(text="lora(rank=2)", steps=5, warmup=0.4, clip=0.01, weight_decay=decay, learning_rates={"lora": 0.1})
    [delta] = train(shared("bert"), [one])
    assert not isinstance(delta, Exception)
    first, second, epsilon = 0.9, 0.999, 1e-8
    theta = [x.double() for x in seen.weights[0][0]]
    m, v = ([torch.zeros_like(x) for x in theta] for _ in range(2))
    for step, gradients in enumerate(seen.raw[0]):
        scale = min(1.0, 0.01 / (norm(gradients) + 1e-6))
        rate = 0.1 * one.recipe.factor(step)
        for k, raw in enumerate(gradients):
            g = raw.double() * scale
            m[k] = first * m[k] + (1 - first) * g
            v[k] = second * v[k] + (1 - second) * g**2
            corrected, squared = m[k] / (1 - first ** (step + 1)), v[k] / (1 - second ** (step + 1))
            theta[k] = theta[k] - rate * corrected / (squared.sqrt() + epsilon) - rate * decay * theta[k]
        for x, expected in zip(seen.weights[0][step + 1], theta, strict=True):
            torch.testing.assert_close(x.double(), expected, rtol=1e-4, atol=1e-6)
        theta = [x.double() for x in seen.weights[0][step + 1]]
    assert len(seen.raw[0]) == 5


def test_weight_decay_shrinks_what_has_no_gradient():
    """Decay that went by way of the gradient would be scaled by Adam to the learning rate, whatever the weight is."""
    learner = Learner(shared("bert"), job(text="bitfit", steps=1, weight_decay=0.5, learning_rates={"bitfit": 0.1}))
    with torch.no_grad():
        for x in learner.weights.values():
            x.fill_(2.0)
    learner.learn(torch.tensor(1.0), [torch.zeros_like(x) for x in learner.weights.values()])
    assert all(torch.allclose(x, torch.full_like(x, 2.0 * (1 - 0.1 * 0.5))) for x in learner.weights.values())
