"""peft's types as methods: equal to peft given equal weights, in banks, in compositions, and with plain refusals."""

import copy
import itertools
import subprocess
import sys
import warnings
from pathlib import Path

import peft
import pytest
import torch
from deltacompose_plugins import Peft
from deltacompose_plugins.peft import peft_table
from deltacompose_plugins.peft.tuners import TUNERS
from peft.mapping import PEFT_TYPE_TO_CONFIG_MAPPING
from torch import nn
from typer.testing import CliRunner

from deltacompose.attach import attach, attached
from deltacompose.backbone.pico import pico_backbone
from deltacompose.checks import parametrize_with_checks
from deltacompose.checks.batches import tiny
from deltacompose.cli import app
from deltacompose.composition import composition, parse
from deltacompose.delta import Delta, load
from deltacompose.errors import BadInput
from deltacompose.method.weights import finalized, generator, init_constants, init_weights, prepared
from deltacompose.scoring import reader
from deltacompose.study.recipe import Recipe
from deltacompose.training import evaluate, train
from deltacompose.training.learner import Job

OPTIONS = {
    "adalora": "init_r=4, target_r=2",
    "adamss": "num_subspaces=2, r=4",
    "boft": "boft_block_size=4",
    "c3a": "block_size=4",
    "fourierft": "n_frequency=10",
    "gralora": "gralora_k=2, r=4",
    "hira": "r=4",
    "lokr": "r=2",
    "lora": "lora_alpha=3, r=4, use_rslora=True",
    "miss": "r=4",
    "oft": "oft_block_size=4",
    "peanut": "depth=1, r=4",
    "psoft": "r=4",
    "randlora": "r=4, randlora_alpha=8",
    "road": "group_size=4",
    "shira": "r=2",
    "supertuning": "sparsity=0.9",
    "tinylora": "u=8",
    "trainable_tokens": "token_indices=[7, 9, 30]",
    "vblora": "num_vectors=6, vector_length=4",
    "vera": "r=4",
    "waveft": "n_frequency=10",
    **dict.fromkeys(
        ("prompt_tuning", "p_tuning", "multitask_prompt_tuning", "prefix_tuning", "cartridge"), "num_virtual_tokens=3"
    ),
}
WORKING = [name for name, tuner in TUNERS.items() if not tuner.why]
LAYERED = [name for name in WORKING if TUNERS[name].acts in ("matrix", "copy")]
TOKENS = [name for name in WORKING if TUNERS[name].acts == "tokens"]


def method(type: str, **settings) -> Peft:
    return Peft(type=type, **{"options": OPTIONS.get(type, ""), **settings})


def inputs(backbone, rows: int = 2, seed: int = 0) -> dict:
    ids = torch.randint(5, 40, (rows, 7), generator=torch.Generator().manual_seed(seed))
    ids[:, 1] = 7
    given = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    return given | ({"decoder_input_ids": ids[:, :4]} if backbone.kind == "encoder-decoder" else {})


def outputs(model, given: dict) -> torch.Tensor:
    made = model(**given)
    return made.logits if "logits" in made else made.last_hidden_state


def moved(weights: dict, seed: int = 0, by: float = 0.1) -> dict:
    source = torch.Generator().manual_seed(seed)
    return {name: x + by * torch.randn(x.shape, generator=source) for name, x in weights.items()}


def drawn(backbone, expression, seed: int = 0) -> tuple[dict, dict]:
    return init_weights(backbone, expression, seed), init_constants(backbone, expression)


@pytest.fixture(scope="module")
def backbones():
    return {family: pico_backbone(family) for family in ("bert", "t5", "llama", "gpt2")}


# The same numbers as peft


def by_peft(model: nn.Module, config) -> nn.Module:
    """peft's model of a copy; what it and transformers warn of meanwhile is not ours."""
    with warnings.catch_warnings(action="ignore"):
        return peft.get_peft_model(copy.deepcopy(model), config).eval()


def in_peft(backbone, part: Peft, t: dict) -> nn.Module:
    """peft's own model of the same type, with the same tensors."""
    places, config = part._where(backbone), part.config()
    config.target_modules = [place.module for place in places]
    if part.type == "trainable_tokens" and backbone.family == "t5":
        config.target_modules = ["shared"]
    if part.type == "ia3":
        config.feedforward_modules = [place.module for place in places if place.kind == "ffn.down"]
    model = by_peft(backbone.model, config)
    for layer in part._empty(backbone):
        module = model.base_model.model.get_submodule(layer.place.module)
        own = dict([*module.named_parameters(remove_duplicate=False), *module.named_buffers(remove_duplicate=False)])
        for name, full in layer.names.items():
            value, (attribute, _, key) = t[full], name.partition(".")
            if name in own:
                own[name].data.copy_(value)
            else:  # indices that peft keeps in plain attributes
                vars(module)[attribute][key] = value
    return model


@pytest.mark.parametrize("family", ["bert", "t5", "llama"])
@pytest.mark.parametrize("type", LAYERED)
def test_each_type_equals_peft_given_equal_weights(backbones, family, type):
    backbone, part = backbones[family], method(type)
    weights, constants = drawn(backbone, part)
    weights = moved(weights)
    own = {name.removeprefix("0.0."): x for name, x in (weights | constants).items()}
    given = inputs(backbone)
    with torch.no_grad(), attached(backbone, part, weights, constants):
        ours = outputs(backbone.model, given)
    with torch.no_grad():
        theirs = outputs(in_peft(backbone, part, own), given)
    assert not torch.allclose(ours, outputs(backbone.model, given), atol=1e-3)
    torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=1e-5)


SEPARATE = {
    name: ("attention.output", "ffn.down")
    for name in LAYERED
    if TUNERS[name].acts == "matrix" and name != "trainable_tokens"
}
"""Matrices that no family fuses with others."""
SINGLE = ("c3a", "deft")
"""Types that peft computes in float32 whatever the model has."""


DECODERS = ("gpt-neox", "opt", "gemma2", "phi3", "falcon-gqa")
UNCOMPARED = {("psoft", family) for family in DECODERS} | {("glora", "falcon-gqa")}
"""peft starts PSOFT in float32 alone; GLoRA is not compared on Falcon, whose linear layers are a class of their own."""


@pytest.mark.parametrize(
    ("type", "family"), [pair for pair in itertools.product(LAYERED, DECODERS) if pair not in UNCOMPARED]
)
def test_each_type_equals_peft_to_the_rounding_of_float64_on_other_decoders(family, type):
    backbone = pico_backbone(family)
    backbone.model.double()
    part = method(type, places=SEPARATE.get(type, ()))
    weights, constants = drawn(backbone, part)
    weights, constants = (
        {name: x.double() if x.is_floating_point() else x for name, x in t.items()} for t in (moved(weights), constants)
    )
    own = {name.removeprefix("0.0."): x for name, x in (weights | constants).items()}
    given = inputs(backbone)
    with torch.no_grad(), attached(backbone, part, weights, constants):
        ours = outputs(backbone.model, given)
    with torch.no_grad():
        theirs = outputs(in_peft(backbone, part, own).double(), given)
    assert not torch.allclose(ours, outputs(backbone.model, given), atol=1e-3)
    torch.testing.assert_close(ours, theirs, **dict.fromkeys(("atol", "rtol"), 1e-5 if type in SINGLE else 1e-10))


VARIANTS = [
    ("lora", "r=4, use_dora=True"),
    ("lora", "lora_bias=True, r=4"),
    ("lora", "init_lora_weights='olora', r=4"),
    ("miss", "init_weights='bat', r=4"),
    ("miss", "init_weights='mini', mini_r=4, r=4"),
    ("oft", "block_share=True, coft=True, eps=0.01, oft_block_size=4"),
    ("oft", "oft_block_size=4, use_cayley_neumann=False"),
    ("hra", "apply_GS=True, r=4"),
    ("glora", "config_A_B='vector', config_C='vector', config_D_E='vector', r=4"),
    ("gralora", "gralora_k=2, hybrid_r=2, r=4"),
    ("lokr", "decompose_both=True, decompose_factor=4, r=1"),
    ("psoft", "psoft_orth=False, r=4"),
    ("road", "group_size=4, variant='road_4'"),
    ("supertuning", "lora_alpha=4, r=2, sparsity=0.9"),
    ("deft", "decomposition_method='qr', para=True, r=4"),
    ("waveft", "n_frequency=10, use_idwt=False"),
    ("vblora", "num_vectors=6, topk=3, vector_length=4"),
    ("osf", "effective_rank=3"),
    ("tinylora", "r=2, u=3, weight_tying=1.0"),
]


@pytest.mark.parametrize(("type", "options"), VARIANTS)
def test_a_types_variants_equal_pefts(backbones, type, options):
    backbone, part = backbones["bert"], method(type, options=options)
    weights, constants = drawn(backbone, part)
    weights, given = moved(weights), inputs(backbone)
    own = {name.removeprefix("0.0."): x for name, x in (weights | constants).items()}
    with torch.no_grad(), attached(backbone, part, weights, constants):
        ours = outputs(backbone.model, given)
    model = in_peft(backbone, part, own)
    for layer in part._empty(backbone):  # what an initialisation took out of the matrix
        assert ("base_layer.weight" in layer.names) == ("olora" in options)
    torch.testing.assert_close(ours, outputs(model, given).detach(), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("type", ["lora", "adalora", "hra", "boft", "loha"])
def test_a_fused_and_transposed_matrix_is_changed_as_a_separate_one_would_be(backbones, type):
    """GPT-2 holds query, key and value in one matrix (input, output), which many of peft's types refuse."""
    backbone, part = backbones["gpt2"], method(type, places=("attention.value",))
    weights, constants = drawn(backbone, part)
    weights = moved(weights)
    place = backbone.place("decoder.1.attention.value")
    frozen = backbone.parameter(place, "weight")
    edit = next(edit for edit in part.edits(backbone) if edit.place == place)
    change = edit.change({n.removeprefix("0.0."): x for n, x in (weights | constants).items()}, frozen)
    with torch.no_grad():
        with attached(backbone, part, weights, constants):
            ours = outputs(backbone.model, inputs(backbone))
        merged = copy.deepcopy(backbone.model)
        for layer in (0, 1):
            place = backbone.place(f"decoder.{layer}.attention.value")
            edit = next(edit for edit in part.edits(backbone) if edit.place == place)
            t = {n.removeprefix("0.0."): x for n, x in (weights | constants).items()}
            fused = merged.get_submodule(place.module).weight
            fused[:, 32:48] += edit.change(t, backbone.parameter(place, "weight")).mT
        assert change.shape == frozen.shape
        torch.testing.assert_close(ours, outputs(merged, inputs(backbone)), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("type", TOKENS)
@pytest.mark.parametrize("family", ["llama", "t5"])
def test_each_encoder_of_tokens_makes_the_prompt_that_peft_makes(backbones, family, type):
    backbone, part = backbones[family], method(type)
    weights, constants = drawn(backbone, part)
    weights = moved(weights)
    config, given = part.config(), inputs(backbone)
    config.task_type = "CAUSAL_LM" if family == "llama" else "SEQ_2_SEQ_LM"
    config.num_transformer_submodules = 1
    model = by_peft(backbone.model, config)
    tasks = {"task_ids": torch.zeros(2, dtype=torch.long)} if type == "multitask_prompt_tuning" else {}
    with torch.no_grad():
        for name, x in model.prompt_encoder["default"].named_parameters():
            x.copy_(weights["0.0.shared.encoder_" + name.replace(".", "_")])
        prompt = finalized(part, weights)["0.0.shared.rows"]
        torch.testing.assert_close(prompt.expand(2, -1, -1), model.get_prompt(2, **tasks), atol=1e-6, rtol=1e-5)
        if (family, type) == ("t5", "multitask_prompt_tuning"):
            return  # peft itself then gives T5 both ids and embeddings, which T5 refuses
        theirs = model(**given, **tasks).logits[:, 3 if family == "llama" else 0 :]
        with attached(backbone, part, weights, constants):
            torch.testing.assert_close(outputs(backbone.model, given), theirs, atol=1e-5, rtol=1e-5)


def test_the_recurrent_encoder_of_p_tuning_equals_pefts(backbones):
    backbone = backbones["llama"]
    part = method("p_tuning", options="encoder_reparameterization_type='LSTM', num_virtual_tokens=3")
    weights = init_weights(backbone, part)
    leaves = {name: x.requires_grad_() for name, x in weights.items()}
    made = prepared(part, leaves, generator(0))["0.0.shared.rows"]
    assert all(x is not None and x.any() for x in torch.autograd.grad(made.pow(2).sum(), list(leaves.values())))
    config = part.config()
    config.task_type = "CAUSAL_LM"
    encoder = by_peft(backbone.model, config).prompt_encoder["default"]
    with torch.no_grad():
        for name, x in encoder.named_parameters():
            x.copy_(weights["0.0.shared.encoder_" + name.replace(".", "_")])
        torch.testing.assert_close(made, encoder(torch.arange(3)[None])[0], atol=1e-6, rtol=1e-5)


# What the table says of each type


@pytest.mark.parametrize("type", WORKING)
def test_a_type_starts_as_the_table_says(backbones, type):
    backbone, part = backbones["gpt2"], method(type)
    weights, constants = drawn(backbone, part)
    given = inputs(backbone)
    with torch.no_grad(), attached(backbone, part, weights, constants):
        started = outputs(backbone.model, given)
    assert torch.equal(started, outputs(backbone.model, given)) == part.neutral


@pytest.mark.parametrize("type", [name for name in LAYERED if TUNERS[name].acts == "matrix"])
@pytest.mark.parametrize("family", ["bert", "llama"])
def test_a_change_depends_on_the_pretrained_tensors_as_the_table_says(backbones, family, type):
    backbone, part = backbones[family], method(type)
    weights, constants = drawn(backbone, part)
    t = {n.removeprefix("0.0."): x for n, x in (moved(weights) | constants).items()}
    edits = part.edits(backbone)
    edit = edits[0]
    frozen = backbone.parameter(edit.place, "weight")
    elsewhere = (edit.change(t, 2 * frozen) - edit.change(t, frozen)).abs().max() > 1e-6
    assert elsewhere != TUNERS[type].additive
    biased = TUNERS[type].bias == "adds" or (TUNERS[type].bias == "moves" and family == "bert")
    assert any(one.parameter == "bias" for one in edits) == biased


@pytest.mark.parametrize("type", LAYERED)
def test_a_layers_bias_moves_only_where_the_table_says_so(backbones, type):
    """Some of peft's layers add to what a place adds; an edit of the matrix alone would lose that."""
    backbone, part = backbones["bert"], method(type)
    weights, constants = drawn(backbone, part)
    model = in_peft(backbone, part, {n.removeprefix("0.0."): x for n, x in (moved(weights) | constants).items()})
    place = part._where(backbone)[0]
    module = model.base_model.model.get_submodule(place.module)
    if TUNERS[type].acts == "matrix" and place.kind != "embedding":
        still = torch.allclose(module(torch.zeros(1, 16))[0], backbone.parameter(place, "bias"), atol=1e-6)
        assert still == (not TUNERS[type].bias)


@pytest.mark.parametrize("type", WORKING)
def test_a_bank_of_each_type_equals_its_deltas_one_by_one(backbones, type):
    backbone, part = backbones["llama"], method(type)
    drawings = [drawn(backbone, part, seed) for seed in (0, 1)]
    weights = [{n: x.requires_grad_() for n, x in moved(w, seed).items()} for seed, (w, _) in enumerate(drawings)]
    tensors = [prepared(part, w | c, generator(0)) for w, (_, c) in zip(weights, drawings, strict=True)]
    leaves = [x for one in weights for x in one.values()]
    given = inputs(backbone, rows=4)
    attachment = attach(backbone, part)
    try:
        attachment.put(tensors)
        together = outputs(backbone.model, given)
        gradients = torch.autograd.grad(together.pow(2).sum(), leaves, retain_graph=True)
        apart = []
        for k, one in enumerate(tensors):
            attachment.put(one)
            apart.append(outputs(backbone.model, {n: x[2 * k : 2 * k + 2] for n, x in given.items()}))
        own = torch.autograd.grad(torch.cat(apart).pow(2).sum(), leaves)
    finally:
        attachment.detach()
    torch.testing.assert_close(together, torch.cat(apart), atol=2e-5, rtol=1e-5)
    for x, y in zip(gradients, own, strict=True):
        torch.testing.assert_close(x, y, atol=1e-4 * float(y.abs().max()) + 1e-7, rtol=1e-3)


@pytest.mark.parametrize("type", ["lora", "adalora"])
def test_low_rank_factors_give_the_matrix(backbones, type):
    backbone, part = backbones["gpt2"], method(type)
    weights, constants = drawn(backbone, part)
    t = {n.removeprefix("0.0."): x for n, x in (moved(weights) | constants).items()}
    for edit in part.edits(backbone):
        up, down = edit.factors(t)
        change = edit.change(t, backbone.parameter(edit.place, "weight"))
        torch.testing.assert_close(up @ down, change, atol=1e-6, rtol=1e-5)


# DEFT goes through vmap, but computes in fp32 in every precision and rounds otherwise there.
@pytest.mark.parametrize("type", [name for name in LAYERED if not TUNERS[name].vmap and name != "deft"])
def test_a_type_that_is_looped_over_cannot_do_otherwise(backbones, type):
    backbone, part = backbones["llama"], method(type)
    weights, constants = drawn(backbone, part)
    t = {n.removeprefix("0.0."): torch.stack([x, x]) for n, x in (weights | constants).items()}
    edit = part.edits(backbone)[0]
    t = {n: x.requires_grad_(x.is_floating_point()) for n, x in t.items()}
    with pytest.raises((RuntimeError, NotImplementedError, ValueError)):
        torch.vmap(edit.change, in_dims=(0, None))(t, backbone.parameter(edit.place, "weight"))


def test_every_type_of_the_installed_peft_is_in_the_table_with_a_reason_where_it_does_not_work():
    rows = {row["type"]: row for row in peft_table()}
    assert {one.value.lower() for one in PEFT_TYPE_TO_CONFIG_MAPPING} <= rows.keys()
    assert [name for name, row in rows.items() if not row["works"] and not row["note"]] == []
    assert sum(row["works"] for row in rows.values()) >= 35


def test_the_page_shows_what_the_command_prints():
    printed = CliRunner().invoke(app, ["methods", "--peft"])
    page = Path(__file__).parents[2] / "docs" / "peft.md"
    assert f"```text\n{printed.stdout}```" in page.read_text(encoding="utf-8")


# As methods among others


@pytest.mark.parametrize("type", WORKING)
def test_text_and_parse_are_inverse(type):
    part = method(type)
    assert parse(str(part), {"peft": Peft}).stages == ((part,),)


def test_equal_options_are_equal_text():
    assert str(Peft(type="oft", options="oft_block_size=4,coft=True")) == str(
        Peft(type="oft", options="coft = True, oft_block_size = 4")
    )


@pytest.mark.parametrize("type", ["oft", "adalora", "vera", "prefix_tuning", "p_tuning"])
def test_it_composes_with_native_methods_and_leaves_the_backbone_untouched(backbones, type):
    from deltacompose_plugins import Adapter, BitFit, LoRA

    backbone, given = backbones["t5"], inputs(backbones["t5"])
    state = {name: (id(x), x.clone(), x.requires_grad) for name, x in backbone.model.named_parameters()}
    kinds = [type_(module) for module in backbone.model.modules() for type_ in (id,)]
    before = outputs(backbone.model, given)
    expression = LoRA(rank=2) + method(type) >> BitFit() + Adapter(bottleneck=4)
    weights, constants = drawn(backbone, expression)
    with torch.no_grad(), attached(backbone, expression, moved(weights), constants):
        assert not torch.allclose(outputs(backbone.model, given), before, atol=1e-3)
    assert torch.equal(outputs(backbone.model, given), before)
    assert kinds == [id(module) for module in backbone.model.modules()]
    for name, x in backbone.model.named_parameters():
        was = state[name]
        assert id(x) == was[0]
        assert torch.equal(x, was[1])
        assert x.requires_grad == was[2]


@pytest.mark.parametrize("type", ["shira", "fourierft", "adamss", "vera", "osf", "p_tuning", "cartridge"])
def test_a_saved_delta_gives_equal_outputs(backbones, type, tmp_path):
    backbone, part = backbones["bert"], method(type)
    weights, constants = drawn(backbone, part)
    kept = finalized(part, moved(weights) | constants)
    delta = Delta(parse(str(part), {"peft": Peft}), {n: x for n, x in kept.items() if n not in constants}, constants)
    again = load(delta.save(tmp_path / "delta"), {"peft": Peft})
    given, made = inputs(backbone), []
    for one in (delta, again):
        with torch.no_grad(), one.attached(backbone):
            made.append(outputs(backbone.model, given))
    assert torch.equal(*made)


def test_weights_come_from_the_generator_alone_and_constants_from_no_seed(backbones):
    backbone, part = backbones["llama"], method("vera")
    torch.manual_seed(1)
    first = drawn(backbone, part, seed=3)
    torch.manual_seed(2)
    state = torch.get_rng_state()
    second = drawn(backbone, part, seed=3)
    assert torch.equal(state, torch.get_rng_state())
    for one, other in zip(first, second, strict=True):
        assert all(torch.equal(x, other[name]) for name, x in one.items())
    other = init_weights(backbone, method("lora"), seed=4)
    assert not torch.equal(
        other["0.0.decoder.0.attention.query.lora_A_weight"],
        init_weights(backbone, method("lora"), seed=5)["0.0.decoder.0.attention.query.lora_A_weight"],
    )


def test_what_pissa_takes_out_of_the_matrix_is_kept(backbones):
    """The pretrained matrix is left as it is, and the start is the pretrained function."""
    backbone, part = backbones["bert"], method("lora", options="init_lora_weights='pissa', lora_alpha=4, r=4")
    weights, constants = drawn(backbone, part)
    given = inputs(backbone)
    with torch.no_grad(), attached(backbone, part, weights, constants):
        torch.testing.assert_close(outputs(backbone.model, given), outputs(backbone.model, given))
        started = outputs(backbone.model, given)
    torch.testing.assert_close(started, outputs(backbone.model, given), atol=1e-5, rtol=1e-5)
    assert not part.neutral
    assert weights["0.0.encoder.0.attention.query.lora_B_weight"].any()


CONFORMING = [method("oft"), method("vera"), method("adalora"), method("cartridge")]
REDRAWN = "peft's module is built with random tensors, which the trained ones replace"


def known_failures(part):
    return {"draws_nothing_once_trained": REDRAWN} if "cartridge" in str(part) else {}


@pytest.mark.slow
@parametrize_with_checks(CONFORMING, backbones=("gpt2",), expected_failures=known_failures)
def test_the_types_keep_the_contract_of_a_method(method, check):
    check(method)


# AdaLoRA and OSF


def test_adalora_takes_the_ranks_away_that_peft_would(backbones):
    backbone, steps = backbones["bert"], 12
    part = method("adalora", options="deltaT=2, init_r=4, target_r=2, tfinal=3, tinit=2")
    weights, constants = drawn(backbone, part)
    t = {n.removeprefix("0.0."): x for n, x in (moved(weights) | constants).items()}
    config = part.config()
    config.total_step = steps
    config.target_modules = [place.module for place in part._where(backbone)]
    model = by_peft(backbone.model, config)
    paths = {place.module: place.name for place in part._where(backbone)}
    theirs = {}
    for name, x in model.base_model.model.named_parameters():
        module, _, tensor = name.partition(".lora_")
        if tensor and "ranknum" not in name:
            theirs[f"{paths[module]}.lora_{tensor.removesuffix('.default')}"] = x
            x.data.copy_(t[f"{paths[module]}.lora_{tensor.removesuffix('.default')}"])
    source = torch.Generator().manual_seed(0)
    for step in range(steps):
        gradients = {name: torch.randn(x.shape, generator=source) for name, x in sorted(theirs.items())}
        for name, x in theirs.items():
            x.grad = gradients[name].clone()
            x.data -= 0.1 * gradients[name]
            t[name] = t[name] - 0.1 * gradients[name]
        model.base_model.update_and_allocate(step)
        t |= part.update(t, gradients, step, steps)
        for name, x in theirs.items():
            ours = t[name] - t[f"{name}_zero"] if name.endswith("lora_E") else t[name]
            torch.testing.assert_close(ours, x.detach(), atol=1e-6, rtol=1e-5)
    kept = sum(int(x.sum()) for name, x in t.items() if name.endswith("lora_E_kept"))
    assert kept == 2 * len(paths)
    assert all(not x.numel() for name, x in t.items() if name.endswith(("_importance", "_uncertainty")))


def test_adaloras_penalty_is_pefts(backbones):
    backbone, part = backbones["bert"], method("adalora", options="init_r=4, orth_reg_weight=0.3, target_r=2")
    weights, constants = drawn(backbone, part)
    t = {n.removeprefix("0.0."): x for n, x in (moved(weights) | constants).items()}

    class Loss(nn.Module):
        """The least that peft's regularised forward asks of a model: an output with a loss."""

        def __init__(self) -> None:
            super().__init__()
            self.config = {"model_type": "loss"}
            self.layer = nn.Linear(16, 16)

        def forward(self, x):
            return type("Output", (), {"loss": self.layer(x).sum() * 0})()

    config = part.config()
    config.target_modules = ["layer"]
    model = by_peft(Loss(), config)
    own = {n: x for n, x in t.items() if n.startswith("encoder.0.attention.query.lora_")}
    for name, x in model.base_model.model.layer.named_parameters():
        full = f"encoder.0.attention.query.{name.removesuffix('.default')}"
        if full in own:
            x.data.copy_(own[full])
    assert torch.isclose(part.penalty(own), model.base_model(torch.ones(1, 16)).loss.detach())


def test_osfs_gradients_are_projected_as_by_pefts_hooks(backbones):
    backbone, part = backbones["llama"], method("osf", places=("attention.query", "ffn.up", "ffn.down"))
    weights, constants = drawn(backbone, part)
    own = {n.removeprefix("0.0."): x for n, x in (moved(weights) | constants).items()}
    given = inputs(backbone)
    model = in_peft(backbone, part, own)
    outputs(model, given).pow(2).sum().backward()
    leaves = {n: x.requires_grad_() for n, x in moved(weights).items()}
    with attached(backbone, part, leaves, constants):
        gradients = torch.autograd.grad(outputs(backbone.model, given).pow(2).sum(), list(leaves.values()))
    ours = dict(zip([n.removeprefix("0.0.") for n in leaves], gradients, strict=True))
    for layer in part._empty(backbone):
        module = model.base_model.model.get_submodule(layer.place.module)
        for name, x in module.named_parameters():
            if name in layer.names and layer.names[name] in ours:
                torch.testing.assert_close(ours[layer.names[name]], x.grad, atol=1e-3, rtol=1e-3)


@pytest.mark.parametrize("seed", range(3))
def test_a_trained_adalora_is_the_one_that_was_scored(backbones, seed):
    """The best evaluation's weights go with the ranks that were there then, not with those of the last step."""
    backbone = backbones["bert"]
    part = method("adalora", options="deltaT=1, init_r=4, target_r=1, tfinal=4, tinit=2")
    read = reader(backbone, tiny())
    rates = {"peft": 0.5}
    recipe = Recipe(steps=12, batch=4, evaluate_every=2, learning_rates=rates, warmup=0.0)
    delta = train(backbone, [Job(composition(part), read, seed, recipe)])[0]
    assert evaluate(read, delta, "val").score.value == delta.record["dev"]
    kept = [x for name, x in delta.constants.items() if name.endswith("lora_E_kept")]
    assert all(x.dtype == torch.bool for x in kept)


# Bad input

REFUSALS = [
    ({"type": "adalor"}, "no peft type 'adalor'; did you mean 'adalora'. peft types: adalora, adamss"),
    ({"type": "xlora"}, "peft: type='xlora' is not supported: it mixes LoRAs that are trained already"),
    ({"type": "pvera"}, "take vera"),
    ({"type": "lily"}, "an example's answer would depend on the others"),
    ({"type": "lora", "options": "rank=8"}, "no peft lora option 'rank'; .*peft lora options: init_lora"),
    ({"type": "lora", "options": "lora_alpa=8"}, "did you mean 'lora_alpha'"),
    ({"type": "lora", "options": "target_modules=['q']"}, "where it acts is set by places"),
    ({"type": "lora", "options": "bias='all'"}, "compose with bitfit"),
    ({"type": "lora", "options": "lora_dropout=0.1"}, "dropout is drawn from each delta's own generator"),
    ({"type": "lora", "options": "init_lora_weights='pissa_niter_4'"}, "a random part out of the pretrained matrix"),
    ({"type": "lora", "options": "init_lora_weights='eva'"}, "it is computed from data"),
    ({"type": "lora", "options": "r='8'"}, r"r='8' of type='lora' is text; write r=8"),
    ({"type": "lora", "options": "r=8.5"}, "r=8.5 of type='lora': should be a valid integer"),
    ({"type": "oft", "options": "r 8"}, "cannot be read .*; write for example 'r=8, lora_alpha=16'"),
    ({"type": "oft", "options": "8"}, "cannot be read .*names are missing"),
    ({"type": "oft", "options": "r=f(8)"}, "cannot be read"),
    ({"type": "oft", "options": "r=8, oft_block_size=8"}, "peft: options='oft_block_size=8, r=8' of type='oft': "),
    ({"type": "adalora", "options": "total_step=10"}, "the steps are the recipe's"),
    ({"type": "adalora", "options": "r=4"}, "`r` is not used in AdaLora and will be ignored"),
    ({"type": "prompt_tuning"}, "needs the option num_virtual_tokens, as in options='num_virtual_tokens=...'"),
    ({"type": "trainable_tokens"}, "needs the option token_indices"),
    ({"type": 8}, "peft: type=8: should be a valid string"),
]


@pytest.mark.parametrize(("settings", "message"), REFUSALS)
def test_settings_that_cannot_be_had_are_refused_with_a_sentence(settings, message):
    with pytest.raises(BadInput, match=message):
        Peft(**settings)


UNFIT = [
    ({"type": "oft", "options": "oft_block_size=5"}, "peft refuses OFT: .*djusted"),
    ({"type": "oft", "places": ("*norm",), "options": "oft_block_size=4"}, "peft refuses OFT: Target module LayerNorm"),
    ({"type": "vblora", "options": "vector_length=5"}, "peft refuses VBLORA: .*must be divisible"),
    ({"type": "lora", "places": ("attention",)}, "a block of modules and has no weight of its own"),
    ({"type": "lora", "places": ("ffn.gate",)}, "no place 'ffn.gate' in bert; .*places: attention"),
]


@pytest.mark.parametrize(("settings", "message"), UNFIT)
def test_what_does_not_fit_a_backbone_is_refused_with_a_sentence(backbones, settings, message):
    with pytest.raises(BadInput, match=message):
        init_weights(backbones["bert"], Peft(**settings))


def test_adalora_needs_steps_between_its_first_and_its_last(backbones):
    part = method("adalora", options="init_r=4, target_r=2, tfinal=6, tinit=5")
    weights, constants = drawn(backbones["bert"], part)
    with pytest.raises(BadInput, match="tinit=5 and tfinal=6 leave none of 10 steps to take ranks away in"):
        part.update(weights | constants, {}, 0, 10)


def test_listing_the_methods_does_not_import_peft():
    program = "import sys; import deltacompose_plugins.peft; print('peft' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"
