"""What is exported opens in peft with equal outputs on many families, and comes back as the same function."""

import copy
import json
import warnings

import pytest
import torch
from deltacompose_plugins import METHODS
from peftwork import MODELS, backbone_of, live, opened, shipped, trained

from deltacompose.composition import parse
from deltacompose.delta.exchange import export_merged, export_peft, import_peft
from deltacompose.delta.merge import answer, probe
from deltacompose.errors import BadInput
from deltacompose.plugins import load

KNOWN = load(disabled=True).methods
NATIVE = sorted(name for name in METHODS if name != "peft")
COMPOSED = [
    "lora(dora=True)",
    "lora(rank=2, places=('embedding',))",
    "lora(rank=2, places=('head',)) + lora(rank=3, places=('embedding', '*attention.query'))",
    "lora(rank=4, rslora=True, places=('*attention.query', 'ffn.up')) >> lora(rank=2, places=('ffn.up', 'ffn.down'))",
    "ia3 >> ia3(places=('ffn.up',))",
    "prompt(length=3) + p_tuning(length=2)",
    "prefix(length=2) + prefix(length=3, mlp=4)",
    "lora + prompt",
]
DECODERS = ("llama", "gpt-neox", "gemma", "phi3")


def close(one, other) -> None:
    torch.testing.assert_close(one, other, atol=1e-5, rtol=1e-5)


def exchanged(backbone, text, folder) -> str:
    """Exports a delta and checks it in peft and back; peft's type, or the sentence of a refusal."""
    try:
        delta = trained(backbone, parse(text, KNOWN))
        peft_type = export_peft(delta, backbone, folder)
    except BadInput as error:
        assert not folder.exists()
        return str(error)
    expected = live(backbone, delta)
    close(opened(backbone, folder), expected)
    close(live(backbone, import_peft(folder, backbone, KNOWN)), expected)
    return peft_type


@pytest.mark.parametrize("family", [name for name in MODELS if name != "gpt-oss"])
def test_every_method_is_the_same_function_in_peft_or_refused(family, tmp_path):
    backbone = backbone_of(family)
    outcomes = {text: exchanged(backbone, text, tmp_path / str(k)) for k, text in enumerate([*NATIVE, *COMPOSED])}
    exported = {text for text, outcome in outcomes.items() if outcome.isupper()}
    refused = {text: outcome for text, outcome in outcomes.items() if text not in exported}
    assert all(len(sentence.split()) > 5 for sentence in refused.values())
    assert "lora" in exported or "no place" in refused["lora"]
    assert {"adapter", "full", "norm", "bitfit", "lora(dora=True)", "lora + prompt"}.isdisjoint(exported)
    if family in DECODERS:
        assert {"prefix", "prompt", "p_tuning", "ia3"} & set(NATIVE) <= exported | {"ia3"}


MUST = shipped("t5", "bert", "gpt2", "llama", "gpt-neox", "opt", "gemma2", "phi3", "falcon", "falcon-multiquery")


@pytest.mark.parametrize("family", MUST)
@pytest.mark.parametrize(("text", "peft_type"), [("lora", "LORA"), ("ia3", "IA3"), ("prompt", "PROMPT_TUNING")])
def test_the_common_methods_are_exported_from_these_families(family, text, peft_type, tmp_path):
    assert exchanged(backbone_of(family), text, tmp_path / "out") == peft_type


SHARED = ["t5", "bart", "gpt2", "opt", "gemma2", "llama-tied"]


@pytest.mark.parametrize("family", SHARED)
def test_a_lora_on_a_shared_matrix_is_exported_at_every_module_that_shares_it(family, tmp_path):
    backbone = backbone_of(family)
    assert exchanged(backbone, "lora(rank=2, places=('head',))", tmp_path / "out") == "LORA"
    targets = json.loads((tmp_path / "out" / "adapter_config.json").read_text())["target_modules"]
    assert len(targets) > 1
    model = copy.deepcopy(backbone.model)
    with warnings.catch_warnings(action="ignore"):
        model.load_adapter(str(tmp_path / "out"))
    delta = import_peft(tmp_path / "out", backbone, KNOWN)
    with torch.no_grad():
        close(answer(model, probe(backbone)), live(backbone, delta))


@pytest.mark.parametrize("family", SHARED)
def test_a_lora_on_a_shared_matrix_is_merged_as_it_acts(family, tmp_path):
    backbone = backbone_of(family)
    delta = trained(backbone, parse("lora(rank=2, places=('embedding',))", KNOWN))
    merged = export_merged(delta, backbone, tmp_path)
    assert merged.difference <= 1e-5 * merged.size


@pytest.mark.parametrize("family", ["phi", "stablelm", "persimmon", "glm", "llama-multiquery"])
def test_a_prefix_is_exported_where_part_of_a_head_is_rotated(family, tmp_path):
    assert exchanged(backbone_of(family), "prefix(length=3)", tmp_path / "out") == "PREFIX_TUNING"


WINDOWED = ["gemma2", "gemma3", "mistral-windowed"]
REFUSED = [(family, r"slides out of .*'s attention window of 8 tokens") for family in WINDOWED]
REFUSED += [(family, "peft shifts the positions of the tokens by the length of a prefix") for family in ("gpt2", "opt")]


@pytest.mark.parametrize(("family", "message"), REFUSED)
def test_a_prefix_that_peft_makes_another_function_of_is_refused_by_name(family, message, tmp_path):
    backbone = backbone_of(family)
    with pytest.raises(BadInput, match=message):
        export_peft(trained(backbone, parse("prefix(length=3)", KNOWN)), backbone, tmp_path / "out")
    assert not (tmp_path / "out").exists()
