"""Adapters that peft has saved: every initialisation, tied matrices, trained parameters, prefixes on many families."""

import copy
import dataclasses
import json
import re
import warnings

import peft
import pytest
import torch
from peft.tuners.lora.config import CordaConfig, LoraGAConfig
from peft.tuners.lora.corda import preprocess_corda
from peftwork import backbone_of, live, opened, outputs, saved_by_peft, shipped, trained
from safetensors.torch import load_file, save_file

from deltacompose.backbone.loading import load_backbone
from deltacompose.delta.exchange import export_peft, import_peft
from deltacompose.delta.merge import answer, probe
from deltacompose.delta.peft_initial import LOST as LOST_STARTS
from deltacompose.delta.peft_initial import PLAIN
from deltacompose.delta.peft_options import HONOURED, REFUSED, WITHOUT_EFFECT
from deltacompose.errors import BadInput
from deltacompose.plugins import load

KNOWN = load(disabled=True).methods
LoraConfig = peft.LoraConfig


def close(one, other) -> None:
    torch.testing.assert_close(one, other, atol=1e-5, rtol=1e-5)


def imported(folder, backbone):
    return import_peft(folder, backbone, KNOWN, any_base=True)


def assert_imported(backbone, config, folder, **how) -> None:
    """The import gives the outputs that peft gave when it saved the adapter, and they are not the backbone's."""
    expected = saved_by_peft(backbone, config, folder, **how)
    assert (expected - answer(backbone.model, probe(backbone))).abs().max() > 1e-3
    close(live(backbone, imported(folder, backbone)), expected)


# Initialisations

WHERE = {"llama": ["q_proj", "down_proj"], "gpt2": ["c_attn", "c_fc"], "t5": ["q", "wo"]}
EVERY = [True, False, "gaussian", "eva", "orthogonal", "mica", "pissa", "olora"]


@pytest.mark.parametrize("start", EVERY, ids=str)
@pytest.mark.parametrize("family", ["llama", "gpt2", "t5"])
def test_an_adapter_of_any_initialisation_is_what_peft_trained(family, start, tmp_path):
    targets = ["c_proj"] if (family, start) == ("gpt2", "olora") else WHERE[family]  # peft needs square matrices there
    where = rf".*attn\.({'|'.join(targets)})" if targets == ["c_proj"] else targets
    options = {"eva_config": peft.EvaConfig()} if start == "eva" else {}
    config = LoraConfig(r=4, target_modules=where, init_lora_weights=start, **options)
    assert_imported(backbone_of(family), config, tmp_path)


@pytest.mark.parametrize("start", ["pissa", "olora"])
@pytest.mark.parametrize(
    "options",
    [
        {"use_rslora": True, "lora_alpha": 3},
        {"use_dora": True},
        {"alpha_pattern": {"q_proj": 5}, "rank_pattern": {"v_proj": 2}},
    ],
    ids=str,
)
def test_a_residual_is_rebuilt_with_the_scale_and_rank_of_its_module(start, options, tmp_path):
    config = LoraConfig(r=4, target_modules=["q_proj", "v_proj"], init_lora_weights=start, **options)
    assert_imported(backbone_of("llama"), config, tmp_path)


def test_a_random_decomposition_is_imported_where_it_converges_and_refused_where_not(tmp_path):
    backbone = backbone_of("llama")
    config = LoraConfig(r=16, target_modules=["q_proj"], init_lora_weights="pissa_niter_16")  # of full rank
    assert_imported(backbone, config, tmp_path / "converged")
    saved_by_peft(backbone, LoraConfig(r=3, target_modules=["q_proj"], init_lora_weights="pissa_niter_1"), tmp_path)
    with pytest.raises(BadInput, match=r"init_lora_weights='pissa_niter_1' because two random decompositions"):
        imported(tmp_path, backbone)


def test_an_adapter_converted_by_peft_to_a_plain_one_is_imported(tmp_path):
    backbone = backbone_of("llama")
    config = LoraConfig(r=4, target_modules=["q_proj"], init_lora_weights="pissa")
    with warnings.catch_warnings(action="ignore"):
        model = peft.get_peft_model(copy.deepcopy(backbone.model).float(), config)
        model.peft_config["default"].init_lora_weights = True
        model.save_pretrained(tmp_path / "start")
        model.peft_config["default"].init_lora_weights = "pissa"
        for x in model.parameters():
            if x.requires_grad:
                x.data += 0.1 * torch.randn(x.shape, generator=torch.Generator().manual_seed(1))
        expected = outputs(backbone, copy.deepcopy(model).double().eval())
        model.save_pretrained(tmp_path / "plain", path_initial_model_for_weight_conversion=str(tmp_path / "start"))
    assert json.loads((tmp_path / "plain" / "adapter_config.json").read_text())["r"] == 8
    close(live(backbone, imported(tmp_path / "plain", backbone)), expected)


def corda(model) -> None:
    """Prepares CorDA's decomposition of covariances on a few tokens."""
    config = LoraConfig(r=4, target_modules=["q_proj"], init_lora_weights="corda", corda_config=CordaConfig())
    preprocess_corda(model, config, run_model=lambda: model(torch.arange(5, 37)[None]))


def gradients(model) -> None:
    for name, module in model.named_modules():
        if name.endswith("q_proj"):
            module._peft_loraga_grad = torch.randn(module.weight.shape, generator=torch.Generator().manual_seed(0))


LOST = [
    ({"init_lora_weights": "corda", "corda_config": CordaConfig()}, corda, "depend on data"),
    ({"init_lora_weights": "lora_ga", "lora_ga_config": LoraGAConfig()}, gradients, "depend on gradients"),
]


@pytest.mark.parametrize(("options", "before", "reason"), LOST, ids=["corda", "lora_ga"])
def test_an_initialisation_that_the_folder_does_not_tell_is_refused_by_name(options, before, reason, tmp_path):
    backbone = backbone_of("llama")
    saved_by_peft(backbone, LoraConfig(r=4, target_modules=["q_proj"], **options), tmp_path, before=before)
    with pytest.raises(BadInput, match=rf"init_lora_weights='{options['init_lora_weights']}' because it .*{reason}"):
        imported(tmp_path, backbone)


@pytest.mark.parametrize(("start", "message"), [("loftq", "because it replaces the"), ("zeros", "not a known init")])
def test_a_quantising_or_unknown_initialisation_is_refused_by_name(start, message, tmp_path):
    backbone = backbone_of("llama")
    saved_by_peft(backbone, LoraConfig(r=4, target_modules=["q_proj"]), tmp_path)
    edited(tmp_path, init_lora_weights=start)
    with pytest.raises(BadInput, match=message):
        imported(tmp_path, backbone)


def test_every_initialisation_that_the_installed_peft_names_is_imported_or_refused_by_name():
    """The names stand in the annotation of peft's own field."""
    (annotation,) = (one.type for one in dataclasses.fields(LoraConfig) if one.name == "init_lora_weights")
    named = set(re.findall(r"'([a-z_]+)(?:_\[[^']*\])?'", str(annotation).replace('"', "'")))
    assert {"gaussian", "pissa", "olora", "loftq"} <= named
    known = {"pissa", "pissa_niter", "olora", *LOST_STARTS, *(start for start in PLAIN if isinstance(start, str))}
    assert named <= known
    assert {start for start in EVERY if isinstance(start, str)} >= named - {"pissa_niter", *LOST_STARTS}


# Families

LINEAR = {
    "t5": (["q", "v", "wo"], ["k", "v"]),
    "bert": (["query", "value", "intermediate.dense"], ["key", "value"]),
    "gpt2": (["c_attn", "c_fc", "c_proj"], ["c_attn", "c_fc"]),
    "llama": (["q_proj", "v_proj", "gate_proj"], ["k_proj", "v_proj"]),
    "gpt-neox": (["query_key_value", "dense"], ["query_key_value", "dense_h_to_4h"]),
    "opt": (["q_proj", "v_proj", "fc1"], ["k_proj", "v_proj"]),
    "gemma2": (["q_proj", "k_proj", "up_proj"], ["k_proj", "v_proj"]),
    "phi3": (["qkv_proj", "gate_up_proj", "down_proj"], ["qkv_proj"]),
    "falcon": (["query_key_value", "dense"], ["query_key_value"]),
    "falcon-multiquery": (["query_key_value", "dense_h_to_4h"], ["query_key_value"]),
}


@pytest.mark.parametrize("family", shipped(*LINEAR))
@pytest.mark.parametrize("options", [{}, {"use_dora": True, "use_rslora": True, "lora_alpha": 5}], ids=str)
def test_a_lora_of_pefts_is_imported(family, options, tmp_path):
    config = LoraConfig(r=3, target_modules=LINEAR[family][0], init_lora_weights=False, **options)
    assert_imported(backbone_of(family), config, tmp_path)


@pytest.mark.parametrize("family", shipped(*LINEAR))
def test_an_ia3_of_pefts_is_imported(family, tmp_path):
    config = peft.IA3Config(target_modules=LINEAR[family][1], feedforward_modules=[])
    assert_imported(backbone_of(family), config, tmp_path)


# Tied matrices

TIED = {
    "llama-tied": ["embed_tokens", "lm_head"],
    "gpt2": ["wte", "lm_head"],
    "opt": ["embed_tokens", "lm_head"],
    "gemma2": ["embed_tokens", "lm_head"],
}


@pytest.mark.parametrize("family", ["llama-tied", "opt", "gemma2"])  # peft does not tie GPT-2's
def test_tied_matrices_that_peft_keeps_tied_are_imported(family, tmp_path):
    config = LoraConfig(r=4, target_modules=TIED[family][:1], init_lora_weights=False, ensure_weight_tying=True)
    assert_imported(backbone_of(family), config, tmp_path)


@pytest.mark.parametrize("family", TIED)
@pytest.mark.parametrize("which", [0, 1, slice(0, 2)], ids=["embedding", "head", "both, differently"])
def test_an_adapter_on_some_modules_of_a_tied_matrix_is_refused_by_name(family, which, tmp_path):
    backbone, targets = backbone_of(family), TIED[family][which]
    config = LoraConfig(r=4, target_modules=targets if isinstance(which, slice) else [targets], init_lora_weights=False)
    saved_by_peft(backbone, config, tmp_path)
    with pytest.raises(BadInput, match=r"cannot import a change of .* alone because .* shares its matrix; train"):
        imported(tmp_path, backbone)


@pytest.mark.parametrize("family", ["llama", "gpt2-untied"])
@pytest.mark.parametrize("save", [True, False])
def test_untied_embeddings_and_heads_are_imported_with_or_without_their_copies(family, save, tmp_path):
    targets = ["embed_tokens" if family == "llama" else "wte", "lm_head"]
    config = LoraConfig(r=4, target_modules=targets, init_lora_weights=False)
    assert_imported(backbone_of(family), config, tmp_path, save_embedding_layers=save)
    names = load_file(tmp_path / "adapter_model.safetensors")
    assert any("base_layer" in name for name in names) == save


def test_a_residual_of_a_tied_matrix_is_refused_by_name(tmp_path):
    backbone = backbone_of("llama-tied")
    saved_by_peft(backbone, LoraConfig(r=4, target_modules=["lm_head"], init_lora_weights="pissa"), tmp_path)
    with pytest.raises(BadInput, match=r"cannot import init_lora_weights='pissa' at lm_head because other modules"):
        imported(tmp_path, backbone)


# Trained parameters of the model

TRAINED = [
    ("gpt2", {"target_modules": ["c_attn"], "bias": "all"}),
    ("gpt2", {"target_modules": ["c_attn"], "bias": "lora_only"}),
    ("qwen2", {"target_modules": ["q_proj", "v_proj"], "bias": "all"}),
    ("bert", {"target_modules": ["query"], "lora_bias": True}),
    ("gpt2", {"target_modules": ["c_attn"], "lora_bias": True}),
    ("llama", {"target_modules": ["q_proj"], "modules_to_save": ["norm"]}),
    ("llama", {"target_modules": ["q_proj"], "modules_to_save": ["lm_head"]}),
    ("llama", {"target_modules": ["q_proj"], "modules_to_save": ["embed_tokens", "lm_head"]}),
    ("llama-tied", {"target_modules": ["q_proj"], "modules_to_save": ["embed_tokens"], "ensure_weight_tying": True}),
    ("gpt2", {"target_modules": ["c_attn"], "modules_to_save": ["mlp"], "bias": "all"}),
    ("bert", {"target_modules": ["query"], "modules_to_save": ["intermediate", "LayerNorm"]}),
]


@pytest.mark.parametrize(("family", "options"), TRAINED, ids=str)
def test_biases_and_saved_modules_are_imported_with_the_factors(family, options, tmp_path):
    assert_imported(backbone_of(family), LoraConfig(r=2, init_lora_weights=False, **options), tmp_path)


def test_the_saved_modules_of_an_ia3_are_imported(tmp_path):
    config = peft.IA3Config(target_modules=["k_proj"], feedforward_modules=[], modules_to_save=["down_proj"])
    assert_imported(backbone_of("llama"), config, tmp_path)


def test_a_saved_head_of_a_tied_matrix_is_refused_by_name(tmp_path):
    backbone = backbone_of("llama-tied")
    saved_by_peft(backbone, LoraConfig(r=2, target_modules=["q_proj"], modules_to_save=["lm_head"]), tmp_path)
    with pytest.raises(BadInput, match=r"a change of lm_head alone because model.embed_tokens of .* shares its matrix"):
        imported(tmp_path, backbone)


@pytest.fixture
def with_embedding(tmp_path):
    """A folder with peft's copy of the frozen embedding, and its backbone."""
    backbone = backbone_of("llama")
    saved_by_peft(backbone, LoraConfig(r=2, target_modules=["embed_tokens"]), tmp_path)
    return backbone, tmp_path


COPY = "base_model.model.model.embed_tokens.base_layer.weight"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda x: torch.cat([x, x[:3]]),
            r"embed_tokens.weight is \(43, 16\) and that of .* is \(40, 16\); if its voc",
        ),
        (lambda x: x + 0.1, r"embed_tokens.weight is not that of .*; it belongs to another base model"),
    ],
)
def test_another_embedding_than_the_backbones_is_refused_by_name(with_embedding, change, message):
    backbone, folder = with_embedding
    tensors = load_file(folder / "adapter_model.safetensors")
    save_file(tensors | {COPY: change(tensors[COPY])}, folder / "adapter_model.safetensors")
    with pytest.raises(BadInput, match=message):
        imported(folder, backbone)


def test_a_copy_of_the_embedding_in_bfloat16_is_a_copy(with_embedding):
    backbone, folder = with_embedding
    tensors = load_file(folder / "adapter_model.safetensors")
    save_file(tensors | {COPY: tensors[COPY].bfloat16()}, folder / "adapter_model.safetensors")
    assert str(imported(folder, backbone).expression).startswith("lora(")


def test_a_trained_head_that_the_backbone_lacks_is_refused_by_name(with_embedding):
    backbone, folder = with_embedding
    tensors = load_file(folder / "adapter_model.safetensors")
    save_file(tensors | {"base_model.model.score.weight": torch.ones(2, 16)}, folder / "adapter_model.safetensors")
    with pytest.raises(BadInput, match=r"has no parameter score.weight, which the folder holds; it belongs to a model"):
        imported(folder, backbone)


def test_dora_on_an_embedding_is_refused_by_name(tmp_path):
    backbone = backbone_of("llama")
    saved_by_peft(backbone, LoraConfig(r=2, target_modules=["embed_tokens"], use_dora=True), tmp_path)
    with pytest.raises(BadInput, match=r"cannot import DoRA at model.embed_tokens because peft scales the columns"):
        imported(tmp_path, backbone)


def test_a_module_with_one_factor_is_refused_by_name(with_embedding):
    backbone, folder = with_embedding
    tensors = load_file(folder / "adapter_model.safetensors")
    save_file({n: x for n, x in tensors.items() if "embedding_B" not in n}, folder / "adapter_model.safetensors")
    with pytest.raises(BadInput, match=r"lora_embedding_A. and not .*lora_embedding_B"):
        imported(folder, backbone)


# Fields

CONFIGS = {
    "LORA": peft.LoraConfig,
    "IA3": peft.IA3Config,
    "PROMPT_TUNING": peft.PromptTuningConfig,
    "P_TUNING": peft.PromptEncoderConfig,
    "MULTITASK_PROMPT_TUNING": peft.MultitaskPromptTuningConfig,
    "PREFIX_TUNING": peft.PrefixTuningConfig,
}


@pytest.mark.parametrize("peft_type", CONFIGS)
def test_every_field_of_the_installed_peft_is_honoured_or_refused(peft_type):
    lists = (HONOURED[peft_type], WITHOUT_EFFECT[peft_type], tuple(REFUSED.get(peft_type, {})))
    known = [name for names in lists for name in names]
    assert len(known) == len(set(known))
    assert {field.name for field in dataclasses.fields(CONFIGS[peft_type])} <= set(known)


def edited(folder, **config) -> None:
    path = folder / "adapter_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | config))


@pytest.fixture(scope="module")
def plain(tmp_path_factory):
    folder = tmp_path_factory.mktemp("plain")
    saved_by_peft(backbone_of("llama"), LoraConfig(r=2, target_modules=["q_proj"]), folder)
    return folder, json.loads((folder / "adapter_config.json").read_text())


@pytest.mark.parametrize("field", [*REFUSED["LORA"], "a_field_of_the_future"])
def test_a_field_that_changes_the_function_is_refused_by_name(field, plain):
    folder, config = plain
    (folder / "adapter_config.json").write_text(json.dumps(config | {field: [1]}))
    with pytest.raises(BadInput, match=rf"cannot import peft's option {field}=\[1\] because"):
        imported(folder, backbone_of("llama"))


def test_a_field_of_the_future_that_is_not_set_is_passed_over(plain):
    folder, config = plain
    (folder / "adapter_config.json").write_text(json.dumps(config | {"a_field_of_the_future": None}))
    assert str(imported(folder, backbone_of("llama")).expression).startswith("lora(")


# Prefixes and prompts

ROTATED = ["llama", "llama-multiquery", "mistral", "gpt-neox", "gemma", "phi3", "phi", "stablelm", "persimmon", "glm"]
ROTATED += ["gemma2-wide", "gemma3-wide"]  # a window that no input exceeds


@pytest.mark.parametrize("family", ROTATED)
def test_a_prefix_of_pefts_is_turned_where_positions_are_rotations(family, tmp_path):
    assert_imported(backbone_of(family), peft.PrefixTuningConfig(num_virtual_tokens=3, task_type="CAUSAL_LM"), tmp_path)


@pytest.mark.parametrize("family", ["gemma2", "gemma3", "mistral-windowed", "gpt-oss"])
def test_a_prefix_of_pefts_is_refused_where_attention_has_a_window(family, tmp_path):
    backbone = backbone_of(family, torch.float32)
    saved_by_peft(backbone, peft.PrefixTuningConfig(num_virtual_tokens=3, task_type="CAUSAL_LM"), tmp_path)
    with pytest.raises(BadInput, match=r"slides out of .*'s attention window of 8 tokens, and ours does not"):
        imported(tmp_path, backbone)


PROMPTED = [
    "t5",
    "bart",
    "bart-scaled",
    "bert",
    "roberta",
    "gpt2",
    "llama",
    "gpt-neox",
    "opt",
    "gemma2",
    "phi3",
    "falcon",
]
TASKS = {"encoder": "FEATURE_EXTRACTION", "decoder": "CAUSAL_LM", "encoder-decoder": "SEQ_2_SEQ_LM"}


@pytest.mark.parametrize("family", PROMPTED)
def test_a_prompt_of_pefts_is_imported(family, tmp_path):
    backbone = backbone_of(family)
    config = peft.PromptTuningConfig(num_virtual_tokens=3, task_type=TASKS[backbone.kind])
    assert_imported(backbone, config, tmp_path)


@pytest.mark.parametrize("family", ["marian", "pegasus"])
def test_a_prompt_is_pefts_function_or_refused_where_peft_takes_the_scale_from_the_tokens(family, tmp_path):
    backbone = backbone_of(family)
    config = peft.PromptTuningConfig(num_virtual_tokens=3, task_type="SEQ_2_SEQ_LM")
    expected = saved_by_peft(backbone, config, tmp_path)
    try:
        close(live(backbone, imported(tmp_path, backbone)), expected)
    except BadInput as error:
        message = str(error)
    else:
        return
    assert "a prompt in peft is another function on" in message


PROMPT_TYPES = {
    "prompt": lambda **how: peft.PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=2, **how),
    "prefix": lambda **how: peft.PrefixTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=2, **how),
}


@pytest.mark.parametrize("kind", PROMPT_TYPES)
def test_a_prompt_with_more_trained_tensors_is_refused_by_name(kind, tmp_path):
    backbone = backbone_of("llama")
    saved_by_peft(backbone, PROMPT_TYPES[kind](), tmp_path)
    imported(tmp_path, backbone)
    tensors = load_file(tmp_path / "adapter_model.safetensors")
    save_file(tensors | {"lm_head.weight": torch.ones(40, 16)}, tmp_path / "adapter_model.safetensors")
    with pytest.raises(BadInput, match=r"TUNING with the tensor 'lm_head.weight' because it trains more than what"):
        imported(tmp_path, backbone)
    save_file(tensors, tmp_path / "adapter_model.safetensors")
    edited(tmp_path, modules_to_save=["lm_head"])
    with pytest.raises(BadInput, match=r"with modules_to_save=\['lm_head'\] because it trains more than what"):
        imported(tmp_path, backbone)


# Tables that leave something out

PARTIAL = {
    "serves": ["gpt2"],
    "kind": "decoder",
    "without": ["*"],
    "stacks": {
        "decoder": {
            "module": ".",
            "layers": "n_layer",
            "width": "n_embd",
            "heads": "n_head",
            "head_width": "n_embd / n_head",
            "limit": "n_positions",
        }
    },
    "places": {
        "embedding": "wte",
        "decoder.{layer}.attention.query": "h.{layer}.attn.c_attn[0/3]",
        "decoder.{layer}.ffn.up": "h.{layer}.mlp.c_fc",
    },
}


@pytest.mark.parametrize(
    ("target", "message"),
    [
        ("c_attn", r"has places for 16 of its 48 rows \(attention.query\); give the others places too"),
        ("wte", r"a change of transformer.wte alone because lm_head of .* shares its matrix"),
    ],
)
def test_an_adapter_on_what_a_table_leaves_out_is_refused_by_name(target, message, tmp_path):
    backbone = load_backbone(backbone_of("gpt2").model, table=PARTIAL)
    saved_by_peft(backbone, LoraConfig(r=2, target_modules=[target], init_lora_weights="gaussian"), tmp_path)
    with pytest.raises(BadInput, match=message):
        imported(tmp_path, backbone)


def test_a_delta_on_a_tied_embedding_is_exported_on_the_head_too_where_the_table_leaves_it_out(tmp_path):
    backbone = load_backbone(backbone_of("gpt2").model, table=PARTIAL)
    delta = trained(backbone, KNOWN["lora"](rank=2, places=("embedding",)))
    export_peft(delta, backbone, tmp_path)
    close(opened(backbone, tmp_path), live(backbone, delta))
