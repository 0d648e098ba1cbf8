"""Colours that colour-blind readers and grey print tell apart, simulated."""

import itertools

import matplotlib as mpl
import numpy as np
import pytest
from colour_vision import MACHADO, lab, linear

from deltacompose.errors import BadInput
from deltacompose.figures.palette import (
    OKABE_ITO,
    Palette,
    colours_of,
    letters_of,
    lines_of,
    markers_of,
    palette_of,
)
from deltacompose.figures.venues import style


@pytest.mark.parametrize("kind", MACHADO)
def test_seven_colours_differ_for_colour_blind_readers(kind):
    seen = lab(linear(OKABE_ITO) @ np.array(MACHADO[kind]).T)
    apart = [np.linalg.norm(a - b) for a, b in itertools.combinations(seen, 2)]
    assert min(apart) > 10, sorted(apart)[:3]  # about ten times a just noticeable difference


@pytest.mark.parametrize("kind", MACHADO)
@pytest.mark.parametrize("name", ["RdBu_r", "PuOr", "YlGnBu"])
def test_lightness_of_colour_maps_runs_one_way_from_their_middle(kind, name):
    steps = mpl.colormaps[name](np.linspace(0, 1, 21))[:, :3]
    lightness = lab(linear(steps) @ np.array(MACHADO[kind]).T)[:, 0]
    halves = [lightness] if name == "YlGnBu" else [lightness[:11], lightness[10:]]
    assert all((np.diff(half) <= 0.5).all() or (np.diff(half) >= -0.5).all() for half in halves)
    grey = lab(linear(steps))[:, 0]
    assert abs(grey[0] - grey[10]) > 30


def test_lines_differ_in_grey_by_marker_and_dash_up_to_twenty():
    signs = lines_of(f"method {i:02}" for i in range(20))
    assert len({(sign["marker"], sign["linestyle"]) for sign in signs.values()}) == 20


def test_lines_come_in_the_order_of_the_names():
    assert list(lines_of(["z", "a", "m"], ["b"])) == ["z", "a", "m"]
    assert lines_of(["z", "a", "m"])["a"] == lines_of(["a", "m", "z"])["a"]


def test_categories_differ_in_grey_by_marker_up_to_ten_and_by_letter_however_many():
    names = [f"kind {i:02}" for i in range(60)]
    assert len(set(markers_of(names[:10]).values())) == 10
    assert len(set(letters_of(names).values())) == 60


def test_a_name_keeps_its_colour_where_a_figure_shows_a_part_of_the_study():
    whole = palette_of({"lora": Palette(tasks=("a", "b")), "bitfit": Palette(categories=("x", "y"))})
    assert whole == Palette(("bitfit", "lora"), ("x", "y"), ("a", "b"))
    assert colours_of(["lora"], whole.compositions)["lora"] == colours_of(whole.compositions)["lora"]


def test_a_style_takes_the_names_of_a_study():
    class Study:
        compositions, tasks, categories = ("lora", "bitfit"), ("b", "a"), {"a": "x", "b": "y"}

    look = style("acl", study=Study())
    assert (look.compositions, look.categories, look.tasks) == (("bitfit", "lora"), ("x", "y"), ("a", "b"))
    with pytest.raises(BadInput, match="a int has no names to colour"):
        style(study=3)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"venue": "neurps"}, "no venue 'neurps'; did you mean 'neurips'"),
        ({"columns": 3}, "a figure spans 1 or 2 columns, not 3"),
        ({"width": 0.2}, "the width of a figure is from 1.5 to 40 inches, not 0.2"),
        ({"font": "No Such Font"}, "no installed font 'No Such Font'"),
        ({"diverging": "RdBu_x"}, "no colour map 'RdBu_x'"),
    ],
)
def test_a_style_that_does_not_exist_is_answered_with_what_does(options, message):
    with pytest.raises(BadInput, match=message):
        style(**options)


def test_a_style_is_a_context_for_the_users_own_figures():
    before = dict(mpl.rcParams)
    with style("icml") as look:
        assert mpl.rcParams["figure.figsize"][0] == look.width == 3.25
        assert mpl.rcParams["pdf.fonttype"] == 42
    assert dict(mpl.rcParams) == before
