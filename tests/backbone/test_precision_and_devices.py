"""How a backbone is held and computed: precision, few bits, devices, attention, recomputed activations, limits."""

from __future__ import annotations

import importlib.util
from dataclasses import replace

import picostudy
import pytest
import torch
import transformers

import deltacompose as dc
from deltacompose.attach import attach
from deltacompose.backbone import quantization as quantised
from deltacompose.backbone.pico import pico, pico_tokenizer
from deltacompose.errors import BadInput
from deltacompose.scoring import reader
from deltacompose.store import open_store
from deltacompose.study import BackboneChoice, Study
from deltacompose.study.recipe import Recipe
from deltacompose.task import Example, Task
from deltacompose.training import train
from deltacompose.training.learner import Job

IDS = torch.arange(10, 40).view(3, 10)
EXPRESSION = "prompt(length=2) + prefix(length=2) + lora(rank=2) + bitfit"
ROWS = tuple(Example(str(k), f"row {k}", ("a", "b")[k % 2]) for k in range(8))
TASK = Task("t", "made", "choice", "accuracy", lambda split: ROWS, verbalizer={"a": "low", "b": "high"})


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    place = tmp_path_factory.mktemp("manners")
    for family in ("bert", "llama"):
        pico(family).save_pretrained(place / family)
        pico_tokenizer(family).save_pretrained(place / family)
    return place


@pytest.fixture
def study(folder):
    return picostudy.make(folder, tasks=("mood",), seeds=(0,), transfer=False, compositions=(EXPRESSION,))


def chosen(study, **choice):
    return replace(study, backbone=replace(study.backbone, **choice))


def result(study, place):
    """The delta of a study of one training cell."""
    outcome = dc.run(study, place)
    assert not outcome.failed, outcome.failed
    [record] = [one for one in dc.records(place) if one["kind"] == "train"]
    return dc.load_delta(open_store(place).folder(record["key"]))


def test_deltas_are_fp32_whatever_the_precision_of_the_backbone(study, tmp_path):
    for dtype in ("float32", "bfloat16"):
        delta = result(chosen(study, dtype=dtype), tmp_path / dtype)
        assert {x.dtype for x in delta.weights.values()} == {torch.float32}


def test_recomputed_activations_give_the_same_delta(study, tmp_path):
    recomputed = replace(study, training=replace(study.training, checkpointing=True))
    kept, anew = result(study, tmp_path / "kept"), result(recomputed, tmp_path / "anew")
    for name, tensor in kept.weights.items():
        torch.testing.assert_close(anew.weights[name], tensor, rtol=1e-5, atol=1e-6)
    assert set(dc.plan(study)) != set(dc.plan(recomputed))


@pytest.mark.parametrize("family", ["bert", "llama"])
def test_attention_is_computed_as_asked_and_comes_to_the_same(folder, family):
    logits = []
    for attention in ("eager", "sdpa"):
        backbone = dc.load_backbone(folder / family, attention=attention)
        assert backbone.model.config._attn_implementation == attention
        weights = dc.init_weights(backbone, EXPRESSION)
        with dc.attached(backbone, EXPRESSION, weights) as model:
            logits.append(model(input_ids=IDS)[0])
        assert backbone.model.config._attn_implementation == attention
    torch.testing.assert_close(logits[0], logits[1], rtol=1e-4, atol=1e-5)


def test_attention_makes_other_cells_and_a_device_does_not(study):
    assert not set(dc.plan(chosen(study, attention="eager"))) & set(dc.plan(study))
    assert set(dc.plan(chosen(study, device="cpu"))) == set(dc.plan(study))


def test_layers_spread_by_accelerate_take_edits_and_lose_them_again(folder):
    plain, spread = (dc.load_backbone(folder / "llama", device=device) for device in ("cpu", "auto"))
    weights = {name: x + 0.1 for name, x in dc.init_weights(plain, EXPRESSION).items()}
    before = spread.model(input_ids=IDS).logits
    with dc.attached(plain, EXPRESSION, weights), dc.attached(spread, EXPRESSION, weights), torch.no_grad():
        assert (plain.model(input_ids=IDS).logits == spread.model(input_ids=IDS).logits).all()
    assert (spread.model(input_ids=IDS).logits == before).all()


def test_a_deltas_tensors_go_to_the_device_of_the_layer_they_act_on(folder):
    backbone = dc.load_backbone(folder / "llama")
    weights = dc.init_weights(backbone, EXPRESSION)
    far = backbone.model.model.layers[1].to("meta")  # stands for a second device, on which shapes alone are computed
    attachment = attach(backbone, dc.parse(EXPRESSION))
    attachment.put(weights)
    states = torch.empty(2, 5, 16, device="meta")
    out = far.mlp(states)
    query = far.self_attn.q_proj(states)
    attachment.detach()
    assert (out.device.type, query.device.type) == ("meta", "meta")


def test_what_cannot_be_had_is_said(folder, tmp_path):
    with pytest.raises(BadInput, match=r"no device 'cuda:9' here .*devices: cpu.*auto, balanced"):
        dc.load_backbone(folder / "bert", device="cuda:9")
    with pytest.raises(BadInput, match="no attention 'flash'; attentions: eager, flash_attention_2, sdpa"):
        dc.load_backbone(folder / "bert", attention="flash")
    with pytest.raises(BadInput, match="no dtype 'int4'"):
        dc.load_backbone(folder / "bert", dtype="int4")
    (tmp_path / "a.yaml").write_text("name: a\ntasks: [t]\ncompositions: [lora]\nbackbone: {attention: fast}\n")
    with pytest.raises(BadInput, match=r"backbone\.attention: 'fast': input should be 'eager', 'sdpa'"):
        Study.read(tmp_path / "a.yaml")


def test_few_bits_without_the_library_for_them_are_said(study, monkeypatch):
    found = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "bitsandbytes" else found(name))
    with pytest.raises(BadInput, match="dtype 'nf4' needs bitsandbytes, which is not installed; `pip install"):
        dc.plan(chosen(study, dtype="nf4"))


def test_a_study_whose_inputs_do_not_fit_the_positions_is_told_so(study, tmp_path):
    with pytest.raises(BadInput, match=r"limit=1000 tokens of input, and .* has positions for 512"):
        dc.run(replace(study, training=replace(study.training, limit=1000)), tmp_path)
    long = replace(study, compositions=("prompt(length=500)",))
    outcome = dc.run(long, tmp_path)
    [reason] = set(outcome.failed.values())
    assert "a prompt of 500 and an input of" in reason
    assert "more than the 512 positions of BertModel" in reason


def test_a_choice_of_backbone_reads_as_it_was_written(tmp_path):
    choice = BackboneChoice("m", "nf4", attention="eager", device="auto")
    study = Study("a", ("t",), ("lora",), backbone=choice)
    study.write(tmp_path / "a.yaml")
    assert Study.read(tmp_path / "a.yaml") == study


# Few bits


@pytest.fixture(scope="module")
def wide(tmp_path_factory):
    """A Llama whose every matrix has sides that bitsandbytes' kernels for CPUs take: multiples of 32."""
    place = tmp_path_factory.mktemp("wide") / "llama"
    config = pico("llama").config
    config.update({"hidden_size": 64, "intermediate_size": 128, "head_dim": 16})
    torch.manual_seed(0)
    transformers.AutoModelForCausalLM.from_config(config).save_pretrained(place)
    pico_tokenizer("llama").save_pretrained(place)
    return place


@pytest.fixture(params=quantised.QUANTISED)
def few(request, wide):
    if importlib.util.find_spec("bitsandbytes") is None:
        pytest.skip("bitsandbytes is not installed")
    return dc.load_backbone(wide, dtype=request.param)


def test_a_backbone_in_few_bits_has_the_places_and_widths_of_the_whole_one(few, wide):
    whole = dc.load_backbone(wide)
    assert [place.name for place in few.places()] == [place.name for place in whole.places()]
    for place in few.places():
        assert few.width(place) == whole.width(place)
        if "weight" in few.parameter_names(place):
            near, true = few.parameter(place, "weight").float(), whole.parameter(place, "weight")
            assert near.shape == true.shape
            assert (near - true).norm() <= 0.15 * true.norm()


def test_a_delta_is_trained_on_a_backbone_in_few_bits_and_leaves_it_as_it_was(few):
    with torch.no_grad():
        before = few.model(input_ids=IDS).logits
    recipe = Recipe(steps=2, batch=4, keep="last")
    [delta] = train(few, [Job(dc.parse(EXPRESSION), reader(few, TASK), 0, recipe)])
    assert not isinstance(delta, Exception), delta
    assert all(torch.isfinite(x).all() for x in delta.weights.values())
    assert any(x.any() for name, x in delta.weights.items() if name.endswith(".up"))
    with torch.no_grad():
        assert (few.model(input_ids=IDS).logits == before).all()


def test_gradients_on_a_backbone_in_few_bits_are_those_of_its_values_in_full_also_after_it_was_evaluated(few, wide):
    whole = dc.load_backbone(wide, dtype="bfloat16")
    for place in whole.places():
        if "weight" in whole.parameter_names(place):
            whole.module(place).weight.data.copy_(few.parameter(place, "weight"))
    with torch.no_grad():
        few.model(input_ids=IDS)
    found = []
    for backbone in (few, whole):
        weights = {n: x.requires_grad_() for n, x in dc.init_weights(backbone, "prompt(length=2)").items()}
        with dc.attached(backbone, "prompt(length=2)", weights) as model:
            loss = model(input_ids=IDS).logits.float().logsumexp(-1).sum()
            found.append(torch.cat([x.flatten() for x in torch.autograd.grad(loss, list(weights.values()))]))
    assert torch.nn.functional.cosine_similarity(*found, dim=0) > 0.95


def test_a_change_of_whole_matrices_is_refused_on_a_backbone_in_few_bits(few):
    weights = dc.init_weights(few, "full(places=('attention.query',))")
    with (
        pytest.raises(BadInput, match=r"attention.query is held in few bits, and its change is formed in full"),
        dc.attached(few, "full(places=('attention.query',))", weights),
    ):
        pass
