"""A backbone without its weights is the loaded one in all that a plan reads of it."""

from __future__ import annotations

import gc
import json

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensor

from deltacompose import registry
from deltacompose.backbone import skeleton
from deltacompose.backbone.pico import FAMILIES, pico, pico_tokenizer
from deltacompose.cells.shapes import NeedsValues, delta_shape, shape_of
from deltacompose.errors import BadInput

COMPOSITIONS = ("lora", "prompt(length=8) + bitfit", "prefix", "full", "last_layers", "intrinsic", "ia3 >> adapter")


def saved(folder, family, head=None):
    pico(family, head=head).save_pretrained(folder)
    pico_tokenizer(family).save_pretrained(folder)
    return str(folder)


@pytest.mark.parametrize("family", FAMILIES)
def test_places_content_and_shape_are_those_of_the_loaded_backbone(family, tmp_path):
    model = saved(tmp_path, family)
    shapes, loaded = registry.load_skeleton(model), registry.load_backbone(model, device="cpu")
    assert all(isinstance(x, FakeTensor) for x in shapes.model.parameters())
    assert shapes.places() == loaded.places()
    assert shapes.content == loaded.content
    assert shape_of(shapes) == shape_of(loaded)
    assert shapes.model.config.to_dict() | {"dtype": None} == loaded.model.config.to_dict() | {"dtype": None}


@pytest.mark.parametrize("options", [{"head": "mlm"}, {"attention": "eager"}, {"dtype": "bfloat16"}])
def test_the_content_is_the_same_however_the_backbone_is_held(options, tmp_path):
    model = saved(tmp_path, "bert", options.get("head"))
    assert (
        registry.load_skeleton(model, **options).content
        == registry.load_backbone(model, device="cpu", **options).content
    )


@pytest.mark.parametrize("name", sorted(set(registry.methods()) - {"peft", "intrinsic_prompt"}))
def test_a_method_has_the_shape_that_it_has_on_the_loaded_backbone(name, tmp_path):
    model, expression = saved(tmp_path, "bert"), registry.parse(name)
    assert delta_shape(registry.load_skeleton(model), expression) == delta_shape(
        registry.load_backbone(model, device="cpu"), expression
    )


def test_a_method_that_reads_the_weights_values_says_so(tmp_path, monkeypatch):
    def init(self, backbone, generator):
        count = int(backbone.parameter(self.places_of(backbone)[0], "weight").abs().sum().item() > 0)
        return {"shared.x": torch.zeros(count)}

    lora = registry.methods()["lora"]
    monkeypatch.setattr(lora, "init", init)
    monkeypatch.setattr(lora, "places_of", lambda self, backbone: backbone.places("embedding"), raising=False)
    with pytest.raises(NeedsValues, match="lora cannot be counted without the weights of"):
        delta_shape(registry.load_skeleton(saved(tmp_path, "bert")), registry.parse("lora"))


@pytest.mark.parametrize("family", ["bert", "t5", "llama"])
def test_compositions_have_the_shapes_that_they_have_on_the_loaded_backbone(family, tmp_path):
    model = saved(tmp_path, family)
    shapes, loaded = registry.load_skeleton(model), registry.load_backbone(model, device="cpu")
    for text in COMPOSITIONS:
        expression = registry.parse(text)
        assert delta_shape(shapes, expression) == delta_shape(loaded, expression), text


def test_a_checkpoint_without_its_pooler_has_none_in_either(tmp_path):
    from transformers import BertForMaskedLM

    model = BertForMaskedLM(pico("bert").config)
    model.save_pretrained(tmp_path)
    pico_tokenizer("bert").save_pretrained(tmp_path)
    shapes, loaded = registry.load_skeleton(str(tmp_path)), registry.load_backbone(str(tmp_path), device="cpu")
    assert shapes.stream("encoder").pooler is loaded.stream("encoder").pooler is None
    assert shapes.content == loaded.content


def test_a_skeleton_without_weights_has_places_and_no_content(tmp_path):
    model = saved(tmp_path, "llama")
    loaded = registry.load_backbone(model, device="cpu")
    (tmp_path / "model.safetensors").unlink()
    shapes = registry.load_skeleton(model)
    assert shapes.places() == loaded.places()
    with pytest.raises(BadInput, match="its weights are not on this machine"):
        _ = shapes.content
    with pytest.raises(BadInput, match="holds no model"):
        registry.load_backbone(model)


def test_a_shard_that_an_index_names_and_that_is_not_there_counts_as_absent(tmp_path):
    pico("bert").save_pretrained(tmp_path, max_shard_size="20KB")
    pico_tokenizer("bert").save_pretrained(tmp_path)
    next(tmp_path.glob("model-*.safetensors")).unlink()
    assert registry.load_skeleton(str(tmp_path)).files is None


def test_a_fingerprint_is_refused_where_there_are_no_values(tmp_path):
    with pytest.raises(BadInput, match="needs its weights, which are not loaded"):
        _ = registry.load_skeleton(saved(tmp_path, "bert")).fingerprint


def test_a_derived_table_is_remembered_and_the_weights_are_loaded_once(tmp_path, monkeypatch):
    monkeypatch.setenv("DELTACOMPOSE_CACHE", str(tmp_path / "cache"))
    model = saved(tmp_path / "model", "bert")
    loads = []
    load = skeleton.load_backbone
    monkeypatch.setattr(skeleton, "load_backbone", lambda *a, **o: loads.append(a) or load(*a, **o))
    first = registry.load_skeleton(model, table="derived")
    again = registry.load_skeleton(model, table="derived")
    assert len(loads) == 1
    assert again.derived
    assert first.derived
    assert again.places() == first.places()
    assert again.content == first.content == registry.load_backbone(model, table="derived").content
    config = tmp_path / "model" / "config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | {"layer_norm_eps": 1e-6}))
    registry.load_skeleton(model, table="derived")
    assert len(loads) == 2


def test_without_weights_no_table_is_derived(tmp_path):
    model = saved(tmp_path, "bert")
    (tmp_path / "model.safetensors").unlink()
    with pytest.raises(BadInput, match="one is derived from passes, and its weights are not on this machine"):
        registry.load_skeleton(model, table="derived")


def tensors():
    """All tensors of this process with memory of their own."""
    return [x for x in gc.get_objects() if type(x) in (torch.Tensor, torch.nn.Parameter)]


def test_a_method_on_a_skeleton_takes_no_memory(tmp_path):
    from transformers import LlamaConfig

    config = LlamaConfig(
        hidden_size=8192, intermediate_size=28672, num_hidden_layers=80, num_attention_heads=64, num_key_value_heads=8
    )
    config.architectures = ["LlamaForCausalLM"]
    config.save_pretrained(tmp_path)
    pico_tokenizer("llama").save_pretrained(tmp_path)
    before = {id(x) for x in tensors()}
    shapes = registry.load_skeleton(str(tmp_path))
    assert shape_of(shapes).total > 60e9
    assert delta_shape(shapes, registry.parse("full")).trained > 60e9
    new = [x for x in tensors() if id(x) not in before and x.device.type != "meta"]
    assert max((x.numel() for x in new), default=0) < 1e6
