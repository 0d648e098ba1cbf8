"""Similarity measures: formulas against their definitions, their invariances, and published prompts."""

import importlib
import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.linalg import subspace_angles
from scipy.optimize import minimize
from scipy.stats import multivariate_normal

from deltacompose.analysis import similarity
from deltacompose.analysis.similarity import compare as comparison
from deltacompose.analysis.similarity import subspaces as alignment
from deltacompose.analysis.similarity import transferability
from deltacompose.analysis.similarity.measure import NEEDS, Measure, Responses, compare, named
from deltacompose.errors import BadInput
from deltacompose.plugins import load

PUBLISHED = Path(__file__).parents[4] / "shared" / "data" / "prompt_transferability"
published = pytest.mark.skipif(not PUBLISHED.exists(), reason="the published data is not laid beside the project")

seeds = st.integers(0, 2**31)
MEASURES = {
    name: getattr(importlib.import_module(target.partition(":")[0]), target.partition(":")[2])
    for name, target in importlib.import_module("deltacompose_plugins.measures").MEASURES.items()
}
of_every_measure = pytest.mark.parametrize("measure", MEASURES.values(), ids=MEASURES)


def of(seed):
    return np.random.default_rng(seed)


def random_factors(rng, tasks=3, ranks=(2, 2, 2)):
    return [
        {place: (rng.normal(size=(7, rank)), rng.normal(size=(rank, 9))) for place in ("a", "b")}
        for rank in ranks[:tasks]
    ]


def arrays_for(measure, rng, tasks=4):
    """Random arrays of N tasks, as the measure needs them."""
    names = [f"task{i}" for i in range(tasks)]

    def responses(draw):
        return [Responses(rng.integers(0, 3, 40), [draw() for _ in names]) for _ in names]

    def probabilities():
        return rng.dirichlet(np.ones(3), 40)

    made = {
        "weights": lambda: rng.normal(size=(tasks, 30)),
        "prompts": lambda: rng.normal(size=(tasks, 12, 16)),
        "low_rank": lambda: random_factors(rng, tasks, (2, 3, 2, 1)),
        "activations": lambda: rng.normal(size=(tasks, 6, 20)),
        "gradients": lambda: [rng.normal(size=(5 + i, 30)) for i in range(tasks)],
        "drawn_gradients": lambda: [rng.normal(size=(5 + i, 30)) for i in range(tasks)],
        "predictions": lambda: responses(lambda: rng.integers(0, 3, 40)),
        "probabilities": lambda: responses(probabilities),
        "features": lambda: responses(lambda: rng.normal(size=(40, 5))),
    }
    return dict(zip(names, made[measure.needs]()))


@of_every_measure
def test_every_measure_gives_a_matrix_within_its_stated_range(measure):
    matrix = compare(measure, arrays_for(measure, of(0)))
    assert matrix.shape == (4, 4)
    assert (matrix >= measure.range[0]).all()
    assert (matrix <= measure.range[1]).all()


@of_every_measure
def test_a_measure_that_is_not_directed_is_symmetric(measure):
    matrix = compare(measure, arrays_for(measure, of(1)))
    assert np.allclose(matrix, matrix.T) is not measure.directed


@of_every_measure
def test_a_task_is_never_nearer_to_another_than_an_undirected_measure_says_it_is_to_itself(measure):
    if measure.directed or measure.name.startswith("prompt_token"):
        return  # the mean over all token pairs is the stated exception
    near = measure.nearness(compare(measure, arrays_for(measure, of(2))))
    same_size = measure.name != "delta_overlap_z"  # z grows with the number of dimensions
    assert not same_size or (near <= np.diag(near)[:, None] + 1e-6).all()


@of_every_measure
def test_every_measure_states_its_needs_invariances_and_source(measure):
    assert measure.needs in NEEDS
    assert len(measure.invariances) > 10
    assert len(measure.source) > 10


def test_listed_names_are_the_measures_own_names_and_enter_by_the_plugin_door():
    assert [measure.name for measure in MEASURES.values()] == list(MEASURES)
    assert set(MEASURES) <= set(load().measures)


@given(seeds)
@settings(max_examples=20, deadline=None)
def test_low_rank_measures_do_not_see_the_gauge(seed):
    rng = of(seed)
    tasks = random_factors(rng)
    turned = []
    for task in tasks:
        gauges = {place: rng.normal(size=(2, 2)) + 3 * np.eye(2) for place in task}
        turned.append({p: (up @ np.linalg.inv(gauges[p]), gauges[p] @ down) for p, (up, down) in task.items()})
    for name in ("delta_cosine", "delta_overlap", "delta_overlap_z", "delta_geodesic"):
        before, after = (MEASURES[name].function(arrays) for arrays in (tasks, turned))
        assert np.allclose(before, after, atol=1e-6), name


def test_the_flattened_factors_do_see_the_gauge():
    rng = of(0)
    up, down, gauge = rng.normal(size=(7, 2)), rng.normal(size=(2, 9)), np.diag([5.0, 0.2])
    flat = [
        similarity.flatten({"up": u, "down": d}) for u, d in ((up, down), (up @ np.linalg.inv(gauge), gauge @ down))
    ]
    assert similarity.cosine(np.stack(flat))[0, 1] < 0.99


@given(seeds, st.lists(st.integers(1, 4), min_size=3, max_size=3))
@settings(max_examples=20, deadline=None)
def test_inner_products_from_factors_are_those_of_the_dense_changes(seed, ranks):
    tasks = random_factors(of(seed), 3, ranks)
    dense = np.stack([np.concatenate([(up @ down).ravel() for up, down in task.values()]) for task in tasks])
    assert np.allclose(similarity.delta_inner_products(tasks), dense @ dense.T)
    assert np.allclose(similarity.delta_cosine(tasks), similarity.cosine(dense))


def test_inner_products_of_more_tasks_than_fit_at_once_are_the_same():
    tasks = [random_factors(of(i), 1)[0] for i in range(70)]
    dense = np.stack([np.concatenate([(up @ down).ravel() for up, down in task.values()]) for task in tasks])
    assert np.allclose(similarity.delta_inner_products(tasks), dense @ dense.T)


def test_low_rank_factors_are_found_in_a_deltas_tensors_and_an_adapter_is_not_taken_for_them():
    lora = {"0.0.encoder.0.attention.query.up": np.ones((3, 1)), "0.0.encoder.0.attention.query.down": np.ones((1, 4))}
    adapter = {f"0.1.encoder.0.attention.{name}": np.ones((2, 2)) for name in ("up", "down", "up_bias", "down_bias")}
    assert list(similarity.low_rank(lora | adapter)) == ["0.0.encoder.0.attention.query"]
    with pytest.raises(BadInput, match="no place has just the tensors 'up' and 'down'"):
        similarity.low_rank(adapter)


def test_token_cosine_is_the_mean_over_all_token_pairs_and_not_one_with_itself():
    prompts = of(0).normal(size=(2, 5, 6))
    unit = prompts / np.linalg.norm(prompts, axis=2, keepdims=True)
    pairs = np.einsum("itw,jsw->ijts", unit, unit)
    assert np.allclose(similarity.token_cosine(prompts), pairs.mean(axis=(2, 3)))
    assert similarity.token_cosine(prompts)[0, 0] < 1


def test_token_closeness_is_one_over_one_plus_the_mean_distance_of_all_token_pairs():
    """Tokens 0 and 2 against 1 and 5 are 1, 5, 1 and 3 apart, 2.5 on average; each prompt's own are 1 and 2 apart."""
    prompts = np.array([[[0.0, 0], [2, 0]], [[1, 0], [5, 0]]])
    assert np.allclose(similarity.token_closeness(prompts), [[1 / 2, 1 / 3.5], [1 / 3.5, 1 / 3]])
    apart = np.array([[[0.0, 0], [0, 0]], [[3, 4], [3, 4]]])
    assert np.allclose(similarity.token_closeness(apart), [[1, 1 / 6], [1 / 6, 1]])


def test_gradient_cosine_is_that_of_the_mean_gradients_and_not_the_mean_of_cosines():
    one = np.array([[3.0, 0], [-1, 0]])  # mean (1, 0)
    other = np.array([[0.0, 4], [2, 0], [1, -1]])  # mean (1, 1)
    against = np.array([[-5.0, 0]])
    half = np.sqrt(0.5)
    assert np.allclose(
        similarity.gradient_cosine([one, other, against]), [[1, half, -1], [half, 1, -half], [-1, -half, 1]]
    )


def test_mean_cosine_is_that_of_the_average_tokens():
    one, other = np.array([[3.0, 0], [0, 1]]), np.array([[0.0, 2], [0, 4]])
    found = compare(MEASURES["prompt_mean_cosine"], {"one": one, "other": other})
    assert np.allclose(found, [[1, 1 / np.sqrt(10)], [1 / np.sqrt(10), 1]])  # of (1.5, 0.5) and (0, 3)
    assert np.isclose(similarity.token_cosine(np.stack([one, other]))[0, 1], 0.5)  # of (1, 0), (0, 1) and (0, 1) twice


@given(seeds)
@settings(max_examples=20, deadline=None)
def test_mean_cosine_sees_neither_the_order_of_tokens_nor_a_prompts_scale_but_that_of_one_token(seed):
    rng = of(seed)
    prompts = rng.normal(size=(3, 5, 6))
    moved = np.stack([scale * prompt[rng.permutation(5)] for scale, prompt in zip((0.5, 2, 9), prompts)])
    found = compare(MEASURES["prompt_mean_cosine"], dict(zip("abc", prompts)))
    assert np.allclose(found, compare(MEASURES["prompt_mean_cosine"], dict(zip("abc", moved))))
    prompts[0, 0] *= 50
    longer = dict(zip("abc", prompts))
    assert not np.allclose(found, compare(MEASURES["prompt_mean_cosine"], longer))


def test_the_two_cosines_of_spot_are_credited_to_it_and_the_flattened_one_is_not():
    assert all("2110.07904" in MEASURES[f"prompt_{which}_cosine"].source for which in ("mean", "token"))
    assert all("2110.07904" not in MEASURES[name].source for name in ("prompt_cosine", "weight_cosine"))


def test_prompt_closeness_is_one_over_one_plus_the_distance():
    prompts = np.stack([np.zeros((2, 2)), np.full((2, 2), 1.5)])
    assert np.allclose(similarity.prompt_closeness(prompts), [[1, 0.25], [0.25, 1]])


@given(seeds)
@settings(max_examples=20, deadline=None)
def test_prompt_similarities_do_not_see_a_common_rotation(seed):
    rng = of(seed)
    prompts = rng.normal(size=(3, 11, 13))
    rotation = np.linalg.qr(rng.normal(size=(13, 13)))[0]
    for measure in MEASURES.values():
        if measure.needs == "prompts":
            assert np.allclose(measure.function(prompts), measure.function(prompts @ rotation), atol=1e-6), measure.name


def test_procrustes_does_not_see_a_rotation_of_one_prompt_and_its_rotation_is_found():
    rng = of(3)
    prompt = rng.normal(size=(20, 8))
    turn = np.linalg.qr(rng.normal(size=(8, 8)))[0]
    assert np.allclose(alignment.rotation(prompt, prompt @ turn), turn)
    assert alignment.procrustes(np.stack([prompt, 3 * prompt @ turn]))[0, 1] < 1e-6


def test_procrustes_distance_is_that_of_the_best_rotation():
    a, b = (x / np.linalg.norm(x) for x in of(4).normal(size=(2, 6, 9)))
    aligned = np.linalg.norm(a @ alignment.rotation(a, b) - b)
    assert np.isclose(alignment.procrustes(np.stack([a, b]))[0, 1], aligned)


def test_overlap_null_has_the_known_mean_and_variance():
    mean, variance = alignment.overlap_null(128, 8, 16)
    assert mean == 0.125
    assert round(variance, 5) == 0.01272


def test_overlap_of_random_subspaces_follows_its_null():
    rng = of(5)
    u = alignment.orthonormal(rng.normal(size=(150, 32, 3)))
    v = alignment.orthonormal(rng.normal(size=(150, 32, 5)))
    z = alignment.overlap_z(u, v)
    assert abs(z.mean()) < 0.05
    assert abs(z.std() - 1) < 0.05
    assert abs(alignment.overlap_above_chance(u, v).mean()) < 0.01


def test_overlap_is_one_where_one_subspace_holds_the_other_and_zero_where_they_are_orthogonal():
    axes = np.eye(6)
    assert np.allclose(alignment.overlap(axes[None, :, :2], axes[None, :, :4]), 1)
    assert np.allclose(alignment.overlap_above_chance(axes[None, :, :2], axes[None, :, :4]), 1)
    assert np.allclose(alignment.overlap(axes[None, :, :2], axes[None, :, 2:4]), 0)


@given(seeds, st.integers(1, 4), st.integers(1, 4))
@settings(max_examples=20, deadline=None)
def test_principal_angles_are_scipys(seed, i, j):
    rng = of(seed)
    u = alignment.orthonormal(rng.normal(size=(2, 10, i)))
    v = alignment.orthonormal(rng.normal(size=(3, 10, j)))
    for a in range(2):
        for b in range(3):
            assert np.allclose(alignment.principal_angles(u, v)[a, b], subspace_angles(u[a], v[b])[::-1])


def test_small_principal_angles_are_not_lost():
    angle = 1e-10
    u, v = np.eye(4)[:, :1], np.array([[np.cos(angle), np.sin(angle), 0, 0]]).T
    assert np.isclose(alignment.principal_angles(u[None], v[None])[0, 0, 0], angle, rtol=1e-6)


def test_neuron_overlap_is_the_cosine_of_what_is_active():
    activations = np.array([[[1.0, -1, 2, 0]], [[0.5, 3, -2, -1]], [[-1, 9, -1, -1]]])
    assert np.allclose(similarity.neuron_overlap(activations)[0, 1:], [0.5, 0])


def test_neuron_overlap_is_given_for_every_window_of_layers():
    activations = of(6).normal(size=(3, 7, 10))
    windows = similarity.neuron_overlap_windows(activations)
    assert windows.shape == (3, 3, 3)
    assert np.array_equal(windows[0], similarity.neuron_overlap(activations[:, :3]))


class Activated:
    """Deltas of two seeds that have activations and nothing else."""

    tasks, seeds = ("a", "b", "c"), (0, 1)

    def read(self, need, seed):
        if need != "activations":
            raise BadInput("activations alone")
        return {task: of(10 * seed + i).normal(size=(7, 10)) for i, task in enumerate(self.tasks)}


def test_the_windows_of_a_comparison_are_the_means_over_its_seeds():
    deltas = Activated()
    one = comparison.compare_all(MEASURES, deltas, ["neuron_overlap"])[0]["neuron_overlap"]
    found = comparison.windows(one, deltas)
    assert [part["layers"] for part in found] == [[0, 1, 2], [3, 4, 5], [6]]
    seeds = [np.stack(list(deltas.read("activations", seed).values()))[:, 3:6] for seed in (0, 1)]
    assert np.allclose(found[1]["matrix"], np.mean([similarity.neuron_overlap(x) for x in seeds], axis=0))


def test_a_window_in_which_a_task_is_silent_has_no_overlap():
    activations = np.ones((2, 6, 4))
    activations[1, :3] = -1
    windows = similarity.neuron_overlap_windows(activations)
    assert np.isnan(windows[0]).all()
    assert np.allclose(windows[1], 1)


def test_task2vec_is_zero_for_identical_tasks_and_one_for_disjoint_ones():
    one, other = np.array([[1.0, 2, 0, 0]]), np.array([[0.0, 0, 3, 1]])
    assert np.allclose(similarity.task2vec([one, one, other]), [[0, 0, 1], [0, 0, 1], [1, 1, 0]])


def test_task2vec_sees_the_gauge_of_one_tasks_factors_and_says_so():
    """A → GA turns ∂A into G⁻ᵀ ∂A; a scale of a parameter that all tasks share does nothing."""
    drawn = of(11).normal(size=(2, 50, 6))
    gauge = np.array([5.0, 5, 5, 0.2, 0.2, 0.2])
    before, shared = similarity.task2vec(list(drawn)), similarity.task2vec(list(drawn * gauge))
    turned = similarity.task2vec([drawn[0], drawn[1] * gauge])
    assert np.allclose(before, shared)
    assert turned[0, 1] > before[0, 1] + 0.1
    assert "nor the gauge of its low-rank factors" in MEASURES["task2vec"].invariances


def test_the_fisher_diagonal_of_a_logistic_model_is_the_known_one():
    """∂ log p(y|x) = (y − p) x with y drawn from p, so F = E p(1 − p) x²."""
    rng = of(7)
    x = np.tile(rng.normal(size=(1, 3)), (200_000, 1))
    y = rng.random(len(x)) < 0.3
    assert np.allclose(similarity.fisher_diagonal((y - 0.3)[:, None] * x), 0.21 * x[0] ** 2, rtol=0.02)


def test_leep_of_an_uninformed_source_is_minus_the_entropy_of_the_labels():
    labels = np.array(["a"] * 3 + ["b"] * 5)
    shares = np.array([3, 5]) / 8
    uniform = np.full((8, 4), 0.25)
    assert np.isclose(
        transferability.log_expected_empirical_prediction(uniform, labels), (shares * np.log(shares)).sum()
    )


def test_leep_of_a_perfect_source_is_zero():
    labels = np.array([0, 1, 2, 1])
    assert transferability.log_expected_empirical_prediction(np.eye(3)[labels], labels) == 0


def test_nce_is_zero_for_identical_answers_and_minus_log_two_for_independent_balanced_ones():
    labels, other = np.array([0, 0, 1, 1]), np.array(["x", "y", "x", "y"])
    assert transferability.negative_conditional_entropy(labels, labels) == 0
    assert transferability.negative_conditional_entropy(1 - labels, labels) == 0
    assert np.isclose(transferability.negative_conditional_entropy(other, labels), -np.log(2))


@pytest.mark.parametrize("width", [3, 30])
def test_logme_is_the_greatest_evidence_of_the_exact_gaussian(width):
    rng = of(8)
    features = rng.normal(size=(20, width))
    y = features[:, 0] + 0.5 * rng.normal(size=20)

    def minus_evidence(logs):
        cover = features @ features.T / np.exp(logs[0]) + np.eye(20) / np.exp(logs[1])
        return -multivariate_normal(np.zeros(20), cover).logpdf(y) / 20

    best = min(minimize(minus_evidence, start, method="Nelder-Mead").fun for start in ([0, 0], [2, 2]))
    assert np.isclose(transferability.log_maximum_evidence(features, y), -best, atol=1e-3)


def test_logme_prefers_features_that_separate_the_labels():
    rng = of(9)
    labels = rng.integers(0, 3, 60)
    good = np.eye(3)[labels] + 0.1 * rng.normal(size=(60, 3))
    score = transferability.log_maximum_evidence
    assert score(good, labels) > score(rng.normal(size=(60, 3)), labels) + 0.5


def test_the_rows_of_a_directed_measure_are_sources_and_its_columns_targets():
    """The first source tells both targets' labels; the second tells nothing of either. Transposed, that is false."""
    labels = {"x": np.array(["a", "a", "b", "b"]), "y": np.array(["c", "d", "c", "d"])}
    knowing = {"x": np.array([0, 0, 1, 1]), "y": np.array([0, 1, 0, 1])}
    blind = np.array([0, 1, 1, 0])

    def given(of_answers):
        return {
            task: Responses(labels[task], [of_answers(knowing[task], True), of_answers(blind, False)])
            for task in labels
        }

    expected = [[0, 0], [-np.log(2), -np.log(2)]]
    assert np.allclose(compare(MEASURES["nce"], given(lambda answers, _: answers)), expected)
    shares = given(lambda answers, knows: np.eye(2)[answers] if knows else np.full((4, 2), 0.5))
    assert np.allclose(compare(MEASURES["leep"], shares), expected)
    features = given(lambda answers, knows: np.eye(2)[answers] + 0.01 * of(knows).normal(size=(4, 2)))
    found = compare(MEASURES["logme"], features)
    for s in range(2):
        for t, target in enumerate(features.values()):
            assert found[s, t] == transferability.log_maximum_evidence(target.by_source[s], target.labels)
    assert found[0].min() > found[1].max()


def test_prediction_agreement_is_the_share_of_like_answers():
    target = Responses(np.array(["a", "b"]), [np.array(["a", "b"]), np.array(["a", "a"])])
    assert np.allclose(similarity.prediction_agreement([target, target]), [[1, 0.5], [0.5, 1]])


def test_an_unknown_measure_is_refused_with_the_nearest_spelling():
    with pytest.raises(BadInput, match="no measure 'prompt_cosin'; did you mean 'prompt_cosine'"):
        named("prompt_cosin", MEASURES)


def test_prompts_of_unequal_shapes_are_refused_by_name():
    prompts = {"qa": np.ones((100, 8)), "nli": np.ones((50, 8))}
    with pytest.raises(
        BadInput, match=r"'nli' has shape \(50, 8\) and 'qa' \(100, 8\); all tasks need the same \(tokens"
    ):
        compare(MEASURES["prompt_cosine"], prompts)


def test_one_task_alone_is_refused():
    with pytest.raises(BadInput, match="at least 2 are needed, 1 given"):
        compare(MEASURES["prompt_cosine"], {"qa": np.ones((100, 8))})


def test_values_that_are_not_finite_are_refused_by_name():
    prompts = {"qa": np.ones((4, 8)), "nli": np.full((4, 8), np.nan)}
    with pytest.raises(BadInput, match="'nli' has 32 values that are not finite"):
        compare(MEASURES["prompt_cosine"], prompts)


@pytest.mark.parametrize("name", ["prompt_cosine", "prompt_mean_cosine", "prompt_token_cosine", "prompt_procrustes"])
def test_a_prompt_of_zeros_has_no_direction(name):
    with pytest.raises(BadInput, match="all zeros"):
        compare(MEASURES[name], {"qa": np.ones((4, 8)), "nli": np.zeros((4, 8))})


def test_a_measure_that_is_undefined_between_two_tasks_names_them():
    odd = Measure("odd", "weights", lambda arrays: np.where(np.eye(2), 1, np.nan), (-9, 9), "none", "this test")
    with pytest.raises(BadInput, match="odd is undefined between 'a' and 'b'"):
        compare(odd, {"a": np.array([2.0, 0]), "b": np.array([0, 2.0])})


def test_factors_at_other_places_are_refused():
    first, second = random_factors(of(0), 2)
    with pytest.raises(BadInput, match="all need the same places"):
        compare(MEASURES["delta_cosine"], {"x": first, "y": {"a": second["a"]}})


def test_factors_whose_ranks_disagree_are_refused():
    with pytest.raises(BadInput, match="their ranks must agree"):
        compare(MEASURES["delta_cosine"], {task: {"a": (np.ones((4, 2)), np.ones((3, 4)))} for task in "xy"})


def test_probabilities_that_do_not_sum_to_one_are_refused():
    with pytest.raises(BadInput, match="LEEP needs probabilities"):
        transferability.log_expected_empirical_prediction(np.ones((2, 2)), np.array([0, 1]))


def test_answers_that_miss_an_example_are_refused():
    target = Responses(np.arange(3), [np.arange(3), np.arange(2)])
    with pytest.raises(BadInput, match="'b' has 2 answers on target 'a', which has 3 examples"):
        compare(MEASURES["nce"], {"a": target, "b": target})


def test_dependent_columns_have_no_basis():
    with pytest.raises(BadInput, match="dependent columns"):
        alignment.orthonormal(np.ones((1, 5, 2)))


def test_a_window_of_more_layers_than_there_are_is_refused():
    with pytest.raises(BadInput, match="a window of 3 layers does not fit in 2 layers"):
        similarity.neuron_overlap_windows(np.ones((2, 2, 4)))


@published
@pytest.mark.parametrize(
    ("backbone", "cosine_mantel", "overlap_mantel", "overlap_ndcg"),
    [("Roberta", 0.01, 0.38, 0.970), ("T5Small", 0.70, 0.43, 0.920)],
)
def test_published_prompts_give_the_known_agreement_with_transfer(
    backbone, cosine_mantel, overlap_mantel, overlap_ndcg
):
    names, relative = _relative(backbone)
    with np.load(PUBLISHED / f"prompts_{backbone}.npz") as file:
        prompts = {name: file[name] for name in names}
    upper = np.triu_indices(len(names), 1)

    def mantel(matrix):
        return np.corrcoef(matrix[upper], ((relative + relative.T) / 2)[upper])[0, 1]

    assert round(mantel(compare(MEASURES["prompt_cosine"], prompts)), 2) == cosine_mantel
    overlap = compare(MEASURES["prompt_overlap"], prompts)
    assert round(mantel(overlap), 2) == overlap_mantel
    assert round(_ndcg(overlap, relative), 3) == overlap_ndcg


def _relative(backbone):
    """The tasks of a published matrix and its scores relative to each target's own."""
    header, *rows = [line.split(",") for line in (PUBLISHED / f"zeroshot_{backbone}.csv").read_text().splitlines()]
    names, scores = header[1:], {name: [float(x) for x in values] for name, *values in rows}
    assert set(names) <= set(json.loads((PUBLISHED / "categories.json").read_text()))
    raw = np.array([scores[name] for name in names])
    return names, raw / np.diag(raw)


def _ndcg(similarity_matrix, relative):
    values = []
    for target in range(len(relative)):
        others = np.arange(len(relative)) != target
        gain, score = relative[others, target], similarity_matrix[others, target]
        discount = 1 / np.log2(np.arange(len(gain)) + 2)
        values.append((gain[np.argsort(-score)] * discount).sum() / (np.sort(gain)[::-1] * discount).sum())
    return np.mean(values)
