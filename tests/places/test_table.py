"""Tables are data: read strictly, printed as they read, and derived where there is none."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import transformers
import yaml
from deltacompose_plugins.backbones import members, tables
from hypothesis import given
from hypothesis import strategies as st
from passes import backbone_of, run, seen

from deltacompose.backbone import bind
from deltacompose.backbone.infer_table import derive
from deltacompose.backbone.loading import load_backbone
from deltacompose.backbone.pico import COMMON, CONFIGURATIONS, FAMILIES, pico
from deltacompose.backbone.pico_diffusion import DENOISERS
from deltacompose.errors import BadInput
from deltacompose.places import read_spot
from deltacompose.places.table import locate, read_number, read_table, read_table_file

# Tables


def test_no_model_type_is_served_by_two_built_in_tables_and_each_has_a_pico_model():
    serves = [model_type for table in tables().values() for model_type in table.serves]
    assert len(set(serves)) == len(serves)
    assert set(serves) == {model_type for model_type, _ in CONFIGURATIONS.values()} | set(DENOISERS)
    of_text = {name for name, table in tables().items() if table.kind != "denoiser"}
    assert {backbone_of(family).family for family in CONFIGURATIONS} == of_text
    assert [backbone_of(family).family for family in FAMILIES] == list(FAMILIES)
    assert set(members()) == {*tables(), "embedded"}


@pytest.mark.parametrize("name", tables())
def test_a_table_prints_as_yaml_that_reads_back_as_the_same_table(name):
    table = tables()[name]
    assert read_table(name, yaml.safe_load(str(table))[name]) == table


paths = st.lists(st.sampled_from(["h", "layers", "0", "attn", "c_attn", "{layer}"]), min_size=1, max_size=4).map(
    lambda parts: ".".join(["model", *parts])
)


@given(
    path=paths, until=paths, index=st.integers(0, 5), of=st.integers(1, 6), per_head=st.booleans(), may=st.booleans()
)
def test_what_a_table_says_of_a_place_is_read_as_written(path, until, index, of, per_head, may):
    end = "?" if may else ""
    assert read_spot(f"{path} .. {until}{end}").paths == (path, until)
    assert read_spot(f"/{path}@input{end}").port == "input"
    assert read_spot(f"{path}{end}").optional == may
    notation = f"{path}[{index}/{of}{' per head' if per_head else ''}]{end}"
    if index < of:
        spot = read_spot(notation)
        assert f"{spot.module}{spot.part}" == notation.removesuffix("?")
    else:
        with pytest.raises(BadInput, match="parts count from 0"):
            read_spot(notation)


@given(a=st.integers(1, 99), b=st.integers(1, 99), c=st.integers(0, 99))
def test_numbers_of_a_table_are_worked_out_from_left_to_right(a, b, c):
    config = SimpleNamespace(a=a, b=b, none=None)
    assert read_number(f"a * b - {c} / b", config) == (a * b - c) // b
    assert read_number(("missing", "none / b", "a + b"), config) == a + b
    with pytest.raises(BadInput, match="SimpleNamespace has no number 'missing / a'"):
        read_number("missing / a", config)


def minimal() -> dict[str, Any]:
    stack = {"module": ".", "layers": "n_layer", "width": "n_embd", "heads": "n_head", "head_width": 4}
    places = {"embedding": "wte", "decoder.{layer}.attention": "h.{layer}.attn"}
    return {"serves": ["gpt2"], "kind": "decoder", "stacks": {"decoder": stack}, "places": places}


MISUSES = [
    ({"place": {}}, "no key of a table 'place'; did you mean 'places'"),
    ({"kind": "decoder-only"}, "no kind of backbone 'decoder-only'; did you mean 'decoder'"),
    ({"kind": "encoder"}, "no key of stacks 'decoder'"),
    ({"serves": "gpt2"}, "serves is 'gpt2'; expected a list of model types"),
    ({"stacks": {"decoder": {"module": "."}}}, "stack decoder lacks the keys head_width, heads, width"),
    ({"stacks": {}}, "stacks lacks the key decoder"),
    ({"places": {}}, "places is not a mapping of names to module paths"),
    (
        {"places": {"decoder.{layer}.atention": "h.{layer}.attn"}},
        "no kind of place 'atention'; did you mean 'attention'",
    ),
    ({"places": {"encoder.{layer}.attention": "h.{layer}.attn"}}, "no stack 'encoder'; .*stacks: decoder"),
    ({"places": {"decoder.{layer}.attention": "h.0.attn"}}, "stands in the name or in the path, but not in both"),
    ({"places": {"decoder.0.attention": "h.0.attn"}}, "names one layer; write {layer}"),
    ({"places": {"0.attention": "h.0.attn"}}, "has a layer but no stack"),
    ({"places": {"decoder.{layer}.attention": "h.{layer}.attn[3/3]"}}, "part 3 of 3 does not exist"),
    (
        {"places": {"decoder.{layer}.attention": "h.{layer}.attn -> x"}},
        "is not a valid place of a table",
    ),
    ({"places": {"embedding": 3}}, "embedding is 3; expected a module path"),
    ({"places": {"Embedding!": "wte"}}, "is not a place name"),
]


@pytest.mark.parametrize(("change", "message"), MISUSES)
def test_a_table_that_is_wrong_is_refused_by_name(change, message):
    with pytest.raises(BadInput, match=f"table 'mine': .*{message}"):
        read_table("mine", minimal() | change)


@pytest.mark.parametrize("number", [True, 1.5, "n_layer /", "n layer", "n_layer ** 2", None, []])
def test_a_number_of_a_table_is_an_attribute_or_a_formula(number):
    data = minimal()
    data["stacks"]["decoder"]["width"] = number
    with pytest.raises(BadInput, match="width is"):
        read_table("mine", data)


def test_a_place_at_no_module_is_refused_with_what_lies_near():
    data = minimal()
    data["places"]["decoder.{layer}.ffn"] = "h.{layer}.mpl"
    with pytest.raises(
        BadInput, match=r"table 'mine' puts decoder.0.ffn at 'transformer.h.0.mpl', .*transformer.h.0.mlp"
    ):
        bind(pico("gpt2"), read_table("mine", data))


def test_the_first_alternative_that_exists_is_taken_in_each_layer():
    data = minimal()
    data["places"] |= {
        "decoder.{layer}.ffn": ["h.{layer}.feed", "h.{layer}.mlp?"],
        "decoder.{layer}.norm": "h.{layer}.x?",
    }
    config = SimpleNamespace(n_layer=2)
    modules = frozenset(["wte", "h.0.attn", "h.1.attn", "h.0.mlp", "h.1.feed"])
    found = locate(read_table("mine", data), config, "", modules)
    assert [place.module for place in found if place.kind == "ffn"] == ["h.0.mlp", "h.1.feed"]
    assert not [place for place in found if place.kind == "norm"]


def test_a_key_that_stands_twice_in_a_file_is_refused(tmp_path):
    file = tmp_path / "mine.yaml"
    file.write_text("serves: [a]\nserves: [b]\n")
    with pytest.raises(BadInput, match="the key 'serves' stands twice"):
        read_table_file(file)


# Derived tables

STRANGERS = {
    "persimmon": transformers.PersimmonConfig(
        vocab_size=99, hidden_size=16, intermediate_size=32, num_hidden_layers=2, num_attention_heads=4
    ),
    "electra": transformers.ElectraConfig(
        vocab_size=99,
        hidden_size=16,
        embedding_size=8,
        num_hidden_layers=2,
        num_attention_heads=4,
        intermediate_size=32,
    ),
    "gptj": transformers.GPTJConfig(
        vocab_size=99, n_embd=16, n_layer=2, n_head=4, rotary_dim=4, bos_token_id=1, eos_token_id=2
    ),
    "phi": transformers.PhiConfig(
        vocab_size=99, hidden_size=16, intermediate_size=32, num_hidden_layers=2, num_attention_heads=4
    ),
    "phi3": transformers.Phi3Config(
        vocab_size=99,
        hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        pad_token_id=0,
        bos_token_id=1,
        eos_token_id=2,
    ),
    "bloom": transformers.BloomConfig(vocab_size=99, hidden_size=16, n_layer=2, n_head=4),
    "falcon": transformers.FalconConfig(vocab_size=99, hidden_size=16, num_hidden_layers=2, num_attention_heads=4),
}


def stranger(name: str) -> Any:
    config = STRANGERS[name]
    maker = transformers.AutoModel if name == "electra" else transformers.AutoModelForCausalLM
    return maker.from_config(config).eval()


@pytest.mark.parametrize("family", [family for family in COMMON if not family.startswith("gemma")])
def test_a_derived_table_agrees_with_the_built_in_one(family):
    backbone = backbone_of(family)
    derived = bind(backbone.model, derive(backbone.model))
    assert derived.kind == backbone.kind
    for place in derived.places():
        if place.kind == "positions" and backbone.family in ("marian", "pegasus"):
            continue  # they are tabled, which the names do not tell
        assert place.kind.startswith("other.") or place == backbone.place(place.name)
    missing = {place.kind for place in backbone.places()} - {place.kind for place in derived.places()}
    norms = {"attention.norm", "cross_attention.norm", "ffn.norm"}
    assert missing <= (norms | {"attention.positions"} if backbone.family == "t5" else set())
    assert not derived.forgotten
    for name in backbone.streams:
        own, built_in = derived.stream(name), backbone.stream(name)
        assert own == built_in
    for place in derived.places("attention"):
        assert derived.heads(place) == backbone.heads(place)


@pytest.mark.parametrize("name", STRANGERS)
def test_a_derived_table_of_a_stranger_is_sensible(name):
    backbone = load_backbone(stranger(name), tables=tables(), table="derived")
    kinds = {place.kind for place in backbone.places()}
    assert {"embedding", "attention", "attention.norm", "attention.output", "ffn", "ffn.down", "layer"} <= kinds
    with seen(backbone, *backbone.places()) as (_, outputs):
        run(backbone)
    for place in backbone.places():
        if place.port != "parameter":
            own = outputs[place.name].shape[-1]
            assert (own if place.part is None else place.part.width(own)) == backbone.width(place)
    again = read_table(name, yaml.safe_load(str(backbone.table))[name])
    assert again == backbone.table


def test_a_derived_table_finds_where_queries_keys_and_values_lie_in_a_fused_matrix():
    falcon, phi3, bloom, electra = (
        load_backbone(stranger(name), table="derived") for name in ("falcon", "phi3", "bloom", "electra")
    )
    for backbone, heads, part in (
        (falcon, 1, "[1 of 4, 1, 1]"),
        (phi3, 2, "[1 of 4, 2, 2]"),
        (bloom, 4, "[1/3 per 4]"),
    ):
        assert str(backbone.places("attention.key")[0].part) == part
        assert backbone.heads(backbone.places("attention")[0]) == (heads, 4)
    assert electra.embedding_width == 8
    assert electra.width(electra.places("layer")[0]) == 16


def test_a_table_in_hand_is_taken_for_the_derived_one():
    model = stranger("persimmon")
    mine = derive(model)
    assert load_backbone(model, tables=tables(), table=mine.data).places() == bind(model, mine).places()
    with pytest.raises(BadInput, match="no table 'persimon'; "):
        load_backbone(model, tables=tables(), table="persimon")


def test_a_model_without_attention_has_no_derived_table():
    config = transformers.ResNetConfig(embedding_size=8, hidden_sizes=[8], depths=[1])
    with pytest.raises(BadInput, match="no table can be derived for ResNetModel because the layers of the encoder"):
        derive(transformers.AutoModel.from_config(config))
