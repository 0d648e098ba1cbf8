"""Subspaces of deltas: spectra, learned subspaces and their readouts, intrinsic dimension, projections."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from deltacompose_plugins.methods.reparameterization import projections
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.linalg import hadamard

from deltacompose.analysis import subspace
from deltacompose.analysis.subspace import autoencoder, readouts
from deltacompose.analysis.subspace import dimension_search as intrinsic
from deltacompose.analysis.subspace import random_baseline as directions
from deltacompose.errors import BadInput

PUBLISHED = Path(__file__).parents[4] / "shared" / "data" / "prompt_transferability"
published = pytest.mark.skipif(not PUBLISHED.exists(), reason="the published data is not laid beside the project")
KINDS = ("dense", "fastfood", "sketch")
of_every_projection = pytest.mark.parametrize("kind", KINDS)
seeds = st.integers(0, 2**31)


def low_dimensional(seed=0, tasks=12, parameters=60, dimensions=3, noise=0.0):
    rng = np.random.default_rng(seed)
    codes, directions = rng.normal(size=(tasks, dimensions)), rng.normal(size=(dimensions, parameters))
    return codes @ directions + noise * rng.normal(size=(tasks, parameters)) + 1.0


# Spectra


@given(k=st.integers(1, 40), value=st.floats(1e-12, 1e12), zeros=st.integers(0, 5))
@settings(max_examples=40)
def test_every_measure_of_rank_is_k_for_k_equal_singular_values(k, value, zeros):
    values = np.array([value] * k + [0.0] * zeros)
    for rank in (subspace.participation_ratio, subspace.effective_rank, subspace.stable_rank):
        assert np.isclose(rank(values), k)


@given(seed=seeds)
@settings(max_examples=30)
def test_measures_of_rank_lie_between_one_and_the_rank(seed):
    values = np.random.default_rng(seed).exponential(size=9)
    for rank in (subspace.participation_ratio, subspace.effective_rank, subspace.stable_rank):
        assert 1 <= rank(values) <= 9
        assert np.isclose(rank(values), rank(1000 * values))


def test_two_nn_finds_the_dimension_of_a_plane_in_a_wide_space():
    rng = np.random.default_rng(0)
    points = rng.normal(size=(1000, 3)) @ rng.normal(size=(3, 20))
    assert abs(subspace.two_nn(points) - 3) < 0.4


def test_two_nn_of_too_few_points_is_refused():
    with pytest.raises(BadInput, match="not to be trusted with 99 points; it needs at least 100"):
        subspace.two_nn(np.random.default_rng(0).normal(size=(99, 3)))


def test_two_nn_of_points_that_coincide_is_refused():
    with pytest.raises(BadInput, match="100 points coincide with another"):
        subspace.two_nn(np.tile(np.arange(50.0), 2)[:, None])


# Linear subspaces


@given(seed=seeds, dimensions=st.integers(1, 6))
@settings(max_examples=20, deadline=None)
def test_a_linear_subspace_decodes_what_lies_in_it(seed, dimensions):
    deltas = low_dimensional(seed, dimensions=dimensions)
    learned = subspace.learn(deltas, dimensions)
    assert np.allclose(learned.decode(learned.encode(deltas)), deltas)
    assert np.allclose(learned.basis @ learned.basis.T, np.eye(dimensions))
    assert np.allclose(learned.share(deltas), 1)


def test_encoding_what_was_decoded_gives_the_codes_back():
    learned = subspace.learn(low_dimensional(noise=0.1), 4)
    codes = np.random.default_rng(1).normal(size=(5, 4))
    assert np.allclose(learned.encode(learned.decode(codes)), codes)


def test_more_dimensions_than_the_deltas_span_are_refused():
    with pytest.raises(BadInput, match="the 12 deltas span 3 dimensions about their mean; a subspace of 4 is wanted"):
        subspace.learn(low_dimensional(), 4)


def test_what_other_tasks_hold_is_all_of_a_common_subspace():
    assert np.allclose(subspace.held_elsewhere(low_dimensional(), 3), 1)


def test_what_other_tasks_hold_is_what_the_others_principal_components_hold():
    deltas = low_dimensional(noise=1.0)
    expected = [subspace.learn(np.delete(deltas, i, 0), 4).share(deltas[i : i + 1])[0] for i in range(len(deltas))]
    assert np.allclose(subspace.held_elsewhere(deltas, 4), expected)


def test_what_random_deltas_hold_of_each_other_is_the_share_of_a_random_subspace():
    deltas = np.random.default_rng(0).normal(size=(30, 1000))
    summary = subspace.summary({f"task{i}": delta for i, delta in enumerate(deltas)}, dimensions=10)
    assert abs(summary["held_elsewhere_if_random"] - 0.01) < 0.002
    assert abs(np.mean(list(summary["held_elsewhere"].values())) - 0.01) < 0.003


def test_random_directions_drawn_by_bartlett_have_the_inner_products_of_normal_vectors():
    norms, rng = np.array([1.0, 2.0, 5.0]), np.random.default_rng(0)
    drawn = np.stack(list(directions.inner_products(norms, 7, draws=4000)))
    vectors = rng.normal(size=(4000, 3, 7))
    vectors *= norms[:, None] / np.linalg.norm(vectors, axis=2, keepdims=True)
    plain = vectors @ vectors.transpose(0, 2, 1)
    assert np.allclose(np.diagonal(drawn, axis1=1, axis2=2), norms**2)
    assert np.allclose(drawn.mean(axis=0), plain.mean(axis=0), atol=0.2)
    assert np.allclose(drawn.std(axis=0), plain.std(axis=0), rtol=0.06)
    wide = next(directions.inner_products(np.ones(5), 3, draws=1))
    assert np.linalg.matrix_rank(wide) == 3


def test_random_deltas_of_unequal_norms_lie_within_their_own_null():
    rng = np.random.default_rng(3)
    deltas = rng.normal(size=(12, 4000)) * np.geomspace(1, 40, 12)[:, None]
    summary = subspace.summary(dict(zip("abcdefghijkl", deltas)))
    random, found = summary["if_random"], float(np.mean(list(summary["held_elsewhere"].values())))
    assert found > 0.2 > 100 * 6 / 4000
    for name, value in {"held_elsewhere": found, **{n: summary[n] for n in subspace.RANKS}}.items():
        assert random[name]["mean"] == pytest.approx(value, rel=0.1), name
        assert random[name]["q05"] <= random[name]["mean"] <= random[name]["q95"]
    assert summary["unit_norm"]["participation_ratio"] > 10 > 3 * summary["participation_ratio"]
    assert any("norms of the deltas run from" in sentence for sentence in summary["limitations"])
    assert not any("norms" in line for line in subspace.summary(dict(zip("abcdef", np.eye(9))))["limitations"])


def test_the_null_of_what_is_given_back_is_what_principal_components_of_random_deltas_give_back():
    deltas = np.random.default_rng(0).normal(size=(8, 500)) * np.array([1, 1, 1, 5, 1, 1, 1, 1])[:, None]
    seen = np.arange(6)
    null = subspace.given_back_if_random(deltas, seen, 3)
    learned = subspace.learn(deltas[:6], 3)
    assert null["seen"]["mean"] == pytest.approx(learned.share(deltas[:6]).mean(), abs=0.05)
    assert null["unseen"]["mean"] == pytest.approx(learned.share(deltas[6:]).mean(), abs=0.05)
    assert subspace.given_back_if_random(deltas, np.arange(8), 3)["unseen"] is None


def test_deltas_that_are_all_alike_span_nothing_and_not_their_rounding():
    one = np.random.default_rng(0).normal(size=50) / 3
    assert not subspace.singular_values(np.stack([one] * 7)).any()
    with pytest.raises(BadInput, match="all alike span nothing"):
        subspace.summary(dict.fromkeys("abcdefg", one))


def test_a_subspace_of_as_many_dimensions_as_parameters_is_said_to_hold_anything():
    deltas = dict(zip("abcdefgh", np.random.default_rng(0).normal(size=(8, 4))))
    assert any("they hold any delta" in line for line in subspace.summary(deltas)["limitations"])
    assert not any("they hold any delta" in line for line in subspace.summary(deltas, 2)["limitations"])


def test_the_summary_of_a_stack_is_one_json_object_that_states_its_limits():
    deltas = low_dimensional(tasks=8)
    summary = json.loads(json.dumps(subspace.summary(dict(zip("abcdefgh", deltas))), allow_nan=False))
    assert summary["most_dimensions"] == 7
    assert np.isclose(summary["explained"][2], 1)
    assert summary["participation_ratio"] <= 3 + 1e-9
    assert summary["two_nn"] is None
    assert any("not to be trusted with 8 points" in sentence for sentence in summary["limitations"])


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: subspace.summary(dict(zip("abc", np.eye(3)))), "at least 4 tasks; found 3"),
        (lambda: subspace.summary({**dict(zip("abc", np.eye(3))), "d": np.ones(2)}), r"'d' has shape \(2,\)"),
        (lambda: subspace.summary(dict.fromkeys("abcd", np.ones(3))), "deltas that are all alike span nothing"),
        (
            lambda: subspace.summary({**dict(zip("abc", np.eye(3))), "d": np.full(3, np.nan)}),
            "'d' has 3 values that are",
        ),
        (lambda: subspace.held_elsewhere(np.eye(4), 3), "the others span at most 2 dimensions"),
        (lambda: subspace.stable_rank(np.array([1.0, -1.0])), "numbers of at least 0"),
    ],
)
def test_stacks_that_cannot_be_used_are_refused_with_a_sentence(call, message):
    with pytest.raises(BadInput, match=message):
        call()


@published
def test_published_prompts_span_nearly_all_that_they_can_and_hold_little_of_each_other():
    with np.load(PUBLISHED / "prompts_Roberta.npz") as file:
        summary = subspace.summary({name: file[name].ravel() for name in file.files})
    assert summary["parameters"] == 76800
    assert summary["most_dimensions"] == 13
    assert 1 < summary["participation_ratio"] <= 13
    assert all(0 <= share <= 1 for share in summary["held_elsewhere"].values())


# The autoencoder


@pytest.mark.parametrize("with_task_loss", [False, True])
def test_the_autoencoders_gradient_is_that_of_finite_differences(with_task_loss):
    rng = np.random.default_rng(0)
    deltas = rng.normal(size=(3, 5))
    network = autoencoder._initial(5, autoencoder.Settings(2, 4), rng)
    task_loss = (lambda given: (float((given**3).sum()), 3 * given**2)) if with_task_loss else None
    _, gradients = autoencoder.loss_and_gradients(network, deltas, 0.7, task_loss)
    for weight, gradient in zip(autoencoder._weights(network), gradients):
        for place in np.ndindex(weight.shape):
            losses = []
            for step in (1e-6, -2e-6):
                weight[place] += step
                losses.append(autoencoder.loss_and_gradients(network, deltas, 0.7, task_loss)[0])
            weight[place] += 1e-6
            assert np.isclose((losses[0] - losses[1]) / 2e-6, gradient[place], atol=1e-6)


@pytest.mark.parametrize("scale", [1e-3, 1.0, 100.0])
def test_the_autoencoder_reconstructs_a_stack_of_any_scale(scale):
    deltas = scale * low_dimensional(dimensions=2)
    network, losses = autoencoder.learn(deltas, autoencoder.Settings(2, 16, steps=800, learning_rate=1e-2), seed=0)
    error = np.square(network.decode(network.encode(deltas)) - deltas).mean() / np.square(deltas).mean()
    assert error < 0.02
    assert np.isclose(error, losses[-1], rtol=0.2)


def test_the_same_seed_gives_the_same_autoencoder():
    deltas, few = low_dimensional(), autoencoder.Settings(2, 4, steps=5)
    one, same, other = (autoencoder.learn(deltas, few, seed)[0] for seed in (0, 0, 1))
    assert np.array_equal(one.output_weight, same.output_weight)
    assert not np.array_equal(one.output_weight, other.output_weight)


def test_the_task_loss_draws_reconstructions_to_what_serves_the_task():
    deltas, aim = low_dimensional(dimensions=2), np.full(60, 5.0)

    def task_loss(given):
        return float(np.square(given - aim).mean()), 2 * (given - aim) / given.size

    chosen = autoencoder.Settings(2, 8, steps=1500, learning_rate=1e-2, alpha=1e-3)
    network, _ = autoencoder.learn(deltas, chosen, 0, task_loss)
    assert np.abs(network.decode(network.encode(deltas)) - aim).mean() < 0.5


@pytest.mark.parametrize(
    ("deltas", "chosen", "message"),
    [
        (np.ones(5), autoencoder.Settings(1, 2), r"at least 2 finite deltas \(tasks, parameters\); found shape \(5,\)"),
        (np.zeros((3, 5)), autoencoder.Settings(1, 2), "all zeros have no subspace"),
        (np.ones((3, 5)), autoencoder.Settings(0, 2), "dimensions, hidden and steps are at least 1"),
    ],
)
def test_an_autoencoder_that_cannot_be_learned_is_refused(deltas, chosen, message):
    with pytest.raises(BadInput, match=message):
        autoencoder.learn(deltas, chosen, 0)


# The six readouts


def outcome(task, way="tuned", data="new", score=0.8, own=1.0, chance=0.5, seed=0):
    return readouts.Readout(task, way, data, score, own, chance, seed)


CATEGORIES = {"imdb": "sentiment", "sst": "sentiment", "squad": "qa"}


def test_the_six_readouts_are_told_apart_by_task_way_and_data():
    given = [
        outcome("imdb", "reconstructed", "same"),
        outcome("sst", "reconstructed", "same"),
        outcome("imdb", data="same"),
        outcome("imdb"),
        outcome("sst"),
        outcome("squad"),
    ]
    assert [readouts.readout_of(one, {"imdb"}, CATEGORIES) for one in given] == list(readouts.READOUTS)


def test_a_readout_averages_tasks_and_not_seeds_and_names_what_the_corrected_one_leaves_out():
    given = [outcome("imdb", score=0.9), outcome("imdb", score=0.7), outcome("sst", score=0.5, own=0.52)]
    found = readouts.readouts(given, {"imdb", "sst"}, CATEGORIES)
    assert found["reconstruction_seen"] is None
    assert np.isclose(found["tuning_new_data"]["relative"], (0.8 + 0.5 / 0.52) / 2)
    assert np.isclose(found["tuning_new_data"]["corrected"], 0.6)
    assert found["tuning_new_data"]["left_out_of_corrected"] == ["sst"]
    assert json.loads(json.dumps(found)) == found


def test_a_readout_of_several_seeds_has_the_interval_of_their_means():
    scores = {"imdb": (0.9, 0.8, 0.7), "sst": (0.8, 0.8, 0.9)}
    given = [outcome(task, score=one, seed=k) for task, all_seeds in scores.items() for k, one in enumerate(all_seeds)]
    found = readouts.readouts(given, {"imdb", "sst"}, CATEGORIES)["tuning_new_data"]
    means = np.mean(list(scores.values()), axis=0)
    assert list(found["by_seed"]["relative"].values()) == pytest.approx(list(means))
    assert list(found["by_seed"]["corrected"].values()) == pytest.approx(list((means - 0.5) / 0.5))
    half = 4.302652730 * means.std(ddof=1) / np.sqrt(3)  # Student's t of two degrees of freedom
    interval = found["intervals"]["relative"]
    assert (interval["low"], interval["high"]) == pytest.approx((means.mean() - half, means.mean() + half))
    assert found["limitations"] == []


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ([outcome("imdb")], "one seed: nothing is known of the spread"),
        ([outcome("imdb"), outcome("imdb", seed=1), outcome("sst")], "they are not of the same tasks"),
        (
            [outcome("imdb", own=0.9), outcome("imdb", own=0.5, seed=1)],
            "with seed 1 an own score does not exceed chance by more than .05",
        ),
    ],
)
def test_a_readout_without_an_interval_says_why(given, said):
    found = readouts.readouts(given, {"imdb", "sst"}, CATEGORIES)["tuning_new_data"]
    assert found["intervals"]["corrected"] is None
    assert any(said in sentence for sentence in found["limitations"])


def test_a_readout_of_a_task_without_category_is_refused():
    with pytest.raises(BadInput, match="the categories miss mnli; they are given for imdb, sst, squad"):
        readouts.readouts([outcome("mnli")], {"imdb"}, CATEGORIES)


def test_a_readout_relative_to_nothing_is_refused():
    with pytest.raises(BadInput, match="the own score of 'sst' is 0"):
        readouts.readouts([outcome("sst", own=0)], {"imdb"}, CATEGORIES)


# Intrinsic dimension


@given(goal=st.integers(1, 300), at_once=st.integers(1, 4), resolution=st.sampled_from([0, 0.1, 0.5]))
@settings(max_examples=60)
def test_the_search_ends_at_the_least_point_of_the_grid_that_reaches_the_goal(goal, at_once, resolution):
    search = intrinsic.Search(1.0, 300, resolution=resolution, at_once=at_once)
    scores = {}
    while waiting := intrinsic.next_dimensions(search, scores):
        assert len(waiting) <= at_once
        assert not set(waiting) & set(scores)
        scores |= {d: float(d >= goal) for d in waiting}
    found = intrinsic.found(search, scores)
    assert found.d == min(d for d in intrinsic.grid(300, resolution) if d >= goal)
    assert found.below < goal <= found.d


@given(goal=st.integers(1, 60), cut=st.integers(0, 8))
@settings(max_examples=30)
def test_a_search_that_was_broken_off_goes_on_where_it_was(goal, cut):
    search, scores, order = intrinsic.Search(1.0, 64), {}, []
    while waiting := intrinsic.next_dimensions(search, scores):
        order += waiting
        scores |= {d: float(d >= goal) for d in waiting}
    again = {d: scores[d] for d in order[:cut]}
    while waiting := intrinsic.next_dimensions(search, again):
        again |= {d: float(d >= goal) for d in waiting}
    assert again == scores


def test_the_search_doubles_and_then_bisects_and_says_where_to_start_from():
    search = intrinsic.Search(full=0.9, most=64, floor=0.5)
    assert np.isclose(search.goal, 0.86)
    assert intrinsic.next_dimensions(search, {}) == (1,)
    assert intrinsic.next_dimensions(search, {1: 0.5, 2: 0.6, 4: 0.7, 8: 0.89}) == (6,)
    assert intrinsic.start_from(6, {1: 0.5, 2: 0.6, 4: 0.7, 8: 0.89}) == 4
    assert intrinsic.start_from(1, {2: 0.6}) is None


def test_a_search_whose_greatest_d_misses_the_goal_finds_none():
    found = intrinsic.d90(1.0, lambda d: 0.1, most=10)
    assert (found.d, found.below) == (None, 10)
    assert list(found.scores) == [1, 2, 4, 8, 10]


@of_every_projection
@given(s=st.integers(1, 12), seed=st.integers(0, 1000))
@settings(max_examples=8, deadline=None)
def test_a_quadratic_with_s_independent_constraints_has_d90_of_s(kind, s, seed):
    """Li et al. 2018: loss Σ (a_i·θ − b_i)² over s constraints of 400 parameters, score exp(−loss)."""
    rng = np.random.default_rng(seed)
    a, b = rng.normal(size=(s, 400)), 1e4 * rng.uniform(1, 2, size=s)

    def score_of(d):
        constants = projections.project(kind, seed, d, 400)
        p = torch.stack([projections.apply(constants, unit) for unit in torch.eye(d, dtype=torch.float64)]).T.numpy()
        theta = np.linalg.lstsq(a @ p, b, rcond=None)[0]
        return float(np.exp(-np.square(a @ p @ theta - b).sum()))

    assert intrinsic.d90(1.0, score_of, most=20, resolution=0).d == s


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: intrinsic.Search(0.5, 10, floor=0.5), "must exceed the floor 0.5"),
        (lambda: intrinsic.Search(0.5, 10, share=1.5), "a share in 0 to 1"),
        (lambda: intrinsic.found(intrinsic.Search(1, 10), {1: 0.0}), "not at its end: still to run d = 2"),
        (lambda: intrinsic.next_dimensions(intrinsic.Search(1, 10), {1: np.nan}), "the score of d = 1 is nan"),
    ],
)
def test_a_search_that_makes_no_sense_is_refused(call, message):
    with pytest.raises(BadInput, match=message):
        call()


# Projections


@of_every_projection
@pytest.mark.parametrize(("d", "size"), [(1, 1), (3, 10), (7, 7), (5, 33)])
def test_the_gradient_of_every_projection_is_right(kind, d, size):
    constants = projections.project(kind, 0, d, size)
    theta = torch.randn(d, dtype=torch.float64, generator=torch.Generator().manual_seed(0), requires_grad=True)
    assert torch.autograd.gradcheck(lambda t: projections.apply(constants, t), (theta,))
    assert torch.autograd.gradgradcheck(lambda t: projections.apply(constants, t), (theta,))


@of_every_projection
def test_the_gradient_of_a_projection_to_more_than_one_block_is_right(kind):
    """2500 numbers are three blocks of Fastfood, the last one cut."""
    constants = projections.project(kind, 0, 5, 2500)
    assert kind != "fastfood" or constants["gauss"].shape == (3, 1024)
    theta = torch.randn(5, dtype=torch.float64, generator=torch.Generator().manual_seed(0), requires_grad=True)
    apply = lambda t: projections.apply(constants, t)
    assert torch.autograd.gradcheck(apply, (theta,), fast_mode=True)
    assert torch.autograd.gradgradcheck(apply, (theta,), fast_mode=True)
    columns = torch.stack([apply(unit) for unit in torch.eye(5, dtype=torch.float64)])
    weights = torch.randn(2500, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    [gradient] = torch.autograd.grad((weights * apply(theta)).sum(), theta)
    assert torch.allclose(gradient, columns @ weights)


def test_fastfood_of_several_blocks_is_the_product_of_its_matrices():
    constants = {name: x.double() for name, x in projections.project("fastfood", 3, 5, 2500).items()}
    theta = np.random.default_rng(0).normal(size=5)
    H, padded = hadamard(1024), np.zeros(1024)
    padded[:5] = theta
    blocks = []
    for signs, order, gauss in zip(*(constants[name].numpy() for name in ("signs", "order", "gauss")), strict=True):
        blocks.append(H @ (gauss * (H @ (signs * padded))[order.astype(int)]))
    constants["order"] = constants["order"].long()
    assert np.allclose(projections.apply(constants, torch.tensor(theta)).numpy(), np.concatenate(blocks)[:2500])


@of_every_projection
@given(seed=seeds)
@settings(max_examples=10, deadline=None)
def test_every_projection_is_linear_and_repeats_with_its_seed(kind, seed):
    constants, again = (projections.project(kind, seed, 5, 50) for _ in range(2))
    one, other = torch.randn(2, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    assert all(torch.equal(constants[name], again[name]) for name in constants)
    together = projections.apply(constants, 2 * one - 3 * other)
    assert torch.allclose(together, 2 * projections.apply(constants, one) - 3 * projections.apply(constants, other))
    assert together.shape == (50,)


@of_every_projection
@pytest.mark.parametrize(("d", "size"), [(40, 20_000), (200, 20_001), (60, 33_333)])
def test_columns_have_norm_one(kind, d, size):
    constants = projections.project(kind, 1, d, size)
    columns = torch.func.vmap(lambda unit: projections.apply(constants, unit))(torch.eye(d))
    assert (columns.norm(dim=1) - 1).abs().max() <= 0.003
    assert (columns @ columns.T - torch.eye(d)).abs().max() < 0.05


@of_every_projection
def test_a_bank_of_projections_is_each_of_them(kind):
    bank = [projections.project(kind, seed, 4, 40) for seed in range(3)]
    thetas = torch.randn(3, 4, generator=torch.Generator().manual_seed(0))
    stacked = {name: torch.stack([constants[name] for constants in bank]) for name in bank[0]}
    together = torch.func.vmap(projections.apply)(stacked, thetas)
    assert torch.allclose(together, torch.stack([projections.apply(c, t) for c, t in zip(bank, thetas)]))
    shared = torch.func.vmap(projections.apply, in_dims=(None, 0))(bank[0], thetas)
    assert torch.allclose(shared, torch.stack([projections.apply(bank[0], theta) for theta in thetas]))


@pytest.mark.parametrize("n", [1, 2, 8, 64, 512])
def test_the_walsh_hadamard_transform_is_scipys(n):
    x = torch.randn(3, n, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    assert np.allclose(projections.hadamard(x).numpy(), x.numpy() @ hadamard(n))


@pytest.mark.parametrize(("kind", "small", "large"), [("dense", 3, 8), ("fastfood", 3, 500)])
def test_a_nested_projection_begins_with_the_smaller_one(kind, small, large):
    assert projections.nested(kind, small, large, 800)
    theta = torch.randn(small, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    padded = torch.nn.functional.pad(theta, (0, large - small))
    few, many = (projections.project(kind, 5, d, 800) for d in (small, large))
    assert torch.allclose(projections.apply(many, padded), projections.apply(few, theta), atol=1e-12)
    assert not projections.nested("fastfood", 3, 2000, 3000)
    assert not projections.nested("sketch", 4, 8, 800)


@of_every_projection
def test_the_transposed_projection_is_that(kind):
    constants = projections.project(kind, 5, 6, 50)
    rows = torch.func.vmap(lambda unit: projections.apply(constants, unit))(torch.eye(6, dtype=torch.float64))
    whole = torch.randn(50, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    assert torch.allclose(projections.transposed(constants, whole, 6), rows @ whole, atol=1e-12)


def test_a_learned_decoder_gives_what_the_analysis_decodes():
    deltas = low_dimensional()
    linear = subspace.learn(deltas, 2)
    network, _ = autoencoder.learn(deltas, autoencoder.Settings(2, 4, steps=3), 0)
    theta = np.array([0.3, -1.2])
    tensors = {"mean": torch.tensor(linear.mean), "basis": torch.tensor(linear.basis)}
    assert np.allclose(projections.decode(tensors, torch.tensor(theta)), linear.decode(theta[None])[0])
    names = ("hidden_weight", "hidden_bias", "output_weight", "output_bias")
    tensors = {name: torch.tensor(getattr(network, name)) for name in names}
    assert np.allclose(projections.decode(tensors, torch.tensor(theta)), network.decode(theta[None])[0])


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: projections.project("fastfod", 0, 1, 2), "no projection 'fastfod'; did you mean 'fastfood'"),
        (lambda: projections.project("dense", 0, 5, 4), "from 5 to 4 numbers"),
        (lambda: projections.project("dense", 0, 500, 22_000_000), "takes 41 GiB; take fastfood or sketch"),
        (lambda: projections.apply({}, torch.ones(1)), "do not describe a projection"),
        (
            lambda: projections.decode({"matrix": torch.ones(1)}, torch.ones(1)),
            "constants matrix do not describe a learned decoder",
        ),
    ],
)
def test_a_projection_that_makes_no_sense_is_refused(call, message):
    with pytest.raises(BadInput, match=message):
        call()
