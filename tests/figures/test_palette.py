"""Colours that colour-blind readers and grey print tell apart, simulated."""

import itertools

import matplotlib as mpl
import numpy as np
import pytest

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

MACHADO = {
    "protanopia": [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998]],
    "deuteranopia": [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.011820, 0.042940, 0.968881]],
    "tritanopia": [[1.255528, -0.076749, -0.178779], [-0.078411, 0.930809, 0.147602], [0.004733, 0.691367, 0.303900]],
}
"""Machado, Oliveira and Fernandes 2009, severity 1; they act on linear RGB."""
XYZ = np.array([[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]])


def linear(colours):
    c = np.asarray([mpl.colors.to_rgb(colour) for colour in colours])
    return np.where(c <= 0.04045, c / 12.92, ((c + 0.055) / 1.055) ** 2.4)


def lab(rgb):
    """CIE L*a*b* of linear RGB, D65."""
    x = np.clip(rgb, 0, 1) @ XYZ.T / np.array([0.9505, 1.0, 1.089])
    f = np.where(x > 0.008856, np.cbrt(x), 7.787 * x + 16 / 116)
    return np.stack([116 * f[:, 1] - 16, 500 * (f[:, 0] - f[:, 1]), 200 * (f[:, 1] - f[:, 2])], axis=1)


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
