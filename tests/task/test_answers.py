"""Answers are extracted from longer texts, and compared as numbers where they are numbers."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from deltacompose.errors import BadInput
from deltacompose.task.answers import EXTRACTIONS, equation_holds, same_answer
from deltacompose.task.metrics import metric


def score(name, accepted, predicted):
    return metric(name).score([(accepted,)], [predicted]).value


@pytest.mark.parametrize(
    ("name", "text", "expected"),
    [
        ("last_number", "He has 3 apples, then 1,234.50 more", "1,234.50"),
        ("last_number", "minus -7.", "-7"),
        ("last_number", "none", ""),
        ("hashes", "6 * 7 = 42\n#### 42", "42"),
        ("hashes", "#### 1\nno, #### $1,200 a year\nand more", "$1,200 a year"),
        ("hashes", "42", ""),
        ("boxed", r"\boxed{1}, or rather \boxed{\frac{a}{b}}.", r"\frac{a}{b}"),
        ("boxed", r"\boxed{never closed", ""),
    ],
)
def test_an_answer_is_found_in_its_format(name, text, expected):
    assert EXTRACTIONS[name](text) == expected


@pytest.mark.parametrize(
    ("first", "second", "same"),
    [
        ("1,200", "$1200.00", True),
        ("50%", "50", True),
        ("0.1", ".10", True),
        ("72.", "72", True),
        ("72", "-72", False),
        (r"\frac{1}{2}", r"\frac{1} {2}", True),
        ("12", "1.2", False),
        ("", "", False),
        ("nan", "1", False),
    ],
)
def test_numbers_are_compared_by_value(first, second, same):
    assert same_answer(first, second) is same_answer(second, first) is same


@given(st.integers(-(10**12), 10**12))
def test_a_number_is_the_same_however_it_is_written(number):
    assert score("exact_match_last_number", f"{number:,}", f"I think that it is {number}.0") == 1.0
    assert score("exact_match_hashes", f"steps\n#### {number}", f"other steps\n#### {number:,}") == 1.0
    assert score("exact_match_hashes", f"#### {number}", f"#### {number + 1}") == 0.0


def test_a_prediction_without_the_format_is_wrong_and_a_reference_may_be_bare():
    assert score("exact_match_hashes", "#### 42", "42") == 0.0
    assert score("exact_match_hashes", "42", "so\n#### 42") == 1.0
    assert score("exact_match_boxed", "42", r"\boxed{42}") == 1.0
    assert score("exact_match_last_number", "42", "") == 0.0


@pytest.mark.parametrize(
    ("text", "holds"),
    [
        ("( 8.0 - 3.0 ) = 5", True),
        ("((8 - 3) * (2 + 1)) = 15.0", True),
        ("(8 - 3) * (2 + 1) = 15", False),
        ("(8 / 0) = 0", False),
        ("(8 - 3) = five", False),
        ("(8 - 3) = 5 = 5", False),
        ("(__import__('os').getpid()) = 1", False),
        ("(9 ** 9 ** 9) = 1", False),
        ("(" * 240 + "1" + ")" * 240 + " = 1", False),
        ("", False),
    ],
)
def test_an_equation_is_one_of_the_four_operations_and_true(text, holds):
    assert equation_holds(text) is holds
    assert score("equation", "(1 + 1) = 2", text) == float(holds)


def test_code_without_its_package_says_what_to_install(monkeypatch):
    import sys

    monkeypatch.setitem(sys.modules, "codebleu", None)
    with pytest.raises(BadInput, match="needs the packages codebleu and tree-sitter-python: pip install codebleu"):
        score("codebleu", "x = 1", "x = 2")
