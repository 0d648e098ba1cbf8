"""Ranking rules are lm-evaluation-harness's formulas, on likelihoods that are computed the long way."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from onerow import log_probability

import deltacompose as dc
from deltacompose.backbone.pico import pico_backbone
from deltacompose.errors import BadInput
from deltacompose.scoring import reader
from deltacompose.scoring.ranking import ranked
from deltacompose.task import Example, Task
from deltacompose.task.build import task_from_mapping
from deltacompose.task.description import RANKINGS

ANSWERS = {"a": "no", "b": "not at all, never", "c": "höchstens ein wenig"}
TEXTS = ["the sea", "a", "it rains again", "cold and wet days"]


def rows(split):
    return tuple(Example(f"{split}{k}", text + split, list(ANSWERS)[k % 3]) for k, text in enumerate(TEXTS))


CHOICE = Task("degree", "made", "choice", "accuracy", rows, "{input} is it?", ANSWERS)


def harness(lls, choices, unconditional):
    """Predictions by `acc`, `acc_norm` (per character), `acc_bytes` and `acc_mutual_info` as the harness makes them."""
    lls = np.array(lls)
    completion_len = np.array([float(len(choice)) for choice in choices])
    byte_length = np.array([float(len(choice.encode("utf-8"))) for choice in choices])
    return {
        "acc": int(np.argmax(lls)),
        "acc_norm": int(np.argmax(lls / completion_len)),
        "acc_bytes": int(np.argmax(lls / byte_length)),
        "acc_mutual_info": int(np.argmax(lls - np.array(unconditional))),
    }


@given(st.lists(st.tuples(st.floats(-90, -0.1), st.floats(-90, -0.1), st.text("abc é", min_size=1)), min_size=2))
def test_predictions_are_those_of_the_harness_on_the_same_log_likelihoods(candidates):
    lls, empty, choices = zip(*candidates, strict=True)
    sums, tokens = torch.tensor([lls], dtype=torch.float64), torch.ones(1, len(lls))
    sizes = [[len(choice.encode()) for choice in choices]]
    expected = harness(lls, choices, empty)

    def first(rule):
        return int(ranked(rule, sums, tokens, sizes, torch.tensor([empty], dtype=torch.float64)).argmax())

    assert first("sum") == expected["acc"]
    assert first("bytes") == expected["acc_bytes"]
    assert first("pmi") == expected["acc_mutual_info"]
    if all(choice.isascii() for choice in choices):
        assert first("bytes") == expected["acc_norm"]


def test_a_known_example_is_decided_differently_by_every_rule():
    """Candidates of 2, 4 and 7 tokens and of 8, 16 and 14 bytes."""
    sums, tokens = torch.tensor([[-4.0, -6.0, -7.0]]), torch.tensor([[2, 4, 7]])
    arguments = sums, tokens, [[8, 16, 14]], torch.tensor([[-1.0, -5.0, -6.5]])
    assert [int(ranked(rule, *arguments).argmax()) for rule in RANKINGS] == [0, 2, 1, 2]
    assert ranked("mean", *arguments).tolist() == [[-2.0, -1.5, -1.0]]
    assert ranked("bytes", *arguments).tolist() == [[-0.5, -0.375, -0.5]]
    assert ranked("pmi", *arguments).tolist() == [[-3.0, -1.0, -0.5]]


@pytest.fixture(params=["t5", "llama", "gpt2"])
def backbone(request):
    return pico_backbone(request.param)


@pytest.mark.parametrize("expression", ["", "prompt(length=3) + lora(rank=2)"])
@pytest.mark.parametrize("rule", RANKINGS)
def test_every_rule_holds_for_a_backbone_with_and_without_a_delta(backbone, rule, expression):
    read = reader(backbone, replace(CHOICE, ranking=rule))
    nothing = Task("nothing", "made", "generation", "exact_match", lambda split: (), "{input} is it?")
    blank = reader(backbone, nothing).input_tokens(" is it?")

    def expected(row):
        sums = [log_probability(backbone, row.input, candidate) for candidate in row.candidates]
        over = {
            "sum": [1] * 3,
            "mean": [len(candidate) for candidate in row.candidates],
            "bytes": [2, 17, 20],
            "pmi": [1] * 3,
        }[rule]
        empty = [log_probability(backbone, blank, c) if rule == "pmi" else 0.0 for c in row.candidates]
        return [x / size - less for x, size, less in zip(sums, over, empty, strict=True)]

    weights = {n: x + 0.3 * torch.ones_like(x) for n, x in dc.init_weights(backbone, expression or "lora").items()}
    with dc.attached(backbone, expression or "lora", weights), torch.no_grad():
        scores = read.scores(read.rows("test"))
        for found, row in zip(scores.tolist(), read.rows("test"), strict=True):
            assert found == pytest.approx(expected(row), rel=1e-3, abs=1e-3)
        predicted = [CHOICE.labels[k] for k in scores.argmax(-1).tolist()]
        for budget in (10_000, 40):
            assert read.predict("test", budget) == predicted


def test_an_input_of_no_tokens_is_read_from_the_first_token_of_a_text():
    bare = replace(CHOICE, template="{input}", ranking="pmi")
    llama, gpt2 = (reader(pico_backbone(name), bare).rows("test")[0] for name in ("llama", "gpt2"))
    assert len(llama.empty) == len(gpt2.empty) == 1


def test_a_rule_is_part_of_the_fingerprint_but_for_the_sum():
    prints = {rule: replace(CHOICE, ranking=rule).fingerprint for rule in (None, *RANKINGS)}
    assert prints[None] == prints["sum"] == CHOICE.fingerprint
    assert len(set(prints.values())) == len(RANKINGS)


def test_training_does_not_depend_on_the_rule():
    backbone = pico_backbone("llama")
    trained = [
        dc.train(backbone, "bitfit", replace(CHOICE, ranking=rule), steps=3, batch=2, keep="last").weights
        for rule in ("sum", "pmi")
    ]
    assert all(torch.equal(trained[0][name], trained[1][name]) for name in trained[0])


MAPPING = {
    "path": "x.csv",
    "columns": {"input": "text", "target": "label"},
    "metric": "accuracy",
    "category": "made",
    "verbalizer": {"a": "no", "b": "never"},
}


def test_a_described_task_names_its_rule():
    assert task_from_mapping("mine", MAPPING | {"ranking": "bytes"}).ranking == "bytes"
    assert task_from_mapping("mine", MAPPING).ranking is None


def test_misuse_is_one_sentence():
    with pytest.raises(BadInput, match=r"no ranking 'length'; .*rankings: bytes, mean, pmi, sum"):
        replace(CHOICE, ranking="length")
    with pytest.raises(BadInput, match=r"ranking.*'sum', 'mean', 'bytes' or 'pmi'"):
        task_from_mapping("mine", MAPPING | {"ranking": "length"})
    with pytest.raises(BadInput, match="`ranking: mean` is for candidates, and this task has none"):
        task_from_mapping("mine", {**MAPPING, "verbalizer": {}, "metric": "exact_match", "ranking": "mean"})
    with pytest.raises(BadInput, match=r"ranks candidates by mean, a rule of likelihoods, and .* is an encoder"):
        reader(pico_backbone("bert"), replace(CHOICE, ranking="mean"))
