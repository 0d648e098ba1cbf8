"""Folders of peft's: what goes out opens in peft and in transformers with equal logits, and comes back."""

import copy
import json
import warnings

import peft
import pytest
import torch
from click.testing import Result
from deltacompose_plugins import IA3, Adapter, BitFit, LoRA, Norm, Prefix, Prompt, PTuning, VeRA
from deltacompose_plugins.peft import Peft
from safetensors.torch import load_file, save_file
from typer.testing import CliRunner

from deltacompose import api
from deltacompose.backbone.pico import pico_backbone
from deltacompose.cli import app
from deltacompose.composition import composition
from deltacompose.delta import Delta
from deltacompose.delta.exchange import export_merged, export_peft, import_peft
from deltacompose.delta.merge import answer, probe
from deltacompose.errors import BadInput
from deltacompose.method.weights import finalized, generator, init_constants, init_weights
from deltacompose.plugins import load

FAMILIES = ("t5", "bert", "gpt2", "llama", "gpt-neox", "bart")
KNOWN = load(disabled=True).methods


def trained(backbone, term, by: float = 0.1) -> Delta:
    """A delta whose every weight is off its start, as after training."""
    weights, constants = init_weights(backbone, term), init_constants(backbone, term)
    off = {n: x + by * torch.randn(x.shape, generator=generator(0, n)) for n, x in weights.items()}
    kept = finalized(term, {**off, **constants})
    record = {"name": backbone.name, "family": backbone.family, "fingerprint": backbone.fingerprint}
    return Delta(composition(term), {n: x for n, x in kept.items() if n not in constants}, constants, record)


def live(backbone, delta, given=None) -> torch.Tensor:
    with torch.no_grad(), delta.attached(backbone):
        return answer(backbone.model, given or probe(backbone))


def in_peft(backbone, folder) -> torch.Tensor:
    """The logits of peft's own model of the folder."""
    with warnings.catch_warnings(action="ignore"):
        model = peft.PeftModel.from_pretrained(copy.deepcopy(backbone.model), folder).eval()
    given = probe(backbone)
    with torch.no_grad():
        output = model(**given)
    states = output.logits if "logits" in output else output.last_hidden_state
    return states if backbone.kind == "encoder-decoder" else states[:, -given["input_ids"].shape[1] :]


def in_transformers(backbone, folder) -> torch.Tensor:
    model = copy.deepcopy(backbone.model)
    with warnings.catch_warnings(action="ignore"):
        model.load_adapter(str(folder))
    with torch.no_grad():
        return answer(model, probe(backbone))


def close(one, other) -> None:
    torch.testing.assert_close(one, other, atol=2e-5, rtol=1e-5)


LORA_LIKE = [
    LoRA(rank=2),
    LoRA(rank=4, alpha=3.0, rslora=True, places=("*attention.query", "*attention.value", "ffn.up", "ffn.down")),
    LoRA(rank=2) + LoRA(rank=3, places=("attention.value",)) >> LoRA(rank=2, places=("attention.output",)),
    VeRA(rank=4),
    Peft(type="lora", options="lora_alpha=4, r=2, use_rslora=True"),
    Peft(type="adalora", options="init_r=4, target_r=2"),
    LoRA(rank=2, places=("*attention.query", "*attention.key", "*attention.value")),
]


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("term", LORA_LIKE, ids=str)
def test_what_is_low_rank_is_a_lora_to_peft_and_to_transformers(family, term, tmp_path):
    backbone = pico_backbone(family)
    delta = trained(backbone, term)
    assert export_peft(delta, backbone, tmp_path) == "LORA"
    expected = live(backbone, delta)
    assert (expected - answer(backbone.model, probe(backbone))).abs().max() > 1e-3
    close(in_peft(backbone, tmp_path), expected)
    close(in_transformers(backbone, tmp_path), expected)
    back = import_peft(tmp_path, backbone, KNOWN)
    close(live(backbone, back), expected)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("term", [IA3(), IA3(places=("attention.value",)) + IA3(places=("ffn.up",))], ids=str)
def test_what_scales_is_an_ia3_to_peft_and_to_transformers(family, term, tmp_path):
    backbone = pico_backbone(family)
    delta = trained(backbone, term)
    assert export_peft(delta, backbone, tmp_path) == "IA3"
    expected = live(backbone, delta)
    close(in_peft(backbone, tmp_path), expected)
    close(in_transformers(backbone, tmp_path), expected)
    close(live(backbone, import_peft(tmp_path, backbone, KNOWN)), expected)


@pytest.mark.parametrize("family", ["t5", "bert", "gpt2", "llama"])
@pytest.mark.parametrize("term", [Prompt(length=4), Prompt(length=2) + PTuning(length=3)], ids=str)
def test_tokens_are_a_prompt_to_peft(family, term, tmp_path):
    backbone = pico_backbone(family)
    delta = trained(backbone, term)
    assert export_peft(delta, backbone, tmp_path) == "PROMPT_TUNING"
    expected = live(backbone, delta)
    close(in_peft(backbone, tmp_path), expected)
    close(live(backbone, import_peft(tmp_path, backbone, KNOWN)), expected)


@pytest.mark.parametrize("family", ["llama", "gpt-neox", "qwen3", "smollm3", "gemma"])
def test_a_prefix_where_positions_are_rotations_is_turned_and_is_the_same_function(family, tmp_path):
    backbone = pico_backbone(family)
    delta = trained(backbone, Prefix(length=2) + Prefix(length=3, mlp=4))
    assert export_peft(delta, backbone, tmp_path) == "PREFIX_TUNING"
    expected = live(backbone, delta)
    close(in_peft(backbone, tmp_path), expected)
    close(live(backbone, import_peft(tmp_path, backbone, KNOWN)), expected)
    stored = load_file(tmp_path / "adapter_model.safetensors")["prompt_embeddings"]
    ours = delta.weights["0.0.decoder.0.attention.keys"]
    heads, width = backbone.heads(backbone.place("decoder.0.attention"))
    assert not torch.allclose(stored[:2, : heads * width], ours.transpose(0, 1).flatten(1), atol=1e-3)


@pytest.mark.parametrize("family", ["gpt2", "opt"])
def test_a_prefix_where_positions_are_embedded_is_refused(family, tmp_path):
    backbone = pico_backbone(family)
    with pytest.raises(BadInput, match=r"peft shifts the positions .* and on .* that is another function"):
        export_peft(trained(backbone, Prefix(length=3)), backbone, tmp_path / "out")
    assert not (tmp_path / "out").exists()


# peft's own adapters


def by_peft(backbone, config, folder, by: float = 0.1) -> torch.Tensor:
    """An adapter that peft itself has made and saved, every trained tensor moved, and its logits."""
    with warnings.catch_warnings(action="ignore"):
        model = peft.get_peft_model(copy.deepcopy(backbone.model), config).eval()
        with torch.no_grad():
            for name, x in model.named_parameters():
                if x.requires_grad:
                    x += by * torch.randn(x.shape, generator=generator(0, name))
        model.save_pretrained(folder)
        given = probe(backbone)
        with torch.no_grad():
            output = model(**given)
    states = output.logits if "logits" in output else output.last_hidden_state
    return states if backbone.kind == "encoder-decoder" else states[:, -given["input_ids"].shape[1] :]


THEIRS = [
    ("llama", peft.LoraConfig(r=4, lora_alpha=6, target_modules=["q_proj", "down_proj"], task_type="CAUSAL_LM")),
    ("llama", peft.LoraConfig(r=4, target_modules="all-linear", use_rslora=True, rank_pattern={"q_proj": 2})),
    ("llama", peft.LoraConfig(r=2, target_modules=["v_proj"], use_dora=True, layers_to_transform=[1])),
    ("llama", peft.LoraConfig(r=2, target_modules=["v_proj", "k_proj"], alpha_pattern={"k_proj": 7})),
    ("t5", peft.LoraConfig(r=2, target_modules=r"encoder.*\.(q|wo)")),
    ("gpt2", peft.LoraConfig(r=2, target_modules=["c_attn", "c_proj"], fan_in_fan_out=True)),
    ("gpt2", peft.LoraConfig(r=2, target_modules=["c_attn"], fan_in_fan_out=True, use_dora=True)),
    ("gpt-neox", peft.LoraConfig(r=2, target_modules=["query_key_value"])),
    ("bert", peft.LoraConfig(r=2, target_modules=["query", "word_embeddings"])),
    ("bert", peft.IA3Config(target_modules=["key", "output.dense"], feedforward_modules=["output.dense"])),
    ("gpt2", peft.IA3Config(target_modules=["c_attn", "c_fc"], feedforward_modules=[], fan_in_fan_out=True)),
    ("llama", peft.PromptTuningConfig(num_virtual_tokens=3, task_type="CAUSAL_LM")),
    ("t5", peft.PromptTuningConfig(num_virtual_tokens=3, task_type="SEQ_2_SEQ_LM", num_transformer_submodules=1)),
    ("llama", peft.PromptEncoderConfig(num_virtual_tokens=3, task_type="CAUSAL_LM", encoder_hidden_size=8)),
    ("llama", peft.PrefixTuningConfig(num_virtual_tokens=3, task_type="CAUSAL_LM")),
    ("gpt-neox", peft.PrefixTuningConfig(num_virtual_tokens=3, task_type="CAUSAL_LM")),
]


@pytest.mark.parametrize(("family", "config"), THEIRS, ids=lambda one: getattr(one, "peft_type", one))
def test_what_peft_has_saved_is_a_delta_with_equal_logits(family, config, tmp_path):
    backbone = pico_backbone(family)
    expected = by_peft(backbone, copy.deepcopy(config), tmp_path)
    delta = import_peft(tmp_path, backbone, KNOWN)
    close(live(backbone, delta), expected)
    again = delta.save(tmp_path / "delta")
    assert (again / "delta.json").exists()


def test_a_prefix_of_pefts_on_gpt2_is_refused(tmp_path):
    backbone = pico_backbone("gpt2")
    by_peft(backbone, peft.PrefixTuningConfig(num_virtual_tokens=3, task_type="CAUSAL_LM"), tmp_path)
    with pytest.raises(BadInput, match=r"peft shifts the positions of the tokens"):
        import_peft(tmp_path, backbone, KNOWN)


def test_a_merged_folder_opens_in_transformers(tmp_path):
    from transformers import AutoModelForSeq2SeqLM, AutoTokenizer

    backbone = pico_backbone("t5")
    delta = trained(backbone, LoRA(rank=2) + Norm())
    merged = export_merged(delta, backbone, tmp_path)
    again = AutoModelForSeq2SeqLM.from_pretrained(tmp_path)
    close(answer(again, probe(backbone)), live(backbone, delta))
    assert merged.difference < 1e-4
    assert AutoTokenizer.from_pretrained(tmp_path)("ab")["input_ids"] == backbone.tokenizer("ab")["input_ids"]


# The commands


@pytest.fixture(scope="module")
def on_disk(tmp_path_factory):
    """A pico Llama's folder, and a delta's that was made on it."""
    folder = tmp_path_factory.mktemp("models")
    backbone = pico_backbone("llama")
    backbone.model.save_pretrained(folder / "llama")
    backbone.tokenizer.save_pretrained(folder / "llama")
    loaded = api.load_backbone(folder / "llama", device="cpu")
    api.with_origins(trained(loaded, LoRA(rank=2))).save(folder / "delta")
    trained(loaded, Adapter()).save(folder / "adapter")
    return folder


def run(*arguments: object) -> Result:
    return CliRunner().invoke(app, [str(one) for one in arguments])


def test_the_commands_take_a_delta_to_peft_and_back(on_disk, tmp_path):
    base = ("--backbone", on_disk / "llama")
    out = run("export", on_disk / "delta", tmp_path / "peft", "--to", "peft", *base)
    assert out.stdout == f"lora(rank=2) exported to peft as LORA, in {tmp_path / 'peft'}\n"
    back = run("import", tmp_path / "peft", tmp_path / "back", "--json", *base)
    facts = json.loads(back.stdout)
    assert facts["type"] == "LORA"
    loaded = api.load_backbone(on_disk / "llama", device="cpu")
    close(live(loaded, api.load_delta(tmp_path / "back")), live(loaded, api.load_delta(on_disk / "delta")))
    assert api.load_delta(tmp_path / "back").plugins


def test_the_command_says_how_far_the_merged_model_is(on_disk, tmp_path):
    out = run(
        "export", on_disk / "delta", tmp_path / "plain", "--to", "merged", "--backbone", on_disk / "llama", "--json"
    )
    facts = json.loads(out.stdout)
    assert 0 <= facts["largest_difference"] < 1e-4 < facts["largest_logit"]
    assert (tmp_path / "plain" / "model.safetensors").exists()


SAID = [
    (("export", "delta", "new", "--to", "pefd"), "no format 'pefd'; did you mean 'peft'? formats: merged, peft"),
    (("export", "delta", "new"), "delta is a delta; add --to peft or --to merged"),
    (("export", "delta", "llama", "--to", "peft"), "llama exists and is not an empty folder; name a new folder"),
    (("export", "adapter", "new", "--to", "merged"), "adapter cannot be merged: it acts on the activations at"),
    (("import", "delta", "new"), "is not a peft adapter's folder: there is no adapter_config.json"),
]


@pytest.mark.parametrize(("arguments", "message"), SAID, ids=lambda one: " ".join(one)[:40])
def test_the_commands_refuse_with_a_sentence(on_disk, tmp_path, arguments, message):
    named = [on_disk / one if one in ("delta", "adapter", "llama") else one for one in arguments]
    named = [tmp_path / one if one == "new" else one for one in named]
    found = run(*named, "--backbone", on_disk / "llama")
    assert isinstance(found.exception, BadInput)
    assert message in str(found.exception)


# Bad input

OUT = [
    ("t5", LoRA() + IA3(), "is LORA and IA3 to peft, and a folder of peft's holds one type"),
    ("t5", Adapter(), "adapter at encoder.0.attention is more than a scale of a linear layer and has no type in peft"),
    ("bert", BitFit(), "bitfit is not a low-rank change of weights and has no type in peft; merge it instead"),
    ("llama", LoRA(dora=True), "is not a low-rank change of weights"),
    ("t5", Prompt(stream="decoder"), "is before the decoder; peft puts prompts before the input alone"),
    ("t5", Prefix(), "peft puts prefixes before decoders alone; T5ForConditionalGeneration is an encoder-decoder"),
    ("llama", LoRA(places=("embedding", "head")), "."),
]


@pytest.mark.parametrize(("family", "term", "message"), OUT, ids=lambda one: str(one)[:30])
def test_what_peft_cannot_hold_is_refused_with_the_reason(family, term, message, tmp_path):
    backbone = pico_backbone(family)
    delta = trained(backbone, term)
    if message == ".":  # an untied embedding and head are fine
        export_peft(delta, backbone, tmp_path)
        close(in_peft(backbone, tmp_path), live(backbone, delta))
        return
    with pytest.raises(BadInput, match=message):
        export_peft(delta, backbone, tmp_path)


@pytest.fixture
def folder(tmp_path):
    backbone = pico_backbone("llama")
    export_peft(trained(backbone, LoRA(rank=2)), backbone, tmp_path / "adapter")
    return tmp_path / "adapter"


def edited(folder, **config) -> None:
    path = folder / "adapter_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | config))


def test_pickled_weights_are_refused_unread(folder):
    (folder / "adapter_model.safetensors").unlink()
    (folder / "adapter_model.bin").write_bytes(b"cos\nsystem\n(S'false'\ntR.")
    with pytest.raises(BadInput, match=r"holds adapter_model.bin, and a pickled file may run anything"):
        import_peft(folder, pico_backbone("llama"), KNOWN)


def test_an_adapter_of_another_backbone_is_refused_by_fingerprint_name_or_shape(folder):
    other = pico_backbone("llama", seed=1)
    with pytest.raises(BadInput, match=r"was exported from a backbone of fingerprint .*, not from "):
        import_peft(folder, other, KNOWN)
    (folder / "deltacompose.json").unlink()
    edited(folder, base_model_name_or_path="meta-llama/Llama-3.2-1B")
    with pytest.raises(BadInput, match=r"is for the base model 'meta-llama/Llama-3.2-1B', not for .*any_base=True"):
        import_peft(folder, other, KNOWN)
    import_peft(folder, other, KNOWN, any_base=True)
    weights = load_file(folder / "adapter_model.safetensors")
    wider = {n: torch.cat([x, x], -1) if ".lora_A." in n else x for n, x in weights.items()}
    save_file(wider, folder / "adapter_model.safetensors")
    with pytest.raises(
        BadInput, match=r"change at model.layers.0.self_attn.q_proj is \(16, 32\), and .* has \(16, 16\)"
    ):
        import_peft(folder, other, KNOWN, any_base=True)
    with pytest.raises(BadInput, match=r"no place of .* that is the output of module 'model.layers.0"):
        import_peft(folder, pico_backbone("t5"), KNOWN, any_base=True)


def test_a_scale_that_is_at_no_place_is_refused(tmp_path):
    backbone = pico_backbone("llama")  # two heads share each value, so the projection's inputs are not values
    by_peft(backbone, peft.IA3Config(target_modules=["o_proj"], feedforward_modules=["o_proj"]), tmp_path)
    with pytest.raises(BadInput, match=r"no place of .* that is the input of module 'model.layers.0.self_attn.o_proj'"):
        import_peft(tmp_path, backbone, KNOWN)


IN = [
    ({"peft_type": "OFT"}, "no importable peft type 'OFT'; .*IA3, LORA, "),
    ({"peft_type": "LORAS"}, "no importable peft type 'LORAS'; did you mean 'LORA'"),
    ({"peft_type": None}, "peft_type: None: input should be a valid string|peft_type is missing"),
    ({"layer_replication": [[0, 2]]}, r"cannot import peft's option layer_replication=\[\[0, 2\]\] because it repeats"),
]


@pytest.mark.parametrize(("config", "message"), IN)
def test_what_cannot_be_imported_is_refused_with_a_sentence(folder, config, message):
    edited(folder, **config)
    with pytest.raises(BadInput, match=message):
        import_peft(folder, pico_backbone("llama"), KNOWN)


def test_folders_that_are_none_are_refused(folder, tmp_path):
    with pytest.raises(BadInput, match=r"is not a peft adapter's folder: there is no adapter_config.json"):
        import_peft(tmp_path, pico_backbone("llama"), KNOWN)
    weights = folder / "adapter_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-40])
    with pytest.raises(BadInput, match=r"is truncated or not a safetensors file"):
        import_peft(folder, pico_backbone("llama"), KNOWN)
    weights.unlink()
    with pytest.raises(BadInput, match=r"holds no weights: there is no adapter_model.safetensors"):
        import_peft(folder, pico_backbone("llama"), KNOWN)


def test_a_tensor_that_is_none_of_the_types_is_named(folder):
    weights = load_file(folder / "adapter_model.safetensors")
    save_file(weights | {"base_model.model.other": torch.ones(1)}, folder / "adapter_model.safetensors")
    with pytest.raises(BadInput, match=r"tensor 'base_model.model.other' is not one of peft's LORA"):
        import_peft(folder, pico_backbone("llama"), KNOWN)
