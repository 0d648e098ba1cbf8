"""A backbone is loaded from a folder, the hub, a package or a model in hand, and is what it promises to be."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import huggingface_hub.constants
import pytest
import torch
from deltacompose_plugins.backbones import embedded, tables
from passes import backbone_of, run
from torch import nn

from deltacompose.backbone.loading import load_backbone
from deltacompose.backbone.pico import FAMILIES, pico, pico_tokenizer
from deltacompose.backbone.pretrained import Checkpoint, find
from deltacompose.errors import BadInput
from deltacompose.places.table import read_table


def saved(folder: Path, family: str, head: str | None = None, **changes: Any) -> Path:
    model = pico(family, head=head)
    model.save_pretrained(folder)
    pico_tokenizer(family).save_pretrained(folder)
    config = json.loads((folder / "config.json").read_text()) | changes
    (folder / "config.json").write_text(json.dumps(config))
    return folder


@pytest.mark.parametrize("family", FAMILIES)
def test_a_folder_gives_the_saved_model_frozen_and_without_dropout(family, tmp_path):
    config = json.loads(pico(family).config.to_json_string())
    rates = {name: 0.5 for name in config if "drop" in name and config[name] == 0.0}
    backbone = load_backbone(saved(tmp_path, family, **rates), tables=tables())
    assert rates
    assert backbone.fingerprint == backbone_of(family).fingerprint
    assert backbone.family == family
    assert not backbone.model.training
    assert not any(parameter.requires_grad for parameter in backbone.model.parameters())
    backbone.model.train()
    first, second = run(backbone)[0], run(backbone)[0]
    assert torch.equal(first, second)
    assert backbone.tokenizer("ab").input_ids == pico_tokenizer(family)("ab").input_ids


def test_precision_is_as_asked_and_leaves_the_fingerprint(tmp_path):
    folder = saved(tmp_path, "llama")
    backbone = load_backbone(str(folder), tables=tables(), dtype="bfloat16", device="cpu")
    assert backbone.model.dtype == torch.bfloat16
    assert backbone.fingerprint == backbone_of("llama").fingerprint
    with pytest.raises(BadInput, match=r"no dtype 'fp16'; .*dtypes: auto, bfloat16, float16, float32"):
        load_backbone(folder, tables=tables(), dtype="fp16")


def test_a_model_in_hand_is_left_as_it_is():
    model = pico("bert")
    model.embeddings.dropout.p = 0.3
    model.train()
    backbone = load_backbone(model, tables=tables())
    assert backbone.tokenizer is None
    assert model.embeddings.dropout.p == 0.3
    assert model.training
    assert all(parameter.requires_grad for parameter in model.parameters())


def test_an_encoder_may_be_asked_for_its_masked_language_head(tmp_path):
    folder = saved(tmp_path, "bert", head="mlm")
    assert run(load_backbone(folder, tables=tables(), head="mlm")).logits.shape == (1, 9, 261)
    bare = [load_backbone(folder, tables=tables()) for _ in range(2)]
    assert bare[0].model.pooler is None
    assert bare[0].stream("encoder").pooler is None
    assert bare[0].fingerprint == bare[1].fingerprint
    with pytest.raises(BadInput, match=r"no head 'nsp'; .*heads: mlm"):
        load_backbone(folder, tables=tables(), head="nsp")


def test_a_head_that_the_checkpoint_lacks_is_not_made_up(tmp_path):
    pico("llama").model.save_pretrained(tmp_path)
    pico_tokenizer("llama").save_pretrained(tmp_path)
    with pytest.raises(BadInput, match=r"no weights for 1 tensors of LlamaForCausalLM, among them lm_head.weight"):
        load_backbone(tmp_path, tables=tables())
    with pytest.raises(BadInput, match="head='mlm' is for encoders; this backbone is of the kind decoder"):
        load_backbone(tmp_path, tables=tables(), head="mlm")


def test_pickled_weights_are_refused(tmp_path):
    folder = saved(tmp_path, "gpt2")
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    with pytest.raises(BadInput, match=r"weights only as pickles \(pytorch_model.bin\).*expected model.safetensors"):
        load_backbone(folder, tables=tables())


def damage(folder: Path, file: str, content: bytes) -> None:
    (folder / file).write_bytes(content)


DAMAGES = [
    ("model.safetensors", b"\x08\0\0\0\0\0\0\0{}", "the model in .* cannot be read"),
    ("model.safetensors", b"", "the model in .* cannot be read"),
    ("config.json", b"{", "the configuration in .* cannot be read"),
    ("config.json", b'{"model_type": "gpt5"}', "the configuration in .* cannot be read"),
    ("config.json", b'{"model_type": "gpt_neox", "hidden_size": 15}', "the configuration in .* cannot be read"),
    ("tokenizer.json", b"{}", "the tokenizer in .* cannot be read"),
]


@pytest.mark.parametrize(("file", "content", "message"), DAMAGES)
def test_a_damaged_file_is_named(file, content, message, tmp_path):
    folder = saved(tmp_path, "gpt2")
    damage(folder, file, content)
    with pytest.raises(BadInput, match=message):
        load_backbone(folder, tables=tables())


def test_a_folder_without_a_model_or_a_tokenizer_says_so(tmp_path):
    with pytest.raises(BadInput, match=r"holds no model: it has no model.safetensors"):
        load_backbone(tmp_path, tables=tables())
    pico("gpt2").save_pretrained(tmp_path)
    with pytest.raises(BadInput, match="holds no tokenizer; give one by tokenizer="):
        load_backbone(tmp_path, tables=tables())
    assert load_backbone(tmp_path, pico_tokenizer("gpt2"), tables=tables()).tokenizer is not None


def test_a_tokenizer_without_padding_pads_with_its_end(tmp_path):
    folder = saved(tmp_path, "gpt2")
    settings = json.loads((folder / "tokenizer_config.json").read_text())
    del settings["pad_token"]
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    assert load_backbone(folder, tables=tables()).tokenizer.pad_token == "</s>"


def test_a_backbone_prints_as_one_line():
    assert repr(backbone_of("t5")) == (
        "<T5ForConditionalGeneration: t5, 2 encoder, 2 decoder layers, 14,864 parameters, 67 places>"
    )


def test_a_tokenizer_of_another_model_is_refused():
    model = pico("gpt2")
    model.resize_token_embeddings(100)
    with pytest.raises(BadInput, match=r"the tokenizer has 261 tokens and .* embeds 100: it belongs to another model"):
        load_backbone(model, pico_tokenizer("gpt2"), tables=tables())


def test_what_is_neither_name_nor_folder_is_refused(tmp_path):
    with pytest.raises(BadInput, match="no folder '/no/where/at/all', and it is not a name on the Hugging Face hub"):
        load_backbone("/no/where/at/all", tables=tables())
    with pytest.raises(BadInput, match="'t5' is a table, which serves models"):
        load_backbone("t5", tables=tables())
    with pytest.raises(BadInput, match="no table 'barts'; did you mean 'bart'"):
        load_backbone(pico("t5"), tables=tables(), table="barts")


@pytest.fixture
def offline_hub(tmp_path, monkeypatch):
    """An empty cache of the hub, and no network."""
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    return tmp_path


def test_a_hub_name_without_a_network_says_what_to_do(offline_hub):
    with pytest.raises(BadInput, match=f"the cache {offline_hub} has no copy.*run `hf download someone/model`") as said:
        load_backbone("someone/model", tables=tables())
    assert "or `deltacompose prefetch` for all of a study" in str(said.value)


def test_a_hub_name_is_taken_from_the_cache_with_its_commit(offline_hub):
    commit = "0123456789abcdef0123456789abcdef01234567"
    cached = offline_hub / "models--someone--model"
    (cached / "refs").mkdir(parents=True)
    (cached / "refs" / "main").write_text(commit)
    saved(cached / "snapshots" / commit, "gpt2")
    backbone = load_backbone("someone/model", tables=tables())
    assert backbone.revision == commit
    assert backbone.name == "someone/model"
    assert backbone.fingerprint == backbone_of("gpt2").fingerprint


def test_two_tables_that_serve_one_type_must_be_told_apart():
    both = tables() | {"mine": read_table("mine", tables()["gpt2"].data)}
    with pytest.raises(BadInput, match="the tables gpt2 and mine both serve 'gpt2'; say which by table="):
        load_backbone(pico("gpt2"), tables=both)
    assert load_backbone(pico("gpt2"), tables=both, table="mine").family == "mine"


def test_weights_that_are_not_the_promised_ones_are_refused(tmp_path):
    folder = saved(tmp_path, "gpt2")
    promised = hashlib.sha256((folder / "model.safetensors").read_bytes()).hexdigest()
    loaders = {"own": lambda: Checkpoint(str(folder), promised)}
    assert load_backbone("own", tables=tables() | loaders).name == "own"
    content = bytearray((folder / "model.safetensors").read_bytes())
    content[-1] ^= 1
    damage(folder, "model.safetensors", bytes(content))
    with pytest.raises(BadInput, match=rf"not the file that was tested: its sha256 is .*, expected {promised}"):
        load_backbone("own", tables=tables() | loaders)


def test_a_loader_that_gives_something_else_is_named():
    with pytest.raises(BadInput, match="the loader of 'own' gave a int; expected a Checkpoint"):
        load_backbone("own", tables={"own": lambda: 3})


def test_a_plugins_broken_table_does_not_keep_others_from_loading():
    class Broken(dict):
        def __getitem__(self, name: str) -> Any:
            if name == "broken":
                raise BadInput("broken cannot be read")
            return super().__getitem__(name)

    assert load_backbone(pico("gpt2"), tables=Broken(tables() | {"broken": None})).family == "gpt2"


def test_the_embedded_backbone_loads_and_knows_what_sentences_mean():
    backbone = load_backbone("embedded", tables=tables() | {"embedded": embedded.checkpoint})
    assert backbone.family == "bert"
    assert sum(parameter.numel() for parameter in backbone.model.parameters()) == 22_713_216
    texts = ["The film was a delight.", "A wonderful movie!", "The bridge is closed on Monday."]
    batch = backbone.tokenizer(texts, padding=True, return_tensors="pt")
    with torch.no_grad():
        states = backbone.model(**batch).last_hidden_state
    mask = batch.attention_mask[..., None]
    pooled = nn.functional.normalize((states * mask).sum(1) / mask.sum(1), dim=-1)
    alike, unlike = pooled[0] @ pooled[1], pooled[0] @ pooled[2]
    assert alike > 0.6
    assert unlike < 0.3


def test_the_embedded_backbone_is_checked_on_either_path(monkeypatch, tmp_path):
    def not_installed(name: str) -> Any:
        raise embedded.PackageNotFoundError(name)

    assert embedded.checkpoint().sha256 == embedded.SHA256
    folder = saved(tmp_path, "bert")
    with pytest.raises(BadInput, match=f"expected {embedded.SHA256}"):
        find(Checkpoint(str(folder), embedded.SHA256))
    monkeypatch.setattr(embedded, "distribution", not_installed)
    assert embedded.checkpoint() == Checkpoint("sentence-transformers/all-MiniLM-L6-v2", embedded.SHA256)


def test_the_generative_backbone_knows_a_story_and_where_it_ends(monkeypatch):
    folder = Path(__file__).parents[2] / "plugins" / "deltacompose-stories15m"
    monkeypatch.syspath_prepend(str(folder))
    import deltacompose_stories15m

    assert deltacompose_stories15m.deltacompose_backbones() == {
        "embedded-generative": "deltacompose_stories15m:checkpoint"
    }
    backbone = load_backbone("stories", tables=tables() | {"stories": deltacompose_stories15m.checkpoint})
    story = (
        "Tom lost his ball. He looked under the bed and found it. Tom was happy. He said thank you to his mom. The end."
    )
    batch = backbone.tokenizer([story, " ".join(reversed(story.split()))], return_tensors="pt", padding=True)
    ended = backbone.model.generate(batch.input_ids[:1], max_new_tokens=20, do_sample=False)[0]
    assert ended[-1] == backbone.tokenizer.eos_token_id == 1
    assert len(ended) == batch.input_ids.shape[1] + 1
    losses = [backbone.model(ids[None], labels=ids[None]).loss for ids in batch.input_ids]
    assert losses[0] < 3 < 5 < losses[1]
