"""YAML is read as data of bounded size, and errors quote a bounded part of what was given."""

import json

import pytest

from deltacompose.errors import LONGEST, QUOTED, BadInput, bounded, quoted, unknown
from deltacompose.study import Study
from deltacompose.validation import parsed_yaml


def laughs(levels):
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x]"]
    return "\n".join(lines + [f"a{k}: &a{k} [{', '.join([f'*a{k - 1}'] * 9)}]" for k in range(1, levels)])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (laughs(9), "more than 100000 values, aliases counted"),
        ("a: &a [*a]", r"the alias \*a stands within what it names"),
        ("a: &a {b: [*a]}", r"the alias \*a stands within what it names"),
        ("[" * 100_000, "nested more than 50 deep"),
        ("a: &a {x: 1}\nb: {<<: *a}", "merge keys"),
        ("a: !!python/object/apply:os.system [ls]", "the tag .*os.system' is not supported"),
        ("a: " + "9" * 10_000, "a number has 10000 characters"),
        ("a: 1" + ":59" * 100, "a number has 301 characters"),
        ("a: 2024-99-99", "month must be in 1..12"),
        ("a: 1\na: 2", "the key 'a' stands twice in line 2"),
        ("? [a]\n: 1", "a key is not text"),
        ("a: *b", "no anchor for the alias"),
    ],
)
def test_a_document_that_is_no_plain_bounded_data_is_refused(text, message):
    with pytest.raises(BadInput, match=message) as caught:
        parsed_yaml(text, "study.yaml")
    assert str(caught.value).startswith("study.yaml is not valid YAML")


def test_harmless_aliases_dates_and_long_hexadecimal_texts_are_read():
    text = "a: &x {y: [1, 0x10]}\nb: *x\nc: 2024-01-01\nd: " + "0a1b" * 16
    data = parsed_yaml(text, "study.yaml")
    assert data["a"] == data["b"] == {"y": [1, 16]}
    assert data["d"] == "0a1b" * 16


def test_an_error_shows_three_of_many_unknown_fields_and_their_number(tmp_path):
    fields = {f"k{k}": 1 for k in range(5000)}
    (tmp_path / "a.yaml").write_text(json.dumps({"name": "a", "tasks": ["t"], "compositions": ["lora"], **fields}))
    with pytest.raises(BadInput, match="and 4997 more errors"):
        Study.read(tmp_path / "a.yaml")


@pytest.mark.parametrize("name", ["untouched", "random", "chance"])
def test_a_task_cannot_have_the_name_of_a_reference_row(name):
    with pytest.raises(BadInput, match=f"cannot have the name '{name}'.*reserved names"):
        Study("a", (name,), ("lora",))


@pytest.mark.parametrize("changes", [{"seeds": [2**63]}, {"training": {"steps": 10**30}}, {"tasks": ["x" * 201]}])
def test_values_of_a_study_are_bounded(tmp_path, changes):
    (tmp_path / "a.yaml").write_text(json.dumps({"name": "a", "tasks": ["t"], "compositions": ["lora"], **changes}))
    with pytest.raises(BadInput, match=r"(less than|at most)"):
        Study.read(tmp_path / "a.yaml")


def test_a_quotation_has_at_most_200_characters_and_a_message_2000():
    long = "x y" * 30_000
    assert len(quoted(long)) == len(quoted([long])) == QUOTED
    assert quoted(10**5000) == "<int>"
    assert len(str(BadInput(f"{long!r} is not a valid study"))) < 250
    assert len(str(BadInput("a, " * 10_000))) == LONGEST
    assert len(str(unknown("method", long, ["lora"]))) < 300


def test_short_quotations_stay_as_they_are_whatever_stands_between_them():
    message = f"no table serves 'gptj'; peft's tables: {'llama, ' * 40}; say table='derived'"
    assert bounded(message) == message
