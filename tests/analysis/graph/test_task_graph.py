"""The task-similarity graph: edges, communities, sources under a budget, files."""

import itertools
import json
from dataclasses import replace
from pathlib import Path

import networkx as nx
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import adjusted_rand_score, normalized_mutual_info_score

from deltacompose.analysis import graph
from deltacompose.analysis.graph import communities
from deltacompose.analysis.graph import construction as build
from deltacompose.analysis.graph import edges as network
from deltacompose.analysis.prediction import source_selection as sources
from deltacompose.analysis.transfer import TransferMatrix, read_categories, read_scores
from deltacompose.errors import BadInput

PUBLISHED = Path(__file__).parents[4] / "shared" / "data" / "prompt_transferability"
published = pytest.mark.skipif(not PUBLISHED.exists(), reason="the published data is not laid beside the project")
KINDS = {"knn": {"k": 2}, "mutual_knn": {"k": 2}, "mst": {}, "threshold": {"level": 0.5}, "disparity": {"level": 0.4}}

seeds = st.integers(0, 2**31)


def matrix_of(values, categories=None, names="abcdefghijklmnop", **others):
    """A transfer matrix of (seeds, tasks, tasks) scores, chance 0."""
    values = np.asarray(values, dtype=float)
    count, tasks = values.shape[0], values.shape[1]
    names = tuple(names[:tasks])
    settings = {
        "chance": np.zeros(tasks),
        "untouched": np.zeros(tasks),
        "random": np.zeros((count, tasks)),
        "trivial": np.zeros(values.shape, bool),
        "failed": np.zeros(values.shape, bool),
        "metric": ("accuracy",) * tasks,
        "categories": dict(zip(names, categories)) if categories else {},
    }
    return TransferMatrix(names, names, tuple(range(count)), values, **(settings | others))


def two_groups(seed=0, count=3, tasks=8):
    """Scores high within each half of the tasks, low between them."""
    near = np.kron(np.eye(2), np.ones((tasks // 2, tasks // 2)))
    noise = np.random.default_rng(seed).normal(size=(count, tasks, tasks)) * 0.02
    return matrix_of(0.4 + 0.4 * near + noise, ["x"] * (tasks // 2) + ["y"] * (tasks // 2))


def random_weights(seed, tasks=7):
    return np.random.default_rng(seed).random((tasks, tasks))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("directed", [False, True])
@given(seed=seeds)
@settings(max_examples=10, deadline=None)
def test_the_graph_does_not_depend_on_the_order_of_the_tasks(kind, directed, seed):
    weights, names = random_weights(seed), list("abcdefg")
    order = np.random.default_rng(seed).permutation(7)
    one = network.build(names, weights, kind, directed=directed, **KINDS[kind])
    other = network.build(
        [names[i] for i in order], weights[np.ix_(order, order)], kind, directed=directed, **KINDS[kind]
    )
    assert nx.utils.graphs_equal(one, other)


@given(seed=seeds, k=st.integers(1, 6))
@settings(max_examples=20, deadline=None)
def test_mutual_neighbours_are_neighbours_and_all_have_at_least_k(seed, k):
    union, mutual = (network.build("abcdefg", random_weights(seed), kind, k=k) for kind in ("knn", "mutual_knn"))
    assert set(mutual.edges) <= set(union.edges)
    assert min(dict(union.degree).values()) >= k >= max(dict(mutual.degree).values())


@given(seed=seeds, k=st.integers(1, 6))
@settings(max_examples=20, deadline=None)
def test_directed_neighbours_are_each_targets_best_sources(seed, k):
    weights = random_weights(seed)
    found = network.build(range(7), weights, "knn", k=k, directed=True)
    for target in found:
        others = [s for s in range(7) if s != target]
        assert set(found.predecessors(target)) == set(sorted(others, key=lambda s: -weights[s, target])[:k])


@given(seed=seeds)
@settings(max_examples=20, deadline=None)
def test_the_spanning_tree_is_the_heaviest_of_all(seed):
    weights = random_weights(seed, 5)
    tree = network.build("abcde", weights - 0.7, "mst")
    whole = network.build("abcde", weights - 0.7, "threshold", level=-9)
    best = max(
        sum(whole.edges[edge]["weight"] for edge in chosen)
        for chosen in itertools.combinations(whole.edges, 4)
        if nx.is_tree(whole.edge_subgraph(chosen)) and len(whole.edge_subgraph(chosen)) == 5
    )
    assert nx.is_tree(tree)
    assert np.isclose(tree.size("weight"), best)


def test_a_star_of_four_equal_weights_has_the_known_disparity_at_its_centre():
    star = np.zeros((5, 5))
    star[0, 1:] = star[1:, 0] = 0.5
    assert np.allclose(network.disparity(star)[0, 1:], 0.421875)
    assert np.allclose(network.disparity(star)[1:, 0], 1)


def test_the_disparity_filter_keeps_the_edge_that_stands_out_at_one_end():
    weights = np.full((6, 6), 0.01)
    weights[0, 1] = weights[1, 0] = 1
    assert list(network.build("abcdef", weights, "disparity", level=0.05).edges) == [("a", "b")]


def test_an_edge_weighs_the_mean_of_both_directions_and_the_diagonal_is_not_read():
    weights = np.array([[9.0, 0.2], [0.4, np.nan]])
    assert np.isclose(network.build("ab", weights, "knn", k=1).edges["a", "b"]["weight"], 0.3)
    assert network.build("ab", weights, "knn", k=1, directed=True).edges["b", "a"]["weight"] == 0.4


def test_a_task_graph_carries_categories_own_scores_and_relative_weights():
    found = graph.task_graph(two_groups(count=1), k=2)
    assert found.nodes["a"]["category"] == "x"
    assert 0.7 < found.nodes["a"]["own"] < 0.9
    assert found.graph == {"kind": "knn", "k": 2, "value": "relative", "seeds": 1, "left_out": ""}
    assert not any(found.nodes[u]["category"] != found.nodes[v]["category"] for u, v in found.edges)


def test_a_corrected_graph_says_which_tasks_it_leaves_out():
    matrix = two_groups(count=1)
    chance = np.zeros(8)
    chance[2] = 0.9
    found = graph.task_graph(matrix_of(matrix.values, list("xxxxyyyy"), chance=chance), k=2, value="corrected")
    assert "c" not in found
    assert found.graph["left_out"] == "c"


def test_both_algorithms_find_two_clear_groups_and_the_null_says_that_it_is_no_chance():
    summary = graph.summary(two_groups(), permutations=999)
    assert summary["ari_average_linkage"] == summary["ari_louvain"] == summary["nmi_louvain"] == 1
    assert summary["ari_louvain_p"] < 0.05
    assert summary["permutations"] == 1000
    assert abs(summary["ari_louvain_null"]) < 0.05 < summary["nmi_louvain_null"]


def test_a_summary_is_one_json_object_with_its_edges_and_their_stability():
    summary = json.loads(json.dumps(graph.summary(two_groups(), permutations=99), allow_nan=False))
    heaviest = summary["edges"][0]
    assert set(heaviest) == {"source", "target", "weight", "stability"}
    assert heaviest["weight"] == max(edge["weight"] for edge in summary["edges"])
    assert set(summary["centralities"]["a"]) == {"strength", "betweenness", "pagerank"}
    assert set(summary["communities"]) == {"average_linkage", "louvain"}


@pytest.mark.parametrize(
    ("kinds", "reason"), [("xxxxxxxx", "one category for all tasks"), ("stuvwxyz", "a category for each task")]
)
def test_categories_that_group_nothing_agree_with_nothing(kinds, reason):
    summary = graph.summary(matrix_of(two_groups(count=1).values, kinds), permutations=9)
    assert summary["ari_average_linkage"] is summary["ari_louvain"] is summary["nmi_louvain_p"] is None
    assert f"{reason}: there is no agreement to state" in summary["limitations"]
    assert len(set(summary["communities"]["average_linkage"].values())) == 2


def test_a_summary_of_three_tasks_states_that_it_has_no_communities():
    summary = graph.summary(
        matrix_of(np.full((1, 3, 3), 0.5), "xxy"), graph.task_graph(matrix_of(np.full((1, 3, 3), 0.5)), k=1)
    )
    assert summary["ari_louvain"] is None
    assert summary["ari_average_linkage_p"] is None
    assert any("no communities of 3 tasks" in sentence for sentence in summary["limitations"])
    assert any("at least two seeds" in sentence for sentence in summary["limitations"])


@given(seed=seeds, tasks=st.integers(4, 10))
@settings(max_examples=30, deadline=None)
def test_agreement_is_that_of_scikit_learn(seed, tasks):
    rng = np.random.default_rng(seed)
    labels, kinds = rng.integers(0, 3, tasks).tolist(), rng.integers(0, 3, tasks).tolist()
    found = communities.agreement(dict(enumerate(labels)), dict(enumerate(kinds)), permutations=19)
    assert np.isclose(found.ari, adjusted_rand_score(kinds, labels))
    assert np.isclose(found.nmi, normalized_mutual_info_score(kinds, labels))


def test_with_few_tasks_every_permutation_is_taken():
    labels = dict(zip("abcdef", [0, 0, 0, 1, 1, 1]))
    found = communities.agreement(labels, labels)
    assert found.permutations == 720
    assert np.isclose(found.ari_p, 1 / 10)  # ways to cut six tasks into two groups of three


def test_agreement_of_shuffled_categories_is_uniformly_significant():
    rng = np.random.default_rng(0)
    labels = dict(enumerate([0, 0, 0, 1, 1, 1, 2, 2, 2, 2]))
    shuffled = [dict(enumerate(rng.permutation(list(labels.values())).tolist())) for _ in range(300)]
    p = np.array(
        [communities.agreement(labels, categories, 199, seed).ari_p for seed, categories in enumerate(shuffled)]
    )
    assert (p <= 0.05).mean() <= 0.08


def test_edges_that_every_seed_shows_are_stable_and_others_are_not():
    matrix = two_groups()
    stability = graph.edge_stability(matrix, graph.task_graph(matrix, k=3))
    assert all(np.isclose(stability[pair], 1) for pair in itertools.combinations("abcd", 2))
    weak = graph.edge_stability(matrix, graph.task_graph(matrix, k=4))
    between = [value for (u, v), value in weak.items() if (u in "abcd") != (v in "abcd")]
    assert min(between) < 1


def test_a_task_without_a_corrected_value_in_one_seed_leaves_no_stability_and_says_so():
    matrix = two_groups(count=2)
    values = matrix.values.copy()
    values[1, 2, 2] = 0.02  # the own score of c does not exceed chance in the second seed
    matrix = matrix_of(values, list("xxxxyyyy"))
    found = graph.summary(matrix, graph.task_graph(matrix, k=2, value="corrected"), permutations=9)
    assert {edge["stability"] for edge in found["edges"]} == {None}
    assert any("7 of 56 cells have no corrected value in some seed" in line for line in found["limitations"])
    with pytest.raises(BadInput, match="7 of them have no corrected value in some seed"):
        graph.edge_stability(matrix, graph.task_graph(matrix, k=2, value="corrected"))
    assert graph.edge_stability(matrix, graph.task_graph(matrix, k=2))


def test_a_missing_score_outside_the_graph_does_not_stop_its_stability():
    matrix = two_groups(count=2)
    values = np.concatenate([matrix.values, np.full((2, 1, 8), np.nan)], axis=1)
    nothing = np.zeros(values.shape, bool)
    wider = replace(
        matrix, sources=(*matrix.sources, "z"), values=values, trivial=nothing, failed=nothing, categories={}
    )
    assert graph.edge_stability(wider, graph.task_graph(wider, k=2))


def test_the_bootstrap_of_few_seeds_is_enumerated_with_its_probabilities():
    resamples = list(build._resamples(3, 1000, 0))
    assert len(resamples) == 10
    assert np.isclose(sum(probability for _, probability in resamples), 1)
    drawn = list(build._resamples(8, 1000, 0))
    assert len(drawn) == 1000
    assert drawn == list(build._resamples(8, 1000, 0))


@pytest.mark.parametrize("directed", [False, True])
@pytest.mark.parametrize("suffix", [".graphml", ".gexf", ".json"])
def test_a_graph_is_written_and_read_back_with_its_attributes(tmp_path, suffix, directed):
    found = graph.task_graph(two_groups(), k=2, directed=directed)
    path = tmp_path / f"tasks{suffix}"
    graph.write(found, path)
    once = path.read_bytes()
    graph.write(found, path)
    assert path.read_bytes() == once
    readers = {
        ".graphml": nx.read_graphml,
        ".gexf": nx.read_gexf,
        ".json": lambda file: nx.node_link_graph(json.loads(file.read_text()), edges="edges"),
    }
    again = readers[suffix](path)
    assert again.is_directed() is directed
    assert {edge: round(again.edges[edge]["weight"], 12) for edge in again.edges} == {
        edge: round(found.edges[edge]["weight"], 12) for edge in found.edges
    }
    assert again.nodes["a"]["category"] == "x"
    assert list(tmp_path.iterdir()) == [path]


@given(seed=seeds, tasks=st.integers(2, 8))
@settings(max_examples=20, deadline=None)
def test_a_consistent_tournament_gives_its_weights_back(seed, tasks):
    w = np.random.default_rng(seed).uniform(0.2, 1, tasks)
    w /= w.sum()
    for vector, value in (sources.principal(w[:, None] / w), sources.ordinal(w[:, None] / (w[:, None] + w))):
        assert np.allclose(vector, w)
        assert np.isclose(value, tasks)


def test_contradictory_wins_raise_the_eigenvalue():
    circle = np.array([[0.5, 0.9, 0.1], [0.1, 0.5, 0.9], [0.9, 0.1, 0.5]])
    assert sources.ordinal(circle)[1] > 3.1


def test_win_rates_count_ties_half():
    rates = sources.win_rates(np.array([[1.0, 1, 0], [0, 1, 1]]))
    assert np.allclose(rates, 0.5)
    assert np.isclose(sources.win_rates(np.array([[1.0, 1, 0], [0, 1, 0]]))[0, 1], 2 / 3)


def test_ordinal_affinity_ranks_the_better_source_higher_and_leaves_out_the_target_itself():
    matrix = matrix_of(np.array([[[0.9, 0.2, 0.5], [0.3, 0.9, 0.6], [0.7, 0.1, 0.9]]] * 2))
    affinity = sources.ordinal_affinity(matrix)
    assert np.isnan(np.diag(affinity)).all()
    assert affinity[2, 0] > affinity[1, 0]
    assert np.allclose(np.nansum(affinity, axis=0), 1)


def test_ordinal_affinity_compares_examples_where_they_are_known():
    hits = {"a": [1, 1, 1, 0], "b": [1, 0, 0, 0], "c": [1, 1, 0, 0]}
    examples = {(0, s, t): np.array(hits[s], float) for s in "abc" for t in "abc"}
    affinity = sources.ordinal_affinity(matrix_of(np.full((1, 3, 3), 0.5), examples=examples))
    assert affinity[0, 1] > affinity[2, 1]


@given(seed=seeds, rows=st.integers(2, 9), targets=st.integers(1, 9), data=st.data())
@settings(max_examples=25, deadline=None)
def test_the_program_finds_what_looking_at_every_choice_finds(seed, rows, targets, data):
    rng = np.random.default_rng(seed)
    gains = rng.normal(size=(rows, targets))
    gains[rng.random(gains.shape) < 0.2] = np.nan
    untouched = rng.normal(size=targets)
    budget = data.draw(st.integers(1, rows))
    every = sources.choose(gains, budget, untouched, way="all")
    program = sources.choose(gains, budget, untouched, way="milp")
    assert np.isclose(every.value, program.value, atol=1e-6)
    assert len(program.sources) <= budget
    assert program.gap < 1e-3


def test_a_choice_says_who_serves_whom():
    gains = np.array([[0.9, 0.1, 0.2], [0.3, 0.8, 0.1], [0.2, 0.7, 0.15]])
    choice = sources.choose(gains, 2, untouched=np.array([0.0, 0.0, 0.5]))
    assert choice == sources.Choice((0, 1), (0, 1, -1), 0.9 + 0.8 + 0.5, 0.0, "all")


def test_many_sources_are_chosen_by_the_program_with_its_gap():
    choice = sources.choose(np.random.default_rng(0).random((40, 40)), 5)
    assert choice.way == "milp"
    assert len(choice.sources) == 5
    assert choice.gap <= 0.01


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: network.build("abc", np.eye(3), "knm"), "no kind of graph 'knm'; did you mean 'knn'"),
        (lambda: network.build("abc", np.eye(3), "knn", k=3), "at most 2 neighbours each; k = 3 was asked for"),
        (lambda: network.build("abc", np.eye(3), "threshold"), "a threshold graph needs a level"),
        (lambda: network.build("abc", np.eye(4)), r"found 3 tasks and a matrix of shape \(4, 4\)"),
        (lambda: network.build(["a", "a"], np.eye(2), k=1), "task names must differ"),
        (lambda: network.build("ab", np.array([[1, np.nan], [0, 1]]), k=1), "the weight of a → b is nan"),
        (
            lambda: network.build("ab", -np.ones((2, 2)), "disparity", level=0.1),
            "weights of at least 0; the least is -1",
        ),
        (lambda: graph.task_graph(two_groups(), value="C"), "no value 'C'; values: corrected, raw, relative"),
        (lambda: graph.edge_stability(two_groups(count=1), graph.task_graph(two_groups())), "has only one seed"),
        (lambda: graph.write(nx.Graph(), Path("x.dot")), "no graph format '.dot'"),
        (lambda: communities.average_linkage("abcd", np.eye(4), 5), "4 tasks cannot be cut into 5 clusters"),
        (lambda: communities.louvain(nx.path_graph(3)), "at least 4 tasks; found 3"),
        (lambda: communities.agreement(dict.fromkeys("abcd", 0), {"a": 1}), "the categories miss b, c, d"),
        (lambda: sources.choose(np.eye(3), 4), "a budget of 4 of 3 sources"),
        (lambda: sources.choose(np.full((2, 2), np.nan), 1), "no source may serve target number 0"),
        (
            lambda: sources.choose(np.where(np.eye(3), np.nan, 1), 1),
            "no choice of at most 1 sources serves every target",
        ),
        (lambda: sources.ordinal(np.ones((2, 3))), "square matrix of shares"),
        (lambda: sources.ordinal_affinity(two_groups(count=1)), "one score of each source on a"),
        (lambda: sources.win_rates(np.array([[np.nan]])), "without missing scores"),
    ],
)
def test_what_cannot_be_used_is_refused_with_a_sentence(call, message):
    with pytest.raises(BadInput, match=message):
        call()


def test_missing_cells_are_named():
    values = np.full((1, 4, 4), 0.5)
    values[0, 1, 2] = np.nan
    with pytest.raises(BadInput, match="1 cells of the transfer matrix have no relative value: b → c"):
        graph.task_graph(matrix_of(values))


@published
@pytest.mark.parametrize(
    ("backbone", "linkage", "louvain", "count"), [("Roberta", 0.80, 0.23, 28), ("T5Small", 0.61, 0.34, None)]
)
def test_published_matrices_give_the_known_agreement_with_categories(backbone, linkage, louvain, count):
    matrix = read_scores(PUBLISHED / f"zeroshot_{backbone}.csv", read_categories(PUBLISHED / "categories.json"))
    found = graph.summary(matrix, graph.task_graph(matrix, kind="knn", k=3), seed=0)
    assert round(found["ari_average_linkage"], 2) == linkage
    assert round(found["ari_louvain"], 2) == louvain
    assert found["ari_average_linkage_p"] < 0.01
    assert found["ari_louvain_p"] < 0.1
    assert count is None or len(found["edges"]) == count
    assert any("two seeds" in sentence for sentence in found["limitations"])
