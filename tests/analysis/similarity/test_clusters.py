"""Clusters of tasks: planted ones are found, and where there are none nothing is."""

import numpy as np
import pytest
from sklearn.metrics import adjusted_rand_score

from deltacompose.analysis.similarity import clusters as clustering
from deltacompose.analysis.similarity.clusters import clusters_of
from deltacompose.analysis.similarity.formulas import delta_cosine
from deltacompose.errors import BadInput

PLANTED = [0, 0, 0, 0, 1, 1, 1, 2, 2, 2, 2, 2]


def loras(seed, noise, planted=PLANTED):
    """Synthetic LoRAs: those of a cluster share a change of two places, and each has a gauge of its own."""
    source = np.random.default_rng(seed)
    draw = lambda *shape: source.normal(size=shape)
    centres = [[(draw(12, 2), draw(2, 9)) for _ in range(2)] for _ in set(planted)]
    tasks = []
    for cluster in planted:
        places = {}
        for k, (up, down) in enumerate(centres[cluster]):
            gauge = draw(2, 2) + 3 * np.eye(2)
            up, down = up @ np.linalg.inv(gauge), gauge @ down
            extra = noise * draw(12, 1), noise * draw(1, 9)
            places[f"place {k}"] = np.concatenate([up, extra[0]], 1), np.concatenate([down, extra[1]])
        tasks.append(places)
    return tasks


@pytest.mark.parametrize("count", [3, None])
def test_planted_clusters_of_loras_are_recovered(count):
    for seed in range(5):
        found = clusters_of(delta_cosine(loras(seed, noise=0.5)), count)
        assert adjusted_rand_score(PLANTED, found.labels) == 1
        assert found.silhouette > 0.3


def test_where_nothing_is_planted_the_agreement_is_near_zero():
    scores = []
    for seed in range(40):
        found = clusters_of(delta_cosine(loras(seed, 0.5, planted=list(range(12)))), 3)
        scores.append(adjusted_rand_score(PLANTED, found.labels))
    assert abs(np.mean(scores)) < 3 * np.std(scores) / np.sqrt(len(scores)) + 0.02


def test_clusters_do_not_depend_on_the_order_of_the_tasks():
    similarity = delta_cosine(loras(0, 0.5))
    order = np.random.default_rng(0).permutation(len(PLANTED))
    found = clusters_of(similarity[np.ix_(order, order)], 3)
    assert adjusted_rand_score(np.array(PLANTED)[order], found.labels) == 1


def test_equal_tasks_are_one_cluster_and_groups_name_them():
    assert clusters_of(np.ones((4, 4)), 2).labels == (0, 0, 0, 0)
    assert clusters_of(np.kron(np.eye(2), np.ones((2, 2))), 2).groups("abcd") == [["a", "b"], ["c", "d"]]
    assert clusters_of(np.eye(4), 1).groups("abcd") == [["a", "b", "c", "d"]]


@pytest.mark.parametrize(
    ("similarity", "count", "message"),
    [
        (np.eye(2), 1, "at least 3 tasks"),
        (np.eye(4), 5, "1 to 4"),
        (np.eye(4), 0, "1 to 4"),
        (np.full((4, 4), np.nan), 2, "not known"),
    ],
)
def test_what_cannot_be_clustered_is_refused(similarity, count, message):
    with pytest.raises(BadInput, match=message):
        clusters_of(similarity, count)


def test_the_module_names_its_source():
    assert "Ostapenko" in clustering.__doc__
