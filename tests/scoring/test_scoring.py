"""How backbones read tasks: rankings and losses against ones computed the long way, token by token."""

from __future__ import annotations

import pytest
import torch
from onerow import log_probability

import deltacompose as dc
from deltacompose.backbone.pico import pico_backbone
from deltacompose.errors import BadInput
from deltacompose.scoring import reader
from deltacompose.task import Example, Task

LABELS = {"low": "low", "high": "very high", "none": "no"}
TEXTS = ["a", "the sea", "it rains again", "dry", "cold and wet days", "x y"]


def rows(split):
    return tuple(Example(f"{split}{k}", text + split, list(LABELS)[k % 3]) for k, text in enumerate(TEXTS))


def spoken(split):
    return tuple(Example(f"{split}{k}", text + split, f"{text}!") for k, text in enumerate(TEXTS))


CHOICE = Task("height", "made", "choice", "accuracy", rows, "{input} is", LABELS)
SPEECH = Task("shout", "made", "generation", "exact_match", spoken)


@pytest.fixture(params=["t5", "bart", "gpt2", "llama", "gpt-neox", "opt"])
def generative(request):
    return pico_backbone(request.param)


@pytest.fixture(params=["none", "prompt(length=3) + prefix(length=2) + lora(rank=2)"])
def force(request, generative):
    """The backbone as it is, or with a delta in force whose tensors are all random."""
    if request.param == "none":
        yield generative
        return
    weights = dc.init_weights(generative, request.param)
    drawn = {
        name: 0.3 * torch.randn(x.shape, generator=torch.Generator().manual_seed(0)) for name, x in weights.items()
    }
    with dc.attached(generative, request.param, drawn):
        yield generative


def test_candidates_are_ranked_by_their_whole_likelihood(force):
    read = reader(force, CHOICE)
    given = read.rows("test")
    expected = []
    for row in given:
        likelihoods = [log_probability(force, row.input, candidate) for candidate in row.candidates]
        expected.append(CHOICE.labels[max(range(3), key=likelihoods.__getitem__)])
    for budget in (10_000, 40):
        assert read.predict("test", budget) == expected


def test_the_loss_is_the_mean_over_answer_tokens(force):
    read = reader(force, SPEECH)
    given = read.rows("train")
    batch = read.batch("train", range(len(given)), (40, 24))
    with torch.no_grad():
        loss = read.loss(batch, 1).item()
    total = sum(log_probability(force, row.input, row.answer) for row in given)
    assert loss == pytest.approx(-total / sum(len(row.answer) for row in given), rel=1e-5)


def test_each_delta_of_a_bank_gets_the_loss_of_its_own_rows(generative):
    read = reader(generative, SPEECH)
    with torch.no_grad():
        both = read.loss(read.batch("train", range(6), (40, 24)), 2)
        each = [read.loss(read.batch("train", range(k, k + 3), (40, 24)), 1).item() for k in (0, 3)]
    assert both.tolist() == pytest.approx(each, rel=1e-5)


def test_generated_text_does_not_depend_on_what_else_is_in_the_batch(force):
    read = reader(force, SPEECH)
    given = read.rows("test")
    assert read.generate(given, 5) == [read.generate([row], 5)[0] for row in given]


def test_an_encoder_ranks_by_the_cosine_of_mean_states():
    backbone = pico_backbone("bert")
    read = reader(backbone, CHOICE)

    def state(ids):
        with torch.no_grad():
            return backbone.model(input_ids=torch.tensor([ids])).last_hidden_state[0].double().mean(0)

    expected = []
    for row in read.rows("test"):
        alike = [torch.cosine_similarity(state(row.input), state(c), 0) for c in row.candidates]
        expected.append(CHOICE.labels[int(torch.stack(alike).argmax())])
    assert read.predict("test") == expected


def test_a_row_may_bring_candidates_of_its_own():
    def own(split):
        words = (("red", "green"), ("up", "down"), ("left", "right"))
        return tuple(Example(f"{split}{k}", f"{split} {k}", "ab"[k % 2], words[k]) for k in range(3))

    task = Task("own", "made", "choice", "accuracy", own, "{input}", {"a": "a", "b": "b"})
    for family in ("bert", "gpt2", "t5"):
        read = reader(pico_backbone(family), task)
        assert set(read.predict("test")) <= {"a", "b"}
        batch = read.batch("train", [0, 1, 2], (16, 16))
        assert torch.isfinite(read.loss(batch, 1)).all()


def test_a_text_that_is_too_long_loses_its_middle():
    read = reader(pico_backbone("gpt2"), Task("long", "made", "generation", "exact_match", spoken), limit=8)
    whole = read.backbone.tokenizer("abcdefghijklmnop")["input_ids"]
    assert read.input_tokens("abcdefghijklmnop") == (*whole[:4], *whole[-4:])


@pytest.mark.parametrize(
    ("family", "template", "plain"),
    [
        ("bert", "<s>{input}</s>", "{input}"),
        ("roberta", "<s>{input}", "{input}"),
        ("llama", "<s>{input}", "{input}"),
        ("t5", "{input}</s>", "{input}"),
        ("gpt2", "<s>{input}", "<s>{input}"),
        ("bert", "{input}</s></s>it</s>", "{input}</s></s>it"),
    ],
)
def test_a_special_token_that_a_template_writes_too_stands_there_once(family, template, plain):
    backbone = pico_backbone(family)
    tokens = [
        reader(backbone, Task("s", "made", "choice", "accuracy", rows, text, LABELS)).rows("test")[0].input
        for text in (template, plain)
    ]
    assert tokens[0] == tokens[1] == tuple(backbone.tokenizer(plain.replace("{input}", "atest"))["input_ids"])


def test_a_special_token_in_the_template_of_a_masked_head_stands_there_once():
    backbone = pico_backbone("roberta", head="mlm")
    task = Task("s", "made", "choice", "accuracy", rows, "<s>{input}</s>", {"low": "a", "high": "b", "none": "c"})
    input_ = reader(backbone, task).rows("test")[0].input
    assert (input_.count(1), input_[0]) == (1, 1)


def test_an_example_that_is_longer_than_the_model_is_named_before_it_is_read():
    long = (Example("0", "a" * 600, "b" * 10),)
    task = Task("long", "made", "generation", "exact_match", lambda split: long)
    with pytest.raises(
        BadInput, match=r"task 'long' has 508 tokens of input and 12 of answer.*for 512; .* limit of at most 500"
    ):
        reader(pico_backbone("gpt2"), task, limit=508).rows("train")
    assert len(reader(pico_backbone("gpt2"), task, limit=500).predict("test")) == 1
    assert len(reader(pico_backbone("t5"), task, limit=600).predict("test")) == 1  # relative positions have no end
    wordy = Task("wordy", "made", "generation", "exact_match", lambda split: (Example("0", "a", "b" * 600),))
    with pytest.raises(BadInput, match=r"task 'wordy' has an answer of 601 tokens, and .* has positions for 512$"):
        reader(pico_backbone("bart"), wordy).rows("train")


def test_what_a_backbone_cannot_read_is_said():
    encoder = pico_backbone("bert")
    with pytest.raises(BadInput, match="is an encoder and cannot generate"):
        reader(encoder, SPEECH).predict("test")
    with pytest.raises(BadInput, match="has positions for 512"):
        reader(encoder, CHOICE, limit=513)
    bare = dc.load_backbone(encoder.model)
    with pytest.raises(BadInput, match="has no tokenizer"):
        reader(bare, CHOICE)
