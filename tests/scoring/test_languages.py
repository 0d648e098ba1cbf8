"""Multilingual models answer in the language that is set: in training, in ranking, in generation and in the key."""

from __future__ import annotations

import pytest
import torch
import transformers

import deltacompose as dc
from deltacompose.backbone.pico import pico, pico_tokenizer
from deltacompose.errors import BadInput
from deltacompose.scoring import reader
from deltacompose.scoring.rows import Row
from deltacompose.task.examples import Example
from deltacompose.task.task import Task

PIECES = {"<s>": 0, "<pad>": 1, "</s>": 2, "<unk>": 3, "▁": 4, "a": 5, "b": 6, "c": 7, "d": 8}
ROWS = tuple(Example(f"{k}", f"a b {'cd'[k % 2]}", "cd"[k % 2]) for k in range(8))
TASK = Task("copy", "made", "generation", "exact_match", lambda split: ROWS)
CHOICE = Task("choose", "made", "choice", "accuracy", lambda split: ROWS, verbalizer={"c": "c a", "d": "d b"})


def nllb(**languages):
    return transformers.NllbTokenizer(vocab=PIECES, merges=[], **languages)


def mbart(**languages):
    return transformers.MBartTokenizer(vocab=[(piece, 0.0) for piece in PIECES], **languages)


def backbone(tokenizer, family="m2m-100"):
    model = pico(family)
    model.resize_token_embeddings(len(tokenizer))
    model.generation_config.decoder_start_token_id = 2
    model.generation_config.eos_token_id = 2
    return dc.load_backbone(model.requires_grad_(False), tokenizer)


def first_words(read, prefix, rows):
    """The logits of the first word of an answer behind what the decoder has read."""
    given = read.collate(rows, (max(len(row.input) for row in rows), 4))
    before = torch.tensor([prefix]).expand(len(rows), -1)
    with torch.no_grad():
        output = read.backbone.model(
            input_ids=given["ids"], attention_mask=given["mask"], decoder_input_ids=before, use_cache=False
        )
    return output.logits[:, -1]


@pytest.mark.parametrize("language", ["fra_Latn", "deu_Latn"])
@pytest.mark.filterwarnings("ignore::UserWarning")
def test_an_answer_follows_the_token_of_its_language(language):
    tokenizer = nllb(tgt_lang=language)
    token = tokenizer.convert_tokens_to_ids(language)
    read = reader(backbone(tokenizer), TASK)
    rows = read.rows("train")[:2]
    with torch.no_grad():
        logits = read.logits(read.collate(rows, (8, 4)))
    torch.testing.assert_close(logits[:, 0], first_words(read, (2, token), rows), rtol=1e-4, atol=1e-4)
    with torch.no_grad():
        expected = tokenizer.decode(int(first_words(read, (2, token), rows[:1])[0].argmax()), skip_special_tokens=True)
        assert read.generate(rows[:1], 1) == [expected.strip()]


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_candidates_are_ranked_behind_the_token_of_the_language():
    tokenizer = nllb(tgt_lang="fra_Latn")
    read = reader(backbone(tokenizer), CHOICE)
    rows = read.rows("train")[:3]
    with torch.no_grad():
        scores = read.scores(rows)
        for row, own in zip(rows, scores, strict=True):
            for answer, score in zip(row.candidates, own, strict=True):
                single = Row(row.input, answer)
                batch = read.collate([single], (len(row.input), len(answer)))
                log_p = torch.log_softmax(read.logits(batch).float(), -1)[0, range(len(answer)), list(answer)]
                torch.testing.assert_close(score, log_p.sum(), rtol=1e-4, atol=1e-4)


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_mbart_starts_from_the_token_of_the_language():
    tokenizer = mbart(tgt_lang="ro_RO")
    read = reader(backbone(tokenizer, "mbart"), TASK)
    assert read._before == (tokenizer.convert_tokens_to_ids("ro_RO"),)


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_the_language_is_part_of_the_content_however_it_is_set():
    model = backbone(nllb(tgt_lang="fra_Latn")).model
    contents = set()
    for name in ("fra_Latn", "deu_Latn", "ron_Latn"):
        tokenizer = nllb(tgt_lang="fra_Latn")
        tokenizer.tgt_lang = name
        contents.add(dc.load_backbone(model, tokenizer).content)
    assert len(contents) == 3


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_a_forced_first_token_stands_in_for_a_language_that_is_not_set():
    tokenizer = nllb()
    own = backbone(tokenizer)
    own.model.generation_config.forced_bos_token_id = tokenizer.convert_tokens_to_ids("fra_Latn")
    assert reader(own, TASK)._before == (2, tokenizer.convert_tokens_to_ids("fra_Latn"))


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_a_language_that_is_not_set_or_not_known_is_refused():
    with pytest.raises(BadInput, match=r"marks the language of an answer and none is set; set tgt_lang, as "):
        reader(backbone(nllb()), TASK)
    with pytest.raises(BadInput, match=r"tgt_lang='klingon' is not a language of the tokenizer NllbTokenizer"):
        reader(backbone(nllb(tgt_lang="klingon")), TASK)


def test_a_model_without_languages_reads_its_start_token_alone():
    own = dc.load_backbone(pico("m2m-100"), pico_tokenizer("m2m-100"))
    assert reader(own, TASK)._before == (2,)


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_a_delta_learns_an_answer_in_the_language():
    own = backbone(nllb(tgt_lang="fra_Latn"))
    delta = dc.train(own, "full", TASK, steps=60, batch=4, evaluate_every=60, learning_rates={"full": 1e-2}, limit=16)
    assert dc.evaluate(own, delta, TASK, "test").score.value == 1.0
