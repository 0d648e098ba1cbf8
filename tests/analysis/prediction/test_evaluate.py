"""Which measure predicts transfer, mixtures of sources, and a matrix from part of it."""

from __future__ import annotations

import itertools
import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from deltacompose.analysis import prediction
from deltacompose.analysis.attenuation import without_noise
from deltacompose.analysis.prediction import evaluate
from deltacompose.analysis.similarity import token_cosine
from deltacompose.analysis.similarity.subspaces import prompt_overlap
from deltacompose.analysis.statistics import correlation
from deltacompose.analysis.transfer import TransferMatrix, read_scores
from deltacompose.errors import BadInput

PUBLISHED = Path(__file__).parents[4] / "shared" / "data" / "prompt_transferability"
laws = settings(max_examples=40, deadline=None)


def published(backbone: str) -> tuple[TransferMatrix, np.ndarray]:
    """The published matrix laid beside the project, and the prompts (tasks, tokens, width) of its tasks."""
    if not PUBLISHED.is_dir():
        pytest.skip(f"the published matrices are not at {PUBLISHED}")
    matrix = read_scores(PUBLISHED / f"zeroshot_{backbone}.csv")
    with np.load(PUBLISHED / f"prompts_{backbone}.npz") as prompts:
        return matrix, np.stack([prompts[task].astype(float) for task in matrix.tasks])


def matrix(values) -> TransferMatrix:
    values = np.array(values, dtype=float)
    values = values[None] if values.ndim == 2 else values
    seeds, n, _ = values.shape
    tasks, nothing = tuple("abcdefghi"[:n]), np.zeros(values.shape, dtype=bool)
    none = np.full(n, np.nan)
    return TransferMatrix(
        tasks,
        tasks,
        tuple(range(seeds)),
        values,
        none,
        none,
        np.full((seeds, n), np.nan),
        nothing,
        nothing,
        ("accuracy",) * n,
    )


def drawn(n: int = 6, seeds: int = 2, seed: int = 0) -> TransferMatrix:
    return matrix(np.random.default_rng(seed).uniform(0.3, 1, (seeds, n, n)))


# -- known answers -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("backbone", "null", "popularity", "overlap", "mantel_r"),
    [("Roberta", 0.916, 0.937, 0.970, 0.38), ("T5Small", 0.825, 0.843, 0.920, 0.43)],
)
def test_overlap_of_prompt_subspaces_predicts_the_published_matrices(backbone, null, popularity, overlap, mantel_r):
    matrix, prompts = published(backbone)
    found = prediction.summary(matrix, {"overlap": prompt_overlap(prompts)}, permutations=199)["measures"]["overlap"]
    assert round(found["ndcg_null"], 3) == null
    assert round(found["ndcg_popularity"], 3) == popularity
    assert round(found["ndcg"], 3) == overlap
    assert round(found["mantel_r"], 2) == mantel_r
    assert found["mantel_p"] < 0.01
    assert found["ndcg_p"] == 1 / 200
    assert found["regret_at_1"] < found["regret_at_1_popularity"]


def test_the_expected_ndcg_of_a_random_ranking_is_the_average_of_many():
    matrix, _ = published("Roberta")
    gains = prediction.gains_of(matrix)
    scores = np.random.default_rng(0).random((300, *gains.shape))
    average = np.mean([prediction.mean_known(prediction.ndcg(one.T, gains.T)) for one in scores])
    assert average == pytest.approx(prediction.mean_known(prediction.ndcg_of_chance(gains.T)), abs=0.002)


def test_pooling_targets_hides_what_mean_pair_cosine_says_within_each():
    matrix, prompts = published("Roberta")
    found = prediction.summary(matrix, {"mean pair": token_cosine(prompts)}, permutations=9)["measures"]["mean pair"]
    assert round(found["kendall_pooled"], 2) == 0.01
    # the published .40 is Spearman's; Kendall's over the same off-diagonal pairs is .30, and .40 with the diagonal
    assert round(found["spearman_within"], 2) == 0.40
    assert round(found["kendall_within"], 2) == 0.30


def test_the_reversed_order_of_gains_three_two_one():
    assert float(prediction.ndcg(np.array([1.0, 2, 3]), np.array([3.0, 2, 1]))) == pytest.approx(0.7900, abs=5e-5)


def test_rank_two_completion_gives_nothing_over_additive_effects_at_thirty_percent():
    for backbone in ("Roberta", "T5Small"):
        gains = prediction.gains_of(published(backbone)[0])
        found = prediction.completion_quality(gains, share=0.3)
        assert found["additive"]["rmse"] < found["target mean"]["rmse"]
        assert found["additive"]["rmse"] < found["rank-2"]["rmse"]


# -- laws of the rankings ----------------------------------------------------------------------------------------------

gains = st.lists(st.floats(0, 2), min_size=2, max_size=6)


@laws
@given(gains, st.integers(0, 1000))
def test_ndcg_lies_between_zero_and_one_and_is_one_for_the_gains_themselves(values, seed):
    values = np.array(values) + 0.01
    scores = np.random.default_rng(seed).random(len(values))
    if len(set(values)) == 1:
        assert np.isnan(prediction.ndcg(scores, values)), "any ranking of equal gains would do"
        return
    assert 0 < prediction.ndcg(scores, values) <= 1 + 1e-12
    assert prediction.ndcg(values, values) == pytest.approx(1)


@laws
@given(st.lists(st.integers(0, 3), min_size=2, max_size=5), st.lists(st.integers(0, 2), min_size=5, max_size=5))
def test_ties_give_the_average_over_all_ways_to_break_them(values, scores):
    values = np.array(values, dtype=float) + 1
    scores = np.array(scores[: len(values)], dtype=float)
    nudges = [scores + 1e-6 * np.array(order) for order in itertools.permutations(range(len(values)))]
    each = np.mean([prediction.ndcg(n, values) for n in nudges])
    assert prediction.ndcg(scores, values) == pytest.approx(each, nan_ok=True)
    for k in (1, 2):
        each = [prediction.regret_at(k, n, values) for n in nudges]
        assert prediction.regret_at(k, scores, values) == pytest.approx(np.mean(each))


@laws
@given(gains, st.integers(0, 1000))
def test_regret_falls_with_more_choices_and_ends_at_zero(values, seed):
    values = np.array(values)
    scores = np.random.default_rng(seed).random(len(values))
    regrets = [prediction.regret_at(k, scores, values) for k in range(1, len(values) + 1)]
    assert np.all(np.diff(regrets) <= 1e-12)
    assert regrets[-1] == 0


def test_popularity_leaves_the_predicted_target_and_the_own_task_out():
    values = np.array([[np.nan, 1, 2, 3], [4, np.nan, 5, 6], [7, 8, np.nan, 9], [1, 1, 1, np.nan]])
    found = prediction.popularity(values)
    assert found[0, 1] == 2.5
    assert found[2, 0] == 8.5
    assert found[3].tolist() == [1, 1, 1, 1]


def test_changing_a_target_does_not_change_how_popularity_predicts_it():
    one = drawn()
    changed = one.values.copy()
    changed[:, [1, 2, 3], 0] = [[0.9, 0.1, 0.5]]
    before, after = (prediction.popularity(prediction.gains_of(m))[:, 0] for m in (one, matrix(changed)))
    np.testing.assert_allclose(before[1:], after[1:])


def test_the_best_single_source_is_the_one_that_does_best_elsewhere():
    values = np.full((4, 4), 0.5)
    values[0], values[range(4), range(4)] = 0.9, 1
    values[2, 1] = 0.8
    assert prediction.best_single_source(matrix(values)) == {"a": "c", "b": "a", "c": "a", "d": "a"}


def test_the_diagonal_takes_no_part_in_any_judgement():
    one, measure = drawn(), np.random.default_rng(1).random((6, 6))
    filled = measure.copy()
    np.fill_diagonal(filled, np.nan)
    assert prediction.summary(one, {"m": measure}, 19) == prediction.summary(one, {"m": filled}, 19)


def test_a_measure_that_is_the_transfer_itself_is_perfect():
    one = drawn()
    found = prediction.summary(one, {"oracle": np.nan_to_num(prediction.gains_of(one))}, 99)["measures"]["oracle"]
    assert found["ndcg"] == pytest.approx(1)
    assert found["kendall_within"] == pytest.approx(1)
    assert found["regret_at_1"] == 0
    assert found["mantel_r"] == pytest.approx(1)
    assert found["mantel_of"] == "qap, R"


def test_the_p_of_a_random_measure_is_not_small_more_often_than_it_should():
    generator, gains = np.random.default_rng(0), prediction.gains_of(drawn())
    p = [prediction.ndcg_test(generator.random((6, 6)), gains).p for _ in range(60)]
    assert np.mean(np.array(p) <= 0.1) <= 0.2


# -- limitations and misuse --------------------------------------------------------------------------------------------


def test_few_tasks_are_permuted_in_every_way_and_no_p_lies_below_what_is_attainable():
    given = drawn(4, seeds=1)
    gains = prediction.gains_of(given)
    test = prediction.ndcg_test(np.nan_to_num(gains), gains, permutations=9999)
    every = [
        np.nanmean(prediction.ndcg(gains[np.ix_(order, order)].T, gains.T))
        for order in map(list, itertools.permutations(range(4)))
    ]
    assert (test.exact, test.arrangements) == (True, 24)
    assert test.p == test.least_p == (np.array(every) >= max(every) - 1e-12).mean() >= 1 / 24


def test_the_tests_of_all_measures_take_the_permutations_and_are_adjusted_over_the_measures():
    given = drawn(9, seeds=1)
    gains = np.nan_to_num(prediction.gains_of(given))
    measures = {"itself": gains + gains.T, "noise": np.random.default_rng(0).random((9, 9))}
    found = prediction.summary(given, measures, permutations=49)
    for name in ("ndcg", "mantel"):
        one = found["measures"]["itself"]
        assert one[f"{name}_least_p"] == 1 / 50 <= one[f"{name}_p"]
        assert one[f"{name}_p"] < one[f"{name}_p_by"] <= 1
    assert evaluate.ONE_BY_ONE in found["limitations"]


def test_a_table_of_similarities_is_put_into_the_order_of_the_tasks():
    one, measure = drawn(), np.random.default_rng(1).random((6, 6))
    table = pd.DataFrame(measure, index=list(one.tasks), columns=list(one.tasks))
    shuffled = table.loc[list("fbdace"), list("cabfed")]
    assert prediction.summary(one, {"m": shuffled}, 19) == prediction.summary(one, {"m": measure}, 19)


@pytest.mark.parametrize(
    ("measure", "message"),
    [
        (np.zeros((5, 5)), r"measure 'm' has shape \(5, 5\), expected one row and column for each of 6 tasks"),
        (np.full((6, 6), np.nan), "measure 'm' is not a finite number for a → b"),
        (pd.DataFrame(np.eye(2), index=["a", "b"], columns=["a", "b"]), "its rows lack c, d, e, f"),
        (pd.DataFrame(np.ones((7, 6)), index=list("abcdefa"), columns=list("abcdef")), "its rows name a twice"),
    ],
)
def test_measures_that_do_not_fit_the_matrix_are_refused(measure, message):
    with pytest.raises(BadInput, match=message):
        prediction.summary(drawn(), {"m": measure})


def test_fewer_than_four_tasks_or_no_measure_is_refused():
    with pytest.raises(BadInput, match="at least 4 tasks that are both source and target, found 3"):
        prediction.summary(drawn(3), {"m": np.ones((3, 3))})
    with pytest.raises(BadInput, match="no measure to judge"):
        prediction.summary(drawn(), {})
    with pytest.raises(BadInput, match="no target has two sources"):
        prediction.summary(matrix(np.full((4, 4), np.nan)), {"m": np.ones((4, 4))})


def test_a_constant_measure_is_worth_a_random_ranking_and_the_summary_says_why():
    found = prediction.summary(drawn(), {"flat": np.ones((6, 6))}, 19)
    flat = found["measures"]["flat"]
    assert flat["ndcg"] == pytest.approx(flat["ndcg_null"])
    assert flat["kendall_within"] is None
    assert flat["mantel_r"] is None
    assert any("measure 'flat' is constant for every target" in text for text in found["limitations"])


def test_unknown_cells_and_worthless_targets_are_stated_and_the_result_is_json():
    values = np.random.default_rng(0).uniform(0.3, 1, (1, 5, 5))
    values[0, 0, 1], values[0, 3, 3] = np.nan, 0
    found = prediction.summary(matrix(values), {"m": np.random.default_rng(1).random((5, 5))}, 19)
    json.dumps(found, allow_nan=False)
    assert found["measures"]["m"]["ndcg_by_target"]["d"] is None
    assert any(text.startswith("d: no ranking of sources to predict") for text in found["limitations"])
    assert any("1 of 25 cells are missing: a → b" in text for text in found["limitations"])
    assert any("one seed" in text for text in found["limitations"])


def test_negative_gains_count_as_zero_in_ndcg_and_this_is_said():
    values = drawn(seeds=1).values.copy()
    values[0, 0, 1] = -0.5
    found = prediction.summary(matrix(values), {"m": np.random.default_rng(1).random((6, 6))}, 19)
    assert "1 relative performances are negative and count as gain 0 in NDCG" in found["limitations"]


def test_regret_needs_at_least_one_choice():
    with pytest.raises(BadInput, match="regret@0"):
        prediction.regret_at(0, np.ones(3), np.ones(3))


# -- mixtures ----------------------------------------------------------------------------------------------------------


@laws
@given(st.dictionaries(st.sampled_from("abcdef"), st.floats(0.01, 1), min_size=2), st.floats(0.05, 5))
def test_every_mixture_sums_to_one_and_favours_the_nearer_source(similarities, temperature):
    for weights in (
        prediction.top_k(similarities, 2),
        prediction.weighted_top_k(similarities, 2),
        prediction.softmax_mixture(similarities, temperature),
    ):
        assert sum(weights.values()) == pytest.approx(1)
        order = sorted(weights, key=lambda name: -similarities[name])
        assert all(weights[a] >= weights[b] - 1e-12 for a, b in itertools.pairwise(order))


def test_mixtures_of_known_similarities():
    near = {"a": 0.1, "b": 0.6, "c": 0.3}
    assert prediction.top_k(near, 1) == {"b": 1}
    assert prediction.weighted_top_k(near, 2) == {"b": pytest.approx(2 / 3), "c": pytest.approx(1 / 3)}
    assert prediction.softmax_mixture(near, 1e9)["a"] == pytest.approx(1 / 3)
    assert prediction.softmax_mixture(near, 1e-9)["b"] == 1
    measure = np.array([[1.0, 0.2], [0.7, 1.0]])
    assert prediction.similarities_to("a", measure, ("a", "b")) == {"b": 0.7}


def test_mixtures_refuse_what_has_no_meaning():
    for call, message in (
        (lambda: prediction.top_k({"a": 1.0}, 2), "k=2: between 1 and 1 sources"),
        (lambda: prediction.weighted_top_k({"a": -1.0, "b": 0.5}, 2), "use the softmax mixture"),
        (lambda: prediction.softmax_mixture({"a": 1.0}, 0), "temperature above zero"),
        (lambda: prediction.top_k({"a": float("nan")}, 1), "the similarity of a is not a finite number"),
        (lambda: prediction.similarities_to("x", np.eye(2), ("a", "b")), "no task 'x'"),
    ):
        with pytest.raises(BadInput, match=message):
            call()


# -- completion --------------------------------------------------------------------------------------------------------


def test_measured_cells_stay_and_additive_effects_are_found():
    effects = np.arange(8)[:, None] * 0.1 + np.linspace(0, 3, 8)
    seen = prediction.choose_cells("abcdefgh", "abcdefgh", 0.8, np.random.default_rng(0))
    found = prediction.complete(np.where(seen, effects, np.nan))
    assert (found.values[seen] == effects[seen]).all()
    assert np.corrcoef(found.values[~seen], effects[~seen])[0, 1] > 0.99
    assert found.method == "additive"
    said = next(sentence for sentence in found.limitations if "rank-2 completion is not the default" in sentence)
    assert "nothing over additive effects at 30 % observed, and something from half observed on" in said


def test_sources_never_observed_are_average_and_named_as_such():
    values = np.array([[np.nan, 0.4, 0.8], [0.6, np.nan, 0.2], [np.nan, np.nan, np.nan]])
    for method in ("additive", "target mean", "rank-2"):
        found = prediction.complete(values, method)
        assert np.isfinite(found.values).all()
        assert any("1 sources were never observed" in text for text in found.limitations)


@laws
@given(st.integers(2, 6), st.floats(0.05, 1), st.integers(0, 100))
def test_the_budget_is_kept_and_spread_over_sources_and_targets_off_the_diagonal(n, share, seed):
    tasks = "abcdef"[:n]
    chosen = prediction.choose_cells(tasks, tasks, share, np.random.default_rng(seed))
    assert chosen.sum() == max(1, round(share * n * (n - 1)))
    assert not np.diag(chosen).any()
    assert np.ptp(chosen.sum(axis=1)) <= 2
    assert np.ptp(chosen.sum(axis=0)) <= 2


def test_completion_refuses_nothing_observed_unknown_methods_and_impossible_shares():
    with pytest.raises(BadInput, match="nothing is observed"):
        prediction.complete(np.full((2, 2), np.nan))
    with pytest.raises(BadInput, match="no completion method 'rank2'; did you mean 'rank-2'"):
        prediction.complete(np.ones((2, 2)), "rank2")
    with pytest.raises(BadInput, match="between 0 and 1 of the cells"):
        prediction.choose_cells("ab", "ab", 0, np.random.default_rng(0))


@pytest.mark.parametrize("directed", [False, True])
def test_a_correlation_without_the_noise_of_the_seeds_is_the_true_one(directed):
    """Two maps whose true correlation is known, each seen through four noisy seeds."""
    rng, tasks = np.random.default_rng(0), 40
    one, other = rng.normal(size=(2, tasks, tasks))
    other = 0.6 * one + 0.8 * other
    if not directed:
        one, other = one + one.T, other + other.T
    where = ~np.eye(tasks, dtype=bool) if directed else np.triu_indices(tasks, 1)
    measure, relative = (x + rng.normal(scale=2 * x.std(), size=(4, tasks, tasks)) for x in (one, other))
    measure = measure if directed else (measure + measure.transpose(0, 2, 1)) / 2
    means = [measure.mean(axis=0), relative.mean(axis=0)]
    means = means if directed else [(x + x.T) / 2 for x in means]
    r = correlation(*(x[where] for x in means))
    found = without_noise(r, measure, relative, directed)
    true = correlation(one[where], other[where])
    assert r < true - 0.15
    assert found["mantel_r_disattenuated"] == pytest.approx(true, abs=0.07)


def test_a_correlation_of_maps_of_one_seed_or_of_noise_has_no_disattenuated_value():
    rng = np.random.default_rng(1)
    signal = rng.normal(size=(6, 6))
    reliable = signal + 0.1 * rng.normal(size=(3, 6, 6))
    assert without_noise(0.5, reliable[:1], reliable, True)["mantel_r_disattenuated"] is None
    assert without_noise(None, reliable, reliable, True)["mantel_r_disattenuated"] is None
    opposed = np.stack([signal, -signal])
    found = without_noise(0.5, reliable, opposed, True)
    assert found["mantel_r_disattenuated"] is None
    assert found["mantel_reliabilities"][1] < 0
    assert without_noise(0.5, reliable, reliable, True)["mantel_r_disattenuated"] > 0.5
