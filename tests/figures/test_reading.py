"""What a reader needs of a figure: names one recognises, signs apart from numbers, keys of all that is drawn."""

import matplotlib as mpl
import numpy as np
import pytest
from figure_data import compositions, costs, dimensions, drawn, factorial, history, matrix, orders, predictions, sizes
from matplotlib.lines import Line2D
from pictures import long_names, matrix_of_size, texts_of

import deltacompose as dc
from deltacompose import figures
from deltacompose.figures.frames import numbers
from deltacompose.figures.labels import fitted, wrapped_to


def words_of(figure):
    return [text.get_text() for text, _ in texts_of(figure)]


def whole_text(figure):
    return " ".join(" ".join(words_of(figure)).split())


@pytest.mark.parametrize("room", [50, 70, 90])
def test_an_abbreviation_keeps_the_beginning_of_a_name_and_its_end(room):
    names = long_names(12)
    shown = fitted(names, room, 6.5).shown
    for name, text in shown.items():
        distinctive = name.removeprefix("crossfit_").removesuffix("_without_template")
        assert text[:4] == distinctive[:4]
        assert text[-3:] == distinctive[-3:]


def test_a_name_whose_end_alone_differs_keeps_the_end():
    names = [f"{'x' * 40}{place}" for place in range(3)]
    shown = fitted(names, 60, 6.5).shown
    assert {text[-1] for text in shown.values()} == {"0", "1", "2"}


def test_the_key_of_an_abbreviation_has_a_colon_and_that_of_a_number_none():
    assert all(": " in entry for entry in fitted(long_names(12), 50, 6.5).entries)
    assert fitted([f"{i}{'x' * 40}{i}" for i in range(2000)], 10, 6.5).entries[0].startswith("1 0xx")


def test_ticks_of_an_axis_have_equally_many_digits():
    figure = mpl.figure.Figure()
    axes = figure.subplots()
    axes.set_ylim(-0.3, 1.1)
    numbers(axes.yaxis, most=7)
    axes.set_xlim(-0.2, 0.4)
    numbers(axes.xaxis, signed=True, most=8)
    figure.draw_without_rendering()
    printed = {text.get_text() for text in axes.get_yticklabels()}
    assert {"0", ".4"} <= printed
    assert len({len(text.lstrip("−").partition(".")[2]) for text in printed - {"0"}}) == 1
    assert (
        len({len(text.partition(".")[2]) for text in (t.get_text() for t in axes.get_xticklabels()) if text != "0"})
        == 1
    )


@pytest.mark.parametrize(("tasks", "columns"), [(5, 1), (12, 2)])
def test_signs_in_cells_do_not_touch_the_numbers(tasks, columns):
    whole = matrix_of_size(tasks, 5, missing=0.08)
    trivial = np.ones_like(whole.trivial) & ~np.isnan(whole.values)
    whole = dc.TransferMatrix(**{**vars(whole), "trivial": trivial})
    look = dc.style("icml", columns=columns)
    axes = figures.heatmap(whole, value="corrected", marks=np.ones((tasks, tasks), dtype=bool), style=look)
    figure = axes.figure
    boxes = [box for text, box in texts_of(figure) if "±" in text.get_text()]
    assert boxes
    pixels = figure.dpi / 72
    drawn_signs = 0
    for line in axes.get_lines():
        if line.get_marker() not in ("o", "*", "v"):
            continue
        reach = 0.35 * line.get_markersize() * pixels  # a sign fills about this much of its square in every direction
        for x, y in axes.transData.transform(line.get_xydata()):
            drawn_signs += 1
            assert not any(
                box.x0 < x + reach and box.x1 > x - reach and box.y0 < y + reach and box.y1 > y - reach for box in boxes
            )
    assert drawn_signs > tasks


def test_signs_in_cells_without_numbers_are_a_quarter_as_wide_as_the_cell():
    axes = figures.heatmap(
        matrix_of_size(30, 1), value="corrected", marks=np.eye(30, dtype=bool)[::-1], style="neurips"
    )
    axes.figure.draw_without_rendering()
    (sign,) = [line for line in axes.get_lines() if line.get_marker() == "*"]
    cell = np.diff(axes.transData.transform([(0, 0), (1, 0)])[:, 0])[0] * 72 / axes.figure.dpi
    assert sign.get_markersize() >= 0.4 * cell


def test_names_in_legends_are_whole():
    for figure in (figures.cost(costs(12, 1)).figure, figures.scale(sizes(12, 1, 0)).figure):
        keys = {" ".join(text.get_text().split()) for part in figure.legends for text in part.get_texts()}
        assert set(compositions(12)) <= keys


def test_ticks_of_memory_are_powers_of_two_and_those_of_backbones_their_sizes():
    memory = words_of(figures.cost(costs(5, 3), against="memory", style="icml").figure)
    ticks = [text.split()[0] for text in memory if text.endswith("iB")]
    assert len(ticks) >= 2
    assert set(ticks) <= {str(2**power) for power in range(10)}
    assert {"14M", "60M", "220M", "770M", "3B"} <= set(words_of(figures.scale(sizes(5, 3, 0), style="icml").figure))


def test_panels_have_titles_of_whole_words_and_lines_between_categories_in_each():
    figure = drawn("panels", 12, 1, 0.0, style="neurips")
    titled = [axes for axes in figure.axes if axes.get_title(loc="left")]
    assert {" ".join(axes.get_title(loc="left").split()) for axes in titled} == set(compositions(4))
    lines = [sum(list(line.get_xdata()) == [0, 1] for line in axes.get_lines()) for axes in titled]
    assert lines == [4] * 4


def test_many_panels_of_few_tasks_stand_in_two_columns():
    figure = drawn("panels", 5, 5, 0.0, style="icml")
    assert figure.get_figheight() < 9
    figure.draw_without_rendering()
    cell = np.diff(figure.axes[0].transData.transform([(0, 0), (1, 0)])[:, 0])[0] * 72 / figure.dpi
    assert cell > 10


def test_the_scale_of_panels_has_ticks_at_its_ends():
    assert {"−1.00", "+1.00"} <= set(words_of(drawn("panels", 12, 1, 0.08, style="icml")))


def test_many_categories_in_blocks_of_one_task_have_no_strips_and_few_have_colours_with_a_key():
    scattered = figures.clustermap(matrix(30, 3, 0.0), value="score", style="icml").figure
    assert not any("categories:" in text or "A category" in text for text in words_of(scattered))
    few = figures.clustermap(matrix(12, 3, 0.0), value="score", style="icml").figure
    keys = [text.get_text() for part in few.findobj(mpl.legend.Legend) for text in part.get_texts()]
    assert {"A generation", "E sentiment analysis"} <= set(keys)


def test_all_categories_of_a_lift_are_named_or_have_letters_with_a_key():
    wide = whole_text(figures.lift(matrix(12, 3, 0.0), style="icml").figure)
    assert all(kind in wide for kind in ("generation", "natural language inference", "sentiment analysis"))
    low = figures.lift(matrix(5, 3, 0.0), style="icml").figure
    assert set("ABCDE") <= set(words_of(low))
    assert "categories: A generation, B natural language inference" in whole_text(low)


def test_a_factorial_without_effects_has_no_empty_panel_and_says_why():
    figure = figures.factorial(factorial(5, 3, 0.08), style="icml")
    assert len(figure.axes) == 1
    text = whole_text(figure)
    assert "effects are not known, because means are missing: bitfit + lora(rank=8)" in text
    assert len(figures.factorial(factorial(5, 3, 0.0), style="icml").axes) == 2


def test_gains_of_stages_differ_in_marker_or_face():
    figure = figures.orders(orders(5, 3, 0.0), style="icml")
    gains = [key for key in figure.legends[0].legend_handles if key.get_label().startswith("gain of ")]
    assert len({(key.get_marker(), key.get_linestyle()) for key in gains}) == len(gains) == 3
    assert not {"8", "h", "p"} & {key.get_marker() for key in gains}


def test_every_row_of_dimensions_has_a_sign_or_a_word_and_every_sign_a_key():
    figure = figures.dimension(dimensions(12, 2, 0.08), style="icml")
    _, rows = figure.axes
    held = {round(float(line.get_ydata()[0])) for line in rows.get_lines() if isinstance(line, Line2D)}
    held |= {round(text.get_position()[1]) for text in rows.texts if text.get_text() == "not known"}
    assert held == set(range(12))
    keys = {text.get_text() for text in figure.legends[0].get_texts()}
    assert {"a task", "d₉₀ of single seeds", "above the greatest d trained"} <= keys


def test_panels_of_several_metrics_say_which_theirs_is():
    figure = figures.convergence(history(5, 1, 0.08), style="icml")
    heads = [axes.get_title(loc="left") for axes in figure.axes if axes.axison]
    assert {head.split("\n")[1] for head in heads} == {"accuracy", "rouge-L"}
    assert "\n" not in figures.convergence(history(5, 1, 0.0), style="icml").axes[0].get_title(loc="left")


def test_one_seed_is_no_mean():
    for figure in (figures.lift(matrix(5, 1, 0.0)).figure, figures.dimension(dimensions(5, 1, 0.0))):
        assert "1 seed" in whole_text(figure)
        assert "mean over 1" not in whole_text(figure)


def test_many_points_are_small_and_pale():
    few, many = (figures.reliability(matrix(tasks, 2, 0.0), value="corrected").get_lines()[0] for tasks in (5, 30))
    assert many.get_markersize() < few.get_markersize()
    assert many.get_alpha() < 0.5 < few.get_alpha()


def test_the_key_of_sixty_nodes_stands_in_two_columns():
    figure = figures.graph(matrix(60, 1, 0.0), style="icml").figure
    assert max(text.get_text().count("\n") + 1 for text in figure.texts) <= 30


def test_an_axis_label_wider_than_its_axes_is_wrapped():
    axes = drawn("prediction", style="icml").axes[0]
    assert axes.get_xlabel() == wrapped_to("NDCG of ranked sources, mean over targets", 0.55 * 72 * 3.25, 7.0)
    assert "\n" in axes.get_xlabel()


def test_the_key_of_predictions_has_only_what_is_drawn():
    whole = predictions(12, 3, 0.0)
    none = {name: {**of, "ndcg_by_seed": [], "ndcg_p_by": 1.0} for name, of in whole["measures"].items()}
    keys = [text.get_text() for text in figures.prediction({**whole, "measures": none}).figure.legends[0].get_texts()]
    assert "not told from chance" in keys
    assert not {"single seeds", "p ≤ .05 (adjusted)"} & set(keys)
    assert "single seeds" in whole_text(figures.prediction(whole).figure)
