"""Instruction data as people publish them are tasks by two lines, and what cannot be learned from is one sentence."""

from __future__ import annotations

import csv
import json

import pytest

from deltacompose.errors import BadInput
from deltacompose.task.build import task_from_mapping

ALPACA = [
    {"instruction": f"Add one to {k}.", "input": "Be brief." if k % 2 else "", "output": f"It is {k + 1}."}
    for k in range(30)
]
OPENAI = [
    {"messages": [{"role": "user", "content": f"Add one to {k}."}, {"role": "assistant", "content": f"It is {k + 1}."}]}
    for k in range(30)
]
SHAREGPT = [
    {"conversations": [{"from": "human", "value": f"Add one to {k}."}, {"from": "gpt", "value": f"It is {k + 1}."}]}
    for k in range(30)
]


def write(path, rows):
    if path.suffix == ".json":
        path.write_text(json.dumps(rows))
    elif path.suffix == ".jsonl":
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    elif path.suffix == ".parquet":
        pytest.importorskip("pyarrow")
        import pyarrow
        import pyarrow.parquet

        pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), path)
    else:
        with path.open("w", newline="") as file:
            table = csv.DictWriter(file, list(rows[0]))
            table.writeheader()
            table.writerows({n: x if isinstance(x, str) else json.dumps(x) for n, x in row.items()} for row in rows)
    return path


@pytest.mark.parametrize("suffix", [".json", ".jsonl", ".csv", ".parquet"])
@pytest.mark.parametrize(("form", "rows"), [("alpaca", ALPACA), ("messages", OPENAI), ("sharegpt", SHAREGPT)])
def test_every_format_is_read_from_every_kind_of_file_by_two_lines(tmp_path, form, rows, suffix):
    path = write(tmp_path / f"rows{suffix}", rows)
    task = task_from_mapping("mine", {"path": path.name, "format": form}, tmp_path)
    examples = [example for split in ("train", "val", "test") for example in task.examples(split)]
    assert (task.kind, task.metric, task.category, len(examples)) == ("generation", "rouge_l", "instruction", 30)
    by_target = {example.target: example for example in examples}
    expected = "Add one to 3.\n\nBe brief." if form == "alpaca" else "Add one to 3."
    assert by_target["It is 4."].input == task.text(by_target["It is 4."]) == expected
    assert by_target["It is 3."].input == "Add one to 2."
    assert not any(example.messages for example in examples)


def test_a_conversation_of_several_turns_keeps_them(tmp_path):
    turns = [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": [{"type": "text", "text": "Hi"}]},
        {"role": "assistant", "content": "Yes?"},
        {"role": "user", "content": "Is it wet?"},
        {"role": "assistant", "content": "No."},
        {"role": "user", "content": "Thanks"},
    ]
    rows = [*OPENAI[:20], {"messages": turns}]
    task = task_from_mapping("mine", {"path": str(write(tmp_path / "x.jsonl", rows)), "format": "messages"})
    [example] = [e for split in ("train", "val", "test") for e in task.examples(split) if e.messages]
    assert example.messages[0] == ("system", "Be brief.")
    assert [role for role, _ in example.messages] == ["system", "user", "assistant", "user"]
    assert example.target == "No."
    assert example.input == "System: Be brief.\nUser: Hi\nAssistant: Yes?\nUser: Is it wet?"


def test_a_format_with_a_verbalizer_is_a_choice_task(tmp_path):
    rows = [{"prompt": f"Is {k} even?", "completion": "no" if k % 2 else "yes"} for k in range(40)]
    described = {"path": str(write(tmp_path / "x.jsonl", rows)), "format": "completion", "metric": "accuracy"}
    task = task_from_mapping(
        "mine", described | {"verbalizer": {"no": "No", "yes": "Yes"}, "template": "{input} Answer:"}
    )
    assert task.kind == "choice"
    assert task.text(task.examples("train")[0]).endswith("even? Answer:")


CHOICES = [
    {"stem": f"What is {k} + {k}?", "a": str(2 * k), "b": str(2 * k + 1), "c": "unknown", "right": str(2 * k)}
    for k in range(10, 50)
]


@pytest.mark.parametrize("how", ["text", "letter"])
def test_multiple_choice_is_answered_by_text_or_by_letter(tmp_path, how):
    described = {
        "path": str(write(tmp_path / "x.csv", CHOICES)),
        "columns": {"input": "stem", "target": "right", "candidates": ["a", "b", "c"]},
        "options": 3,
        "choices": how,
        "metric": "accuracy",
        "category": "made",
    }
    task = task_from_mapping("mine", described)
    example = task.examples("train")[0]
    number = int(example.input.split()[2])
    if how == "letter":
        assert task.options(example) == ("A", "B", "C")
        assert task.text(example) == (
            f"What is {number} + {number}?\nA. {2 * number}\nB. {2 * number + 1}\nC. unknown\nAnswer:"
        )
    else:
        assert task.options(example) == (str(2 * number), str(2 * number + 1), "unknown")
        assert task.text(example) == f"What is {number} + {number}?"
    assert {e.target for e in task.examples("train")} == {"A"}


@pytest.mark.parametrize(
    ("form", "row", "message"),
    [
        ("messages", {"messages": [{"role": "user", "content": "x"}]}, "no message is an assistant's"),
        ("messages", {"messages": [{"role": "assistant", "content": "x"}]}, "no user's message stands before"),
        ("messages", {"messages": "hello"}, r"not valid JSON"),
        ("messages", {"messages": {"role": "user"}}, "not a list of messages"),
        ("messages", {"messages": [{"speaker": "user"}]}, "is not a message; expected the keys role and content"),
        (
            "messages",
            {"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": "x"}]}]},
            "images, sounds and calls of tools are not read",
        ),
        (
            "sharegpt",
            {"conversations": [{"from": who, "value": "a"} for who in ("human", "human", "gpt")]},
            "two messages in a row are of the role user",
        ),
        ("sharegpt", {"conversations": [{"from": "tool", "value": "a"}]}, "no role 'tool'"),
        ("alpaca", {"instruction": "x"}, "no column 'output'"),
    ],
)  # fmt: skip
def test_a_row_from_which_nothing_can_be_learned_is_named(tmp_path, form, row, message):
    described = {"path": str(write(tmp_path / "x.jsonl", [row] * 3)), "format": form}
    with pytest.raises(BadInput, match=message) as caught:
        task_from_mapping("mine", described).examples("train")
    assert "x.jsonl" in str(caught.value)


PAIR = {"input": "a", "target": "b"}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"format": "chatml"}, "no format 'chatml'; .*formats: alpaca, completion, messages, sharegpt"),
        ({"format": "alpaca", "options": 2, "columns": PAIR | {"candidates": ["c", "d"]}}, "leave out `options`"),
        (
            {"columns": PAIR, "metric": "rouge_l", "category": "x", "choices": "letter"},
            "`choices: letter` is for candidates",
        ),
        ({"format": "alpaca", "template": "{instruction}"}, "no column 'instruction'"),
    ],
)  # fmt: skip
def test_a_description_that_does_not_fit_is_one_sentence(changes, message):
    with pytest.raises(BadInput, match=message):
        task_from_mapping("mine", {"path": "x.json", **changes})


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("x.json", b'{"a": 1}', "holds a dict, not a list of rows"),
        ("x.json", b"[1]", "row 1: a row is a JSON object"),
        ("x.parquet", b"PAR1 no", "is not a Parquet file that can be read"),
    ],
)
def test_a_damaged_file_is_one_sentence(tmp_path, name, content, message):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(BadInput, match=message):
        task_from_mapping("mine", {"path": str(tmp_path / name), "format": "alpaca"}).examples("train")
