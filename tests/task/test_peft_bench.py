"""The 27 data sets of PEFT-Bench are tasks with its splits, labels and first metrics."""

from __future__ import annotations

from pathlib import Path

import pytest
from deltacompose_plugins.tasks import descriptions, members, task
from hubrows import copy

from deltacompose.task import sources as rows
from deltacompose.task import verify as checking
from deltacompose.task.sources import own_splits
from deltacompose.task.task import SPLITS, check_no_overlap, score
from deltacompose.task.verify import verify

TASKS = sorted(descriptions("peft_bench"))
BINARY = "qqp qnli sst2 mrpc rte cola multirc boolq wic wsc copa piqa winogrande"
SEVERAL = "mnli cb mmlu siqa hellaswag openbookqa math_qa"
METRICS = {
    **dict.fromkeys(BINARY.split(), "f1"),
    **dict.fromkeys(SEVERAL.split(), "macro_f1"),
    **dict.fromkeys(("conala", "codealpacapy", "apps"), "codebleu"),
    "stsb": "pearson",
    "record": "token_f1",
    "gsm8k": "exact_match_hashes",
    "svamp": "equation",
}
"""The first metric of each data set in PEFT-Bench's `compute_metrics.py`."""
OF_TEST = {
    "mnli": "validation_mismatched",
    **dict.fromkeys(("gsm8k", "svamp", "conala", "codealpacapy", "apps"), "test"),
}
POSITIVE = {"qqp": "duplicate", "qnli": "not_entailment", "mrpc": "equivalent", "wic": "true", "copa": "choice2"}


def short(name):
    return name.removeprefix("peftbench_")


def test_all_27_are_there_under_their_splits_and_metrics():
    described = descriptions("peft_bench")
    assert {short(name): one["metric"] for name, one in described.items()} == METRICS
    assert len(described) == 27
    assert set(described) <= set(members())
    for name, one in described.items():
        trained = "auxiliary_train" if name == "peftbench_mmlu" else "train"
        assert one["data"]["splits"] == {"train": trained, "test": OF_TEST.get(short(name), "validation")}


def test_the_positive_label_is_the_one_of_the_benchmark():
    assert {name: task(f"peftbench_{name}").labels[-1] for name in POSITIVE} == POSITIVE


@pytest.mark.parametrize("name", TASKS)
def test_each_reads_rows_of_the_schema_that_it_declares(name, monkeypatch):
    def stored(path, data, split, folder):
        return copy(name, own_splits(path, data)[split])

    for module in (rows, checking):
        monkeypatch.setattr(module, "load", stored)
    described = task(name)
    assert not list(checking._differences(described.read))
    check_no_overlap(described)
    for split in SPLITS:
        examples = described.examples(split)
        assert all(described.text(e).endswith(tuple(e.columns.values())) and described.answer(e) for e in examples)
        if described.metric not in ("codebleu", "equation", "exact_match_hashes"):
            assert score(described, examples, [e.target for e in examples]).value == pytest.approx(1.0)
    if described.metric not in ("codebleu", "exact_match_hashes"):
        assert verify(described)["state"] == "verified"


def test_the_documentation_says_which_name_is_which():
    text = (Path(__file__).parents[2] / "docs" / "tasks.md").read_text(encoding="utf-8")
    for name in TASKS:
        [line] = [line for line in text.splitlines() if line.startswith(f"| {short(name)} | `{name}` |")]
        splits = descriptions("peft_bench")[name]["data"]["splits"]
        assert f"| {splits['train']} / {splits['test']} | {METRICS[short(name)]} |" in line
