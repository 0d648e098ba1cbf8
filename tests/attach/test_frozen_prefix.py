"""Layers that no edit touches are computed once for each text, and everything comes out as without that."""

from __future__ import annotations

import pytest
import torch
from passes import backbone_of

import deltacompose as dc
from deltacompose.attach import attach
from deltacompose.attach import frozen_prefix as prefixes
from deltacompose.attach.frozen_prefix import frozen_prefix, states_of
from deltacompose.backbone.pico import pico_backbone
from deltacompose.delta import Delta
from deltacompose.scoring import reader
from deltacompose.task import Example, Task
from deltacompose.training import evaluate, evaluate_many, train
from deltacompose.training import evaluation as evaluations
from deltacompose.training.learner import Job

TEXTS = ["a", "the sea", "it rains again", "dry", "cold and wet days", "x y", "so it is", "no"]
LABELS = {"low": "low", "mid": "mid", "top": "top"}
EXAMPLES = tuple(Example(str(k), text, list(LABELS)[k % 3]) for k, text in enumerate(TEXTS))
TASK = Task("height", "made", "choice", "accuracy", lambda split: EXAMPLES, "{input} is", LABELS)
RECIPE = dc.Recipe(steps=8, batch=4, evaluate_every=4, limit=32, keep="last")
LAST = {
    "bert": "last_layers(n=1)",
    "gpt2": "last_layers(n=1)",
    "t5": "lora(rank=2, places=('cross_attention.query',))",
}
"""Deltas of the last layer, and of the decoder of a pair."""


class Counted:
    """Counts the passes through the first layer of each stack, by its name."""

    def __init__(self, backbone):
        layers = [place for place in backbone.places("layer") if place.layer == 0]
        self.of = dict.fromkeys((place.stack for place in layers), 0)
        for place in layers:
            backbone.module(place).register_forward_hook(lambda *_, stack=place.stack: self.add(stack))

    def add(self, stack):
        self.of[stack] += 1


def trained(backbone, text, seeds=(0,), recipe=RECIPE):
    read = reader(backbone, TASK, 32)
    return train(backbone, [Job(dc.parse(text), read, seed, recipe) for seed in seeds])


@pytest.fixture
def without(monkeypatch):
    """Within, nothing is kept of any layer."""

    def act(function):
        with monkeypatch.context() as patched:
            patched.setattr(evaluations, "prefix_of", lambda *_: evaluations.nullcontext())
            patched.setattr("deltacompose.training.loop.prefix_of", lambda *_: evaluations.nullcontext())
            return function()

    return act


@pytest.mark.parametrize(
    ("family", "text", "first"),
    [
        ("bert", "last_layers(n=1)", {"encoder": 1}),
        ("bert", "lora", {"encoder": 0}),
        ("bert", "prompt(length=2)", {"encoder": 0}),
        ("bert", "prefix(length=2)", {"encoder": 0}),
        ("gpt2", "last_layers(n=1)", {"decoder": 1}),
        ("gpt2", "bitfit", {"decoder": 0}),
        ("t5", "lora(places=('cross_attention.query',))", {"encoder": 2, "decoder": 0}),
        ("t5", "last_layers(n=1)", {"encoder": 2, "decoder": 1}),
        ("t5", "lora(places=('attention.query',))", {"encoder": 0, "decoder": 0}),
        ("t5", "last_layers(n=1) + prompt(length=2)", {"encoder": 0, "decoder": 0}),
    ],
)
def test_the_first_touched_layer_is_read_off_the_edits(family, text, first):
    attachment = attach(backbone_of(family), dc.parse(text))
    try:
        assert attachment.first_touched() == first
    finally:
        attachment.detach()


def test_a_tied_matrix_touches_all_the_layers_between_its_modules():
    backbone = backbone_of("gpt2")
    assert backbone.model.config.tie_word_embeddings
    attachment = attach(backbone, dc.parse("full(places=('head',))"))
    try:
        assert attachment.first_touched() == {"decoder": 0}
    finally:
        attachment.detach()


@pytest.mark.parametrize("seeds", [(0,), (0, 1, 2)], ids=["one delta", "a bank"])
@pytest.mark.parametrize("family", LAST)
def test_training_gives_the_deltas_that_it_gives_without(family, seeds, without):
    plain = without(lambda: trained(pico_backbone(family), LAST[family], seeds))
    kept = trained(pico_backbone(family), LAST[family], seeds)
    for first, second in zip(plain, kept, strict=True):
        assert [e["score"] for e in first.record["history"]] == [e["score"] for e in second.record["history"]]
        # A bias of keys adds the same to every score of a query: its gradient is rounding, which Adam makes a step of.
        for name, x in ((n, x) for n, x in first.weights.items() if not n.endswith("attention.key.bias")):
            torch.testing.assert_close(second.weights[name], x, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(("family", "stack"), [("bert", "encoder"), ("gpt2", "decoder"), ("t5", "encoder")])
def test_the_layers_below_are_run_for_the_first_epoch_and_not_again(family, stack):
    """A batch of texts that were read before runs nothing below; one pass is compared with a full one."""
    counts = []
    for steps in (8, 40):
        backbone = pico_backbone(family)
        counted = Counted(backbone)
        trained(backbone, LAST[family], recipe=dc.Recipe(steps=steps, batch=4, evaluate_every=steps, limit=32))
        counts.append(counted.of[stack])
    assert counts[1] <= counts[0] + 8, "batches of other examples, or of another length, are read in full once"


@pytest.mark.parametrize("family", LAST)
def test_evaluation_gives_the_predictions_that_it_gives_without(family):
    backbone = backbone_of(family)
    read = reader(backbone, TASK, 64)
    source = torch.Generator().manual_seed(0)
    deltas = [
        Delta(dc.parse(LAST[family]), {n: torch.randn(x.shape, generator=source) for n, x in start.items()})
        for start in [dc.init_weights(backbone, LAST[family])] * 4
    ]
    for _ in range(2):
        together = evaluate_many(read, deltas, "test")
        assert [each.predictions for each in together] == [evaluate(read, d, "test").predictions for d in deltas]


def test_an_encoder_is_read_once_for_all_deltas_of_the_decoder():
    backbone = pico_backbone("t5")
    read = reader(backbone, TASK, 64)
    weights = dc.init_weights(backbone, LAST["t5"])
    counted = Counted(backbone)
    for scale in (1.0, 2.0, 3.0, 4.0):
        evaluate_many(read, [Delta(dc.parse(LAST["t5"]), {n: scale * x for n, x in weights.items()})], "test")
        if scale == 1.0:
            after_first = counted.of["encoder"]
    attaching = 3 * 2
    assert counted.of["encoder"] <= after_first + attaching + 1, "one pass more is compared with a full one"
    assert states_of(backbone).served >= 3


def test_a_bank_reads_each_text_once():
    """Four deltas read six texts, one of them twice: five texts pass through the encoder, and not 24 rows."""
    backbone = pico_backbone("t5")
    weights = dc.init_weights(backbone, LAST["t5"])
    deltas = [Delta(dc.parse(LAST["t5"]), {n: scale * x for n, x in weights.items()}) for scale in range(1, 5)]
    evaluate_many(reader(backbone, TASK, 64), deltas, "test")  # one pass is compared with a full one
    rows = []
    layer = next(place for place in backbone.places("layer") if place.name == "encoder.0.layer")
    backbone.module(layer).register_forward_hook(lambda module, args, output: rows.append(len(args[0])))
    texts = ["one", "two", "red", "sky", "new", "one"]
    examples = tuple(Example(str(k), text, list(LABELS)[k % 3]) for k, text in enumerate(texts))
    other = Task("colour", "made", "choice", "accuracy", lambda split: examples, "{input} is", LABELS)
    read = reader(backbone, other, 64)
    together = evaluate_many(read, deltas, "test")
    attaching = [count for count in rows if count == 1]
    assert sum(rows) - len(attaching) == 5
    assert [each.predictions for each in together] == [evaluate(read, delta, "test").predictions for delta in deltas]


def test_an_edit_of_the_frozen_weights_is_noticed():
    backbone = pico_backbone("bert")
    read = reader(backbone, TASK, 64)
    delta = Delta(dc.parse(LAST["bert"]), dc.init_weights(backbone, LAST["bert"]))
    evaluate_many(read, [delta], "test")
    with torch.no_grad():
        for x in backbone.model.parameters():
            x.mul_(1.5)
    assert evaluate_many(read, [delta], "test")[0].predictions == evaluate(read, delta, "test").predictions


@pytest.mark.parametrize("needs", [False, True], ids=["reads", "needs"])
def test_a_model_whose_upper_layers_read_more_than_states_keeps_nothing(needs):
    """The last layer looks at what the first one has left for it, and may fail where it left nothing."""
    backbone = pico_backbone("gpt2")
    blocks = backbone.model.transformer.h
    ids, left = torch.arange(70, 79)[None].expand(2, -1), []

    def takes(module, args, output):
        if needs and not left:
            raise KeyError("what the first layer leaves")
        output = output.clone()
        output[..., 0] += len(left)
        left.clear()
        return output

    handles = [blocks[0].register_forward_hook(lambda *_: left.append(1) if not left else None)]
    handles.append(blocks[1].register_forward_hook(takes))
    try:
        with torch.no_grad():
            plain = backbone.model(ids, use_cache=False).logits
            with frozen_prefix(backbone, {"decoder": 1}) as states:
                outputs = [backbone.model(ids, use_cache=False).logits for _ in range(3)]
    finally:
        for handle in handles:
            handle.remove()
    assert states.refused == {("decoder", 1)}
    assert states.served == 0
    for output in outputs:
        assert torch.equal(output, plain)


def test_the_kept_states_are_bounded(monkeypatch):
    backbone = pico_backbone("bert")
    monkeypatch.setattr(prefixes, "STATE_BYTES", 2000)
    delta = Delta(dc.parse(LAST["bert"]), dc.init_weights(backbone, LAST["bert"]))
    evaluate_many(reader(backbone, TASK, 64), [delta], "test")
    assert states_of(backbone)._bytes <= 2000


def test_layers_stand_in_their_places_again_after_a_pass_that_failed():
    backbone = pico_backbone("gpt2")
    blocks = backbone.model.transformer.h
    before = list(blocks)
    ids = torch.arange(70, 79)[None].expand(2, -1)

    def fails(module, args, output):
        raise RuntimeError("no more")

    with torch.no_grad(), frozen_prefix(backbone, {"decoder": 1}):
        backbone.model(ids, use_cache=False)
        handle = blocks[1].register_forward_hook(fails)
        with pytest.raises(RuntimeError, match="no more"):
            backbone.model(ids, use_cache=False)
        handle.remove()
        assert list(blocks) == before
