"""The quality of recommended sources in the report: the page, the files and the notes."""

import json
import re
import sys
from pathlib import Path

import picostudy
import pytest
from made_up_study import CATEGORIES, TASKS, Page, evaluation, study, with_holes

import deltacompose as dc
from deltacompose import cli
from deltacompose.analysis.recommendation.few_examples import of_matrix
from deltacompose.analysis.recommendation.quality import STRATEGIES, summary
from deltacompose.analysis.transfer.findings import gather
from deltacompose.errors import BadInput
from deltacompose.report import html, report
from deltacompose.report.advice import MOST, advice_of, shown
from deltacompose.report.analysed import analysed

SEEDS = (0, 1, 2)


@pytest.fixture(scope="module")
def results():
    return analysed(gather(study(SEEDS), CATEGORIES))


def data_of(page, index=0):
    """The advice that a page holds on a composition."""
    pattern = rf'<script type="application/json" id="composition-data-{index}">(.*?)</script>'
    return json.loads(re.search(pattern, page).group(1))["advice"]


def test_the_page_holds_the_numbers_of_the_command(results):
    expected = summary(of_matrix(results.parts[0].matrix, {}))
    strategies = {name: estimates for name, *estimates in data_of(html.html(results, "A study"))["strategies"]}
    assert tuple(strategies) == STRATEGIES
    for name, estimates in strategies.items():
        for metric, (value, low, high, p) in zip(("regret_at_1", "regret_at_3", "ndcg"), estimates, strict=True):
            own = expected["strategies"][name][metric]
            numbers = [None if own[key] is None else round(1000 * own[key]) for key in ("value", "low", "high")]
            assert [value, low, high] == numbers
            assert p == ("" if own.get("p") is None else f"{own['p']:.2g}")


def test_the_caption_says_on_what_the_numbers_rest(results):
    caption = data_of(html.html(results, "A study"))["caption"]
    coverage = results.parts[0].advice["coverage"]["found"]
    assert f"{len(TASKS)} tasks left out in turn, 3 seeds" in caption
    assert f"cover {coverage:.0%}" in caption
    assert "Predictors: popularity." in caption


def test_similarities_of_the_deltas_are_predictors_where_they_are_given(results):
    matrix = results.parts[0].matrix
    near = {"cosine": matrix.square().values.copy()}
    answer = analysed(gather(study(SEEDS), CATEGORIES), measures={matrix.composition: near}).parts[0].advice
    assert answer["predictors"] == ["popularity", "cosine"]
    assert answer["strategies"]["model"] != results.parts[0].advice["strategies"]["model"]


def test_the_notes_and_the_page_have_one_sentence_for_each_composition(results, tmp_path):
    report.write_figures(study(SEEDS), tmp_path, CATEGORIES)
    notes = (tmp_path / "notes.md").read_text()
    text = Page(html.html(results, "t")).text
    for part in results.parts:
        own = part.advice["strategies"]["model"]["regret_at_1"]["value"]
        told = f"choice of a source on 6 tasks left out: the recommended source scores {own:.3f} ["
        assert f"{part.matrix.composition}, {told}" in text
    assert "lora, choice of a source on 6 tasks left out" in notes


def test_the_files_are_listed_and_written(results, tmp_path):
    written = {path.name for path in report.write_files(results, tmp_path)}
    assert {"lora.recommend.csv", "lora.recommend.pdf", "lora.recommend.png"} <= written
    assert written == {name for names in report.names_of_files(results).values() for name in names}
    assert (tmp_path / "lora.recommend.csv").read_text().startswith("strategy,regret_at_1,")


def test_a_study_with_holes_and_failures_has_its_page():
    holes = analysed(gather(with_holes(), CATEGORIES))
    assert data_of(html.html(holes, "A study"))["strategies"]


def test_four_tasks_have_no_such_figure():
    few = dict(list(CATEGORIES.items())[:4])
    results = analysed(gather(study(SEEDS, categories=few), few))
    assert results.parts[0].advice is None
    assert 'id="advice"' not in html.html(results, "A study")


def test_a_large_study_names_the_command_instead():
    tasks = {f"t{k}": "c" for k in range(int(MOST**0.5) + 1)}
    results = analysed(gather(study((0,), ["lora"], tasks), {}))
    assert results.parts[0].advice is None
    caption = data_of(html.html(results, "A study"))["caption"]
    assert "take long; `deltacompose recommend STUDY --evaluate` computes it" in caption


def test_tasks_without_two_other_sources_are_said_not_to_be_left_out():
    names = TASKS
    records = [evaluation("lora", name, name, 0, 0.8) for name in names]
    records += [evaluation("lora", names[0], target, 0, 0.6) for target in names[1:]]
    matrix = gather(records, {}).transfer["lora"]
    answer, reason = advice_of(matrix, {})
    assert answer is None
    assert reason
    assert shown(answer, reason) == {"strategies": [], "caption": f"Not computed: {reason}."}
    with pytest.raises(BadInput):
        summary(of_matrix(matrix, {}))


def test_the_command_uses_the_similarities_of_the_store(tmp_path, monkeypatch, capsys):
    chosen = picostudy.make(tmp_path, tasks=("mood", "tone", "air", "look", "step"), seeds=(0,))
    chosen.write(tmp_path / "study.yaml")
    dc.run(chosen, tmp_path / "store")
    for words in (["report", "study.yaml", "--page-only"], ["recommend", "study.yaml", "--evaluate", "--json"]):
        words[1] = tmp_path / words[1]
        monkeypatch.setattr(sys, "argv", ["deltacompose", *map(str, words), "--store", str(tmp_path / "store")])
        capsys.readouterr()
        cli.main()
    answer = json.loads(capsys.readouterr().out)
    caption = data_of(Path(tmp_path / "store" / "figures" / "report.html").read_text())["caption"]
    assert f"Predictors: {', '.join(answer['predictors'])}." in caption
    assert "weight_distance" in caption
