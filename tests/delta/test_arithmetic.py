"""Trained deltas combined: laws of the sums, the papers' worked rules, the search, and what cannot be combined."""

from functools import partial

import pytest
import torch
from deltacompose_plugins import LoRA, Prompt, VeRA
from hypothesis import given
from hypothesis import strategies as st

from deltacompose.backbone.pico import pico_backbone
from deltacompose.checks.batches import tiny
from deltacompose.composition import composition
from deltacompose.delta import Delta
from deltacompose.delta.arithmetic import combined, few_shot, loss_on, mean, task_arithmetic, ties, weighted
from deltacompose.delta.merge import answer, probe
from deltacompose.errors import BadInput
from deltacompose.method.weights import init_constants, init_weights
from deltacompose.scoring import reader

floats = st.floats(-4, 4, width=32)
vectors = st.lists(st.lists(floats, min_size=6, max_size=6), min_size=1, max_size=4)


def tensors(rows) -> list[dict]:
    return [{"a": torch.tensor(row[:2]), "b": torch.tensor(row[2:]).view(2, 2)} for row in rows]


def flat(weights) -> torch.Tensor:
    return torch.cat([weights["a"], weights["b"].flatten()])


def trained(backbone, term, seed: int, **record) -> Delta:
    weights = init_weights(backbone, term, seed)
    source = torch.Generator().manual_seed(seed)
    moved = {name: x + 0.3 * torch.randn(x.shape, generator=source) for name, x in weights.items()}
    known = {"name": backbone.name, "family": backbone.family, "fingerprint": backbone.fingerprint}
    return Delta(composition(term), moved, init_constants(backbone, term), known, {}, record)


@given(vectors)
def test_the_mean_is_the_weighted_sum_with_equal_weights_whatever_the_order(rows):
    expected = torch.tensor(rows).mean(0)
    torch.testing.assert_close(flat(mean(tensors(rows))), expected, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(flat(mean(tensors(rows[::-1]))), expected, atol=1e-5, rtol=1e-5)


@given(vectors, st.lists(floats, min_size=6, max_size=6))
def test_task_arithmetic_with_coefficients_that_sum_to_one_needs_no_start(rows, start):
    weights, origin = tensors(rows), tensors([start])[0]
    each = [1 / len(rows)] * len(rows)
    made = task_arithmetic(weights, origin, each)
    torch.testing.assert_close(flat(made), flat(mean(weights)), atol=1e-5, rtol=1e-5)


@given(vectors)
def test_a_delta_alone_is_what_it_was(rows):
    weights = tensors(rows[:1])
    for made in (mean(weights), task_arithmetic(weights), ties(weights, density=1.0), weighted(weights, [1.0])):
        torch.testing.assert_close(flat(made), flat(weights[0]))


@given(vectors, st.lists(floats, min_size=6, max_size=6))
def test_equal_deltas_stay_equal(rows, start):
    weights, origin = tensors([rows[0]] * 3), tensors([start])[0]
    made = ties(weights, origin, density=1.0)
    torch.testing.assert_close(flat(made), flat(weights[0]), atol=1e-5, rtol=1e-5)


def test_ties_trims_elects_and_averages_as_in_the_paper():
    """By hand: halves of six entries kept, signs by the larger sum, means over those of that sign."""
    rows = [[3.0, -0.1, 2.0, -4.0, 0.2, 0.0], [-1.0, 5.0, 1.0, -2.0, 0.3, 0.1], [-6.0, 0.2, 4.0, 0.1, 0.0, 2.0]]
    # kept: [3, ., 2, -4, ., .], [., 5, ., -2, ., .] with a tie of 1.0 and -1.0 kept both, [-6, ., 4, ., ., 2]
    made = flat(ties(tensors(rows), density=0.5))
    torch.testing.assert_close(made, torch.tensor([-3.5, 5.0, (2 + 1 + 4) / 3, -3.0, 0.0, 2.0]))


def test_forgetting_subtracts_a_task():
    start, one = tensors([[1.0] * 6])[0], tensors([[3.0] * 6])
    assert flat(task_arithmetic(one, start, -1.0)).eq(-1.0).all()


def test_the_search_finds_the_coefficients_that_made_the_target():
    source = torch.Generator().manual_seed(0)
    weights = [{"x": torch.randn(40, generator=source)} for _ in range(3)]
    target = weighted(weights, [0.8, -0.5, 0.0])["x"]
    found = few_shot(weights, lambda w: float((w["x"] - target).pow(2).mean()), evaluations=200, size=0.0)
    assert found.coefficients == pytest.approx((0.8, -0.5, 0.0), abs=0.05)
    assert found.loss == pytest.approx(0.0, abs=0.01)
    again = few_shot(weights, lambda w: float((w["x"] - target).pow(2).mean()), evaluations=200, size=0.0)
    assert again == found


def test_the_search_stays_within_its_bound_and_budget_and_is_never_worse_than_nothing():
    weights = [{"x": torch.ones(4)}, {"x": -torch.ones(4)}]
    found = few_shot(weights, lambda w: -float(w["x"].sum()), evaluations=15, bound=1.0)
    assert all(abs(c) <= 1.0 for c in found.coefficients)
    assert found.evaluations <= 15
    assert found.loss < 0
    assert few_shot(weights, lambda w: float(w["x"].abs().sum()), evaluations=10).coefficients == (0.0, 0.0)


def test_weights_are_sought_by_the_loss_on_a_few_examples_of_a_task():
    backbone = pico_backbone("t5")
    read = reader(backbone, tiny())
    method = LoRA(rank=2, places=("*attention.query", "ffn.up", "ffn.down"))
    deltas = [trained(backbone, method, seed) for seed in range(2)]
    loss = loss_on(read, deltas[0], range(4))
    rows = [read.rows("train")[index] for index in range(4)]
    longest = [max(lengths) for lengths in zip(*map(read.lengths, rows))]
    with torch.no_grad(), deltas[0].attached(backbone):
        expected = float(read.loss(read.collate(rows, tuple(longest)), 1))
    assert loss(deltas[0].weights) == pytest.approx(expected, rel=1e-6)
    found = few_shot([delta.weights for delta in deltas], loss, evaluations=20)
    zeros = {name: torch.zeros_like(x) for name, x in deltas[0].weights.items()}
    assert found.loss <= loss(zeros)


def test_a_combined_delta_attaches_and_says_how_it_came_about(tmp_path):
    backbone = pico_backbone("bert")
    deltas = [trained(backbone, LoRA(rank=2), seed, task=task) for seed, task in enumerate(("one", "two"))]
    merged = combined(deltas, partial(ties, density=0.5), backbone)
    assert merged.record == {"combined": ["one", "two"], "how": "ties"}
    with torch.no_grad(), merged.attached(backbone):
        live = answer(backbone.model, probe(backbone))
    assert not torch.allclose(live, answer(backbone.model, probe(backbone)))
    assert (merged.save(tmp_path) / "delta.json").exists()


# Bad input


def test_deltas_that_do_not_belong_together_are_refused():
    llama, bert = pico_backbone("llama"), pico_backbone("bert")
    lora = trained(llama, LoRA(rank=2), 0)
    with pytest.raises(BadInput, match=r"deltas of lora\(rank=2\) and of prompt cannot be combined"):
        combined([lora, trained(llama, Prompt(), 0)], mean)
    with pytest.raises(BadInput, match=r"deltas of LlamaForCausalLM and of BertModel cannot be combined"):
        combined([lora, trained(bert, LoRA(rank=2), 0)], mean)
    with pytest.raises(BadInput, match=r"was trained on LlamaForCausalLM .*, not on BertModel"):
        combined([lora], mean, bert)
    with pytest.raises(BadInput, match=r"there are no deltas to combine"):
        combined([], mean)


def test_deltas_with_other_projections_are_refused():
    backbone = pico_backbone("bert")
    one, other = (trained(backbone, VeRA(rank=2), seed) for seed in (0, 1))
    constants = {name: x + 1 for name, x in other.constants.items()}
    with pytest.raises(BadInput, match=r"differ in constants, as 0\.0\.shared\..*, so their weights mean different"):
        combined([one, Delta(other.expression, other.weights, constants, other.backbone)], mean)


def test_weights_of_other_names_and_shapes_and_settings_out_of_range_are_refused():
    one, wider = {"a": torch.ones(2)}, {"a": torch.ones(3)}
    with pytest.raises(BadInput, match=r"deltas 0 and 1 differ in names or shapes, as in a"):
        mean([one, wider])
    with pytest.raises(BadInput, match=r"1 coefficients for 2 deltas; each needs one"):
        weighted([one, one], [1.0])
    with pytest.raises(BadInput, match=r"density=0; it is the share of entries to keep"):
        ties([one], density=0)
    with pytest.raises(BadInput, match=r"evaluations=0; the search needs at least one"):
        few_shot([one], lambda w: 0.0, evaluations=0)
    with pytest.raises(BadInput, match=r"there are no weights to combine"):
        weighted([], [])
