"""The best candidate is the one that scoring every candidate gives, for fewer tokens."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from passes import backbone_of

import deltacompose as dc
from deltacompose.attach import attach
from deltacompose.errors import Diverged
from deltacompose.scoring import reader
from deltacompose.scoring.rows import Row
from deltacompose.task import Example, Task

TEXTS = ["a", "the sea", "it rains again", "dry", "cold and wet days", "x y"]
FAMILIES = ["t5", "bart", "gpt2", "llama"]


def task_of(labels):
    names = list(labels)
    rows = tuple(Example(str(k), text, names[k % len(names)]) for k, text in enumerate(TEXTS))
    return Task("words", "made", "choice", "accuracy", lambda split: rows, "{input} is", labels)


LONG = task_of({"low": "low", "mid": "mid", "top": "top"})
SHORT = task_of({"a": "a", "b": "b", "c": "c"})


def drawn(backbone, text, seed, scale=0.3):
    source = torch.Generator().manual_seed(seed)
    return {n: scale * torch.randn(x.shape, generator=source) for n, x in dc.init_weights(backbone, text).items()}


def tokens_read(backbone, act):
    """How many tokens pass the last stack's first layer while something is done."""
    stack = backbone.streams[-1]
    layer = next(place for place in backbone.places("layer") if place.stack == stack and place.layer == 0)
    counts = []

    def count(module, args, kwargs, output):
        states = args[0] if args else kwargs["hidden_states"]
        counts.append(states.shape[0] * states.shape[1])

    handle = backbone.module(layer).register_forward_hook(count, with_kwargs=True)
    try:
        act()
    finally:
        handle.remove()
    return sum(counts)


@pytest.mark.parametrize("task", [LONG, SHORT], ids=["several tokens", "one token"])
@pytest.mark.parametrize("text", ["bitfit", "prompt(length=2) + prefix(length=2) + lora(rank=2)"])
@pytest.mark.parametrize("family", FAMILIES)
def test_the_best_candidate_is_that_of_all_scores(family, text, task):
    backbone = backbone_of(family)
    read = reader(backbone, task, 64)
    rows = read.rows("test")
    for seed in range(3):
        with torch.no_grad(), dc.attached(backbone, text, drawn(backbone, text, seed)):
            assert read.rank(rows) == read.scores(rows).argmax(-1).tolist()


@pytest.mark.parametrize("family", ["t5", "gpt2"])
def test_a_bank_ranks_as_its_deltas_do_alone(family):
    backbone, text = backbone_of(family), "bitfit"
    read = reader(backbone, LONG, 64)
    rows, weights = read.rows("test"), [drawn(backbone, text, seed, 1.0) for seed in range(4)]
    alone = []
    for own in weights:
        with torch.no_grad(), dc.attached(backbone, text, own):
            alone += read.rank(rows)
    assert len(set(alone)) > 1, "deltas that answer alike show nothing"
    attachment = attach(backbone, dc.parse(text))
    try:
        attachment.put(weights)
        with torch.no_grad():
            assert read.rank(rows, deltas=4) == alone
    finally:
        attachment.detach()


def test_a_sure_answer_costs_two_tokens_a_row():
    """Where the end is certain behind every label, as behind those of a trained delta, one candidate is scored."""
    backbone = backbone_of("t5")
    read = reader(backbone, SHORT, 64)
    rows, end = read.rows("test"), read.answer_tokens("a")[-1]
    head = backbone.module(next(place for place in backbone.places() if place.kind == "head"))
    labels = {candidate[0] for row in rows for candidate in row.candidates}

    def end_behind_labels(module, args, output):
        if not reading_inputs[0]:
            output = output.clone()
            output[..., end] += 1e4
        return output

    begin, reading_inputs = read.begin, [False]

    def noted(rows):
        reading_inputs[0] = True
        start = begin(rows)
        reading_inputs[0] = False
        return start

    read.begin = noted
    handle = head.register_forward_hook(end_behind_labels)
    try:
        with torch.no_grad():
            answered = tokens_read(backbone, lambda: read.rank(rows))
            inputs = tokens_read(backbone, lambda: noted(rows))
    finally:
        handle.remove()
        del read.begin
    assert len(labels) == 3
    assert answered == inputs + len(rows)


def test_a_row_that_stays_open_is_decided_by_all_of_its_candidates():
    """The first tokens favour the first candidate, and its end is improbable: the bound must not decide."""
    backbone = backbone_of("gpt2")
    read = reader(backbone, SHORT, 64)
    [row, *_] = read.rows("test")
    ahead = replace(row, candidates=tuple((*c[:1], *c) for c in row.candidates[:1]) + row.candidates[1:])
    with torch.no_grad():
        assert read.rank([ahead]) == read.scores([ahead]).argmax(-1).tolist()


def test_equal_candidates_give_the_first_of_them():
    backbone = backbone_of("gpt2")
    read = reader(backbone, SHORT, 64)
    row = read.rows("test")[0]
    twice = Row(row.input, row.answer, (row.candidates[1], row.candidates[1], row.candidates[1]), 0)
    with torch.no_grad():
        assert read.rank([twice]) == [0]


def test_scores_that_are_no_numbers_are_reported():
    backbone = backbone_of("t5")
    weights = {n: torch.full_like(x, torch.nan) for n, x in dc.init_weights(backbone, "bitfit").items()}
    with dc.attached(backbone, "bitfit", weights), pytest.raises(Diverged, match="are not numbers"):
        reader(backbone, SHORT, 64).predict("test")
