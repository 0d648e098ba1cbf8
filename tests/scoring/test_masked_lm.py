"""Encoders with a masked-language head: candidates ranked at a mask, against scores computed the long way."""

from __future__ import annotations

from dataclasses import replace

import picostudy
import pytest
import torch
import transformers
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer, models, pre_tokenizers, processors

import deltacompose as dc
from deltacompose.backbone.pico import pico_backbone
from deltacompose.errors import BadInput
from deltacompose.scoring import masked_lm as masked
from deltacompose.scoring import reader
from deltacompose.study.recipe import Recipe
from deltacompose.task import Example, Task
from deltacompose.training import train
from deltacompose.training.learner import Job

TEXTS = ["a", "the sea", "it rains again", "dry", "cold and wet days", "x y"]
ONE = {"low": "l", "high": "h"}
SEVERAL = {"low": "low", "high": "very high", "none": "no"}


def rows(labels):
    return lambda split: tuple(Example(f"{split}{k}", text + split, labels[k % 2]) for k, text in enumerate(TEXTS))


def task(words, template="{input} is"):
    return Task("height", "made", "choice", "accuracy", rows(list(words)), template, words)


@pytest.fixture(params=["bert", "roberta", "distilbert"])
def headed(request):
    return pico_backbone(request.param, head="mlm")


@pytest.fixture(params=["none", "prompt(length=3) + prefix(length=2) + lora(rank=2)"])
def force(request, headed):
    """The backbone as it is, or with a delta in force whose tensors are all random."""
    if request.param == "none":
        yield headed
        return
    source = torch.Generator().manual_seed(0)
    drawn = dc.init_weights(headed, request.param)
    with dc.attached(
        headed, request.param, {n: 0.3 * torch.randn(x.shape, generator=source) for n, x in drawn.items()}
    ):
        yield headed


@pytest.mark.parametrize("words", [ONE, SEVERAL], ids=["like", "unlike"])
def test_a_candidate_scores_the_mean_log_probability_of_its_tokens_at_the_masks(force, words):
    read, tokenizer = reader(force, task(words)), force.tokenizer
    pieces = {word: tokenizer(f" {word}", add_special_tokens=False)["input_ids"] for word in words.values()}
    masks = max(map(len, pieces.values()))
    with torch.no_grad():
        found = read.scores(read.rows("test"))
        for row, example in zip(found, read.task.examples("test"), strict=True):
            ids = torch.tensor([tokenizer(f"{example.input} is" + "<mask>" * masks)["input_ids"]])
            log_p = torch.log_softmax(force.model(input_ids=ids).logits[0].double(), -1)
            at = (ids[0] == tokenizer.mask_token_id).nonzero().flatten().tolist()
            expected = [sum(log_p[at[k], t] for k, t in enumerate(own)) / len(own) for own in pieces.values()]
            torch.testing.assert_close(row.double(), torch.stack(expected), rtol=1e-4, atol=1e-4)


def test_the_loss_is_the_cross_entropy_among_the_candidates(force):
    read = reader(force, task(ONE))
    batch = read.batch("train", range(6), (48, 4))
    with torch.no_grad():
        scores = read.scores(read.rows("train"))
        expected = torch.nn.functional.cross_entropy(scores, torch.tensor([0, 1] * 3))
        torch.testing.assert_close(read.loss(batch, 1)[0], expected, rtol=1e-4, atol=1e-5)


@pytest.fixture
def worded(headed):
    """The backbone with a tokenizer of whole words, to which most verbalizers are single tokens."""
    words = ["<pad>", "<s>", "</s>", "<unk>", "<mask>", "it", "is", "that", "the", "sea", "why", "low", "high", "very"]
    tokenizer = Tokenizer(models.WordLevel({word: index for index, word in enumerate(words)}, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    marks = [("<s>", 1), ("</s>", 2)]
    tokenizer.post_processor = processors.TemplateProcessing(single="<s> $A </s>", special_tokens=marks)
    special = {"pad_token": "<pad>", "unk_token": "<unk>", "mask_token": "<mask>", "eos_token": "</s>"}
    return replace(headed, tokenizer=transformers.PreTrainedTokenizerFast(tokenizer_object=tokenizer, **special))


def sea(words, template):
    example = Example("0", "the sea", next(iter(words)))
    return Task("sea", "made", "choice", "accuracy", lambda split: (example,), template, words)


@pytest.mark.parametrize(
    ("template", "said"),
    [
        ("it is <mask> that {input}", "<s> it is <mask> that the sea </s>"),
        ("<mask> {input}", "<s> <mask> the sea </s>"),
        ("why {input}", "<s> why the sea <mask> </s>"),
    ],
)
def test_an_answer_stands_where_the_template_says_else_at_the_end(worded, template, said):
    for words, masks in (({"a": "low", "b": "high"}, 1), ({"a": "low", "b": "very high"}, 2)):
        row = reader(worded, sea(words, template)).rows("test")[0]
        assert worded.tokenizer.convert_ids_to_tokens(row.input) == said.replace("<mask>", "<mask> " * masks).split()
        assert [len(one) for one in row.candidates] == [1, masks]


@given(st.integers(1, 60), st.integers(1, 60), st.integers(1, 4), st.integers(8, 40))
def test_masks_and_both_ends_stay_however_much_is_cut(before, after, masks, limit):
    ids = [0, *range(10, 10 + before), *[-1] * masks, *range(100, 100 + after), 1]
    short = masked._shortened(ids, limit, before + 1, before + 1 + masks)
    assert len(short) == min(limit, len(ids))
    assert (short.count(-1), short[0], short[-1]) == (masks, 0, 1)
    assert [one for one in ids if one in short] == short


def test_rows_may_bring_candidates_of_their_own_number(headed):
    own = (Example("0", "sea", "A", ("wet", "dry", "hot")), Example("1", "sand", "B", ("wet", "dry")))
    many = Task("m", "made", "choice", "accuracy", lambda split: own, "{input}", {"A": "A", "B": "B", "C": "C"})
    read = reader(headed, many)
    found = read.scores(read.rows("test"))
    assert torch.isneginf(found[1, 2])
    assert torch.isfinite(found[0]).all()
    torch.testing.assert_close(found[1, :2], read.scores(read.rows("test")[1:])[0])
    loss = read.loss(read.batch("train", [0, 1], (32, 4)), 1)
    assert torch.isfinite(loss).all()


def test_the_head_is_asked_at_the_masks_alone(headed):
    read = reader(headed, task(ONE))
    assert read.logits(read.batch("train", range(6), (48, 4))).shape == (6, 4, headed.width(headed.place("head")))


def test_a_bank_learns_what_each_delta_learns_alone(headed):
    read, recipe = reader(headed, task(SEVERAL)), Recipe(steps=3, batch=3, evaluate_every=3)
    jobs = [Job(dc.parse("prompt(length=2) + lora(rank=2)"), read, seed, recipe) for seed in (0, 1)]
    together, alone = train(headed, jobs), [train(headed, [job])[0] for job in jobs]
    for one, other in zip(together, alone, strict=True):
        assert all((one.weights[name] == other.weights[name]).all() for name in one.weights)


def test_what_trains_the_head_has_gradients(headed):
    read, recipe = reader(headed, task(ONE)), Recipe(steps=3, batch=3, keep="last")
    [delta] = train(headed, [Job(dc.parse("full(places=('head',))"), read, 0, recipe)])
    assert any(x.any() for name, x in delta.weights.items() if ".head." in name)


def test_a_delta_learns_the_word_that_tells_the_label(tmp_path):
    study = picostudy.make(tmp_path, "roberta", head="mlm", transfer=False, seeds=(0,), tasks=("mood",))
    recipe = Recipe(steps=150, batch=8, evaluate_every=50, limit=48, learning_rates={"full": 0.01})
    study = replace(study, compositions=("full",), training=recipe)
    outcome = dc.run(study, tmp_path / "store")
    assert not outcome.failed
    [training] = [one for one in dc.records(tmp_path / "store") if one["kind"] == "train"]
    assert training["result"]["dev"] > 0.8
    assert training["result"]["history"][-1]["loss"] < 0.5


def test_a_head_makes_another_backbone_and_so_other_cells(tmp_path):
    with_head = picostudy.make(tmp_path, "bert", head="mlm")
    without = replace(with_head, backbone=replace(with_head.backbone, head=None))
    assert not set(dc.plan(with_head)) & set(dc.plan(without))


def test_what_a_masked_head_cannot_read_is_said(headed, tmp_path):
    with pytest.raises(BadInput, match="the template has <mask> twice"):
        reader(headed, task(ONE, "{input} <mask> <mask>"))
    spoken = Task("shout", "made", "generation", "exact_match", lambda split: (Example("0", "a", "b"),))
    read = reader(headed, spoken)
    with pytest.raises(BadInput, match="task 'shout' is a generation task and needs a decoder"):
        read.lengths(read.rows("train")[0])
    hidden = Task("m", "made", "choice", "accuracy", lambda s: (Example("7", "a <mask> b", "low"),), "{input}", ONE)
    with pytest.raises(BadInput, match="the input of '7' holds '<mask>' itself"):
        reader(headed, hidden).rows("train")
    headed.tokenizer.mask_token = None
    with pytest.raises(BadInput, match="has no mask token"):
        reader(headed, task(ONE))
    study = picostudy.make(tmp_path, "t5")
    with pytest.raises(BadInput, match="head='mlm' is for encoders; this backbone is of the kind encoder-decoder"):
        dc.plan(replace(study, backbone=replace(study.backbone, head="mlm")))
