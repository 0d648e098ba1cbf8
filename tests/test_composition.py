"""The expression algebra: its laws for all expressions, and the sentences for what is none."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal

import pytest
from annotated_types import Ge
from hypothesis import given
from hypothesis import strategies as st

from deltacompose.composition import Composition, Part, composition, parse
from deltacompose.errors import BadInput


@dataclass(frozen=True)
class Low(Part):
    name: ClassVar[str] = "low"
    rank: Annotated[int, Ge(1)] = 8
    alpha: float = 16.0
    places: tuple[str, ...] = ("query", "value")
    text: str = ""
    kind: Literal["a", "b"] = "a"
    on: bool = False


@dataclass(frozen=True)
class Bare(Part):
    name: ClassVar[str] = "bare"


METHODS = {"low": Low, "bare": Bare}
lows = st.builds(
    Low,
    rank=st.integers(1, 10**9),
    alpha=st.floats(allow_nan=False, allow_infinity=False),
    places=st.lists(st.text(), max_size=3).map(tuple),
    text=st.text(),
    kind=st.sampled_from(["a", "b"]),
    on=st.booleans(),
)
methods = st.one_of(lows, st.builds(Bare))
stages = st.lists(methods, min_size=1, max_size=3).map(lambda parts: Composition((tuple(parts),)))
compositions = st.lists(stages, min_size=1, max_size=3).map(
    lambda parts: Composition(tuple(stage.stages[0] for stage in parts))
)


@given(compositions)
def test_parse_reads_what_str_writes(expression):
    assert parse(str(expression), METHODS) == expression


@given(stages, stages, stages)
def test_both_operators_are_associative(a, b, c):
    assert (a + b) + c == a + (b + c)
    assert (a >> b) >> c == a >> (b >> c)


@given(stages, stages, stages)
def test_plus_binds_closer_than_the_arrow_in_text_and_in_python(a, b, c):
    assert parse(f"{a} + {b} >> {c}", METHODS) == (a + b >> c) == (a + b) >> c


@given(compositions)
def test_parentheses_round_stages_change_nothing(expression):
    text = " >> ".join(f"({Composition((stage,))})" for stage in expression.stages)
    assert parse(text, METHODS) == expression


@given(compositions)
def test_a_composition_is_a_value(expression):
    again = parse(str(expression), METHODS)
    assert hash(again) == hash(expression)
    assert {expression, again} == {expression}


@given(compositions)
def test_parts_carry_their_stage_and_their_number(expression):
    prefixes = [prefix for prefix, _ in expression.parts()]
    assert len(set(prefixes)) == len(prefixes) == sum(map(len, expression.stages))
    assert prefixes == sorted(prefixes, key=lambda prefix: [int(n) for n in prefix.split(".") if n])


def test_only_settings_that_differ_are_written():
    assert str(Low(rank=4) + Bare() >> Low(alpha=3)) == "low(rank=4) + bare >> low(alpha=3.0)"


def test_a_whole_number_given_for_a_fraction_is_the_fraction():
    assert Low(alpha=3) == Low(alpha=3.0)
    assert str(Low(alpha=3)) == str(Low(alpha=3.0))


def test_settings_are_described_in_full():
    assert (Bare() >> Low()).describe()[1][0]["settings"]["rank"] == 8


def test_a_method_alone_is_a_composition_of_one_stage():
    assert composition(Bare()).stages == ((Bare(),),)


def test_a_named_composition_may_stand_wherever_a_method_may():
    expressions = {"both": "low + bare", "twice": "both >> both"}
    assert str(parse("bare >> twice", METHODS, expressions)) == "bare >> low + bare >> low + bare"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("(low >> bare) + low", "write it as 'low >> bare + low'"),
        ("bare + (low >> low)", "write it as 'bare + low >> low'"),
        ("lwo", "no method 'lwo'; did you mean 'low'? methods: bare, both, loop, low"),
        ("low(rnak=3)", "did you mean 'rank'?"),
        ("low(8)", "settings of 'low' are given by name, as in low(rank=8)"),
        ("low(rank=0)", "rank=0: should be greater than or equal to 1"),
        ("low(rank='a')", "rank='a': should be a valid integer"),
        ("low(rank=True)", "should be a valid integer"),
        ("low(rank=2.0)", "rank=2.0: "),
        ("low(kind='c')", "kind='c': should be 'a' or 'b'"),
        ("low(alpha=1e999)", "should be a finite number"),
        ("low(rank=1+1)", "is not a setting"),
        ("low(rank=[1])", "is not a setting"),
        ("low(**{})", "is not a method"),
        ("low(rank=3, rank=4)", "a setting stands twice"),
        ("low.rank", "is not a method"),
        ("__import__('os').system('true')", "is not a method"),
        ("low - bare", "is not a method"),
        ("low +", "is not a composition"),
        ("", "is not a composition"),
        ("low; bare", "is not a composition"),
        ("both(rank=3)", "takes no settings"),
        ("loop", "contains itself"),
        ("(" * 500 + "low" + ")" * 500, "is not a composition"),
    ],
)
def test_what_is_no_composition_is_said_in_one_sentence(text, said):
    with pytest.raises(BadInput, match=re.escape(said)):
        parse(text, METHODS, {"both": "low + bare", "loop": "bare >> loop"})


def test_python_refuses_what_the_text_refuses():
    with pytest.raises(BadInput, match="rank='a'"):
        Low(rank="a")
    with pytest.raises(BadInput, match="write it as"):
        (Low() >> Bare()) + Low()
    with pytest.raises(BadInput, match="is neither a method nor a composition"):
        Low() + 3


def test_a_method_that_is_no_dataclass_says_what_to_write():
    class Plain(Part):
        name = "plain"

    for use in (str, lambda part: part.settings, lambda part: parse("plain(rank=1)", {"plain": type(part)})):
        with pytest.raises(
            BadInput, match=r"^Plain is not a frozen dataclass; write @dataclass\(frozen=True\) above it$"
        ):
            use(Plain())
