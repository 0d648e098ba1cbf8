"""The page of a study as text: what it shows, what it lets run, and the data that its figures are drawn from."""

import base64
import dataclasses
import hashlib
import itertools
import re
import zipfile
from html import unescape
from pathlib import Path

import deltacompose_plugins
import numpy as np
import pandas as pd
import pytest
from made_up_study import CATEGORIES, CHANCE, COMPOSITIONS, HOSTILE, TASKS, Page, study, with_holes, without
from matplotlib.colors import LinearSegmentedColormap

from deltacompose.analysis.transfer.findings import gather
from deltacompose.figures.heatmap_values import cells
from deltacompose.figures.style import number
from deltacompose.report import html as page
from deltacompose.report import page_data, report, result_tables
from deltacompose.report.analysed import analysed
from deltacompose.report.citations import METHODS, methods_in
from deltacompose.report.methods_text import methods
from deltacompose.report.scores import scores
from deltacompose.store import open_store

TITLE = "A <i>study</i>"
STORED = Path(__file__).parents[1] / "data" / "store_version_1.zip"
MEGABYTE = 10**6


def page_of(records, categories=CATEGORIES, **options):
    return page.html(analysed(gather(records, categories)), TITLE, **options)


@pytest.fixture(scope="module")
def holes():
    return page_of(with_holes())


@pytest.fixture(scope="module")
def large():
    """The page of sixty tasks and twenty compositions that have the same scores, which are analysed once."""
    tasks = {f"a rather long name of a task {i:02d}": f"category {i // 6}" for i in range(60)}
    results = analysed(gather(study((0, 1, 2), ["lora"], tasks), {}))
    matrix = dataclasses.replace(results.parts[0].matrix, categories=tasks)
    texts = [f"lora(rank={i + 1}) + adapter" for i in range(20)]
    matrices = {text: dataclasses.replace(matrix, composition=text) for text in texts}
    findings = dataclasses.replace(results.findings, matrices=matrices, trainings=())
    parts = tuple(dataclasses.replace(results.parts[0], matrix=each) for each in matrices.values())
    lifts = tuple(dataclasses.replace(lift, composition=text) for text in texts for lift in results.lifts)
    return page.html(dataclasses.replace(results, findings=findings, parts=parts, lifts=lifts), TITLE)


# What it may do


def test_the_page_loads_nothing_and_lets_nothing_run_but_its_own_script(holes):
    seen = Page(holes)
    assert not [tag for tag, _ in seen.elements if tag in ("link", "iframe", "img", "object", "form", "base")]
    assert not any("src" in attributes for _, attributes in seen.elements)
    assert all(attributes["href"].startswith("#") for attributes in seen.named("a"))
    policy = next(attributes["content"] for attributes in seen.named("meta") if "http-equiv" in attributes)
    run = [text for text, about in zip(seen.scripts, seen.named("script"), strict=True) if "type" not in about]
    style = re.search("<style>(.*?)</style>", holes, re.DOTALL)[1]
    digests = [base64.b64encode(hashlib.sha256(text.encode()).digest()).decode() for text in (run[0], style)]
    assert len(run) == 1
    assert unescape(policy) == (
        f"default-src 'none'; img-src data:; style-src 'sha256-{digests[1]}'; script-src 'sha256-{digests[0]}'; "
        "base-uri 'none'; form-action 'none'"
    )
    names = {name for _, attributes in seen.elements for name in attributes}
    assert not [name for name in names if name == "style" or name.startswith("on")]


def test_the_script_asks_for_nothing_and_makes_no_markup_of_text(holes):
    script = Page(holes).scripts[-1]
    for forbidden in ("fetch(", "XMLHttpRequest", "import(", "WebSocket", "innerHTML", "insertAdjacentHTML", "eval("):
        assert forbidden not in script
    assert set(re.findall(r"https?://[^\"'`\s]+", script)) == {"http://www.w3.org/2000/svg"}


def test_hostile_names_are_text_everywhere(holes):
    seen = Page(holes)
    assert HOSTILE in seen.text
    assert "facts <b>" in seen.text
    assert TITLE in seen.text
    assert not seen.named("i")
    assert not seen.named("b")
    assert "<script>alert" not in holes
    assert "</script>/" not in holes
    assert HOSTILE in [task["name"] for task in seen.embedded()["study-data"]["tasks"]]


def test_files_beside_the_page_are_linked_by_quoted_addresses():
    names = report.names_of_files(analysed(gather(with_holes(), CATEGORIES)))
    text = page_of(with_holes(), beside=names)
    addresses = [attributes["href"] for attributes in Page(text).named("a") if not attributes["href"].startswith("#")]
    assert "lora.relative.pdf" in addresses
    assert "results.tex" in addresses
    assert not any(re.match(r"[a-z]+:|/|\.\.", address) for address in addresses)
    data = Page(text).embedded()["composition-data-0"]["files"]
    assert ["PDF", "lora.corrected.pdf"] in data["heatmap"]["corrected"]
    assert ["GRAPHML", "lora.graph.graphml"] in data["graph"]


# What it shows


def test_the_page_has_landmarks_headings_and_scopes(holes):
    seen = Page(holes)
    assert len(seen.named("main")) == len(seen.named("h1")) == 1
    assert seen.named("html")[0]["lang"] == "en"
    assert all(attributes.get("scope") in ("col", "row") for attributes in seen.named("th"))
    ids = [attributes["id"] for _, attributes in seen.elements if "id" in attributes]
    assert len(ids) == len(set(ids))
    wanted = {attributes["aria-labelledby"] for _, attributes in seen.elements if "aria-labelledby" in attributes}
    wanted |= {attributes["href"][1:] for attributes in seen.named("a") if attributes["href"].startswith("#")}
    assert wanted <= set(ids)
    regions = [attributes["aria-label"] for _, attributes in seen.elements if attributes.get("role") == "region"]
    assert len(regions) == len(set(regions))


def test_scores_are_those_of_the_csv_and_sort_by_whole_numbers(tmp_path, holes):
    findings = gather(with_holes(), CATEGORIES)
    result_tables.write(result_tables.own_task(findings.matrices), tmp_path / "results.csv")
    table = pd.read_csv(tmp_path / "results.csv").set_index(["composition", "task"])
    shown = scores(findings)
    tasks = [column.name for column in shown.columns]
    for row in shown.rows:
        for column, cell in zip(shown.columns, row.cells, strict=True):
            if column.kind == "task" and cell.value is not None:
                known = table.loc[row.name, column.name]
                assert cell.value == pytest.approx(known["mean"], abs=1e-6)
                assert cell.text.startswith(number(known["mean"]))
                assert ("±" in cell.text) == (known["seeds"] > 1)
    assert set(TASKS) <= set(tasks)
    follows = shown.rows[1].cells[tasks.index("follows")]
    assert follows.text.endswith("(1 of 2 seeds)")
    text = re.sub(r"\s+", " ", Page(holes).text)
    assert f"{COMPOSITIONS[1]} {shown.rows[1].cells[0].text}" in text


def test_a_mean_is_over_the_tasks_that_every_composition_has():
    records = study()
    for target in TASKS:
        records, _ = without(records, "lora", "movies", target)
    shown = scores(gather(records, CATEGORIES))
    own = {row.name: dict(zip([c.name for c in shown.columns], row.cells, strict=True)) for row in shown.rows}
    assert shown.columns[0].title == "mean (5 tasks)"
    assert own["lora"]["movies"].text == "missing"
    others = [own[COMPOSITIONS[1]][task].value for task in TASKS if task != "movies"]
    assert own[COMPOSITIONS[1]]["mean"].value == pytest.approx(np.mean(others), abs=1e-5)
    assert "the 5 of 6 tasks on which every composition has a score" in shown.note


def test_failed_and_missing_cells_are_named(holes):
    text = Page(holes).text
    assert "lora: tweets → names, seed 0 (test)" in text
    assert "the loss became NaN at step 7" in text
    assert f"train {COMPOSITIONS[1]}: task follows, seed 1" in text
    assert "out of memory" in text
    assert f"{COMPOSITIONS[1]}: 6 of 72 cells are failed" in text
    assert "lora: 2 of 72 cells are missing: movies → entails (seed 0), movies → entails (seed 1)" in text


def test_the_page_shows_what_was_run(holes):
    text = re.sub(r"\s+", " ", Page(holes).text)
    assert "2 compositions · 6 tasks of 3 categories · 2 seeds (0, 1) · test split · backbone pico-0123" in text
    assert "lora 12 0 0, 1 40 512 1.00% 4.0 256 MiB" in text
    assert "movies sentiment accuracy 0.500 0.520" in text


def test_the_same_records_in_any_order_give_the_same_page(holes):
    assert page_of(with_holes()[::-1]) == holes


# The data of the figures


def test_data_hold_every_cell_with_its_seeds_and_state(holes):
    data = Page(holes).embedded()
    tasks = [task["name"] for task in data["study-data"]["tasks"]]
    lora = data["composition-data-0"]
    matrix = gather(with_holes(), CATEGORIES).matrices["lora"]
    columns = [tasks[t] for t in lora["targets"]]
    places = itertools.product(enumerate(tasks[s] for s in lora["sources"]), enumerate(columns))
    for (s, source), (t, target) in places:
        place = s * len(columns) + t
        wanted = matrix.values[:, matrix.sources.index(source), matrix.targets.index(target)]
        shown = [np.nan if seed[place] is None else seed[place] / lora["scale"] for seed in lora["scores"]]
        assert shown == pytest.approx(wanted, abs=1e-6, nan_ok=True)
    at = {(source, target): place for place, (source, target) in enumerate(itertools.product(columns, columns))}
    assert lora["state"][at["movies", "entails"]] == "m"
    assert lora["state"][at["tweets", "names"]] == "f"
    assert lora["values"]["corrected"][at["tweets", "names"]] is None
    assert lora["values"]["corrected"][at["movies", "movies"]] == 100
    assert lora["references"]["chance"]["score"][columns.index(HOSTILE)] == round(100 * CHANCE[HOSTILE])
    assert len(lora["failedSeeds"]) == 2


@pytest.mark.parametrize("unit", ["corrected", "relative", "lift", "score"])
def test_printed_values_and_colours_are_those_of_the_printed_heatmap(unit):
    results = analysed(gather(study(), CATEGORIES))
    part = results.parts[0]
    values = part.matrix.values.copy()
    values[:, 0, 1] = part.matrix.chance[1] + 1.2449 * (values[:, 1, 1] - part.matrix.chance[1])
    part = dataclasses.replace(part, matrix=dataclasses.replace(part.matrix, values=values))
    results = dataclasses.replace(results, parts=(part, *results.parts[1:]))
    names, shown = page_data.Names.of(results), {p.matrix.composition: page_data.cells_of(p) for p in results.parts}
    data = page_data.transfer(part, names, shown["lora"], 10**6, {})
    drawn = cells(part.matrix, unit)
    for value, mean in zip(data["values"][unit], drawn.mean.ravel(), strict=True):
        assert value == round(100 * float(f"{mean:.2f}"))
    scale = page_data.shared(results, names, shown, {})["units"][unit]
    ink = page_data.ink_of([each[unit] for each in shown.values()])
    steps = np.linspace(scale["low"], scale["high"], len(scale["ramp"]))
    assert [colour for colour, _ in scale["ramp"]] == [ink.colour(float(value)) for value in steps]
    assert unit != "corrected" or (scale["high"] > 1.2 and 124 in data["values"][unit])


def test_hundredths_are_rounded_as_numbers_are_printed():
    random = np.random.default_rng(0)
    for value in [0.005, 0.125, -0.004, 0.285, 1.115, *random.normal(size=500)]:
        whole = page_data.hundredths(value)
        text = f"{abs(whole) // 100 or ''}.{abs(whole) % 100:02d}"
        assert number(value).removeprefix("−") == text
        assert (number(value)[0] == "−") == (whole < 0)


def test_marks_and_intervals_are_those_of_the_test():
    results = analysed(gather(study(seeds=(0, 1, 2)), CATEGORIES))
    part, names = results.parts[0], page_data.Names.of(results)
    where = np.zeros((len(TASKS), len(TASKS)), dtype=bool)
    s, t = part.matrix.sources.index("names"), part.matrix.targets.index("tweets")
    where[s, t] = True
    part = dataclasses.replace(part, marked=dataclasses.replace(part.marked, by=where))
    shown = page_data.cells_of(part)
    data = page_data.transfer(part, names, shown, 10**6, {})
    place = shown["score"].sources.index("names") * len(TASKS) + shown["score"].targets.index("tweets")
    assert data["marked"].count("1") == 1
    assert data["marked"][place] == "1"
    assert data["mark"] == "≠ untouched, BY q = .05"
    assert data["low"][place] == page_data.hundredths(part.marked.low[s, t])
    assert data["values"]["lift"][place] == page_data.hundredths(part.marked.difference[s, t])


def test_the_graph_of_the_page_is_that_of_the_analysis(holes):
    results = analysed(gather(with_holes(), CATEGORIES))
    data = Page(holes).embedded()
    tasks = [task["name"] for task in data["study-data"]["tasks"]]
    for part, name in zip(results.parts, ("composition-data-0", "composition-data-1"), strict=True):
        graph = data[name]["graph"]
        shown = {frozenset((tasks[i], tasks[j])): weight for i, j, weight, *_ in graph["edges"]}
        wanted = {frozenset((u, v)): page_data.hundredths(w) for u, v, w in part.tasks.edges(data="weight")}
        assert shown == wanted
    assert "2 cells without a value" in data["composition-data-0"]["graph"]["caption"]


def test_curves_are_the_mean_and_the_range_over_seeds(holes):
    curve = Page(holes).embedded()["curve-data"]["0"]["0"]
    assert curve["steps"] == [10, 20, 40]
    assert curve["mean"] == curve["low"] == curve["high"] == [900, 950, 975]
    assert curve["seeds"] == 2


def test_lifts_of_the_page_are_those_of_the_analysis(holes):
    results = analysed(gather(with_holes(), CATEGORIES))
    lifts = Page(holes).embedded()["study-data"]["lifts"]
    assert [row[2] for row in lifts] == [page_data.hundredths(lift.value) for lift in results.lifts]


# Methods


def test_the_methods_paragraph_states_the_recipe_and_cites_the_methods():
    text = methods(analysed(gather(study(), CATEGORIES)))
    assert "on 6 tasks of 3 categories" in text.paragraphs[0]
    assert "Each stage was trained for 40 steps." in text.paragraphs[0]
    assert "learning rate" not in text.paragraphs[0]
    lora = next(i for i, source in enumerate(text.references, start=1) if "2106.09685" in source)
    assert f"lora [{lora}]" in text.paragraphs[0]
    assert "zero-shot transfer" in text.paragraphs[1]
    numbers = {int(n) for group in re.findall(r"\[([\d, ]+)\]", " ".join(text.paragraphs)) for n in group.split(",")}
    assert numbers == set(range(1, len(text.references) + 1))


def test_the_methods_paragraph_of_a_stored_study_has_its_settings(tmp_path):
    with zipfile.ZipFile(STORED) as kept:
        kept.extractall(tmp_path)
    records = [r for r in open_store(tmp_path / "store", create=False).records() if r["kind"] in ("train", "evaluate")]
    records = [r for r in records if not r["spec"].get("start") and not r["spec"].get("carried")]
    text = " ".join(methods(analysed(gather([r for r in records if r["kind"] == "train"], {}))).paragraphs)
    assert "Each stage was trained for 2 steps on batches of" in text
    assert "by AdamW [" in text
    assert "learning rate rising over the first 6 % of the steps, then falling linearly to zero" in text
    assert "Development examples were evaluated every 2 steps, and the weights of the last step were kept." in text


def test_built_in_methods_are_cited_by_their_own_sources():
    """Read as text, because the methods load torch."""
    assert set(METHODS) == set(deltacompose_plugins.METHODS)
    folder = Path(deltacompose_plugins.__file__).parent
    for name, target in deltacompose_plugins.METHODS.items():
        if name == "peft":
            continue
        module = target.partition(":")[0].removeprefix("deltacompose_plugins.").replace(".", "/")
        source = re.search(r'source: ClassVar\[str\] = ".*?(\d{4}\.\d{5})"', (folder / f"{module}.py").read_text())
        assert source[1] in METHODS[name]


def test_names_in_settings_are_no_methods():
    assert methods_in("mam >> lora(places=('bitfit', \"adapter(\"), rank=4) + prefix(length=8)") == [
        "mam",
        "lora",
        "prefix",
    ]


# Size


def test_sixty_tasks_and_twenty_compositions_are_small(large):
    assert len(large.encode()) < 5 * MEGABYTE
    assert len(Page(large).elements) < 5000


def test_the_colours_of_a_scale_are_computed_once(monkeypatch):
    part, computed = analysed(gather(study(), CATEGORIES)).parts[0], []
    shown, init = page_data.cells_of(part)["corrected"], LinearSegmentedColormap._init
    monkeypatch.setattr(LinearSegmentedColormap, "_init", lambda self: computed.append(self) or init(self))
    assert len(page_data._unit("corrected", [shown])["ramp"]) == page_data.RAMP
    assert len(computed) <= 1


def test_each_composition_of_a_large_study_is_parsed_alone(large):
    data = {each["id"] for each in Page(large).named("script") if each.get("type") == "application/json"}
    assert {f"composition-data-{i}" for i in range(20)} <= data


def test_large_studies_round_their_raw_scores():
    results = analysed(gather(study(seeds=(0,), compositions=["lora"]), CATEGORIES))
    assert page_data.scale_of(results) == 10**6
    part = results.parts[0]
    big = dataclasses.replace(results, parts=(part,) * (page_data.MANY // part.matrix.values.size + 1))
    assert page_data.scale_of(big) == 10**4


# Misuse


def test_a_number_that_json_lacks_is_refused_rather_than_written():
    with pytest.raises(ValueError, match="Out of range float"):
        page.embedded({"value": float("nan")})


def test_embedded_data_cannot_end_their_element():
    text = page.embedded({"name": "</script><!--<script>&\u2028"})
    assert not set("<>&\u2028") & set(text)


def test_a_page_that_cannot_be_written_leaves_nothing(tmp_path):
    (tmp_path / "file").write_text("in the way")
    results = analysed(gather(study(seeds=(0,), compositions=["lora"]), CATEGORIES))
    with pytest.raises(Exception, match=r"cannot write .*file"):
        report.write_page(results, tmp_path / "file" / "report.html", TITLE)
    assert [path.name for path in tmp_path.iterdir()] == ["file"]
