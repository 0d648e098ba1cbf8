"""Greedy generation states its own settings: what a checkpoint's generation settings say changes no answer."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from deltacompose.backbone.backbone import Backbone
from deltacompose.backbone.pico import pico_backbone
from deltacompose.errors import BadInput
from deltacompose.scoring import answers, reader
from deltacompose.task.examples import Example
from deltacompose.task.task import Task

TEXTS = ("the sea", "it rains again", "dry", "a b c a b c")
ROWS = tuple(Example(f"{k}", text, f"{text}!") for k, text in enumerate(TEXTS))
TASK = Task("echo", "made", "generation", "exact_match", lambda split: ROWS)
SETTINGS = {
    "forced_bos_token_id": 1,
    "forced_eos_token_id": 2,
    "min_length": 30,
    "min_new_tokens": 12,
    "max_length": 3,
    "max_new_tokens": 1,
    "no_repeat_ngram_size": 1,
    "repetition_penalty": 3.0,
    "encoder_repetition_penalty": 3.0,
    "encoder_no_repeat_ngram_size": 1,
    "bad_words_ids": [[7], [30], [100]],
    "suppress_tokens": list(range(5, 120)),
    "begin_suppress_tokens": list(range(5, 200)),
    "sequence_bias": {(50,): 50.0},
    "num_beams": 3,
    "do_sample": True,
    "temperature": 9.0,
    "guidance_scale": 3.0,
    "exponential_decay_length_penalty": (1, 9.0),
    "renormalize_logits": True,
    "length_penalty": 3.0,
    "stop_strings": ["a", "e"],
    "prompt_lookup_num_tokens": 2,
    "num_return_sequences": 2,
    "early_stopping": True,
}


def said(backbone: Backbone) -> list[str]:
    return reader(backbone, TASK).predict("test")


@pytest.fixture(params=["t5", "bart", "gpt2", "llama"])
def backbone(request):
    return pico_backbone(request.param)


@pytest.mark.parametrize("name", SETTINGS)
def test_a_checkpoints_generation_setting_changes_no_answer(name):
    backbone = pico_backbone("bart")
    expected = said(backbone)
    setattr(backbone.model.generation_config, name, SETTINGS[name])
    own = backbone.model.generation_config.to_dict()
    assert said(backbone) == expected
    assert backbone.model.generation_config.to_dict() == own


def test_all_settings_together_change_no_answer_of_any_family(backbone):
    expected, spoken = said(backbone), answers(backbone, TEXTS, 8)
    for name, setting in SETTINGS.items():
        setattr(backbone.model.generation_config, name, setting)
    assert said(backbone) == expected
    assert answers(backbone, TEXTS, 8) == spoken


def test_generation_is_greedy_token_by_token(backbone):
    """Against the most likely token of one pass after another, with no generation code at all."""
    read = reader(backbone, TASK)
    for row, text in zip(read.rows("test"), read.generate(read.rows("test"), 6), strict=True):
        drawn: list[int] = []
        for _ in range(6):
            drawn.append(next_token(backbone, row.input, drawn))
            if drawn[-1] == backbone.model.generation_config.eos_token_id:
                break
        expected = backbone.tokenizer.decode(drawn, skip_special_tokens=True).strip()
        assert text == expected


def next_token(backbone: Backbone, ids: tuple[int, ...], drawn: list[int]) -> int:
    with torch.no_grad():
        if backbone.kind == "decoder":
            return int(backbone.model(input_ids=torch.tensor([[*ids, *drawn]])).logits[0, -1].argmax())
        start = backbone.model.config.decoder_start_token_id
        logits = backbone.model(input_ids=torch.tensor([ids]), decoder_input_ids=torch.tensor([[start, *drawn]])).logits
        return int(logits[0, -1].argmax())


def test_every_end_token_of_the_model_ends_an_answer(backbone):
    read = reader(backbone, TASK)
    first = next_token(backbone, read.rows("test")[0].input, [])
    backbone.model.generation_config.eos_token_id = [2, first]
    assert read.generate(read.rows("test")[:1], 8) == [""]
    assert read.rows("train")[0].answer[-1] == 2


def test_settings_are_back_after_an_error_within_generation():
    backbone = pico_backbone("gpt2")
    own = backbone.model.generation_config
    broken = replace(backbone)
    broken.model.register_forward_pre_hook(lambda module, args: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        answers(broken, ["x"], 4)
    assert backbone.model.generation_config is own


def test_a_model_that_names_no_end_or_no_start_is_refused():
    backbone = pico_backbone("t5")
    backbone.model.generation_config.decoder_start_token_id = None
    backbone.model.config.decoder_start_token_id = None
    with pytest.raises(BadInput, match="names no token that its decoder starts from"):
        said(backbone)
    backbone = pico_backbone("gpt2")
    backbone.model.generation_config.eos_token_id = None
    backbone.model.config.eos_token_id = None
    with pytest.raises(BadInput, match="names no end-of-sequence token"):
        said(backbone)
