"""Figures and tables: what stands on them, what can never be left off, and that the same numbers give the same file."""

import ast
import dataclasses
import math
import re
import sys
from pathlib import Path

import matplotlib as mpl
import networkx as nx
import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pictures import matrix_of_size

import deltacompose as dc
from deltacompose.analysis.graph import task_graph
from deltacompose.analysis.matrix import TransferMatrix
from deltacompose.analysis.transfer import tidy_tables as files
from deltacompose.analysis.transfer.lift import lifts
from deltacompose.analysis.transfer.uncertainty import marks
from deltacompose.analysis.units import UNITS
from deltacompose.errors import BadInput
from deltacompose.figures import graph_layout, style
from deltacompose.figures import lifts as lift
from deltacompose.figures import task_graphs as graph
from deltacompose.figures.figure_files import slug, slugs, write_bytes
from deltacompose.figures.heatmap_style import Ink
from deltacompose.figures.heatmap_values import cells
from deltacompose.figures.heatmaps import draw, heatmap
from deltacompose.figures.style import Look, colours_of, label, labels, number, save, styled
from deltacompose.report import result_tables as tables
from deltacompose.report import tables as sections

TASKS = ("a", "b", "c", "d")
KINDS = {"a": "one", "b": "one", "c": "two", "d": "two"}


def matrix(seeds=2, **changes):
    """Four tasks of two categories; scores .9 on the own task, .7 within and .55 across categories, chance .5."""
    alike = np.array([[KINDS[s] == KINDS[t] for t in TASKS] for s in TASKS])
    means = np.where(np.eye(4, dtype=bool), 0.9, np.where(alike, 0.7, 0.55))
    noise = np.random.default_rng(0).normal(0, 0.01, (seeds, 4, 4))
    whole = TransferMatrix(
        sources=TASKS,
        targets=TASKS,
        seeds=tuple(range(seeds)),
        values=means + noise,
        chance=np.full(4, 0.5),
        untouched=np.full(4, 0.52),
        random=np.full((seeds, 4), 0.51),
        trivial=np.zeros((seeds, 4, 4), dtype=bool),
        failed=np.zeros((seeds, 4, 4), dtype=bool),
        metric=("accuracy",) * 4,
        categories=KINDS,
        composition="lora + bitfit",
    )
    return dataclasses.replace(whole, **changes)


def with_gaps():
    """a → b missing, a → c failed, a → d failed in one seed, b → a a constant answer."""
    whole = matrix()
    values, failed, trivial = whole.values.copy(), whole.failed.copy(), whole.trivial.copy()
    values[:, 0, 1], values[:, 0, 2], values[0, 0, 3] = np.nan, np.nan, np.nan
    failed[:, 0, 2], failed[0, 0, 3], trivial[1, 1, 0] = True, True, True
    return dataclasses.replace(whole, values=values, failed=failed, trivial=trivial)


def drawn(whole, value="relative", order="category", **more):
    with styled():
        return draw(whole, cells(whole, value, order, **more), order, Look())


def written(data, path, **options):
    """The bytes of a heatmap's file."""
    heatmap(data, path, **options)
    return path.read_bytes()


def written_in(figure):
    """Every text of a figure."""
    return [text.get_text() for text in figure.findobj(mpl.text.Text) if text.get_text()]


# What can never be left off


@pytest.mark.parametrize("value", UNITS)
@pytest.mark.parametrize("order", ["category", "cluster"])
def test_no_heatmap_is_without_its_seeds_its_spread_and_its_chance_level(value, order):
    texts = written_in(drawn(matrix(), value, order))
    assert any("2 seeds" in text and "sd over seeds" in text for text in texts)
    assert {"chance", "untouched", "random"} <= set(texts)
    assert UNITS[value] in " ".join(text.replace("\n", " ") for text in texts)


def test_one_seed_is_said_to_have_no_spread():
    assert any("1 seed, so no spread is known" in text for text in written_in(drawn(matrix(seeds=1))))


@pytest.mark.parametrize("value", ["relative", "corrected"])
def test_a_ratio_without_its_chance_level_is_refused(value, tmp_path):
    unknown = matrix(chance=np.array([0.5, np.nan, 0.5, np.nan]))
    with pytest.raises(BadInput, match=f"no chance level is known for b, d, and a {value} performance is not shown"):
        heatmap(unknown, tmp_path / "x.pdf", value=value)
    assert list(tmp_path.iterdir()) == []
    heatmap(unknown, tmp_path / "x.png", value="score")
    assert (tmp_path / "x.png").exists()


def test_every_gap_has_its_own_mark_and_a_key():
    shown = cells(with_gaps(), "score")
    at = {name: [tuple(map(int, cell)) for cell in np.argwhere(getattr(shown, name))] for name in _GAPS}
    assert at == {
        "missing": [(0, 1)],
        "failed": [(0, 2)],
        "partial": [(0, 3)],
        "trivial": [(1, 0)],
        "undefined": [],
        "unowned": [],
    }
    texts = written_in(drawn(with_gaps(), "score", marks=np.eye(4, dtype=bool)))
    keys = {"own task", "missing or unknown", "failed", "constant answer in a seed", "fewer than 2 seeds"}
    assert {*keys, "significant"} <= set(texts)


_GAPS = ("missing", "failed", "partial", "trivial", "undefined", "unowned")


def test_keys_of_marks_that_do_not_occur_are_left_out():
    assert not {"failed", "missing or unknown", "fewer than 2 seeds"} & set(written_in(drawn(matrix())))


def test_a_target_whose_own_score_is_at_chance_is_undefined_and_not_missing():
    values = matrix().values.copy()
    values[:, :, 3] = 0.52
    shown = cells(matrix(values=values), "corrected")
    assert shown.undefined[:, 3].all()
    assert not shown.missing.any()
    assert shown.unscaled[:, 3].all()
    assert any("own score < chance + .05" in text for text in written_in(drawn(matrix(values=values), "corrected")))


def test_the_key_of_tested_cells_names_what_they_were_tested_against():
    assert any(text == "≠ untouched, BY q = .05" for text in written_in(drawn(matrix(5), marks=marks(matrix(5)))))


def test_a_missing_own_score_is_not_explained_by_chance():
    values = matrix().values.copy()
    values[:, 3, 3] = np.nan
    shown = cells(matrix(values=values), "corrected")
    assert shown.unowned[:3, 3].all()
    assert shown.unrated[:, 3].all()
    assert not shown.undefined.any()
    assert not shown.unscaled.any()
    texts = written_in(drawn(matrix(values=values), "corrected"))
    assert "?: the target's own score is missing" in texts
    assert not any("own score < chance" in text for text in texts)


def test_published_means_are_titled_with_their_name_and_without_a_claim_of_one_seed():
    title = "\n".join(written_in(drawn(matrix(seeds=1, averaged_over=0, composition="prompt"))))
    assert "published mean over an unknown number of runs; spread not given" in title
    assert "prompt" in title.split("\n")
    assert "1 seed" not in title
    assert "published mean over 5 runs" in "\n".join(written_in(drawn(matrix(seeds=1, averaged_over=5))))


def test_the_given_order_is_that_of_the_matrix():
    mixed = matrix().selected(("c", "a", "d", "b"), ("d", "a", "b", "c"))
    shown = cells(mixed, "score", "given")
    assert (shown.sources, shown.targets) == (mixed.sources, mixed.targets)


# One colour per name


def test_a_composition_has_one_colour_and_marker_in_every_figure_of_a_study():
    look = Look(compositions=("a", "lora", "prefix", "z"))
    rows = [
        {"composition": name, "unit": "t", "seed": 0, "step": step, "seconds": 1.0, "score": 0.5}
        for name in ("z", "lora")
        for step in (1, 2)
    ]
    curves = dc.figures.convergence(rows, style=look)
    lifted = [dataclasses.replace(each, composition="lora") for each in lifts(matrix())]
    with styled():
        dots = lift.draw(lifted, look)
    signs = {handle.get_label(): handle for handle in (*curves.legends[0].get_lines(), *dots.legends[0].get_lines())}
    assert signs["lora"].get_color() == style.OKABE_ITO[1]
    assert curves.legends[0].get_lines()[1].get_color() == dots.legends[0].get_lines()[0].get_color()
    assert curves.legends[0].get_lines()[1].get_marker() == dots.legends[0].get_lines()[0].get_marker()
    assert len({(line.get_linestyle(), line.get_marker()) for line in curves.legends[0].get_lines()}) == 2


def test_a_category_keeps_its_colour_where_another_is_left_out():
    with styled():
        figure = graph.draw(nx.Graph([("x", "y")]), None, Look(), 0)
        assert figure.axes
        part = task_graph(matrix(), k=2).subgraph(["c", "d"])
        keys = graph.draw(part, None, Look(categories=("one", "two")), 0).legends[0].get_lines()
    assert {key.get_label(): key.get_color() for key in keys}["two"] == style.OKABE_ITO[1]


# Widths of edges


def test_the_width_of_an_edge_is_proportional_to_its_weight():
    tasks = nx.Graph()
    tasks.add_weighted_edges_from([("a", "b", 0.87), ("b", "c", 1.05), ("c", "d", 0.0), ("d", "a", -0.3)])
    width = dict(zip(tasks.edges, graph.widths_of(tasks), strict=True))
    assert width["b", "c"] / width["a", "b"] == pytest.approx(1.05 / 0.87)
    assert width["c", "d"] == width["a", "d"] == min(width.values()) > 0


# The numbers shown


def test_baselines_are_shown_in_the_unit_of_the_cells():
    own = matrix().own.mean(axis=0)
    assert cells(matrix(), "relative").baselines["chance"] == pytest.approx((0.5 / matrix().own).mean(axis=0))
    assert cells(matrix(), "corrected").baselines["chance"] == pytest.approx(np.zeros(4))
    assert cells(matrix(), "lift").baselines["untouched"] == pytest.approx(np.zeros(4))
    assert cells(matrix(), "score").baselines["random"] == pytest.approx(np.full(4, 0.51))
    assert np.diag(cells(matrix(), "score").mean) == pytest.approx(own)


def test_an_edge_is_curved_where_it_would_run_through_a_third_node():
    line = {"a": np.array([0.0, 0.0]), "b": np.array([50.0, 1.0]), "c": np.array([100.0, 0.0])}
    assert graph_layout.bend_of(("a", "b"), line, 0.0) == 0
    bend = graph_layout.bend_of(("a", "c"), line, 0.0)
    assert bend
    assert graph_layout.clearance(line["a"], line["c"], line["b"][None], bend) > graph_layout.NODE
    assert graph_layout.bend_of(("a", "c"), {"a": line["a"], "c": line["c"]}, 0.0) == 0


def test_a_graph_of_a_distance_says_what_its_weights_are():
    tasks = nx.Graph([("a", "b")], value="prompt_distance", weighs="greatest prompt_distance minus prompt_distance")
    title = graph._title(tasks, None)
    assert title == "task graph (nearness: greatest prompt_distance minus prompt_distance)"


def test_a_random_row_that_was_taken_for_chance_stands_once():
    one = matrix(chance_of="random", chance=np.full(4, 0.51))
    assert list(cells(one, "relative").baselines) == ["random (taken as chance)", "untouched"]
    assert "random (taken as chance)" in written_in(drawn(one))
    assert [row[0] for row in sections.raw_scores(one).rows[4:]] == ["random (taken as chance)", "untouched backbone"]
    assert [row[0] for row in sections.raw_scores(matrix()).rows[4:]] == [
        "random delta",
        "untouched backbone",
        "chance",
    ]


@pytest.mark.parametrize("value", ["relative", "corrected", "lift"])
def test_cells_show_what_the_matrix_gives(value):
    given = {"relative": matrix().relative, "corrected": matrix().corrected, "lift": matrix().lift}[value]()
    assert cells(matrix(), value).mean == pytest.approx(given.mean(axis=0))
    off = ~np.eye(4, dtype=bool)
    assert cells(matrix(), value).sd[off] == pytest.approx(given.std(axis=0, ddof=1)[off])


def test_a_ratio_to_itself_takes_no_part_in_the_spread():
    assert np.isnan(np.diag(cells(matrix(), "relative").sd)).all()
    assert not np.isnan(np.diag(cells(matrix(), "score").sd)).any()


@pytest.mark.parametrize("value", ["corrected", "lift"])
def test_signed_values_have_symmetric_limits_and_printed_signs(value):
    ink = Ink.of(cells(matrix(), value), Look())
    assert ink.low == -ink.high
    assert ink.palette == "RdBu_r"
    assert ink.text(0.3) == "+.30"
    assert Ink.of(cells(matrix(), value), Look(diverging="PuOr")).palette == "PuOr"


def test_a_value_beyond_the_limits_is_an_arrow_on_the_scale():
    values = matrix().values.copy()
    values[:, 0, 1] = 0.95
    values[:, 1, 1] = 0.56
    ink = Ink.of(cells(matrix(values=values), "corrected"), Look())
    assert (ink.high, ink.extend) == (1.5, "max")


@given(st.floats(-1.5, 1.5), st.sampled_from(["RdBu_r", "PuOr"]))
def test_numbers_can_be_read_on_their_colour(value, palette):
    """Contrast of at least 3 to 1, that of large text in WCAG 2.2."""
    ink = Ink(palette, -1.5, 1.5, "neither", True)
    colour = mpl.colormaps[palette]((value + 1.5) / 3)
    pair = sorted(_luminance(mpl.colors.to_rgb(c)) for c in (colour[:3], ink.readable(value)))
    assert (pair[1] + 0.05) / (pair[0] + 0.05) >= 3


def _luminance(rgb):
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in rgb]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def test_narrow_cells_are_printed_in_hundredths_and_the_scale_says_so():
    whole = matrix_of_size(12)
    figure = heatmap(whole, value="corrected", style="neurips").figure
    texts = written_in(figure)
    assert min(text.get_fontsize() for text in figure.axes[0].texts) >= 5
    assert any("(in hundredths)" in text.replace("\n", " ") for text in texts)
    assert number(cells(whole, "corrected").mean[0, 1], percent=True) in texts


# Order


def test_categories_stand_in_blocks_with_their_names():
    mixed = {"a": "two", "b": "one", "c": "two", "d": "one"}
    shown = cells(matrix(categories=mixed), "score")
    assert shown.sources == shown.targets == ("b", "d", "a", "c")
    assert {"one", "two"} <= set(written_in(drawn(matrix(categories=mixed))))


def test_clusters_put_tasks_that_transfer_alike_side_by_side_whatever_is_missing():
    mixed = matrix().selected(("a", "c", "b", "d"), ("a", "c", "b", "d"))
    values = mixed.values.copy()
    values[:, 0, 1] = np.nan
    shown = cells(dataclasses.replace(mixed, values=values), "relative", "cluster")
    assert shown.sources == shown.targets
    assert {frozenset(shown.sources[:2]), frozenset(shown.sources[2:])} == {frozenset("ab"), frozenset("cd")}


def test_marks_follow_their_cells_when_the_order_changes():
    mixed = matrix(categories={"a": "two", "b": "one", "c": "two", "d": "one"})
    where = np.zeros((4, 4), dtype=bool)
    where[0, 3] = True
    shown = cells(mixed, "score", marks=where)
    assert np.argwhere(shown.marked).tolist() == [[shown.sources.index("a"), shown.targets.index("d")]]


# Files


@pytest.mark.parametrize("kind", ["pdf", "png", "svg"])
def test_the_same_matrix_gives_the_same_bytes(kind, tmp_path):
    one, other = (written(with_gaps(), tmp_path / f"{name}.{kind}") for name in "ab")
    assert one == other
    assert not re.search(rb"CreationDate|<dc:date>|Software", one)


def test_text_in_a_pdf_is_text_in_truetype(tmp_path):
    content = written(matrix(), tmp_path / "x.pdf")
    assert b"/FontFile2" in content
    assert b"/Type3" not in content


def test_a_users_settings_neither_get_in_nor_are_changed(tmp_path):
    plain = written(matrix(), tmp_path / "plain.png")
    with mpl.rc_context({"font.size": 20.0, "axes.facecolor": "red", "text.usetex": False}):
        before = dict(mpl.rcParams)
        assert written(matrix(), tmp_path / "styled.png") == plain
        assert dict(mpl.rcParams) == before


def test_no_figure_stays_open(tmp_path):
    heatmap(matrix(), tmp_path / "x.png")
    graph.network(task_graph(matrix(), k=2), tmp_path / "y.png")
    pyplot = sys.modules.get("matplotlib.pyplot")
    assert pyplot is None or pyplot.get_fignums() == []


def test_the_width_is_that_of_the_column(tmp_path):
    for width in (5.5, 3.25):
        content = written(matrix(), tmp_path / "x.pdf", style=Look(width=width))
        assert float(re.search(rb"/MediaBox \[ ?0 0 ([\d.]+)", content).group(1)) == pytest.approx(72 * width)


@pytest.mark.parametrize(
    "whole",
    [
        matrix(categories={}),
        matrix().selected(("a",), ("a",)),
        matrix().selected(("a", "b"), ("c", "d", "a")),
        matrix(values=np.full((2, 4, 4), np.nan)),
        matrix(untouched=np.full(4, np.nan), random=np.full((2, 4), np.nan)),
    ],
    ids=["no categories", "one task", "not square", "nothing known", "no levels but chance"],
)
@pytest.mark.parametrize("value", ["corrected", "lift"])
def test_matrices_that_are_small_or_empty_are_drawn(whole, value, tmp_path):
    assert len(written(whole, tmp_path / "x.svg", value=value, order="cluster"))


def test_names_with_signs_of_their_own_are_printed_as_they_are(tmp_path):
    hostile = {"a": "$x_1$", "b": "<b>&", "c": "line\nbreak", "d": "\\alpha"}
    names = tuple(hostile.values())
    whole = matrix(sources=names, targets=names, categories={})
    assert {"$x_1$", "<b>&", "line break", "\\alpha"} <= set(written_in(drawn(whole)))
    assert b"<b>" not in written(whole, tmp_path / "x.svg")


# Graphs


@pytest.mark.parametrize("directed", [False, True])
def test_a_task_graph_is_drawn_alike_twice_with_every_name_and_category(directed, tmp_path):
    tasks = task_graph(matrix(), k=2, directed=directed)
    one, other = (graph.network(tasks, tmp_path / f"{name}.svg").read_bytes() for name in "ab")
    assert one == other
    with styled():
        texts = written_in(graph.draw(tasks, None, Look(), 0))
    assert {*TASKS, "one", "two"} <= set(texts)
    assert any("k=2" in text and "2 seeds" in text for text in texts)


@given(st.integers(2, 60), st.integers(0, 99), st.floats(60, 400))
def test_no_box_of_a_graph_lies_on_another(count, seed, width):
    random = np.random.default_rng(seed)
    sizes = np.column_stack([random.uniform(10, 60, count), np.full(count, 18.0)])
    places = graph_layout.push_apart(random.uniform(0, width, (count, 2)), sizes, width)
    gap = np.abs(places[:, None] - places[None]) - (sizes[:, None] + sizes[None]) / 2
    assert ((gap > -0.11).any(axis=2) | np.eye(count, dtype=bool)).all()


def test_the_dashes_of_an_edge_say_how_often_it_stands():
    tasks = task_graph(matrix(), k=2)
    edges = [tuple(sorted(edge)) for edge in tasks.edges]
    with styled():
        firm = written_in(graph.draw(tasks, dict.fromkeys(edges, 0.95), Look(), 0))
        shares = {**dict.fromkeys(edges, 0.95), edges[0]: 0.7, edges[1]: 0.1}
        shaky = written_in(graph.draw(tasks, shares, Look(), 0))
    keys = {"in at least 90 % of resampled seeds", "in 50 % to 90 %", "in less than 50 %"}
    assert not keys & set(firm)
    assert keys <= set(shaky)


@pytest.mark.parametrize("lonely", [nx.empty_graph(["a", "b", "c"]), nx.empty_graph(["a"])])
def test_graphs_without_edges_are_drawn(lonely, tmp_path):
    assert graph.network(lonely, tmp_path / "x.png").exists()


# Lift


def test_lifts_have_intervals_and_say_on_which_side_of_zero_they_lie():
    found = {one.task: one for one in lifts(matrix(untouched=np.array([0.5, 0.9, 0.99, np.nan])))}
    assert [found[task].verdict for task in TASKS] == ["above", "includes", "below", "unknown"]
    assert found["a"].value == pytest.approx(matrix().own[:, 0].mean() - 0.5)
    assert found["a"].low < found["a"].value < found["a"].high


def test_lifts_have_intervals_where_no_transfer_was_measured():
    alone = np.where(np.eye(4, dtype=bool), matrix().values, np.nan)
    found = lifts(matrix(values=alone))
    assert [(one.low, one.high) for one in found] == [(one.low, one.high) for one in lifts(matrix())]
    assert {one.verdict for one in found} == {"above"}


def test_one_seed_without_examples_gives_lifts_without_intervals(tmp_path):
    found = lifts(matrix(seeds=1))
    assert {one.verdict for one in found} == {"unknown"}
    with styled():
        texts = written_in(lift.draw(found, Look()))
    assert any("hollow: no interval known" in text for text in texts)
    assert not any("95 %" in text for text in texts)
    assert lift.dots(found, tmp_path / "x.svg").exists()


# Tables


def test_the_table_of_results_says_what_is_done_partial_failed_and_missing():
    values, failed = matrix().values.copy(), matrix().failed.copy()
    values[0, 0, 0], failed[0, 0, 0] = np.nan, True
    values[:, 1, 1], failed[:, 1, 1] = np.nan, True
    values[:, 2, 2] = np.nan
    table = tables.own_task({"lora": matrix(values=values, failed=failed)}).set_index("task")
    assert table["state"].tolist() == ["partial", "failed", "missing", "done"]
    assert table.loc["d", "mean"] == pytest.approx(matrix().own[:, 3].mean())
    assert table.loc["d", "sd"] == pytest.approx(matrix().own[:, 3].std(ddof=1))
    text = tables.markdown(table.reset_index())
    assert f"| {number(values[1, 0, 0])} (1, 1 failed) |" in text
    assert "| failed |" in text
    assert "| missing |" in text


def test_the_tidy_table_comes_back_from_its_csv(tmp_path):
    table = tables.own_task({"lora": matrix(), "bitfit >> lora": with_gaps()})
    back = pd.read_csv(tables.write(table, tmp_path / "t.csv"))
    pd.testing.assert_frame_equal(back, table, check_dtype=False, rtol=0, atol=0)


def test_tables_print_hostile_names_as_text(tmp_path):
    names = ("a|b", "50 % & $x$", "<i>c</i>", "d_e")
    whole = matrix(sources=names, targets=names, categories=dict.fromkeys(names, "k#1"))
    table = tables.own_task({"a >> b": whole})
    latex = tables.write(table, tmp_path / "t.tex").read_text()
    assert r"50 \% \& \$x\$" in latex
    assert r"d\_e" in latex
    assert r"k\#1" in latex
    assert "a $>$$>$ b" in latex
    assert r"\toprule" in latex
    markdown = tables.write(table, tmp_path / "t.md").read_text()
    assert r"a\|b" in markdown
    assert "<i>" not in markdown.replace(r"\<i>", "")
    rows = [line for line in markdown.splitlines() if line.startswith("|")]
    assert {len(re.findall(r"(?<!\\)\|", row)) for row in rows} == {7}


# Names and numbers


@given(st.text(max_size=200))
def test_a_slug_is_always_a_safe_and_short_file_name(text):
    assert re.fullmatch(r"[a-z0-9_]+(-[0-9a-f]{8})?", slug(text))
    assert len(slug(text)) <= 60


@given(st.lists(st.text(max_size=30), unique=True, max_size=20))
def test_different_compositions_have_different_files(texts):
    stems = list(slugs(texts).values())
    assert len(set(stems)) == len(texts)


def test_plain_names_stay_and_likenesses_are_kept_apart():
    assert slug("lora") == "lora"
    assert slug("../../etc") != slug("etc")
    assert slug("LORA") != slug("lora")
    assert len(set(slugs(["a + b", "a >> b", "a+b", "a_and_b"]).values())) == 4


@given(st.floats(-999, 999))
def test_a_printed_number_reads_back_to_two_digits(value):
    text = number(value, signed=True).replace("−", "-")
    assert math.isclose(float(text), value, abs_tol=0.00501)
    assert text[0] in "+-" or float(text) == 0


@pytest.mark.filterwarnings("ignore:no installed font has")
@given(st.text(min_size=1), st.integers(8, 40))
def test_a_printed_name_is_one_line_that_fits(name, limit):
    assert len(label(name, limit)) <= max(limit, len(repr(name)) if not name.split() else limit)
    assert "\n" not in label(name, limit)


def test_categories_are_told_apart_by_colour_up_to_seven_and_by_colour_and_shape_above():
    names = [f"kind {i}" for i in range(70)]
    assert len(set(colours_of(names[:7]).values())) == 7
    assert len(set(zip(colours_of(names).values(), style.markers_of(names).values(), strict=True))) == 70


# Misuse


def test_misspelt_values_orders_and_formats_are_answered_with_what_exists(tmp_path):
    with pytest.raises(BadInput, match="no heatmap value 'relativ'; did you mean 'relative'"):
        heatmap(matrix(), tmp_path / "x.pdf", value="relativ")
    with pytest.raises(BadInput, match="no order 'clusters'; did you mean 'cluster'"):
        heatmap(matrix(), tmp_path / "x.pdf", order="clusters")
    with pytest.raises(BadInput, match=r"no figure format 'jpg'; .*figure formats: pdf, png, svg"):
        heatmap(matrix(), tmp_path / "x.jpg")
    with pytest.raises(BadInput, match=r"no table format '.xls'; .*table formats: .csv, .md, .tex"):
        tables.write(tables.own_task({"lora": matrix()}), tmp_path / "x.xls")


def test_marks_of_another_shape_are_refused():
    with pytest.raises(BadInput, match=r"marks have shape \(3, 3\), expected \(sources, targets\) = \(4, 4\)"):
        cells(matrix(), "score", marks=np.zeros((3, 3), dtype=bool))


def test_nothing_to_draw_is_said_and_not_drawn(tmp_path):
    with pytest.raises(BadInput, match="a task graph without tasks cannot be drawn"):
        graph.network(nx.Graph(), tmp_path / "x.pdf")
    with pytest.raises(BadInput, match="no lift over the untouched backbone is known"):
        lift.dots([], tmp_path / "x.pdf")
    with pytest.raises(BadInput, match="needs at least one composition, found none"):
        tables.own_task({})


def test_a_folder_that_cannot_be_written_is_named_and_nothing_is_left(tmp_path):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(BadInput, match=r"cannot write '.*file/x.pdf': "):
        heatmap(matrix(), tmp_path / "file" / "x.pdf")
    with pytest.raises(BadInput, match="cannot write"):
        write_bytes(tmp_path, b"a folder has this name")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file"]
    assert [path.name for path in tmp_path.parent.iterdir() if path.name.endswith(".part")] == []


def test_a_figure_without_a_suffix_is_refused(tmp_path):
    with styled(), pytest.raises(BadInput, match="no figure format ''"):
        save(mpl.figure.Figure(), tmp_path / "heatmap")


# Composing with matplotlib and pandas


def test_a_heatmap_without_a_path_is_drawn_and_not_saved(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    axes = heatmap(matrix())
    assert isinstance(axes, mpl.axes.Axes)
    assert "relative performance A(s→t) / A(t→t)" in written_in(axes.figure)
    assert list(tmp_path.iterdir()) == []


def test_a_heatmap_takes_a_data_frame_or_a_file(tmp_path):
    whole = matrix()
    plain = files.write_scores(whole, tmp_path / "scores.csv")
    tidy = files.write(whole, tmp_path / "tidy.csv")
    expected = written(whole, tmp_path / "a.svg", value="corrected")
    assert written(files.frame(whole), tmp_path / "b.svg", value="corrected") == expected
    assert written(tidy, tmp_path / "c.svg", value="corrected") == expected
    assert "spread not given" in "\n".join(written_in(heatmap(plain).figure))
    with pytest.raises(BadInput, match="the data frame"):
        heatmap(pd.DataFrame({"a": [1]}))


def test_a_heatmap_is_drawn_in_the_callers_axes():
    figure = mpl.figure.Figure(figsize=(7, 4))
    left, right = figure.subplots(1, 2)
    assert heatmap(matrix(), ax=left, value="corrected") is left
    assert not right.findobj(mpl.collections.QuadMesh)
    assert left.findobj(mpl.collections.QuadMesh)
    assert {"chance", "a", "b"} <= set(written_in(figure))
    assert any("2 seeds" in text for text in written_in(figure))
    figure.canvas.draw()
    frame = right.get_window_extent()
    inside = [text for part in left.child_axes for text in part.findobj(mpl.text.Text) if text.get_text().strip()]
    assert not any(text.get_window_extent().overlaps(frame) for text in inside)


def test_a_matrix_has_a_short_repr():
    assert repr(matrix()) == ("TransferMatrix('lora + bitfit': 4 sources × 4 targets × 2 seeds, 32 of 32 scores known)")


def test_the_public_names_are_those_of_dir_and_of_type_checkers():
    checked = {
        alias.name
        for node in ast.walk(ast.parse(Path(dc.__file__).read_text()))
        if isinstance(node, ast.If)
        for line in node.body
        if isinstance(line, ast.ImportFrom)
        for alias in line.names
    }
    assert dir(dc) == sorted(dc.__all__)
    assert checked | {"__version__"} == set(dc.__all__)


def test_more_than_twenty_columns_have_colours_without_numbers():
    names = tuple(f"task_{i:02}" for i in range(21))
    nothing = np.zeros((1, 21, 21), dtype=bool)
    levels = (np.full(21, 0.5), np.full(21, 0.5), np.full((1, 21), 0.5))
    wide = TransferMatrix(
        names, names, (0,), np.full(nothing.shape, 0.7), *levels, nothing, nothing, ("accuracy",) * 21
    )
    texts = written_in(drawn(wide, "score"))
    assert ".70" not in texts
    assert not any("hundredths" in text for text in texts)


def test_long_names_stay_distinct_when_shortened():
    names = [f"a_very_long_shared_beginning_{i}_and_a_very_long_shared_end" for i in range(12)]
    assert len(set(labels(names))) == 12
    assert max(map(len, labels(names))) <= 26
    whole = matrix(sources=tuple(names[:4]), targets=tuple(names[:4]), categories={})
    texts = set(written_in(drawn(whole)))
    assert {"0", "1", "2", "3"} <= texts
    shared = "names without “a_very_long_shared_beginning_” and “_and_a_very_long_shared_end”"
    assert any(shared in text.replace("\n", " ") for text in texts)
