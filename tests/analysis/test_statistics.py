"""Intervals, many tests at once, permutation tests of matrices, reliability and symmetry."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from scipy import stats

from deltacompose.analysis.permutation import label_test, mantel, qap
from deltacompose.analysis.statistics import (
    adjusted,
    asymmetry,
    correlation,
    disattenuated,
    estimate,
    estimates,
    lengthened,
    reliability,
)
from deltacompose.errors import BadInput

X = np.array([[0.0, 1, 2], [1, 0, 3], [2, 3, 0]])
Y = np.array([[0.0, 2, 7], [2, 0, 6], [7, 6, 0]])
laws = settings(max_examples=40, deadline=None)


def symmetric(n: int, seed: int) -> np.ndarray:
    values = np.random.default_rng(seed).normal(size=(n, n))
    return values + values.T


# -- intervals ---------------------------------------------------------------------------------------------------------


@laws
@given(st.lists(st.floats(0, 1), min_size=2, max_size=8), st.floats(0.1, 10), st.floats(-5, 5))
def test_intervals_move_and_stretch_with_the_scores(per_seed, scale, shift):
    assume(np.ptp(per_seed) > 1e-3)
    one, other = estimate(np.array(per_seed)), estimate(np.array(per_seed) * scale + shift)
    assert other.value == pytest.approx(one.value * scale + shift)
    assert other.low == pytest.approx(one.low * scale + shift)
    assert other.high == pytest.approx(one.high * scale + shift)


@laws
@given(st.integers(0, 10_000), st.integers(1, 5))
def test_p_is_below_a_twentieth_exactly_where_the_interval_leaves_zero_out(seed, seeds):
    generator = np.random.default_rng(seed)
    scores = generator.normal(0.1, 1, (seeds, 30)) + generator.normal(0, 0.2, (seeds, 1))
    found = estimate(scores.mean(axis=1), [scores])
    assert (found.p < 0.05) == (found.low > 0 or found.high < 0)


def test_without_examples_the_interval_is_students():
    scores = np.array([0.5, 0.7, 0.9])
    found = estimate(scores)
    low, high = stats.t.interval(0.95, 2, scores.mean(), stats.sem(scores))
    assert (found.low, found.high) == (pytest.approx(low), pytest.approx(high))
    assert found.p == pytest.approx(stats.ttest_1samp(scores, 0).pvalue)
    assert found.covers == "seeds"


def test_with_one_seed_the_interval_is_that_of_the_examples_and_says_so():
    scores = np.random.default_rng(0).random((1, 100))
    found = estimate(scores.mean(axis=1), [scores])
    low, high = stats.t.interval(0.95, 99, scores.mean(), stats.sem(scores[0]))
    assert (found.low, found.high) == (pytest.approx(low), pytest.approx(high))
    assert found.covers == "examples"


def test_one_seed_alone_gives_a_value_and_no_interval():
    found = estimate(np.array([0.7]))
    assert found.value == 0.7
    assert np.isnan([found.low, found.high, found.p]).all()
    assert found.covers == "nothing"


def test_seeds_without_spread_are_no_proof_of_certainty():
    found = estimate(np.array([0.7, 0.7, 0.7]))
    assert np.isnan([found.low, found.high, found.p]).all()


def test_examples_that_all_seeds_share_do_not_average_out_over_seeds():
    generator = np.random.default_rng(0)
    difficulty = generator.normal(0, 1, 100)
    scores = np.tile(difficulty, (8, 1)) + generator.normal(0, 0.01, (8, 100))
    found = estimate(scores.mean(axis=1), [scores])
    assert found.error == pytest.approx(difficulty.std(ddof=1) / 10, rel=0.05)


def test_estimates_refuse_unknown_values_and_influences_of_other_seeds():
    with pytest.raises(BadInput, match="a known value per seed"):
        estimate(np.array([0.5, np.nan]))
    with pytest.raises(BadInput, match="a known value per seed, found"):
        estimate(np.array([]))
    with pytest.raises(BadInput, match=r"influences of shape \(3, 9\), expected \(2, examples\)"):
        estimate(np.array([0.5, 0.6]), [np.zeros((3, 9))])


@laws
@given(st.integers(0, 10_000), st.integers(1, 5), st.sampled_from([None, 2, 5, 40]), st.booleans())
def test_many_cells_at_once_have_the_estimates_of_each(seed, seeds, examples, counts):
    generator = np.random.default_rng(seed)
    scores = generator.normal(0.05 * generator.integers(0, 8, (30, 1, 1)), 0.3, (30, seeds, examples or 9))
    scores = scores.round() if counts else scores + generator.normal(0, 0.05, (30, seeds, 1))
    scores[0], scores[1] = 0.5, -scores[2]
    means = scores.mean(axis=2)
    found = estimates(means, None if examples is None else scores)
    single = [estimate(mean, [] if examples is None else [cell]) for mean, cell in zip(means, scores, strict=True)]
    for name in ("value", "low", "high", "error", "p"):
        expected = [getattr(each, name) for each in single]
        np.testing.assert_allclose(getattr(found, name), expected, rtol=0, atol=1e-12)
    assert found.covers == tuple(each.covers for each in single)


def test_estimates_of_cells_refuse_what_does_not_fit():
    with pytest.raises(BadInput, match=r"\(cells, seeds\) of known values, found shape \(2,\)"):
        estimates(np.zeros(2))
    with pytest.raises(BadInput, match=r"influences of shape \(2, 3, 1\), expected \(2, 3\) and two examples"):
        estimates(np.zeros((2, 3)), np.zeros((2, 3, 1)))


# -- many tests --------------------------------------------------------------------------------------------------------


@laws
@given(st.lists(st.floats(0, 1), min_size=1, max_size=30))
def test_adjusting_raises_p_keeps_its_order_and_is_stricter_under_dependence(p):
    p = np.array(p)
    bh, by = adjusted(p), adjusted(p, dependent=True)
    assert (bh >= p - 1e-12).all()
    assert (by >= bh - 1e-12).all()
    assert (np.diff(bh[np.argsort(p)]) >= -1e-12).all()


def test_uniform_p_values_give_false_discoveries_at_the_promised_rate():
    p = np.random.default_rng(0).random((2000, 50))
    rate = np.mean([(adjusted(row) <= 0.1).any() for row in p])
    assert rate == pytest.approx(0.1, abs=0.02)


def test_unknown_tests_stay_unknown_and_do_not_count():
    p = np.array([[0.01, np.nan], [0.04, np.nan]])
    assert adjusted(p)[0, 0] == pytest.approx(0.02)
    assert np.isnan(adjusted(p)[:, 1]).all()
    with pytest.raises(BadInput, match="a p-value lies between 0 and 1"):
        adjusted(np.array([1.2]))


# -- matrices against matrices -----------------------------------------------------------------------------------------


def test_the_published_example_of_mantel_and_its_exact_p():
    found = mantel(X, Y)
    assert found.statistic == pytest.approx(0.7559289, abs=1e-7)
    assert found.exact
    assert found.arrangements == 6
    upper = np.triu_indices(3, 1)
    null = [np.corrcoef(X[np.ix_(p, p)][upper], Y[upper])[0, 1] for p in itertools.permutations(range(3))]
    assert found.p == np.mean(np.array(null) >= found.statistic - 1e-9)
    assert found.least_p == 1 / 6


@laws
@given(st.integers(0, 1000), st.permutations(range(5)), st.floats(0.1, 5), st.floats(-3, 3))
def test_mantel_does_not_change_when_both_are_relabelled_or_one_is_rescaled(seed, order, scale, shift):
    x, y = symmetric(5, seed), symmetric(5, seed + 1)
    one, other = mantel(x, y), mantel(x[np.ix_(order, order)] * scale + shift, y[np.ix_(order, order)])
    assert other.statistic == pytest.approx(one.statistic, abs=1e-9)
    assert other.p == pytest.approx(one.p)


@laws
@given(st.integers(0, 1000))
def test_qap_of_symmetric_matrices_is_mantel(seed):
    x, y = symmetric(5, seed), symmetric(5, seed + 1)
    assert qap(x, y).statistic == pytest.approx(mantel(x, y).statistic)
    assert qap(x, y).p == pytest.approx(mantel(x, y).p)


def test_qap_sees_a_direction_that_mantel_refuses():
    x = np.random.default_rng(0).normal(size=(6, 6))
    assert qap(x, x).statistic == pytest.approx(1)
    assert qap(x, x).p == 1 / 720
    assert abs(qap(x, x.T).statistic) < 0.9
    with pytest.raises(BadInput, match="use the QAP test for a directed one"):
        mantel(x, symmetric(6, 0))


def test_the_diagonal_takes_no_part_in_either_test():
    x, y = symmetric(5, 0), symmetric(5, 1)
    filled = x.copy()
    np.fill_diagonal(filled, np.nan)
    assert mantel(filled, y).statistic == mantel(x, y).statistic
    assert qap(filled, y).statistic == qap(x, y).statistic


def test_many_tasks_are_permuted_at_random_with_the_same_p_for_the_same_seed():
    x, y = symmetric(10, 0), symmetric(10, 1)
    found = mantel(x, y, permutations=199)
    assert not found.exact
    assert found.arrangements == 199
    assert found.least_p == 1 / 200
    assert found == mantel(x, y, permutations=199)
    assert mantel(x, x, permutations=199).p == 1 / 200


def test_p_of_unrelated_matrices_is_uniform():
    p = [mantel(symmetric(6, 2 * i), symmetric(6, 2 * i + 1)).p for i in range(60)]
    assert stats.kstest(p, "uniform").pvalue > 0.01


def test_cells_that_the_second_matrix_lacks_take_no_part():
    x, y = symmetric(6, 0), symmetric(6, 1)
    y[0, 1] = y[1, 0] = np.nan
    upper = np.triu(np.ones((6, 6), dtype=bool), 1) & ~np.isnan(y)
    assert mantel(x, y).statistic == pytest.approx(np.corrcoef(x[upper], y[upper])[0, 1])


def test_matrices_that_cannot_be_compared_are_refused_in_a_sentence():
    unknown = X.copy()
    unknown[0, 1] = unknown[1, 0] = np.nan
    for x, y, message in (
        (X, symmetric(4, 0), r"found shapes \(3, 3\) and \(4, 4\)"),
        (X[:2, :2], Y[:2, :2], "2 tasks: comparing two matrices needs at least 3"),
        (np.ones((3, 3)), Y, "constant off the diagonal correlates with nothing"),
        (unknown, Y, "unknown cells off the diagonal"),
    ):
        with pytest.raises(BadInput, match=message):
            mantel(x, y)


def ends(n: int):
    return np.nonzero(~np.eye(n, dtype=bool))


def test_the_label_test_enumerates_few_labellings_and_states_the_least_p():
    values = np.zeros((4, 4))
    values[[0, 1, 2, 3], [1, 0, 3, 2]] = 1
    found = label_test(values[ends(4)], ["x", "x", "y", "y"], ends(4))
    assert found.statistic == 1
    assert found.exact
    assert (found.arrangements, found.p, found.least_p) == (6, pytest.approx(1 / 3), pytest.approx(1 / 3))


@laws
@given(st.integers(0, 1000), st.lists(st.sampled_from("xyz"), min_size=4, max_size=6))
def test_the_label_test_agrees_with_all_permutations_of_the_tasks(seed, labels):
    n = len(labels)
    values, same = np.random.default_rng(seed).normal(size=(n, n)), np.array([[a == b for b in labels] for a in labels])
    off = ~np.eye(n, dtype=bool)
    assume((same & off).any() and (~same & off).any())
    found = label_test(values[ends(n)], labels, ends(n))
    contrast = lambda p: values[same[np.ix_(p, p)] & off].mean() - values[~same[np.ix_(p, p)] & off].mean()
    null = np.array([contrast(list(p)) for p in itertools.permutations(range(n))])
    assert found.p == pytest.approx(np.mean(null >= found.statistic - 1e-9))


def test_the_label_test_refuses_labels_with_nothing_to_compare():
    for labels in (["x", "x", "x"], ["x", "y", "z"]):
        with pytest.raises(BadInput, match="nothing to compare"):
            label_test(np.arange(6.0), labels, ends(3))


# -- reliability and symmetry ------------------------------------------------------------------------------------------


def test_two_seeds_give_spearman_and_browns_formula():
    maps = np.array([[1.0, 2, 3, 4], [1, 3, 2, 5]])
    r = np.corrcoef(maps)[0, 1]
    assert reliability(maps) == pytest.approx(2 * r / (1 + r))


@pytest.mark.parametrize("seeds", [2, 3, 4, 5])
def test_reliability_estimates_the_share_of_signal_in_the_mean_map(seeds):
    generator = np.random.default_rng(0)
    maps = generator.normal(0, 1, 20_000) + generator.normal(0, 1, (seeds, 20_000))
    assert reliability(maps) == pytest.approx(1 / (1 + 1 / seeds), abs=0.02)


def test_one_seed_or_a_constant_map_has_no_reliability():
    assert np.isnan(reliability(np.ones((1, 9))))
    assert np.isnan(reliability(np.ones((4, 9))))


@laws
@given(st.floats(0, 0.99))
def test_lengthening_by_halves_is_spearman_brown(r):
    assert lengthened(r) == pytest.approx(2 * r / (1 + r), rel=1e-6, abs=1e-9)


def test_halves_that_do_not_agree_give_their_own_correlation_and_no_diverging_one():
    opposed = np.array([[1.0, 2, 3, 4.1], [4, 3, 2, 1]])
    r = correlation(*opposed)
    assert r < -0.99
    assert reliability(opposed) == pytest.approx(r)
    assert lengthened(-0.3, 1 / 3) == -0.3


def test_disattenuation_gives_back_the_correlation_without_noise():
    generator = np.random.default_rng(1)
    one = generator.normal(size=20_000)
    other = 0.6 * one + 0.8 * generator.normal(size=20_000)
    seeds = [signal + generator.normal(0, 1, (4, 20_000)) for signal in (one, other)]
    observed = np.corrcoef(*(maps.mean(axis=0) for maps in seeds))[0, 1]
    assert observed < 0.5
    assert disattenuated(observed, *map(reliability, seeds)) == pytest.approx(0.6, abs=0.02)
    with pytest.raises(BadInput, match="not reliable cannot be disattenuated"):
        disattenuated(0.5, 0.9, -0.1)


def test_asymmetry_is_zero_for_symmetric_one_for_opposed_and_skips_pairs_known_one_way():
    assert asymmetry(symmetric(4, 0)) == 0
    assert asymmetry(np.array([[0.0, 1], [0, 0]])) == 1
    one_way = np.array([[1.0, 2, np.nan], [2, 1, 5], [9, 7, 1]])
    known = np.array([[1.0, 2], [2, 1]])
    expected = np.sqrt(2 * 2**2) / np.sqrt(np.linalg.norm(known * 2) ** 2 + 2 * 12**2 + 2**2)
    assert asymmetry(one_way) == pytest.approx(expected)
