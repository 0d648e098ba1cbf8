"""Tables of many families: every place is where its name says, and each slice of a fused matrix has the right rows."""

from __future__ import annotations

import functools

import pytest
import torch
import transformers
from deltacompose_plugins import IA3, Full, LoRA, Prefix
from deltacompose_plugins.backbones import tables

from deltacompose.attach import attach, attached
from deltacompose.backbone import Backbone, bind
from deltacompose.backbone.infer_table import derive
from deltacompose.backbone.loading import choose_table, load_backbone
from deltacompose.backbone.pico import CONFIGURATIONS, WITHOUT_TABLE, pico
from deltacompose.backbone.slices import Slice
from deltacompose.backbone.table_checks import every_parameter_has_a_place, vet
from deltacompose.backbone.trace import OnModel, TableFault, forward, tokens
from deltacompose.checks import check_backbone_table
from deltacompose.errors import BadInput
from deltacompose.method.catalogue import count
from deltacompose.places.table import read_table


@functools.cache
def built_in():
    return tables()


def seen(family: str, **how: str) -> Backbone:
    model = pico(family, **how).requires_grad_(False)
    return bind(model, choose_table(model.config.model_type, None, built_in()))


@pytest.mark.parametrize("family", CONFIGURATIONS)
def test_every_place_of_a_family_is_where_its_name_says(family):
    model = pico(family).requires_grad_(False)
    expected = {"prompts_are_tokens": "a prompt has no embedding in each layer, as tokens have"}
    known = expected if family == "gemma3n" else {}
    check_backbone_table(choose_table(model.config.model_type, None, built_in()), model, expected_failures=known)


HEADS = ("electra", "modernbert", "deberta-v2", "deberta", "albert", "mpnet", "roformer", "ernie", "big-bird")


@pytest.mark.parametrize("family", HEADS)
def test_a_masked_language_head_has_its_places(family):
    backbone = seen(family, head="mlm")
    every_parameter_has_a_place(OnModel(backbone))
    assert {"head.transform", "head.norm", "head"} <= {place.kind for place in backbone.places()}


# Rows of fused matrices


def halves(family: str) -> tuple[Backbone, dict[str, torch.Tensor], torch.Tensor]:
    """A backbone, its first attention's query, key and value, and the matrix that has them all."""
    backbone = seen(family)
    places = {part: backbone.places(f"attention.{part}")[0] for part in ("query", "key", "value")}
    whole = backbone.module(places["query"]).weight.detach()
    return backbone, {part: backbone.parameter(place, "weight") for part, place in places.items()}, whole


def test_phi3_has_four_query_heads_then_two_keys_then_two_values():
    _, parts, whole = halves("phi3")
    assert torch.equal(parts["query"], whole[:16])
    assert torch.equal(parts["key"], whole[16:24])
    assert torch.equal(parts["value"], whole[24:])


def test_falcon_with_groups_has_for_each_key_value_head_two_queries_a_key_and_a_value():
    _, parts, whole = halves("falcon-gqa")
    heads = whole.view(2, 4, 4, 16)  # as modeling_falcon splits them: groups, queries with key and value, head width
    assert torch.equal(parts["query"], heads[:, :2].flatten(0, 2))
    assert torch.equal(parts["key"], heads[:, 2].flatten(0, 1))
    assert torch.equal(parts["value"], heads[:, 3].flatten(0, 1))


def test_falcon_with_one_key_has_it_behind_the_queries():
    _, parts, whole = halves("falcon-mqa")
    assert torch.equal(parts["query"], whole[:16])
    assert torch.equal(parts["key"], whole[16:20])
    assert torch.equal(parts["value"], whole[20:])


@pytest.mark.parametrize("family", ["bloom", "falcon-alibi", "gpt-bigcode-heads"])
def test_each_head_has_its_query_key_and_value_side_by_side(family):
    _, parts, whole = halves(family)
    heads = whole.view(4, 3, 4, 16)
    for index, part in enumerate(("query", "key", "value")):
        assert torch.equal(parts[part], heads[:, index].flatten(0, 1))


def test_codegen_has_queries_values_and_keys_in_four_blocks():
    _, parts, whole = halves("codegen")
    blocks = whole.view(4, 3, 4, 16)
    for index, part in enumerate(("query", "value", "key")):
        assert torch.equal(parts[part], blocks[:, index].flatten(0, 1))


def test_deepseek_has_each_heads_key_beside_its_value():
    backbone = seen("deepseek-v3")
    key, value = (backbone.places(f"attention.{part}")[0] for part in ("key", "value"))
    whole = backbone.module(key).weight.detach().view(4, 8, 8)
    assert torch.equal(backbone.parameter(key, "weight"), whole[:, :4].flatten(0, 1))
    assert torch.equal(backbone.parameter(value, "weight"), whole[:, 4:].flatten(0, 1))


# Mixtures of experts


@pytest.mark.parametrize("family", ["mixtral", "qwen2-moe", "gpt-oss", "granitemoe", "glm4-moe", "qwen3-next"])
def test_the_feed_forward_network_of_a_mixture_is_the_whole_block_with_its_router_and_experts(family):
    backbone = seen(family)
    ffn = backbone.places("ffn")[-1]
    block = dict(backbone.module(ffn).named_parameters())
    inner = [place for place in backbone.places("ffn.*") if place.layer == ffn.layer and place.kind != "ffn.norm"]
    reached = {id(backbone.module(place)) for place in inner}
    assert {name.partition(".")[0] for name in block} == {
        place.module.removeprefix(f"{ffn.module}.").partition(".")[0] for place in inner
    }
    assert len(reached) >= 2
    gate_up, down = (backbone.parameter(backbone.places(f"ffn.experts.{k}")[-1], "weight") for k in ("gate_up", "down"))
    assert gate_up.shape[0] == down.shape[0] == 4
    assert gate_up.shape == (4, 2 * down.shape[2], 16)
    assert down.shape[1] == 16


# Faults of a table


def test_a_place_that_has_the_residual_is_found():
    table = choose_table("bloom", None, built_in())
    data = table.data
    data["places"]["decoder.{layer}.attention"] = "h.{layer}.self_attention"
    with pytest.raises(TableFault, match=r"decoder\.0\.attention is more than its last projection"):
        vet(bind(pico("bloom"), read_table("bloom", data)))


def test_a_key_given_as_a_value_is_found():
    data = choose_table("falcon", None, built_in()).data
    places = data["places"]
    key, value = (f"decoder.{{layer}}.attention.{part}" for part in ("key", "value"))
    places[key], places[value] = places[value], places[key]
    with pytest.raises(TableFault, match=r"list the places in forward order|twice the decoder\.0\.attention\.value"):
        vet(bind(pico("falcon-gqa"), read_table("falcon", data)))


def test_parameters_without_a_place_are_found_unless_the_table_leaves_them_out():
    data = choose_table("mixtral", None, built_in()).data
    del data["places"]["decoder.{layer}.ffn.experts.down"]
    model = pico("mixtral")
    with pytest.raises(TableFault, match=r"2 parameters lie at no place \(4096 numbers: model"):
        vet(bind(model, read_table("mixtral", data)))
    vet(bind(model, read_table("mixtral", data | {"without": ["*.experts.down_proj"]})))


# Tables that are derived


def stranger() -> object:
    """A model of a type that no table serves."""
    config = transformers.PersimmonConfig(
        vocab_size=99, hidden_size=16, intermediate_size=32, num_hidden_layers=2, num_attention_heads=4
    )
    return transformers.AutoModelForCausalLM.from_config(config).eval().requires_grad_(False)


def test_a_model_without_a_table_loads_by_a_derived_one_that_is_logged_once(caplog):
    with caplog.at_level("WARNING"):
        backbones = [load_backbone(stranger(), tables=built_in()) for _ in range(2)]
    assert [backbone.derived for backbone in backbones] == [True, True]
    assert len([text for text in caplog.messages if "no table serves models of the type 'persimmon'" in text]) <= 1
    key = backbones[0].places("attention.key")[0]
    heads = backbones[0].module(key).weight.view(4, 3, 4, 16)  # as modeling_persimmon splits its heads
    assert torch.equal(backbones[0].parameter(key, "weight"), heads[:, 1].flatten(0, 1))
    assert not seen("llama").derived


@pytest.mark.parametrize("family", ["phi3", "falcon-gqa", "bloom", "electra", "mixtral", "gpt2"])
def test_a_derived_table_passes_the_checks_and_finds_the_parts_of_fused_matrices(family):
    model = pico(family).requires_grad_(False)
    derived, shipped = bind(model, derive(model)), seen(family)
    vet(derived)
    for place in derived.places("attention.query", "attention.key", "attention.value", "ffn"):
        mine = shipped.place(place.name)
        assert (place.module, place.until) == (mine.module, mine.until)
        assert place.kind == "ffn" or torch.equal(derived.parameter(place, "weight"), shipped.parameter(mine, "weight"))
    assert not derived.forgotten


def test_a_derived_table_that_fails_a_check_is_refused_with_the_place_and_the_way_to_write_it():
    with pytest.raises(BadInput, match=r"derived from the module names fails a check \(.*decoder\.\d"):
        load_backbone(pico("lfm2"), tables={})


REASONS = {
    "xlnet": r"because the layers of the decoder at layer \(XLNetLayer\) hold no module that projects to queries",
    "funnel": r"because the layers of the encoder lie in lists within the list encoder\.blocks",
    "mamba": r"because the layers of the decoder at layers \(MambaBlock\) hold no module that projects to queries",
    "mamba2": r"because the layers of the decoder at layers \(Mamba2Block\) hold no module that projects to queries",
    "prophetnet": r"fails a check \(.*decoder\.0\.attention is passed twice .*; list its kind as repeated\); correct",
}


@pytest.mark.parametrize("family", WITHOUT_TABLE)
def test_a_type_that_no_table_can_be_derived_for_is_refused_with_the_reason_and_the_way_to_write_one(family):
    with pytest.raises(BadInput, match=rf"{REASONS[family]}.*docs/backbones\.md shows"):
        load_backbone(pico(family), tables=built_in())


# Prefixes

BESIDE_THE_INTERFACE = {
    "deberta-v2": "DisentangledSelfAttention",
    "deberta": "DisentangledSelfAttention",
    "longformer": "LongformerSelfAttention",
    "mpnet": "MPNetSelfAttention",
    "roformer": "RoFormerSelfAttention",
    "big-bird": "BigBirdSelfAttention",
    "xlm": "MultiHeadAttention",
    "falcon-gqa": "FalconAttention",
    "bloom": "BloomAttention",
    "gptj": "GPTJAttention",
    "codegen": "CodeGenAttention",
    "mpt": "MptAttention",
    "gpt-neo": "GPTNeoSelfAttention",
    "xglm": "XGLMAttention",
    "led": "LEDEncoderAttention",
    "longt5": "LongT5LocalAttention",
    "openai-gpt": "Attention",
}
"""The families whose attention computes its weights itself, by the class of the module."""


@pytest.mark.parametrize("family", BESIDE_THE_INTERFACE)
def test_a_prefix_is_refused_by_name_where_attention_is_not_that_of_the_interface(family):
    module = BESIDE_THE_INTERFACE[family]
    sentence = (
        rf"^prefix cannot act at (en|de)coder\.0\.attention and (1 more place|\d more places) of \w+ because {module} "
        r"does not call transformers' attention interface, which takes keys and values before its own; use another"
    )
    with pytest.raises(BadInput, match=sentence):
        attach(seen(family), Prefix(length=2))


# Methods


def of_the_first_part(weights: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """A method's weights, named as in an expression that is the method alone."""
    return {f"0.0.{name}": x for name, x in weights.items()}


def test_full_trains_every_parameter_of_a_mixture_or_refuses_a_table_that_forgets_some():
    backbone = seen("qwen2-moe")
    assert count(Full(), backbone) == sum(x.numel() for x in backbone.model.parameters())
    data = backbone.table.data
    del data["places"]["decoder.{layer}.ffn.router"]
    forgetful = bind(backbone.model, read_table("qwen2_moe", data))
    with pytest.raises(BadInput, match=r"cannot train all parameters .* no place for 2 of them \(model"):
        Full().init(forgetful, torch.Generator())


@pytest.mark.parametrize("family", ["mixtral", "gpt-oss"])
def test_ia3_scales_the_inner_activation_of_each_expert(family):
    backbone = seen(family)
    weights = IA3(places=("ffn.activation",)).init(backbone, torch.Generator())
    assert {tuple(x.shape) for x in weights.values()} == {(4, 32)}
    scales = {name: torch.rand_like(x) for name, x in weights.items()}
    with attached(backbone, IA3(places=("ffn.activation",)), of_the_first_part(scales)) as model:
        found = forward(backbone, tokens(backbone))
    by_hand = pico(family)
    for layer in range(2):
        experts, scale = by_hand.model.layers[layer].mlp.experts, 1 + scales[f"decoder.{layer}.ffn.experts.down.scale"]
        experts.down_proj.data.mul_(scale[:, :, None] if family == "gpt-oss" else scale[:, None, :])
    torch.testing.assert_close(found, forward(bind(by_hand, backbone.table), tokens(backbone)))
    assert model is backbone.model


@pytest.mark.parametrize("family", ["phi3", "falcon-gqa", "falcon-mqa", "codegen", "deepseek-v3", "qwen3-next"])
def test_lora_at_the_slices_of_a_fused_matrix_is_a_change_of_the_slices_rows_alone(family):
    backbone, method = seen(family), LoRA(rank=2, alpha=2.0)
    weights = {name: torch.randn(x.shape) / 4 for name, x in method.init(backbone, torch.Generator()).items()}
    with attached(backbone, method, of_the_first_part(weights)):
        found = forward(backbone, tokens(backbone))
    changed = pico(family)
    other = bind(changed, backbone.table)
    for place in other.places("attention.query", "attention.value"):
        rows = Slice(place.part).take(torch.arange(backbone.fused_width(place)))
        change = weights[f"{place.name}.up"] @ weights[f"{place.name}.down"]
        other.module(place).weight.data[rows] += change
    torch.testing.assert_close(found, forward(other, tokens(other)))
