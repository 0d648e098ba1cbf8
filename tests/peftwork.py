"""Backbones of many families for the tests that compare with peft, and peft's own outputs on them."""

import copy
import warnings

import peft
import torch
import transformers
from deltacompose_plugins.backbones import tables

from deltacompose.backbone.backbone import Backbone
from deltacompose.backbone.loading import load_backbone
from deltacompose.composition import composition
from deltacompose.delta import Delta
from deltacompose.delta.merge import answer, probe
from deltacompose.method.weights import finalized, generator, init_constants, init_weights

_BERT = {
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 32,
    "max_position_embeddings": 64,
}
_LLAMA = _BERT | {"num_key_value_heads": 2, "head_dim": 4}
_BART = {
    "d_model": 16,
    **{f"{stack}_layers": 2 for stack in ("encoder", "decoder")},
    **{f"{stack}_attention_heads": 4 for stack in ("encoder", "decoder")},
    **{f"{stack}_ffn_dim": 32 for stack in ("encoder", "decoder")},
    "max_position_embeddings": 64,
    "decoder_start_token_id": 2,
}
_T5 = {"d_model": 16, "d_kv": 4, "num_heads": 4, "d_ff": 32, "num_layers": 2, "decoder_start_token_id": 0}
_GPT2 = {"n_embd": 16, "n_layer": 2, "n_head": 4, "n_inner": 32, "n_positions": 64}
_FALCON = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 4, "alibi": False, "ffn_hidden_size": 32}

MODELS = {
    "t5": ("t5", _T5),
    "bart": ("bart", _BART),
    "bart-scaled": ("bart", _BART | {"scale_embedding": True}),
    "marian": ("marian", _BART | {"scale_embedding": True}),
    "pegasus": ("pegasus", _BART | {"scale_embedding": True}),
    "bert": ("bert", _BERT),
    "roberta": ("roberta", _BERT),
    "distilbert": ("distilbert", {"dim": 16, "n_layers": 2, "n_heads": 4, "hidden_dim": 32}),
    "gpt2": ("gpt2", _GPT2),
    "gpt2-untied": ("gpt2", _GPT2 | {"tie_word_embeddings": False}),
    "llama": ("llama", _LLAMA | {"tie_word_embeddings": False}),
    "llama-tied": ("llama", _LLAMA | {"tie_word_embeddings": True}),
    "llama-multiquery": ("llama", _LLAMA | {"num_key_value_heads": 1}),
    "gpt-neox": ("gpt_neox", _BERT),
    "opt": ("opt", _BERT | {"ffn_dim": 32, "word_embed_proj_dim": 16}),
    "gemma": ("gemma", _LLAMA),
    "gemma2": ("gemma2", _LLAMA | {"sliding_window": 8}),
    "gemma3": ("gemma3_text", _LLAMA | {"sliding_window": 8}),
    "gemma2-wide": ("gemma2", _LLAMA | {"sliding_window": 64}),
    "gemma3-wide": ("gemma3_text", _LLAMA | {"sliding_window": 64}),
    "mistral-windowed": ("mistral", _LLAMA | {"sliding_window": 8}),
    "mistral": ("mistral", _LLAMA | {"sliding_window": 4096}),
    "phi3": ("phi3", _LLAMA | {"num_key_value_heads": 2}),
    "phi": ("phi", _BERT | {"partial_rotary_factor": 0.5}),
    "stablelm": ("stablelm", _LLAMA | {"partial_rotary_factor": 0.5}),
    "persimmon": ("persimmon", _BERT | {"partial_rotary_factor": 0.5}),
    "glm": ("glm", _LLAMA | {"partial_rotary_factor": 0.5}),
    "gpt-oss": ("gpt_oss", _LLAMA | {"num_local_experts": 2, "num_experts_per_tok": 1, "sliding_window": 8}),
    "gptj": ("gptj", _GPT2 | {"rotary_dim": 2}),
    "falcon": ("falcon", _FALCON | {"new_decoder_architecture": True, "num_kv_heads": 2}),
    "falcon-multiquery": ("falcon", _FALCON | {"multi_query": True}),
    "qwen2": ("qwen2", _LLAMA),
}


SERVED = frozenset(model_type for table in tables().values() for model_type in table.serves)


def shipped(*names: str) -> list[str]:
    """Those of these models whose table is shipped: all their places are named."""
    return [name for name in names if MODELS[name][0] in SERVED]


def backbone_of(name: str, dtype: torch.dtype = torch.float64) -> Backbone:
    """A backbone with random weights whose biases are not zero; its table is derived where none is shipped."""
    model_type, settings = MODELS[name]
    ids = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2, "vocab_size": 40}
    config = transformers.AutoConfig.for_model(model_type, **ids, **settings)
    for key in vars(config):
        if "dropout" in key or key.endswith("_pdrop"):
            setattr(config, key, 0.0)
    if config.is_encoder_decoder:
        maker = transformers.AutoModelForSeq2SeqLM
    else:
        maker = transformers.AutoModel if model_type.endswith("bert") or model_type == "roberta" else None
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = (maker or transformers.AutoModelForCausalLM).from_config(config)
        for x in model.parameters():
            x.data.normal_(std=0.25) if x.ndim > 1 else x.data.add_(torch.randn_like(x), alpha=0.1)
    model = model.to(dtype).eval().requires_grad_(False)
    return load_backbone(model, tables=tables(), table=None if model_type in SERVED else "derived")


def trained(backbone: Backbone, term, by: float = 0.1) -> Delta:
    """A delta whose every weight is off its start, as after training."""
    weights, constants = init_weights(backbone, term), init_constants(backbone, term)
    off = {n: x + by * torch.randn(x.shape, generator=generator(0, n)) for n, x in weights.items()}
    kept = finalized(term, {**off, **constants})
    record = {"name": backbone.name, "family": backbone.family, "fingerprint": backbone.fingerprint}
    return Delta(composition(term), {n: x for n, x in kept.items() if n not in constants}, constants, record)


def live(backbone: Backbone, delta: Delta) -> torch.Tensor:
    """The outputs with a delta attached."""
    with torch.no_grad(), delta.attached(backbone):
        return answer(backbone.model, probe(backbone))


def outputs(backbone: Backbone, model) -> torch.Tensor:
    """The outputs of a model of peft's, those of a prompt left out."""
    batch = probe(backbone)
    with warnings.catch_warnings(action="ignore"), torch.no_grad():
        output = model(**batch)
    states = output.logits if "logits" in output else output.last_hidden_state
    states = states if backbone.kind == "encoder-decoder" else states[:, -batch["input_ids"].shape[1] :]
    return states.float()


def opened(backbone: Backbone, folder) -> torch.Tensor:
    """The outputs of peft's own model of a folder."""
    with warnings.catch_warnings(action="ignore"):
        model = peft.PeftModel.from_pretrained(copy.deepcopy(backbone.model), folder)
    return outputs(backbone, model.to(backbone.model.dtype).eval())


def saved_by_peft(backbone: Backbone, config, folder, by: float = 0.1, before=None, **how) -> torch.Tensor:
    """The outputs of an adapter that peft has made and saved into a folder, every trained tensor moved.

    Args:
        before: prepares the model for its initialisation.
    """
    with warnings.catch_warnings(action="ignore"):
        model = copy.deepcopy(backbone.model).float()
        if before is not None:
            before(model)
        model = peft.get_peft_model(model, copy.deepcopy(config)).eval()
        for name, x in model.named_parameters():
            if x.requires_grad:
                x.data += by * torch.randn(x.shape, generator=generator(0, name))
        model.save_pretrained(folder, **how)
    return outputs(backbone, model.to(backbone.model.dtype))
