"""Names in any script: drawn by a font that has them, else written so that no two look alike, with a warning."""

from __future__ import annotations

import matplotlib as mpl
import pytest
from matplotlib.figure import Figure

from deltacompose.figures import venues
from deltacompose.figures.style import FONT, label, rendered, styled


def svg(text: str) -> bytes:
    with styled():
        figure = Figure(figsize=(2, 1))
        figure.text(0.1, 0.5, text)
        return rendered(figure, "svg")


@pytest.fixture
def bare(monkeypatch):
    """A machine with none of the fallback fonts."""
    monkeypatch.setattr(venues, "FALLBACKS", ("A font that nobody has",) * 3)


def test_characters_without_a_glyph_are_written_as_escapes_and_reported(bare):
    with pytest.warns(
        UserWarning, match=r"no installed font has '任务', which figures show as escapes; install one of"
    ):
        assert label("任务 2") == r"\u4efb\u52a1 2"
    with pytest.warns(UserWarning, match="fonts-noto-cjk"):
        assert label("数学") != label("任务")


@pytest.mark.parametrize("name", ["plain", "Ærlige Bäume", "закон", "νόμος", "$x$", "…"])
def test_what_the_own_font_has_is_drawn_as_it_is_and_warns_of_nothing(bare, name):
    assert label(name) == name
    assert svg(label(name))


def test_a_fallback_font_that_is_installed_draws_what_the_own_font_lacks(monkeypatch):
    """STIX comes with matplotlib and has letters that DejaVu Sans lacks."""
    monkeypatch.setattr(venues, "FALLBACKS", ("STIXGeneral",))
    assert label("\u1d8e") == "\u1d8e"
    with styled():
        assert mpl.rcParams["font.family"] == [FONT, "STIXGeneral"]
    svg("\u1d8e")  # matplotlib's own warning of a missing glyph would be an error here


def test_a_fallback_changes_no_byte_of_what_the_own_font_has(monkeypatch):
    monkeypatch.setattr(venues, "FALLBACKS", ())
    before = svg("task_1 закон")
    monkeypatch.setattr(venues, "FALLBACKS", ("STIXGeneral",))
    assert svg("task_1 закон") == before
