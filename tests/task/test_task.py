"""Tasks: the contract, scoring, chance, drawing of rows, descriptions in files, and the embedded tasks."""

from __future__ import annotations

import dataclasses
import json
import math
import pickle
import random
import warnings
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from deltacompose_plugins.tasks import descriptions, members, task
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import pearsonr, spearmanr
from sklearn.metrics import f1_score, matthews_corrcoef

from deltacompose.errors import BadInput
from deltacompose.task import SPLITS, Example, Task, check_no_overlap, score
from deltacompose.task.build import task_from_mapping
from deltacompose.task.metrics import METRICS, metric
from deltacompose.task.verify import verify

EMBEDDED = sorted(descriptions("embedded"))
PUBLISHED = Path(__file__).parents[3] / "shared" / "data" / "tasks"


def examples(split, rows=40, labels=("bad", "good")):
    return tuple(Example(f"{split}-{n}", f"text {n} of {split}", labels[n % len(labels)]) for n in range(rows))


def choice(metric="accuracy", rows=40, words=("negative", "positive"), **fields):
    verbalizer = dict(zip(("bad", "good", "fine"), words, strict=False))
    labels = tuple(verbalizer)
    return Task("toy", "toys", "choice", metric, lambda s: examples(s, rows, labels), verbalizer=verbalizer, **fields)


def generation(rows, metric="exact_match", **fields):
    return Task("toy", "toys", "generation", metric, lambda split: tuple(rows[split]), **fields)


def described(folder, **changes):
    rows = "".join(f"review {n},{('bad', 'good')[n % 2]}\n" for n in range(100))
    (folder / "reviews.csv").write_text("text,stars\n" + rows)
    mapping = {
        "path": "reviews.csv",
        "columns": {"input": "text", "target": "stars"},
        "verbalizer": {"bad": "negative", "good": "positive"},
        "metric": "accuracy",
        "category": "sentiment",
    }
    return task_from_mapping("mine", mapping | changes, folder)


def read_whole(folder, **changes):
    mine = described(folder, **changes)
    return [mine.examples(split) for split in SPLITS]


# The contract


def test_a_task_gives_text_words_and_labels_in_a_fixed_order():
    toy = choice(template="Review: {input} It was")
    one = toy.examples("val")[1]
    assert toy.text(one) == "Review: text 1 of val It was"
    assert toy.without_template().text(one) == one.input
    assert toy.labels == ("bad", "good")
    assert toy.candidates == toy.options(one) == ("negative", "positive")
    assert toy.answer(one) == "positive"


def test_examples_are_read_once_and_only_when_asked_for():
    reads = []
    toy = Task("t", "c", "generation", "chrf", lambda split: reads.append(split) or examples(split))
    assert not reads
    assert toy.examples("val") is toy.examples("val")
    assert reads == ["val"]


def test_an_examples_own_candidates_stand_for_the_first_labels():
    own = Example("1", "Which?", "B", candidates=("red", "blue"))
    toy = Task("t", "c", "choice", "accuracy", lambda _: (own,), verbalizer={"A": "A", "B": "B", "C": "C"})
    assert toy.options(toy.examples("test")[0]) == ("red", "blue")
    assert toy.answer(own) == "blue"


@given(st.text(max_size=30), st.text(max_size=30))
def test_what_is_put_into_a_template_is_never_read_as_a_template(value, other):
    one = Example("1", value, "bad", columns={"other": other})
    assert choice(template="a {input} b {{x}} {other}").text(one) == f"a {value} b {{x}} {other}"


def test_the_fingerprint_changes_with_what_a_result_depends_on_and_only_then():
    toy = choice()
    same = dataclasses.replace(toy, name="other", category="else", source="elsewhere", note="!")
    assert toy.fingerprint == same.fingerprint == choice().fingerprint
    changed = [
        dataclasses.replace(toy, template="{input}!"),
        dataclasses.replace(toy, metric="mcc"),
        dataclasses.replace(toy, verbalizer={"bad": "poor", "good": "positive"}),
        dataclasses.replace(toy, verbalizer={"good": "positive", "bad": "negative"}),
        dataclasses.replace(toy, read=lambda split: examples(split)[::-1]),
        dataclasses.replace(toy, read=lambda split: examples(split, 41 if split == "test" else 40)),
    ]
    assert len({toy.fingerprint, *(other.fingerprint for other in changed)}) == 1 + len(changed)


@pytest.mark.parametrize(
    ("template", "said"),
    [
        ("{input.__class__}", "hold more or less than a name"),
        ("{input[0]}", "hold more or less than a name"),
        ("{input!r}", "hold more or less than a name"),
        ("{input:>9}", "hold more or less than a name"),
        ("{}", "hold more or less than a name"),
        ("{input", "cannot be read"),
        ("no input", "shows nothing of the input"),
    ],
)
def test_a_template_holds_names_and_nothing_else(template, said):
    with pytest.raises(BadInput, match=said):
        choice(template=template)


def test_a_template_with_a_column_that_an_example_lacks_names_the_columns():
    toy = choice(template="{premise}")
    with pytest.raises(BadInput, match=r"no column 'premise' for its template; columns: input"):
        toy.text(toy.examples("val")[0])


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"metric": "acuracy"}, r"no metric 'acuracy'; did you mean 'accuracy'\? metrics: accuracy, chrf"),
        ({"metric": "chrf"}, r"metric 'chrf' compares texts, which a choice task does not give; it can have accuracy"),
        ({"metric": "pearson"}, "metric 'pearson' compares numbers, and the labels are: bad, good"),
        ({"kind": "regression"}, "kind 'regression' is neither 'choice' nor 'generation'"),
        ({"verbalizer": {"a": "x"}}, "a choice task has at least two labels in its verbalizer, not 1"),
        ({"verbalizer": {"a": "x", "b": "x"}}, "two labels have the same words"),
        ({"kind": "generation", "metric": "chrf"}, "a generation task has no labels in its verbalizer, not 2"),
        ({"metric": "f1", "verbalizer": {"a": "x", "b": "y", "c": "z"}}, "metric 'f1' needs two labels"),
    ],
)
def test_a_task_that_cannot_be_is_refused_when_it_is_made(fields, said):
    with pytest.raises(BadInput, match=said):
        dataclasses.replace(choice(), **fields)


@pytest.mark.parametrize(
    ("rows", "said"),
    [
        ((), "no examples in its 'val' split"),
        ((Example("1", "a", "ugly"),), r"the label 'ugly' of example '1' is outside the verbalizer; labels: bad, good"),
        ((Example("1", "a", "bad"), Example("1", "b", "bad")), r"2 examples of 'val' have the id '1'; ids must differ"),
        ((Example("1", "a", "bad", ("x", "y", "z")),), "example '1' has 3 candidates for 2 labels"),
    ],
)
def test_examples_that_do_not_fit_the_task_are_refused(rows, said):
    with pytest.raises(BadInput, match=said):
        dataclasses.replace(choice(), read=lambda _: rows).examples("val")


def test_an_unknown_split_names_those_there_are():
    with pytest.raises(BadInput, match=r"no split 'dev'; .*splits: test, train, val"):
        choice().examples("dev")


def test_splits_that_overlap_are_found_by_id_and_by_input():
    check_no_overlap(choice())
    same_id = dataclasses.replace(choice(), read=lambda split: (Example("1", split, "bad"),))
    with pytest.raises(BadInput, match=r"the id '1' stands in both 'train' and 'val'"):
        check_no_overlap(same_id)
    same_input = dataclasses.replace(choice(), read=lambda split: (Example(split, "what", "bad"),))
    with pytest.raises(BadInput, match=r"the input 'what' stands in both 'train' and 'val'"):
        check_no_overlap(same_input)


# Metrics

texts = st.lists(st.sampled_from(["bad", "good", "fine"]), min_size=2, max_size=30)


@given(st.data())
def test_choice_metrics_are_those_of_scikit_learn(data):
    targets = data.draw(texts)
    predictions = data.draw(
        st.lists(st.sampled_from(["bad", "good", "fine"]), min_size=len(targets), max_size=len(targets))
    )
    references = [(target,) for target in targets]
    values = {
        name: metric(name).score(references, predictions, ("bad", "good")).value
        for name in METRICS
        if METRICS[name].compares == "labels"
    }
    assert values["accuracy"] == pytest.approx(np.mean([a == b for a, b in zip(targets, predictions, strict=True)]))
    assert values["macro_f1"] == pytest.approx(f1_score(targets, predictions, average="macro", zero_division=0.0))
    positive = f1_score([t == "good" for t in targets], [p == "good" for p in predictions], zero_division=0.0)
    assert values["f1"] == pytest.approx(positive)
    varied = len(set(targets)) > 1 and len(set(predictions)) > 1
    assert values["mcc"] == pytest.approx(matthews_corrcoef(targets, predictions) if varied else 0.0)


@given(st.lists(st.tuples(st.floats(-1e6, 1e6), st.floats(-1e6, 1e6)), min_size=3, max_size=30))
def test_correlations_are_those_of_scipy_and_the_mean_of_their_parts(pairs):
    x, y = (np.array(side) for side in zip(*pairs, strict=True))
    references, predictions = [(repr(float(a)),) for a in x], [repr(float(b)) for b in y]
    for name, expected in (("pearson", pearsonr), ("spearman", spearmanr)):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            known = expected(x, y).statistic
        found = metric(name).score(references, predictions)
        assert -1 <= found.value <= 1
        assert found.value == pytest.approx(np.mean(found.per_example), abs=1e-9)
        if not math.isnan(known) and min(np.ptp(x), np.ptp(y)) > 1e-3:
            assert found.value == pytest.approx(known, abs=1e-6)


@pytest.mark.parametrize(
    "predictions", [["3", "3", "3.0"], ["a", "b", "nothing"], ["nan", "inf", "-inf"], ["3", "x", "3"]]
)
@pytest.mark.parametrize("name", ["pearson", "spearman"])
def test_the_correlation_of_a_constant_is_zero_and_warns_of_nothing(name, predictions):
    found = metric(name).score([("1",), ("2",), ("3",)], predictions)
    assert found.value == 0.0
    assert metric(name).score([("2",), ("2",), ("2",)], ["1", "2", "3"]).value == 0.0


def test_a_constant_correlation_is_trivial_however_the_number_is_written():
    assert metric("pearson").score([("1",), ("2",), ("3",)], ["3", "3", "3.0"]).trivial
    assert metric("pearson").score([("1",), ("2",), ("3",)], ["no", "number", "here"]).trivial
    assert not metric("pearson").score([("1",), ("2",), ("3",)], ["3", "3", "3.1"]).trivial


def test_what_is_no_number_says_nothing_in_a_correlation():
    references = [(str(n),) for n in range(5)]
    some = metric("pearson").score(references, ["0", "1", "oops", "3", "4"]).value
    assert 0.9 < some <= 1.0
    extreme = metric("pearson").score(references, ["-1e308", "-1e308", "0", "1e308", "1e308"]).value
    assert extreme == pytest.approx(pearsonr(range(5), [-1, -1, 0, 1, 1]).statistic)


@pytest.mark.parametrize(
    ("name", "accepted", "given", "value"),
    [
        ("exact_match", ("October 9, 1979",), " October  9, 1979\n", 1.0),
        ("exact_match", ("a", "b"), "b", 1.0),
        ("exact_match", ("A",), "a", 0.0),
        ("token_f1", ("the hot temperatures",), "Hot, temperatures!", 1.0),
        ("token_f1", ("hot temperatures",), "cold temperatures", 0.5),
        ("token_f1", ("",), "the", 1.0),
        ("token_f1", ("x",), "", 0.0),
        ("rouge_l", ("the cat sat on the mat",), "the cat lay on the mat", 10 / 12),
        ("rouge_l", ("x",), "", 0.0),
        ("chrf", ("abc", "the cat"), "the cat", 1.0),
        ("chrf", ("abc",), "", 0.0),
    ],
)
def test_text_metrics_take_the_best_accepted_answer(name, accepted, given, value):
    assert metric(name).score([accepted], [given]).value == pytest.approx(value)


NUMBERS = {name for name, each in METRICS.items() if each.compares == "numbers"}
EXTRACTED = {"exact_match_hashes": "#### ", "exact_match_last_number": "", "exact_match_boxed": "\\boxed{"}
WITHOUT_REFERENCES = {"equation", "codebleu"}


@pytest.mark.parametrize("name", sorted(set(METRICS) - WITHOUT_REFERENCES))
def test_every_metric_is_within_its_range_best_for_the_targets_and_one_part_per_example(name):
    answers = ["1", "2", "3", "4"] if name in NUMBERS | set(EXTRACTED) else ["bad", "good", "bad", "good"]
    answers = [f"{EXTRACTED.get(name, '')}{answer}{'}' if name.endswith('boxed') else ''}" for answer in answers]
    references = [(answer,) for answer in answers]
    best = metric(name).score(references, answers, ("bad", "good"))
    assert best.value == pytest.approx(METRICS[name].range[1])
    worst = metric(name).score(references, answers[::-1], ("bad", "good"))
    assert METRICS[name].range[0] <= worst.value < best.value
    assert len(best.per_example) == 4
    if METRICS[name].is_mean:
        assert worst.value == pytest.approx(np.mean(worst.per_example))


def test_predictions_that_are_all_the_same_are_trivial_whatever_they_score():
    toy = choice()
    rows = toy.examples("test")
    assert score(toy, rows, ["good"] * len(rows)).trivial
    assert not score(toy, rows, [one.target for one in rows]).trivial


def test_bad_predictions_are_refused():
    toy = choice()
    rows = toy.examples("test")
    with pytest.raises(BadInput, match=r"no toy label 'positive'; .*labels: bad, good"):
        score(toy, rows, ["positive"] * len(rows))
    with pytest.raises(BadInput, match="2 predictions for 40 examples"):
        score(toy, rows, ["bad", "bad"])
    with pytest.raises(BadInput, match="accuracy of no examples is not defined"):
        score(toy, (), [])


# Chance


def test_chance_is_the_majority_class_in_accuracy_and_the_all_positive_classifier_in_f1():
    rows = examples("x", 10, ("bad", "bad", "bad", "good", "bad"))
    uneven = dataclasses.replace(choice(), read=lambda _: rows)
    assert uneven.chance("test") == pytest.approx(0.8)
    assert uneven.baselines("test") == {"always bad": 0.8, "always good": 0.2, "random candidate": 0.5}
    assert dataclasses.replace(uneven, metric="f1").chance("test") == pytest.approx(2 * 0.2 / 1.2)


@pytest.mark.parametrize("name", ["mcc", "pearson", "spearman"])
def test_chance_in_a_correlation_is_zero(name):
    verbalizer = {"1": "low", "2": "high"}
    rows = examples("x", 21, ("1", "2"))
    toy = Task("t", "c", "choice", name, lambda _: rows, verbalizer=verbalizer)
    assert toy.chance("test") == 0.0


def test_chance_in_macro_f1_is_a_random_candidate_for_that_beats_every_constant():
    baselines = choice("macro_f1", rows=300).baselines("test")
    assert baselines["always bad"] == pytest.approx(1 / 3)
    assert baselines["random candidate"] == pytest.approx(0.5, abs=0.02)
    assert choice("macro_f1", rows=300).chance("test") == baselines["random candidate"]


def test_chance_with_candidates_of_ones_own_is_one_over_their_number():
    rows = [
        Example(str(n), f"q{n}", "ABCD"[n % k], tuple(f"c{i}" for i in range(k)))
        for n in range(12)
        for k in (2 + n % 3,)
    ]
    toy = Task("t", "c", "choice", "accuracy", lambda _: tuple(rows), verbalizer={x: x for x in "ABCD"})
    assert toy.baselines("test")["random candidate"] == pytest.approx(
        np.mean([1 / len(one.candidates) for one in rows])
    )


def test_chance_of_generation_is_the_commonest_training_answer_or_a_copy():
    train = [Example(f"r{n}", f"in {n}", "x" if n < 3 else str(n)) for n in range(5)]
    test = [Example("1", "a", "x"), Example("2", "b", "x"), Example("3", "c", "c"), Example("4", "d", "z")]
    toy = generation({"train": train, "val": test, "test": test}, template="{input} ->")
    assert toy.baselines("test") == {"commonest answer": 0.5, "copy of the input": 0.25}
    assert toy.chance("test") == 0.5


# Fewer rows


@given(st.integers(1, 12), st.integers(0, 5))
def test_few_shot_draws_so_many_of_every_label_and_leaves_the_test_split_whole(shots, seed):
    toy = choice()
    few = toy.few_shot(shots, seed)
    for split in ("train", "val"):
        assert Counter(one.target for one in few.examples(split)) == {"bad": shots, "good": shots}
        assert set(few.examples(split)) <= set(toy.examples(split))
    assert few.examples("test") == toy.examples("test")
    assert few.fingerprint == toy.few_shot(shots, seed).fingerprint


def test_few_shot_draws_anew_for_every_seed_and_more_shots_hold_the_fewer():
    draws = {choice().few_shot(3, seed).fingerprint for seed in range(5)}
    assert len(draws) == 5
    fewer, more = (set(choice().few_shot(shots, 0).examples("train")) for shots in (3, 7))
    assert fewer < more


def test_few_shot_of_generation_counts_in_total():
    toy = generation({split: examples(split, 30) for split in SPLITS}).few_shot(16, 1)
    assert [len(toy.examples(split)) for split in SPLITS] == [16, 16, 30]


def test_few_shot_takes_what_there_is_for_development_but_insists_on_training_rows():
    sizes = {"train": 40, "val": 6, "test": 10}
    toy = dataclasses.replace(choice(), read=lambda split: examples(split, sizes[split]))
    assert len(toy.few_shot(16, 0).examples("val")) == 6
    with pytest.raises(BadInput, match="20 training examples of label 'bad', fewer than 21 shots"):
        toy.few_shot(21, 0).examples("train")
    with pytest.raises(BadInput, match="0 shots; there must be at least one"):
        toy.few_shot(0, 0)


@given(st.integers(1, 60), st.integers(0, 3))
def test_limited_is_even_over_labels_in_the_old_order_and_the_fewer_are_among_the_more(rows, seed):
    toy = choice(words=("negative", "positive", "neutral"))
    kept = toy.limited(train=rows, seed=seed).examples("train")
    counts = Counter(one.target for one in kept)
    assert len(kept) == min(rows, 40)
    assert max(counts.values()) - min(counts[label] for label in toy.labels) <= 1 or rows >= 40
    assert list(kept) == sorted(kept, key=toy.examples("train").index)
    assert set(kept) <= set(toy.limited(train=rows + 1, seed=seed).examples("train"))
    assert toy.limited(train=rows).examples("test") == toy.examples("test")


def test_a_limit_of_no_rows_is_refused():
    with pytest.raises(BadInput, match="val limited to 0 rows; a limit is at least 1, or none"):
        choice().limited(val=0)


# A user's own task


def test_a_task_of_a_few_lines_is_cut_into_three_splits_that_do_not_overlap(tmp_path):
    mine = described(tmp_path, template="{text} Sentiment:")
    assert [len(mine.examples(split)) for split in SPLITS] == [70, 10, 20]
    assert mine.text(mine.examples("train")[0]).endswith("Sentiment:")
    check_no_overlap(mine)
    assert described(tmp_path).without_template().fingerprint == described(tmp_path).fingerprint
    assert verify(mine)["state"] == "verified"


def test_rows_of_one_input_stay_on_one_side_of_a_cut(tmp_path):
    rows = [{"q": f"question {n % 13}", "a": f"answer {n}"} for n in range(60)]
    (tmp_path / "qa.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    mapping = {"path": "qa.jsonl", "columns": {"input": "q", "target": "a"}, "metric": "chrf", "category": "qa"}
    mine = task_from_mapping("mine", mapping, tmp_path)
    check_no_overlap(mine)
    assert sum(len(mine.examples(split)) for split in SPLITS) == 60
    one = mine.examples("train")[0]
    assert {one.target, *one.accepted} == {row["a"] for row in rows if row["q"] == one.input}


def test_a_file_for_every_split_and_what_stands_in_a_later_split_is_left_out(tmp_path):
    for split, numbers in {"train": range(10), "val": range(8, 12), "test": range(11, 14)}.items():
        lines = [json.dumps({"text": f"t{n}", "label": n % 2}) for n in numbers]
        (tmp_path / f"{split}.jsonl").write_text("\n".join(lines))
    columns = {"input": "text", "target": "label", "values": ["bad", "good"]}
    mine = described(tmp_path, path={split: f"{split}.jsonl" for split in SPLITS}, columns=columns)
    assert [[one.input for one in mine.examples(split)] for split in SPLITS] == [
        [f"t{n}" for n in range(8)],
        ["t8", "t9", "t10"],
        ["t11", "t12", "t13"],
    ]
    assert mine.examples("test")[0].target == "good"
    assert verify(mine)["left_out"] == {"train": 2, "val": 1, "test": 0}


def test_a_limit_and_dropped_values_leave_rows_out(tmp_path):
    mine = described(tmp_path, data={"limit": {"train": 20}})
    assert sum(len(mine.examples(split)) for split in SPLITS) == 20
    drop = {"text": [f"review {n}" for n in range(50)]}
    mine = described(tmp_path, data={"drop": drop})
    assert sum(len(mine.examples(split)) for split in SPLITS) == 50


def test_the_first_candidate_is_right_where_there_is_no_target_and_its_place_varies(tmp_path):
    rows = [{"q": f"q{n}", "right": f"yes {n}", "wrong": f"no {n}"} for n in range(80)]
    (tmp_path / "mc.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    columns = {"input": "q", "candidates": ["right", "wrong"]}
    mapping = {"path": "mc.jsonl", "columns": columns, "options": 2, "metric": "accuracy", "category": "qa"}
    train = (mine := task_from_mapping("mine", mapping, tmp_path)).examples("train")
    assert all(mine.answer(one) == f"yes {one.input[1:]}" for one in train)
    assert {one.target for one in train} == {"A", "B"}


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"pth": "x"}, r"no entry 'pth'; did you mean 'path'\? entries: category, choices, columns"),
        ({"columns": {"inputs": "text", "target": "stars"}}, r"no entry 'columns.inputs'; .*entries: candidates"),
        ({"columns": {"input": "text"}}, r"columns.target. is missing"),
        (
            {"columns": {"input": "txt", "target": "stars"}},
            r"no column 'txt'; did you mean 'text'\? columns: stars, text",
        ),
        (
            {"verbalizer": {"bad": "negative", "nice": "positive"}},
            r"label 'good' of example .* is outside the verbalizer; labels: bad, nice",
        ),
        ({"verbalizer": {False: "no", True: "yes"}}, r"the key False in 'verbalizer' is not text; put yes, no, true"),
        ({"verbalizer": {"bad": False, "good": True}}, r"verbalizer.bad: False: input should be a valid string"),
        ({"metric": "accuracy", "category": None}, r"category: None: input should be a valid string"),
        ({"template": "{txt}"}, r"no column 'txt'; did you mean 'text'\? columns: input, text"),
        ({"options": 3}, "a verbalizer has the same words for every example"),
        ({"path": "nothing.csv"}, "cannot read .*nothing.csv: No such file"),
        (
            {"path": "./nothing"},
            r"'./nothing' is not data: it is not a .csv, .tsv, .jsonl, .json, .parquet file, there is no folder",
        ),
        ({"data": {"drop": {"stars": ["bad", "good"]}}}, r"no row of 'train' is left of 100 in 'reviews.csv'; dropped"),
        ({"data": {"split": "stars"}}, r"no reviews.csv split 'val'; reviews.csv splits: bad, good"),
        ({"data": {"splits": {"dev": "x"}}}, "no split 'dev'"),
        ({"data": {"splits": {"test": "x"}}}, "no 'train' split is named"),
        ({"data": {"limit": {"train": 0}}}, "a limit of 0 rows for 'train'; it is at least 1"),
        (
            {"columns": {"input": "text", "target": "stars", "values": {"bad": "bad", "good": "great"}}},
            "no label 'great'",
        ),
        (
            {"columns": {"input": "text", "target": "stars", "decimals": 1}},
            "'bad' in column 'stars' is not a number and cannot be rounded",
        ),
    ],
)
def test_a_description_that_is_wrong_is_answered_by_one_sentence(tmp_path, changes, said):
    with pytest.raises(BadInput, match=said) as caught:
        read_whole(tmp_path, **changes)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("x.csv", "text,stars\na,b,c\n", "x.csv, line 2: another number of cells than the header has columns"),
        ("x.csv", 'text,stars\n"a,bad\n', r"x.csv, line \d: unexpected end of data"),
        ("x.jsonl", '{"text": "a", "stars": "bad"}\n{"text"\n', "x.jsonl, line 2 is not valid JSON"),
        ("x.jsonl", "[1, 2]\n", r"x.jsonl, line 1: a row is a JSON object with columns, not '\[1, 2\]'"),
        ("x.csv", b"text,stars\n\xff\xfe,bad\n", "x.csv is not UTF-8 text"),
        ("x.csv", "text,stars\n", "no row of 'train' is left of 0 in 'x.csv'"),
    ],
)
def test_a_file_that_cannot_be_read_is_named_with_the_line(tmp_path, name, content, said):
    (tmp_path / name).write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(BadInput, match=said):
        described(tmp_path, path=name).examples("train")


# The embedded tasks


def test_there_are_26_embedded_tasks_of_19_categories_and_listing_them_reads_no_examples():
    assert len(EMBEDDED) == 26
    assert len({descriptions("embedded")[name]["category"] for name in EMBEDDED}) == 19
    assert set(EMBEDDED) <= set(members())


@pytest.mark.parametrize("name", EMBEDDED)
def test_an_embedded_task_is_sound(name):
    one = task(name)
    assert one.verified
    assert one.source
    assert one.licence
    check_no_overlap(one)
    few = one.limited(train=40, val=20, test=20)
    for split in SPLITS:
        rows = few.examples(split)
        assert len(rows) == (40 if split == "train" else 20)
        assert all(one.text(row).strip() and one.answer(row).strip() for row in rows)
        best = score(one, rows, [row.target for row in rows])
        assert best.value == pytest.approx(1.0)
        assert not best.trivial
    assert 0 <= few.chance("test") < 0.75


@pytest.mark.parametrize("name", EMBEDDED)
def test_an_embedded_task_has_the_published_rows_unchanged(name):
    if not PUBLISHED.is_dir():
        pytest.skip("the published data do not lie beside the project")
    rows = [json.loads(line) for line in (PUBLISHED / f"{name}.jsonl").read_text().splitlines()]
    for split in SPLITS:
        expected = [(row["input"].strip(), row["target"].strip()) for row in rows if row["split"] == split]
        assert [(one.input, one.target) for one in task(name).examples(split)] == expected


@pytest.mark.parametrize("name", EMBEDDED)
def test_the_majority_baseline_is_the_published_one_or_the_splits_own_majority(name):
    if not PUBLISHED.is_dir():
        pytest.skip("the published data do not lie beside the project")
    published = json.loads((PUBLISHED / "tasks.json").read_text())[name]["baselines"]
    one = task(name)
    if one.kind == "choice":
        commonest = Counter(row.target for row in one.examples("train")).most_common(1)[0][0]
        assert one.baselines("test")[f"always {commonest}"] == pytest.approx(published["majority"])
        assert one.chance("test") >= published["majority"]
    elif one.metric == "exact_match":
        found = one.baselines("test")
        assert found["commonest answer"] == pytest.approx(published["commonest"])
        assert found["copy of the input"] == pytest.approx(published["copy"])


def test_every_embedded_task_is_in_the_list_of_licences_and_the_wish_of_big_bench_is_said():
    licences = (Path(__file__).parents[2] / "plugins" / "deltacompose_plugins" / "DATA_LICENSES.md").read_text()
    for name in EMBEDDED:
        assert name in licences
        if "bigbench" in task(name).source:
            assert "never appear in training corpora" in task(name).note


def test_a_task_travels_to_another_process():
    one = task("past_tense").few_shot(4, 0)
    assert pickle.loads(pickle.dumps(one)).fingerprint == one.fingerprint  # noqa: S301


def test_a_random_prediction_is_near_chance_on_a_balanced_embedded_task():
    one = task("topic_gloss")
    rows = one.examples("test")
    draw = random.Random(0)
    found = score(one, rows, [draw.choice(one.labels) for _ in rows])
    assert found.value == pytest.approx(1 / 12, abs=0.04)
    assert not found.trivial


@pytest.mark.parametrize(
    ("labels", "advice"),
    [
        (("good", "bad"), r"add `verbalizer: \{bad: bad, good: good\}` \(label: the words that are ranked for it\)"),
        (tuple(f"label {n}" for n in range(9)), r"add `verbalizer: \{no: no, yes: yes\}`"),
        (("one answer",), r"add `verbalizer: \{no: no, yes: yes\}`"),
    ],
)
def test_labels_without_a_verbalizer_are_answered_with_the_verbalizer_to_add(tmp_path, labels, advice):
    rows = "".join(f"text {n},{labels[n % len(labels)]}\n" for n in range(40))
    (tmp_path / "own.csv").write_text("text,label\n" + rows)
    described = {"path": "own.csv", "category": "c", "metric": "accuracy"}
    described["columns"] = {"input": "text", "target": "label"}
    expected = f"task 'own': metric 'accuracy' compares labels, .*{advice}.*, or choose a metric of texts"
    with pytest.raises(BadInput, match=expected):
        task_from_mapping("own", described, tmp_path)
    task_from_mapping("own", described | {"metric": "exact_match"}, tmp_path)
