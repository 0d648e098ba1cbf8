"""Clusters, merges and few-shot training on held-out tasks, in a study of pico backbones."""

import json
import sys
from dataclasses import replace

import picostudy
import pytest

import deltacompose as dc
from deltacompose import cli
from deltacompose.analysis.transfer.reuse_summary import rows, used
from deltacompose.errors import BadInput
from deltacompose.study.config import Study
from deltacompose.study.new_tasks import ClusterChoice, ReuseChoice

WAYS = ("nothing", "single", "mean", "similarity", "ties", "task_arithmetic", "few_shot", "arrow", "cluster", "all")
TASKS = ("mood", "tone", "air")


def study_of(folder, **changes):
    """A study of three tasks and one that is held out."""
    study = picostudy.make(folder, tasks=(*TASKS, "new"), seeds=(0,), compositions=("lora(rank=2)",))
    settings = {
        "tasks": TASKS,
        "held_out": ("new",),
        "clusters": ClusterChoice("lora(rank=2)", count=2),
        "reuse": ReuseChoice(WAYS, shots=(2,), top=2),
    }
    return replace(study, **{**settings, **changes})


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("study")
    study_of(folder).write(folder / "study.yaml")
    outcome = dc.run(Study.read(folder / "study.yaml"), folder / "store")
    assert not outcome.failed, outcome.failed
    assert not outcome.blocked
    return folder


@pytest.fixture(scope="module")
def records(folder):
    return dc.records(folder / "store")


def test_a_study_file_says_from_and_reads_it_again(folder):
    text = (folder / "study.yaml").read_text()
    assert "from: lora(rank=2)" in text
    assert Study.read(folder / "study.yaml").clusters == ClusterChoice("lora(rank=2)", count=2)


def test_every_cluster_has_a_delta_that_is_evaluated_on_every_task_and_those_held_out(records):
    [cluster] = [r for r in records if r["kind"] == "cluster"]
    groups = cluster["result"]["clusters"]
    assert sorted(task for group in groups for task in group) == sorted(TASKS)
    assert len(groups) == 2
    [large] = [group for group in groups if len(group) == 2]
    for name in (" + ".join(large), " + ".join(TASKS)):
        targets = {r["spec"]["target"] for r in records if r["kind"] == "evaluate" and r["spec"]["source"] == name}
        assert targets == {*TASKS, "new"}


def test_a_held_out_task_is_evaluated_and_never_trained_on_without_saying_so(records):
    trained = [r for r in records if r["kind"] == "train" and r["spec"]["task"] == "new"]
    assert all(r["spec"]["start"] for r in trained)
    sources = {r["spec"]["source"] for r in records if r["kind"] == "evaluate" and r["spec"]["target"] == "new"}
    assert {*TASKS, "untouched"} <= sources


def test_the_transfer_matrix_has_mixtures_as_sources_and_held_out_tasks_as_targets(folder):
    matrix = dc.transfer_matrix(folder / "store", "lora(rank=2)")
    assert " + ".join(TASKS) in matrix.sources
    assert "new" in matrix.targets
    assert "new" not in matrix.sources


def test_every_way_has_a_score_before_and_after_few_shot_training(records):
    found = {(way.way, way.trained) for way in used(records)}
    assert {(way, True) for way in WAYS if way != "arrow"} <= found
    assert {(way, False) for way in (*WAYS, "chance", "untouched") if way != "nothing"} <= found


def test_merged_deltas_are_of_the_sources_and_say_how_much_each_counts(records):
    merges = {r["spec"]["way"]: r for r in records if r["kind"] == "merge"}
    assert sorted(merges["mean"]["result"]["coefficients"].values()) == [pytest.approx(1 / 3)] * 3
    assert sum(merges["similarity"]["result"]["coefficients"].values()) == pytest.approx(1)
    assert merges["single"]["result"]["chosen"] in TASKS
    assert set(merges["few_shot"]["result"]["coefficients"]) == set(TASKS)


def test_training_from_a_merged_delta_begins_with_its_weights(records, folder):
    [mean] = [r for r in records if r["kind"] == "merge" and r["spec"]["way"] == "mean"]
    [begun] = [r for r in records if r["kind"] == "train" and r["spec"]["start"] == "mean"]
    assert begun["parents"] == [mean["key"]]
    assert begun["spec"]["shots"] == 2


def test_a_second_run_computes_nothing_and_the_plan_knows_what_was_added(folder):
    study = Study.read(folder / "study.yaml")
    outcome = dc.run(study, folder / "store")
    assert not outcome.done


def test_the_table_compares_each_way_with_training_from_nothing(records):
    table = {(row["way"], row["few-shot"]): row for row in rows(used(records))}
    assert table["nothing", True]["difference"] is None
    single = table["single", True]
    assert single["difference"] == pytest.approx(single["score"] - table["nothing", True]["score"])
    assert 0 <= single["p"] <= 1


def test_the_command_prints_the_table(folder, monkeypatch, capsys):
    words = ["deltacompose", "reuse", str(folder / "study.yaml"), "--store", str(folder / "store"), "--json"]
    monkeypatch.setattr(sys, "argv", words)
    cli.main()
    answer = json.loads(capsys.readouterr().out)
    assert answer["targets"] == ["new"]
    assert len(answer["ways"]) == len(used(dc.records(folder / "store")))


def test_the_table_is_written_as_csv_markdown_and_latex(folder, tmp_path, monkeypatch, capsys):
    words = ["reuse", folder / "study.yaml", "--store", folder / "store", "--out", tmp_path]
    monkeypatch.setattr(sys, "argv", ["deltacompose", *map(str, words)])
    cli.main()
    assert {path.name for path in tmp_path.iterdir()} == {"reuse.csv", "reuse.md", "reuse.tex"}
    lines = (tmp_path / "reuse.md").read_text().splitlines()
    assert lines[0] == "| composition | way | few-shot | shots | score | against nothing | p |"
    assert sum(line.startswith("| lora(rank=2) |") for line in lines) == len(used(dc.records(folder / "store"))) - 2
    assert lines[-1] == "Means over 1 held-out task (new) and 1 seed, with 95 % intervals."
    assert "means over 1 held-out task (new) and 1 seed" in capsys.readouterr().out


def test_starts_are_merges_too(tmp_path):
    study = study_of(tmp_path, clusters=None, reuse=None, held_out=(), start_from=("merge:mean",), transfer=False)
    assert not dc.run(study, tmp_path / "store").failed
    begun = [r for r in dc.records(tmp_path / "store") if r["kind"] == "train" and r["spec"]["start"]]
    assert sorted(r["spec"]["task"] for r in begun) == sorted(TASKS)
    merges = [r for r in dc.records(tmp_path / "store") if r["kind"] == "merge"]
    assert all(r["spec"]["target"] not in r["spec"]["sources"] for r in merges)


# Keys and misuse


def test_a_held_out_task_adds_evaluations_and_changes_no_key(tmp_path):
    plain = replace(picostudy.make(tmp_path, seeds=(0,)), tasks=("mood",))
    before, after = dc.plan(plain), dc.plan(replace(plain, held_out=("tone",)))
    assert set(before) < set(after)
    added = [after.nodes[key]["cell"] for key in set(after) - set(before)]
    assert {(cell.kind, cell.spec["target"]) for cell in added} == {("evaluate", "tone")}
    assert {cell.spec["source"] for cell in added} == {"mood", "untouched"}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"held_out": ("mood",)}, "is held out and trained on"),
        ({"held_out": ()}, "name some under `held_out`"),
        ({"clusters": None}, "need `clusters`"),
        ({"tasks": ("mood", "tone")}, "at least 3 tasks"),
        ({"clusters": ClusterChoice("lora(rank=2)", count=4)}, "4 clusters of 3 tasks"),
        ({"start_from": ("merge:sum",)}, "no merging way 'sum'"),
    ],
)
def test_what_a_study_cannot_ask_is_refused_when_it_is_read(tmp_path, changes, message):
    with pytest.raises(BadInput, match=message):
        study_of(tmp_path, **changes)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"clusters": ClusterChoice("bitfit", count=2)}, "no composition of the study for its clusters 'bitfit'"),
        ({"clusters": ClusterChoice("lora(rank=2)", "transfer"), "transfer": False}, "need `transfer: true`"),
        ({"clusters": ClusterChoice("lora(rank=2)", "gradient_cosin")}, "no measure 'gradient_cosin'; did you mean"),
        ({"clusters": ClusterChoice("lora(rank=2)", "gradient_cosine")}, "name gradient_cosine under `measures`"),
        (
            {"clusters": ClusterChoice("lora(rank=2)", "prediction_agreement")},
            "compares answers on every pair of tasks",
        ),
        ({"compositions": ("lora(rank=2) >> bitfit",), "clusters": None, "reuse": ReuseChoice(("mean",))}, "one stage"),
        ({"grid": (1.0, 2.0)}, "one learning rate"),
    ],
)
def test_what_cannot_be_planned_is_refused_before_anything_is_computed(tmp_path, changes, message):
    with pytest.raises(BadInput, match=message):
        dc.plan(study_of(tmp_path, **changes))


def test_a_table_without_scores_on_held_out_tasks_is_refused():
    with pytest.raises(BadInput, match="no scores on held-out tasks"):
        used([])
