"""Tasks of the hub, read by the loading code of the hub from small local copies in its folder format."""

from __future__ import annotations

import dataclasses

import datasets
import pytest
from deltacompose_plugins.tasks import descriptions, members, task
from hubrows import copy

from deltacompose.errors import BadInput
from deltacompose.task import SPLITS, check_no_overlap, score
from deltacompose.task import sources as rows
from deltacompose.task import verify as checking
from deltacompose.task.build import task_from_mapping, task_from_row
from deltacompose.task.sources import own_splits
from deltacompose.task.verify import prefetch, verify

HUB = sorted(descriptions("hub"))
SHAPES = ("glue_sst2", "glue_stsb", "anli_r2", "commonsense_qa", "sciq", "squad", "wmt16_ro_en", "snli")
"""A task of every shape: classes, numbers, odd split names, nested columns, no target, lists, pairs, dropped rows."""


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(datasets.config, "SLEEP_TIME_ON_THREADS_SHUTDOWN", 0, raising=False)  # its guard costs seconds
    datasets.disable_progress_bars()
    return tmp_path / "cache"


def laid_down(name, folder, splits=None):
    """The task read from a local copy in the hub's folder format."""
    row = task(name).read.row
    inside = folder / (row.data.config or ".") / "data"
    inside.mkdir(parents=True)
    for split in splits or own_splits(row.path, row.data).values():
        copy(name, split).to_parquet(inside / f"{split}-00000-of-00001.parquet")
    return task_from_row(name, dataclasses.replace(row, path=str(folder)))


def changed(one, **changes):
    row = one.read.row
    return task_from_row(one.name, dataclasses.replace(row, **changes))


def test_there_are_more_than_a_hundred_hub_tasks_and_none_claims_to_be_verified():
    assert len(HUB) >= 100
    assert set(HUB) <= set(members())
    assert not set(HUB) & set(descriptions("embedded"))
    assert not any(task(name).verified for name in HUB)


@pytest.mark.parametrize(
    ("path", "configs"),
    [
        ("nyu-mll/glue", "cola sst2 mrpc qqp stsb mnli qnli rte wnli"),
        ("aps/super_glue", "boolq cb copa multirc record rte wic wsc.fixed"),
    ],
)
def test_every_task_of_glue_and_superglue_is_described(path, configs):
    """Their configurations on the hub but for the diagnostic `ax`, `axb` and `axg`, which have no training rows."""
    described = [task(name).read.row for name in HUB if descriptions("hub")[name]["path"] == path]
    assert {row.data.config for row in described} == set(configs.split())


def test_the_families_of_the_papers_tasks_are_among_them():
    paths = {descriptions("hub")[name]["path"].rpartition("/")[2] for name in HUB}
    assert paths >= {"glue", "super_glue", "squad", "samsum", "xsum", "imdb", "snli", "anli", "paws", "ag_news", "trec"}
    assert paths >= {
        "tweet_eval",
        "emotion",
        "hellaswag",
        "winogrande",
        "piqa",
        "openbookqa",
        "ai2_arc",
        "qasc",
        "race",
    }
    assert paths >= {"gigaword", "cnn_dailymail", "e2e_nlg", "common_gen", "wiki_qa", "crows_pairs", "ethics", "sciq"}


@pytest.mark.parametrize("name", HUB)
def test_a_hub_tasks_description_fits_the_schema_that_it_declares(name, monkeypatch):
    def stored(path, data, split, folder):
        return copy(name, own_splits(path, data)[split])

    for module in (rows, checking):
        monkeypatch.setattr(module, "load", stored)
    one = task(name)
    row = verify(one)
    assert (row["state"], row["reason"]) == ("verified", "")
    for split in SPLITS:
        examples = one.examples(split)
        assert all(one.text(example).strip() and one.answer(example).strip() for example in examples)
        assert score(one, examples, [example.target for example in examples]).value == pytest.approx(1.0)


@pytest.mark.parametrize("name", SHAPES)
def test_a_local_copy_is_read_by_the_hubs_own_loader(name, tmp_path):
    one = laid_down(name, tmp_path / "copy")
    row = verify(one)
    assert (row["state"], row["reason"]) == ("verified", "")
    assert sum(row["rows"].values()) == 120 * len(own_splits("x/y", one.read.row.data))
    check_no_overlap(one)
    assert one.fingerprint == changed(one).fingerprint


def test_streaming_gives_the_same_rows(tmp_path):
    one = laid_down("glue_sst2", tmp_path / "copy")
    streamed = changed(one, data=dataclasses.replace(one.read.row.data, streaming=True))
    assert streamed.fingerprint == one.fingerprint
    few = changed(streamed, data=dataclasses.replace(streamed.read.row.data, limit={"test": 7}))
    assert len(few.examples("test")) == 7


def test_a_limit_draws_the_same_rows_every_time(tmp_path):
    one = laid_down("snli", tmp_path / "copy")
    few = changed(one, data=dataclasses.replace(one.read.row.data, limit={"train": 9}))
    assert len(few.examples("train")) == 9
    assert few.fingerprint == changed(few).fingerprint
    assert {row.input for row in few.examples("train")} < {row.input for row in one.examples("train")}


def test_a_study_names_a_folder_beside_it_in_a_few_lines(tmp_path):
    laid_down("glue_sst2", tmp_path / "copy")
    mapping = {
        "path": "copy/sst2",
        "data": {"splits": {"train": "train", "test": "validation"}},
        "columns": {"input": "sentence", "target": "label", "values": ["bad", "good"]},
        "verbalizer": {"bad": "negative", "good": "positive"},
        "metric": "accuracy",
        "category": "sentiment",
    }
    mine = task_from_mapping("mine", mapping, tmp_path)
    assert [len(mine.examples(split)) for split in SPLITS] == [108, 12, 120]


def test_another_schema_than_declared_is_told_by_split_and_column(tmp_path):
    one = laid_down("glue_sst2", tmp_path / "copy")
    other = changed(one, schema={"sentence": "list", "label": ("positive", "negative"), "idx": "int"})
    row = verify(other)
    assert row["state"] == "differs"
    assert "train: column 'sentence' is string, not list" in row["reason"]
    assert "column 'label' is classes (negative, positive), not classes (positive, negative)" in row["reason"]
    assert "column 'idx' is missing, not int" in row["reason"]


def test_an_unreachable_hub_names_the_cache_and_prefetch(cache):
    with pytest.raises(
        BadInput, match=r"the hub cannot be reached for 'nyu-mll/glue'.*`deltacompose prefetch`"
    ) as caught:
        task("glue_sst2").examples("test")
    assert str(cache) in str(caught.value)
    row = verify(task("glue_sst2"))
    assert row["state"] == "unreachable"
    assert task("glue_sst2").source == "nyu-mll/glue, sst2"


def test_prefetch_says_what_is_cached_local_or_out_of_reach(tmp_path):
    local = laid_down("glue_sst2", tmp_path / "copy")
    told = prefetch([local.few_shot(2, 0), task("topic_gloss"), task("squad").limited(test=3)])
    assert [row["state"] for row in told] == ["local", "local", "failed"]
    assert "cannot be reached" in told[2]["reason"]


def test_prefetch_reads_every_split_that_a_task_needs_into_the_cache(monkeypatch, cache):
    asked = []

    def stored(path, data, split, folder):
        asked.append((path, split, data.streaming))
        return copy("glue_sst2", split)

    monkeypatch.setattr(checking, "load", stored)
    one = task("glue_sst2")
    told = prefetch([changed(one, data=dataclasses.replace(one.read.row.data, streaming=True))])
    assert told[0]["state"] == "cached"
    assert told[0]["rows"] == {"train": 120, "test": 120}
    assert told[0]["cache"] == str(cache)
    assert asked == [("nyu-mll/glue", "train", False), ("nyu-mll/glue", "test", False)]


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"columns": {"input": "text", "target": "label"}}, r"no column 'text'; columns: label, sentence"),
        ({"data": {"splits": {"train": "train", "test": "exam"}}}, 'Unknown split "exam". Should be one of'),
        ({"schema": {"label": ["worst", "best"]}}, r"no label 'worst'; labels: negative, positive"),
        ({"schema": {"label": ["negative"]}}, r"the label '1' in column 'label' is outside the verbalizer; labels: 0"),
        ({"data": {"drop": {"label": ["0", "1"]}}}, r"no row of '.*' is left of 120 in .*; dropped: \{'label'"),
        (
            {"columns": {"input": "sentence", "candidates": "sentence"}, "verbalizer": {}, "options": 2},
            "lists no candidates but holds",
        ),
    ],
)
def test_a_description_that_does_not_fit_the_data_is_answered_by_one_sentence(tmp_path, changes, said):
    laid_down("glue_sst2", tmp_path / "copy", ["train", "validation", "test"])
    mapping = {**descriptions("hub")["glue_sst2"], "path": "copy/sst2", "template": "{input}", "data": {}, **changes}
    with pytest.raises(BadInput, match=said) as caught:
        task_from_mapping("mine", mapping, tmp_path).fingerprint  # noqa: B018
    assert "\n" not in str(caught.value)


def test_without_the_library_the_extra_is_named(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "datasets", None)
    with pytest.raises(BadInput, match=r"need the `datasets` library: pip install 'deltacompose\[hub\]'"):
        task("glue_sst2").examples("test")
