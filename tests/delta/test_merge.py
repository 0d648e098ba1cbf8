"""Merging: a plain model does what the delta in force does, and what cannot be merged is refused with the reason."""

import pytest
import torch
from deltacompose_plugins import IA3, Adapter, BitFit, Full, LoRA, Norm, Peft, Prefix, Prompt, Selective
from transformers import AutoModelForCausalLM

from deltacompose.attach import attached
from deltacompose.backbone.pico import pico_backbone
from deltacompose.composition import composition
from deltacompose.delta import Delta
from deltacompose.delta.exchange import export_merged
from deltacompose.delta.merge import answer, merge, probe
from deltacompose.errors import BadInput
from deltacompose.method.weights import finalized, generator, init_constants, init_weights

FAMILIES = ("t5", "bert", "gpt2", "llama", "gpt-neox", "opt")


def trained(backbone, term, by: float = 0.1) -> Delta:
    """A delta whose every weight is off its start, as after training."""
    weights, constants = init_weights(backbone, term), init_constants(backbone, term)
    off = {n: x + by * torch.randn(x.shape, generator=generator(0, n)) for n, x in weights.items()}
    kept = finalized(term, {**off, **constants})
    record = {"name": backbone.name, "family": backbone.family, "fingerprint": backbone.fingerprint}
    own = {n: x for n, x in kept.items() if n not in constants}
    return Delta(composition(term), own, constants, record)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize(
    "term",
    [
        LoRA(rank=2),
        LoRA(rank=2, dora=True, places=("*attention.query", "ffn.up")),
        Full(),
        Norm() + LoRA(rank=2) >> LoRA(rank=3, places=("*attention.value", "ffn.down")),
        Peft(type="oft", options="oft_block_size=4"),
        Peft(type="ln_tuning"),
        Peft(type="ia3"),
        Peft(type="glora", options="r=2"),
    ],
    ids=str,
)
def test_a_merged_model_equals_the_delta_in_force(family, term):
    backbone = pico_backbone(family)
    state = {name: x.clone() for name, x in backbone.model.state_dict().items()}
    merged = merge(trained(backbone, term), backbone)
    given = probe(backbone)
    assert merged.difference <= 1e-5 * max(1.0, merged.size)
    assert (answer(merged.model, given) - answer(backbone.model, given)).abs().max() > 1e-3
    assert type(merged.model) is type(backbone.model)
    assert merged.model.state_dict().keys() == state.keys()
    assert all(torch.equal(x, state[name]) for name, x in backbone.model.state_dict().items())


@pytest.mark.parametrize("family", ["bert", "gpt2", "opt"])
def test_biases_merge_where_the_model_has_them(family):
    backbone = pico_backbone(family)
    merged = merge(trained(backbone, BitFit() + Peft(type="ia3")), backbone)
    assert merged.difference <= 1e-5 * merged.size


def test_a_merged_model_opens_in_a_folder_of_its_own(tmp_path):
    backbone = pico_backbone("llama")
    merged = merge(trained(backbone, LoRA(rank=2)), backbone)
    merged.model.save_pretrained(tmp_path)
    again = AutoModelForCausalLM.from_pretrained(tmp_path)
    given = probe(backbone)
    assert torch.equal(answer(again, given), answer(merged.model, given))


def test_tied_weights_stay_tied_and_change_together():
    backbone = pico_backbone("t5")
    term = Peft(type="trainable_tokens", options="token_indices=[7, 9, 30]")
    merged = merge(trained(backbone, term), backbone)
    owners = {id(merged.model.get_parameter(name)) for name in ("shared.weight", "lm_head.weight")}
    assert len(owners) == 1
    assert merged.difference <= 1e-5 * merged.size


def test_the_difference_is_that_between_the_two_models():
    backbone = pico_backbone("gpt2")
    delta = trained(backbone, LoRA(rank=2))
    merged = merge(delta, backbone)
    given = probe(backbone)
    with attached(backbone, delta.expression, delta.weights, finalized=True), torch.no_grad():
        live = answer(backbone.model, given)
    with torch.no_grad():
        assert float((answer(merged.model, given) - live).abs().max()) == merged.difference
    with torch.no_grad():
        merged.model.transformer.h[0].mlp.c_fc.weight += 1
        assert (answer(merged.model, given) - live).abs().max() > 1e-2


REFUSED = [
    ("t5", Adapter(), "adapter cannot be merged: it acts on the activations at encoder.0.attention, and merging"),
    ("t5", IA3(), "ia3 cannot be merged: it acts on the activations at "),
    ("llama", LoRA() + Prompt(), "prompt cannot be merged: it puts tokens before the input of the decoder"),
    ("llama", LoRA() >> Prefix(), "prefix cannot be merged: it puts keys and values before those of decoder.0.attent"),
    ("t5", BitFit(), "bitfit cannot be merged: .* has no bias at encoder.0.attention.norm to change"),
    ("llama", Peft(type="beft"), "has no bias at decoder.0.attention.query to change"),
]


@pytest.mark.parametrize(("family", "term", "message"), REFUSED, ids=lambda one: str(one)[:30])
def test_what_is_no_change_of_weights_is_refused_with_the_reason(family, term, message):
    backbone = pico_backbone(family)
    with pytest.raises(BadInput, match=message):
        merge(trained(backbone, term), backbone)


def test_a_delta_of_another_backbone_is_refused():
    delta = trained(pico_backbone("llama"), LoRA())
    with pytest.raises(BadInput, match=r"was trained on .*, not on "):
        merge(delta, pico_backbone("llama", seed=1))


def test_selected_modules_merge():
    backbone = pico_backbone("bert")
    merged = merge(trained(backbone, Selective()), backbone)
    assert merged.difference <= 1e-5 * merged.size


def test_codes_of_a_few_bits_are_not_merged_into():
    backbone = pico_backbone("llama")
    delta = trained(backbone, LoRA(rank=2))
    module = backbone.module(backbone.place("decoder.0.attention.query"))
    module.weight = torch.nn.Parameter(torch.zeros(16, 16, dtype=torch.int8), requires_grad=False)
    with pytest.raises(
        BadInput, match=r"decoder\.0\.attention\.query of .* is quantised; load the backbone with dtype"
    ):
        merge(Delta(delta.expression, delta.weights), backbone)


# A folder that is whole or not there


def test_a_merged_model_that_cannot_be_saved_leaves_no_folder_behind(tmp_path):
    backbone = pico_backbone("gpt2")
    delta = Delta(composition(LoRA(rank=2)), init_weights(backbone, LoRA(rank=2)))
    folder = tmp_path / "deep" / "merged"
    backbone.model.generation_config.temperature = 0.5  # without sampling: transformers saves no such settings
    with pytest.raises(BadInput, match=r"cannot save the merged model because transformers refuses it: .*temperature"):
        export_merged(delta, backbone, folder)
    assert list((tmp_path / "deep").iterdir()) == []
    backbone.model.generation_config.temperature = 1.0
    export_merged(delta, backbone, folder)
    assert {"config.json", "model.safetensors", "tokenizer.json"} <= {path.name for path in folder.iterdir()}
    assert [path.name for path in (tmp_path / "deep").iterdir()] == ["merged"]


def test_a_failed_export_leaves_an_earlier_one_as_it_was(tmp_path):
    backbone = pico_backbone("gpt2")
    delta = Delta(composition(LoRA(rank=2)), init_weights(backbone, LoRA(rank=2)))
    (tmp_path / "notes.txt").write_text("kept")
    backbone.model.generation_config.temperature = 1.0
    export_merged(delta, backbone, tmp_path)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    backbone.model.generation_config.temperature = 0.5
    with pytest.raises(BadInput, match="cannot save the merged model"):
        export_merged(delta, backbone, tmp_path)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before
    backbone.model.generation_config.temperature = 1.0
    export_merged(delta, backbone, tmp_path)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


@pytest.mark.parametrize("family", ["deberta-v2", "mixtral", "gpt-oss"])
def test_a_change_of_bare_parameters_merges(family):
    """Relative positions, experts and sinks are parameters of a module that is not a linear layer."""
    backbone = pico_backbone(family)
    part = Full(places=tuple({place.kind for place in backbone.places() if place.port == "parameter"}))
    weights = {f"0.0.{name}": x + 0.1 for name, x in part.init(backbone, torch.Generator()).items()}
    delta = Delta(composition(part), weights)
    merged = merge(delta, backbone)
    assert merged.difference <= 1e-5 * merged.size
    assert any(not torch.equal(x, backbone.model.get_parameter(name)) for name, x in merged.model.named_parameters())
