"""Heatmaps of few and many tasks: no two texts overlap, none leaves the canvas, none is too small to read."""

import pytest
from pictures import assert_legible, matrix_of_size, texts_of

from deltacompose.figures.heatmaps import heatmap
from deltacompose.figures.venues import style

MISSING, ONE_SEED = (3, 0.05, 5), (1, 0.0, 9)
"""Numbers of seeds, shares of missing cells and numbers of categories."""


@pytest.mark.parametrize(
    ("tasks", "columns", "study"),
    [(5, 1, ONE_SEED), (5, 2, MISSING), (12, 1, MISSING), (12, 2, ONE_SEED), (60, 1, MISSING), (60, 2, ONE_SEED)],
)
def test_a_heatmap_of_long_names_can_be_read(tasks, columns, study):
    (seeds, missing, kinds), look = study, style("icml", columns)
    axes = heatmap(matrix_of_size(tasks, seeds, kinds, missing), value="corrected", style=look)
    assert_legible(axes.figure)
    assert axes.figure.get_figwidth() == look.width


def test_cells_are_square_and_columns_as_wide_in_every_panel():
    axes = heatmap(matrix_of_size(12), value="corrected")
    axes.figure.draw_without_rendering()
    corners = axes.transData.transform([(0, 0), (1, 1)])
    assert abs(corners[1] - corners[0]) == pytest.approx([abs(corners[1][0] - corners[0][0])] * 2)


@pytest.mark.parametrize(("tasks", "printed"), [(5, "±"), (12, "hundredths"), (30, "")])
def test_the_size_of_a_cell_decides_what_it_prints(tasks, printed):
    figure = heatmap(matrix_of_size(tasks), value="corrected").figure
    texts = [text.get_text() for text, _ in texts_of(figure)]
    assert any(printed in text for text in texts)
    assert any("±" in text for text in texts) == (tasks == 5)


def test_names_that_do_not_fit_are_numbered_with_a_key():
    figure = heatmap(matrix_of_size(60), value="corrected", style="icml").figure
    key = "\n".join(text.get_text() for text, _ in texts_of(figure))
    assert "60 dialogue_commonsense_55" in key
    assert "names without “crossfit_” and “_without_template”" in key


def test_a_talk_has_large_letters():
    figure = heatmap(matrix_of_size(5), value="corrected", style="talk").figure
    assert_legible(figure, smallest=11.9)
