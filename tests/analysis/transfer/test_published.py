"""Published matrices of mean scores: reserved rows, the order of tasks, and how many runs are behind them."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from deltacompose.analysis import transfer
from deltacompose.analysis.matrix import TransferMatrix
from deltacompose.analysis.transfer.findings import gather
from deltacompose.errors import BadInput

TABLE = ",a,b\na,.9,.7\nb,.6,.8\n"


def read(tmp_path, text, **more) -> TransferMatrix:
    path = tmp_path / "scores.csv"
    path.write_text(text)
    return transfer.read_scores(path, **more)


def test_a_row_called_chance_is_the_chance_level_and_not_a_source(tmp_path):
    matrix = read(tmp_path, TABLE + "chance,.5,.4\n")
    assert matrix.sources == ("a", "b")
    assert matrix.chance.tolist() == [0.5, 0.4]
    assert (matrix.chance_of, np.isnan(matrix.random).all()) == ("", True)


def test_a_random_row_is_not_taken_for_chance_where_chance_is_known(tmp_path):
    matrix = read(tmp_path, TABLE + "random,.55,.45\nchance,.5,.4\nuntouched,.52,.41\n")
    assert matrix.chance.tolist() == [0.5, 0.4]
    assert matrix.random.tolist() == [[0.55, 0.45]]
    assert matrix.chance_of == ""


def test_all_reference_rows_come_back_from_the_plain_table(tmp_path):
    matrix = read(tmp_path, TABLE + "random,.55,.45\nuntouched,.52,.41\nchance,.5,.4\n")
    path = transfer.write_scores(matrix, tmp_path / "again.csv")
    again = transfer.read_scores(path)
    for name in ("values", "chance", "random", "untouched"):
        assert np.array_equal(getattr(again, name), getattr(matrix, name))


@pytest.mark.parametrize("name", ["chance", "random", "untouched"])
def test_a_target_cannot_have_the_name_of_a_reference_row(tmp_path, name):
    with pytest.raises(BadInput, match=f"a column cannot have the name '{name}'.*reserved names: untouched, random"):
        read(tmp_path, f",a,{name}\na,.9,.7\n")


def test_a_table_of_reference_rows_alone_is_refused(tmp_path):
    with pytest.raises(BadInput, match=r"has reference rows only \(chance\); expected a row for each source"):
        read(tmp_path, ",a,b\nchance,.5,.5\n")


def test_published_means_do_not_pass_for_one_seed(tmp_path):
    unknown, five = read(tmp_path, TABLE), read(tmp_path, TABLE, runs=5, name="prompt")
    assert (unknown.averaged_over, five.averaged_over, five.composition) == (0, 5, "prompt")
    assert not any("one seed" in sentence for sentence in unknown.limitations())
    assert "each score is a published mean over 5 runs: the spread between training runs is not given" in (
        five.limitations()
    )


@pytest.mark.parametrize("runs", [0, 5])
def test_the_number_of_published_runs_comes_back_from_the_tidy_table(tmp_path, runs):
    matrix = read(tmp_path, TABLE, runs=runs)
    assert transfer.read(transfer.write(matrix, tmp_path / "tidy.csv")).averaged_over == runs


def test_published_means_of_two_seeds_are_refused(tmp_path):
    import dataclasses

    matrix = read(tmp_path, TABLE)
    both = {name: np.concatenate([getattr(matrix, name)] * 2) for name in ("values", "trivial", "failed", "random")}
    with pytest.raises(BadInput, match="scores that are already means over runs have one seed, found 2"):
        dataclasses.replace(matrix, seeds=(0, 1), **both)


# The order of tasks


def evaluations(names):
    for source, target in itertools.product(names, names):
        spec = {"composition": "lora", "source": source, "target": target, "seed": 0, "split": "test", "backbone": "x"}
        result = {"score": 0.5, "metric": "accuracy", "chance": 0.1, "trivial": False}
        yield {"kind": "evaluate", "state": "done", "spec": spec, "result": result, "parents": []}


@pytest.mark.parametrize(
    ("order", "expected"),
    [((), ("dawn", "noon", "rise")), (("rise", "dawn", "noon"), ("rise", "dawn", "noon")), (("noon",), None)],
)
def test_tasks_are_in_the_order_of_the_study_whatever_the_order_of_the_records(order, expected):
    expected = expected or ("noon", "dawn", "rise")
    for names in itertools.permutations(("dawn", "noon", "rise")):
        matrix = gather(list(evaluations(names)), {}, order=order).matrices["lora"]
        assert matrix.sources == matrix.targets == expected


def test_without_an_order_tasks_follow_their_categories():
    kinds = {"rise": "x", "noon": "y", "dawn": "x"}
    assert gather(list(evaluations(("dawn", "noon", "rise"))), kinds).matrices["lora"].targets == tuple(kinds)
