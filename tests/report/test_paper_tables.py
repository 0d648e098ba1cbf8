"""Tables for a paper: what is bold, what the caption says, and that names are text in LaTeX and Markdown."""

import csv
import io
import re
from dataclasses import replace

import numpy as np
import pytest
from pictures import matrix_of_size

from deltacompose.analysis.transfer.lift import lifts
from deltacompose.analysis.transfer.summaries import compare_categories
from deltacompose.errors import BadInput
from deltacompose.report import paper_tables, result_tables


def table(best=0.1, sd=0.01, seeds=3):
    """Two compositions on two tasks; the second is better by `best` on the first task and equal on the other."""
    columns = {"category": "", "metric": "accuracy", "sd": sd, "seeds": seeds, "failed": 0, "missing": 0,
               "state": "done", "chance": 0.5, "untouched": 0.45}  # fmt: skip
    rows = [("lora", "a_1", 0.7), ("bitfit", "a_1", 0.7 + best), ("lora", "b&c", 0.8), ("bitfit", "b&c", 0.8)]
    import pandas as pd

    return pd.DataFrame([{**columns, "composition": c, "task": t, "mean": m} for c, t, m in rows])


def test_the_best_is_bold_only_where_its_interval_separates_it():
    assert paper_tables.results(table()).bold == {(0, 4)}
    assert paper_tables.results(table(best=0.005)).bold == frozenset()
    assert paper_tables.results(table(seeds=1, sd=np.nan)).bold == frozenset()


def test_markdown_of_results_has_the_same_bold_cells():
    text = result_tables.markdown(table())
    assert "| **.80 ± .01 (3)** |" in text
    assert text.count("**") == 2
    assert "Welch's test (5 %) tells it from all others" in text
    assert "**" not in result_tables.markdown(table(best=0.005))


def test_the_caption_says_seeds_spread_and_chance_and_a_row_has_the_means():
    printed = paper_tables.results(table(), percent=True)
    assert "mean and standard deviation over 3 seeds, in hundredths" in printed.caption
    assert "Chance is the best answer that does not use the input" in printed.caption
    assert printed.rows[-1] == ("mean", "50.0", "45.0", "75.0", "80.0")
    assert printed.rows[0][-1] == "80.0 ± 1.0"


def test_latex_is_balanced_aligned_and_escaped():
    text = paper_tables.results(table()).latex()
    assert r"a\_1" in text
    assert r"b\&c" in text
    assert r"\textbf{.80 $\pm$ .01}" in text
    assert r"\begin{tabular}{@{}lrrrr@{}}" in text
    assert text.count(r"\begin{") == text.count(r"\end{")
    assert {line.count("&") - line.count(r"\&") for line in text.splitlines() if line.endswith(r"\\")} == {4}


@pytest.mark.parametrize("tasks", [5, 12, 30])
def test_a_wide_table_spans_two_columns_of_the_page(tasks):
    text = paper_tables.transfer(matrix_of_size(tasks), "corrected", percent=True).latex()
    assert (r"\begin{table*}" in text) == (tasks > 6)


def test_a_table_of_transfer_has_means_over_other_tasks_and_rows_of_reference():
    matrix = matrix_of_size(5)
    printed = paper_tables.transfer(matrix, "score")
    first = matrix.sources.index(printed.rows[0][0])
    others = [i for i in range(5) if i != first]
    assert float(printed.rows[0][-1]) == pytest.approx(matrix.mean()[first, others].mean(), abs=0.0051)
    assert [row[0] for row in printed.rows[5:]] == ["random", "untouched", "chance"]
    assert "mean over 3 seeds" in printed.caption


def test_of_the_sources_of_a_target_the_best_is_bold_only_where_it_is_told_apart():
    matrix = replace(matrix_of_size(5), categories={})
    assert not paper_tables.transfer(matrix, "score").bold
    values = matrix.values.copy()
    values[:, 2, 4], values[:, 4, 4] = [0.9, 0.91, 0.92], 0.99
    values[:, [0, 1, 3], 4] = np.array([0.6, 0.61, 0.62])[:, None]
    printed = paper_tables.transfer(replace(matrix, values=values), "score")
    row = [row[0] for row in printed.rows].index(matrix.sources[2])
    column = printed.columns.index(matrix.targets[4])
    assert (row, column) in printed.bold
    assert {c for _, c in printed.bold} == {column}
    assert "Bold: the best source other than the target itself" in printed.caption
    assert "**.91**" in printed.markdown()
    once = replace(matrix, values=values[:1], seeds=(0,), random=matrix.random[:1], failed=matrix.failed[:1],
                   trivial=matrix.trivial[:1])  # fmt: skip
    assert not paper_tables.transfer(once, "score").bold
    assert "No source of a target is told apart" in paper_tables.transfer(once, "score").caption


def test_lifts_and_categories_have_intervals():
    matrix = matrix_of_size(5)
    assert re.fullmatch(r"[+−]\.\d\d \[.*\]", paper_tables.lift(lifts(matrix)).rows[0][1])
    compared = [("lora", compare_categories(matrix_of_size(12), "relative", 99))]
    printed = paper_tables.categories(compared)
    assert printed.rows[0][:2] == ("lora", "relative")
    assert "permutes the categories" in printed.caption


def test_csv_and_markdown_have_every_cell(tmp_path):
    printed = paper_tables.results(table())
    rows = list(csv.reader(io.StringIO(printed.csv())))
    assert rows == [list(printed.columns), *map(list, printed.rows)]
    assert "**.80 ± .01**" in printed.markdown()
    assert printed.write(tmp_path / "t.tex").read_text() == printed.latex()
    with pytest.raises(BadInput, match=r"no table format '.doc'"):
        printed.write(tmp_path / "t.doc")


def test_nothing_to_print_is_refused():
    with pytest.raises(BadInput, match="at least one lift"):
        paper_tables.lift([])
    with pytest.raises(BadInput, match="at least one comparison"):
        paper_tables.categories([])
    with pytest.raises(BadInput, match="no value of transfer 'ratio'"):
        paper_tables.transfer(matrix_of_size(5), "ratio")


def test_the_results_of_a_study_are_that_table():
    own = result_tables.own_task({"lora": matrix_of_size(5)})
    assert paper_tables.results(own).columns == ("category", "task", "chance", "untouched", "lora")
