"""Denoisers of diffusers are backbones: a delta attaches, learns, is restored, and stands in a bank and on disk."""

from __future__ import annotations

import functools
import json
import sys
from pathlib import Path
from typing import Any

import huggingface_hub.constants
import pytest
import torch
from deltacompose_plugins.backbones import table, tables
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.nn import functional as F

import deltacompose as dc
from deltacompose import plugins
from deltacompose.attach import attach, attached
from deltacompose.backbone import Backbone, bind
from deltacompose.backbone.diffusion import library
from deltacompose.backbone.loading import load_backbone
from deltacompose.backbone.pico import pico, pico_tokenizer
from deltacompose.backbone.pico_diffusion import DENOISERS, denoiser_batch, pico_denoiser
from deltacompose.checks import Broken, check_backbone_table
from deltacompose.checks.backbones import OnModel
from deltacompose.checks.detaching import snapshot
from deltacompose.checks.gradients import Pass, farthest
from deltacompose.composition import Term, parse
from deltacompose.delta import Delta, load
from deltacompose.delta.exchange import export_merged, export_peft
from deltacompose.errors import BadInput
from deltacompose.method.weights import init_weights
from deltacompose.places.table import read_table
from deltacompose.scoring import answers, reader

pytest.importorskip("diffusers")

METHODS = plugins.load(disabled=True).methods
UNET = "UNet2DConditionModel"
FOUR = "lora(rank=2) + bitfit + adapter(bottleneck=4) + ia3"
every_denoiser = pytest.mark.parametrize("name", DENOISERS)


def read(text: str) -> Term:
    return parse(text, METHODS)


@functools.cache
def denoiser(name: str) -> Backbone:
    """One pico denoiser for all tests that leave it as it is."""
    return load_backbone(pico_denoiser(name).requires_grad_(False), tables=tables())


def output(name: str, seed: int = 0) -> Tensor:
    return denoiser(name).model(**denoiser_batch(name, seed=seed)).sample


def noise(like: Tensor) -> Tensor:
    return torch.randn(like.shape, generator=torch.Generator().manual_seed(1))


def leaves(name: str, text: str, seed: int = 0) -> dict[str, Tensor]:
    return {n: x.requires_grad_() for n, x in init_weights(denoiser(name), read(text), seed).items()}


def learned(name: str, text: str, weights: dict[str, Tensor], steps: int = 3) -> list[float]:
    """The losses of a few steps towards noise; the last step's gradients stay on the weights."""
    optimiser, losses = torch.optim.AdamW(weights.values(), lr=1e-2, weight_decay=0.0), []
    with attached(denoiser(name), read(text), weights):
        for _ in range(steps):
            optimiser.zero_grad()
            found = output(name)
            loss = F.mse_loss(found, noise(found))
            loss.backward()
            optimiser.step()
            losses.append(loss.item())
    return losses


# Places


def test_the_blocks_of_a_unet_are_its_layers_in_forward_order():
    backbone = denoiser(UNET)
    assert [place.module for place in backbone.places("attention.query")] == [
        "down_blocks.0.attentions.0.transformer_blocks.0.attn1.to_q",
        "mid_block.attentions.0.transformer_blocks.0.attn1.to_q",
        "up_blocks.1.attentions.0.transformer_blocks.0.attn1.to_q",
        "up_blocks.1.attentions.1.transformer_blocks.0.attn1.to_q",
    ]
    assert backbone.place("denoiser.1.cross_attention.value").module.startswith("mid_block.")
    assert [backbone.width(place) for place in backbone.places("attention", "ffn")] == [8, 8, 16, 16, 8, 8, 8, 8]
    assert repr(backbone) == f"<{UNET}: unet, 4 denoiser layers, 52,004 parameters, 72 places>"


@pytest.mark.parametrize(
    ("name", "settings", "layers", "last"),
    [
        (UNET, {"cross_attention_dim": 768}, 6 + 1 + 9, "up_blocks.3.attentions.2.transformer_blocks.0.ff"),
        ("SD3Transformer2DModel", {"num_layers": 24}, 24, "transformer_blocks.23.ff"),
        ("FluxTransformer2DModel", {}, 19 + 38, "transformer_blocks.18.ff"),
    ],
)
def test_a_denoiser_of_the_published_size_has_all_its_blocks(name, settings, layers, last):
    with torch.device("meta"):
        backbone = load_backbone(getattr(library(), name)(**settings), tables=tables())
    assert backbone.layers("denoiser") == layers
    assert backbone.places("ffn")[-1].module == last


def test_blocks_are_numbered_by_numbers_and_not_by_letters():
    data = {
        "serves": ["mine"],
        "kind": "denoiser",
        "stacks": {"denoiser": {"blocks": ["a.*.b.*", "c.*?"]}},
        "places": {"denoiser.{layer}.attention.query": "{layer}.q"},
    }
    model: Any = torch.nn.ModuleDict({"a": torch.nn.ModuleList(_two_blocks() for _ in range(11))})
    model.config = None
    backbone = bind(model, read_table("mine", data))
    assert [place.module for place in backbone.places()][-3:] == ["a.9.b.1.q", "a.10.b.0.q", "a.10.b.1.q"]
    assert backbone.layers("denoiser") == 22
    assert read_table("mine", read_table("mine", data).data).data == data


def _two_blocks() -> torch.nn.Module:
    block = torch.nn.ModuleDict({"q": torch.nn.Linear(2, 2)})
    return torch.nn.ModuleDict({"b": torch.nn.ModuleList([block, block])})


def test_the_two_halves_of_a_gated_projection_are_told_apart():
    seen = OnModel(table("unet"), pico_denoiser(UNET), denoiser_batch(UNET)).traced.passed
    up, gate, activation = (seen[f"denoiser.0.ffn.{kind}"][1] for kind in ("up", "gate", "activation"))
    torch.testing.assert_close(up * F.gelu(gate), activation)


def test_the_checks_find_a_place_of_a_denoiser_that_is_elsewhere():
    data = table("unet").data
    swapped = {"query": "key", "key": "query"}
    places = {name: data["places"][f"denoiser.{{layer}}.attention.{to}"] for name, to in swapped.items()}
    data["places"] |= {f"denoiser.{{layer}}.attention.{name}": spot for name, spot in places.items()}
    with pytest.raises(Broken, match="query reaches the tokens"):
        check_backbone_table(read_table("unet", data))
    with pytest.raises(Broken, match=f"it does not serve {UNET!r}; it serves SD3Transformer2DModel"):
        check_backbone_table(table("sd3"), pico_denoiser(UNET), batch=denoiser_batch(UNET))
    with pytest.raises(
        BadInput, match="is of a denoiser, which reads no tokens; give what it is called with by batch="
    ):
        check_backbone_table(table("unet"), pico_denoiser(UNET))


MISUSES = [
    ({"stacks": {"denoiser": {"blocks": "blocks"}}}, "blocks are at 'blocks'; expected a module path with a '*'"),
    ({"stacks": {"denoiser": {"blocks": ["a.*", 3]}}}, "blocks are at 3; expected"),
    ({"stacks": {"denoiser": {"blocks": "a.*", "heads": 2}}}, "no key of stack denoiser 'heads'"),
    ({"stacks": {"denoiser": {"layers": 2}}}, "no key of stack denoiser 'layers'"),
    ({"stacks": {"denoiser": {}}}, "stack denoiser lacks the key blocks"),
    ({"places": {"denoiser.{layer}.attention": "attn1"}}, ".*stands in the name or in the path, but not in both"),
    ({"kind": "decoder"}, "no key of stacks 'denoiser'"),
]


@pytest.mark.parametrize(("change", "message"), MISUSES)
def test_a_table_of_blocks_that_is_wrong_is_refused_by_name(change, message):
    with pytest.raises(BadInput, match=f"table 'mine': {message}"):
        read_table("mine", table("unet").data | change)


def test_a_model_without_such_blocks_or_with_no_width_said_is_refused():
    with pytest.raises(
        BadInput, match=r"table 'flux' has blocks at 'single_transformer_blocks.\*', where the model has"
    ):
        load_backbone(pico_denoiser("DiTTransformer2DModel"), tables=tables(), table="flux")
    data = table("unet").data
    data["places"] = {**data["places"], "denoiser.{layer}.layer": "{layer}"}
    backbone = bind(pico_denoiser(UNET), read_table("unet", data))
    with pytest.raises(BadInput, match=r"denoiser.0.layer has no weight to tell its width, and table 'unet' says none"):
        backbone.width(backbone.place("denoiser.0.layer"))


# A delta in force


@pytest.mark.parametrize("text", [FOUR, "full", "lora(rank=2, dora=True) >> vera + compacter"])
@every_denoiser
def test_a_delta_starts_where_the_denoiser_is_and_each_of_its_weights_learns(name, text):
    with torch.no_grad():
        before = output(name)
        with attached(denoiser(name), read(text), init_weights(denoiser(name), read(text))):
            torch.testing.assert_close(output(name), before)
    weights = leaves(name, text)
    losses = learned(name, text, weights)
    assert losses[0] > losses[1] > losses[2]
    still = [n for n, x in weights.items() if x.grad is None or not x.grad.any()]
    assert still == []
    assert all(parameter.grad is None for parameter in denoiser(name).model.parameters())


@every_denoiser
def test_detached_in_any_order_a_denoiser_is_what_it_was(name):
    backbone = denoiser(name)
    with torch.no_grad():
        before, untouched = snapshot(backbone.model), output(name)
        weights = [{n: x + 0.1 for n, x in leaves(name, text).items()} for text in (FOUR, "full")]
        for order in ((0, 1), (1, 0)):
            attachments = [attach(backbone, read(text)) for text in (FOUR, "full")]
            for attachment, one in zip(attachments, weights):
                attachment.put(one)
            assert not torch.equal(output(name), untouched)
            for k in order:
                attachments[k].detach()
            assert before.difference(snapshot(backbone.model)) == ""
            assert torch.equal(output(name), untouched)


def as_double(x: Tensor) -> Tensor:
    """In fp32 an untouched denoiser, too, gives other last digits in a larger batch."""
    return x.double() if x.is_floating_point() else x


def passed(backbone: Backbone, t: list[dict[str, Tensor]], batches: list[dict[str, Tensor]]) -> Pass:
    """Losses and gradients of deltas on a batch each, in one pass."""
    rows, own = len(batches[0]["timestep"]), [{n: x.detach().requires_grad_() for n, x in one.items()} for one in t]
    joined = {key: torch.cat([one[key] for one in batches]) if len(x) == rows else x for key, x in batches[0].items()}
    attachment = attach(backbone, read(FOUR))
    try:
        attachment.put(own if len(own) > 1 else own[0])
        losses = backbone.model(**joined).sample.unflatten(0, (len(t), rows)).square().flatten(1).mean(1)
        losses.sum().backward()
    finally:
        attachment.detach()
    return Pass(losses.detach(), [{n: x.grad for n, x in one.items()} for one in own])


@every_denoiser
def test_a_bank_of_two_has_the_losses_and_gradients_of_two_runs(name):
    backbone = load_backbone(pico_denoiser(name).double(), tables=tables())
    t = [{n: x.detach().double() + 0.1 * noise(x) for n, x in leaves(name, FOUR, seed).items()} for seed in (1, 2)]
    batches = [{n: as_double(x) for n, x in denoiser_batch(name, 2, seed).items()} for seed in (3, 4)]
    one, two = (passed(backbone, [own], [batch]) for own, batch in zip(t, batches))
    apart = Pass(torch.cat([one.losses, two.losses]), one.gradients + two.gradients)
    assert apart.losses[0] != apart.losses[1]
    far, where = farthest(passed(backbone, t, batches), apart)
    assert far <= 1e-12, where


@every_denoiser
def test_gradient_checkpointing_changes_no_gradient(name):
    model = pico_denoiser(name).requires_grad_(False)
    backbone, found = load_backbone(model, tables=tables()), []
    for module in model.modules():
        if hasattr(module, "dropout_prob"):
            module.dropout_prob = 0.0  # classes are dropped in training
    model.train()
    for checkpointed in (False, True):
        if checkpointed:
            model.enable_gradient_checkpointing()
        weights = leaves(name, FOUR)
        with attached(backbone, read(FOUR), weights):
            model(**denoiser_batch(name)).sample.square().mean().backward()
        found.append({n: x.grad for n, x in weights.items()})
    for n, x in found[0].items():
        assert torch.equal(x, found[1][n]), n


@every_denoiser
def test_a_delta_is_saved_and_loaded_and_knows_its_denoiser(name, tmp_path):
    backbone, text = denoiser(name), FOUR
    weights = leaves(name, text)
    learned(name, text, weights, steps=1)
    known = {"name": backbone.name, "family": backbone.family, "fingerprint": backbone.fingerprint}
    with torch.no_grad():
        with attached(backbone, read(text), weights):
            expected = output(name)
        delta = load(Delta(read(text), weights, {}, known).save(tmp_path), METHODS)
        with delta.attached(backbone) as model:
            assert torch.equal(model(**denoiser_batch(name)).sample, expected)
    other = load_backbone(pico_denoiser(name, seed=1), tables=tables())
    with pytest.raises(BadInput, match=f"was trained on {name} .*, not on {name}"), delta.attached(other):
        pass


# What a denoiser does not do

PROMPTS = [
    "prompt",
    "prompt(init_from='random')",
    "p_tuning",
    "peft(type='prompt_tuning', options='num_virtual_tokens=2')",
]


@pytest.mark.parametrize("text", PROMPTS)
@every_denoiser
def test_tokens_before_a_denoisers_input_are_refused(name, text):
    with pytest.raises(BadInput, match=f"^{name} is a denoiser and reads no tokens: it takes no prompts"):
        init_weights(denoiser(name), read(text))
    with pytest.raises(BadInput, match=f"^{name} is a denoiser and reads no tokens"):
        attach(denoiser(name), read("prompt"))
    assert not denoiser(name).model._forward_pre_hooks


@every_denoiser
def test_keys_and_values_before_a_denoisers_own_are_refused(name):
    with pytest.raises(BadInput, match=f"^{name} is a denoiser, whose attention takes no keys and values"):
        init_weights(denoiser(name), read("prefix"))
    with pytest.raises(BadInput, match=f"^{name} is a denoiser, whose attention takes no keys and values"):
        attach(denoiser(name), read("prefix"))


def test_a_task_and_a_tokenizer_are_refused():
    said = f"^{UNET} is a denoiser and reads no text; tasks need an encoder, a decoder, or both$"
    with pytest.raises(BadInput, match=said):
        reader(denoiser(UNET), dc.tasks()["intent"])
    with pytest.raises(BadInput, match=said):
        dc.train(denoiser(UNET), "lora", "intent", steps=1)
    with pytest.raises(BadInput, match=said):
        answers(denoiser(UNET), ["a night at sea"], 3)
    with pytest.raises(BadInput, match="reads no tokens: it takes no prompts, tokenizer or task"):
        load_backbone(pico_denoiser(UNET), pico_tokenizer("bert"), tables=tables())


def test_a_delta_of_a_denoiser_is_neither_merged_nor_exported(tmp_path):
    delta = Delta(read("lora"), init_weights(denoiser(UNET), read("lora")))
    for refused in (export_merged, export_peft):
        with pytest.raises(
            BadInput, match=f"^{UNET} is a denoiser; only deltas of backbones that read text are merged"
        ):
            refused(delta, denoiser(UNET), tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_places_that_a_denoiser_lacks_are_named():
    with pytest.raises(BadInput, match=r"no place '\*norm' in dit; places: attention, attention.key"):
        init_weights(denoiser("DiTTransformer2DModel"), read("norm"))


# On disk


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    pico_denoiser(UNET).save_pretrained(tmp_path)
    return tmp_path


def test_a_folder_gives_the_saved_denoiser_frozen_and_in_the_precision_asked_for(saved):
    backbone = load_backbone(saved, tables=tables(), device="cpu")
    assert backbone.fingerprint == denoiser(UNET).fingerprint
    assert backbone.places() == denoiser(UNET).places()
    assert not backbone.model.training
    assert not any(parameter.requires_grad for parameter in backbone.model.parameters())
    assert load_backbone(saved, tables=tables(), dtype="bfloat16").model.dtype == torch.bfloat16
    assert dc.load_backbone(saved).family == "unet"


def changed(folder: Path, **changes: object) -> Path:
    config = json.loads((folder / "config.json").read_text()) | changes
    (folder / "config.json").write_text(json.dumps(config))
    return folder


def test_a_folder_that_holds_no_such_denoiser_is_refused(saved):
    file = saved / "diffusion_pytorch_model.safetensors"
    tensors = load_file(file)
    save_file({n: x for n, x in tensors.items() if n != "conv_in.bias"}, file, {"format": "pt"})
    with pytest.raises(BadInput, match=f"no weights for 1 tensors of {UNET}, among them conv_in.bias"):
        load_backbone(saved, tables=tables())
    with pytest.raises(BadInput, match="no table serves models of the type 'AutoencoderKL'"):
        load_backbone(changed(saved, _class_name="AutoencoderKL"), tables=tables())
    for stranger in ("UNet9DModel", "DDPMScheduler", "__version__"):
        with pytest.raises(BadInput, match=f"holds a {stranger}, which is not a model of diffusers"):
            load_backbone(changed(saved, _class_name=stranger), tables=tables(), table="unet")


def test_pickles_and_whole_pipelines_are_refused(saved, tmp_path):
    for part in ("unet", "vae"):
        (tmp_path / "pipeline" / part).mkdir(parents=True)
        (tmp_path / "pipeline" / part / "diffusion_pytorch_model.safetensors").touch()
    with pytest.raises(BadInput, match=r"holds no model: .* a pipeline, whose parts unet, vae are folders"):
        load_backbone(tmp_path / "pipeline", tables=tables())
    (saved / "diffusion_pytorch_model.safetensors").rename(saved / "diffusion_pytorch_model.bin")
    with pytest.raises(BadInput, match=r"weights only as pickles \(diffusion_pytorch_model.bin\)"):
        load_backbone(saved, tables=tables())


@pytest.mark.parametrize("how", [{"head": "mlm"}, {"attention": "sdpa"}, {"dtype": "nf4"}])
def test_what_transformers_alone_can_do_is_refused(saved, how):
    with pytest.raises(BadInput, match=f"{UNET} is read by diffusers, where a backbone takes no head, no attention"):
        load_backbone(saved, tables=tables(), **how)


def test_no_table_is_derived_for_a_denoiser_and_none_of_another_kind_fits(saved, tmp_path):
    with pytest.raises(BadInput, match=f"no table can be derived for {UNET}, a model of diffusers; write one for it"):
        load_backbone(saved, tables=tables(), table="derived")
    with pytest.raises(BadInput, match="has no number 'num_hidden_layers'"):
        load_backbone(saved, tables=tables(), table="bert")
    pico("bert").save_pretrained(tmp_path / "bert")
    with pytest.raises(BadInput, match="the kind denoiser serves models of diffusers, and this one is of transformers"):
        load_backbone(tmp_path / "bert", tables=tables(), table="unet")


def test_a_part_of_a_pipeline_on_the_hub_is_taken_from_the_cache(tmp_path, monkeypatch):
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    cached, commit = tmp_path / "models--someone--pipeline", "0123456789abcdef0123456789abcdef01234567"
    (cached / "refs").mkdir(parents=True)
    (cached / "refs" / "main").write_text(commit)
    pico_denoiser(UNET).save_pretrained(cached / "snapshots" / commit / "unet")
    backbone = load_backbone("someone/pipeline/unet", tables=tables())
    assert (backbone.name, backbone.revision) == ("someone/pipeline/unet", commit)
    with pytest.raises(BadInput, match="whose parts unet are folders"):
        load_backbone("someone/pipeline", tables=tables())


def test_without_the_library_the_extra_is_named(saved, monkeypatch):
    monkeypatch.setitem(sys.modules, "diffusers", None)
    with pytest.raises(BadInput, match=r"need the `diffusers` library: pip install 'deltacompose\[diffusers\]'"):
        load_backbone(saved, tables=tables())
    with pytest.raises(BadInput, match="pip install"):
        check_backbone_table(table("unet"))
