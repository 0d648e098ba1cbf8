"""Clusters of tasks by what their deltas do to the weights."""

import numpy as np

from deltacompose.analysis.similarity.clusters import clusters_of
from deltacompose.cells.cluster import cosines


def test_a_delta_that_changes_nothing_is_like_no_other():
    vectors = np.array([[1.0, 0.0], [2.0, 0.0], [0.0, 0.0], [0.0, 3.0]])
    found = cosines(vectors @ vectors.T)
    assert found.tolist() == [[1, 1, 0, 0], [1, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]]


def test_tasks_whose_deltas_all_change_nothing_are_clustered_all_the_same():
    assert len(clusters_of(cosines(np.zeros((4, 4))), 2).labels) == 4
