"""Text metrics in many scripts: what is right scores one, what is wrong less, and English scores what it always did."""

from __future__ import annotations

import string
import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rouge_score.rouge_scorer import RougeScorer

from deltacompose.task.metrics import metric, normalised, words

TEXTS = {
    "Latin with accents": ("Ærlige Bäume über Łódź", "Ærlige Böume über Łódź"),
    "Cyrillic": ("президент подписал закон", "президент нарушил закон"),
    "Greek": ("ο νόμος ψηφίστηκε σήμερα", "ο νόμος ψηφίστηκε χθες"),
    "Arabic": ("وقع الرئيس القانون", "وقع الوزير القانون"),
    "Hebrew": ("הנשיא חתם על החוק", "הנשיא חתם על הספר"),
    "Devanagari": ("राष्ट्रपति ने कानून बनाया", "राष्ट्रपति ने घर बनाया"),
    "Thai": ("ประธานาธิบดีลงนาม", "ประธานาธิบดีลาออก"),
    "Chinese": ("总统签署了法律", "总统签署了书信"),
    "Japanese": ("大統領が法律に署名した", "大統領が手紙に署名した"),
    "Korean": ("대통령이 법에 서명했다", "대통령이 책에 서명했다"),
}
SCRIPTS = pytest.mark.parametrize("script", TEXTS)
OF_TEXTS = pytest.mark.parametrize("name", ["exact_match", "token_f1", "rouge_l", "chrf"])


def value(name: str, accepted: str, given: str) -> float:
    return metric(name).score([(accepted,)], [given]).value


@SCRIPTS
@OF_TEXTS
def test_a_perfect_answer_scores_one_in_every_script(name, script):
    right, _ = TEXTS[script]
    assert value(name, right, right) == pytest.approx(1.0)


@SCRIPTS
@OF_TEXTS
def test_an_answer_with_one_wrong_word_scores_between_none_and_one(name, script):
    right, wrong = TEXTS[script]
    found = value(name, right, wrong)
    assert found < 1.0
    if name != "exact_match":
        assert found > 0.2
    assert value(name, right, "x") < found or name == "exact_match"


@SCRIPTS
@OF_TEXTS
def test_how_an_accented_letter_is_composed_makes_no_difference(name, script):
    right, _ = TEXTS[script]
    one, other = (unicodedata.normalize(form, right) for form in ("NFC", "NFD"))
    assert value(name, one, other) == value(name, other, one) == pytest.approx(1.0)


def test_a_wrong_accent_is_a_wrong_word():
    assert value("rouge_l", "Bäume", "Böume") == 0.0
    assert value("token_f1", "Bäume", "Böume") == 0.0


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Мир, труд!", ["мир", "труд"]),
        ("法律「第3条」", ["法", "律", "第", "3", "条"]),
        ("می\u200cخواهم", ["میخواهم"]),
        ("ＡＢＣ１２", ["abc12"]),
        ("स्वतंत्रता", ["स्वतंत्रता"]),
        ("ที่ดี", ["ที่", "ดี"]),
        ("!?…", []),
    ],
)
def test_words_are_runs_of_letters_with_their_marks_and_single_letters_where_no_spaces_are_put(text, expected):
    assert words(text) == expected


def test_punctuation_of_every_script_is_no_part_of_an_answer():
    for right, given_ in (("Москва", "«Москва»."), ("东京", "东京。"), ("القاهرة", "القاهرة؟"), ("Αθήνα", "Αθήνα;")):
        assert value("token_f1", right, given_) == 1.0
    assert normalised("答案是42。") == ["答", "案", "是", "42"]


ascii_texts = st.text(st.sampled_from(string.printable), max_size=60)


@given(ascii_texts, ascii_texts)
def test_rouge_of_ascii_text_is_that_of_the_package(one, other):
    expected = RougeScorer(["rougeL"], use_stemmer=False).score(one, other)["rougeL"].fmeasure
    assert value("rouge_l", one, other) == expected


def squad(text: str) -> list[str]:
    """SQuAD's own script, `normalize_answer`."""
    import re

    bare = "".join(c for c in text.lower() if c not in set(string.punctuation))
    return " ".join(re.sub(r"\b(a|an|the)\b", " ", bare).split()).split()


@given(ascii_texts)
def test_words_of_ascii_text_are_those_of_squads_script(text):
    assert normalised(text) == squad(text)
