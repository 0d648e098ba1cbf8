"""Soft prompts stand in the model's own unit, directly before each row's tokens, whatever padding the caller has."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from picofamilies import backbone, model, read
from torch import Tensor
from transformers import StaticCache

from deltacompose.attach import attached
from deltacompose.attach.soft_prompts import Layout
from deltacompose.backbone.backbone import Backbone
from deltacompose.errors import BadInput
from deltacompose.method.weights import generator, init_weights

IDS = torch.tensor([[5, 50, 60, 70, 80, 90, 100]])
TOKENS, PADDING = 7, 4
PAD = torch.zeros(1, PADDING, dtype=torch.long)
SCALED = ("gemma", "gemma2", "gemma3", "xglm", "biogpt", "bart", "marian", "pegasus", "blenderbot", "m2m_100")
PLAIN = (
    "opt",
    "electra",
    "albert",
    "mistral",
    "bloom",
    "mpt",
    "falcon",
    "mixtral",
    "roberta",
    "big_bird",
    "longformer",
)


def trained(of: Backbone, text: str) -> dict[str, Tensor]:
    """Weights far from their start."""
    drawn = init_weights(of, read(text))
    return {n: x + 0.3 * torch.randn(x.shape, generator=generator(0, "noise", n)) for n, x in drawn.items()}


def states(of: Backbone, **given: Any) -> Tensor:
    """Logits, or the states of a model without a head."""
    if of.kind == "encoder-decoder":
        given["decoder_input_ids"] = torch.tensor([[9, 11, 13]])
    if of.kind != "encoder":
        given["use_cache"] = False
    with torch.no_grad():
        output = of.model(**given)
    found: Tensor = output.logits if "logits" in output else output.last_hidden_state
    return found


def plain() -> dict[str, Tensor]:
    return {"input_ids": IDS, "attention_mask": torch.ones_like(IDS)}


def padded(side: str) -> dict[str, Tensor]:
    parts = [(PAD, PAD), (IDS, torch.ones_like(IDS))]
    ids, mask = zip(*(parts if side == "left" else parts[::-1]), strict=True)
    return {"input_ids": torch.cat(ids, 1), "attention_mask": torch.cat(mask, 1)}


def own(of: Backbone, x: Tensor, side: str) -> Tensor:
    """What belongs to the tokens; a decoder beside an encoder answers with other positions."""
    return x if of.kind == "encoder-decoder" else x[:, PADDING:] if side == "left" else x[:, :TOKENS]


def embedded(module: Any, ids: Tensor) -> Tensor:
    """What Marian and Pegasus do with ids, written out; all others embed in one module."""
    scaled = type(module).__name__ in ("MarianEncoder", "PegasusEncoder")
    rows: Tensor = module.get_input_embeddings()(ids)
    return rows * module.embed_scale if scaled else rows


@pytest.mark.parametrize("name", SCALED + PLAIN)
def test_a_prompt_and_its_tokens_are_the_models_own_input_embeddings(name):
    of = backbone(name)
    t = trained(of, "prompt(length=3)")
    stream = of.model.get_submodule(of.stream(of.streams[0]).module)
    rows = torch.cat([next(iter(t.values()))[None], embedded(stream, IDS)], 1)
    expected = states(of, inputs_embeds=rows, attention_mask=torch.ones(1, TOKENS + 3, dtype=torch.long))
    with attached(of, read("prompt(length=3)"), t):
        found = states(of, **plain())
    torch.testing.assert_close(found, expected if of.kind == "encoder-decoder" else expected[:, 3:])


@pytest.mark.parametrize("name", ["gemma", "gemma3", "xglm", "marian", "pegasus", "bart", "opt"])
def test_a_prompt_that_copies_tokens_is_those_tokens(name):
    """Of all ways to say that the rows are in the unit of the model: they have the effect of the ids."""
    of = backbone(name)
    text, ids = "abc", of.tokenizer("abc", add_special_tokens=False)["input_ids"]
    term = read(f"prompt(length=3, init_from='text', text={text!r})")
    with attached(of, term, init_weights(of, term)):
        found = states(of, **plain())
    joined = torch.cat([torch.tensor([ids]), IDS], 1)
    expected = states(of, input_ids=joined, attention_mask=torch.ones_like(joined))
    torch.testing.assert_close(found, expected if of.kind == "encoder-decoder" else expected[:, 3:])


def test_the_prompt_of_a_scaled_embedding_is_scaled_in_the_models_precision():
    of = backbone("gemma")
    term = read("prompt(length=3)")
    [rows] = init_weights(of, term).values()
    assert 0.5 < float(rows.std() / (16**0.5 * of.embeddings("decoder").std())) < 2


ROTARY = ("mistral", "gemma2", "gemma3", "gemma", "mixtral", "gpt2", "biogpt", "opt", "modernbert", "roberta")


@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("name", [*ROTARY, "bloom", "falcon", "mpt", "xglm", "gemma3n", "t5", "m2m_100", "longformer"])
def test_padding_never_stands_between_a_prompt_and_its_tokens(name, side):
    """Sliding windows, ALiBi, relative, rotary and learned positions, with a mask and no position ids."""
    of = backbone(name)
    with attached(of, read("prompt(length=3)"), trained(of, "prompt(length=3)")):
        alone, found = states(of, **plain()), states(of, **padded(side))
    torch.testing.assert_close(own(of, found, side), alone, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("name", [*ROTARY, "t5", "m2m_100"])
def test_padding_does_not_change_a_tokens_distance_from_a_prefix(name, side):
    of = backbone(name)
    with attached(of, read("prefix(length=3)"), trained(of, "prefix(length=3)")):
        alone, found = states(of, **plain()), states(of, **padded(side))
    torch.testing.assert_close(own(of, found, side), alone, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("text", ["prompt(length=3)", "prefix(length=3)", "prompt(length=2) + prefix(length=2)"])
@pytest.mark.parametrize("name", ["mistral", "gemma3", "gemma3n", "gpt2", "opt"])
def test_a_padded_row_generates_what_it_does_alone_with_and_without_a_cache(name, text):
    of = backbone(name)
    how = {"max_new_tokens": 6, "min_new_tokens": 6, "do_sample": False}
    with attached(of, read(text), trained(of, text)) as attached_model:
        alone = attached_model.generate(**plain(), **how)[:, TOKENS:]
        cached = attached_model.generate(**padded("left"), **how)[:, TOKENS + PADDING :]
        anew = attached_model.generate(**padded("left"), use_cache=False, **how)[:, TOKENS + PADDING :]
    assert alone.tolist() == cached.tolist() == anew.tolist()


def test_hidden_states_come_back_in_the_callers_order():
    of = backbone("mistral")
    with attached(of, read("prompt(length=3)"), trained(of, "prompt(length=3)")) as attached_model, torch.no_grad():
        alone = attached_model(**plain(), output_hidden_states=True).hidden_states
        found = attached_model(**padded("left"), output_hidden_states=True).hidden_states
    for x, y in zip(found, alone, strict=True):
        torch.testing.assert_close(x[:, PADDING:], y, rtol=1e-4, atol=1e-5)


def test_per_layer_inputs_of_the_tokens_stay_and_a_prompt_has_those_of_soft_tokens():
    of = backbone("gemma3n")
    t = trained(of, "prompt(length=3)")
    stream = of.model.get_submodule(of.stream("decoder").module)
    looked_up = stream.get_per_layer_inputs(torch.cat([torch.zeros(1, 3, dtype=torch.long), IDS], 1))
    rows = torch.cat([next(iter(t.values()))[None], stream.embed_tokens(IDS)], 1)
    expected = states(of, inputs_embeds=rows, per_layer_inputs=looked_up, attention_mask=torch.ones(1, TOKENS + 3))
    with attached(of, read("prompt(length=3)"), t):
        torch.testing.assert_close(states(of, **plain()), expected[:, 3:])
        with pytest.raises(BadInput, match="needs input ids, by which it looks up per-layer inputs"):
            states(of, inputs_embeds=rows, attention_mask=torch.ones(1, TOKENS + 3))


@pytest.mark.parametrize("name", ["albert", "big_bird", "electra", "roberta"])
def test_a_pooler_reads_the_first_of_the_callers_tokens(name):
    of = backbone(name)
    with attached(of, read("prompt(length=3)"), trained(of, "prompt(length=3)")) as attached_model, torch.no_grad():
        output = attached_model(**plain())
        if "pooler_output" not in output:
            return
        first = output.last_hidden_state[:, 0]
        pooler = attached_model.pooler
        own_pooled = (
            attached_model.pooler_activation(pooler(first))
            if name == "albert"
            else attached_model.activation(pooler(first))
            if name == "big_bird"
            else pooler(output.last_hidden_state)
        )
    torch.testing.assert_close(output.pooler_output, own_pooled)


def test_a_mask_that_a_static_cache_makes_is_refused_in_a_sentence():
    of = backbone("gemma3")
    with (
        attached(of, read("prompt(length=3)"), trained(of, "prompt(length=3)")) as attached_model,
        pytest.raises(BadInput, match="a static cache makes such masks: generate with the default cache"),
    ):
        attached_model.generate(**plain(), cache_implementation="static", max_new_tokens=2)


@pytest.mark.parametrize("name", ["gemma", "gemma3"])
def test_a_static_cache_without_room_for_the_prompt_is_refused_and_one_with_room_is_taken(name):
    of = backbone(name)
    with attached(of, read("prompt(length=3)"), trained(of, "prompt(length=3)")) as attached_model, torch.no_grad():
        expected = attached_model(input_ids=IDS, use_cache=False).logits
        room = StaticCache(config=of.model.config, max_cache_len=TOKENS + 3)
        torch.testing.assert_close(attached_model(input_ids=IDS, past_key_values=room).logits, expected)
        short = StaticCache(config=of.model.config, max_cache_len=TOKENS)
        with pytest.raises(BadInput, match=r"a static cache of \d+ positions is too short for the prompt"):
            attached_model(input_ids=IDS, past_key_values=short)


def test_a_model_that_makes_more_of_ids_than_embeddings_is_refused(monkeypatch):
    of = backbone_with_a_secret(monkeypatch)
    with pytest.raises(BadInput, match="its first layer sees something else of input ids than of their embeddings"):
        init_weights(of, read("prompt(length=3)"))


def backbone_with_a_secret(monkeypatch: pytest.MonkeyPatch) -> Backbone:
    """A model that adds 1 to what it embeds itself."""
    from picofamilies import backbone_of

    made = model("mistral")
    kind = type(made.model)
    plain_forward = kind.forward

    def forward(self: Any, input_ids: Any = None, inputs_embeds: Any = None, **rest: Any) -> Any:
        if input_ids is not None:
            inputs_embeds = self.embed_tokens(input_ids) + 1
        return plain_forward(self, inputs_embeds=inputs_embeds, **rest)

    monkeypatch.setattr(kind, "forward", forward)
    return backbone_of(made)


def test_a_layout_puts_the_prompt_before_each_rows_first_token_and_takes_it_out_again():
    prompt, tokens = -torch.ones(3, 2, 1), torch.arange(15.0).view(3, 5, 1)
    layout = Layout(2, torch.tensor([0, 2, 5]))
    joined = layout.insert(prompt, tokens)
    assert joined[..., 0].tolist() == [
        [-1, -1, 0, 1, 2, 3, 4],
        [5, 6, -1, -1, 7, 8, 9],
        [10, 11, 12, 13, 14, -1, -1],
    ]
    assert torch.equal(layout.tokens(joined), tokens)
    assert torch.equal(layout.front(joined), torch.cat([prompt, tokens], 1))
