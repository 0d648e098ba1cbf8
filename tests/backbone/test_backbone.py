"""Backbones: places mean the same in every family, and a fingerprint is that of the weights."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from passes import IDS, backbone_of, run, seen
from torch import nn
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.masking_utils import eager_mask

from deltacompose.backbone import Backbone, bind
from deltacompose.backbone.module_paths import submodule
from deltacompose.backbone.pico import COMMON, FAMILIES, pico_backbone
from deltacompose.errors import BadInput
from deltacompose.places import KINDS, split_name

EVERY = [(family, None) for family in COMMON] + [(family, "mlm") for family in ("bert", "roberta", "distilbert")]
ROTARY = ("llama", "gpt-neox", "mistral", "qwen2", "qwen3", "gemma", "gemma2", "gemma3", "ministral", "smollm3")
PRE_NORM = (
    "t5",
    "t5-gated",
    "mt5",
    "umt5",
    "gpt2",
    "llama",
    "gpt-neox",
    "opt",
    "mbart",
    "pegasus",
    "mistral",
    "qwen2",
    "qwen3",
)
POST_NORM = ("bart", "marian", "bert", "roberta", "xlm-roberta", "camembert", "distilbert")

every_backbone = pytest.mark.parametrize(("family", "head"), EVERY)


# Places mean the same in every family


@every_backbone
def test_names_are_unique_and_say_kind_stack_and_layer(family, head):
    places = backbone_of(family, head).places()
    assert len({place.name for place in places}) == len(places)
    for place in places:
        layer = None if place.layer is None else str(place.layer)
        assert split_name(place.name) == (place.stack, layer, place.kind)
        assert place.kind in KINDS


@every_backbone
def test_every_place_is_passed_exactly_once_in_the_order_in_which_places_are_listed(family, head):
    backbone = backbone_of(family, head)
    with seen(backbone, *backbone.places()) as (_, outputs):
        run(backbone)
    assert list(outputs) == [place.name for place in backbone.places()]


@every_backbone
def test_a_width_is_that_of_what_passes_the_place(family, head):
    backbone = backbone_of(family, head)
    with seen(backbone, *backbone.places()) as (_, outputs):
        run(backbone)
    for place in backbone.places():
        parts = len(place.part.sizes) if place.part else 1
        if place.kind not in ("attention.query_norm", "attention.key_norm"):
            assert outputs[place.name].shape[-1] == backbone.width(place) * parts, place.name
        assert backbone.width(place) == outputs[place.name].shape[-1] // parts


@every_backbone
def test_a_linear_place_computes_its_input_by_its_weight_as_output_by_input(family, head):
    backbone = backbone_of(family, head)
    with seen(backbone, *backbone.places()) as (inputs, outputs):
        run(backbone)
    linear = [
        place
        for place in backbone.places()
        if "weight" in backbone.parameter_names(place)
        and backbone.parameter(place, "weight").ndim == 2
        and not isinstance(backbone.module(place), nn.Embedding)
    ]
    fused: dict[str, list[torch.Tensor]] = {}
    for place in linear:
        weight, bias = backbone.parameter(place, "weight"), backbone.parameter(place, "bias")
        assert weight.shape == (backbone.width(place), inputs[place.name].shape[-1])
        result = inputs[place.name] @ weight.T + bias
        if place.part is None:
            torch.testing.assert_close(result, outputs[place.name])
        elif place.part.blocks > 1:
            fused.setdefault(place.module, []).append(result.unflatten(-1, (place.part.blocks, -1)))
        else:
            fused.setdefault(place.module, []).append(result)
    for place in linear:
        if place.part is not None:
            whole = torch.cat(fused[place.module], dim=-1)
            whole = whole.flatten(-2) if place.part.blocks > 1 else whole
            torch.testing.assert_close(whole, outputs[place.name])
    assert {place.kind for place in linear} >= {"attention.query", "attention.key", "attention.value", "ffn.down"}


def recorded_attention(calls: dict[str, tuple[Any, ...]], names: Mapping[nn.Module, str]) -> Any:
    """An attention function that notes what it is given, and attends to nothing."""

    def attend(module, query, key, value, *args, **kwargs):
        calls[names[module]] = (query, key, value)
        return torch.zeros_like(query).transpose(1, 2), None

    return attend


@pytest.mark.parametrize("family", list(COMMON))
def test_queries_keys_and_values_are_what_the_attention_is_given(family):
    """At the first position, where rotary embeddings turn nothing; and the attention's module is the one that asks."""
    backbone = pico_backbone(family)
    kinds = {place.kind for place in backbone.places()} & {"attention", "cross_attention"}
    attentions = backbone.places(*kinds)
    calls: dict[str, tuple[Any, ...]] = {}
    names = {backbone.module(place): place.name for place in attentions}
    AttentionInterface.register("recorded", recorded_attention(calls, names))
    AttentionMaskInterface.register("recorded", eager_mask)
    backbone.model.set_attn_implementation("recorded")
    parts = [backbone.place(f"{place.name}.{part}") for place in attentions for part in ("query", "key", "value")]
    with seen(backbone, *parts) as (inputs, _):
        run(backbone)
    assert calls.keys() == {place.name for place in attentions}
    for place in attentions:
        heads, width = backbone.heads(place)
        for part, given_states in zip(("query", "key", "value"), calls[place.name], strict=True):
            inner = backbone.place(f"{place.name}.{part}")
            own = inputs[inner.name] @ backbone.parameter(inner, "weight").T + backbone.parameter(inner, "bias")
            norm = [p for p in backbone.places() if p.name == f"{inner.name}_norm"]
            own = own.unflatten(-1, (-1, width))
            own = backbone.module(norm[0])(own) if norm else own
            own, found = own[0, 0], given_states[0, :, 0]
            assert found.shape == (own.shape[0], width)
            if part != "query":
                assert found.shape[0] == heads
            scale = (found * own).sum() / (own * own).sum()  # OPT scales its queries itself
            torch.testing.assert_close(found, own * scale)
            assert part == "query" or scale.item() == pytest.approx(1, abs=1e-5)


@pytest.mark.parametrize("family", PRE_NORM)
def test_with_the_norm_before_a_layer_adds_its_sublayers_to_its_input(family):
    backbone = backbone_of(family)
    with seen(backbone, *backbone.places()) as (inputs, outputs):
        run(backbone)
    for layer in backbone.places("layer"):
        total = inputs[layer.name]
        for kind in ("attention", "cross_attention", "ffn"):
            added = outputs.get(layer.name.removesuffix("layer") + kind)
            total = total if added is None else total + added.view_as(total)
        torch.testing.assert_close(total, outputs[layer.name])


@pytest.mark.parametrize("family", POST_NORM)
def test_with_the_norm_after_each_sublayer_is_added_and_normed_in_turn(family):
    backbone = backbone_of(family)
    with seen(backbone, *backbone.places()) as (inputs, outputs):
        run(backbone)
    for layer in backbone.places("layer"):
        hidden = inputs[layer.name]
        for kind in ("attention", "cross_attention", "ffn"):
            name = layer.name.removesuffix("layer") + kind
            if name in outputs:
                hidden = backbone.module(backbone.place(f"{name}.norm"))(hidden + outputs[name])
        torch.testing.assert_close(hidden, outputs[layer.name])


@every_backbone
def test_every_parameter_but_the_poolers_lies_at_a_place(family, head):
    backbone = backbone_of(family, head)
    assert not backbone.forgotten
    tabled = {"positions"} if backbone.family in ("marian", "pegasus") else set()
    assert {name.rpartition("embed_")[2].partition(".")[0] for name in backbone.unplaced} <= {"pooler", *tabled}


@pytest.mark.parametrize("family", list(COMMON))
def test_an_absent_bias_reads_as_zeros(family):
    backbone = backbone_of(family)
    absent = [
        place
        for place in backbone.places()
        if "weight" in backbone.parameter_names(place) and "bias" not in backbone.parameter_names(place)
    ]
    for place in absent:
        bias = backbone.parameter(place, "bias")
        assert bias.shape == (backbone.width(place),)
        assert not bias.any()


@pytest.mark.parametrize("family", FAMILIES)
def test_a_location_leads_back_to_the_tensor_that_the_parameter_shows(family):
    backbone = backbone_of(family)
    for place in backbone.places("attention.query", "attention.norm", "ffn.up"):
        path, name, transposed, part = backbone.parameter_location(place, "weight")
        held = backbone.model.get_submodule(path)._parameters[name]
        shown = backbone.parameter(place, "weight")
        assert shown.untyped_storage().data_ptr() == held.untyped_storage().data_ptr() or part is not None
        assert transposed == (family == "gpt2" and shown.ndim == 2)
        assert part == place.part


def test_tied_weights_are_found_at_every_module_that_holds_them():
    backbone = backbone_of("t5")
    holders = ("decoder.embed_tokens", "encoder.embed_tokens", "lm_head", "shared")
    for name in ("encoder.embedding", "decoder.embedding", "head"):
        assert backbone.owners(backbone.place(name), "weight") == holders
    assert backbone_of("llama").owners(backbone_of("llama").place("head"), "weight") == ("lm_head",)


@pytest.mark.parametrize("family", list(COMMON))
def test_a_stream_says_how_long_an_input_may_be(family):
    backbone = backbone_of(family)
    limit = backbone.stream(backbone.streams[0]).limit
    if limit is None:
        assert family in (*ROTARY, "t5", "t5-gated", "mt5", "umt5")
        return
    run(backbone, torch.full((1, limit), 70))
    with pytest.raises((IndexError, RuntimeError)):
        run(backbone, torch.full((1, limit + 1), 70))


def decoder_inputs(backbone: Backbone, stream: str) -> dict[str, torch.Tensor]:
    both = backbone.kind == "encoder-decoder" and stream == "decoder"
    return {"encoder_hidden_states": torch.ones(1, 3, 16)} if both else {}


@pytest.mark.parametrize("family", FAMILIES)
def test_the_module_of_a_stream_takes_embedded_tokens(family):
    backbone = backbone_of(family)
    for name in backbone.streams:
        stream = backbone.stream(name)
        assert stream.layers == backbone.layers(name) == 2
        assert backbone.embeddings(name).shape == (backbone.model.config.vocab_size, backbone.embedding_width)
        module = backbone.model.get_submodule(stream.module)
        with torch.no_grad():
            embedded_first = module(
                inputs_embeds=backbone.module(stream.embedding)(IDS), **decoder_inputs(backbone, name)
            )
            by_ids = module(IDS, **decoder_inputs(backbone, name))
        assert torch.equal(embedded_first[0], by_ids[0])


# What cannot be asked


def test_an_unknown_kind_names_the_family_and_the_kinds_that_it_has():
    with pytest.raises(
        BadInput, match=r"no place 'attention.quary' in t5; did you mean 'attention.query'\? places: .*"
    ):
        backbone_of("t5").places("attention.query", "attention.quary")
    with pytest.raises(BadInput, match="no place 'cross_attention' in gpt2"):
        backbone_of("gpt2").places("cross_attention")


def test_a_layer_that_does_not_exist_is_answered_with_those_that_do():
    with pytest.raises(
        BadInput, match=r"no place 'encoder.7.attention.query' in bert; .*layers: encoder.0 to encoder.1"
    ):
        backbone_of("bert").place("encoder.7.attention.query")


def test_a_block_an_input_and_another_name_have_no_parameter():
    backbone = backbone_of("bert")
    with pytest.raises(BadInput, match=r"encoder.0.attention is a block of modules and has no weight of its own"):
        backbone.parameter(backbone.place("encoder.0.attention"), "weight")
    with pytest.raises(BadInput, match=r"encoder.0.ffn.activation is an input and has no bias"):
        backbone.parameter(backbone.place("encoder.0.ffn.activation"), "bias")
    with pytest.raises(BadInput, match="no parameter 'gain'; parameters: bias, weight"):
        backbone.parameter(backbone.place("encoder.0.ffn.up"), "gain")
    with pytest.raises(BadInput, match=r"encoder.0.ffn is not a place of an attention"):
        backbone.heads(backbone.place("encoder.0.ffn"))
    with pytest.raises(BadInput, match=r"no stream 'decoder'; .*streams: encoder"):
        backbone.stream("decoder")


# Fingerprints


@pytest.mark.parametrize("family", FAMILIES)
def test_one_checkpoint_has_one_fingerprint_in_every_precision(family):
    backbone = backbone_of(family)
    halves = pico_backbone(family)
    halves.model.to(torch.bfloat16)
    assert halves.fingerprint == backbone.fingerprint
    stored_as_fp16 = [pico_backbone(family) for _ in range(3)]
    for one, dtype in zip(stored_as_fp16, (torch.float16, torch.float32, torch.bfloat16), strict=True):
        one.model.to(torch.float16).to(dtype)
    assert len({one.fingerprint for one in stored_as_fp16}) == 1


@settings(max_examples=25, deadline=None)
@given(data=st.data())
def test_a_fingerprint_changes_with_any_one_number(data):
    backbone = pico_backbone("t5")
    name, parameter = data.draw(st.sampled_from(sorted(backbone.model.named_parameters())))
    parameter.data.view(-1)[data.draw(st.integers(0, parameter.numel() - 1))] += 1
    assert backbone.fingerprint != backbone_of("t5").fingerprint, name


def test_a_fingerprint_covers_names_and_buffers_and_is_read_once():
    backbone = pico_backbone("bart")
    before = backbone.fingerprint
    backbone.model.final_logits_bias += 1
    assert backbone.fingerprint == before
    assert bind(backbone.model, backbone.table).fingerprint != before
    assert len({backbone_of(family).fingerprint for family in FAMILIES}) == len(FAMILIES)


@every_backbone
def test_a_module_is_found_by_its_path_as_torch_finds_it(family, head):
    model = backbone_of(family, head).model
    for path, module in model.named_modules(remove_duplicate=False):
        assert submodule(model, path) is module
    with pytest.raises(AttributeError, match="no attribute `nowhere`"):
        submodule(model, "nowhere.0")


def test_a_module_that_was_replaced_is_found():
    backbone = pico_backbone("bert")
    place = backbone.place("encoder.0.ffn.up")
    assert isinstance(backbone.module(place), nn.Linear)
    backbone.model.encoder.layer[0].intermediate.dense = nn.Identity()
    assert isinstance(backbone.module(place), nn.Identity)


def test_a_model_whose_pooler_was_removed_has_none():
    backbone = pico_backbone("bert")
    assert backbone.stream("encoder").pooler == "pooler"
    backbone.model.pooler = None
    assert backbone.stream("encoder").pooler is None
