"""Recommendations from a library of deltas: the evidence, a new task, and the command."""

import contextlib
import json
import shutil
import sys
from dataclasses import replace

import numpy as np
import picostudy
import pytest

import deltacompose as dc
from deltacompose import cli
from deltacompose.analysis.recommendation.evidence import TRIED
from deltacompose.analysis.recommendation.quality import summary
from deltacompose.errors import BadInput
from deltacompose.library.library import Library
from deltacompose.library.library_evidence import EMBEDDED, gather
from deltacompose.library.recommend import recommend
from deltacompose.task.build import task_from_mapping

TASKS = ("mood", "tone", "air", "look", "step")


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A library of five tasks, made by commands, and the file of a new one."""
    folder = tmp_path_factory.mktemp("study")
    few = {"shots": 4, "start_from": TASKS}
    study = picostudy.make(folder, tasks=TASKS, seeds=(0,), measures=("gradient_cosine",), **few)
    study.write(folder / "study.yaml")
    dc.run(study, folder / "store")
    words = ["library", "make", folder / "study.yaml", folder / "library", "--store", folder / "store"]
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(sys, "argv", ["deltacompose", *map(str, words)])
        cli.main()
    picostudy.write_rows(folder / "new.jsonl", "new", 9)
    (folder / "new.yaml").write_text(json.dumps(picostudy.own("new")))
    return folder


@pytest.fixture
def library(made):
    return Library(str(made / "library"))


@pytest.fixture
def typed(monkeypatch, capsys):
    def run(*words):
        monkeypatch.setattr(sys, "argv", ["deltacompose", *map(str, words)])
        cli.main()
        return capsys.readouterr().out

    return run


def test_the_evidence_has_scores_measures_and_few_examples(library):
    gathered = gather(library, examples=4)
    evidence = gathered.zero_shot
    assert evidence.sources == evidence.targets == tuple(sorted(TASKS))
    assert {EMBEDDED, "gradient_cosine", "weight_distance"} <= set(evidence.measures)
    assert TRIED in evidence.table(0).predictors
    assert np.isfinite(evidence.tried).all()
    assert np.isfinite(evidence.untouched).all()
    assert gathered.shots == 4
    off_diagonal = ~np.eye(len(TASKS), dtype=bool)
    assert np.isfinite(gathered.started.scores[0][off_diagonal]).all()
    assert np.isfinite(gathered.fresh).all()


def test_scores_on_the_few_examples_and_on_the_others_make_up_the_whole(library):
    evidence, whole = gather(library, examples=4).zero_shot, library.matrix("bitfit")
    few = 4
    joined = (few * evidence.tried + (12 - few) * evidence.scores) / 12
    assert joined == pytest.approx(whole.selected(evidence.sources, evidence.targets).values)


def test_a_new_task_has_predictions_for_every_source_beside_none_and_chance(library, made):
    found = recommend(library, made / "new.yaml", shots=8, steps=2)
    assert sorted(source.task for source in found.sources) == sorted(TASKS)
    values = [source.zero_shot.value for source in found.sources]
    assert values == sorted(values, reverse=True)
    assert all(source.zero_shot.low <= source.zero_shot.value <= source.zero_shot.high for source in found.sources)
    assert found.examples == 8
    assert 0 <= found.untouched.low <= found.untouched.value <= found.untouched.high <= 1
    assert found.chance == 0.5
    assert all(source.few_shot is not None for source in found.sources)
    assert found.fresh is not None
    assert found.shots == 4
    assert set(found.coefficients) == {"popularity", TRIED, EMBEDDED, *gather(library).zero_shot.measures}
    assert found.told_apart == (not found.verdict.startswith("cannot tell"))


def test_a_task_of_the_library_is_left_out_whole(library, made):
    task = task_from_mapping("mood", picostudy.own("mood"), made)
    found = recommend(library, task, shots=8, steps=2, leave_out=True)
    assert "mood" not in {source.task for source in found.sources}
    with pytest.raises(BadInput, match=r"'mood' is in the library already \(1 delta\)"):
        recommend(library, task, shots=8)


def test_the_command_prints_one_document(made, typed):
    answer = json.loads(typed("recommend", made / "library", "--task", made / "new.yaml", "--shots", 8, "--json"))
    assert answer["task"] == "new"
    assert len(answer["sources"]) == 5
    assert {"zero_shot", "few_shot", "tied", "tried"} <= set(answer["sources"][0])
    assert "no source" in typed("recommend", made / "library", "--task", made / "new.yaml", "--shots", 8)


def test_the_command_evaluates_a_library_a_store_and_writes_files(made, typed, tmp_path):
    answer = json.loads(typed("recommend", made / "library", "--evaluate", "--shots", 4, "--json", "--out", tmp_path))
    assert answer["tasks_left_out"] == 5
    assert {"recommend.json", "recommend.csv", "recommend.pdf", "recommend.png"} <= {
        path.name for path in tmp_path.iterdir()
    }
    stored = json.loads(typed("recommend", made / "study.yaml", "--store", made / "store", "--evaluate", "--json"))
    assert stored["tasks_left_out"] == 5
    assert "oracle" in typed("recommend", made / "library", "--evaluate")


def test_the_quality_is_that_of_the_evidence(library):
    answer = summary(gather(library, examples=4).zero_shot, resamples=50)
    assert answer["strategies"]["oracle"]["regret_at_1"]["value"] == 0


# Misuse


def test_fewer_shots_than_classes_are_refused(library, made):
    with pytest.raises(BadInput, match="1 shots for task 'new', which has 2 classes"):
        recommend(library, made / "new.yaml", shots=1)


def test_more_shots_than_examples_are_refused(library, made):
    with pytest.raises(BadInput, match="fewer than 100 shots"):
        recommend(library, made / "new.yaml", shots=200)


def test_a_label_without_examples_is_refused(library, made):
    task = task_from_mapping("new", {**picostudy.own("new"), "verbalizer": {"bad": "b", "good": "g", "odd": "o"}}, made)
    with pytest.raises(BadInput, match="no training example of the label 'odd'"):
        recommend(library, task, shots=9)


def test_a_label_that_the_description_lacks_is_refused(library, made):
    task = task_from_mapping("new", {**picostudy.own("new"), "verbalizer": {"good": "g", "odd": "o"}}, made)
    with pytest.raises(BadInput, match=r"the label 'bad' .*outside the verbalizer"):
        recommend(library, task, shots=8)


def test_a_library_of_three_tasks_is_refused(library, tmp_path, made):
    small = Library.create(tmp_path, library.backbone)
    for name in library.names()[:3]:
        small.add(library.delta(name), library.card(name))
    with pytest.raises(BadInput, match="at least 4 tasks"):
        gather(replace_results(small))


@pytest.mark.parametrize(
    "words", [["recommend", "--task", "NEW", "--shots", "8"], ["recommend", "--evaluate"], ["merge", "OUT"]], ids=str
)
def test_deltas_that_cannot_be_used_are_named(words, made, tmp_path, monkeypatch, capsys):
    shutil.copytree(made / "library", tmp_path / "copy")
    name = Library(str(tmp_path / "copy")).names()[0]
    (tmp_path / "copy" / "deltas" / name / "card.json").unlink()
    places = {"NEW": str(made / "new.yaml"), "OUT": str(tmp_path / "out")}
    typed_words = [places.get(word, word) for word in words]
    at = 2 if words[0] == "merge" else 1
    typed_words.insert(at, str(tmp_path / "copy"))
    monkeypatch.setattr(sys, "argv", ["deltacompose", *typed_words])
    with contextlib.suppress(SystemExit):  # four tasks are too few to leave one out
        cli.main()
    stderr = capsys.readouterr().err
    assert f"left out: the delta '{name}' of the library" in stderr
    assert "is incomplete: there is no card.json" in stderr


def replace_results(library):
    """The library whose cards tell of its own tasks alone."""
    for name, card in library.cards().items():
        own = {other.task for other in library.cards().values()}
        kept = tuple(result for result in card.results if result.target in own)
        path = f"{library.place}/deltas/{name}/card.json"
        with open(path, "w") as file:
            json.dump(replace(card, results=kept).described(), file)
    return library


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["recommend"], "name a library and a new task"),
        (["recommend", "x", "--task", "intent", "--evaluate"], "without --task"),
        (["recommend", "--task", "intent", "--scores", "x.csv"], "tables to --evaluate on"),
    ],
)
def test_a_mistake_in_the_command_is_one_sentence(words, message, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["deltacompose", *words])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    assert ended.value.code == 2
    assert message in capsys.readouterr().err
