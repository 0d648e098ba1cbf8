"""Every figure in one column and in two, of 5 to 60 tasks with long names, with missing cells, of one seed and many.

`test_every_figure.py` draws them of 12 tasks in both widths.
"""

import itertools
import re

import matplotlib as mpl
import numpy as np
import pytest
from colour_vision import seen
from figure_data import DRAW, drawn
from matplotlib.lines import Line2D
from pictures import assert_keys_apart, assert_legible

import deltacompose as dc
from deltacompose import figures
from deltacompose.figures.style import rendered

SIZES = [(5, 1, (1, 0.08)), (5, 2, (5, 0.0)), (30, 1, (5, 0.08)), (60, 2, (1, 0.08))]
"""Numbers of tasks, columns of the page, seeds and shares of missing cells."""


def test_every_public_figure_is_drawn_here():
    assert sorted(DRAW) == sorted(figures.__all__)


@pytest.mark.parametrize("name", DRAW)
@pytest.mark.parametrize(
    ("tasks", "columns", "study"),
    SIZES,
    ids=[f"{n} tasks, {c} columns, {s} seeds, {m} missing" for n, c, (s, m) in SIZES],
)
def test_no_two_texts_overlap_and_none_leaves_the_figure(name, tasks, columns, study):
    look = dc.style("icml", columns=columns)
    figure = drawn(name, tasks, *study, style=look)
    assert figure.get_figwidth() == look.width
    assert_legible(figure)
    assert_keys_apart(figure)


@pytest.mark.parametrize("name", DRAW)
def test_the_same_numbers_give_the_same_pdf_whose_fonts_are_truetype(name):
    first = rendered(drawn(name, 5, 1, style="icml"), "pdf")
    with mpl.rc_context({"pdf.fonttype": 3, "font.size": 20, "axes.grid": True, "svg.hashsalt": "x"}):
        assert rendered(drawn(name, 5, 1, style="icml"), "pdf") == first
    assert b"/FontFile2" in first
    assert not re.search(rb"/Type3|/Subtype /Type1\b|CreationDate|ModDate|Producer", first)


def keys_of(figure):
    """The keys of a figure's legends."""
    legends = [*figure.legends, *(part for part in figure.findobj(mpl.legend.Legend) if part not in figure.legends)]
    return [key for part in legends for key in part.legend_handles]


def shape(key):
    """What a key looks like in one colour."""
    if isinstance(key, Line2D):
        hollow = key.get_markerfacecolor() == "white"
        return key.get_marker(), key.get_linestyle(), hollow, round(key.get_linewidth(), 2), key.get_markersize()
    return "patch", key.get_hatch(), key.get_fill(), key.get_edgecolor(), key.get_linewidth()


def colour(key):
    return key.get_color() if isinstance(key, Line2D) else key.get_facecolor()


@pytest.mark.parametrize("name", sorted(DRAW))
def test_keys_differ_in_shape_or_for_every_way_of_seeing_in_colour(name):
    keys = keys_of(drawn(name, 12, style="icml"))
    views = seen([mpl.colors.to_rgb(colour(key)) for key in keys] or ["white"])
    for (i, one), (j, other) in itertools.combinations(enumerate(keys), 2):
        if shape(one) == shape(other):
            lettered = all(re.match(r"[A-Z]\d? ", key.get_label()) for key in (one, other))
            views_of = {view: points for view, points in views.items() if not (lettered and view == "grey")}
            near = [view for view, points in views_of.items() if np.linalg.norm(points[i] - points[j]) < 10]
            assert not near, (one.get_label(), other.get_label(), near)
