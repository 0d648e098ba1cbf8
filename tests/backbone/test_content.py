"""The content of a backbone: every edit that can change an output gives another digest."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
import stale_edits
import torch

import deltacompose as dc
from deltacompose.backbone import content as contents
from deltacompose.backbone.backbone import bind
from deltacompose.backbone.loading import load_backbone
from deltacompose.backbone.pico import FAMILIES, pico, pico_backbone, pico_tokenizer
from deltacompose.errors import BadInput


@pytest.mark.parametrize("family", FAMILIES)
def test_where_a_field_of_the_configuration_changes_the_outputs_it_changes_the_content(family):
    """Some fields of each family, among them one that matters; `python tests/stale_edits.py --fields` tries all."""
    differing, silent = stale_edits.fields_that_change_outputs(family, some=6)
    assert not silent
    assert differing, "no field changed anything: the test perturbs nothing"


@pytest.mark.parametrize("family", FAMILIES)
def test_bookkeeping_changes_neither_the_outputs_nor_the_content(family):
    model = pico(family)
    others = {"_name_or_path": "moved", "transformers_version": "9.9", "architectures": ["T5Model"], "dtype": "float64"}
    assert set(others) <= contents.BOOKKEEPING
    config = type(model.config).from_dict({**model.config.to_dict(), **others})
    assert contents.config_content(config) == contents.config_content(model.config)
    maker = type(model)
    assert torch.equal(stale_edits.outputs(rebuilt_as(maker, model, config)), stale_edits.outputs(model))


def rebuilt_as(maker, model, config):
    other = maker(config)
    other.load_state_dict(model.state_dict())
    return other.to(torch.float32).eval()


@pytest.mark.parametrize(
    "edit",
    [
        lambda t: setattr(t, "padding_side", "left" if t.padding_side == "right" else "right"),
        lambda t: setattr(t, "truncation_side", "left"),
        lambda t: setattr(t, "chat_template", "{{ messages }}"),
        lambda t: setattr(t, "model_max_length", 7),
        lambda t: t.add_tokens(["unheard"]),
        lambda t: t.add_special_tokens({"additional_special_tokens": ["<mark>"]}),
        lambda t: setattr(t, "pad_token", "</s>"),
    ],
)
def test_the_content_covers_what_a_tokenizer_is_set_to(edit):
    tokenizer = pico_tokenizer("gpt2")
    before = json.dumps(contents.tokenizer_content(tokenizer), sort_keys=True)
    edit(tokenizer)
    assert json.dumps(contents.tokenizer_content(tokenizer), sort_keys=True) != before


def test_using_a_tokenizer_does_not_change_the_content():
    tokenizer = pico_tokenizer("bert")
    before = contents.tokenizer_content(tokenizer)
    tokenizer(["a", "longer text"], padding=True, truncation=True, max_length=4)
    assert contents.tokenizer_content(tokenizer) == before


def test_the_content_tells_weights_apart_within_a_rounding_to_bfloat16_and_the_fingerprint_does_not():
    backbone, other = pico_backbone("gpt2"), pico_backbone("gpt2")
    weight = next(x for x in other.model.parameters() if x.ndim == 2)
    weight.data[-1, -1] = torch.nextafter(weight.data[-1, -1], torch.tensor(9.0))
    other = replace(other)  # both digests are read once
    assert other.fingerprint == backbone.fingerprint
    assert other.content != backbone.content


def test_the_content_is_the_same_however_often_and_under_which_name_a_backbone_is_loaded(tmp_path):
    from deltacompose import api

    for name in ("one", "two"):
        pico("bert").save_pretrained(tmp_path / name)
        pico_tokenizer("bert").save_pretrained(tmp_path / name)
    pico("bert").save_pretrained(tmp_path / "two", max_shard_size="20KB")
    (tmp_path / "two" / "model.safetensors").unlink()
    one, two = (api.load_backbone(str(tmp_path / name)) for name in ("one", "two"))
    assert one.content == two.content == api.load_backbone(tmp_path / "one").content
    assert len(list((tmp_path / "two").glob("*.safetensors"))) > 1


def test_a_table_that_says_the_same_under_another_name_is_the_same_content():
    backbone = pico_backbone("gpt2")
    renamed = replace(backbone.table, name="mine", serves=("other",))
    assert bind(backbone.model, renamed, backbone.tokenizer).content == backbone.content


def test_files_that_change_while_a_model_is_loaded_are_refused(tmp_path, monkeypatch):
    from deltacompose import api
    from deltacompose.backbone import loading

    pico("bert").save_pretrained(tmp_path)
    pico_tokenizer("bert").save_pretrained(tmp_path)
    read = loading.read_tokenizer

    def edited(folder):
        (tmp_path / "config.json").write_text((tmp_path / "config.json").read_text() + " ")
        return read(folder)

    monkeypatch.setattr(loading, "read_tokenizer", edited)
    with pytest.raises(BadInput, match="changed while they were read; load it again"):
        api.load_backbone(tmp_path)


def test_a_value_without_a_digest_is_refused_by_its_type():
    backbone = pico_backbone("bert")
    backbone.model.config.strange = object()
    with pytest.raises(BadInput, match="a configuration holds a object, which has no digest"):
        _ = load_backbone(backbone.model, table=backbone.table).content


def test_an_encoder_that_is_made_a_decoder_has_another_content():
    model, tokenizer = pico("bert"), pico_tokenizer("bert")
    before = dc.load_backbone(model, tokenizer).content
    model.config.is_decoder = True
    assert dc.load_backbone(model, tokenizer).content != before
