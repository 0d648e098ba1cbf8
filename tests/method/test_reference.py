"""Given equal weights, the built-in methods give peft's logits, to the rounding of float64."""

import copy
import warnings

import peft
import pytest
import torch
from deltacompose_plugins import IA3, LoRA, Prompt, PTuning, VeRA

from deltacompose.attach import attached
from deltacompose.backbone.pico import pico_backbone
from deltacompose.checks.batches import batch, forward
from deltacompose.method.weights import init_constants, init_weights

FAMILIES = ("t5", "llama", "bert")
TASKS = {"t5": "SEQ_2_SEQ_LM", "llama": "CAUSAL_LM", "bert": "FEATURE_EXTRACTION"}
QUERY_VALUE = {"t5": ["q", "v"], "llama": ["q_proj", "v_proj"], "bert": ["query", "value"]}
KEY_VALUE = {"t5": r".*\.(k|v)", "llama": r".*\.(k_proj|v_proj)", "bert": r".*\.(key|value)"}
DOWN = {"t5": r".*\.wo", "llama": r".*\.down_proj", "bert": r".*layer\.\d+\.output\.dense"}
ROUNDING = 1e-12


def double(family):
    """In float64 what remains between two computations of one formula is far smaller than any fault, on any machine."""
    backbone = pico_backbone(family)
    backbone.model.double()
    return backbone


def given(backbone):
    """A batch padded on the right, without position ids: peft takes none with a prompt."""
    return {name: x for name, x in batch(backbone, seed=0, side="right").items() if name != "position_ids"}


def ours(backbone, method):
    """Weights moved off their start, the constants, and the logits with both in force."""
    drawn = init_weights(backbone, method)
    source = torch.Generator().manual_seed(1)
    weights = {name: x.double() + 0.1 * torch.randn(x.shape, generator=source) for name, x in drawn.items()}
    constants = {name: x.double() for name, x in init_constants(backbone, method).items()}
    with attached(backbone, method, weights, constants), torch.no_grad():
        logits = forward(backbone, given(backbone))
    t = {name.removeprefix("0.0."): x for name, x in {**weights, **constants}.items()}
    return t, logits


def theirs(backbone, config):
    """peft's model of the same backbone; its own advice on configurations is not an error here."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return peft.get_peft_model(copy.deepcopy(backbone.model), config).double().eval()


def logits_of(backbone, model, prompt=0):
    """peft's logits, the prompt's positions left out."""
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")
        output = model(**given(backbone), **({} if backbone.kind == "encoder" else {"use_cache": False}))
    states = output.last_hidden_state if backbone.kind == "encoder" else output.logits
    return states if backbone.kind == "encoder-decoder" else states[:, prompt:]


def layer(model, place):
    return model.get_submodule(f"base_model.model.{place.module}")


def assert_equal(found, expected, untouched):
    assert (found - expected).abs().max() <= ROUNDING * expected.abs().max()
    assert (untouched - expected).abs().max() > 1e-3, "the comparison shows nothing if the delta does nothing"


def untouched(backbone):
    with torch.no_grad():
        return forward(backbone, given(backbone))


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("settings", [{}, {"rslora": True}, {"dora": True}, {"rslora": True, "dora": True}])
def test_lora_gives_pefts_logits(family, settings):
    backbone, method = double(family), LoRA(rank=4, alpha=6.0, **settings)
    t, logits = ours(backbone, method)
    how = {f"use_{name}": value for name, value in settings.items()}
    model = theirs(backbone, peft.LoraConfig(r=4, lora_alpha=6, target_modules=QUERY_VALUE[family], **how))
    for place in backbone.places(*method.places):
        own = layer(model, place)
        own.lora_A.default.weight.data = t[f"{place.name}.down"]
        own.lora_B.default.weight.data = t[f"{place.name}.up"]
        if method.dora:
            own.lora_magnitude_vector.default.weight.data += t[f"{place.name}.magnitude"]
    assert_equal(logits, logits_of(backbone, model), untouched(backbone))


@pytest.mark.parametrize("family", FAMILIES)
def test_ia3_gives_pefts_logits(family):
    backbone, method = double(family), IA3()
    t, logits = ours(backbone, method)
    target = f"{KEY_VALUE[family]}|{DOWN[family]}"
    model = theirs(backbone, peft.IA3Config(target_modules=target, feedforward_modules=DOWN[family]))
    for place in backbone.places(*method.places):
        own = layer(model, place).ia3_l.default
        assert own.numel() == t[f"{place.name}.scale"].numel()
        own.data = (1 + t[f"{place.name}.scale"]).view_as(own)
    assert_equal(logits, logits_of(backbone, model), untouched(backbone))


@pytest.mark.parametrize("family", FAMILIES)
def test_vera_gives_pefts_logits(family):
    backbone, method = double(family), VeRA(rank=6)
    t, logits = ours(backbone, method)
    model = theirs(backbone, peft.VeraConfig(r=6, target_modules=QUERY_VALUE[family]))
    for name in ("A", "B"):
        buffers = getattr(model.base_model, f"vera_{name}")
        assert buffers["default"].shape == t[f"shared.{name}"].shape
        buffers["default"].copy_(t[f"shared.{name}"])
    for place in backbone.places(*method.places):
        own = layer(model, place)
        own.vera_lambda_d["default"].data = t[f"{place.name}.d"]
        own.vera_lambda_b["default"].data = t[f"{place.name}.b"]
    assert_equal(logits, logits_of(backbone, model), untouched(backbone))


@pytest.mark.parametrize("family", FAMILIES)
def test_prompt_tuning_gives_pefts_logits(family):
    backbone = double(family)
    t, logits = ours(backbone, Prompt(length=5))
    # peft would have a prompt for T5's decoder too, and leave it out.
    config = peft.PromptTuningConfig(task_type=TASKS[family], num_virtual_tokens=5, num_transformer_submodules=1)
    model = theirs(backbone, config)
    model.prompt_encoder.default.embedding.weight.data = t[f"{backbone.streams[0]}.prompt"]
    assert_equal(logits, logits_of(backbone, model, prompt=5), untouched(backbone))


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("encoder", ["lstm", "mlp"])
def test_p_tunings_encoder_gives_pefts_logits(family, encoder):
    backbone = double(family)
    t, logits = ours(backbone, PTuning(length=5, encoder=encoder, hidden=6))
    config = peft.PromptEncoderConfig(
        task_type=TASKS[family],
        num_virtual_tokens=5,
        num_transformer_submodules=1,
        encoder_reparameterization_type=encoder.upper(),
        encoder_hidden_size=6,
    )
    model = theirs(backbone, config)
    own = model.prompt_encoder.default
    t = {name.removeprefix(f"{backbone.streams[0]}."): x for name, x in t.items()}
    own.embedding.weight.data = t["rows"]
    for k, linear in enumerate(own.mlp_head[::2]):
        linear.weight.data, linear.bias.data = t[f"linear{k}"], t[f"linear{k}_bias"]
    if encoder == "lstm":
        for at, way in enumerate(("forward", "backward")):
            for number in range(2):
                names = ("weight_ih", "weight_hh", "bias_ih", "bias_hh")
                for name, mine in zip(names, ("input", "state", "input_bias", "state_bias"), strict=True):
                    parameter = getattr(own.lstm_head, f"{name}_l{number}{'_reverse' * at}")
                    parameter.data.copy_(t[f"lstm{number}_{way}_{mine}"])
    assert_equal(logits, logits_of(backbone, model, prompt=5), untouched(backbone))
