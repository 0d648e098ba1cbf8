"""The page driven in a browser: values, pointing, keys, dragging, filters, linked selection, downloads, accessibility.

Needs the extra `browser` and a Chromium (Debian: `apt install chromium`; the variable CHROMIUM names another). The
check of accessibility needs axe-core (`npm install axe-core`): in `node_modules` here, or named by AXE_CORE.
"""

import dataclasses
import os
import re
import shutil
from pathlib import Path
from xml.etree import ElementTree

import pandas as pd
import pytest
from made_up_study import CATEGORIES, COMPOSITIONS, TASKS, study, with_holes

from deltacompose.analysis.transfer import tidy_tables as files
from deltacompose.analysis.transfer.findings import gather
from deltacompose.figures.style import number
from deltacompose.report import figures, report, result_tables
from deltacompose.report.analysed import analysed

playwright = pytest.importorskip("playwright.sync_api", reason="the extra `browser` is not installed")
CHROMIUM = os.environ.get("CHROMIUM") or shutil.which("chromium")
AXE = Path(os.environ.get("AXE_CORE") or "node_modules/axe-core/axe.min.js")
ALERT = "<script>alert(1)</script>"
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium is installed; CHROMIUM can name one")


def renamed(value, old, new):
    """Records in which one task has another name."""
    if isinstance(value, dict):
        return {key: renamed(each, old, new) for key, each in value.items()}
    if isinstance(value, list):
        return [renamed(each, old, new) for each in value]
    return new if value == old else value


@pytest.fixture(scope="module")
def browser():
    with playwright.sync_playwright() as program:
        opened = program.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield opened
        opened.close()


@pytest.fixture(scope="module")
def results():
    categories = {(ALERT if task == TASKS[-1] else task): kind for task, kind in CATEGORIES.items()}
    return analysed(gather(renamed(with_holes(), TASKS[-1], ALERT), categories))


@pytest.fixture(scope="module")
def file(results, tmp_path_factory):
    return report.write_page(results, tmp_path_factory.mktemp("page") / "report.html", "A study")


@pytest.fixture
def open_page(browser, file):
    """Opens the page; at the end nothing was requested, no dialog was shown and the console is empty."""
    requests, complaints, contexts = [], [], []

    def opened(path=file, **options):
        context = browser.new_context(**options)
        contexts.append(context)
        page = context.new_page()
        page.on("request", lambda request: requests.append(request.url))
        page.on("console", lambda message: complaints.append(message.text))
        page.on("pageerror", lambda error: complaints.append(str(error)))
        page.on("dialog", lambda dialog: complaints.append("a dialog"))
        page.goto(f"file://{path}")
        return page

    yield opened
    for context in contexts:
        context.close()
    assert not complaints
    assert all(url.startswith(("file://", "data:", "blob:")) for url in requests)
    assert sum(url.startswith("file://") for url in requests) == len(contexts)


@pytest.fixture
def page(open_page):
    return open_page(viewport={"width": 1200, "height": 900}, accept_downloads=True)


def cell(page, source, target):
    """A cell of the heatmap by the beginning of its accessible name."""
    return page.locator(f'#heatmap .cell[aria-label^="{source} to {target}:"]')


def test_heatmap_cells_are_those_of_the_csv(page, results, tmp_path):
    matrix = results.parts[0].matrix
    table = pd.read_csv(files.write(matrix, tmp_path / "lora.transfer.csv"))
    means = table.groupby(["source", "target"])["score"].mean()
    page.select_option("#choose-unit", "score")
    read = "cells => cells.map(cell => cell.getAttribute('aria-label'))"
    labels = page.eval_on_selector_all("#heatmap .cell[data-s]", read)
    shown = dict(label.rsplit(": ", 1) for label in labels)
    assert len(shown) == len(TASKS) ** 2
    for (source, target), mean in means.items():
        expected = number(mean) if mean == mean else "missing" if target == "entails" else "failed"
        assert shown[f"{source} to {target}"] == expected


def test_scores_of_the_table_are_those_of_the_csv(page, results, tmp_path):
    path = result_tables.write(result_tables.own_task(results.findings.matrices), tmp_path / "results.csv")
    means = pd.read_csv(path).set_index(["composition", "task"])["mean"]
    head = page.eval_on_selector_all("#table-scores thead th", "cells => cells.map(cell => cell.dataset.task || null)")
    for row in page.locator("#table-scores tbody:not(.references) tr").all():
        cells = row.locator("th, td").all_text_contents()
        for task, text in zip(head, cells, strict=True):
            if task is not None:
                assert text.startswith(number(means[cells[0], task]))


def test_pointing_at_a_cell_tells_its_seeds_interval_and_references(page):
    cell(page, "movies", "tweets").hover()
    tip = page.locator("#tip")
    assert tip.is_visible()
    text = tip.inner_text()
    assert text.startswith("movies → tweets\nchance-corrected transfer: +")
    assert re.search(r"raw accuracy: \.\d\d, by seed 0: 0\.\d{4}, 1: 0\.\d{4}", text)
    assert re.search(r"untouched \.52, chance \.50", text)
    assert re.search(r"minus untouched: \+\.\d\d, 95 % interval \[[+−]?\.\d\d, [+−]?\d?\.\d\d\]", text)
    page.keyboard.press("Escape")
    assert tip.is_hidden()


def test_a_failed_and_a_missing_cell_say_so(page):
    cell(page, "tweets", "names").hover()
    assert "\nfailed\n" in page.locator("#tip").inner_text()
    cell(page, "movies", "entails").hover()
    assert "missing: not evaluated" in page.locator("#tip").inner_text()


def test_cells_are_reached_and_selected_by_keyboard(page):
    page.locator("#heatmap .cell[tabindex='0']").focus()
    page.keyboard.press("ArrowDown")
    page.keyboard.press("ArrowRight")
    place = page.evaluate("[document.activeElement.dataset.s, document.activeElement.dataset.t]")
    assert place == ["1", "1"]
    assert page.locator("#heatmap .cell[tabindex='0']").count() == 1
    assert "by seed" in page.evaluate("document.activeElement.getAttribute('aria-label')")
    page.keyboard.press("Enter")
    assert page.input_value("#choose-task") == "1"
    assert "Selected" in page.locator("#spoken").inner_text()


def test_a_task_is_dragged_with_its_edges(page):
    node = page.locator("#graph .node").first
    node.scroll_into_view_if_needed()
    box, before = node.locator("path").bounding_box(), node.get_attribute("transform")
    lines = "document.querySelectorAll('#graph .canvas svg > line')"
    ends = page.evaluate(f"[...{lines}].map(line => line.getAttribute('x1') + line.getAttribute('x2'))")
    page.mouse.move(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)
    page.mouse.down()
    page.mouse.move(box["x"] + 60, box["y"] + 40, steps=4)
    page.mouse.up()
    assert node.get_attribute("transform") != before
    assert page.evaluate(f"[...{lines}].map(line => line.getAttribute('x1') + line.getAttribute('x2'))") != ends
    assert page.input_value("#choose-task") == ""
    page.click("#graph-reset")
    assert page.locator("#graph .node").first.get_attribute("transform") == before


def test_a_task_is_moved_by_arrow_keys(page):
    node = page.locator("#graph .node").first
    before = node.get_attribute("transform")
    node.focus()
    page.keyboard.press("ArrowLeft")
    assert node.get_attribute("transform") != before


def test_edges_are_filtered_by_weight(page, results):
    weights = [round(weight, 2) for _, _, weight in results.parts[0].tasks.edges(data="weight")]
    page.locator("#threshold").fill("0.3")
    shown = page.locator("#graph .canvas svg > line:not([display='none'])").count()
    assert shown == sum(weight >= 0.3 for weight in weights) < len(weights)
    assert f"{shown} of {len(weights)} edges" in page.locator("#threshold-text").inner_text()


def test_a_table_is_sorted_by_its_heads(page):
    head = page.locator("#table-scores th[data-task='movies']")
    column = "[...document.querySelectorAll('#table-scores tbody:first-of-type td:nth-child({})')]"
    values = column + ".map(cell => Number(cell.dataset.value))"
    place = page.evaluate("document.querySelector('#table-scores th[data-task=movies]').cellIndex + 1")
    head.locator("button").click()
    assert head.get_attribute("aria-sort") == "descending"
    shown = page.evaluate(values.format(place))
    assert shown == sorted(shown, reverse=True)
    head.locator("button").click()
    assert head.get_attribute("aria-sort") == "ascending"
    assert page.evaluate(values.format(place)) == sorted(shown)
    assert page.locator("#table-scores .references tr").count() == 2


def test_the_table_of_scores_is_filtered_by_composition_task_and_category(page):
    page.fill("#scores-rows", "PROMPT")
    assert page.locator("#table-scores tbody:not(.references) tr:visible").count() == 1
    page.select_option("#scores-category", "inference")
    heads = page.locator("#table-scores thead th:visible").all_inner_texts()
    assert [head.split(" (")[0] for head in heads[1:]] == ["mean", "mean of inference", "entails", "follows"]
    page.fill("#scores-columns", "foll")
    assert "1 of 2 compositions, 1 of 6 tasks" in page.locator("#scores-count").inner_text()


def test_a_selected_task_is_marked_in_every_figure_and_table(page):
    page.locator("#graph .node[aria-label^='tweets']").click()
    index = page.input_value("#choose-task")
    assert page.locator(f"#choose-task option[value='{index}']").inner_text() == "tweets"
    assert page.locator("#heatmap text.chosen").count() == 2
    assert page.locator("#heatmap rect.chosen").count() == 2
    assert page.locator("#curves svg").first.locator("text").first.text_content().startswith("tweets")
    assert page.locator("#lift [aria-pressed='true']").get_attribute("data-task") == index
    assert page.locator("#table-scores th.chosen").first.get_attribute("data-task") == "tweets"
    assert page.locator("#graph .node[aria-pressed='true']").count() == 1
    page.select_option("#choose-task", "")
    assert page.locator("#heatmap .chosen").count() == 0


def test_a_click_into_a_column_of_scores_selects_its_task(page):
    place = page.evaluate("document.querySelector('#table-scores th[data-task=movies]').cellIndex + 1")
    page.locator(f"#table-scores tbody tr:first-child td:nth-child({place})").first.click()
    index = page.input_value("#choose-task")
    assert page.locator(f"#choose-task option[value='{index}']").inner_text() == "movies"


def test_only_the_shown_composition_is_drawn(page):
    page.select_option("#choose-composition", label=COMPOSITIONS[1])
    assert page.locator("#heatmap .canvas > svg").count() == 1
    assert COMPOSITIONS[1] in page.locator("#heatmap .canvas svg > text").first.text_content()
    assert page.locator("#heatmap .cell[data-s]").count() == len(TASKS) ** 2


def test_a_curve_is_hidden_by_its_key(page):
    curves = page.locator("#curves .canvas path[stroke]:not(.point)")
    before = curves.count()
    page.locator("#curves .legend button").first.click()
    assert curves.count() < before
    assert page.locator("#curves .legend button").first.get_attribute("aria-pressed") == "false"


def downloaded(page, name, kind, folder):
    """The file that a figure's button gives."""
    with page.expect_download() as waiting:
        page.locator(f"#{name} .downloads button", has_text=kind).click()
    waiting.value.save_as(folder / f"{name}.{kind}")
    return folder / f"{name}.{kind}"


@pytest.mark.parametrize("name", ["heatmap", "graph", "lift", "curves"])
def test_figures_are_downloaded_as_svg_and_png(page, name, tmp_path):
    drawing = downloaded(page, name, "SVG", tmp_path)
    assert ElementTree.parse(drawing).getroot().tag == "{http://www.w3.org/2000/svg}svg"
    assert "var(--" not in drawing.read_text()
    assert downloaded(page, name, "PNG", tmp_path).read_bytes().startswith(b"\x89PNG")


def test_the_data_of_figures_are_downloaded_as_csv(page, results, tmp_path):
    matrix = results.parts[0].matrix
    table = pd.read_csv(downloaded(page, "heatmap", "CSV", tmp_path))
    assert len(table) == matrix.values.size
    for row in table.itertuples():
        at = matrix.seeds.index(row.seed), matrix.sources.index(row.source), matrix.targets.index(row.target)
        assert row.score == pytest.approx(matrix.values[at], abs=1e-6, nan_ok=True)
        assert (row.state == "failed") == matrix.failed[at]
    edges = pd.read_csv(downloaded(page, "graph", "CSV", tmp_path))
    assert len(edges) == results.parts[0].tasks.number_of_edges()
    gains = pd.read_csv(downloaded(page, "lift", "CSV", tmp_path))
    assert len(gains) == len(results.lifts)
    assert set(pd.read_csv(downloaded(page, "curves", "CSV", tmp_path))["step"]) == {10, 20, 40}


def test_folded_tables_are_made_when_they_are_opened(page):
    assert page.locator("#raw-scores table").count() == 0
    page.locator("#raw-scores summary").click()
    assert page.locator("#raw-scores tbody tr").count() == len(TASKS) + 3
    page.locator("#lift-table summary").click()
    assert page.locator("#lift-table tbody tr").count() == len(TASKS)


def test_a_task_named_like_a_script_is_text(page):
    assert page.locator("#table-scores th", has_text=ALERT).count() == 1
    assert page.locator("#heatmap text title", has_text=ALERT).count() == 2
    assert page.evaluate("document.querySelectorAll('script:not([id])').length") == 1


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_nothing_serious_is_found_by_axe(open_page, scheme):
    if not AXE.is_file():
        pytest.skip("axe-core is not installed: npm install axe-core, or AXE_CORE names its axe.min.js")
    page = open_page(color_scheme=scheme, bypass_csp=True, viewport={"width": 1200, "height": 900})
    page.locator("#raw-scores summary").click()
    page.locator("#advice-table summary").click()
    page.evaluate(AXE.read_text())
    found = page.evaluate("axe.run()")["violations"]
    serious = [violation["id"] for violation in found if violation["impact"] in ("serious", "critical")]
    assert not serious


def test_the_quality_of_recommendations_is_that_of_the_composition_shown(page, results):
    for index, part in enumerate(results.parts):
        page.select_option("#choose-composition", label=part.matrix.composition)
        labels = page.eval_on_selector_all(
            "#advice .estimate", "groups => groups.map(group => group.getAttribute('aria-label'))"
        )
        for name, metrics in part.advice["strategies"].items():
            own = metrics["regret_at_1"]
            if own["value"] is None:
                continue
            values = [f"{own[key]:.3f}".replace("0.", ".").replace("-", "−") for key in ("value", "low", "high")]
            expected = f"{name}: regret@1 {values[0]} [{values[1]}, {values[2]}]"
            assert any(label.startswith(expected) for label in labels), (expected, labels)
        assert "6 tasks left out in turn" in page.locator("#advice .facts").inner_text(), index


def test_the_quality_of_recommendations_is_a_table_and_a_download_too(page, tmp_path, results):
    page.locator("#advice-table summary").click()
    heads = page.locator("#advice-table thead th").all_text_contents()
    assert heads[:4] == ["strategy", "regret@1", "regret@3", "NDCG"]
    names = page.locator("#advice-table tbody th").all_text_contents()
    assert names == list(results.parts[0].advice["strategies"])
    with page.expect_download() as download:
        page.locator("#advice .downloads button", has_text="CSV").click()
    download.value.save_as(tmp_path / "advice.csv")
    table = pd.read_csv(tmp_path / "advice.csv").set_index(["strategy", "metric"])
    own = results.parts[0].advice["strategies"]["random source"]["regret_at_1"]["value"]
    assert table.loc[("random source", "regret@1"), "value"] == pytest.approx(own, abs=5e-4)


def test_pointing_at_a_strategy_tells_its_interval(page):
    page.locator('#advice .estimate[aria-label^="random source: regret@1"]').hover()
    assert re.match(r"random source: regret@1 \.\d{3} \[", page.locator("#tip").inner_text())


def test_a_phone_scrolls_no_page_sideways(open_page):
    page = open_page(viewport={"width": 390, "height": 844}, is_mobile=True, has_touch=True)
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
    page.select_option("#choose-task", "1")
    page.locator("#raw-scores summary").click()
    page.locator("#advice-table summary").click()
    assert page.evaluate("document.documentElement.scrollWidth") <= 390


def test_dark_mode_is_dark(open_page):
    page = open_page(color_scheme="dark")
    assert page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(23, 24, 27)"


def test_print_cuts_no_table(open_page):
    page = open_page(viewport={"width": 690, "height": 1000}, color_scheme="dark")
    page.emulate_media(media="print")
    wide = (
        "[...document.querySelectorAll('table, svg')].filter(part => part.getBoundingClientRect().right > 691).length"
    )
    assert page.evaluate(wide) == 0
    assert page.evaluate("getComputedStyle(document.body).color") == "rgb(29, 29, 31)"
    assert page.locator("nav").is_hidden()


def test_a_large_study_is_drawn_with_few_elements(open_page, tmp_path):
    tasks = {f"a rather long name of a task {i:02d}": f"category {i // 6}" for i in range(60)}
    large = analysed(gather(study((0,), ["lora"], tasks), {}))
    matrix = dataclasses.replace(large.parts[0].matrix, categories=tasks)
    matrices = {text: dataclasses.replace(matrix, composition=text) for text in ("lora", "lora(rank=4)", "bitfit")}
    parts = tuple(dataclasses.replace(large.parts[0], matrix=each) for each in matrices.values())
    findings = dataclasses.replace(large.findings, matrices=matrices)
    large = dataclasses.replace(large, findings=findings, parts=parts, look=figures.look_of(findings))
    path = report.write_page(large, tmp_path / "large.html", "Large")
    page = open_page(path, viewport={"width": 1200, "height": 900})
    assert page.evaluate("document.querySelectorAll('*').length") < 15000
    assert page.locator("#graph .node").count() == 60
    page.locator("#heatmap .cell[data-s='59'][data-t='0']").hover()
    assert page.locator("#tip").is_visible()


def test_without_a_script_the_tables_stand_and_the_figures_are_explained(open_page):
    page = open_page(java_script_enabled=False)
    assert page.locator("#table-scores").is_visible()
    assert page.locator("noscript").inner_text().startswith("The figures of this section are drawn by a script")
    assert page.locator("#heatmap").is_hidden()
