"""The report and the folder of figures, from the records of a small study with holes, a failure and a hostile name."""

import base64
import dataclasses
import hashlib
import itertools
import json
import re
import zipfile
from collections import defaultdict
from html import unescape
from html.parser import HTMLParser
from pathlib import Path

import networkx as nx
import numpy as np
import pytest

from deltacompose.analysis.graph import task_graph
from deltacompose.analysis.transfer import files as tables
from deltacompose.analysis.transfer.findings import gather
from deltacompose.errors import BadInput
from deltacompose.figures.files import slug
from deltacompose.figures.heatmap_style import Ink
from deltacompose.figures.heatmap_values import cells
from deltacompose.figures.style import Look, number
from deltacompose.report import figures as pictures
from deltacompose.report import html as page
from deltacompose.report import report
from deltacompose.report import statements as sentences
from deltacompose.report import tables as sections
from deltacompose.report import vega as interactive
from deltacompose.store import open_store

HOSTILE = "<script>alert('x')</script>/../$a_b$ & |c|"
TASKS = ["movies", "tweets", "entails", "follows", "names", HOSTILE]
CATEGORIES = dict(zip(TASKS, ["sentiment", "sentiment", "inference", "inference", "facts <b>", "facts <b>"]))
STORED = Path(__file__).parents[1] / "data" / "store_version_1.zip"
COMPOSITIONS = ["lora", "prompt(length=8) + bitfit >> adapter"]
CHANCE = defaultdict(lambda: 0.5, zip(TASKS, [0.5, 0.5, 0.33, 0.33, 0.25, 0.25]))


def evaluation(composition, source, target, seed, score, **result):
    spec = {"composition": composition, "source": source, "target": target, "seed": seed, "split": "test"}
    found = {"score": score, "metric": "accuracy", "chance": CHANCE[target], "trivial": False, "examples": 50, **result}
    return record("evaluate", {**spec, "backbone": "pico-0123"}, found)


def training(composition, task, seed):
    steps = [{"step": step, "loss": 1 / step, "score": 1 - 1 / step, "seconds": step / 10} for step in (10, 20, 40)]
    measured = {"parameters": 512, "ratio": 0.01, "seconds": 4.0, "tokens": 100, "peak_memory": 2**28}
    result = {"dev": 0.97, "chance": CHANCE[task], "history": steps, **measured}
    return record("train", {"composition": composition, "task": task, "seed": seed, "recipe": {"steps": 40}}, result)


def record(kind, spec, result):
    key = hashlib.sha256(json.dumps([kind, spec], sort_keys=True).encode()).hexdigest()
    return {"format": 1, "key": key, "kind": kind, "spec": spec, "parents": [], "result": result, "state": "done"}


def failed(cell, message="the loss became NaN at step 7"):
    kept = {name: cell[name] for name in ("format", "key", "kind", "spec", "parents")}
    return {**kept, "state": "failed", "error": "Diverged", "message": message, "attempts": 1}


def study(seeds=(0, 1), compositions=COMPOSITIONS, categories=CATEGORIES):
    """Records of a whole study: own tasks are learned, their category by half, other tasks stay near chance."""
    random = np.random.default_rng(7)
    records = []
    for target in categories:
        records.append(evaluation(None, "untouched", target, 0, CHANCE[target] + 0.02))
    for text, seed, source in itertools.product(compositions, seeds, categories):
        records.append(training(text, source, seed))
        records.append(evaluation(text, "random", source, seed, CHANCE[source] + random.normal(0, 0.01)))
        for target in categories:
            share = 1 if source == target else 0.5 if categories[source] == categories[target] else 0.05
            score = CHANCE[target] + 0.4 * share + random.normal(0, 0.02)
            records.append(evaluation(text, source, target, seed, score, trivial=share < 0.1 and seed == 1))
    return records


def without(records, composition, source, target, seeds=(0, 1), kind="evaluate"):
    """The records but for one cell, and that cell."""
    wanted = {"composition": composition, "source": source, "target": target, "task": source}

    def fits(r):
        return (
            r["kind"] == kind
            and r["spec"]["seed"] in seeds
            and all(wanted[name] == value for name, value in r["spec"].items() if name in wanted)
        )

    return [r for r in records if not fits(r)], [r for r in records if fits(r)]


def with_holes():
    """A study in which one cell is missing, one failed in every seed, and one training failed."""
    records, _ = without(study(), "lora", "movies", "entails")
    records, broken = without(records, "lora", "tweets", "names")
    records += [failed(cell) for cell in broken]
    for target in TASKS:
        records, _ = without(records, COMPOSITIONS[1], "follows", target, seeds=(1,))
    records, lost = without(records, COMPOSITIONS[1], "follows", None, seeds=(1,), kind="train")
    return records + [failed(cell, "out of memory") for cell in lost]


class Page(HTMLParser):
    """What a browser would make of a page: its elements, their attributes, and the text of each."""

    def __init__(self, text):
        super().__init__()
        self.elements, self.text, self.within = [], "", ""
        self.scripts = []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))
        self.within = tag
        if tag == "script":
            self.scripts.append("")

    def handle_endtag(self, tag):
        self.within = ""

    def handle_data(self, data):
        if self.within == "script":
            self.scripts[-1] += data
        elif self.within != "style":
            self.text += data + " "

    def named(self, tag):
        return [attributes for name, attributes in self.elements if name == tag]


@pytest.fixture(scope="module")
def lively(tmp_path_factory):
    """The page of a study with holes, with charts to point at."""
    pytest.importorskip("altair", reason="the extra `report` is not installed")
    return report.write(with_holes(), tmp_path_factory.mktemp("lively"), "A <i>study</i>", CATEGORIES)


@pytest.fixture(scope="module")
def static():
    return page.html(gather(with_holes(), CATEGORIES), "A <i>study</i>", lively=False)


@pytest.fixture
def undrawn(monkeypatch):
    """Pages whose figures are named and not drawn, for tests of their text."""
    monkeypatch.setattr(page, "_picture", lambda one: page.Picture("data:image/png;base64,", one.name, one.caption))


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    out = tmp_path_factory.mktemp("figures")
    return out, report.write_figures(with_holes(), out, CATEGORIES)


# The page


def test_the_page_loads_nothing_and_lets_nothing_run_but_its_own_script(lively):
    seen = Page(lively.read_text())
    assert not seen.named("link")
    assert not seen.named("iframe")
    assert not any("src" in attributes for attributes in seen.named("script"))
    assert all(attributes["src"].startswith("data:image/png;base64,") for attributes in seen.named("img"))
    assert all(attributes["href"].startswith("#") for attributes in seen.named("a"))
    policy = next(attributes["content"] for attributes in seen.named("meta") if "http-equiv" in attributes)
    run = [text for text, about in zip(seen.scripts, seen.named("script"), strict=True) if "type" not in about]
    digest = base64.b64encode(hashlib.sha256(run[0].encode()).digest()).decode()
    assert len(run) == 1
    assert f"script-src 'sha256-{digest}' 'unsafe-eval'" in policy
    assert policy.startswith("default-src 'none'; img-src data:;")


def test_hostile_names_are_text_everywhere(lively, static):
    for text in (lively.read_text(), static):
        seen = Page(text)
        assert HOSTILE in seen.text
        assert "facts <b>" in seen.text
        assert "A <i>study</i>" in seen.text
        assert not seen.named("i")
        assert not seen.named("b")
        assert "<script>alert" not in text
        assert not any(HOSTILE in str(attributes) for tag, attributes in seen.elements if tag in ("script", "style"))


def test_charts_hold_every_cell_in_every_unit(lively):
    seen = Page(lively.read_text())
    charts = [
        json.loads(text)
        for text, about in zip(seen.scripts, seen.named("script"), strict=True)
        if about.get("type") == "application/json"
    ]
    assert len(charts) == len(COMPOSITIONS)
    assert all("mean over 2 seeds; chance in the last row" in chart["vconcat"][0]["title"] for chart in charts)
    rows = cells_of_chart(charts[0])
    assert len(rows) == len(TASKS) * (len(TASKS) + 3)
    assert rows["movies", "entails"]["state"] == "missing"
    assert rows["tweets", "names"]["state"] == "failed"
    assert rows["tweets", "names"]["corrected"] is None
    assert rows["chance", HOSTILE]["score"] == CHANCE[HOSTILE]
    assert rows["movies", "movies"]["corrected"] == pytest.approx(1)
    assert rows["movies", "tweets"]["relative"] == pytest.approx(0.8, abs=0.1)


def cells_of_chart(chart):
    """The rows of a chart by source and target."""
    tables = [rows for rows in chart["datasets"].values() if "source" in rows[0]]
    return {(row["source"], row["target"]): row for row in tables[0]}


@pytest.mark.parametrize("value", ["corrected", "lift", "score"])
def test_charts_print_and_colour_what_the_printed_heatmap_does(value):
    pytest.importorskip("altair", reason="the extra `report` is not installed")
    matrix = gather(study(), CATEGORIES).matrices["lora"]
    values = matrix.values.copy()
    values[:, 0, 1] = matrix.chance[1] + 1.2449 * (values[:, 1, 1] - matrix.chance[1])
    matrix = dataclasses.replace(matrix, values=values)
    rows, shown = cells_of_chart(interactive.chart(matrix)), cells(matrix, value)
    ink = Ink.of(shown, Look())
    for (s, source), (t, target) in itertools.product(enumerate(shown.sources), enumerate(shown.targets)):
        mean = float(shown.mean[s, t])
        assert rows[source, target][f"text {value}"] == number(mean, signed=value != "score")
        assert rows[source, target][f"fill {value}"] == ink.colour(mean)
    assert value != "corrected" or rows["movies", "tweets"]["text corrected"] == "+1.24"
    assert value != "corrected" or rows["movies", "tweets"]["fill corrected"] != ink.colour(1.0)


def test_charts_have_frames_blocks_and_marks():
    pytest.importorskip("altair", reason="the extra `report` is not installed")
    matrix = gather(study(seeds=(0, 1, 2)), CATEGORIES).matrices["lora"]
    where = np.zeros((len(TASKS), len(TASKS)), dtype=bool)
    where[matrix.sources.index("names"), matrix.targets.index("tweets")] = True
    chart = interactive.chart(matrix, dataclasses.replace(pictures.tested(matrix), by=where))
    layers = chart["vconcat"][0]["layer"]
    assert any(layer["transform"][-1]["filter"] == "datum.source === datum.target" for layer in layers)
    assert sum(layer["mark"]["type"] == "rule" for layer in layers) == 2
    assert [ends for ends, row in cells_of_chart(chart).items() if row.get("marked")] == [("names", "tweets")]
    assert "★ ≠ untouched, BY q = .05" in chart["vconcat"][0]["title"]


def test_the_page_says_which_kind_of_heatmap_it_has(lively, static):
    assert "Point at a cell of a chart" in lively.read_text()
    assert "The heatmaps are static: charts to point at need the packages altair" in static
    assert Page(static).scripts == []
    assert "script-src 'none'" in unescape(static)


def test_without_the_extra_the_report_is_static(undrawn, monkeypatch, tmp_path):
    monkeypatch.setattr(interactive, "find_spec", lambda name: None)
    records = study(seeds=(0,), compositions=["lora"])
    text = report.write(records, tmp_path / "sub" / "study.html", "t", CATEGORIES).read_text()
    assert "The heatmaps are static" in text


def test_failed_and_missing_cells_are_named(static):
    text = Page(static).text
    assert "lora: tweets → names, seed 0 (test)" in text
    assert "the loss became NaN at step 7" in text
    assert f"train {COMPOSITIONS[1]}: task follows, seed 1" in text
    assert "out of memory" in text
    assert f"{COMPOSITIONS[1]}: 6 of 72 cells are failed" in text
    assert "lora: 2 of 72 cells are missing: movies → entails (seed 0), movies → entails (seed 1)" in text
    assert "No task graph: 2 cells of the transfer matrix have no corrected value" in text


def test_the_page_shows_what_was_run(static):
    text = re.sub(r"\s+", " ", Page(static).text)
    assert "2 compositions · 6 tasks of 3 categories · 2 seeds (0, 1) · test split · backbone pico-0123" in text
    assert "lora 12 0 0, 1 40 512 1.00% 4.0 256 MiB" in text
    assert "movies sentiment accuracy 0.500 0.520" in text
    figures = {attributes["alt"] for attributes in Page(static).named("img")}
    assert figures == {"relative", "corrected", "graph", "lift", "convergence"}


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


def test_the_same_records_in_any_order_give_the_same_page(static):
    records = with_holes()
    assert page.html(gather(records[::-1], CATEGORIES), "A <i>study</i>", lively=False) == static


def test_the_graph_weighs_what_the_heatmap_may_show():
    matrix = gather(study(), CATEGORIES).matrices["lora"]
    assert pictures.nearest(matrix).graph["value"] == "corrected"
    unknown = dataclasses.replace(matrix, chance=np.full(len(TASKS), np.nan))
    assert pictures.nearest(unknown).graph["value"] == "raw"
    with pytest.raises(BadInput, match=r"no chance level is known for .* and a relative performance is not shown"):
        task_graph(unknown, value="relative")


# What is said


def said(records, categories=CATEGORIES):
    found = gather(records, categories)
    known = sentences.known(pictures.lifts(found), pictures.compared(found), list(found.transfer.values()))
    return known, sentences.unknown(found)


def test_sentences_follow_their_intervals_and_tests():
    known, unknown = said(study(seeds=(0, 1, 2)))
    lift = next(line for line in known if line.startswith("lora, lift"))
    assert "the 95 % interval over seeds lies above zero on 6" in lift
    category = next(line for line in known if line.startswith("lora, corrected"))
    assert "6 ordered pairs in 3 pairs of tasks, against 24" in category
    assert "With these categories no outcome could give p below 0.067" in category
    assert "on these same tasks, excludes zero" in category
    assert any("3 seeds: an interval over seeds alone rests on 2 degrees of freedom" in line for line in unknown)
    assert any("no order of them is claimed" in line for line in unknown)


def test_one_seed_is_no_finding():
    known, unknown = said(study(seeds=(0,)))
    assert any("is not known on 6" in line for line in known)
    assert any("There is no interval, so nothing is known of other runs." in line for line in known)
    assert not any("zero." in line for line in known)
    assert any("One seed: nothing is known of the spread" in line for line in unknown)


def test_a_permutation_that_rejects_is_said_to_reject():
    tasks = [f"{kind}{i}" for kind in "pqr" for i in range(3)]
    many = {task: task[0] for task in tasks}
    known, _ = said(study(compositions=["lora"], categories=many), many)
    assert any("The permutation of the categories rejects (p = " in line for line in known)


def test_without_categories_nothing_is_said_of_them(undrawn):
    known, _ = said(study(), {})
    assert not any("category" in line for line in known)
    text = page.html(gather(study(compositions=["lora"]), {}), "t", lively=False)
    assert "Not compared: no transfer was measured, or no categories were given." in text


def test_an_unknown_chance_level_leaves_raw_scores_alone(undrawn):
    records = study(seeds=(0,), compositions=["lora"])
    for cell in records:
        if cell["kind"] == "evaluate" and cell["spec"]["target"] == "names":
            cell["result"]["chance"] = float("nan")
    text = page.html(gather(records, CATEGORIES), "t", lively=False)
    assert {a["alt"] for a in Page(text).named("img")} == {"score", "graph", "lift", "convergence"}
    assert "No relative performance is shown, because the chance level of some target is unknown." in text
    assert "relative: same-category" not in text


# What was gathered


def test_a_backbone_is_called_by_its_name_and_the_beginning_of_its_fingerprint():
    records = study(seeds=(0,), compositions=["lora"])
    assert gather(records, {}).backbones == ["pico-0123"]
    for cell in records:
        if cell["kind"] == "evaluate":
            cell["spec"]["backbone"] = "0123456789abcdef"
            cell["result"]["backbone"] = "pico"
    assert gather(records, {}).backbones == ["pico (0123456789ab)"]
    assert "One backbone, pico (0123456789ab): nothing here speaks of another." in said(records, {})[1]


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


def test_own_task_scores_alone_make_a_report_without_heatmaps(undrawn):
    records = [
        r for r in study() if r["kind"] != "evaluate" or r["spec"]["source"] in (r["spec"]["target"], "untouched")
    ]
    text = page.html(gather(records, CATEGORIES), "t", lively=True)
    assert "No delta was evaluated on a task other than its own." in text
    assert "No cell is missing." in text


def test_a_study_that_only_failed_or_only_trained_has_a_report(undrawn):
    text = page.html(gather([failed(training("lora", "movies", 0))], CATEGORIES), "t", lively=False)
    assert "the loss became NaN" in text
    text = page.html(gather([training("lora", "movies", 0)], CATEGORIES), "t", lively=False)
    assert "Trained and never evaluated on the test split: lora." in text
    assert "Nothing yet: no evaluation is finished." in text


# The folder


def test_the_folder_holds_figures_tables_and_graphs_of_every_composition(folder):
    out, paths = folder
    stem = slug(COMPOSITIONS[1])
    kinds = [f"{unit}.{kind}" for unit in ("relative", "corrected") for kind in ("pdf", "png")]
    expected = {f"{name}.{kind}" for name in ("lora", stem) for kind in ("transfer.csv", *kinds)}
    expected |= {f"{stem}.graph.{kind}" for kind in ("graphml", "pdf", "png")}
    expected |= {f"results.{kind}" for kind in ("csv", "md", "tex")} | {"notes.md"}
    expected |= {f"{name}.{kind}" for name in ("lift", "convergence") for kind in ("pdf", "png")}
    assert {path.name for path in paths} == {path.name for path in out.iterdir()} == expected


def test_the_files_of_the_folder_can_be_read_again(folder):
    out, _ = folder
    back = tables.read(out / "lora.transfer.csv")
    assert np.array_equal(back.values, gather(with_holes(), CATEGORIES).matrices["lora"].values, equal_nan=True)
    tasks = nx.read_graphml(out / f"{slug(COMPOSITIONS[1])}.graph.graphml")
    assert set(tasks) == set(TASKS)
    assert {tasks.nodes[task]["category"] for task in TASKS} == set(CATEGORIES.values())
    notes = (out / "notes.md").read_text()
    assert "lora, no task graph: 2 cells" in notes
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


def test_a_folder_that_cannot_be_written_is_named(undrawn, tmp_path):
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
