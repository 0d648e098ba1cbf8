"""Statements, the folder of figures and what is gathered, from the records of a study with holes and failures."""

import dataclasses
import json
import re
import zipfile
from pathlib import Path

import networkx as nx
import numpy as np
import pytest
from made_up_study import (
    CATEGORIES,
    COMPOSITIONS,
    TASKS,
    Page,
    failed,
    study,
    training,
    with_holes,
    without,
)

from deltacompose.analysis.graph import task_graph
from deltacompose.analysis.matrix import mean_over_seeds
from deltacompose.analysis.transfer import tidy_tables as tables
from deltacompose.analysis.transfer.findings import gather
from deltacompose.errors import BadInput
from deltacompose.figures.figure_files import slug
from deltacompose.report import figures as pictures
from deltacompose.report import html as page
from deltacompose.report import report
from deltacompose.report import statements as sentences
from deltacompose.report import tables as sections
from deltacompose.report.analysed import analysed
from deltacompose.report.headline import headline
from deltacompose.store import open_store

STORED = Path(__file__).parents[1] / "data" / "store_version_1.zip"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    out = tmp_path_factory.mktemp("figures")
    return out, report.write_figures(with_holes(), out, CATEGORIES)


def page_of(records, categories=CATEGORIES, title="t"):
    return page.html(analysed(gather(records, categories)), title)


# What is known of a study


def test_the_steps_of_a_stored_training_are_shown(tmp_path):
    """Records of a real store, because made-up ones once had the steps in another place."""
    with zipfile.ZipFile(STORED) as kept:
        kept.extractall(tmp_path)
    store = open_store(tmp_path / "store", create=False)
    records = [record for record in store.records() if record["kind"] == "train" and not record["spec"].get("carried")]
    table = sections.compositions(gather(records, {}))
    steps = table.head.index("steps")
    assert records
    assert {row[steps] for row in table.rows} == {"2"}


def test_the_graph_weighs_what_the_heatmap_may_show():
    matrix = gather(study(), CATEGORIES).matrices["lora"]
    assert pictures.nearest(matrix).graph["value"] == "corrected"
    unknown = dataclasses.replace(matrix, chance=np.full(len(TASKS), np.nan))
    assert pictures.nearest(unknown).graph["value"] == "raw"
    with pytest.raises(BadInput, match=r"no chance level is known for .* and a relative performance is not shown"):
        task_graph(unknown, value="relative")


def test_a_graph_of_incomplete_cells_has_what_is_known_and_marks_it():
    found = gather(with_holes(), CATEGORIES).matrices["lora"]
    tasks = pictures.nearest(found)
    assert tasks.graph["missing"] == 2
    ends = {frozenset(pair) for *pair, directions in tasks.edges(data="directions") if directions == 1}
    assert ends <= {frozenset(("movies", "entails")), frozenset(("tweets", "names"))}
    assert all(len(each) == 2 for each in ends)
    values = mean_over_seeds(found.corrected())
    at = {name: (found.sources.index(name), found.targets.index(name)) for name in TASKS}
    for one, other, weight in tasks.edges(data="weight"):
        pair = [values[at[one][0], at[other][1]], values[at[other][0], at[one][1]]]
        assert weight == pytest.approx(np.nanmean(pair))
    assert pictures.stability_of(found, tasks) is None
    assert "2 cells without a value" in pictures.missing_from(tasks)


def test_a_pair_of_which_nothing_is_known_has_no_edge():
    found = gather(study(), CATEGORIES).matrices["lora"]
    values = found.values.copy()
    s, t = found.sources.index("movies"), found.targets.index("tweets")
    values[:, s, t] = values[:, found.sources.index("tweets"), found.targets.index("movies")] = np.nan
    tasks = task_graph(dataclasses.replace(found, values=values), value="corrected", missing="skip")
    assert not tasks.has_edge("movies", "tweets")
    assert len(tasks) == len(TASKS)
    with pytest.raises(BadInput, match="2 cells of the transfer matrix have no corrected value"):
        task_graph(dataclasses.replace(found, values=values), value="corrected")
    with pytest.raises(BadInput, match="treatment of missing cells"):
        task_graph(found, missing="guess")


# What is said


def said(records, categories=CATEGORIES):
    found = gather(records, categories)
    results = analysed(found)
    known = sentences.known(results.lifts, results.compared, list(found.transfer.values()))
    return known, sentences.unknown(found)


def test_sentences_follow_their_intervals_and_tests():
    known, unknown = said(study(seeds=(0, 1, 2)))
    lift = next(line for line in known if line.startswith("lora, lift"))
    assert "the 95 % interval over seeds lies above zero on 6" in lift
    category = next(line for line in known if line.startswith("lora, corrected"))
    assert "6 ordered pairs in 3 pairs of tasks, against 24" in category
    assert "With these categories no outcome could give p below 0.067" in category
    assert "on these same tasks, excludes zero" in category
    assert any("3 seeds: an interval over seeds alone has 2 degrees of freedom" in line for line in unknown)
    assert any("so their order is not a finding" in line for line in unknown)


def test_one_seed_is_no_finding():
    known, unknown = said(study(seeds=(0,)))
    assert any("is not known on 6" in line for line in known)
    assert any("No interval is known, so other runs may differ." in line for line in known)
    assert not any("zero." in line for line in known)
    assert sum("ne seed: nothing is known of the spread" in line for line in unknown) == 1


def test_a_permutation_that_rejects_is_said_to_reject():
    tasks = [f"{kind}{i}" for kind in "pqr" for i in range(3)]
    many = {task: task[0] for task in tasks}
    known, _ = said(study(compositions=["lora"], categories=many), many)
    assert any("The permutation of the categories rejects (p = " in line for line in known)


def test_without_categories_nothing_is_said_of_them():
    known, _ = said(study(), {})
    assert not any("category" in line for line in known)
    text = page_of(study(compositions=["lora"]), {})
    assert "Same-category against cross-category" not in text
    assert not Page(text).embedded()["study-data"]["categories"]


def test_an_unknown_chance_level_leaves_raw_scores_alone():
    records = study(seeds=(0,), compositions=["lora"])
    for cell in records:
        if cell["kind"] == "evaluate" and cell["spec"]["target"] == "names":
            cell["result"]["chance"] = float("nan")
    text = page_of(records)
    data = Page(text).embedded()
    assert set(data["study-data"]["units"]) == {"lift", "score"}
    assert set(data["composition-data-0"]["values"]) == {"lift", "score"}
    assert data["composition-data-0"]["graph"]["value"] == "raw"
    assert "relative: same-category" not in text


def test_the_result_is_three_sentences_that_follow_the_intervals_and_tests():
    training_line, transfer_line, limits = headline(analysed(gather(study(seeds=(0, 1, 2)), CATEGORIES)))
    assert "in 12 of 12 pairs of composition and task the delta scores higher than" in training_line
    assert "a 95 % interval shows a gain in 12" in training_line
    assert re.search(r"same category a delta keeps (4|5)\d % to (4|5)\d % of what", transfer_line)
    assert re.search(r"of another category [\d %to]+, the untouched backbone 5 % \(mean", transfer_line)
    assert "with so few tasks and categories no test could show that the category matters" in transfer_line
    assert limits.startswith("Read with care: 3 seeds, one backbone, differences between compositions are not tested")
    one_seed = headline(analysed(gather(study(seeds=(0,)), CATEGORIES)))
    assert "no interval is known, so none of this is certain" in one_seed[0]
    assert "one seed, so the spread between runs is unknown" in one_seed[2]


def test_the_result_counts_what_failed_and_what_is_missing():
    limits = headline(analysed(gather(with_holes(), CATEGORIES)))[2]
    assert limits.endswith("3 cells failed, 2 evaluations missing.")


def test_the_result_of_a_study_without_categories_or_without_scores_is_said():
    assert "on another task a delta keeps" in headline(analysed(gather(study(), {})))[1]
    nothing = headline(analysed(gather([training("lora", "movies", 0)], CATEGORIES)))
    assert nothing[0] == "Training: no evaluation is finished, so nothing is known yet."
    assert nothing[1] == "Transfer: no delta was evaluated on a task other than its own."


def test_categories_are_stated_once_for_each_composition():
    known, _ = said(study(seeds=(0, 1, 2)))
    assert sum("same-category" in line for line in known) == len(COMPOSITIONS)


# What was gathered


def test_a_backbone_is_called_by_its_name_and_the_beginning_of_its_fingerprint():
    records = study(seeds=(0,), compositions=["lora"])
    assert gather(records, {}).backbones == ["pico-0123"]
    for cell in records:
        if cell["kind"] == "evaluate":
            cell["spec"]["backbone"] = "0123456789abcdef"
            cell["result"]["backbone"] = "pico"
    assert gather(records, {}).backbones == ["pico (0123456789ab)"]
    assert "One backbone, pico (0123456789ab): another may give other results." in said(records, {})[1]


def test_evaluations_that_a_failed_training_left_undone_are_failed():
    found = gather(with_holes(), CATEGORIES).matrices[COMPOSITIONS[1]]
    assert found.failed[found.seeds.index(1), found.sources.index("follows")].all()
    assert not found.failed[found.seeds.index(0)].any()


def test_a_failed_first_stage_fails_the_sequence_that_rests_on_it():
    sequence = "prompt >> lora"
    records = study(compositions=[sequence])
    for target in TASKS:
        records, _ = without(records, sequence, "movies", target, seeds=(0,))
    records.append(failed(training("prompt", "movies", 0)))
    found = gather(records, CATEGORIES)
    assert list(found.matrices) == [sequence]
    assert found.matrices[sequence].failed[0, found.matrices[sequence].sources.index("movies")].all()


def test_what_one_composition_lacks_is_missing_there_and_not_left_out():
    records = study()
    for target in TASKS:
        records, _ = without(records, "lora", "movies", target)
    found = gather(records, CATEGORIES)
    assert found.matrices["lora"].sources == found.matrices[COMPOSITIONS[1]].sources
    row = found.matrices["lora"].values[:, found.matrices["lora"].sources.index("movies")]
    assert np.isnan(row).all()
    assert ("lora", "0", "movies", ", ".join(found.matrices["lora"].targets)) in sections.missing(found).rows


def test_own_task_scores_alone_make_a_report_without_heatmaps():
    records = [
        r for r in study() if r["kind"] != "evaluate" or r["spec"]["source"] in (r["spec"]["target"], "untouched")
    ]
    text = page_of(records)
    assert "No delta was evaluated on a task other than its own." in text
    assert "No cell is missing." in text


def test_a_study_that_only_failed_or_only_trained_has_a_report():
    text = page_of([failed(training("lora", "movies", 0))])
    assert "the loss became NaN" in text
    text = page_of([training("lora", "movies", 0)])
    assert "Trained and never evaluated on the test split: lora." in text
    assert "Nothing yet: no evaluation is finished." in text


# The folder


def test_the_folder_holds_figures_tables_and_graphs_of_every_composition(folder):
    out, paths = folder
    stem = slug(COMPOSITIONS[1])
    kinds = [f"{unit}.{kind}" for unit in ("relative", "corrected") for kind in ("pdf", "png")]
    kinds += [f"graph.{kind}" for kind in ("graphml", "pdf", "png")]
    kinds += [f"recommend.{kind}" for kind in ("csv", "pdf", "png")]
    prints = [f"sources.{kind}" for kind in ("csv", "md", "tex")]
    expected = {f"{name}.{kind}" for name in ("lora", stem) for kind in ("transfer.csv", *kinds, *prints)}
    printed = ("results", "lift", "categories")
    expected |= {f"{name}.{kind}" for name in printed for kind in ("csv", "md", "tex")} | {"notes.md"}
    expected |= {f"{name}.{kind}" for name in ("lift", "convergence") for kind in ("pdf", "png")}
    assert {path.name for path in paths} == {path.name for path in out.iterdir()} == expected
    named = report.names_of_files(analysed(gather(with_holes(), CATEGORIES)))
    assert {name for names in named.values() for name in names} == expected


def test_a_large_study_has_its_heatmaps_in_the_page_and_its_tables_in_files(tmp_path, monkeypatch):
    whole = analysed(gather(study(), CATEGORIES))
    assert not report.is_large(whole)
    monkeypatch.setattr(report, "LARGE", 2 * len(TASKS) ** 2 - 1)
    assert report.is_large(whole)
    written = {path.name for path in report.write_files(whole, tmp_path, every_figure=False)}
    named = report.names_of_files(whole, every_figure=False)
    assert {name for names in named.values() for name in names} == written
    assert {"lora.sources.tex", "lora.graph.graphml", "lift.tex", "convergence.pdf", "categories.md"} <= written
    assert "lift.pdf" not in written  # has a row for each task of each composition
    assert not {name for name in written if name.startswith("lora.") and name.endswith((".pdf", ".png"))}


def test_tables_of_transfer_lift_and_categories_say_seeds_and_chance_and_escape_names(folder):
    out, _ = folder
    table = (out / "lora.sources.tex").read_text()
    assert "mean over 2 seeds" in table
    assert "chance is the best answer that does not use the input" in table
    assert r"\$a\_b\$" in table
    assert "with 95 \\% intervals over" in (out / "lift.tex").read_text()
    assert "p permutes the categories" in (out / "categories.md").read_text()


def test_the_files_of_the_folder_can_be_read_again(folder):
    out, _ = folder
    back = tables.read(out / "lora.transfer.csv")
    assert np.array_equal(back.values, gather(with_holes(), CATEGORIES).matrices["lora"].values, equal_nan=True)
    tasks = nx.read_graphml(out / f"{slug(COMPOSITIONS[1])}.graph.graphml")
    assert set(tasks) == set(TASKS)
    assert {tasks.nodes[task]["category"] for task in TASKS} == set(CATEGORIES.values())
    notes = (out / "notes.md").read_text()
    assert notes.startswith(
        "## Result\n\n- Training: in 12 of 12 pairs of composition and task the delta scores higher"
    )
    assert "<script" not in notes.replace("\\<script", "")


def test_one_composition_can_be_chosen():
    found = gather(study(), CATEGORIES, compositions=["lora"])
    assert list(found.matrices) == ["lora"]
    assert {record["spec"]["composition"] for record in found.trainings} == {"lora"}
    assert not np.isnan(found.matrices["lora"].untouched).any()


# Misuse


def test_no_records_are_refused(tmp_path):
    for call in (lambda: report.write([], tmp_path, "t", {}), lambda: report.write_figures([], tmp_path, {})):
        with pytest.raises(BadInput, match="a report needs at least one record of a cell, found none; run the study"):
            call()
    assert list(tmp_path.iterdir()) == []


def test_an_unknown_composition_is_answered_with_the_nearest(tmp_path):
    with pytest.raises(BadInput, match="no composition 'lroa'; did you mean 'lora'"):
        report.write(study(), tmp_path, "t", CATEGORIES, compositions=["lroa"])


def test_categories_that_miss_a_task_are_refused(tmp_path):
    some = {task: "one" for task in TASKS if task != "names"}
    with pytest.raises(BadInput, match="the categories miss names"):
        report.write(study(), tmp_path, "t", some)


def test_a_folder_that_cannot_be_written_is_named(tmp_path):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(BadInput, match=r"cannot write .*file"):
        report.write(study(seeds=(0,)), tmp_path / "file" / "report.html", "t", CATEGORIES, ["lora"])
    with pytest.raises(BadInput, match=r"cannot write .*file"):
        report.write_figures(study(seeds=(0,)), tmp_path / "file", CATEGORIES)
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_records_that_contradict_each_other_are_refused(tmp_path):
    records = study()
    other = json.loads(json.dumps(records[-1]))
    other["result"]["score"] += 0.1
    other["spec"]["learning_rate"] = 0.1
    with pytest.raises(BadInput, match=f"two evaluations of {re.escape(other['spec']['source'])}"):
        report.write([*records, other], tmp_path, "t", CATEGORIES)
