"""Mixtures of tasks are tasks: each example keeps its template, its labels and its metric."""

from dataclasses import replace

import picostudy
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import deltacompose as dc
from deltacompose.backbone.pico import pico_backbone
from deltacompose.errors import BadInput
from deltacompose.scoring import reader
from deltacompose.study.config import Study
from deltacompose.study.recipe import Recipe
from deltacompose.task.examples import Example
from deltacompose.task.mixed_rows import Mixed
from deltacompose.task.mixture import Mix, joined_name, mix_from_mapping, mix_of_name, mixture
from deltacompose.task.named import named_task
from deltacompose.task.task import Task, check_no_overlap, score
from deltacompose.training.evaluation import evaluate
from deltacompose.training.learner import Job
from deltacompose.training.loop import train


def task(name, labels=("bad", "good"), rows=8, **changes):
    """A task whose label is the last word of its input."""

    def read(split):
        count = rows if split == "train" else 4
        chosen = [labels[k % len(labels)] for k in range(count)]
        return tuple(Example(f"{split}-{k}", f"{name} {split} {k} {label}", label) for k, label in enumerate(chosen))

    about = {"category": "mood", "kind": "choice", "metric": "accuracy", "template": f"{name}: {{input}}"}
    return Task(name, read=read, verbalizer={label: label.upper() for label in labels}, **{**about, **changes})


TASKS = {
    "a": task("a"),
    "b": task("b", ("no", "maybe", "yes"), rows=12, metric="macro_f1", template="is {input}"),
    "text": Task("text", "other", "generation", "exact_match", lambda split: (Example(split, split, "x"),)),
}


def find(name):
    return TASKS[name]


def mixed(weights, **how):
    return mixture("both", Mix(weights, **how), find)


def test_every_example_keeps_its_template_its_words_and_its_answer():
    both = mixed({"a": 1.0, "b": 1.0})
    rows = {example.id: example for example in both.examples("val")}
    for name in "ab":
        own = TASKS[name]
        for example in own.examples("val"):
            there = rows[f"{name}/{example.id}"]
            assert both.text(there) == own.text(example)
            assert both.options(there) == own.options(example)
            assert both.answer(there) == own.answer(example)
    assert len(rows) == 8
    check_no_overlap(both)


def test_its_score_is_the_mean_of_its_parts_in_their_own_metrics():
    both = mixed({"a": 1.0, "b": 1.0})
    examples = both.examples("test")
    predictions = ["0"] * len(examples)
    each = []
    for name in "ab":
        own = TASKS[name]
        each.append(score(own, own.examples("test"), [own.labels[0]] * 4).value)
    found = score(both, examples, predictions)
    assert found.value == pytest.approx(sum(each) / 2)
    assert found.metric == "mean of accuracy, macro_f1"
    assert found.trivial
    assert both.chance("test") == pytest.approx(sum(TASKS[name].chance("test") for name in "ab") / 2)


def test_the_mean_of_its_scores_per_example_is_the_mean_over_the_parts():
    both = mixture("both", Mix({"a": 1.0, "c": 1.0}), {"a": task("a"), "c": task("c", rows=30)}.__getitem__)
    examples = (*both.examples("train"),)
    predictions = ["1" if "/train-1" in example.id else "0" for example in examples]
    found = score(both, examples, predictions)
    assert sum(found.per_example) / len(examples) == pytest.approx(found.value)


@given(
    st.lists(st.integers(1, 200), min_size=1, max_size=5),
    st.sampled_from(["proportional", "equal", "temperature"]),
    st.floats(1, 10),
)
def test_shares_add_up_and_follow_the_sampling(rows, sampling, temperature):
    mix = Mixed((), (1.0,) * len(rows), sampling, temperature)
    counts = mix.counts(rows)
    assert abs(sum(counts) - sum(rows)) <= len(rows)
    if sampling == "proportional":
        assert counts == rows
    if sampling == "equal":
        assert max(counts) - min(counts) <= 1
    order = sorted(range(len(rows)), key=lambda k: rows[k])
    assert [counts[k] for k in order] == sorted(counts)


def test_weights_and_temperature_change_shares_as_they_say():
    assert Mixed((), (3.0, 1.0)).counts([100, 100]) == [150, 50]
    assert Mixed((), (1.0, 1.0), "temperature", 2.0).counts([400, 100]) == [333, 167]
    assert Mixed((), (1.0, 1.0), "temperature", 1.0).counts([400, 100]) == [400, 100]


def test_a_part_with_too_few_rows_has_them_several_times_under_other_names():
    both = mixed({"a": 1.0, "b": 1.0}, sampling="equal")
    rows = [example for example in both.examples("train") if example.id.startswith("a/")]
    assert len(rows) == 10
    assert len({example.id for example in rows}) == 10
    assert len({example.input for example in rows}) == 8


@pytest.mark.parametrize("family", ["bert", "gpt2", "t5"])
def test_a_mixture_of_a_task_with_itself_is_the_task(family):
    backbone, recipe = pico_backbone(family), Recipe(steps=4, batch=4, evaluate_every=2)
    deltas = []
    for chosen in (TASKS["b"], mixed({"b": 1.0})):
        [delta] = train(backbone, [Job(dc.parse("bitfit"), reader(backbone, chosen), 0, recipe)])
        deltas.append(delta)
    own, alike = deltas
    assert all(torch.equal(x, alike.weights[n]) for n, x in own.weights.items())
    assert own.record["dev"] == alike.record["dev"]
    told = [[(row["step"], row["loss"], row["score"]) for row in d.record["history"]] for d in deltas]
    assert told[0] == told[1]


@pytest.mark.parametrize("family", ["bert", "gpt2", "t5"])
def test_tasks_with_other_numbers_of_candidates_train_together(family):
    backbone, recipe = pico_backbone(family), Recipe(steps=4, batch=4, evaluate_every=2)
    read = reader(backbone, mixed({"a": 1.0, "b": 1.0}))
    jobs = [Job(dc.parse("bitfit"), read, seed, recipe) for seed in (0, 1)]
    for delta in train(backbone, jobs):
        assert not isinstance(delta, Exception)
        assert 0 <= evaluate(read, delta, "test").score.value <= 1


def test_a_batch_is_of_one_part():
    backbone = pico_backbone("bert")
    both = mixed({"a": 1.0, "b": 1.0})
    from deltacompose.training.learner import Learner

    learner = Learner(backbone, Job(dc.parse("bitfit"), reader(backbone, both), 0, Recipe(steps=12, batch=4)))
    examples = both.examples("train")
    parts = [{examples[k].id.partition("/")[0] for k in rows} for rows, _ in learner.batches]
    assert all(len(names) == 1 for names in parts)
    assert set.union(*parts) == {"a", "b"}


def test_shots_and_limits_are_those_of_each_part():
    both = mixed({"a": 1.0, "b": 1.0})
    few = both.few_shot(1, 0)
    assert [len([e for e in few.examples("train") if e.id.startswith(f"{name}/")]) for name in "ab"] == [2, 3]
    assert len(both.limited(test=2).examples("test")) == 4
    assert both.without_template().text(both.without_template().examples("val")[0]).startswith("a val")


def test_its_fingerprint_is_of_its_parts_and_their_shares():
    both = mixed({"a": 1.0, "b": 1.0})
    others = [mixed({"a": 1.0}), mixed({"a": 2.0, "b": 1.0}), mixed({"a": 1.0, "b": 1.0}, sampling="equal")]
    assert len({each.fingerprint for each in (both, *others)}) == 4
    assert replace(both).fingerprint == both.fingerprint


def test_a_study_trains_on_a_mixture_and_reads_it_like_any_other_source(tmp_path):
    study = picostudy.make(tmp_path, seeds=(0,))
    own = {**study.own_tasks, "mixed": {"mix": {"mood": 1, "tone": 1}, "sampling": "equal"}}
    study = replace(study, tasks=(*study.tasks, "mixed"), own_tasks=own)
    study.write(tmp_path / "study.yaml")
    study = Study.read(tmp_path / "study.yaml")
    assert not dc.run(study, tmp_path / "store").failed
    matrix = dc.transfer_matrix(tmp_path / "store", "bitfit")
    assert "mixed" in matrix.sources
    row = matrix.values[0, matrix.sources.index("mixed")]
    values = dict(zip(matrix.targets, row, strict=True))
    assert values["mixed"] == pytest.approx((values["mood"] + values["tone"]) / 2)
    [record] = [
        r
        for r in dc.records(tmp_path / "store")
        if r["kind"] == "evaluate" and r["spec"]["source"] == r["spec"]["target"] == "mixed"
    ]
    assert record["result"]["parts"] == {"mood": values["mood"], "tone": values["tone"]}


# Names and misuse


def test_a_joined_name_is_the_mixture_of_its_tasks():
    assert joined_name(("a", "b")) == "a + b"
    assert mix_of_name("a + b").mix == {"a": 1.0, "b": 1.0}
    assert mix_of_name("a") is None
    found = named_task("a + b", {}, ".", find)
    assert [part.name for part in found.parts] == ["a", "b"]
    with pytest.raises(BadInput, match=r"has ' \+ ' in its name"):
        joined_name(("a", "b + c"))


def test_tasks_of_different_kinds_are_not_mixed():
    with pytest.raises(
        BadInput, match="'a' is a choice task and 'text' a generation task; a mixture is of tasks of one"
    ):
        mixed({"a": 1.0, "text": 1.0})


def test_a_mixture_of_mixtures_is_refused():
    with pytest.raises(BadInput, match="is a mixture itself"):
        mixture("more", Mix({"both": 1.0}), lambda name: mixed({"a": 1.0}))


@pytest.mark.parametrize(
    ("described", "message"),
    [
        ({"mix": {}}, "mix"),
        ({"mix": {"a": 0}}, "greater than 0"),
        ({"mix": {"a": 1}, "sampling": "random"}, "sampling"),
        ({"mix": {"a": 1}, "temperature": 0.5}, "temperature"),
        ({"mix": {"a": 1}, "path": "x.csv"}, "no entry 'path'"),
        ({"mix": ["a"]}, "mix"),
    ],
)
def test_a_description_that_is_not_valid_is_refused_in_one_sentence(described, message):
    with pytest.raises(BadInput, match=message):
        mix_from_mapping("both", described)
