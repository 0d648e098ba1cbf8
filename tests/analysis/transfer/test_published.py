"""Published scores as input: files and tables of any kind, wide or tidy; their spread; differences of two of them."""

import dataclasses

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from deltacompose.analysis.graph.construction import task_graph
from deltacompose.analysis.matrix import TransferMatrix
from deltacompose.analysis.transfer import labelled_arrays
from deltacompose.analysis.transfer.difference import differences
from deltacompose.analysis.transfer.published import About, matrices_of, matrix_of
from deltacompose.errors import BadInput

WIDE = pd.DataFrame({"a": [0.9, 0.6, 0.5, 0.45], "b": [0.7, 0.8, 0.4, 0.42]}, index=["a", "b", "chance", "untouched"])
TIDY = pd.DataFrame(
    [
        {"source": source, "target": target, "score": WIDE.loc[source, target]}
        for source in WIDE.index
        for target in WIDE.columns
    ]
)


def matrix(seeds=3, **changes):
    random = np.random.default_rng(0)
    names, shape = ("a", "b", "c"), (seeds, 3, 3)
    whole = TransferMatrix(
        sources=names,
        targets=names,
        seeds=tuple(range(seeds)),
        values=random.uniform(0.5, 0.9, shape),
        chance=np.full(3, 0.3),
        untouched=np.full(3, 0.35),
        random=np.full((seeds, 3), 0.31),
        trivial=np.zeros(shape, dtype=bool),
        failed=np.zeros(shape, dtype=bool),
        metric=("accuracy",) * 3,
        categories={"a": "x", "b": "x", "c": "y"},
        composition="lora",
        backbone="pico",
    )
    return dataclasses.replace(whole, **changes)


def same(one, other):
    arrays = ("values", "chance", "untouched", "random")
    names = ("sources", "targets", "composition", "averaged_over", "chance_of")
    return all(np.array_equal(getattr(one, a), getattr(other, a), equal_nan=True) for a in arrays) and all(
        getattr(one, n) == getattr(other, n) for n in names
    )


def test_a_wide_and_a_tidy_table_of_the_same_scores_are_the_same_matrix():
    assert same(matrix_of(WIDE), matrix_of(TIDY))
    assert matrix_of(TIDY).chance.tolist() == [0.5, 0.4]
    assert matrix_of(TIDY).averaged_over == 0


@pytest.mark.parametrize("suffix", [".csv", ".tsv", ".xlsx", ".parquet"])
@pytest.mark.parametrize("kind", ["wide", "tidy"])
def test_every_format_of_file_gives_the_same_matrix(suffix, kind, tmp_path):
    pytest.importorskip({".xlsx": "openpyxl", ".parquet": "pyarrow"}.get(suffix, "pandas"))
    table = WIDE.rename_axis("source").reset_index() if kind == "wide" else TIDY
    path = tmp_path / f"scores{suffix}"
    write = {".xlsx": table.to_excel, ".parquet": table.to_parquet}.get(suffix, table.to_csv)
    write(path, index=False, **({"sep": "\t"} if suffix == ".tsv" else {}))
    assert same(matrix_of(path), matrix_of(WIDE))


def test_percentages_and_targets_in_rows_are_said_and_not_guessed(tmp_path):
    assert same(matrix_of(100 * WIDE, about=About(percent=True)), matrix_of(WIDE))
    assert same(matrix_of(WIDE.T, about=About(transposed=True)), matrix_of(WIDE))
    with pytest.raises(BadInput, match="divide percentages by 100"):
        matrix_of(100 * WIDE)


def test_spread_and_number_of_runs_are_kept_and_written(tmp_path):
    table = TIDY.assign(sd=0.02, n=5)
    published = matrix_of(table)
    assert published.averaged_over == 5
    assert published.spread.tolist() == [[0.02, 0.02], [0.02, 0.02]]
    again = matrix_of(published.to_pandas())
    assert again.averaged_over == 5
    assert np.array_equal(again.spread, published.spread)
    assert any("with the spread between them" in line for line in published.limitations())


def test_seeds_in_a_tidy_table_are_runs():
    table = pd.concat([TIDY.assign(seed=seed, score=TIDY["score"] + 0.01 * seed) for seed in (0, 1)])
    assert matrix_of(table).seeds == (0, 1)
    assert matrix_of(table).averaged_over is None


@pytest.mark.parametrize(
    ("table", "message"),
    [
        (TIDY.assign(sd=-1.0), "the sd of a → a is -1"),
        (TIDY.assign(n="many"), "number of runs 'many' is not a whole number"),
        (pd.concat([TIDY.assign(seed=0, sd=0.1), TIDY.assign(seed=1, sd=0.1)]), "has 2 seeds and a column sd"),
        (pd.DataFrame({"a": [1]}), "is not a table of scores: expected the columns source, target and score"),
        (WIDE.replace(0.9, "high"), "'high' .a → a. is not a number"),
        (3.0, "a float is not a transfer matrix"),
    ],
)
def test_a_table_that_is_not_one_of_scores_is_refused_with_a_sentence(table, message):
    with pytest.raises(BadInput, match=message):
        matrix_of(table)


def test_a_workbook_that_is_none_is_refused(tmp_path):
    pytest.importorskip("openpyxl")
    (tmp_path / "x.xlsx").write_bytes(b"PK not a workbook")
    with pytest.raises(BadInput, match="as an Excel workbook"):
        matrix_of(tmp_path / "x.xlsx")
    with pytest.raises(BadInput, match=r"a table ends in .csv, .tsv, .xlsx, .parquet"):
        matrix_of(tmp_path / "x.doc")


def test_a_table_with_several_compositions_or_backbones_is_several_matrices():
    table = pd.concat([TIDY.assign(composition=name, backbone="b") for name in ("lora", "prompt")])
    assert list(matrices_of(table)) == ["lora", "prompt"]
    assert list(matrices_of(table.assign(backbone=table.pop("composition")), by="backbone")) == ["lora", "prompt"]
    with pytest.raises(BadInput, match="no column that tells matrices apart 'seed'"):
        matrices_of(table, by="seed")


# Other programs' types


def test_a_matrix_goes_through_xarray_and_back():
    pytest.importorskip("xarray")
    assert same(labelled_arrays.from_xarray(matrix().to_xarray()), matrix())
    assert matrix_of(matrix().to_xarray()).categories == matrix().categories
    means = matrix().to_xarray()["score"].mean("seed")
    assert matrix_of(means).averaged_over == 0
    with pytest.raises(BadInput, match="expected source and target"):
        matrix_of(means.rename(source="row"))


def test_a_matrix_and_a_graph_are_tables():
    assert same(matrix_of(matrix().to_pandas()), matrix())
    edges = task_graph(matrix(), k=1, value="raw").to_pandas()
    assert {"source", "target", "weight"} <= set(edges.columns)


def test_without_xarray_a_sentence_says_what_to_install(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "xarray", None)
    with pytest.raises(BadInput, match="need the package xarray; pip install xarray"):
        matrix().to_xarray()


# Differences


def test_a_matrix_minus_itself_is_zero_and_nothing_differs():
    found = differences(matrix(), matrix())
    assert np.array_equal(found.value, np.zeros((3, 3)))
    assert not found.differs.any()


@given(st.floats(-0.3, 0.3))
def test_swapping_the_two_turns_every_sign(shift):
    shifted = matrix(values=matrix().values + shift + np.random.default_rng(1).normal(0, 0.01, (3, 3, 3)))
    one, other = differences(matrix(), shifted), differences(shifted, matrix())
    assert one.value == pytest.approx(-other.value)
    assert one.low == pytest.approx(-other.high)
    assert one.p == pytest.approx(other.p)


def test_runs_of_the_same_seeds_are_paired_as_by_scipy_and_others_are_not():
    later = matrix(values=np.random.default_rng(2).uniform(0.5, 0.9, (3, 3, 3)), composition="bitfit")
    paired = stats.ttest_rel(matrix().values, later.values, axis=0)
    assert differences(matrix(), later).p == pytest.approx(paired.pvalue)
    welch = stats.ttest_ind(matrix().values, later.values, axis=0, equal_var=False)
    renamed = dataclasses.replace(later, seeds=(7, 8, 9))
    assert differences(matrix(), renamed).p == pytest.approx(welch.pvalue)
    interval = welch.confidence_interval()
    assert differences(matrix(), renamed).low == pytest.approx(interval.low)


def test_a_published_spread_gives_welchs_interval():
    mine, theirs = (matrix_of(TIDY.assign(score=TIDY["score"] + d, sd=0.02, n=5)) for d in (0.05, 0.0))
    expected = stats.ttest_ind_from_stats(0.95, 0.02, 5, 0.9, 0.02, 5, equal_var=False).pvalue
    assert differences(mine, theirs).p[0, 0] == pytest.approx(expected)
    assert not differences(matrix_of(WIDE), theirs).tested


def test_a_task_of_one_matrix_alone_is_left_out_and_named():
    part = matrix().selected(("a", "b"), ("a", "b"))
    found = differences(matrix(), part)
    assert (found.sources, found.left_out) == (("a", "b"), ("c",))
    with pytest.raises(BadInput, match="no source in common"):
        differences(matrix(), dataclasses.replace(part, sources=("x", "y"), categories={}))


def test_the_ratio_of_a_task_to_itself_is_not_tested():
    later = matrix(values=np.random.default_rng(2).uniform(0.5, 0.9, (3, 3, 3)))
    found = differences(matrix(), later, "relative")
    assert np.isnan(np.diag(found.p)).all()
    assert not np.isnan(found.p[~np.eye(3, dtype=bool)]).any()
