"""Records of analyses as tables of pandas."""

import numpy as np
import pytest

from deltacompose.analysis.prediction.matrix_completion import complete
from deltacompose.analysis.recommendation.quality import HeldOut
from deltacompose.analysis.subspace import learned, linear
from deltacompose.analysis.subspace.autoencoder import Settings

DELTAS = np.random.default_rng(0).normal(size=(4, 10))


def test_a_completion_has_a_row_for_each_cell():
    observed = np.array([[np.nan, 0.8, 0.6], [0.7, np.nan, np.nan]])
    completed = complete(observed)
    table = completed.to_pandas()
    assert list(table.columns) == ["source", "target", "values", "observed"]
    assert table["observed"].sum() == 3
    row = table[(table["source"] == 1) & (table["target"] == 0)].iloc[0]
    assert (row["values"], row["observed"]) == (0.7, True)


def test_a_task_left_out_has_a_row_for_each_strategy():
    values = {"model": {"regret_at_1": 0.0, "ndcg": 1.0}, "random": {"regret_at_1": 0.2, "ndcg": 0.5}}
    table = HeldOut(3, "nli", values, 0.9, True, "popularity", {}).to_pandas()
    assert table.to_dict("list") == {
        "seed": [3, 3],
        "target": ["nli", "nli"],
        "strategy": ["model", "random"],
        "regret_at_1": [0.0, 0.2],
        "ndcg": [1.0, 0.5],
    }


def test_a_subspace_has_a_row_for_each_direction_of_the_stack():
    subspace = linear.learn(DELTAS, 2)
    table = subspace.to_pandas()
    assert table["kept"].sum() == 2
    assert table["share"].sum() == pytest.approx(1)
    assert table["singular_value"].tolist() == subspace.singular_values.tolist()


def test_a_learned_subspace_has_a_row_for_each_array():
    table = learned.learn(DELTAS, "pca", Settings(2, 4, 1)).to_pandas()
    assert set(table["array"]) == {"mean", "basis"}
    assert table.set_index("array").loc["basis", "norm"] == pytest.approx(np.sqrt(2))
